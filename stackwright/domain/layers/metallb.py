"""MetalLB in layer-2 mode: an address pool for Services of type LoadBalancer. Guide: 5.7.1 (ingress, load balancer)."""

from __future__ import annotations

from stackwright.domain.errors import Problem
from stackwright.domain.layers.gates import ExistsGate, Gate, RolloutGate
from stackwright.domain.layers.model import Chart, LayerDef, ObjectSpec, ReleaseSpec, version_of
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.layers.shared import tolerations
from stackwright.domain.spec import StackSpec

NAMESPACE = "metallb-system"
CHART = Chart("metallb", "https://metallb.github.io/metallb")
API = "metallb.io/v1beta1"
POOL = "stackwright"


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    values = {
        "crds": {"enabled": True},
        "frrk8s": {"enabled": False},  # on by default since 0.16; layer-2 mode needs no routing daemon
        "speaker": {"frr": {"enabled": False}, "tolerations": tolerations(spec)},
    }
    return (ReleaseSpec("metallb", NAMESPACE, CHART, "metallb", version_of(spec, "metallb"), values),)


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    return (namespace_object(NAMESPACE, "privileged"),)


def after(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """The pool is not part of the chart: it can be applied only once the webhook answers."""
    meta = {"name": POOL, "namespace": NAMESPACE}
    pool = {"addresses": list(spec.layers.metallb.addresses), "autoAssign": True}
    return (
        ObjectSpec({"apiVersion": API, "kind": "IPAddressPool", "metadata": meta, "spec": pool}),
        ObjectSpec(
            {"apiVersion": API, "kind": "L2Advertisement", "metadata": meta, "spec": {"ipAddressPools": [POOL]}}
        ),
    )


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    return (
        RolloutGate("Deployment", NAMESPACE, "metallb-controller"),
        RolloutGate("DaemonSet", NAMESPACE, "metallb-speaker"),
        ExistsGate(API, "IPAddressPool", NAMESPACE, (POOL,)),
        ExistsGate(API, "L2Advertisement", NAMESPACE, (POOL,)),
    )


def check(spec: StackSpec) -> list[Problem]:
    if spec.layers.metallb.addresses:
        return []
    remedy = "Give at least one CIDR or first-last range that no DHCP server hands out, or disable the layer."
    return [
        Problem("layers.metallb.addresses", "MetalLB has no addresses to hand out", remedy, "one range or more", "none")
    ]


LAYER = LayerDef(
    name="metallb",
    title="MetalLB",
    guide="5.7.1",
    releases=releases,
    before_objects=before,
    after_objects=after,
    gates=gates,
    check=check,
)
