"""Gates as data: what must be seen before a layer counts as up. Evaluating them against a site is in tasks/gates.py.

`changing` gates write something (a volume, a pod): they belong to a first installation and to validation only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from stackwright.domain.values import Tree


@dataclass(frozen=True)
class _Base:
    changing: ClassVar[bool] = False


@dataclass(frozen=True)
class RolloutGate(_Base):
    """A Deployment, DaemonSet or StatefulSet whose controller reports all replicas updated and available."""

    kind: Literal["Deployment", "DaemonSet", "StatefulSet"]
    namespace: str
    name: str

    @property
    def id(self) -> str:
        return f"{self.kind.lower()}/{self.name}"

    @property
    def wanted(self) -> str:
        return "all replicas updated and available"


@dataclass(frozen=True)
class WorkloadsGate(_Base):
    """Every Deployment, StatefulSet and DaemonSet with a label has rolled out; at least `at_least` of them exist.

    For products whose workload names depend on a profile.
    """

    namespace: str
    selector: str
    at_least: int = 1

    @property
    def id(self) -> str:
        return f"workloads/{self.selector.partition('=')[2]}"

    @property
    def wanted(self) -> str:
        return f"at least {self.at_least} workload(s) with {self.selector}, all rolled out"


@dataclass(frozen=True)
class ExistsGate(_Base):
    """Objects that the product makes by itself after its installation."""

    api_version: str
    kind: str
    namespace: str
    names: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.kind.lower()}/exists"

    @property
    def wanted(self) -> str:
        return f"{self.kind} {', '.join(self.names)}"


@dataclass(frozen=True)
class FieldGate(_Base):
    """A field of one object's status: equal to `value`, or merely set when `value` is None."""

    api_version: str
    kind: str
    namespace: str
    name: str
    path: tuple[str, ...]
    value: Any = None

    @property
    def id(self) -> str:
        return f"{self.kind.lower()}/{self.name}/{self.path[-1]}"

    @property
    def wanted(self) -> str:
        field = ".".join(self.path)
        return f"{field} is set" if self.value is None else f"{field} = {self.value}"


@dataclass(frozen=True)
class ConditionGate(_Base):
    """A condition of one object that must be True."""

    api_version: str
    kind: str
    namespace: str
    name: str
    condition: str = "Ready"

    @property
    def id(self) -> str:
        return f"{self.kind.lower()}/{self.name}/{self.condition.lower()}"

    @property
    def wanted(self) -> str:
        return f"condition {self.condition} True"


@dataclass(frozen=True)
class DryRunGate(_Base):
    """A create that the API server accepts as a dry run: proves that the product's webhook answers and is trusted."""

    manifest: Tree

    @property
    def id(self) -> str:
        return f"dry-run/{str(self.manifest['kind']).lower()}"

    @property
    def wanted(self) -> str:
        return f"dry-run create of {self.manifest['kind']} accepted"


@dataclass(frozen=True)
class HttpGate(_Base):
    """An HTTPS request to a public name, through the ingress, with the site's CA verified.

    `contains` is text of the body; `healthy` asks a JSON body for `status` healthy in itself and in all `components`.
    """

    url: str
    status: tuple[int, ...] = (200,)
    contains: str = ""
    healthy: bool = False

    @property
    def id(self) -> str:
        return f"http/{self.url.split('://', 1)[-1].split('/', 1)[0].split(':', 1)[0]}"

    @property
    def wanted(self) -> str:
        more = f" with {self.contains!r}" if self.contains else ", all components healthy" if self.healthy else ""
        return f"GET {self.url} answers {'/'.join(map(str, self.status))}{more}"


@dataclass(frozen=True)
class ServiceGate(_Base):
    """An HTTP request to a Service inside the cluster, through the API server's proxy."""

    namespace: str
    service: str
    port: int
    path: str
    scheme: Literal["http", "https"] = "http"
    contains: str = ""

    @property
    def id(self) -> str:
        return f"service/{self.service}"

    @property
    def wanted(self) -> str:
        return f"GET {self.path} on {self.service}:{self.port} answers 200" + (
            f" with {self.contains!r}" if self.contains else ""
        )


@dataclass(frozen=True)
class SecurityGate(_Base):
    """SUSE Security's REST API: login works, `controllers` controllers, an enforcer on every node, a CVE database."""

    namespace: str
    service: str
    port: int
    block: str
    """Block (secret-text) of the administrator's password."""
    controllers: int

    @property
    def id(self) -> str:
        return "security-api"

    @property
    def wanted(self) -> str:
        return f"login, {self.controllers} controllers, one enforcer a node, a CVE database"


@dataclass(frozen=True)
class StorageNodesGate(_Base):
    """SUSE Storage has every storage node ready and schedulable, each with at least one schedulable disk."""

    namespace: str
    nodes: tuple[str, ...]

    @property
    def id(self) -> str:
        return "storage-nodes"

    @property
    def wanted(self) -> str:
        return f"{len(self.nodes)} node(s) ready and schedulable with a schedulable disk"


@dataclass(frozen=True)
class VolumeSmokeGate(_Base):
    """A claim is bound, a pod writes a file to it and reads the same back; then both are removed."""

    changing: ClassVar[bool] = True
    namespace: str
    storage_class: str
    mode: Literal["ReadWriteOnce", "ReadWriteMany"]

    @property
    def id(self) -> str:
        return f"volume/{self.mode.lower()}"

    @property
    def wanted(self) -> str:
        return f"a {self.mode} volume of class {self.storage_class} bound, written and read back"


@dataclass(frozen=True)
class AllocatableGate(_Base):
    """Nodes offer the devices that the site file says; `counts` is (node, devices)."""

    resource: str
    counts: tuple[tuple[str, int], ...]

    @property
    def id(self) -> str:
        return f"allocatable/{self.resource}"

    @property
    def wanted(self) -> str:
        return ", ".join(f"{node}: {count} {self.resource}" for node, count in self.counts)


Gate = (
    RolloutGate
    | WorkloadsGate
    | ExistsGate
    | FieldGate
    | ConditionGate
    | DryRunGate
    | HttpGate
    | ServiceGate
    | SecurityGate
    | StorageNodesGate
    | VolumeSmokeGate
    | AllocatableGate
)
