"""From learning to refusing, namespace by namespace: what may be promoted, what stands against it, the plan. Pure.

A group climbs two rungs: Discover (its rules are learned) -> Monitor (what breaks them is reported) -> Protect (and
stopped). Only the second rung, and admission control's, can cut off what works: they ask for approval, are watched, and
are taken back by themselves. Guide: 5.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.layers.security import LAYER, is_system
from stackwright.domain.layers.security import NAMESPACE as OWN_NAMESPACE
from stackwright.domain.plan import Effect, Plan, Step, digest_of
from stackwright.domain.results import DAY_S
from stackwright.domain.security_facts import ADMISSION, Event, Group, LifeFacts
from stackwright.domain.spec import SecurityLife, StackSpec

GUIDE = "5.5"
SHOWN = 12
Action = Literal["promote", "step back", "learn again"]
CUTS = Effect.SERVICE_RESTART  # what was not learned is cut off: a service may be gone, as in a restart that fails


@dataclass(frozen=True)
class Ask:
    """What a run is asked for. Without namespaces it takes the next one. `enforce` False: nothing that can block."""

    action: Action = "promote"
    namespaces: tuple[str, ...] = ()
    admission: bool = False
    enforce: bool = True
    accepted: frozenset[str] = frozenset()
    """Events, as the refusal names them, that somebody has looked at: they stand against nothing."""


@dataclass(frozen=True)
class _Found:
    """What a look at one target leads to."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def plan_life(spec: StackSpec, facts: LifeFacts, ask: Ask) -> Plan:
    """Plan the next rung, or the end of a promotion that was begun.

    Raises PlanRefusedError with every reason at once: time that is not over, known-good traffic that would be blocked,
    logs that do not reach back, workloads that are not ready, namespaces that may not be enforced. A run that may not
    enforce is never refused: the reasons are notes.
    """
    life = need_life(spec)
    if facts.record.intent is not None:
        return Plan(spec.site, *_pending(facts, ask))
    if ask.action != "promote":
        found = [_back(spec, facts, ask)]
    elif ask.admission:
        found = [_admission(life, facts, ask)]
    else:
        found = [_new_services(facts), *_namespaces(spec, life, facts, ask)]
    problems = [problem for one in found for problem in one.problems]
    notes = [note for one in found for note in one.notes]
    if problems and ask.enforce:
        raise PlanRefusedError("nothing is promoted", problems, where=spec.site)
    notes += [f"not yet: {problem.where}: {problem.what} ({problem.seen})" for problem in problems]
    return Plan(spec.site, tuple(step for one in found for step in one.steps), tuple(notes))


def need_life(spec: StackSpec) -> SecurityLife:
    """Return the section. Raises PlanRefusedError where there is none."""
    layer = spec.layers.security
    if layer.enabled and layer.life is not None:
        return layer.life
    what = "the site file asks for no life of SUSE Security" if layer.enabled else "SUSE Security is disabled"
    remedy = "Write layers.security.life: docs/security.md says what it takes."
    problem = Problem("layers.security.life", what, remedy, "learn_days, observe_days, protect", "none")
    raise PlanRefusedError("there is nothing to promote", [problem], where=spec.site)


def cuts(plan: Plan) -> bool:
    """Tell whether a plan can block anything: then a person approves it."""
    return plan.worst >= CUTS


# --- namespaces ------------------------------------------------------------------------------------------------------


def targets(life: SecurityLife, facts: LifeFacts) -> tuple[str, ...]:
    """Return the namespaces to enforce, in their order."""
    if life.protect != "all":
        return life.protect
    spaces = {group.namespace for group in facts.groups} - set(life.never)
    return tuple(sorted(name for name in spaces if not is_system(name) or name in life.system))


def _namespaces(spec: StackSpec, life: SecurityLife, facts: LifeFacts, ask: Ask) -> list[_Found]:
    wanted = targets(life, facts)
    found = [_may_enforce(life, name, wanted) for name in ask.namespaces]
    chosen = [name for name in ask.namespaces or wanted if name in wanted]
    learning = [_to_monitor(life, facts, name) for name in chosen]
    if ask.namespaces:
        return [*found, *learning, *(_to_protect(life, facts, name, ask) for name in chosen)]
    # One namespace after the other: the next is the first that is not enforced throughout.
    left = [name for name in chosen if any(_open(facts.of(name)))]
    return [*learning, *(_to_protect(life, facts, name, ask) for name in left[:1])]


def _open(groups: Iterable[Group]) -> list[Group]:
    """Return the groups that are not enforced and that we may change."""
    return [group for group in groups if group.mode != "Protect" and group.changeable and not group.by_resource]


