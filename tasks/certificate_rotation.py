"""Rotating RKE2's leaf certificates on one node, and fetching the kubeconfig again.

What is due is decided in stackwright/domain/certificate_rotation.py.
"""

from __future__ import annotations

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.certificate_rotation import (
    ROTATE_TIMEOUT_S,
    is_due,
    kubeconfig_step,
    must_rotate,
    plan_node_rotation,
    rotate_script,
)
from stackwright.domain.certificates import CertificateFacts, expired
from stackwright.domain.errors import NodeUnreachableError, ProblemsError, RemoteStepError
from stackwright.domain.plan import Step, check_steps_approved
from stackwright.domain.spec import Node
from tasks.certificates import read_certificates, read_kubeconfig_certificates, read_node_certificates
from tasks.cluster import save_access
from tasks.common import in_thread, only_transient
from tasks.nodes import read_node
from tasks.rolling import await_joined, read_status, roll

log = logging.getLogger(__name__)


class AccessExpiredError(ProblemsError):
    """The kubeconfig that we keep has expired, and no server has a better one."""


def ensure_access(site: Site) -> bool:
    """Fetch the kubeconfig again when ours has expired; without it nothing can be looked at. Tell whether it was.

    Nothing on a node is changed. Raises AccessExpiredError when the servers' own has expired too.
    """
    block = site.secrets.read("cluster-access", site.spec.rke2.kubeconfig_block)
    if block is None or not _expired(site):
        return False
    for node in site.spec.servers:
        try:
            with site.shells.open(node) as shell:
                save_access(site, shell)
        except NodeUnreachableError as error:
            log.warning("%s: %s", node.name, error)
            continue
        if not _expired(site):
            log.info("%s: the kubeconfig had expired and was fetched again", node.name)
            return True
    problems = expired(_client(site), site.clock.now())
    for problem in problems:
        log.warning("%s", problem)
    raise AccessExpiredError(
        "no server has a kubeconfig that is valid: RKE2 renews it at a restart", problems, where=site.spec.site
    )


def _client(site: Site) -> list[CertificateFacts]:
    return [one for one in read_kubeconfig_certificates(site) if one.kind == "kubeconfig"]


def _expired(site: Site) -> bool:
    return bool(expired(_client(site), site.clock.now()))


def look_at_certificates(site: Site) -> tuple[list[CertificateFacts], list[CertificateFacts]]:
    """Return the certificates of all nodes, and the client certificate of the kubeconfig that we keep."""
    return read_certificates(site, site.spec.nodes), _client(site)


def rotate_node(site: Site, node: Node, within_days: int, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Rotate one node's leaf certificates; do nothing when they outlive the limit.

    Raises PlanMovedError, WindowClosedError, QuorumError, GateTimeoutError, RemoteStepError.
    """
    facts, seen, now_s = read_node(site, node), read_node_certificates(site, node), site.clock.now()
    steps = plan_node_rotation(node, facts, read_status(site, node), seen, within_days, now_s)
    check_steps_approved(steps, approved, node.name)
    for step in steps:
        if must_rotate(node, facts, seen, within_days, now_s):
            roll(site, node, lease, step, rotate_script(node), facts, timeout_s=ROTATE_TIMEOUT_S)
        else:
            await_joined(site, node, facts)
    after = read_node_certificates(site, node) if steps else []
    left = [one for one in after if one.kind == "rke2" and is_due([one], within_days, site.clock.now())]
    unread = [one for one in after if one.unread]
    if left or unread:
        short = ", ".join(f"{one.place} {one.unread}".strip() for one in (*left, *unread)[:5])
        what = "the rotation took no effect"
        raise RemoteStepError(what, where=node.name, wanted=f"{within_days} days or more on all", seen=short)


def refresh_access(site: Site, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Fetch the kubeconfig again from the first server that answers, and see that the API answers to it."""
    check_steps_approved([kubeconfig_step(site.spec)], approved, "cluster")
    lease.check()
    node = site.spec.servers[0]
    with site.shells.open(node) as shell:
        save_access(site, shell)
    site.kube().nodes()


@task(
    task_run_name="rotate-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_rotated(
    site: Site, node: Node, within_days: int, lease: LeaseHandle, approved: tuple[Step, ...]
) -> None:
    """Rotate one node's leaf certificates, through the guard; change nothing when they live long enough. Guide: 5.2."""
    await in_thread(rotate_node, site, node, within_days, lease, approved)


@task(
    task_run_name="kubeconfig",
    cache_policy=NO_CACHE,
    timeout_seconds=600,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_kubeconfig(site: Site, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Keep the kubeconfig with its new client certificate."""
    await in_thread(refresh_access, site, lease, approved)
