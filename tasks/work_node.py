"""A node's death: the spare node is stopped under the lease, its data read elsewhere, and the node brought back.

It comes last and alone, for every other check would see it. What may be stopped, and how, is in domain/work_node.py.
A run that dies leaves a node that starts itself again, cordoned with our note; the next full run begins with that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import NodeStatus, node_status
from stackwright.domain.drain_facts import pod_fact
from stackwright.domain.errors import (
    FencedError,
    GateTimeoutError,
    LeaseHeldError,
    NotFoundError,
    Problem,
    StackError,
)
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers.storage import API, NAMESPACE
from stackwright.domain.lease import NoLeasePlaceError
from stackwright.domain.plan import Effect, Plan
from stackwright.domain.shell import Batch, Command
from stackwright.domain.spec import Node
from stackwright.domain.windows import WindowClosedError, check_window
from stackwright.domain.work_node import (
    CHECK,
    KILL_LIMIT_S,
    DeathSeen,
    SpareRefusedError,
    at_home,
    back_after_s,
    death_plan,
    down_script,
    is_mending,
    judge_death,
    spare_problems,
    up_script,
)
from stackwright.domain.work_objects import DEATH, WORK_LABEL, read_sum, work_nodes
from stackwright.domain.work_storage import Copy, is_whole
from tasks.common import in_thread
from tasks.drain import cordon, is_ours, read_drain_facts, uncordon
from tasks.lease import hold_lease
from tasks.looking import look_at
from tasks.nodes import look_at_servers
from tasks.rolling import carry_out
from tasks.scripts import guarded
from tasks.work_ground import POLL_S, Ground, WorkFailedError, ground, tried
from tasks.work_volumes import ONE, TWO, claim, copies_of_volume, look_volumes, pod_of, volume_name, wait_whole

log = logging.getLogger(__name__)

LIVES = 10  # waits of this workload: write, copies, lost, given up, read, back, healthy, and time to spare
PROOF = "stackwright.io/proof"
"""Annotation of a node that is stopped for a proof, or was by a run that died. Its value names the run's namespace."""


@task(task_run_name="check-node-loss", cache_policy=NO_CACHE, timeout_seconds=21_600)
async def prove_node_loss(site: Site, *, light: bool) -> list[Evidence]:
    """Stop the spare node of the site file and see a volume survive that; nothing in the light form. Guide: 5.4.

    It is not retried: a node is stopped once a run. What forbids it is said as evidence.
    """
    want = site.spec.validation
    if light or not (want.workload and want.platform and site.spec.layers.storage.enabled):
        return []
    outcome = await _prove(site, death_plan(site.spec))
    return [look_at(site, CHECK, lambda: outcome)]


async def _prove(site: Site, plan: Plan) -> Outcome:
    if plan.empty:
        return Outcome("skipped", "validation.spare_node is not set: no node was killed")
    try:
        check_window(site.spec.maintenance, plan.worst, site.clock.now(), plan.steps[0].target)
        async with hold_lease(site, plan, aside=True) as lease:
            return await in_thread(lose_spare, site, lease)
    except WindowClosedError as error:
        return Outcome("skipped", f"no node was killed: {error.what}; {error.wanted}")
    except (LeaseHeldError, NoLeasePlaceError) as error:
        return Outcome("unknown", f"no node was killed: {error.what}: {error.seen or error.where}")


def lose_spare(site: Site, lease: LeaseHandle) -> Outcome:
    """Let the spare node die, and say what became of a volume on it. An earlier run's death is ended first."""
    node = next(one for one in site.spec.nodes if one.name == site.spec.validation.spare_node)
    return tried(partial(_lose_or_refuse, site, node, lease))


def _lose_or_refuse(site: Site, node: Node, lease: LeaseHandle) -> Outcome:
    try:
        return _lose(site, node, lease)
    except SpareRefusedError as error:
        return Outcome("unknown", f"no node was killed: {'; '.join(str(problem) for problem in error.problems)}")


