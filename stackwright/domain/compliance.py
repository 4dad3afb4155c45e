"""Each clause of the guide against the last results: what was proved, on what, and what was not. Pure.

Only a result proves. A step, a rule or a field of the site file says that something is done about a clause; a clause
without a result stays not proved, and a result that is old, or of a stand-in, is said to be that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from stackwright.domain.compliance_looks import layer_id, look_id, step_id, tenant_id
from stackwright.domain.errata import ERRATA, Erratum
from stackwright.domain.evidence import Evidence
from stackwright.domain.guide.answers import (
    Answer,
    Check,
    Corrected,
    Field,
    Layer,
    Limit,
    Preflight,
    Requirement,
    Rule,
    Step,
    Tenant,
)
from stackwright.domain.results import Result, family, is_stale

Status = Literal[
    "failed", "unknown", "not proved", "stale", "skipped", "in code", "operator", "stand-in", "in part", "proved"
]  # the worst first
ORDER: tuple[Status, ...] = get_args(Status)
MEANINGS: dict[Status, str] = {
    "failed": "the last result is a failure",
    "unknown": "looked at, and could not be read",
    "not proved": "something answers it, and there is no result; or nothing answers it",
    "stale": "the last result is too old to stand for today",
    "skipped": "the site file does not ask for it, or there was nothing to look at",
    "in code": "held by the code and its tests; nothing of it is measured on the site",
    "operator": "left to the operator, by a field of the site file or with the reason",
    "stand-in": "proved on a stand-in of the product, in a lab",
    "in part": "what of it is automated was proved on the product itself; the limit beside it says what is not",
    "proved": "proved on the product itself",
}
# Results beside those of the guide's answers: clause to kind, prefix of the evidence's ids, and what it is.
BESIDE: dict[str, tuple[str, str, str]] = {
    "rke2-cis": ("measured here", "cis/", "the CIS profile as RKE2 has it"),
    "security-scan": (
        "measured here",
        "scan/*/scan",
        "SUSE Security has scanned the nodes (Kubernetes CIS benchmark) and the running images",
    ),
    "security-templates": ("measured here", "scan/*/findings", "what SUSE Security's Kubernetes CIS benchmark finds"),
    "security-enforce": ("flow", "security/", "promote-security: namespaces and admission control that enforce"),
    "rke2-offsite": ("flow", "backup/", "snapshot-etcd: the bundles in the store"),
    "rke2-recovery": ("flow", "drill/", "drill-restore: the newest bundle restored on a spare host"),
    "security-restore": ("flow", "drill/", "drill-restore: the newest bundle restored on a spare host"),
    "rke2-certificates": ("flow", "certificate/", "scan-certificates: days left of every certificate"),
    "rke2-upgrade-test": ("flow", "rehearsal/", "rehearse-upgrade: the upgrade on a restored copy"),
}


@dataclass(frozen=True)
class Answered:
    """One answer to a clause with its last results. `measurable` is False where no result can come of it."""

    kind: str
    name: str
    measurable: bool
    status: Status
    results: tuple[Result, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Clause:
    """One clause of the guide and how it stands."""

    requirement: Requirement
    status: Status
    answers: tuple[Answered, ...]
    errata: tuple[Erratum, ...]
    limits: tuple[Limit, ...]

    @property
    def results(self) -> list[Result]:
        return [result for answer in self.answers for result in answer.results]

    @property
    def stale(self) -> bool:
        """Tell whether any result that it stands on is too old, whatever the worst of them is."""
        return any(answer.status == "stale" for answer in self.answers)


def judge_clauses(requirements: Iterable[Requirement], results: Sequence[Result], now: datetime) -> list[Clause]:
    """Judge every clause by the last results, in the guide's order."""
    by_id = {erratum.id: erratum for erratum in ERRATA}
    found = []
    for entry in requirements:
        answers = [_answered(answer, results, now) for answer in entry.answers if not isinstance(answer, Limit)]
        if entry.id in BESIDE:
            answers.append(_beside(*BESIDE[entry.id], results, now))
        errata = tuple(by_id[answer.erratum] for answer in entry.answers if isinstance(answer, Corrected))
        limits = tuple(answer for answer in entry.answers if isinstance(answer, Limit))
        found.append(Clause(entry, _clause_status(answers, limits), tuple(answers), errata, limits))
    return found


