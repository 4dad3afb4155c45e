"""What a drain is judged by, and how it is read from the API's objects. Pure; the judging is in drain.py.

A part that could not be read is named in `unread`: unknown is not empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.cluster import NodeStatus, condition_of
from stackwright.domain.placement import Json, required_terms, thousandths

STORAGE_NS = "longhorn-system"
STORAGE_API = "longhorn.io/v1beta2"
STORAGE_KINDS = ("Volume", "Replica", "Node", "InstanceManager", "Setting")
"""In the order in which `storage_facts` takes them."""
COMPONENT = "longhorn.io/component"
MIRROR = "kubernetes.io/config.mirror"
REVISION = "controller-revision-hash"
STRICTEST_POLICY = "block-if-contains-last-replica"  # Longhorn's default


@dataclass(frozen=True)
class PodRef:
    """One pod, not its successor of the same name."""

    ns: str
    name: str
    uid: str

    @property
    def id(self) -> str:
        return f"{self.ns}/{self.name}"


@dataclass(frozen=True)
class Owner:
    """Who makes a pod anew when it goes."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True)
class PodFact:
    """What of a pod matters for a drain. `needs` is in thousandths by resource, with `pods` as one.

    `node_terms` is the required node affinity, `apart` the required anti-affinity, `claims` the claims it mounts.
    """

    ns: str
    name: str
    uid: str
    node: str = ""
    phase: str = "Running"
    ready: bool = True
    terminating: bool = False
    owner: Owner | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, int] = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    node_terms: tuple[Json, ...] | None = None
    apart: tuple[Json, ...] = ()
    host_ports: frozenset[str] = frozenset()
    claims: tuple[str, ...] = ()
    empty_dirs: tuple[str, ...] = ()
    mirror: bool = False
    priority: int = 0
    finalizers: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.ns}/{self.name}"

    @property
    def ref(self) -> PodRef:
        return PodRef(self.ns, self.name, self.uid)

    @property
    def finished(self) -> bool:
        return self.phase in {"Succeeded", "Failed"}

    @property
    def of_daemon(self) -> bool:
        return self.owner is not None and self.owner.kind == "DaemonSet"

    @property
    def instance_manager(self) -> bool:
        """True for Longhorn's own pod that runs a node's engines and replicas: it belongs to its node."""
        return self.ns == STORAGE_NS and self.labels.get(COMPONENT) == "instance-manager"


@dataclass(frozen=True)
class BudgetFact:
    """A PodDisruptionBudget. `processed` tells that its controller has seen its latest form."""

    ns: str
    name: str
    selector: Json | None
    allowed: int
    current: int
    desired: int
    expected: int
    processed: bool = True
    always_allow: bool = False

    @property
    def id(self) -> str:
        return f"{self.ns}/{self.name}"

    @property
    def of_instance_manager(self) -> bool:
        """True for a budget that Longhorn takes away by itself when the node is cordoned and its volumes bear it."""
        return (
            self.ns == STORAGE_NS
            and ((self.selector or {}).get("matchLabels") or {}).get(COMPONENT) == "instance-manager"
        )


@dataclass(frozen=True)
class VolumeFact:
    """A PersistentVolume that is bound. `terms` is its required node affinity; `local` tells that it lies on a node."""

    name: str
    claim: str
    local: bool = False
    terms: tuple[Json, ...] | None = None


@dataclass(frozen=True)
class StoredVolume:
    """A volume of SUSE Storage. `node` is where it is attached; `claim` is namespace/name or empty."""

    name: str
    robustness: str
    attached: bool = False
    node: str = ""
    wanted: int = 1
    claim: str = ""


@dataclass(frozen=True)
class Replica:
    """One copy of a volume on a node. `unused` tells that it never held data."""

    name: str
    volume: str
    node: str
    healthy: bool = True
    unused: bool = False


@dataclass(frozen=True)
class StorageNode:
    """A node as SUSE Storage sees it. `allowed` is what a person set, `schedulable` what it found."""

    name: str
    ready: bool = True
    schedulable: bool = True
    allowed: bool = True
    disks: bool = True