def _lose(site: Site, node: Node, lease: LeaseHandle) -> Outcome:
    _end_earlier(site, node, lease)
    _need_spare(site, node)
    others = [name for name in work_nodes(site.spec, site.kube().nodes()) if name != node.name]
    if not others:
        return Outcome("unknown", "no node was killed: there is no other node that takes pods")
    with ground(site, DEATH, LIVES) as place:
        return judge_death(_die(place, node, others[0], lease))


def _need_spare(site: Site, node: Node, ours: tuple[str, ...] = (), *, cordoned: bool = False) -> None:
    """Raise SpareRefusedError where the node may not be stopped as things are now."""
    problems = spare_problems(read_drain_facts(site), node.name, ours, cordoned=cordoned)
    if problems:
        raise SpareRefusedError("the spare node may not be stopped", problems, where=node.name)


def _end_earlier(site: Site, node: Node, lease: LeaseHandle) -> None:
    """End what a run that died, as the lease says, has begun: its node is brought back, its namespaces go."""
    kube, label = site.kube(), f"{WORK_LABEL}={DEATH.name}"
    if PROOF in _status(site, node).annotations:
        log.info("%s: was stopped by a run that died, and is brought back first", node.name)
        _bring_back(site, node, lease)
    for space in kube.list("v1", "Namespace", label_selector=label):
        kube.delete("v1", "Namespace", space["metadata"]["name"])

    def settled() -> bool | None:
        left = kube.list("v1", "Namespace", label_selector=label)
        return None if left or is_mending(read_drain_facts(site), node.name) else True

    try:  # a volume goes after its namespace, and is degraded until then; others may be rebuilt just now
        wait_until(
            settled, "every volume on the node whole, or gone", timeout_s=site.spec.validation.platform_timeout_s,
            poll_s=min(site.spec.rke2.poll_s, POLL_S), clock=site.clock, where=node.name,
        )  # fmt: skip
    except GateTimeoutError as error:
        log.warning("%s", error)  # the look that follows says what is in the way


# --- the death -------------------------------------------------------------------------------------------------------


def _die(place: Ground, node: Node, second: str, lease: LeaseHandle) -> DeathSeen:
    site, kube, clock = place.site, place.kube, place.site.clock
    claim(place, "ReadWriteOnce")
    kube.create(at_home(pod_of(place, ONE, node.name, "keep", ONE), _status(site, node)))
    wrote = place.wait(partial(place.said, ONE, partial(read_sum, verb="WROTE")), "the write", lambda: place.state(ONE))
    volume = volume_name(place)
    copies = _wait_near(place, volume, node.name)
    with _dead(place, node, lease) as began:
        place.wait(lambda: None if _status(site, node).ready else True, f"node {node.name} NotReady")
        lost_s = clock.now() - began
        place.wait(
            lambda: place.pod(ONE)["metadata"].get("deletionTimestamp"), "the pod given up", lambda: place.state(ONE)
        )
        given_up_s = clock.now() - began
        # No kubelet is left to confirm it, and the script has seen that no container is: nobody writes any more.
        kube.delete("v1", "Pod", ONE, place.space, grace_s=0)
        kube.create(pod_of(place, TWO, second, "read", ONE))
        read = place.wait(
            partial(place.said, TWO, partial(read_sum, verb="READ")), "the read", lambda: place.state(TWO)
        )
        read_s = clock.now() - began
    seen = DeathSeen(node.name, copies, place.pod(TWO)["spec"]["nodeName"], wrote, read, lost_s, given_up_s, read_s)
    try:
        place.wait(partial(_is_whole, place, node, volume), "daemons and volumes healthy", lambda: _ill(site, node))
    except GateTimeoutError as error:
        return replace(seen, not_back=error.seen)
    return replace(seen, back_s=clock.now() - began)


def _wait_near(place: Ground, volume: str, node: str) -> tuple[str, ...]:
    """Wait until a volume is whole with a copy on the node, and return its copies' nodes.

    SUSE Storage is asked to keep one where the volume is attached; else chance would decide whether the node had any.
    """
    found = wait_whole(place, volume)
    if not any(copy.node == node for copy in found):
        place.kube.patch_merge(API, "Volume", volume, {"spec": {"dataLocality": "best-effort"}}, NAMESPACE)
        try:
            found = place.wait(lambda: _near(place, volume, node), f"a copy of the volume on {node}")
        except GateTimeoutError as error:
            remedy = "Look at the node's disks in SUSE Storage: space, tags, scheduling."
            problem = Problem(node, "SUSE Storage places no copy here", remedy, "a healthy copy", "none in time")
            raise SpareRefusedError("the spare node holds no copy", [problem], where=node) from error
    return tuple(copy.node for copy in found)


