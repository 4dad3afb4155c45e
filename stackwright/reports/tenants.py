"""The tenants' page of a report, as values: state, quota and use, queues, gateway, policy, last request, isolation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.quantities import quantity
from stackwright.domain.spec import StackSpec
from stackwright.domain.tenant_drift import Finding, TenantSeen
from stackwright.domain.tenant_objects import GATEWAY_RELEASE, router_host
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenants import is_fresh

NEARLY_PCT = 90
SIZES = ("Memory", "Storage")
TITLES: Mapping[str, str] = {
    "requests.cpu": "CPU, cores",
    "requests.memory": "Memory",
    "requests.storage": "Storage",
    "pods": "Pods",
}
GPU_SIGN = "/"  # an extended resource has its vendor before a slash: requests.nvidia.com/gpu
ISOLATION = "isolation-"
MARKED: Mapping[str, str] = {"fail": ", differs", "unknown": ", not read"}


@dataclass(frozen=True)
class Meter:
    """One resource of a quota: what is used of it, as texts, and in percent (0 where the quota is 0).

    A quota in full use is no failure: it is only marked.
    """

    title: str
    used: str
    hard: str
    pct: int

    @property
    def tone(self) -> str:
        return "unknown" if self.pct >= NEARLY_PCT else "pass"


@dataclass(frozen=True)
class QueueLine:
    """One queue: tasks that wait, workers that serve it."""

    name: str
    waiting: int
    workers: int
    wanted: bool


@dataclass(frozen=True)
class Proof:
    """One isolation check as the page shows it."""

    title: str
    verdict: Verdict
    seen: str


@dataclass(frozen=True)
class TenantState:
    """One tenant on the page. `asked` says where it comes from; texts are empty where there is nothing to say."""

    name: str
    namespace: str
    state: str
    tone: str
    asked: str
    meters: tuple[Meter, ...] = ()
    queues: tuple[QueueLine, ...] = ()
    gateway: str = ""
    gateway_tone: str = "skipped"
    host: str = ""
    policy: str = ""
    last: str = ""
    last_good: bool = True
    reason: str = ""
    kept: tuple[str, ...] = ()
    isolation: tuple[Proof, ...] = ()
    differences: tuple[tuple[str, bool], ...] = ()
    """What differs from what is wanted, and whether it was repaired."""


def tenant_states(
    spec: StackSpec,
    seen: Iterable[TenantSeen],
    findings: Iterable[Finding],
    records: Iterable[TenantRecord],
    evidence: Iterable[Evidence],
) -> tuple[TenantState, ...]:
    """Return every tenant for the page, by name; those that left are there by their records, unless deleted."""
    looked = {one.tenant.name: one for one in seen}
    kept = {record.name: record for record in records}
    found, checks = list(findings), list(evidence)
    names = sorted(looked | {n: None for n, record in kept.items() if record.state not in ("deleted", "undone")})
    return tuple(
        _state(
            spec,
            name,
            looked.get(name),
            kept.get(name),
            [finding for finding in found if finding.tenant == name],
            [check for check in checks if check.target == name],
        )
        for name in names
    )


def _state(
    spec: StackSpec,
    name: str,
    seen: TenantSeen | None,
    record: TenantRecord | None,
    findings: list[Finding],
    checks: list[Evidence],
) -> TenantState:
    tenant = seen.tenant if seen else record.wanted if record else None
    if tenant is None:
        raise ValueError(f"nothing is known of tenant {name}")
    state = record.state if record else "suspended" if tenant.suspended else "ready"
    left = any(not finding.repaired for finding in findings)
    gateway, tone = _gateway(seen)
    last = record.handled[0] if record and record.handled else None
    return TenantState(
        name=name,
        namespace=tenant.namespace,
        state=state if state == "held" else f"{state}{MARKED.get(_tone(state, seen, left), '')}",
        tone=_tone(state, seen, left),
        asked="asked for by request" if record else "in the site file",
        meters=tuple(_meters(seen)),
        queues=tuple(_queues(seen)),
        gateway=gateway,
        gateway_tone=tone,
        host=router_host(spec, tenant),
        policy=_policy(seen, tenant.policy is not None),
        last=f"{last.action}, {last.outcome} ({last.at[:16].replace('T', ' ')}, {last.caller or 'an operator'})"
        if last
        else "",
        last_good=last is None or last.outcome.startswith("completed"),
        reason=(seen.unread if seen else "") or (record.reason if record else ""),
        kept=record.kept if record else (),
        isolation=tuple(_proofs(checks)),
        differences=tuple((finding.what, finding.repaired) for finding in findings),
    )


def _tone(state: str, seen: TenantSeen | None, left: bool) -> str:
    if seen is not None and seen.unread:
        return "unknown"
    if left or state == "held":
        return "fail"
    return "pass" if state == "ready" else "skipped"


def _meters(seen: TenantSeen | None) -> Iterable[Meter]:
    for name, hard in (seen.hard if seen else {}).items():
        title = TITLES.get(name) or ("GPUs" if GPU_SIGN in name else "")
        if title:
            used = seen.used.get(name, "0") if seen else "0"
            most = quantity(hard)
            pct = int(100 * quantity(used) / most) if most else 0
            yield Meter(title, _amount(title, used), _amount(title, hard), pct)


def _amount(title: str, text: str) -> str:
    """Write an amount for people: cores and pieces as they are, sizes in GiB."""
    number = quantity(text)
    return f"{number / 2**30:.4g} GiB" if title in SIZES else f"{float(number):g}"


def _queues(seen: TenantSeen | None) -> Iterable[QueueLine]:
    if seen is None:
        return
    wanted = [queue.name for queue in seen.tenant.queues]
    for name in (*wanted, *(name for name in seen.queues if name not in wanted)):
        yield QueueLine(name, seen.queues.get(name, 0), seen.workers.get(name, 0), name in wanted)


def _gateway(seen: TenantSeen | None) -> tuple[str, str]:
    """Say whether the gateway reports, and in which tone."""
    if seen is None or seen.facts is None:
        return "", "skipped"
    if seen.tenant.suspended:
        return "none while suspended", "skipped"
    stamp = seen.facts.routers.get(GATEWAY_RELEASE)
    if stamp is None:
        return "not listed", "fail"
    fresh = is_fresh(stamp, seen.facts.now)
    return f"last report {stamp[:16].replace('T', ' ')}", "unknown" if fresh is None else "pass" if fresh else "fail"


def _policy(seen: TenantSeen | None, wanted: bool) -> str:
    found = seen.facts.policy if seen and seen.facts else None
    if not wanted:
        return "none"
    if found is None or found.policy is None:
        return "wanted, not seen"
    return f"{found.policy.reservation:g} GPU(s) reserved, at most {found.policy.limit:g}"


def _proofs(checks: Iterable[Evidence]) -> Iterable[Proof]:
    for check in checks:
        if f"/{ISOLATION}" in check.id:
            yield Proof(check.title, check.verdict, check.seen)
