"""Carrying out SUSE Security's life: modes changed one group after the other, watched, and taken back by itself.

What is to be done is decided in stackwright/domain/security_life.py. Before anything is enforced, the intent is kept in
the cluster: whoever looks next, after this run's death, completes it or takes it back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.errors import ApiError, RemoteStepError, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers.security import ADMISSION_RULE, API
from stackwright.domain.plan import Plan, Step
from stackwright.domain.security_facts import ADMISSION, Intent, LifeFacts, LifeRecord, own_namespaces
from stackwright.domain.security_life import Ask, against_intent, life_evidence, need_life, plan_life
from tasks.common import in_thread, only_transient
from tasks.looking import now_of
from tasks.security import Call, SecurityApiError, admin_session, asked
from tasks.security_look import CRD_KIND, dry_runs, read_group, read_life, workloads_of
from tasks.security_record import LifeRecordError, read_life_record, write_life_record

log = logging.getLogger(__name__)

POLL_S = 20.0
BLIND_S = 300.0  # what could not be watched for so long is not left enforced
TAKEN_S = 120.0  # the product takes a changed custom resource within this time


class SteppedBackError(StackError):
    """A promotion was taken back: enforcing hurt what is known to be good."""

    remedy = "Nothing is enforced there now. Allow what is named by a rule in SUSE Security, then promote it again."


# --- looking ---------------------------------------------------------------------------------------------------------


def name_of_run() -> str:
    """Return a run's name: what it is for, and its site."""
    given: dict[str, Any] = flow_run.parameters or {}
    what = "admission" if given.get("admission") else ",".join(given.get("namespaces") or ()) or "next"
    action = str(given.get("action") or "promote").replace(" ", "-")
    return f"{action}-security-{given.get('site')}-{what}"


@task(
    task_run_name="look-at-security-life",
    cache_policy=NO_CACHE,
    timeout_seconds=900,
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=only_transient,
)
async def look_at_life(site: Site, ask: Ask) -> Plan:
    """Look at groups, logs and admission control, and plan. Changes nothing. Raises PlanRefusedError."""
    return await in_thread(plan_now, site, ask)


def plan_now(site: Site, ask: Ask) -> Plan:
    return plan_life(site.spec, read_life(site, admission=ask.admission), ask)


@task(
    task_run_name="security-life-evidence",
    cache_policy=NO_CACHE,
    timeout_seconds=300,
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=only_transient,
)
async def judge_life(site: Site) -> list[Evidence]:
    """Say of each namespace how far it is."""
    return await in_thread(evidence_now, site)


def evidence_now(site: Site) -> list[Evidence]:
    return life_evidence(site.spec, read_life(site), _stamp(site))


# --- carrying out ----------------------------------------------------------------------------------------------------


@task(task_run_name="security-life-{target}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=10,
      retry_condition_fn=only_transient)  # fmt: skip
async def ensure_life(
    site: Site, lease: LeaseHandle, target: str, accepted: frozenset[str], steps: tuple[Step, ...]
) -> LifeRecord:
    """Carry out the steps of one target; a promotion is watched to its end. Its own waits have deadlines.

    Raises SteppedBackError when it had to be taken back.
    """
    return await in_thread(bring_target, site, lease, target, accepted, steps)


def bring_target(
    site: Site, lease: LeaseHandle, target: str, accepted: frozenset[str], steps: Iterable[Step]
) -> LifeRecord:
    """Bring one namespace, admission control or the cluster's settings to what its steps say."""
    wanted: dict[str, list[str]] = {}
    for step in steps:
        what, _, service = step.id.split("/", 2)[2].partition("/")
        wanted.setdefault(what, []).extend([f"nv.{service}"] if service else [])
    if "new-services" in wanted:
        let_new_services_learn(site, lease)
    for what, mode in (("discover", "Discover"), ("monitor", "Monitor")):
        if wanted.get(what):
            _give_mode(site, lease, target, wanted[what], mode)
    if "step-back" in wanted:
        take_back(site, lease, target, "it was asked for, or its run had died")
    if "watch" in wanted:
        promote(site, lease, target, tuple(wanted.get("protect", ())), accepted)
    return read_life_record(site.kube())


