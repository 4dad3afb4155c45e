"""What SUSE Security and the cluster say about a site's namespaces, read from their answers. Pure. Guide: 5.5.

Shapes: neuvector/neuvector, controller/api/apis.go and log_apis.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from stackwright.domain.layers import enabled
from stackwright.domain.spec import StackSpec

Mode = Literal["Discover", "Monitor", "Protect"]
MODES: tuple[Mode, ...] = ("Discover", "Monitor", "Protect")
LEARNED = "nv."  # a group that the product made for a workload
LOG_SIZE = 4096  # the product keeps so many entries of each log, and forgets the older ones
PROFILE = "Process.Profile.Violation"
BLOCKED = ("deny", "Denied")
ADMISSION = "admission"
KEPT_LINES = 20
Kind = Literal["violation", "incident", "threat"]


@dataclass(frozen=True)
class Group:
    """The containers of one workload, as SUSE Security groups them. `secured_at`: since when it knows the oldest."""

    name: str
    namespace: str
    policy: str
    profile: str
    by_resource: bool = False
    """A custom resource holds it: the REST API refuses to change it."""
    changeable: bool = True
    secured_at: float | None = None

    @property
    def service(self) -> str:
        """Return its name as PATCH /v1/service/config takes it."""
        return self.name.removeprefix(LEARNED)

    @property
    def mode(self) -> str:
        """Return the mode of network and processes; of two that differ, the one that stops less."""
        known = [mode for mode in (self.policy, self.profile) if mode in MODES]
        return min(known, key=lambda mode: MODES.index(mode)) if known else "unknown"


@dataclass(frozen=True)
class Event:
    """One entry of a log: what a namespace did that no rule allows. `known_good`: our own workloads did it."""

    id: str
    kind: Kind
    at: float
    what: str
    namespaces: frozenset[str]
    known_good: bool
    blocked: bool


class Stand(BaseModel):
    """The mode that a group was last given by us, and since when (seconds since the epoch)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: str
    at: float


class Intent(BaseModel):
    """A promotion that was begun: it is completed or taken back by whoever looks next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    """Namespace, or `admission`."""
    groups: tuple[str, ...]
    began: float


class LifeRecord(BaseModel):
    """What is kept in the cluster of the life: who was given which mode when, what is under way, what was done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: dict[str, Stand] = {}
    intent: Intent | None = None
    lines: tuple[str, ...] = ()
    version: str = ""

    def noted(self, at: float, mode: str, names: Iterable[str], line: str) -> LifeRecord:
        """Return the record after groups were given a mode."""
        stands = {**self.groups, **{name: Stand(mode=mode, at=at) for name in names}}
        return self.model_copy(update={"groups": stands, "lines": (*self.lines, line)[-KEPT_LINES:]})


@dataclass(frozen=True)
class Refused:
    """A workload of ours that admission control would not let in, or does not."""

    workload: str
    why: str