@dataclass(frozen=True)
class StorageFacts:
    """SUSE Storage as a whole. `managers` maps nodes to the states of their instance managers."""

    volumes: tuple[StoredVolume, ...] = ()
    replicas: tuple[Replica, ...] = ()
    nodes: tuple[StorageNode, ...] = ()
    managers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policy: str = STRICTEST_POLICY
    detaches_manual: bool = False


@dataclass(frozen=True)
class DrainFacts:
    """The cluster as a drain sees it. `storage` is None where there is no SUSE Storage."""

    nodes: tuple[NodeStatus, ...] = ()
    pods: tuple[PodFact, ...] = ()
    budgets: tuple[BudgetFact, ...] = ()
    volumes: tuple[VolumeFact, ...] = ()
    storage: StorageFacts | None = None
    unread: tuple[str, ...] = ()


def pod_fact(obj: Json) -> PodFact:
    """Read a Pod."""
    meta, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    volumes = spec.get("volumes") or ()
    ns = meta["namespace"]
    return PodFact(
        ns=ns,
        name=meta["name"],
        uid=meta["uid"],
        node=spec.get("nodeName") or "",
        phase=status.get("phase") or "Pending",
        ready=condition_of(obj, "Ready").get("status") == "True",
        terminating=bool(meta.get("deletionTimestamp")),
        owner=_owner(meta.get("ownerReferences") or ()),
        labels=meta.get("labels") or {},
        needs=pod_needs(spec),
        tolerations=tuple(spec.get("tolerations") or ()),
        node_selector=spec.get("nodeSelector") or {},
        node_terms=required_terms(spec),
        apart=_apart(spec),
        host_ports=_host_ports(spec),
        claims=tuple(f"{ns}/{name}" for volume in volumes if (name := _claim_of(volume, meta["name"]))),
        empty_dirs=tuple(volume["name"] for volume in volumes if "emptyDir" in volume),
        mirror=MIRROR in (meta.get("annotations") or {}),
        priority=spec.get("priority") or 0,
        finalizers=tuple(meta.get("finalizers") or ()),
    )  # fmt: skip


def _host_ports(spec: Json) -> frozenset[str]:
    ports = (port for item in spec.get("containers") or () for port in item.get("ports") or ())
    return frozenset(f"{port.get('protocol', 'TCP')}/{port['hostPort']}" for port in ports if port.get("hostPort"))


def _claim_of(volume: Json, pod: str) -> str:
    if "ephemeral" in volume:
        return f"{pod}-{volume['name']}"
    return str((volume.get("persistentVolumeClaim") or {}).get("claimName") or "")


def _owner(references: Iterable[Json]) -> Owner | None:
    """Return the controller; Longhorn's own pods name their owner without calling it one."""
    every = list(references)
    found = next((item for item in every if item.get("controller")), None) or next(
        (item for item in every if str(item.get("apiVersion", "")).startswith("longhorn.io/")), None
    )
    return Owner(found["kind"], found["name"], found["uid"]) if found else None


def _apart(spec: Json) -> tuple[Json, ...]:
    rule = (spec.get("affinity") or {}).get("podAntiAffinity") or {}
    return tuple(rule.get("requiredDuringSchedulingIgnoredDuringExecution") or ())


def pod_needs(spec: Json) -> dict[str, int]:
    """Return what the scheduler counts for a pod. Kubernetes: "Resource sharing within containers"."""
    steady: dict[str, int] = {"pods": 1000}
    peak: dict[str, int] = {}

    def add(total: dict[str, int], requests: Mapping[str, Any]) -> dict[str, int]:
        return {
            name: total.get(name, 0) + (thousandths(requests[name]) if name in requests else 0)
            for name in {*total, *requests}
        }

    beside: dict[str, int] = {}
    for item in spec.get("initContainers") or ():
        requests = _requests(item)
        if item.get("restartPolicy") == "Always":  # a sidecar runs on beside the others
            beside = add(beside, requests)
            now = beside
        else:
            now = add(beside, requests)
        peak = {name: max(peak.get(name, 0), now.get(name, 0)) for name in {*peak, *now}}
    for item in spec.get("containers") or ():
        steady = add(steady, _requests(item))
    steady = {name: steady.get(name, 0) + beside.get(name, 0) for name in {*steady, *beside}}
    needs = {name: max(steady.get(name, 0), peak.get(name, 0)) for name in {*steady, *peak}}
    needs |= {name: thousandths(value) for name, value in _requests(spec).items()}  # set for the pod as a whole
    for name, value in (spec.get("overhead") or {}).items():
        needs[name] = needs.get(name, 0) + thousandths(value)
    return {name: amount for name, amount in needs.items() if amount}


