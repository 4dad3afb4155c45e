"""Waiting until a node is healthy again after a step. What healthy means is in stackwright/domain/node_health.py."""

from __future__ import annotations

import logging

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site, wait_until
from stackwright.domain.cluster import node_status
from stackwright.domain.drain_facts import STORAGE_API, STORAGE_KINDS, STORAGE_NS, StorageFacts, pod_fact, storage_facts
from stackwright.domain.errors import ApiUnavailableError, GateTimeoutError, NodeUnreachableError, Problem
from stackwright.domain.node_health import (
    HealthFacts,
    NodeSide,
    check_node_health,
    daemon_facts,
    side_of,
    side_script,
    unhealthy_volumes,
)
from stackwright.domain.spec import Node

log = logging.getLogger(__name__)

JOURNAL_SHOWN = 6


def read_node_health(site: Site, node: Node) -> HealthFacts:
    """Return what a node's health is judged by: its own side in one script, the rest through the registration address.

    Raises ApiUnavailableError, NodeUnreachableError.
    """
    side = _read_side(site, node)
    kube = site.kube()
    found = kube.get("v1", "Node", node.name)
    status = node_status(found) if found is not None else None
    pods = kube.list("v1", "Pod", field_selector=f"spec.nodeName={node.name}")
    sets, history = kube.list("apps/v1", "DaemonSet"), kube.list("apps/v1", "ControllerRevision")
    return HealthFacts(
        name=node.name,
        server=node.is_server,
        status=status,
        side=side,
        readyz=kube.readyz(),
        ca_wanted=_ca_wanted(site),
        pods=tuple(map(pod_fact, pods)),
        daemons=daemon_facts(sets, history, status) if status is not None else (),
        storage=_read_storage(kube),
    )


def unhealthy_before(site: Site) -> frozenset[str]:
    """Return the volumes that are not healthy now: read before a step, they are not held against it afterwards."""
    return unhealthy_volumes(_read_storage(site.kube()))


def wait_node_healthy(
    site: Site, node: Node, *, timeout_s: float, version: str | None = None,
    degraded_before: frozenset[str] = frozenset(), what: str = "after the step",
) -> None:  # fmt: skip
    """Wait until a node is healthy: first by a watch on its Node, then for all that hangs on it.

    While the node is cordoned, SUSE Storage is asked only for what it can do on a cordoned node: wait once more after
    `uncordon`. Raises GateTimeoutError with every problem that is left, and the unit's last journal lines.
    """
    deadline = site.clock.now() + timeout_s
    _watch_node(site, node, timeout_s, version)
    problems: list[Problem] = []
    journal: tuple[str, ...] = ()

    def look() -> bool | None:
        nonlocal problems, journal
        try:
            facts = read_node_health(site, node)
        except (ApiUnavailableError, NodeUnreachableError) as error:
            problems = [Problem(error.where or node.name, error.what, error.how_to_fix, error.wanted, error.seen)]
            return None
        journal = facts.side.journal
        problems = check_node_health(facts, version=version, degraded_before=degraded_before)
        log.debug("%s: %d problem(s): %s", node.name, len(problems), "; ".join(problem.what for problem in problems))
        return None if problems else True

    def last() -> str:
        tail = " / ".join(journal[-JOURNAL_SHOWN:]) or "no journal lines"
        return f"{len(problems)} problem(s): {'; '.join(map(str, problems))}; journal: {tail}"

    wait_until(
        look, f"the node healthy {what}", timeout_s=max(0.0, deadline - site.clock.now()), poll_s=site.spec.rke2.poll_s,
        clock=site.clock, where=node.name, last=last,
    )  # fmt: skip
    log.info("%s: healthy", node.name)


def _watch_node(site: Site, node: Node, timeout_s: float, version: str | None) -> None:
    """Watch the Node until it is Ready as wanted, so that the full look begins when it can succeed."""

    def ready(found: list[dict[str, object]]) -> bool | None:
        status = node_status(found[0]) if found else None
        if status is None or not status.ready or (version is not None and status.version != version):
            return None
        return True if status.etcd_voter or not node.is_server else None

    try:
        site.kube().wait("v1", "Node", ready, name=node.name, timeout_s=timeout_s, what="the node Ready")
    except (GateTimeoutError, ApiUnavailableError) as error:
        log.debug("%s: %s", node.name, error)  # the look that follows names everything that is left


def _read_side(site: Site, node: Node) -> NodeSide:
    role = "server" if node.is_server else "agent"
    script = side_script(role, node.address, site.spec.rke2.registration_address)
    with site.shells.open(node) as shell:
        return side_of(shell.read(script))


def _read_storage(kube: KubeClient) -> StorageFacts | None:
    if not kube.has_kind(STORAGE_API, "Volume"):
        return None
    return storage_facts(*(kube.list(STORAGE_API, kind, STORAGE_NS) for kind in STORAGE_KINDS))


def _ca_wanted(site: Site) -> str:
    """Return the CA hash of the cluster's full token, empty where the block holds none."""
    block = site.secrets.read("secret-text", site.spec.rke2.token_block)
    text = block["value"].get_secret_value() if block else ""
    return text.removeprefix("K10").partition("::")[0] if text.startswith("K10") and "::" in text else ""
