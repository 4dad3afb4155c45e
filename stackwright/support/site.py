"""What the site's hosts and cluster say: the plan of now, lease, journals of every node, kept evidence. Read only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from stackwright.clients.site import Site
from stackwright.domain.deploy import plan_deploy
from stackwright.domain.errors import StackError
from stackwright.domain.lease import fence_section
from stackwright.domain.results import Result
from stackwright.domain.shell import STATE, read_script, run_section, shell_section
from stackwright.domain.spec import Node
from stackwright.domain.support import Limits, Member, member_name
from stackwright.reports.markdown import plan_markdown
from stackwright.support.gathering import Basket, Work
from tasks.lease_view import read_lease
from tasks.nodes import read_nodes
from tasks.results import kept_results
from tasks.stack import read_stack

Load = Callable[[], Site]
UNITS = ("rke2-server", "rke2-agent")


def site_parts(load: Load, limits: Limits) -> dict[str, Work]:
    """Return the parts that need the site's secrets; `load` opens them, and raises what it lacks."""
    return {
        "plan": lambda basket: read_plan(basket, load()),
        "lease": lambda basket: read_lease_of(basket, load()),
        "nodes": lambda basket: read_journals(basket, load(), limits),
        "cluster": lambda basket: read_cluster(basket, load()),
        "evidence": lambda basket: read_evidence(basket, load()),
    }


def read_plan(basket: Basket, site: Site) -> None:
    """Read what a plan of now would be, or why there is none. No run is made for it."""
    facts = asyncio.run(read_stack(site, read_nodes(site, site.spec.nodes)))
    plan = plan_deploy(site.spec, facts)
    basket.put(Member("plan.md", plan_markdown(plan)))
    basket.put_json(
        {"hash": plan.hash, "steps": [asdict(step) for step in plan.steps], "notes": plan.notes}, "plan.json"
    )


def read_lease_of(basket: Basket, site: Site) -> None:
    """Read both copies of the lease and every node's fencing number."""
    seen = read_lease(site)
    for problem in seen.problems:
        basket.miss(problem)
    basket.put_json(asdict(seen), "lease.json")


def read_journals(basket: Basket, site: Site, limits: Limits) -> None:
    """Read of each node at once: our own journal and fence, RKE2's last lines, load and disks. A dead one is told."""

    def one(node: Node) -> None:
        try:
            basket.put(Member(member_name("nodes", f"{node.name}.txt"), _node(site, node, limits), keep="end"))
        except StackError as error:
            basket.miss(str(error))

    with ThreadPoolExecutor(max_workers=min(len(site.spec.nodes), site.spec.ssh.width)) as pool:
        list(pool.map(one, site.spec.nodes))


def _node(site: Site, node: Node, limits: Limits) -> str:
    lines = limits.journal_lines
    parts = [
        fence_section(),
        shell_section("journal", f"if [ -e {STATE}/journal ]; then tail -n {lines} {STATE}/journal; fi"),
        run_section("system", "uname", "-a"),
        run_section("uptime", "cat", "/proc/loadavg"),
        run_section("disks", "df", "-Pk"),
        run_section("memory", "head", "-n", "5", "/proc/meminfo"),
        *(
            shell_section(
                f"unit_{number}", f"journalctl -u {unit} -n {lines} -o short-iso --no-pager -q 2>/dev/null || :"
            )
            for number, unit in enumerate(UNITS)
        ),
    ]
    with site.shells.open(node) as shell:
        seen = shell.read(read_script("".join(parts)))
    names = {f"unit_{number}": unit for number, unit in enumerate(UNITS)}
    return "".join(
        f"=== {names.get(key, key)}{' (not there)' if section.absent else ''}\n{section.out.rstrip()}\n"
        for key, section in seen.items()
    )


def read_cluster(basket: Basket, site: Site) -> None:
    """Read the cluster's version, its nodes' conditions, and the pods that do not run."""
    kube = site.kube()
    nodes = [
        {"name": one["metadata"]["name"], "conditions": one.get("status", {}).get("conditions", []),
         "info": one.get("status", {}).get("nodeInfo", {})}
        for one in kube.each("v1", "Node")
    ]  # fmt: skip
    pods = [
        {"namespace": one["metadata"].get("namespace"), "name": one["metadata"]["name"],
         "phase": one.get("status", {}).get("phase"), "reasons": one.get("status", {}).get("containerStatuses", [])}
        for one in kube.each("v1", "Pod")
        if one.get("status", {}).get("phase") not in ("Running", "Succeeded")
    ]  # fmt: skip
    basket.put_json({"version": kube.server_version(), "nodes": nodes, "pods_not_running": pods}, "cluster.json")


def read_evidence(basket: Basket, site: Site) -> None:
    """Read the last result of every check, from beside the bundles and from this machine's reports."""
    found, where, unread = kept_results(site)
    for problem in unread:
        basket.miss(problem)
    basket.put_json({"where": where, "results": [_row(one) for one in found]}, "evidence.json")


def _row(result: Result) -> dict[str, object]:
    return {**asdict(result.evidence), "source": result.source}
