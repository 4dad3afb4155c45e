"""What a report says, as values: verdict, plan, evidence, tenants, versions and times. No layout here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from stackwright.domain.evidence import Evidence, worst_first
from stackwright.domain.layers import chart_versions, enabled
from stackwright.domain.plan import Plan, Step
from stackwright.domain.spec import StackSpec
from stackwright.reports.tenants import TenantState

ReportVerdict = Literal["ok", "failed", "unknown", "planned"]
LAB_MACHINES = "SLES hosts"

VERDICT_TEXTS: Mapping[ReportVerdict, str] = {
    "ok": "The platform works",
    "failed": "The platform does not work as wanted",
    "unknown": "Not proven: some checks could not be read",
    "planned": "Planned: nothing was changed, nothing was checked",
}
FLOW_TEXTS: Mapping[str, tuple[str, str]] = {
    "back-up-state": ("What lies beside etcd is backed up", "Not all that lies beside etcd is backed up"),
    "check-site": ("The hosts are as they must be", "The hosts are not as they must be"),
    "drill-restore": ("The bundle is proven", "The bundle is not proven"),
    "encryption-status": ("The encryption is as wanted", "The encryption is not as wanted"),
    "rehearse-upgrade": ("The upgrade is rehearsed", "The rehearsal forbids the upgrade"),
    "restore-cluster": ("The cluster is restored", "The cluster is not restored as wanted"),
    "scan-certificates": ("The certificates are good", "Certificates must be looked after"),
    "snapshot-etcd": ("The backups are as wanted", "The backups are not as wanted"),
}
"""Flows that judge something else than the whole platform: what it says of that when it is well, and when it is not."""


@dataclass(frozen=True)
class Group:
    """The steps of one target in one run: how they ended, when they began after the run's start, how long they took."""

    area: str
    target: str
    steps: int
    started_s: float
    seconds: float
    ok: bool


@dataclass(frozen=True)
class TenantLine:
    """One tenant as the report lists it. Memory and storage in GiB."""

    name: str
    namespace: str
    queues: tuple[str, ...]
    cpu: int
    memory_gib: int
    gpus: int
    storage_gib: int


@dataclass(frozen=True)
class DeployReport:
    """One run's report. `plan` is None where nothing was planned; `error` is the error that ended the run, if any."""

    site: str
    environment: str
    flow: str
    started: datetime
    ended: datetime
    plan: Plan | None = None
    groups: tuple[Group, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    nodes: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    tenants: tuple[TenantLine, ...] = ()
    states: tuple[TenantState, ...] = ()
    """The tenants' page, in runs that looked at all of each tenant."""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def verdict(self) -> ReportVerdict:
        """`ok` only where checks were made and no must-have one failed or stayed unknown."""
        must = [check.verdict for check in self.evidence if check.must]
        if self.error or "fail" in must or any(not group.ok for group in self.groups):
            return "failed"
        if "unknown" in must:
            return "unknown"
        return "ok" if self.evidence else "planned"

    @property
    def seconds(self) -> float:
        return (self.ended - self.started).total_seconds()

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """What a lab imitated, by name; empty on a real site."""
        if self.environment != "lab":
            return ()
        found = {check.stand_in for check in self.evidence if check.stand_in}
        return (LAB_MACHINES, *sorted(found)) if found else (LAB_MACHINES, "every product")

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.plan.steps if self.plan else ()

    @property
    def counts(self) -> dict[str, int]:
        """How many checks ended in which verdict."""
        return {
            verdict: sum(check.verdict == verdict for check in self.evidence)
            for verdict in ("pass", "fail", "unknown", "skipped")
        }

    @property
    def headline(self) -> str:
        """One sentence that says the verdict and what it stands on."""
        checked = f"{self.counts['pass']} of {len(self.evidence)} checks passed"
        bad = [text for verdict, word in _BAD for text in self._counted(verdict, word)]
        text = f"{checked}, {', '.join(bad)}" if bad else checked
        well, badly = FLOW_TEXTS.get(self.flow, (VERDICT_TEXTS["ok"], VERDICT_TEXTS["failed"]))
        said = {**VERDICT_TEXTS, "ok": well, "failed": badly}[self.verdict]
        return said + (f": {text}." if self.evidence else ".")

    def _counted(self, verdict: str, word: str) -> list[str]:
        """Say how many checks ended so; what is optional does not make the verdict, and is counted apart."""
        of = [check for check in self.evidence if check.verdict == verdict]
        if verdict == "skipped":
            return [f"{len(of)} {word}"] if of else []
        must = sum(check.must for check in of)
        return [
            *([f"{must} {word}"] if must else []),
            *([f"{len(of) - must} optional {word}"] if len(of) > must else []),
        ]


_BAD = (("fail", "failed"), ("unknown", "could not be read"), ("skipped", "skipped"))


def make_report(
    spec: StackSpec,
    flow: str,
    started: datetime,
    ended: datetime,
    *,
    plan: Plan | None = None,
    groups: Iterable[Group] = (),
    evidence: Iterable[Evidence] = (),
    states: Iterable[TenantState] = (),
    notes: Iterable[str] = (),
    error: str = "",
) -> DeployReport:
    """Bundle what a run did with what its site file says."""
    charts, _ = chart_versions(spec)
    return DeployReport(
        site=spec.site,
        environment=spec.environment,
        flow=flow,
        started=started,
        ended=ended,
        plan=plan,
        groups=tuple(groups),
        evidence=tuple(evidence),
        nodes=tuple(node.name for node in spec.nodes),
        layers=tuple(layer.title for layer in enabled(spec)),
        tenants=tuple(
            TenantLine(
                name=tenant.name,
                namespace=tenant.namespace,
                queues=tuple(queue.name for queue in tenant.queues),
                cpu=tenant.quota.cpu,
                memory_gib=tenant.quota.memory_gib,
                gpus=tenant.quota.gpus,
                storage_gib=tenant.quota.storage_gib,
            )
            for tenant in spec.tenants
        ),
        states=tuple(states),
        versions={"rke2": spec.rke2.version, **charts},
        notes=(*(plan.notes if plan else ()), *notes),
        error=error,
    )


def to_json(report: DeployReport) -> dict[str, Any]:
    """Return the report as plain data for machines; evidence worst first."""
    return {
        "site": report.site,
        "environment": report.environment,
        "flow": report.flow,
        "verdict": report.verdict,
        "headline": report.headline,
        "stand_ins": list(report.stand_ins),
        "started": report.started.isoformat(timespec="seconds"),
        "ended": report.ended.isoformat(timespec="seconds"),
        "seconds": round(report.seconds, 3),
        "plan": {
            "hash": report.plan.hash if report.plan else "",
            "worst": report.plan.worst.label if report.plan else "",
            "steps": [_step(step) for step in report.steps],
        },
        "groups": [asdict(group) for group in report.groups],
        "evidence": [asdict(check) for check in worst_first(report.evidence)],
        "nodes": list(report.nodes),
        "layers": list(report.layers),
        "tenants": [asdict(tenant) for tenant in report.tenants],
        "states": [asdict(state) for state in report.states],
        "versions": dict(report.versions),
        "notes": list(report.notes),
        "error": report.error,
    }


def _step(step: Step) -> dict[str, str]:
    return {
        "id": step.id,
        "target": step.target,
        "summary": step.summary,
        "effect": step.effect.label,
        "guide": step.guide,
        "verify": step.verify,
        "fingerprint": step.fingerprint,
    }
