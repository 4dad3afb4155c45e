"""RKE2's configuration files as its programs read them: merge order, unknown keys, values that end the start.

Sources: RKE2 documentation (server and agent configuration, CIS hardening) and pkg/cli/cmds/profile_linux.go.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from stackwright.lab.rke2.disk import Disk

CONFIG = "/etc/rancher/rke2/config.yaml"
NODE_KEYS = frozenset(
    [
        "token",
        "token-file",
        "server",
        "data-dir",
        "node-name",
        "with-node-id",
        "node-label",
        "node-taint",
        "node-ip",
        "node-external-ip",
        "node-internal-dns",
        "node-external-dns",
        "resolv-conf",
        "kubelet-arg",
        "kube-proxy-arg",
        "kubelet-path",
        "snapshotter",
        "private-registry",
        "disable-default-registry-endpoint",
        "default-runtime",
        "nonroot-devices",
        "lb-server-port",
        "image-credential-provider-bin-dir",
        "image-credential-provider-config",
        "cloud-provider-name",
        "cloud-provider-config",
        "debug",
        "enable-pprof",
        "profile",
        "selinux",
        "protect-kernel-defaults",
        "bind-address",
        "system-default-registry",
        "airgap-extra-registry",
        "container-runtime-endpoint",
        "pause-image",
        "runtime-image",
        "kube-proxy-image",
        "vpn-auth",
        "vpn-auth-file",
        "audit-policy-file",
        "pod-security-admission-config-file",
        "kube-proxy-extra-mount",
        "kube-proxy-extra-env",
        "control-plane-resource-requests",
        "control-plane-resource-limits",
        "config",
    ]
)
SERVER_KEYS = NODE_KEYS | frozenset(
    [
        "agent-token",
        "agent-token-file",
        "advertise-address",
        "tls-san",
        "tls-san-security",
        "cluster-cidr",
        "service-cidr",
        "service-node-port-range",
        "cluster-dns",
        "cluster-domain",
        "cni",
        "ingress-controller",
        "egress-selector-mode",
        "enable-servicelb",
        "servicelb-namespace",
        "write-kubeconfig",
        "write-kubeconfig-mode",
        "write-kubeconfig-group",
        "etcd-disable-snapshots",
        "etcd-snapshot-schedule-cron",
        "etcd-snapshot-retention",
        "etcd-snapshot-dir",
        "etcd-snapshot-name",
        "etcd-snapshot-compress",
        "etcd-snapshot-reconcile-interval",
        "etcd-expose-metrics",
        "etcd-arg",
        "etcd-s3",
        "etcd-s3-endpoint",
        "etcd-s3-endpoint-ca",
        "etcd-s3-skip-ssl-verify",
        "etcd-s3-access-key",
        "etcd-s3-secret-key",
        "etcd-s3-session-token",
        "etcd-s3-bucket",
        "etcd-s3-bucket-lookup-type",
        "etcd-s3-region",
        "etcd-s3-folder",
        "etcd-s3-proxy",
        "etcd-s3-insecure",
        "etcd-s3-timeout",
        "etcd-s3-config-secret",
        "etcd-s3-retention",
        "datastore-endpoint",
        "datastore-cafile",
        "datastore-certfile",
        "datastore-keyfile",
        "disable",
        "disable-kube-proxy",
        "disable-cloud-controller",
        "disable-scheduler",
        "disable-apiserver",
        "disable-controller-manager",
        "disable-etcd",
        "embedded-registry",
        "supervisor-metrics",
        "control-plane-probe-configuration",
        "kube-apiserver-arg",
        "kube-controller-manager-arg",
        "kube-scheduler-arg",
        "kube-cloud-controller-manager-arg",
        "kube-apiserver-extra-mount",
        "kube-apiserver-extra-env",
        "kube-scheduler-extra-mount",
        "kube-controller-manager-extra-mount",
        "etcd-extra-mount",
        "etcd-extra-env",
        "secrets-encryption-provider",
        "helm-job-image",
        "kine-tls",
        "prime",
    ]
)
CRITICAL = (
    "agent-token", "cluster-cidr", "cluster-dns", "cluster-domain", "disable-cloud-controller", "disable-kube-proxy",
    "egress-selector-mode", "service-cidr",
)  # fmt: skip
CIS_SYSCTLS = {
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
}
LISTS = frozenset(
    [
        "tls-san",
        "node-label",
        "node-taint",
        "kubelet-arg",
        "etcd-arg",
        "disable",
        "cni",
        "kube-apiserver-arg",
        "ingress-controller",
    ]
)


class FatalError(Exception):
    """What RKE2 logs at level fatal before it exits."""


def read_config(machine: Disk) -> dict[str, Any]:
    """Merge config.yaml and config.yaml.d/*.yaml: the last wins, `key+` appends. Raises FatalError for bad YAML."""
    merged: dict[str, Any] = {}
    names = sorted(path.name for path in machine.path(f"{CONFIG}.d").glob("*.yaml"))
    for path in (CONFIG, *(f"{CONFIG}.d/{name}" for name in names)):
        try:
            part = yaml.safe_load(machine.read(path)) or {}
        except yaml.YAMLError as error:
            raise FatalError(f"failed to load {path}: yaml: {str(error).splitlines()[0]}") from error
        if not isinstance(part, dict):
            raise FatalError(f"failed to load {path}: yaml: cannot unmarshal into a map")
        for key, value in part.items():
            if key.endswith("+"):
                merged[key[:-1]] = [*as_list(merged.get(key[:-1])), *as_list(value)]
            else:
                merged[key] = value
    token_file = merged.pop("token-file", None)
    if token_file and "token" not in merged:
        text = machine.read(str(token_file)).strip()
        if not text:
            raise FatalError(f"open {token_file}: no such file or directory")
        merged["token"] = text
    return merged


def as_list(value: Any) -> list[Any]:
    """Return what a key that may be a list or one value holds."""
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def unknown_keys(config: dict[str, Any], role: str) -> list[str]:
    """Return the keys that this role's program does not know, in the file's order."""
    known = SERVER_KEYS if role == "server" else NODE_KEYS
    return [key for key in config if key not in known]


def check_profile(machine: Disk, config: dict[str, Any], role: str) -> None:
    """Check what the profile demands of the host. Raises FatalError with every failure, as the real one words it."""
    profile = str(config.get("profile") or "")
    if profile not in ("", "cis", "etcd"):
        raise FatalError("invalid value provided for --profile flag")
    if "cluster-reset" in config:
        raise FatalError("cluster-reset is not allowed in the config file")
    problems = []
    if profile == "cis":
        if config.get("protect-kernel-defaults") is False:
            problems.append("--protect-kernel-defaults must be true when using --profile=cis")
        for key, want in CIS_SYSCTLS.items():
            seen = machine.read(f"/proc/sys/{key.replace('.', '/')}").strip() or None
            if seen != want:
                problems.append(f"invalid kernel parameter value {key}={seen} - expected {want}")
    if profile and role == "server":
        for kind, file in (("user", "/etc/passwd"), ("group", "/etc/group")):
            if not re.search(r"^etcd:", machine.read(file), re.M):
                problems.append(f"missing required: {kind}: unknown {kind} etcd")
    if problems:
        raise FatalError(", ".join(problems))


def critical_values(config: dict[str, Any]) -> dict[str, str]:
    """Return the values that must be equal on all servers, with their defaults; secrets as hashes."""
    defaults = {
        "cluster-cidr": "10.42.0.0/16",
        "cluster-dns": "10.43.0.10",
        "cluster-domain": "cluster.local",
        "egress-selector-mode": "agent",
        "service-cidr": "10.43.0.0/16",
    }
    values = {}
    for key in CRITICAL:
        value = config.get(key, defaults.get(key, ""))
        text = value if isinstance(value, str) else json.dumps(value)
        values[key] = hashlib.sha256(text.encode()).hexdigest()[:12] if key == "agent-token" and text else text
    return values