def let_new_services_learn(site: Site, lease: LeaseHandle) -> None:
    """Let workloads that come from now on begin in Discover."""
    modes = {"new_service_policy_mode": "Discover", "new_service_profile_mode": "Discover"}
    with admin_session(site) as call:
        lease.check()
        asked(call, "PATCH", "/v2/system/config", {"config_v2": {"svc_cfg": modes}})
        seen = (asked(call, "GET", "/v2/system/config").get("config") or {}).get("new_svc") or {}
    if seen.get("new_service_policy_mode") != "Discover":
        raise SecurityApiError(
            "new workloads do not learn", where="SUSE Security", wanted="Discover", seen=str(seen)[:200]
        )
    log.info("new workloads begin in Discover")


def promote(site: Site, lease: LeaseHandle, target: str, groups: tuple[str, ...], accepted: frozenset[str]) -> None:
    """Enforce one target, watch it, and take it back when that hurts. Begun already: go on with what is left."""
    kube = site.kube()
    record = read_life_record(kube)
    intent = record.intent
    if intent is None:
        # In whole seconds, as the product dates its events: none of the first second may be missed.
        intent = Intent(target=target, groups=groups, began=float(int(site.clock.now())))
        record = write_life_record(kube, record.model_copy(update={"intent": intent}), lease)
    elif intent.target != target:
        raise StackError(
            "another promotion is under way", where=target, wanted="none, or this one", seen=intent.target,
            remedy="Start promote-security again: it ends that one first.",
        )  # fmt: skip
    passed_over = _refused_before(site) if target == ADMISSION else frozenset()
    if target == ADMISSION:
        set_admission(site, lease, "protect")
    else:
        set_mode(site, lease, groups, "Protect")
    why = watch(site, lease, record, accepted, passed_over)
    if why:
        take_back(site, lease, target, why[0], record)
        raise SteppedBackError(
            "the promotion was taken back", where=target, wanted="no known-good work blocked, all ready",
            seen="; ".join(why[:10]),
        )  # fmt: skip
    done = (ADMISSION,) if target == ADMISSION else intent.groups
    mode = "protect" if target == ADMISSION else "Protect"
    _end(site, lease, record, mode, done, f"{target} is enforced")
    log.info("%s: enforced, and watched without a finding", target)


def _refused_before(site: Site) -> frozenset[str]:
    """Return the workloads whose pods something else refuses already, such as a full quota."""
    kube = site.kube()
    with admin_session(site, kube) as call:
        state = asked(call, "GET", "/v1/admission/state").get("state") or {}
    if state.get("mode") == "protect":  # begun by a run that died: what was before is not known, so nothing is let pass
        return frozenset()
    items = [item for space in sorted(own_namespaces(site.spec)) for item in workloads_of(kube, space)]
    return frozenset(name for name, why in dry_runs(kube, items).items() if why)


def watch(
    site: Site, lease: LeaseHandle, record: LifeRecord, accepted: frozenset[str], passed_over: frozenset[str]
) -> list[str]:
    """Look again and again for as long as the site file says; return what speaks against the promotion, if anything.

    Blocked work counts at once, a workload that is not ready when two looks in turn see it so. Not being able to look
    counts too, after a while; and so does a record that is not this run's any more, for nobody could take this back
    after its death. Raises FencedError when another run has taken over.
    """
    ends = site.clock.now() + need_life(site.spec).watch_minutes * 60
    poll_s = max(site.spec.rke2.poll_s, POLL_S)
    before: LifeFacts | None = None
    seen_at, unread = site.clock.now(), ""
    while True:
        lease.check()
        over = site.clock.now() >= ends
        try:
            if not _is_kept(site, record):
                return ["its record was removed or changed by somebody else"]
            facts = read_life(site, record=record, passed_over=passed_over)
        except (ApiError, RemoteStepError) as error:
            unread = f"it could not be watched: {error.what}"
            if over or site.clock.now() - seen_at >= BLIND_S:
                return [unread]
            log.warning("%s", unread)
        else:
            why = against_intent(_twice(facts, before), accepted)
            if why or over:
                return why
            before, seen_at = facts, site.clock.now()
        site.clock.wait(min(poll_s, max(ends - site.clock.now(), 1.0)))


def _is_kept(site: Site, record: LifeRecord) -> bool:
    try:
        return read_life_record(site.kube()).version == record.version
    except LifeRecordError as error:
        log.warning("%s", error)
        return False


