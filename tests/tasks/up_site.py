"""A small cluster, brought up once: three servers and an agent, for the tests of what is done with it afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from stackwright.domain.deploy import StackFacts
from stackwright.domain.layers.facts import ClusterFacts as LayerFacts
from stackwright.domain.node_plan import plan_node
from stackwright.domain.plan import Plan
from stackwright.domain.rke2 import plan_rke2
from stackwright.domain.spec import Layers, Maintenance, Window
from tasks.cluster import read_cluster
from tasks.nodes import bring_node, read_nodes
from tasks.rke2 import bring_agent, bring_server
from tests.tasks.lab_site import site_of, spec_of

ROLES = {"s1": ["server"], "s2": ["server"], "s3": ["server"], "a1": ["worker"]}


class Held:
    """A lease that nobody contests."""

    def __init__(self, number=1):
        self.number = number

    def check(self):
        pass


def deploy_plan(site) -> Plan:
    """Return the plan of nodes and RKE2, as the deploy flow makes it."""
    facts = read_nodes(site, site.spec.nodes)
    cluster = read_cluster(site, facts)
    steps = [change.step for node in site.spec.nodes for change in plan_node(site.spec, node, facts[node.name])]
    for node in site.spec.nodes:
        steps += [change.step for change in plan_rke2(site.spec, node, facts[node.name], cluster)]
    return Plan(site.spec.site, tuple(steps))


@contextmanager
def cluster_up(small_lab, folder, roles=None, **changes):
    """Bring a small cluster up; yields the lab and the site."""
    roles = roles or ROLES
    with small_lab(folder, [{"name": name} for name in roles], 200.0) as lab:
        site = site_of(lab, spec_of(lab, roles=roles, **changes), folder / "work")
        plan, lease = deploy_plan(site), Held()
        for node in site.spec.nodes:
            bring_node(site, node, lease, plan.of(node.name, "node"))
        for node in (*site.spec.servers, *site.spec.agents):
            (bring_server if node.is_server else bring_agent)(site, node, lease, plan.of(node.name, "rke2"))
        yield lab, site


NO_LAYERS = {f"layers__{name}__enabled": False for name in Layers.model_fields}
"""Changes of a spec that leave RKE2 alone: what is tested here ends there."""


def stack_facts(site) -> StackFacts:
    """Return what a flow knows of a site without layers."""
    nodes = read_nodes(site, site.spec.nodes)
    now = datetime.fromtimestamp(site.clock.now(), UTC)
    return StackFacts(now.isoformat(timespec="seconds"), nodes, read_cluster(site, nodes), LayerFacts(now))


def respec(site, **changes):
    """Return the site with another spec: fields of its RKE2 section, or `maintenance`."""
    whole = {name: changes.pop(name) for name in ("maintenance",) if name in changes}
    rke2 = site.spec.rke2.model_copy(update=changes)
    return replace(site, spec=site.spec.model_copy(update={"rke2": rke2, **whole}))


def closed_now(site) -> Maintenance:
    """Return a maintenance section whose one window is not open: it opened for a minute, six hours ago."""
    then = datetime.fromtimestamp(site.clock.now(), UTC) - timedelta(hours=6)
    until = then + timedelta(minutes=1)
    return Maintenance(windows=(Window(start=f"{then:%H:%M}", end=f"{until:%H:%M}"),))


def etcd_starts(lab) -> dict[str, float]:
    """Return when the etcd pod of each server was started."""
    return {name: pods.started["etcd"] for name, pods in lab.cluster.pods.items()}