def _near(place: Ground, volume: str, node: str) -> tuple[Copy, ...] | None:
    copies = tuple(copy for copy in copies_of_volume(place, volume) if copy.healthy)
    return copies if len(copies) > 1 and any(copy.node == node for copy in copies) else None


@contextmanager
def _dead(place: Ground, node: Node, lease: LeaseHandle) -> Iterator[float]:
    """Keep the node dead for the time of the block, and bring it back whatever happens; yields when it was killed.

    It is cordoned and looked at once more first: nobody's pod comes between the look and the death.
    """
    site = place.site
    down = death_plan(site.spec).steps[0]
    lease.check()
    place.kube.patch_merge("v1", "Node", node.name, {"metadata": {"annotations": {PROOF: place.space}}})
    try:
        cordon(site, node, lease)
        _need_spare(site, node, (f"{place.space}/{ONE}",), cordoned=is_ours(_status(site, node)))
        with guarded(site, node, Effect.REBOOT, lambda: look_at_servers(site)):
            log.warning("%s: %s", node.name, down.summary)
            began = site.clock.now()
            with site.shells.open(node) as shell:
                carry_out(site, shell, lease, down, down_script(site.spec), timeout_s=KILL_LIMIT_S + 60)
            yield began
    finally:
        _bring_back(site, node, lease)


def _bring_back(site: Site, node: Node, lease: LeaseHandle) -> None:
    """Start the node's agent, wait until it is Ready, and lift our cordon. Changes nothing where all is well already.

    Raises WorkFailedError where it does not come back: it is then cordoned, and its own timer starts it once more.
    """
    up = death_plan(site.spec).steps[1]
    command = Command(up.id, up.fingerprint[:16], up_script())
    try:
        with site.shells.open(node) as shell:
            shell.apply(Batch((command,), lease.number, f"lease-{lease.number}"))
        wait_until(
            lambda: _status(site, node).ready or None, f"node {node.name} Ready",
            timeout_s=site.spec.rke2.join_timeout_s, poll_s=min(site.spec.rke2.poll_s, POLL_S), clock=site.clock,
            where=node.name, last=lambda: str(dict(_status(site, node).conditions)),
        )  # fmt: skip
    except FencedError:
        raise
    except StackError as error:
        raise WorkFailedError(
            f"{node.name} was stopped for the proof and did not come back", where=node.name,
            seen=f"{error.what}; it stays cordoned; {back_after_s(site.spec)} s after its death it starts rke2-agent "
            "by itself, unless that was done already",
        ) from error  # fmt: skip
    uncordon(site, node, lease)
    site.kube().patch_merge("v1", "Node", node.name, {"metadata": {"annotations": {PROOF: None}}})
    log.info("%s: is back", node.name)


# --- healthy again ---------------------------------------------------------------------------------------------------


def _is_whole(place: Ground, node: Node, volume: str) -> bool | None:
    found, copies = place.kube.get(API, "Volume", volume, NAMESPACE), copies_of_volume(place, volume)
    return True if found is not None and is_whole(found, copies) and not _ill(place.site, node) else None


def _ill(site: Site, node: Node) -> str:
    """Say what is not healthy yet: the node's daemons, and any volume."""
    pods = map(pod_fact, site.kube().list("v1", "Pod", field_selector=f"spec.nodeName={node.name}"))
    late = sorted(pod.id for pod in pods if pod.of_daemon and not pod.ready)
    volumes = look_volumes(site)
    words = [f"not ready: {', '.join(late[:5])}"] if late else []
    return "; ".join([*words, *([volumes.seen] if volumes.verdict == "fail" else [])])


def _status(site: Site, node: Node) -> NodeStatus:
    found = site.kube().get("v1", "Node", node.name)
    if found is None:
        raise NotFoundError("the cluster does not know this node", where=node.name, status=404)
    return node_status(found)
