"""SUSE Security (NeuVector) in monitor mode. Guide: 5.5.

The vendor offers two sets of charts: the community ones (crd, core), and the Rancher catalogue's (neuvector-crd,
neuvector), which bring single sign-on through Rancher. A version with +up (108.0.9+up2.11.2) chooses the latter.
"""

from __future__ import annotations

from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.gates import ExistsGate, Gate, RolloutGate, SecurityGate
from stackwright.domain.layers.model import Chart, LayerDef, ObjectSpec, ReleaseSpec, version_of
from stackwright.domain.layers.shared import (
    CONTAINERD_SOCKET,
    CONTROL_PLANE_TAINTS,
    STORAGE_CLASS,
    replicas,
    text_secret,
    tolerations,
)
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import secret
from stackwright.domain.versions import parse_chart

NAMESPACE = "cattle-neuvector-system"
COMMUNITY = "https://neuvector.github.io/neuvector-helm"
CATALOGUE = "https://charts.rancher.io"
API_SERVICE = "neuvector-svc-controller-api"
API_PORT = 10443
API = "neuvector.com/v1"
ADMISSION_RULE = "local"  # the one name that the product takes for a cluster's own settings
CONTROLLERS = 3  # odd: they keep a Raft quorum
SYSTEM_PREFIXES = ("kube-", "cattle-")
SYSTEM = ("longhorn-system", "cert-manager", "metallb-system", "neuvector", "stackwright")
DEPLOYMENTS = ("neuvector-controller-pod", "neuvector-manager-pod", "neuvector-scanner-pod")


def from_catalogue(spec: StackSpec) -> bool:
    version = parse_chart(version_of(spec, "security"))
    return version is not None and version.wrapped


def charts(spec: StackSpec) -> tuple[Chart, Chart]:
    """Return the chart of the CRDs and the chart of the product."""
    if from_catalogue(spec):
        return Chart("neuvector-crd", CATALOGUE), Chart("neuvector", CATALOGUE)
    return Chart("crd", COMMUNITY), Chart("core", COMMUNITY)


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    version = version_of(spec, "security")
    crd, core = charts(spec)
    return (
        ReleaseSpec("neuvector-crd", NAMESPACE, crd, "security", version, {}, main=False),
        ReleaseSpec("neuvector", NAMESPACE, core, "security", version, _values(spec)),
    )


def _values(spec: StackSpec) -> dict[str, Any]:
    sso = from_catalogue(spec) and spec.layers.rancher.enabled
    administrator = {"Fullname": "admin", "Role": "admin", "Password": secret(spec.layers.security.admin_block)}
    # Read once, at the first start of all controllers. Guide 5.5: monitor first, enforce after validation.
    # A life learns its rules first: Monitor learns none.
    start = {"New_Service_Policy_Mode": "Monitor", "New_Service_Profile_Baseline": "basic", "Cluster_Name": spec.site}
    if spec.layers.security.life is not None:
        start |= {"New_Service_Policy_Mode": "Discover", "New_Service_Profile_Mode": "Discover"}
    controller: dict[str, Any] = {
        "replicas": replicas(spec, CONTROLLERS),
        "apisvc": {"type": "ClusterIP"},  # the REST API is reached through the API server only
        "ranchersso": {"enabled": sso},
        "pvc": {"enabled": spec.layers.storage.enabled},
        "secret": {"enabled": True, "data": {"sysinitcfg.yaml": start, "userinitcfg.yaml": {"users": [administrator]}}},
    }
    if spec.layers.storage.enabled:
        controller["pvc"] = {
            "enabled": True,
            "accessModes": ["ReadWriteMany"],
            "capacity": "1Gi",
            "storageClass": STORAGE_CLASS,
        }
    return {
        "global": {"cattle": {"url": spec.url("rancher") if sso else ""}},
        "runtimePath": CONTAINERD_SOCKET,
        "controller": controller,
        "crdwebhook": {"enabled": False},  # the CRDs come from their own release; both at once fail on ownership
        "manager": {"svc": {"type": "ClusterIP"}, "ingress": {"enabled": False}},
        "enforcer": {"tolerations": tolerations(spec, *CONTROL_PLANE_TAINTS)},
        "cve": {"scanner": {"replicas": 2}, "updater": {"enabled": True}},
    }


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    block = spec.layers.security.admin_block
    return (
        *(RolloutGate("Deployment", NAMESPACE, name) for name in DEPLOYMENTS),
        RolloutGate("DaemonSet", NAMESPACE, "neuvector-enforcer-pod"),
        ExistsGate(API, "NvAdmissionControlSecurityRule", "", (ADMISSION_RULE,)),
        SecurityGate(NAMESPACE, API_SERVICE, API_PORT, block, replicas(spec, CONTROLLERS)),
    )


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    return (namespace_object(NAMESPACE, "privileged"),)


def after(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """Admission control watches and reports from the start; the flow promote-security says `protect`.

    The resource holds the mode, and the REST API refuses to change what it holds: so the mode is said once, here.
    """
    config = {"enable": True, "mode": "monitor", "client_mode": "service"}
    meta = {"name": ADMISSION_RULE}
    body = {"apiVersion": API, "kind": "NvAdmissionControlSecurityRule", "metadata": meta, "spec": {"config": config}}
    return (ObjectSpec(body, kept=("spec.config.mode",)),)


def check(spec: StackSpec) -> list[Problem]:
    """Refuse a life that would enforce the platform itself without being told so."""
    life = spec.layers.security.life
    if life is None or life.protect == "all":
        return []
    return [
        Problem(
            "layers.security.life.protect",
            f"{name} is a namespace of the platform itself",
            "Name it in layers.security.life.system as well, if it shall be enforced.",
            f"{name} in layers.security.life.system",
            "not there",
        )
        for name in life.protect
        if is_system(name) and name not in life.system
    ]


def is_system(namespace: str) -> bool:
    """Tell whether a namespace carries the cluster or SUSE Security itself: blocking there can take everything down."""
    return namespace in SYSTEM or namespace.startswith(SYSTEM_PREFIXES)


LAYER = LayerDef(
    name="security",
    title="SUSE Security",
    guide="5.5",
    releases=releases,
    before_objects=before,
    after_objects=after,
    gates=gates,
    after=("storage", "rancher"),
    check=check,
    secrets=lambda spec: (text_secret(spec.layers.security.admin_block),),
    rollback_ok=False,  # the configuration must be exported first
)