def _may_enforce(life: SecurityLife, name: str, wanted: Sequence[str]) -> _Found:
    if name in wanted:
        return _Found()
    remedy = "Name it in layers.security.life.protect of the site file"
    remedy += ", and in layers.security.life.system: it carries the platform itself." if is_system(name) else "."
    return _Found(problems=(Problem(name, "the site file does not ask to enforce this namespace", remedy,
                                    ", ".join(wanted) or "a namespace of the list", name),))  # fmt: skip


def _to_monitor(life: SecurityLife, facts: LifeFacts, name: str) -> _Found:
    """Plan the first rung: nothing is blocked by it."""
    steps, waits = [], []
    for group in _open(facts.of(name)):
        if group.mode != "Discover":
            continue
        wait = waits_for(group, facts, life.learn_days, "learned")
        if wait:
            waits.append(wait)
            continue
        steps.append(_step(name, "monitor", f"{group.service}: rules are learned; report what breaks them (Monitor)",
                           Effect.NONE, f"group {group.name} is in Monitor", group.service))  # fmt: skip
    return _Found(tuple(steps), tuple(f"{name} learns: {wait}" for wait in waits))


def _to_protect(life: SecurityLife, facts: LifeFacts, name: str, ask: Ask) -> _Found:
    """Plan the second rung of one namespace: all its groups that have been observed long enough, then the watch."""
    groups = _open(facts.of(name))
    notes = [f"{group.name} is left alone: a custom resource holds it" for group in facts.of(name) if group.by_resource]
    if not facts.of(name):
        why = "SUSE Security protects itself and makes no group of itself" if name == OWN_NAMESPACE else (
            "SUSE Security knows no group of this namespace")  # fmt: skip
        return _Found(problems=(Problem(name, why, "Look whether its pods run.", "groups", "none"),))
    if not groups:
        return _Found(notes=tuple(notes))
    waits = {group: _wait_to_protect(life, facts, group) for group in groups}
    ready = [group for group, wait in waits.items() if not wait]
    late = [wait for wait in waits.values() if wait]
    problems = [*_against(life, facts, name, ask)]
    if not ready:
        wanted, told = f"{life.learn_days} + {life.observe_days} days", "; ".join(late[:SHOWN])
        problems.insert(0, Problem(name, "the time to learn and to be observed is not over", _WAIT, wanted, told))
    if problems:
        return _Found(notes=tuple(notes), problems=tuple(problems))
    notes += [f"not with it: {wait}" for wait in late] + _would_block(life, facts, name)
    if not ask.enforce:
        return _Found(notes=(*notes, f"{name} is ready to be enforced: start promote-security, read the plan, approve"))
    notes.insert(
        0, f"{name}: from then on what its {len(ready)} group(s) have not learned is cut off; {_taken_back(life)}"
    )
    return _Found((*(_protect(name, group.service) for group in ready), _watch(name, life)), tuple(notes))


def _wait_to_protect(life: SecurityLife, facts: LifeFacts, group: Group) -> str:
    if group.mode != "Monitor":
        return waits_for(group, facts, life.learn_days, "learned") or f"{group.service} was not observed yet"
    return waits_for(group, facts, life.observe_days, "observed")


def waits_for(group: Group, facts: LifeFacts, days: int, word: str) -> str:
    """Say what of a group's time in its mode is missing; empty where it is over."""
    since = in_mode_since(group, facts)
    if since is None:
        return f"{group.service}: since when it is in {group.mode} is not known"
    passed = (facts.now - since) / DAY_S
    return "" if passed >= days else f"{group.service} {word} {max(passed, 0.0):.1f} of {days} days"


def in_mode_since(group: Group, facts: LifeFacts) -> float | None:
    """Return since when a group is in its mode at the latest; None where that is not known.

    A group that we never changed and that is in the mode of new workloads was born in it, and is at least as old as its
    oldest container. One that somebody else changed may be in its mode since yesterday.
    """
    stand = facts.record.groups.get(group.name)
    if stand is None:
        return group.secured_at if group.mode == facts.new_services else None
    return stand.at if stand.mode == group.mode else None


def _against(life: SecurityLife, facts: LifeFacts, name: str, ask: Ask) -> list[Problem]:
    """Return what forbids to enforce a namespace now, each with its name."""
    problems = [
        Problem(name, "known-good traffic would be blocked", _ALLOW, "no such event", f"{event.what} ({event.kind})")
        for event in _distinct(recent(life, facts, name))
        if event.known_good and event.what not in ask.accepted
    ]
    problems += [
        Problem(name, f"the log of {log}s is full: it may not reach back far enough", _FULL,
                f"{life.observe_days} days", "4096 entries")
        for log in facts.full
    ]  # fmt: skip
    return problems + [
        Problem(name, "a workload is not ready before the promotion", _READY, "all rolled out", reason)
        for reason in facts.unready.get(name, ())
    ]  # fmt: skip


