"""Rotating the key that encrypts Secrets: asked of one server, waited for, then read by the others at a restart.

What is left to do is decided in stackwright/domain/encryption.py.
"""

from __future__ import annotations

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.clients.ssh import StepFailedError
from stackwright.clients.threads import RunThreads
from stackwright.domain.encryption import (
    ACTIVE,
    FINISHED,
    ROTATE_TIMEOUT_S,
    ServerKeys,
    is_ours,
    is_starting,
    must_restart,
    parse_keys,
    restart_step,
    rotate_script,
    rotate_step,
    status_script,
)
from stackwright.domain.errors import PlanMovedError, RemoteStepError, StackError
from stackwright.domain.plan import Step, check_steps_approved
from stackwright.domain.rotations import restart_script
from stackwright.domain.spec import Node
from stackwright.domain.windows import check_window
from tasks.common import in_thread, only_transient
from tasks.nodes import look_at_servers, read_node
from tasks.rolling import await_joined, carry_out, read_status, roll
from tasks.scripts import guarded

log = logging.getLogger(__name__)

REENCRYPT_TIMEOUT_S = 3600.0  # RKE2 writes every Secret anew: some thousands take many minutes
MATCH_TIMEOUT_S = 300.0
STARTING_S = 120.0


def read_keys(site: Site) -> dict[str, ServerKeys]:
    """Return what every server says of its encryption. Raises what the first unreadable one raises.

    One that has just been started is asked again until it answers.
    """
    servers, deadline = site.spec.servers, site.clock.now() + STARTING_S

    def read(node: Node) -> ServerKeys:
        with site.shells.open(node) as shell:
            seen = shell.read(status_script())
            while is_starting(seen) and site.clock.now() < deadline:
                site.clock.wait(site.spec.rke2.poll_s)
                seen = shell.read(status_script())
            return parse_keys(seen, read_status(site, node), node.name)

    with RunThreads(max_workers=len(servers)) as pool:
        return dict(zip((node.name for node in servers), pool.map(read, servers), strict=True))


def rotate_key(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Have one server make another key and encrypt every Secret with it; wait for a rotation of ours that is under way.

    What the program says is no verdict: it gives up waiting on a large cluster while the server goes on. Nothing is
    asked for when another server, or another hand, is at it. Raises RemoteStepError, GateTimeoutError.
    """
    keys = read_keys(site)
    seen, others = keys[node.name], [name for name, one in keys.items() if one.stage == ACTIVE and name != node.name]
    step = next((step for step in approved if step.id == rotate_step(node.name, "").id), None)
    if step is None or others:
        what = "another server re-encrypts already" if others else "a rotation was not in the plan"
        raise PlanMovedError(what, where=node.name, wanted="no rotation under way", seen=", ".join(others) or "none")
    old = step.digest
    if seen.stage == ACTIVE:
        if not is_ours(seen):
            raise PlanMovedError("somebody else's rotation is under way", where=node.name, seen=seen.stage)
    elif seen.active_key == old:
        if not all(one.matches for one in keys.values()):
            raise PlanMovedError("the servers' hashes differ now", where=node.name, wanted="a match", seen=seen.differs)
        log.info("%s: %s", node.name, step.summary)
        _ask(site, node, lease, step, old)
    _wait_until_finished(site, node, old)


def _ask(site: Site, node: Node, lease: LeaseHandle, step: Step, old: str) -> None:
    check_window(site.spec.maintenance, step.effect, site.clock.now(), node.name)
    with guarded(site, node, step.effect, lambda: look_at_servers(site)), site.shells.open(node) as shell:
        try:
            carry_out(site, shell, lease, step, rotate_script(old), timeout_s=ROTATE_TIMEOUT_S)
        except StepFailedError as error:
            now = read_keys(site)[node.name]
            if now.stage != ACTIVE and now.active_key == old:
                raise
            log.warning("%s: the program ended badly, the server goes on (stage %s): %s", node.name, now.stage, error)


def _wait_until_finished(site: Site, node: Node, old: str) -> None:
    last = "not looked at"

    def finished() -> bool | None:
        nonlocal last
        try:
            seen = read_keys(site)[node.name]
        except StackError as error:
            last = str(error)
            return None
        last = f"stage {seen.stage}, active key {seen.active_key}"
        return True if seen.stage == FINISHED and seen.active_key != old else None

    wait_until(
        finished, f"stage {FINISHED} with another key", timeout_s=REENCRYPT_TIMEOUT_S, poll_s=site.spec.rke2.poll_s,
        clock=site.clock, where=node.name, last=lambda: last,
    )  # fmt: skip
    # The API server reads Secrets with the new key: RKE2's own Secret of this node is there since it joined.
    name = f"{node.name}.node-password.rke2"
    if site.kube().get("v1", "Secret", name, "kube-system") is None:
        remedy = "Do not restart any server; look at the API server's log for errors of the encryption provider."
        raise RemoteStepError(
            "a Secret cannot be found after the rotation", where=node.name, wanted=f"Secret kube-system/{name}",
            seen="none", remedy=remedy,
        )  # fmt: skip


def restart_server(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Restart one server so that it reads the new configuration; only wait when it was restarted already.

    Raises QuorumError, WindowClosedError, GateTimeoutError, and RemoteStepError for one whose hash stays another.
    """
    facts = read_node(site, node)
    [step] = approved
    check_steps_approved([restart_step(node, step.digest)], approved, node.name)
    if must_restart(node.name, read_keys(site)):
        roll(site, node, lease, step, restart_script(node), facts)
    else:
        await_joined(site, node, facts)
    wait_until(
        lambda: None if must_restart(node.name, read_keys(site)) else True, "the hash of the new configuration",
        timeout_s=MATCH_TIMEOUT_S, poll_s=site.spec.rke2.poll_s, clock=site.clock, where=node.name,
        last=lambda: "another hash",
    )  # fmt: skip


@task(task_run_name="encryption-status", cache_policy=NO_CACHE, timeout_seconds=300)
async def look_at_keys(site: Site) -> dict[str, ServerKeys]:
    """Look at the encryption of Secrets on all servers. Changes nothing."""
    return await in_thread(read_keys, site)


@task(
    task_run_name="encryption-rotate-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_key_rotated(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Have every Secret encrypted with another key, once. Guide: 5.2."""
    await in_thread(rotate_key, site, node, lease, approved)


@task(
    task_run_name="encryption-restart-{node.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_key_read(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Restart one server with the new encryption configuration, through the guard."""
    await in_thread(restart_server, site, node, lease, approved)
