"""What a capacity report is made from, and how it is read from the API's objects. Pure; the judging is in capacity.py.

Amounts are thousandths of a resource's unit (cores, bytes, pieces), as in placement.py; storage is in bytes.
A part that could not be read is named in `unread`: unknown is not empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from stackwright.domain.cluster import NodeStatus, condition_of
from stackwright.domain.drain_facts import PodFact, StorageFacts
from stackwright.domain.placement import Json, thousandths
from stackwright.domain.spec import Queue, StackSpec, Tenant
from stackwright.domain.tenant_objects import agent_values, agent_version

GPU_MODEL_LABELS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "gpu.intel.com/product")
WHOLE_GPUS = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe")
MIG_PREFIX = "nvidia.com/mig-"
TENANT_LABEL = "stackwright.io/tenant"


@dataclass(frozen=True)
class DiskFact:
    """A disk of SUSE Storage, in bytes. `scheduled` is promised to replicas, `free` is what the file system has left.

    Upstream: longhorn-manager, v1beta2 Node, spec.disks and status.diskStatus.
    """

    node: str
    name: str
    size: int
    reserved: int
    scheduled: int
    free: int
    takes: bool = True

    @property
    def used(self) -> int:
        return max(0, self.size - self.free)


@dataclass(frozen=True)
class DiskRoom:
    """All disks of a node together, in bytes: what is written, what they hold beside their reserve, what is promised to
    volumes."""

    used: int = 0
    room: int = 0
    scheduled: int = 0


@dataclass(frozen=True)
class QuotaFact:
    """A namespace's ResourceQuota: what may be requested and what is, by resource name without `requests.`."""

    ns: str
    hard: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WaitingJobs:
    """Jobs that wait in a ClearML queue. `ages_s` says how long each has waited, the oldest first."""

    tenant: str
    queue: str
    ages_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class JobShape:
    """What one job of a queue asks for, and where it may run."""

    tenant: str
    queue: str
    pod: PodFact
    waiting: int = 0


@dataclass(frozen=True)
class CapacityFacts:
    """One look at a cluster. `used` maps nodes to what the metrics API measured there; empty where it is not offered.

    `tenants` maps namespaces to tenants, `pools` nodes to their roles in the site file, `models` nodes to their GPUs'
    product; `sizes` maps volumes of SUSE Storage to their size, `terms` pods' uids to the node affinities of their
    volumes. `over_provisioning` is SUSE Storage's setting: how much of a disk may be promised.
    """

    at: datetime
    nodes: tuple[NodeStatus, ...] = ()
    pods: tuple[PodFact, ...] = ()
    tenants: Mapping[str, str] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    used: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    quotas: tuple[QuotaFact, ...] = ()
    disks: tuple[DiskFact, ...] = ()
    storage: StorageFacts | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    terms: Mapping[str, tuple[tuple[Json, ...], ...]] = field(default_factory=dict)
    over_provisioning: float = 1.0
    waiting: tuple[WaitingJobs, ...] = ()
    shapes: tuple[JobShape, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def disk_room(self) -> dict[str, DiskRoom]:
        """The disks of SUSE Storage, summed up by node."""
        found: dict[str, DiskRoom] = {}
        for disk in self.disks:
            had = found.get(disk.node, DiskRoom())
            room = had.room + disk.size - disk.reserved
            found[disk.node] = DiskRoom(had.used + disk.used, room, had.scheduled + disk.scheduled)
        return found


def gpus_of(amounts: Mapping[str, int]) -> int:
    """Return whole GPUs, in thousandths, whichever vendor's."""
    return sum(amounts.get(name, 0) for name in WHOLE_GPUS)


def slices_of(amounts: Mapping[str, int]) -> dict[str, int]:
    """Return MIG slices by profile, in thousandths."""
    return {name.removeprefix(MIG_PREFIX): have for name, have in amounts.items() if name.startswith(MIG_PREFIX)}


def model_of(node: NodeStatus, given: str = "") -> str:
    """Return the product name of a node's GPUs: as the vendor's labels say, else as the site file does."""
    return next((node.labels[label] for label in GPU_MODEL_LABELS if label in node.labels), given)


def allocatable_of(node: NodeStatus) -> dict[str, int]:
    """Return what a node offers to pods, in thousandths."""
    return {name: thousandths(value) for name, value in node.allocatable.items()}


def disk_facts(obj: Json) -> list[DiskFact]:
    """Read a node of SUSE Storage."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    wanted, seen = spec.get("disks") or {}, status.get("diskStatus") or {}
    node, open_node = obj["metadata"]["name"], bool(spec.get("allowScheduling"))
    open_node = open_node and condition_of(obj, "Ready").get("status") == "True"
    found = []
    for name, disk in wanted.items():
        at = seen.get(name) or {}
        found.append(
            DiskFact(
                node=node,
                name=str(disk.get("path") or name),
                size=int(at.get("storageMaximum") or 0),
                reserved=int(disk.get("storageReserved") or 0),
                scheduled=int(at.get("storageScheduled") or 0),
                free=int(at.get("storageAvailable") or 0),
                takes=open_node and bool(disk.get("allowScheduling")),
            )
        )
    return found


def quota_fact(obj: Json) -> QuotaFact:
    """Read a ResourceQuota; a plain `cpu` means `requests.cpu`. Limits are left out: they are not room."""
    status = obj.get("status") or {}
    hard = status.get("hard") or (obj.get("spec") or {}).get("hard") or {}
    return QuotaFact(obj["metadata"]["namespace"], _amounts(hard), _amounts(status.get("used") or {}))


def queue_shape(spec: StackSpec, tenant: Tenant, queue: Queue, waiting: int) -> JobShape:
    """Return what the tenant's agent starts for one job of a queue: the pod that its values ask for."""
    template = agent_values(spec, tenant, agent_version(spec))["agentk8sglue"]["queues"][queue.name][
        "templateOverrides"
    ]
    held = template.get("resources") or {}
    # An extended resource that is only limited is requested as well. Kubernetes: "Schedule GPUs".
    needs = {**(held.get("limits") or {}), **(held.get("requests") or {})}
    pod = PodFact(
        tenant.namespace,
        f"(a job of {queue.name})",
        f"shape-{tenant.name}-{queue.name}",
        needs={"pods": 1000} | {name: thousandths(value) for name, value in needs.items()},
        tolerations=tuple(template.get("tolerations") or ()),
        node_selector=template.get("nodeSelector") or {},
    )
    return JobShape(tenant.name, queue.name, pod, waiting)


def _amounts(texts: Json) -> dict[str, int]:
    return {
        name.removeprefix("requests."): thousandths(value)
        for name, value in texts.items()
        if not name.startswith(("limits.", "count/"))
    }


def tenants_of(namespaces: Iterable[Json]) -> dict[str, str]:
    """Return which namespaces belong to which tenant."""
    labels = ((item["metadata"]["name"], item["metadata"].get("labels") or {}) for item in namespaces)
    return {name: held[TENANT_LABEL] for name, held in labels if TENANT_LABEL in held}


def usage_of(items: Iterable[Json]) -> dict[str, dict[str, int]]:
    """Read NodeMetrics of metrics.k8s.io."""
    return {
        item["metadata"]["name"]: {name: thousandths(value) for name, value in (item.get("usage") or {}).items()}
        for item in items
    }
