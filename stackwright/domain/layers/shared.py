"""What several layers must agree on, decided once: classes, issuer, names, pull Secrets, tolerations, namespaces.

Helpers here make objects and parts of values; which layer uses them is said in the layer's own file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.model import Chart, GeneratedField, GeneratedSecret, ObjectSpec
from stackwright.domain.spec import StackSpec, Taint
from stackwright.domain.values import Marker, secret

STORAGE_CLASS = "longhorn"  # made by SUSE Storage's chart; serves ReadWriteOnce and ReadWriteMany alike
CA_ISSUER = "stackwright-site-ca"
SELF_SIGNED_ISSUER = "stackwright-self-signed"
CERT_MANAGER_NAMESPACE = "cert-manager"
CONTAINERD_SOCKET = "/run/k3s/containerd/containerd.sock"  # RKE2: GPU operators; NeuVector: runtime path
MANAGED_BY = {"app.kubernetes.io/managed-by": "stackwright"}
PSA = "pod-security.kubernetes.io/"
APPCO_HOST = "dp.apps.rancher.io"
APPCO_PULL_SECRET = "application-collection"  # noqa: S105  the name of a Secret, as SUSE's documents call it
CONTROL_PLANE_TAINTS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/etcd")

LETTERS = GeneratedField("value")


def ingress_class(spec: StackSpec) -> str:
    """Return the IngressClass that RKE2's bundled controller makes. RKE2: networking services."""
    return {"traefik": "traefik", "ingress-nginx": "nginx", "none": ""}[spec.rke2.ingress_controller]


def certificate_needs(spec: StackSpec) -> tuple[str, ...]:
    """Return cert-manager for a site whose certificates it signs."""
    return ("cert_manager",) if spec.ingress.tls == "private-ca" else ()


def namespace(name: str, level: str = "baseline") -> ObjectSpec:
    """Make a namespace with its pod security level, said explicitly: RKE2's CIS profile defaults to restricted."""
    labels = {**MANAGED_BY, **{f"{PSA}{mode}": level for mode in ("enforce", "audit", "warn")}}
    return ObjectSpec({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def secret_object(namespace: str, name: str, texts: Mapping[str, str], kind: str = "Opaque") -> ObjectSpec:
    """Make a Secret whose texts hold markers."""
    meta = {"name": name, "namespace": namespace, "labels": dict(MANAGED_BY)}
    return ObjectSpec({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": kind, "stringData": dict(texts)})


def pull_secrets(spec: StackSpec, namespace: str, host: str, name: str) -> tuple[ObjectSpec, ...]:
    """Make the pull Secret of a vendor's registry in one namespace, where the site file gives its credentials.

    Without credentials the nodes' own registries.yaml must serve the images (mirror).
    """
    block = spec.charts.credentials.get(host)
    if block is None:
        return ()
    texts = {".dockerconfigjson": str(Marker("pull", f"{host}={block}"))}
    return (secret_object(namespace, name, texts, "kubernetes.io/dockerconfigjson"),)


def pull_names(spec: StackSpec, host: str, name: str) -> list[dict[str, str]]:
    """Return the value of an `imagePullSecrets` key of that registry; empty where no Secret is made."""
    return [{"name": name}] if host in spec.charts.credentials else []


def check_chart_access(spec: StackSpec, layer: str, *charts: Chart) -> list[Problem]:
    """Return a problem where a vendor's registry asks for a login that the site file does not name."""
    if spec.charts.mirror:
        return []
    missing = sorted({chart.host for chart in charts} - set(spec.charts.credentials))
    remedy = "Name the block with its user and token in charts.credentials, or mirror the charts and set charts.mirror."
    what = "the chart's registry asks for a login"
    return [Problem(f"layers.{layer}", what, remedy, f"charts.credentials[{host}]", "none") for host in missing]


def tls_objects(spec: StackSpec, namespace: str, secret_name: str, hosts: Iterable[str]) -> tuple[ObjectSpec, ...]:
    """Make what fills a layer's TLS Secret: a Certificate of the site CA, or the operator's own certificate."""
    if spec.ingress.tls == "private-ca":
        return (certificate(namespace, secret_name, tuple(hosts), CA_ISSUER),)
    block = spec.ingress.certificate_block or "ingress-certificate"
    texts = {"tls.crt": secret(block, "certificate"), "tls.key": secret(block, "private_key")}
    return (secret_object(namespace, secret_name, texts, "kubernetes.io/tls"),)


def certificate(namespace: str, name: str, hosts: tuple[str, ...], issuer: str) -> ObjectSpec:
    """Make a cert-manager Certificate whose Secret has the same name."""
    meta = {"name": name, "namespace": namespace, "labels": dict(MANAGED_BY)}
    spec = {
        "secretName": name,
        "dnsNames": list(hosts),
        "issuerRef": {"name": issuer, "kind": "ClusterIssuer", "group": "cert-manager.io"},
        "privateKey": {"algorithm": "RSA", "size": 2048, "rotationPolicy": "Always"},
    }
    return ObjectSpec({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": meta, "spec": spec})


def taints_of(spec: StackSpec) -> tuple[Taint, ...]:
    """Return the distinct taints of all nodes, in the order of the site file."""
    return tuple(dict.fromkeys(taint for node in spec.nodes for taint in node.taints))


def tolerations(spec: StackSpec, *further: str) -> list[dict[str, str]]:
    """Return tolerations for every taint of the site, and for the keys named: for what must run on every node."""
    ours = [{"key": taint.key, "operator": "Exists", "effect": taint.effect} for taint in taints_of(spec)]
    more = [
        {"key": key, "operator": "Exists", "effect": effect}
        for key in further
        for effect in ("NoSchedule", "NoExecute")
    ]
    unique = {(item["key"], item["effect"]): item for item in (*more, *ours)}
    return list(unique.values())


def text_secret(block: str, length: int = 24) -> GeneratedSecret:
    """Declare a generated password or token."""
    return GeneratedSecret("secret-text", block, (GeneratedField("value", length),))


def key_pair(block: str) -> GeneratedSecret:
    """Declare a generated access key with its secret."""
    return GeneratedSecret(
        "api-key", block, (GeneratedField("access_key", 20, "key"), GeneratedField("secret_key", 48))
    )


def service_url(spec: StackSpec, service: str, namespace: str, port: int, scheme: str = "http") -> str:
    """Return the address of a Service as pods see it."""
    return f"{scheme}://{service}.{namespace}.svc.{spec.rke2.cluster_domain}:{port}"


def replicas(spec: StackSpec, wanted: int) -> int:
    """Return at most as many replicas as the site has nodes."""
    return max(1, min(wanted, len(spec.nodes)))


def labels_on_node(name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None) -> ObjectSpec:
    """Add labels and annotations to a node that has joined."""
    meta: dict[str, Any] = {"name": name, "labels": dict(labels)}
    if annotations:
        meta["annotations"] = dict(annotations)
    return ObjectSpec({"apiVersion": "v1", "kind": "Node", "metadata": meta}, existing=True)