_WAIT = "Wait, and start again; a group whose time is not known learns again by action `learn again`."
_FULL = "Silence what fills it, or shorten observe_days."
_READY = "Bring it up first: afterwards nobody could tell what brought it down."
_RULE = "Correct the rule or the workload, or add an exception rule in SUSE Security."
_ALLOW = (
    "Allow it by a rule of the group in SUSE Security and name it in `accepted`, or let the group learn again "
    "(action `learn again`)."
)


def recent(life: SecurityLife, facts: LifeFacts, name: str) -> list[Event]:
    """Return the events of a namespace within the time that is observed, newest first."""
    since = facts.now - life.observe_days * DAY_S
    found = [event for event in facts.events if name in event.namespaces and event.at >= since]
    return sorted(found, key=lambda event: (-event.at, event.id))


def _distinct(events: Iterable[Event]) -> list[Event]:
    """Return one event of each that say the same."""
    return list({(event.kind, event.what): event for event in events}.values())


def _would_block(life: SecurityLife, facts: LifeFacts, name: str) -> list[str]:
    """Say what of the observed time would have been blocked, for whoever approves."""
    events = _distinct(recent(life, facts, name))
    if not events:
        return [f"{name}: nothing of the last {life.observe_days} days would have been blocked"]
    shown = [f"{name}: would have been blocked: {event.what} ({event.kind})" for event in events[:SHOWN]]
    return shown + ([f"{name}: and {len(events) - SHOWN} more"] if len(events) > SHOWN else [])


def _new_services(facts: LifeFacts) -> _Found:
    if facts.new_services == "Discover":
        return _Found()
    return _Found((_step("cluster", "new-services", f"new workloads learn first (Discover; now {facts.new_services})",
                         Effect.NONE, "GET /v2/system/config says so"),))  # fmt: skip


# --- admission control -----------------------------------------------------------------------------------------------


def _admission(life: SecurityLife, facts: LifeFacts, ask: Ask) -> _Found:
    seen, problems = facts.admission, []
    if life.admission != "protect":
        problems.append(Problem(ADMISSION, "the site file wants it to monitor only", "Write layers.security.life."
                                "admission: protect.", "protect", life.admission))  # fmt: skip
    if not seen.enabled or not seen.by_resource:
        problems.append(Problem(ADMISSION, "it is not as deploy-stack makes it", "Run deploy-stack first.",
                                "enabled, held by the custom resource `local`",
                                "disabled" if not seen.enabled else "held by the REST API"))  # fmt: skip
    if seen.mode == "protect" and not problems:
        return _Found()
    passed = None if seen.since is None else (facts.now - seen.since) / DAY_S
    if passed is None or passed < life.observe_days:
        told = "not known" if passed is None else f"{passed:.1f} days"
        problems.append(Problem(ADMISSION, "the time to be observed is not over", _WAIT,
                                f"{life.observe_days} days in monitor", told))  # fmt: skip
    problems += [
        Problem(ADMISSION, f"a workload of ours would be refused: {one.workload}", _RULE, "let in", one.why)
        for one in seen.refused
    ]  # fmt: skip
    if problems:
        return _Found(problems=tuple(problems))
    told = f"{seen.assessed} running workload(s) were assessed against {seen.rules} rule(s): all would be let in"
    if not ask.enforce:
        return _Found(notes=(told, "admission control is ready to refuse: start promote-security for it, and approve"))
    step = _step(ADMISSION, "protect", "refuse what a deny rule matches, instead of reporting it", CUTS,
                 "the state says protect; every running workload's pod passes a dry run")  # fmt: skip
    warned = f"from then on workloads that a deny rule matches are not let in; {_taken_back(life)}"
    return _Found((step, _watch(ADMISSION, life)), (warned, told))


# --- back, and what was begun ----------------------------------------------------------------------------------------