def _twice(facts: LifeFacts, before: LifeFacts | None) -> LifeFacts:
    """Keep only those workloads as not ready that were so at the last look, too: a rollout takes its moment."""
    known = before.unready if before else {}
    names = {space: {_workload(line) for line in known.get(space, ())} for space in facts.unready}
    kept = {space: tuple(line for line in lines if _workload(line) in names[space])
            for space, lines in facts.unready.items()}  # fmt: skip
    return replace(facts, unready={space: lines for space, lines in kept.items() if lines})


def _workload(line: str) -> str:
    return line.partition(":")[0]


def take_back(site: Site, lease: LeaseHandle, target: str, why: str, record: LifeRecord | None = None) -> None:
    """Bring a target back to Monitor, and end its intent. Run again, it changes nothing.

    `record` is the one that this run has kept; without it the cluster's is read.
    """
    record = record or read_life_record(site.kube())
    if target == ADMISSION:
        groups: tuple[str, ...] = (ADMISSION,)
        set_admission(site, lease, "monitor")
    else:
        groups = record.intent.groups if record.intent and record.intent.target == target else ()
        set_mode(site, lease, groups, "Monitor")
    log.warning("%s: back to Monitor: %s", target, why)
    _end(site, lease, record, "monitor" if target == ADMISSION else "Monitor", groups, f"{target} stepped back: {why}")


def _give_mode(site: Site, lease: LeaseHandle, target: str, names: list[str], mode: str) -> None:
    set_mode(site, lease, names, mode)
    kube = site.kube()
    record = read_life_record(kube)
    line = f"{_stamp(site)} {target}: {len(names)} group(s) in {mode}"
    write_life_record(kube, record.noted(site.clock.now(), mode, names, line), lease)


def _end(site: Site, lease: LeaseHandle, record: LifeRecord, mode: str, names: Iterable[str], line: str) -> None:
    now = site.clock.now()
    ended = record.noted(now, mode, names, f"{_stamp(site)} {line}").model_copy(update={"intent": None})
    write_life_record(site.kube(), ended, lease)


def _stamp(site: Site) -> str:
    return now_of(site).isoformat(timespec="seconds")


def set_mode(site: Site, lease: LeaseHandle, names: Iterable[str], mode: str) -> None:
    """Give groups a mode, one after the other, and read each back. One that is gone is passed over."""
    with admin_session(site) as call:
        for name in names:
            lease.check()
            _set_one(call, name, mode)


def _set_one(call: Call, name: str, mode: str) -> None:
    group = read_group(call, name)
    if group is None:
        log.info("group %s is gone: nothing to do", name)
        return
    if group.policy == group.profile == mode:
        return
    config = {"services": [group.service], "policy_mode": mode, "profile_mode": mode}
    asked(call, "PATCH", "/v1/service/config", {"config": config})
    seen = read_group(call, name)
    if seen is not None and not seen.policy == seen.profile == mode:
        raise SecurityApiError("a group does not take its mode", where=name, wanted=mode,
                               seen=f"{seen.policy}/{seen.profile}")  # fmt: skip
    log.info("group %s: %s -> %s", name, group.mode, mode)


def set_admission(site: Site, lease: LeaseHandle, mode: str) -> None:
    """Set admission control's mode in the custom resource that holds it, and wait until the product has taken it."""
    kube = site.kube()
    found = kube.get(API, CRD_KIND, ADMISSION_RULE)
    if found is None:
        raise StackError("there is no custom resource of admission control", where=f"{CRD_KIND} {ADMISSION_RULE}",
                         wanted="as deploy-stack makes it", seen="none", remedy="Run deploy-stack first.")  # fmt: skip
    if ((found.get("spec") or {}).get("config") or {}).get("mode") != mode:
        lease.check()
        kube.patch_merge(API, CRD_KIND, ADMISSION_RULE, {"spec": {"config": {"mode": mode}}})
        log.info("admission control: %s", mode)
    seen: dict[str, Any] = {}

    def taken() -> bool | None:
        with admin_session(site, kube) as call:
            seen.update(asked(call, "GET", "/v1/admission/state").get("state") or {})
        return True if seen.get("mode") == mode else None

    wait_until(
        taken, f"admission control in {mode}", timeout_s=TAKEN_S, poll_s=min(site.spec.rke2.poll_s, 5.0),
        clock=site.clock, where="SUSE Security", last=lambda: f"mode {seen.get('mode')}",
    )  # fmt: skip
