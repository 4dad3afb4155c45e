"""Taking nodes out of the cluster: drained, out of etcd, out of Kubernetes, then uninstalled. Each step looks first.

What is to be done and what forbids it is in stackwright/domain/removal*.py. Through the API goes what the cluster does
by itself: RKE2 takes an etcd member out when its Node asks for it.
"""

from __future__ import annotations

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.clients.ssh import NodeShell
from stackwright.domain.errors import ApiError, PlanRefusedError, RemoteStepError
from stackwright.domain.plan import Effect, Plan, Step, check_steps_approved
from stackwright.domain.removal import AREA, REMOVE, REMOVED, Case, Departure, asks_approval, has_left, plan_removal
from stackwright.domain.removal_checks import check_removal
from stackwright.domain.removal_facts import etcd_call, password_name, uninstall_script
from stackwright.domain.rke2 import Rke2Change
from stackwright.domain.shell import Batch, Command
from stackwright.domain.spec import Node
from tasks.approval import NotApprovedError
from tasks.common import in_thread, only_transient
from tasks.drain import cordon, drain
from tasks.removal_facts import look_at_removal
from tasks.scripts import guarded, send

log = logging.getLogger(__name__)

UNINSTALL_S = 900.0
ETCD_S = 60.0
GONE_S = 120.0