def _pending(facts: LifeFacts, ask: Ask) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Complete a promotion that a run has begun and not ended, or take it back."""
    intent = facts.record.intent
    if intent is None:
        return (), ()
    name = intent.target
    why = against_intent(facts, ask.accepted)
    if not why and (ask.action != "promote" or not ask.enforce):
        why = ["nobody is there to approve its end" if not ask.enforce else "it was asked for"]
    if why:
        return (step_back(name),), tuple(f"{name} steps back: {line}" for line in why)
    left = [group.service for group in facts.of(name) if group.name in intent.groups and group.mode != "Protect"]
    steps = [_protect(name, service) for service in left]
    if name == ADMISSION and facts.admission.mode != "protect":
        steps = [
            _step(ADMISSION, "protect", "refuse what a deny rule matches, instead of reporting it", CUTS, "as before")
        ]
    watch = _step(name, "watch", "watch it to the end; step back by itself", CUTS, "as before")
    return (*steps, watch), (f"{name}: a run died in the middle of its promotion; this is what is left of it",)


def against_intent(facts: LifeFacts, accepted: frozenset[str] = frozenset()) -> list[str]:
    """Say why a promotion that is under way must be taken back; empty where nothing speaks against it."""
    intent = facts.record.intent
    if intent is None:
        return ["no promotion is under way: its intent is not kept"]
    if intent.target == ADMISSION:
        refused = [f"{one.workload} is refused: {one.why}" for one in facts.admission.refused]
        return refused + [f"not ready: {line}" for lines in facts.unready.values() for line in lines]
    events = [
        event
        for event in facts.events
        if event.blocked and event.known_good and event.at >= intent.began
        and intent.target in event.namespaces and event.what not in accepted
    ]  # fmt: skip
    lost = [f"not ready: {line}" for line in facts.unready.get(intent.target, ())]
    return [f"known-good traffic was blocked: {event.what}" for event in _distinct(events)] + lost


def _back(spec: StackSpec, facts: LifeFacts, ask: Ask) -> _Found:
    """Take enforcement away by hand, or let groups learn again: nothing is blocked by it."""
    to = "Discover" if ask.action == "learn again" else "Monitor"
    if ask.action == "step back" and ask.admission:
        return _Found((step_back(ADMISSION),)) if facts.admission.mode == "protect" else _Found()
    if not ask.namespaces:
        return _Found(problems=(Problem(spec.site, f"no namespace is named for `{ask.action}`", "Name them.",
                                        "namespaces", "none"),))  # fmt: skip
    steps = []
    for name in ask.namespaces:
        moved = [group for group in facts.of(name) if group.changeable and not group.by_resource and (
            group.mode == "Protect" if to == "Monitor" else
            group.mode != to or in_mode_since(group, facts) is None)]  # fmt: skip
        steps += [
            _step(name, to.lower(), f"{group.service}: {group.mode} -> {to}", Effect.NONE, f"group is in {to}",
                  group.service)
            for group in moved
        ]  # fmt: skip
    return _Found(tuple(steps))


def step_back(target: str) -> Step:
    return _step(
        target, "step-back", "back to Monitor: report, block nothing", Effect.NONE, "nothing is enforced there"
    )


def _taken_back(life: SecurityLife) -> str:
    return f"for {life.watch_minutes} minutes it is watched, and taken back by itself when known-good work suffers"


def _protect(name: str, service: str) -> Step:
    return _step(
        name, "protect", f"{service}: stop what was not learned (Protect)", CUTS, "the group is in Protect", service
    )


def _watch(name: str, life: SecurityLife) -> Step:
    text = f"watch {name} for {life.watch_minutes} minutes; back to Monitor by itself when known-good work suffers"
    return _step(name, "watch", text, CUTS, "no known-good work was blocked, all workloads are ready")


def _step(target: str, what: str, summary: str, effect: Effect, verify: str, service: str = "") -> Step:
    place = f"security/{target}/{what}" + (f"/{service}" if service else "")
    return Step(place, target, summary, effect, GUIDE, verify, digest_of(what, service))


# --- evidence --------------------------------------------------------------------------------------------------------


def life_evidence(spec: StackSpec, facts: LifeFacts, at: str) -> list[Evidence]:
    """Say of each namespace that shall be enforced how far it is. Nothing of it is a must: it takes its time."""
    life = need_life(spec)
    found = []
    for name in targets(life, facts):
        groups = facts.of(name)
        counts = {mode: sum(group.mode == mode for group in groups) for mode in ("Discover", "Monitor", "Protect")}
        bad = [event for event in _distinct(recent(life, facts, name)) if event.known_good]
        verdict: Verdict = "unknown" if not groups else "fail" if bad else "skipped" if _open(groups) else "pass"
        seen = ", ".join(f"{count} in {mode}" for mode, count in counts.items() if count) or "no group"
        seen += f"; would block or blocks known-good work: {bad[0].what}" if bad else ""
        found.append(_line(spec, f"security/{name}/enforced", f"{name} is enforced", verdict, "every group in Protect",
                           seen, at, name))  # fmt: skip
    mode = facts.admission.mode if facts.admission.enabled else "off"
    good: Verdict = "pass" if mode == life.admission else "skipped" if mode == "monitor" else "fail"
    found.append(_line(spec, "security/admission/mode", "Admission control does what the site file wants", good,
                       life.admission, mode, at))  # fmt: skip
    return found


def _line(
    spec: StackSpec, name: str, title: str, verdict: Verdict, wanted: str, seen: str, at: str, target: str = ""
) -> Evidence:
    return Evidence(
        name, title, verdict, wanted, seen, GUIDE, at, target, must=False,
        stand_in=LAYER.title if spec.environment == "lab" else "",
    )  # fmt: skip