@dataclass(frozen=True)
class AdmissionFacts:
    """Admission control: its state, since when, and what it thinks of the workloads that run now."""

    enabled: bool
    mode: str
    since: float | None
    by_resource: bool = True
    rules: int = 0
    assessed: int = 0
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class LifeFacts:
    """One look. `full` names the logs that may have lost entries of the time that was asked for."""

    now: float
    groups: tuple[Group, ...]
    events: tuple[Event, ...]
    full: tuple[str, ...]
    new_services: str
    admission: AdmissionFacts
    unready: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Namespace to its workloads that have not rolled out, with the reason."""
    record: LifeRecord = field(default_factory=LifeRecord)

    def of(self, namespace: str) -> list[Group]:
        return [group for group in self.groups if group.namespace == namespace]


def own_namespaces(spec: StackSpec) -> frozenset[str]:
    """Return the namespaces whose workloads are known to be good: the platform's, the tenants', those to enforce."""
    spaces = {release.namespace for layer in enabled(spec) for release in layer.releases(spec)}
    spaces |= {tenant.namespace for tenant in spec.tenants} | {"kube-system"}
    life = spec.layers.security.life
    return frozenset(spaces | (set(life.protect) if life and life.protect != "all" else set()))


def parse_groups(groups: Iterable[Mapping[str, Any]], workloads: Iterable[Mapping[str, Any]]) -> tuple[Group, ...]:
    """Read /v1/group (with_cap) and /v2/workload: the groups of workloads, by name."""
    secured: dict[str, float] = {}
    for one in workloads:
        name = (one.get("brief") or {}).get("service_group") or ""
        at = epoch(one.get("secured_at"))
        if at is not None:
            secured[name] = min(at, secured.get(name, at))
    return tuple(sorted((
        Group(
            name=str(one["name"]), namespace=str(one.get("domain") or ""), policy=str(one.get("policy_mode") or ""),
            profile=str(one.get("profile_mode") or one.get("policy_mode") or ""),
            by_resource=one.get("cfg_type") == "ground", changeable=one.get("cap_change_mode") is not False,
            secured_at=secured.get(str(one["name"])),
        )
        for one in groups
        if str(one.get("name", "")).startswith(LEARNED) and one.get("policy_mode") and one.get("domain")
    ), key=lambda group: group.name))  # fmt: skip


def parse_event(kind: Kind, row: Mapping[str, Any], own: frozenset[str]) -> Event:
    """Read one entry of /v1/log/violation, /incident or /threat.

    Known to be good is traffic whose both ends are ours (a host of the cluster is), and a process outside the profile
    in a workload of ours. An attack, a suspicious process and a peer from outside never are.
    """
    at = float(row.get("reported_timestamp") or 0)
    if kind == "incident":
        space = str(row.get("workload_domain") or "")
        service = row.get("workload_service") or row.get("group") or row.get("workload_name") or "a host"
        what = f"{service} runs {row.get('proc_path') or row.get('proc_name') or row.get('name')}"
        good, done = row.get("name") == PROFILE and space in own, row.get("action")
        return Event(str(row["id"]), kind, at, what, frozenset({space} - {""}), good, done in BLOCKED)
    prefix = "" if kind == "violation" else "_workload"
    ends = [(str(row.get(f"{side}{prefix}_domain") or ""), _end(row, side, prefix)) for side in ("client", "server")]
    port = row.get("server_port") or ""
    said = ", ".join(map(str, row.get("applications") or ())) or str(row.get("name") or "")
    what = f"{ends[0][1]}>{ends[1][1]}:{port}" if kind == "violation" else f"{said}: {ends[0][1]}>{ends[1][1]}"
    ours = all(
        space in own or _is_host(row, side, prefix) for (space, _), side in zip(ends, ("client", "server"), strict=True)
    )
    spaces = frozenset(space for space, _ in ends if space)
    done = row.get("policy_action") if kind == "violation" else row.get("action")
    return Event(str(row["id"]), kind, at, what, spaces, kind == "violation" and ours, done in BLOCKED)


def _end(row: Mapping[str, Any], side: str, prefix: str) -> str:
    for name in (f"{side}{prefix}_service", f"{side}{prefix}_name", f"{side}{prefix}_id", f"{side}_ip"):
        if row.get(name):
            return str(row[name])
    return "?"


def _is_host(row: Mapping[str, Any], side: str, prefix: str) -> bool:
    return str(row.get(f"{side}{prefix}_id") or "").startswith("Host:")


def epoch(text: Any) -> float | None:
    """Return an ISO 8601 time as seconds since the epoch, None where there is none."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp() if text else None
    except ValueError:
        return None


def would_refuse(result: Mapping[str, Any]) -> str:
    """Say for what admission control would refuse an assessed workload in Protect; empty where it would not.

    In Monitor the product answers that all is allowed, and names the rules: a deny rule counts where no rule that
    allows the same image is beside it.
    """
    rules = [rule for rule in result.get("matched_rules") or () if not rule.get("disabled")]
    allowed = {rule.get("container_image") for rule in rules if rule.get("type") != "deny"}
    denies = [
        f"rule {rule.get('id')} ({rule.get('container_image')}): {rule.get('rule_details')}"
        for rule in rules
        if rule.get("type") == "deny" and rule.get("mode") != "monitor" and rule.get("container_image") not in allowed
    ]
    if not denies and result.get("allowed") is False:
        return str(result.get("message") or "denied")
    return "; ".join(dict.fromkeys(denies))
