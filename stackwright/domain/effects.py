"""What a restart of rke2-server really touches, predicted from what differs, and read off what ran before and after.

The unit leaves its pods alone (KillMode=process). etcd and kube-apiserver are static pods whose manifests RKE2 writes
at every start; a pod is replaced only if the hash of its manifest changed. Into that hash go its arguments, image,
resources and mounts, the content of the files that its arguments name, the certificates of etcd, and every environment
variable of the unit with `proxy` in its name. Source: rancher/rke2, pkg/executor/staticpod, pkg/podtemplate; k3s,
pkg/daemons/control/deps (a new name in tls-san makes new certificates, etcd's too).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from stackwright.domain.errors import StackError
from stackwright.domain.plan import Effect
from stackwright.domain.rke2_facts import CONFIG, JOIN, PSA, REGISTRIES, REGISTRY_CA, TOKEN
from stackwright.domain.rke2_files import changed_keys

RENEW_DAYS = 120
"""A start renews certificates with fewer days left, which replaces etcd's pod. Before v1.33.1 it was 90."""
# Keys of config.yaml that change etcd's pod: its arguments, addresses, user, image, resources, or its certificates.
ETCD_KEYS = frozenset(
    """
    etcd-arg etcd-expose-metrics etcd-extra-env etcd-extra-mount etcd-image profile selinux system-default-registry
    private-registry prime control-plane-resource-requests control-plane-resource-limits
    control-plane-probe-configuration data-dir node-ip node-external-ip advertise-address bind-address tls-san
    """.split()  # noqa: SIM905 - twenty names read better as text
)
# Keys that change kube-apiserver's pod and not etcd's.
APISERVER_KEYS = frozenset(
    """
    kube-apiserver-arg kube-apiserver-extra-env kube-apiserver-extra-mount kube-apiserver-image audit-policy-file
    pod-security-admission-config-file service-node-port-range egress-selector-mode secrets-encryption-provider
    """.split()  # noqa: SIM905 - as above
)
# Keys that are known to change neither. Any key that is in no list may change both.
SUPERVISOR_KEYS = frozenset(
    """
    write-kubeconfig write-kubeconfig-mode write-kubeconfig-group cni ingress-controller disable kubelet-arg
    kube-proxy-arg node-label node-taint protect-kernel-defaults server token agent-token helm-job-image
    disable-default-registry-endpoint embedded-registry supervisor-metrics enable-servicelb
    kube-controller-manager-arg kube-controller-manager-extra-env kube-controller-manager-extra-mount
    kube-scheduler-arg kube-scheduler-extra-env kube-scheduler-extra-mount kube-cloud-controller-manager-arg
    etcd-disable-snapshots etcd-snapshot-schedule-cron etcd-snapshot-retention etcd-snapshot-dir etcd-snapshot-name
    etcd-snapshot-compress etcd-snapshot-reconcile-interval etcd-s3 etcd-s3-endpoint etcd-s3-endpoint-ca
    etcd-s3-skip-ssl-verify etcd-s3-bucket etcd-s3-bucket-lookup-type etcd-s3-region etcd-s3-folder etcd-s3-proxy
    etcd-s3-insecure etcd-s3-timeout etcd-s3-config-secret etcd-s3-retention
    """.split()  # noqa: SIM905 - as above
)
SUPERVISOR_FILES = frozenset({CONFIG, TOKEN, JOIN, REGISTRIES, REGISTRY_CA})  # config.yaml is judged by its keys


class Reach(IntEnum):
    """How far a start or restart of the unit reaches, in rising order."""

    NOTHING = 0
    SUPERVISOR = 1
    APISERVER = 2
    ETCD = 3
    NODE = 4

    @property
    def word(self) -> str:
        return self.name.lower()

    @property
    def label(self) -> str:
        return _LABELS[self]

    @property
    def effect(self) -> Effect:
        """Return the effect that a plan shows and the guard judges."""
        return _EFFECTS[self]