def take_out(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Take one node out, or the dead machine whose place a new one takes. Does nothing when it is gone.

    Raises PlanRefusedError with what forbids it, PlanMovedError, QuorumError, GateTimeoutError, RemoteStepError.
    """
    case = look_at_removal(site)
    leaving = _find(case, node.name)
    if leaving is None:
        return
    problems = check_removal(case.spec, case.nodes, case.cluster, case.seen)
    if problems:
        raise PlanRefusedError("nodes may not leave the cluster", problems, where=node.name)
    steps = plan_removal(case, leaving)
    check_steps_approved(steps, approved, node.name)
    for step in steps:
        log.info("%s: %s", node.name, step.summary)
        lease.check()
        _carry_out(site, case, leaving, step, lease)
    after = look_at_removal(site)
    left = plan_removal(after, leaving) if steps and _find(after, node.name) else ()
    if left:
        raise RemoteStepError(
            f"step {left[0].id} took no effect", where=node.name, wanted=left[0].verify, seen=left[0].summary
        )


def _find(case: Case, name: str) -> Departure | None:
    return next((one for one in case.departures if one.name == name), None)


def _carry_out(site: Site, case: Case, leaving: Departure, step: Step, lease: LeaseHandle) -> None:
    what = step.id.rpartition("/")[2]
    if what == "drain":
        cordon(site, leaving.node, lease)
        drain(site, leaving.node, lease, timeout_s=site.spec.upgrade.drain_timeout_s)
    elif what == "etcd":
        with guarded(site, leaving.node, Effect.ETCD_MEMBER_DOWN, lambda: look_at_removal(site).servers(), gone=True):
            _leave_etcd(site, leaving, step, lease)
    elif what == "node":
        _forget(site, leaving.node)
    else:
        with site.shells.open(leaving.node) as shell:
            send(site, shell, lease, [Rke2Change(step, uninstall_script(), timeout_s=UNINSTALL_S)])


# --- out of etcd -----------------------------------------------------------------------------------------------------


def _leave_etcd(site: Site, leaving: Departure, step: Step, lease: LeaseHandle) -> None:
    """Take a node's member out of etcd: by RKE2 where its Node can ask for it, else at etcd itself."""
    case = look_at_removal(site)
    _move_leadership(site, case, leaving, step, lease)
    status = case.status(leaving.name)
    if status is None or has_left(status):
        _remove_members(site, case, leaving, step, lease)
        return
    lease.check()
    site.kube().patch_merge("v1", "Node", leaving.name, {"metadata": {"annotations": {REMOVE: "true"}}})
    wait_until(
        lambda: _has_answered(site, leaving.name), "RKE2's word that the member is gone",
        timeout_s=site.spec.rke2.join_timeout_s, poll_s=site.spec.rke2.poll_s, clock=site.clock, where=leaving.name,
        last=lambda: f"the annotation {REMOVED} is not there",
    )  # fmt: skip


def _has_answered(site: Site, name: str) -> bool | None:
    """Tell whether RKE2 has taken the member out; None while it has not. Raises RemoteStepError when it refused."""
    try:
        found = site.kube().get("v1", "Node", name)
    except ApiError as error:
        if error.status < 500 and not error.transient:
            raise
        return None  # the API server beside the member ends with it, or answers 500 without it: ask another one
    notes = (found["metadata"].get("annotations") or {}) if found else {}
    if found is None or notes.get(REMOVED):
        return True
    if REMOVE not in notes:
        remedy = "Look at rke2-server's journal on the other servers: etcd has too few started members."
        raise RemoteStepError("RKE2 refused to take the member out", where=name, wanted=REMOVED, seen="it is withdrawn",
                              remedy=remedy)  # fmt: skip
    return None


def _move_leadership(site: Site, case: Case, leaving: Departure, step: Step, lease: LeaseHandle) -> None:
    """Hand leadership to a member that stays, where the one that leaves has it: no election while it goes."""
    host = case.host(leaving.name)
    if leaving.is_dead or host is None or host.etcd is None or not host.etcd.leads:
        return
    heir = case.heir()
    if heir is None:
        return  # the guard has let the step in without one: an election follows
    log.info("%s: leadership of etcd goes to %s", leaving.name, heir.node)
    with site.shells.open(leaving.node) as shell:
        _ask_etcd(shell, leaving.node, "maintenance/transfer-leadership", {"targetID": heir.id}, step, lease)


def _remove_members(site: Site, case: Case, leaving: Departure, step: Step, lease: LeaseHandle) -> None:
    server = case.server_to_ask()
    with site.shells.open(server) as shell:
        for member in case.seats(leaving.name):
            _ask_etcd(shell, server, "cluster/member/remove", {"ID": member.id}, step, lease)


def _ask_etcd(shell: NodeShell, node: Node, path: str, body: dict[str, str], step: Step, lease: LeaseHandle) -> None:
    lease.check()
    command = Command(step.id, step.fingerprint[:16], etcd_call(path, body), {}, ETCD_S)
    shell.apply(Batch((command,), lease.number, f"lease-{lease.number}"))


# --- out of Kubernetes -----------------------------------------------------------------------------------------------


def _forget(site: Site, node: Node) -> None:
    """Delete the Node and the Secret with its password, and see both gone. RKE2 deletes the Secret by itself, later."""
    kube = site.kube()
    kube.delete("v1", "Node", node.name)
    kube.delete("v1", "Secret", password_name(node.name), "kube-system")
    last = ""

    def gone() -> bool | None:
        nonlocal last
        places = (("Node", node.name, None), ("Secret", password_name(node.name), "kube-system"))
        left = [f"{kind} {name}" for kind, name, ns in places if kube.get("v1", kind, name, ns) is not None]
        last = ", ".join(left)
        return None if left else True

    wait_until(
        gone, "the Node and its password gone", timeout_s=GONE_S, poll_s=site.spec.rke2.poll_s, clock=site.clock,
        where=node.name, last=lambda: f"still there: {last}",
    )  # fmt: skip


def must_ask(plan: Plan, unattended: bool) -> bool:
    """Tell whether somebody has to approve a plan: one that takes nodes out.

    Raises NotApprovedError at once where nobody can answer.
    """
    asked_for = asks_approval(plan)
    if not (asked_for and unattended):
        return asked_for
    names = dict.fromkeys(step.target for step in plan.steps if step.id.startswith(f"{AREA}/"))
    raise NotApprovedError(
        "the plan takes nodes out of the cluster, and nobody has approved it", where=plan.site,
        wanted=f"an approval of plan {plan.hash}", seen=f"an unattended run; nodes that leave: {', '.join(names)}",
        remedy=f"Read the plan (stackwright plan {plan.site}), then: stackwright apply {plan.site} --plan {plan.hash}",
    )  # fmt: skip


@task(
    task_run_name="remove-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_removed(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Take one node out of the cluster; change nothing when it is gone. Guide: 5.2."""
    await in_thread(take_out, site, node, lease, approved)
