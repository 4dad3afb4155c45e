"""The shape of a preflight check: what it asks for, of which subjects, and how its answer becomes evidence.

The checks themselves are tables in this folder's other modules; what they look at is in seen.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from stackwright.domain.check import Outcome
from stackwright.domain.evidence import Evidence, Verdict, worst_first
from stackwright.domain.node_facts import FactUnknownError
from stackwright.domain.preflight.seen import Case
from stackwright.domain.spec import StackSpec

Source = Literal["facts", "probe", "controller", "cluster"]
"""Where a check's facts come from: the look that every plan takes, the preflight's own script on the hosts, the
controller's own look at names, registries and blocks, or the running cluster."""
Subjects = Callable[[StackSpec], Sequence[str]]
MOST_NAMES = 6


def good(seen: object) -> Outcome:
    return Outcome("pass", str(seen))


def bad(seen: object) -> Outcome:
    return Outcome("fail", str(seen))


def unknown(why: str) -> Outcome:
    return Outcome("unknown", why)


def skipped(why: str) -> Outcome:
    return Outcome("skipped", why)


def held(ok: bool, seen: object) -> Outcome:
    """Pass or fail with the same measured value."""
    return good(seen) if ok else bad(seen)


def whole_site(spec: StackSpec) -> Sequence[str]:
    """Of checks that look at the site as one."""
    return (spec.site,)


def every_node(spec: StackSpec) -> Sequence[str]:
    return tuple(node.name for node in spec.nodes)


def every_server(spec: StackSpec) -> Sequence[str]:
    return tuple(node.name for node in spec.servers)


def every_gpu_node(spec: StackSpec) -> Sequence[str]:
    return tuple(node.name for node in spec.nodes if node.gpu is not None)


@dataclass(frozen=True)
class Check:
    """One requirement. `judge(case, subject)` is pure, and raises FactUnknownError for what was not read.

    `nothing` says why there is nothing to check on a site that has none of the subjects. `guide` is a section of the
    guide, or the product document that asks for it.
    """

    id: str
    title: str
    guide: str
    need: str | Callable[[StackSpec], str]
    fix: str
    judge: Callable[[Case, str], Outcome]
    subjects: Subjects = every_node
    nothing: str = "the site has none"
    must: bool = True
    source: Source = "probe"

    def wanted(self, spec: StackSpec) -> str:
        return self.need if isinstance(self.need, str) else self.need(spec)


@dataclass(frozen=True)
class Finding:
    """One check's outcome on one subject."""

    check: Check
    subject: str
    outcome: Outcome


def judge(case: Case, checks: Iterable[Check]) -> list[Finding]:
    """Ask every check of every subject. What could not be read is unknown: neither pass nor fail."""
    return [
        Finding(check, subject, _judged(check, case, subject))
        for check in checks
        for subject in check.subjects(case.spec) or ("",)
    ]


def _judged(check: Check, case: Case, subject: str) -> Outcome:
    if not subject:
        return skipped(check.nothing)
    try:
        return check.judge(case, subject)
    except FactUnknownError as error:
        return unknown(error.seen or error.what)


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the failed must-haves: what stops a deploy. An unknown does not stop it, and counts as no pass either."""
    return [one for one in findings if one.check.must and one.outcome.verdict == "fail"]


def evidence(case: Case, findings: Iterable[Finding], at: str) -> list[Evidence]:
    """Return findings as evidence, worst first: one line for each check and outcome, naming the subjects that share it.

    All that passed is one line a check, with the first measured values.
    """
    grouped: dict[tuple[str, Verdict, str], list[Finding]] = {}
    for one in findings:
        passed = one.outcome.verdict == "pass"
        grouped.setdefault((one.check.id, one.outcome.verdict, "" if passed else one.outcome.seen), []).append(one)
    return worst_first(_line(case.spec, group, at) for group in grouped.values())


def _line(spec: StackSpec, group: Sequence[Finding], at: str) -> Evidence:
    check, verdict = group[0].check, group[0].outcome.verdict
    return Evidence(
        id=check.id,
        title=check.title,
        verdict=verdict,
        wanted=check.wanted(spec),
        seen=_seen(spec, group),
        guide=check.guide,
        at=at,
        target=names([one.subject for one in group if one.subject != spec.site]),
        must=check.must,
        remedy=check.fix if verdict in ("fail", "unknown") else "",
        stand_in="SLES hosts" if spec.environment == "lab" and check.source in ("facts", "probe") else "",
    )


def _seen(spec: StackSpec, group: Sequence[Finding]) -> str:
    texts = list(dict.fromkeys(one.outcome.seen for one in group))
    subjects = [one.subject for one in group if one.subject and one.subject != spec.site]
    if len(texts) == 1:
        return f"{names(subjects)}: {texts[0]}" if subjects else texts[0]
    shown = [f"{one.subject}: {one.outcome.seen}" for one in group[:3]]
    return "; ".join(shown) + (f"; and {len(group) - 3} more" if len(group) > 3 else "")


def names(subjects: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    more = len(subjects) - MOST_NAMES
    return ", ".join(subjects[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