_LABELS = {
    Reach.NOTHING: "nothing",
    Reach.SUPERVISOR: "the supervisor alone",
    Reach.APISERVER: "the kube-apiserver pod",
    Reach.ETCD: "the etcd pod",
    Reach.NODE: "the whole node",
}
_EFFECTS = {
    Reach.NOTHING: Effect.FILE,
    Reach.SUPERVISOR: Effect.SERVICE_RESTART,
    Reach.APISERVER: Effect.SERVICE_RESTART,
    Reach.ETCD: Effect.ETCD_MEMBER_DOWN,
    Reach.NODE: Effect.REBOOT,
}


def reach_of_word(word: str) -> Reach:
    """Return the reach that a marker names; the etcd pod for a word that is not known."""
    return next((reach for reach in Reach if reach.word == word), Reach.ETCD)


def widest(effect: Effect) -> Reach:
    """Return the farthest reach that a step of this effect may have."""
    if effect >= Effect.REBOOT:
        return Reach.NODE
    return Reach.ETCD if effect >= Effect.ETCD_MEMBER_DOWN else Reach.APISERVER


def reach_of_keys(keys: Iterable[str]) -> Reach:
    """Return how far a restart reaches after these keys of config.yaml changed; the etcd pod for an unknown one."""
    reach = Reach.NOTHING
    for key in keys:
        if key in SUPERVISOR_KEYS:
            reach = max(reach, Reach.SUPERVISOR)
        else:
            reach = max(reach, Reach.APISERVER if key in APISERVER_KEYS else Reach.ETCD)
    return reach


def reach_of_files(paths: Iterable[str]) -> Reach:
    """Return how far a restart reaches after these files changed: the unit's environment goes into every static pod."""
    reach = Reach.NOTHING
    for path in paths:
        if path in SUPERVISOR_FILES:
            reach = max(reach, Reach.SUPERVISOR)
        else:
            reach = max(reach, Reach.APISERVER if path == PSA else Reach.ETCD)
    return reach


def predict(
    seen: Mapping[str, Any],
    want: Mapping[str, Any],
    files: Iterable[str] = (),
    *,
    versions: tuple[str, str] = ("", ""),
    certificate_days: int | None = None,
) -> Reach:
    """Return how far a server's restart reaches that brings config.yaml from `seen` to `want`.

    `files` are the paths that change with it, `versions` the running and the wanted release (each brings its images).
    What is not known counts as the worst: also the days that etcd's certificate has left.
    """
    reach = max(Reach.SUPERVISOR, reach_of_keys(changed_keys(seen, want)), reach_of_files(files))
    if versions[0] != versions[1] or certificate_days is None or certificate_days < RENEW_DAYS:
        return max(reach, Reach.ETCD)
    return reach


# --- what happened ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """What ran on a server at one moment: the hashes of its static pods' manifests, etcd's start time, the boot.

    None or an empty text is what could not be seen.
    """

    etcd: str | None
    apiserver: str | None
    etcd_started: str = ""
    boot: str = ""

    @property
    def pods_seen(self) -> bool:
        return self.etcd is not None and self.apiserver is not None


class FartherThanPlannedError(StackError):
    """A step touched more of a server than was predicted: nothing else is touched before somebody has looked.

    `reach` is how far it went.
    """

    remedy: ClassVar[str] = (
        "The server is back and etcd is whole. Find out why before anything else is touched: compare its config.yaml, "
        "its unit's environment and its certificates with the site file, look for a reboot; then plan again."
    )

    def __init__(self, what: str, reach: Reach, *, where: str, wanted: str) -> None:
        self.reach = reach
        super().__init__(what, where=where, wanted=wanted, seen=reach.label)


def pod_hash(pod: Mapping[str, Any] | None) -> str | None:
    """Return what tells a static pod's manifest from another one, read off its mirror pod; None without one."""
    if pod is None:
        return None
    meta = pod.get("metadata") or {}
    return (meta.get("annotations") or {}).get("kubernetes.io/config.hash") or meta.get("uid") or None


def reach_seen(before: Running, after: Running) -> Reach:
    """Return how far a step has reached. What was not seen on both sides tells nothing."""
    if before.boot and after.boot and before.boot != after.boot:
        return Reach.NODE
    restarted = bool(before.etcd_started and after.etcd_started) and before.etcd_started != after.etcd_started
    if restarted or _differ(before.etcd, after.etcd):
        return Reach.ETCD
    return Reach.APISERVER if _differ(before.apiserver, after.apiserver) else Reach.SUPERVISOR


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other