def _requests(item: Json) -> Mapping[str, Any]:
    return (item.get("resources") or {}).get("requests") or {}


def budget_fact(obj: Json) -> BudgetFact:
    """Read a PodDisruptionBudget."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    return BudgetFact(
        ns=meta["namespace"],
        name=meta["name"],
        selector=spec.get("selector"),
        allowed=status.get("disruptionsAllowed", 0),
        current=status.get("currentHealthy", 0),
        desired=status.get("desiredHealthy", 0),
        expected=status.get("expectedPods", 0),
        processed=status.get("observedGeneration", 0) >= meta.get("generation", 1),
        always_allow=spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
    )


def volume_fact(obj: Json) -> VolumeFact:
    """Read a PersistentVolume."""
    spec = obj.get("spec") or {}
    reference = spec.get("claimRef") or {}
    required = ((spec.get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms")
    return VolumeFact(
        name=obj["metadata"]["name"],
        claim=f"{reference.get('namespace', '')}/{reference.get('name', '')}" if reference else "",
        local="local" in spec or "hostPath" in spec,
        terms=None if required is None else tuple(required),
    )


def storage_facts(
    volumes: Iterable[Json], replicas: Iterable[Json], nodes: Iterable[Json], managers: Iterable[Json],
    settings: Iterable[Json],
) -> StorageFacts:  # fmt: skip
    """Read SUSE Storage's objects. Upstream: longhorn-manager, k8s/pkg/apis/longhorn/v1beta2."""
    values = {item["metadata"]["name"]: str(item.get("value", "")) for item in settings}
    states: dict[str, tuple[str, ...]] = {}
    for item in managers:
        node = (item.get("spec") or {}).get("nodeID") or ""
        states[node] = (*states.get(node, ()), (item.get("status") or {}).get("currentState") or "unknown")
    return StorageFacts(
        volumes=tuple(_stored(item) for item in volumes),
        replicas=tuple(_replica(item) for item in replicas),
        nodes=tuple(_storage_node(item) for item in nodes),
        managers=states,
        policy=values.get("node-drain-policy") or STRICTEST_POLICY,
        detaches_manual=values.get("detach-manually-attached-volumes-when-cordoned") == "true",
    )


def _stored(obj: Json) -> StoredVolume:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    used = status.get("kubernetesStatus") or {}
    return StoredVolume(
        name=obj["metadata"]["name"],
        robustness=status.get("robustness") or "unknown",
        attached=status.get("state") != "detached",
        node=status.get("currentNodeID") or "",
        wanted=spec.get("numberOfReplicas") or 1,
        claim=f"{used.get('namespace', '')}/{used['pvcName']}" if used.get("pvcName") else "",
    )


def _replica(obj: Json) -> Replica:
    spec = obj.get("spec") or {}
    healthy, failed = bool(spec.get("healthyAt")), bool(spec.get("failedAt"))
    leaving = bool(obj["metadata"].get("deletionTimestamp"))
    return Replica(
        name=obj["metadata"]["name"],
        volume=spec.get("volumeName") or "",
        node=spec.get("nodeID") or "",
        healthy=healthy and not failed and not leaving,
        unused=not healthy and not failed,
    )


def _storage_node(obj: Json) -> StorageNode:
    disks = (obj.get("spec") or {}).get("disks") or {}
    return StorageNode(
        name=obj["metadata"]["name"],
        ready=condition_of(obj, "Ready").get("status") == "True",
        schedulable=condition_of(obj, "Schedulable").get("status") == "True",
        allowed=bool((obj.get("spec") or {}).get("allowScheduling")),
        disks=any(disk.get("allowScheduling") for disk in disks.values()),
    )
