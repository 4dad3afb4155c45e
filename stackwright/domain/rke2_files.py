"""RKE2's configuration files, rendered from the spec. They hold no secret here, but references to one.

Keys and merge order: RKE2 documentation, server and agent configuration reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from stackwright.domain.node_plan import SecretRef
from stackwright.domain.rke2_facts import CONFIG, JOIN, PSA, REGISTRIES, REGISTRY_CA, TOKEN, env_file
from stackwright.domain.spec import Node, StackSpec

# Keys that no running cluster can change. RKE2 documentation: networking, agent configuration.
FIXED_KEYS = ("cni", "cluster-cidr", "service-cidr", "cluster-domain", "node-name", "node-ip")
# Keys that act only when the node registers for the first time.
REGISTRATION_KEYS = ("node-label", "node-taint")
# Namespaces that need more than the restricted Pod Security level: the platform's own. Rancher documentation: PSACT.
EXEMPT = tuple(
    """
    kube-system kube-public cis-operator-system compliance-operator-system tigera-operator calico-system
    calico-apiserver ingress-nginx cert-manager metallb-system longhorn-system gpu-operator
    inteldeviceplugins-system node-feature-discovery suse-ai suse-observability suse-private-registry clearml
    system-upgrade cattle-system cattle-alerting cattle-capi-system cattle-csp-adapter-system cattle-dashboards
    cattle-elemental-system cattle-epinio-system cattle-externalip-system cattle-fleet-local-system
    cattle-fleet-system cattle-gatekeeper-system cattle-global-data cattle-global-nt cattle-impersonation-system
    cattle-istio cattle-istio-system cattle-logging cattle-logging-system cattle-monitoring-system
    cattle-neuvector-system cattle-prometheus cattle-provisioning-capi-system cattle-resources-system
    cattle-sriov-system cattle-turtles-system cattle-ui-plugin-system cattle-windows-gmsa-system fleet-default
    fleet-local
    """.split()  # noqa: SIM905 - forty names read better as text
)


@dataclass(frozen=True)
class FileWant:
    """One wanted file. `tree` is its YAML content, with SecretRef where a secret goes, for files that hold one."""

    path: str
    mode: int
    text: str = ""
    tree: Any = None

    @property
    def is_secret(self) -> bool:
        return self.tree is not None

    @property
    def digest(self) -> str:
        """What is wanted, without secrets: for the plan's hash."""
        return (
            f"{self.path} {self.mode:o} {self.tree!r}" if self.is_secret else f"{self.path} {self.mode:o} {self.text}"
        )

    def render(self, opened: Callable[[SecretRef], str]) -> str:
        """Return the file's text with its secrets in it."""
        return yaml.safe_dump(_open(self.tree, opened), sort_keys=False) if self.is_secret else self.text


def wanted_files(spec: StackSpec, node: Node, local_files: Mapping[str, str], *, joins: bool) -> tuple[FileWant, ...]:
    """Return all files of a node. `joins` is False for the one server that makes the cluster."""
    token = SecretRef("secret-text", spec.rke2.token_block, "value" if joins else "short")
    files = [
        FileWant(CONFIG, 0o600, _yaml(config(spec, node))),
        FileWant(TOKEN, 0o600, tree={"token": token}),
    ]
    if joins:
        files.append(
            FileWant(JOIN, 0o600, _yaml({"server": f"https://{bracketed(spec.rke2.registration_address)}:9345"}))
        )
    registries = registries_tree(spec)
    if registries:
        files.append(FileWant(REGISTRIES, 0o600, tree=registries))
    if spec.rke2.registries.ca_file:
        files.append(FileWant(REGISTRY_CA, 0o644, local_files[spec.rke2.registries.ca_file]))
    if node.is_server and spec.rke2.profile == "cis":
        files.append(FileWant(PSA, 0o600, _yaml(pod_security())))
    proxy = proxy_env(spec)
    if proxy:
        files.append(FileWant(env_file("server" if node.is_server else "agent"), 0o600, proxy))
    return tuple(files)