def totals(clauses: Iterable[Clause]) -> dict[Status, int]:
    """Return how many clauses stand in which way, the worst first; nought included."""
    counts = Counter(clause.status for clause in clauses)
    return {status: counts[status] for status in ORDER}


def alarming(clauses: Iterable[Clause]) -> list[Evidence]:
    """Return the must-have results of clauses that failed or could not be read: with any of them the run itself fails.

    Each is told once, and results of other flows, which told of them in their time, are not told again.
    """
    found = {one.evidence.id: one for clause in clauses for answer in clause.answers for one in answer.results
             if answer.kind != "flow"}  # fmt: skip
    return [one.evidence for one in found.values() if one.evidence.must and one.evidence.verdict in ("fail", "unknown")]


def _answered(answer: Answer, results: Sequence[Result], now: datetime) -> Answered:
    match answer:
        case Check(name):
            return _measured("check", name, _ids(lambda one: _is_check(one, name)), results, now)
        case Step(kind):
            return _measured("step", kind, _ids(lambda one: one == step_id(kind)), results, now)
        case Preflight(name):
            return _measured("look", name, _ids(lambda one: one == look_id(name)), results, now)
        case Tenant(step, value):
            text = step + (f", value {value}" if value else "")
            return _measured("tenant", text, _ids(lambda one: one == tenant_id(step)), results, now)
        case Layer(name, value, gate):
            text = name + (f", value {value}" if value else "") + (f", gate {gate}" if gate else "")
            found = _measured("layer", text, _ids(lambda one: _is_layer(one, answer)), results, now)
            whole = _measured("layer", text, _ids(lambda one: one == layer_id(name)), results, now)
            return whole if not found.results and whole.status == "skipped" else found
        case Rule(name):
            return Answered("rule", name, False, "in code", note="a site file that breaks it is refused")
        case Field(path):
            return Answered("field", path, False, "operator", note="the operator says it in the site file")
        case Corrected(name):
            return Answered("erratum", name, False, "in code", note="the guide's print is wrong here, see below")
        case Limit(why):
            return Answered("limit", why, False, "operator")


def _beside(kind: str, prefix: str, text: str, results: Sequence[Result], now: datetime) -> Answered:
    head, star, tail = prefix.partition("*")
    return _measured(
        kind, text, _ids(lambda one: one.startswith(head) and (not star or one.endswith(tail))), results, now
    )


def _ids(same: Callable[[str], bool]) -> Callable[[Result], bool]:
    return lambda result: same(result.evidence.id)


def _is_check(evidence_id: str, check: str) -> bool:
    """Tell whether evidence is of a check of the catalogue: the target of its id is left out there."""
    area, _, name = family(evidence_id)
    return f"{area}/{name}" == check


def _is_layer(evidence_id: str, answer: Layer) -> bool:
    """Tell whether evidence is of a layer: of one gate, of the values in force, or both where neither is named."""
    gate = f"layer/{answer.name}/"
    if answer.gate:
        return evidence_id.startswith(gate + answer.gate)
    in_force = evidence_id == layer_id(answer.name)
    return in_force or (not answer.value and evidence_id.startswith(gate))


def _measured(
    kind: str, name: str, wanted: Callable[[Result], bool], results: Sequence[Result], now: datetime
) -> Answered:
    found = tuple(result for result in results if wanted(result))
    if not found:
        return Answered(kind, name, True, "not proved", note="there is no result")
    return Answered(kind, name, True, _worst(_result_status(result, now) for result in found), found)


def _result_status(result: Result, now: datetime) -> Status:
    """Say what one result is worth. A failure stays one however old it is: nothing has shown otherwise since."""
    one = result.evidence
    by_verdict: dict[str, Status] = {"fail": "failed", "unknown": "unknown", "skipped": "skipped"}
    if one.verdict in by_verdict:
        return by_verdict[one.verdict]
    if is_stale(result, now):
        return "stale"
    return "stand-in" if one.stand_in else "proved"


def _worst(statuses: Iterable[Status]) -> Status:
    """Return the worst status; what was skipped counts only where nothing else is."""
    found = set(statuses)
    return min(found - {"skipped"} or found, key=ORDER.index)


def _clause_status(answers: Sequence[Answered], limits: Sequence[Limit]) -> Status:
    measured = [answer.status for answer in answers if answer.measurable]
    if measured:
        worst = _worst(measured)
        return "in part" if worst == "proved" and limits else worst
    if any(answer.status == "in code" for answer in answers):
        return "in code"
    return "operator" if answers or limits else "not proved"
