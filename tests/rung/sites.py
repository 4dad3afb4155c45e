"""A site on the rung's hosts: production's own clients over real SSH and HTTPS, blocks in a dictionary."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.connect import connect
from stackwright.clients.site import Site
from stackwright.domain.node_plan import plan_node
from stackwright.domain.plan import Plan
from stackwright.domain.removal import leaving_nodes, plan_removal
from stackwright.domain.removal_checks import check_removal
from stackwright.domain.rke2 import check_cluster, plan_rke2
from stackwright.domain.spec import StackSpec
from stackwright.lab.rke2.release import build_release
from tasks.cluster import read_cluster
from tasks.nodes import bring_node, read_nodes
from tasks.removal import take_out
from tasks.removal_facts import look_at_removal
from tasks.rke2 import bring_agent, bring_server
from tests.rung.hosts import Host, Hosts, python_program
from tests.tasks.lab_site import MemorySecrets
from tests.tasks.test_nodes import Held

VERSION, NEXT = "v1.34.10+rke2r1", "v1.34.11+rke2r1"
NAME = "k8s.rung.test"


def spec_of(
    hosts: Hosts, roles: dict[str, list[str]], version: str = VERSION, *, removed=(), replaced=(), **rke2
) -> StackSpec:
    """Return the spec of these hosts: `roles` maps their names to roles, `rke2` are keys of that section.

    `removed` are entries of nodes that leave, `replaced` names of new machines in a dead one's place.
    """
    release = build_release(hosts.folder / "artifacts", version, python_program())
    return StackSpec.model_validate({
        "site": "rung",
        "environment": "lab",
        "nodes": [
            {**entry(hosts[name], what), "replaced": name in replaced} for name, what in roles.items()
        ],
        "removed": list(removed),
        "ssh": {"connect_timeout_s": 5, "user": "ops"},
        "registration": {
            "kind": "scc", "code_block": "suse-registration", "products": ["sle-module-basesystem/15.7/x86_64"],
        },
        "time": {"servers": ["ntp.rung.test"]},
        "dns": {"hosts": {NAME: hosts.balancer_address}},
        "rke2": {
            "version": version,
            "registration_address": NAME,
            "tls_san": [hosts.balancer_address],
            "profile": "none",
            "artifacts": {"source": "folder", "folder": str(release)},
            "poll_s": 0.2,
            "join_timeout_s": 240,
            **rke2,
        },
        "ingress": {"domain": "rung.test"},
        "clearml": {"base_domain": "ml.rung.test"},
    })  # fmt: skip


def entry(host: Host, roles: list[str]) -> dict:
    """Return a host's entry in the site file."""
    return {"name": host.name, "address": host.address, "roles": roles, "host_key": host.host_key}


def site_of(hosts: Hosts, spec: StackSpec, workdir: Path) -> Site:
    """Return the site with production's clients."""
    workdir.mkdir(parents=True, exist_ok=True)
    secrets = MemorySecrets({
        ("registration", "suse-registration"): {"code": SecretStr("RUNG-PLANTED-REGCODE")},
        ("ssh-key", spec.ssh.key_block): {"private_key": SecretStr(hosts.private_key)},
    })  # fmt: skip
    return connect(spec, secrets, workdir)


def with_spec(site: Site, spec: StackSpec) -> Site:
    """Return the same site, with the same blocks, for another site file."""
    made = connect(spec, site.secrets, site.workdir)
    return replace(made, clock=site.clock)


def plan_of(site: Site) -> Plan:
    """Return the plan of nodes and RKE2, as the deploy flow makes it."""
    facts = read_nodes(site, site.spec.nodes)
    cluster = read_cluster(site, facts)
    assert check_cluster(site.spec, facts, cluster) == []
    steps = [change.step for node in site.spec.nodes for change in plan_node(site.spec, node, facts[node.name])]
    for node in (*site.spec.servers, *site.spec.agents):
        steps += [change.step for change in plan_rke2(site.spec, node, facts[node.name], cluster)]
    return Plan(site.spec.site, tuple(steps))


def remove(site: Site, number: int = 1) -> Plan:
    """Take out the nodes that leave, as the deploy flow does; return the plan that was carried out."""
    case = look_at_removal(site)
    problems = check_removal(case.spec, case.nodes, case.cluster, case.seen)
    assert problems == [], "\n".join(map(str, problems))
    plan = Plan(site.spec.site, tuple(step for one in case.departures for step in plan_removal(case, one)))
    for node in leaving_nodes(site.spec, plan):
        take_out(site, node, Held(number), plan.of(node.name, "remove"))
    return plan


def bring(site: Site, number: int = 1) -> Plan:
    """Bring nodes and RKE2 to the site file, in the deploy flow's order; return the plan that was carried out."""
    plan, lease = plan_of(site), Held(number)
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda node: bring_node(site, node, lease, plan.of(node.name, "node")), site.spec.nodes))
    for node in (*site.spec.servers, *site.spec.agents):
        bring = bring_server if node.is_server else bring_agent
        bring(site, node, lease, plan.of(node.name, "rke2"))
    return plan