def config(spec: StackSpec, node: Node) -> dict[str, Any]:
    """Return config.yaml of a node, without token and server address: those have files of their own."""
    want = spec.rke2
    content: dict[str, Any] = {"node-name": node.name, "node-ip": node.address}
    if node.is_server:
        content |= {
            "tls-san": list(dict.fromkeys([want.registration_address, *want.tls_san])),
            "write-kubeconfig-mode": "0600",
            "cni": want.cni,
            "ingress-controller": want.ingress_controller,
            "cluster-cidr": want.cluster_cidr,
            "service-cidr": want.service_cidr,
            "cluster-domain": want.cluster_domain,
            "etcd-snapshot-schedule-cron": want.snapshot_cron,
            "etcd-snapshot-retention": want.snapshot_retention,
        }
        content |= {"etcd-arg": list(want.etcd_args)} if want.etcd_args else {}
        content |= {"disable": list(want.disable)} if want.disable else {}
        if want.registries.system_default_registry:
            content["system-default-registry"] = want.registries.system_default_registry
        if want.profile == "cis":
            content["pod-security-admission-config-file"] = PSA
    if want.profile == "cis" or (want.profile == "etcd" and node.is_server):
        content["profile"] = want.profile
    if want.selinux:
        content["selinux"] = True
    if want.registries.disable_default_endpoint:
        content["disable-default-registry-endpoint"] = True
    if want.kubelet_args:
        content["kubelet-arg"] = list(want.kubelet_args)
    if node.labels:
        content["node-label"] = [f"{key}={value}" for key, value in sorted(node.labels.items())]
    if node.taints:
        content["node-taint"] = [str(taint) for taint in node.taints]
    return content


def registries_tree(spec: StackSpec) -> dict[str, Any] | None:
    """Return registries.yaml with references to the logins, or None where the site has no mirror and no login."""
    want = spec.rke2.registries
    mirrors = {
        host: {"endpoint": list(endpoints)} | ({"rewrite": dict(want.rewrites[host])} if host in want.rewrites else {})
        for host, endpoints in want.mirrors.items()
    }
    hosts = {urlsplit(endpoint).netloc for endpoints in want.mirrors.values() for endpoint in endpoints}
    configs: dict[str, Any] = {}
    for host in sorted({*hosts, *want.credentials}):
        entry: dict[str, Any] = {}
        if host in want.credentials:
            block = want.credentials[host]
            entry["auth"] = {key: SecretRef("registry", block, key) for key in ("username", "password")}
        if want.ca_file and host in hosts:
            entry["tls"] = {"ca_file": REGISTRY_CA}
        if entry:
            configs[host] = entry
    tree = ({"mirrors": mirrors} if mirrors else {}) | ({"configs": configs} if configs else {})
    return tree or None


def pod_security() -> dict[str, Any]:
    """Return the Pod Security admission setting of a hardened cluster: restricted, but for our own namespaces."""
    level = {name: "restricted" for name in ("enforce", "audit", "warn")}
    versions = {f"{name}-version": "latest" for name in level}
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [
            {
                "name": "PodSecurity",
                "configuration": {
                    "apiVersion": "pod-security.admission.config.k8s.io/v1",
                    "kind": "PodSecurityConfiguration",
                    "defaults": level | versions,
                    "exemptions": {"usernames": [], "runtimeClasses": [], "namespaces": sorted(EXEMPT)},
                },
            }
        ],
    }


def proxy_env(spec: StackSpec) -> str:
    """Return the unit's environment with the proxies, or an empty text. The cluster's own networks go past them."""
    want = spec.rke2.proxy
    if not (want.http or want.https):
        return ""
    own = ["127.0.0.0/8", spec.rke2.cluster_cidr, spec.rke2.service_cidr, ".svc", f".{spec.rke2.cluster_domain}"]
    own += [spec.rke2.registration_address, *spec.rke2.node_cidrs, *(node.address for node in spec.nodes)]
    lines = {
        "HTTP_PROXY": want.http or "",
        "HTTPS_PROXY": want.https or want.http or "",
        "NO_PROXY": ",".join(dict.fromkeys([*own, *want.no_proxy])),
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items() if value)


def changed_keys(seen: Mapping[str, Any], want: Mapping[str, Any]) -> set[str]:
    """Return the keys of config.yaml that differ."""
    return {key for key in {*seen, *want} if seen.get(key) != want.get(key)}


def bracketed(address: str) -> str:
    """Return an address as a URL has it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(content), sort_keys=False))


def _open(tree: Any, opened: Callable[[SecretRef], str]) -> Any:
    if isinstance(tree, SecretRef):
        return opened(tree)
    if isinstance(tree, dict):
        return {key: _open(value, opened) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_open(item, opened) for item in tree]
    return tree


def rewrite_kubeconfig(text: str, spec: StackSpec) -> str:
    """Return the admin kubeconfig with the address that the controller reaches, checked for the registration name.

    Where the site file maps the name to an address, that address is dialled: the controller needs no DNS.
    """
    content = yaml.safe_load(text)
    name = spec.rke2.registration_address
    address = spec.dns.hosts.get(name, name)
    for entry in content["clusters"]:
        cluster = entry["cluster"]
        cluster["server"] = f"https://{bracketed(address)}:{spec.rke2.api_port}"
        cluster.pop("tls-server-name", None)
        if address != name:
            cluster["tls-server-name"] = name
    return str(yaml.safe_dump(content, sort_keys=False))
