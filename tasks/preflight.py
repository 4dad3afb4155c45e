"""The preflight: everything that a site must have, looked at without changing anything, before a deploy or at any time.

What is asked, and what of it is enough, is in stackwright/domain/preflight.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.deploy import StackFacts
from stackwright.domain.errors import PlanRefusedError, Problem, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Plan
from stackwright.domain.preflight import CHECKS, FIRST, LATER, checks_of, model, services, wants
from stackwright.domain.preflight.script import Blob, preflight_script, with_logins
from stackwright.domain.preflight.seen import Case, Controller, Host
from stackwright.domain.spec import Node
from stackwright.reports.markdown import evidence_markdown
from tasks.common import in_thread
from tasks.nodes import look
from tasks.preflight_controller import login_of, look_from_controller

log = logging.getLogger(__name__)

SCRIPT_S = 60.0


def read_case(site: Site, facts: Mapping[str, NodeFacts] | None = None, *, cluster: bool = True) -> Case:
    """Look at the controller's side, then at all hosts at once; facts that are given are not asked for again.

    A host that does not answer is told with what it said; it stops nobody else's look.
    """
    controller = look_from_controller(site, cluster=cluster)
    nodes = site.spec.nodes
    with RunThreads(max_workers=min(len(nodes), site.spec.ssh.width) or 1) as pool:
        seen = list(pool.map(lambda node: look_at_host(site, node, controller, (facts or {}).get(node.name)), nodes))
    return Case(site.spec, {host.node.name: host for host in seen}, controller)


def look_at_host(site: Site, node: Node, controller: Controller, facts: NodeFacts | None = None) -> Host:
    """Look at one host over one connection: its facts, unless they are given, and the preflight's own script."""
    host = Host(node, facts)
    try:
        with site.shells.open(node) as shell:
            if facts is None:
                try:
                    host = replace(host, facts=look(site, node, shell))
                except StackError as error:
                    host = replace(host, lost=_said(error))
            script, logins = _script(site, node, controller)
            return replace(host, sections=shell.read(with_logins(script, logins), SCRIPT_S))
    except StackError as error:
        return replace(host, lost=host.lost or _said(error))


def _said(error: StackError) -> str:
    return f"{error.what}{f': {error.seen}' if error.seen else ''}"


def _script(site: Site, node: Node, controller: Controller) -> tuple[str, dict[int, tuple[SecretStr, SecretStr]]]:
    """Return a host's script, and the logins of the blobs that it fetches, by their place in it."""
    spec = site.spec
    pulls = {services.image_key(pull): pull for pull in wants.images(spec)}
    blobs = [
        Blob(key, f"{pulls[key].base}/v2/{pulls[key].repository}/blobs/{digest}", digest, pulls[key].ca_file)
        for key, digest in services.blobs(Case(spec, {}, controller))
    ]
    logins = {}
    for index, blob in enumerate(blobs):
        login = login_of(site, pulls[blob.key].block)
        if login is not None:
            logins[index] = login
    cas = {path: text for path in set(wants.ca_files(spec).values()) if (text := _text(path))}
    return preflight_script(spec, node, cas, blobs), logins


def _text(path: str) -> str:
    """Return a CA file's text; one that cannot be read is the finding of its own check."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def run_preflight(site: Site) -> tuple[Case, list[Evidence]]:
    """Look at everything and judge it: what check-site does."""
    case = read_case(site)
    return case, model.evidence(case, model.judge(case, CHECKS), _now(site))


def _now(site: Site) -> str:
    return datetime.fromtimestamp(site.clock.now(), UTC).isoformat(timespec="seconds")


@task(
    task_run_name="preflight",
    cache_policy=NO_CACHE,  # what was seen is never a cached result
    timeout_seconds=300,
)
async def preflight(site: Site) -> tuple[Case, list[Evidence]]:
    """Look at every host and at everything around them. Changes nothing."""
    return await in_thread(run_preflight, site)


def read_before_deploy(site: Site, facts: StackFacts) -> tuple[Case, list[model.Finding]]:
    """Look at what a deploy must have: everything where there is no cluster yet, else what needs no look at hosts."""
    first = not (facts.cluster.nodes or facts.cluster.members or facts.cluster.has_access)
    if first:
        case = read_case(site, facts.nodes, cluster=False)
    else:
        hosts = {node.name: Host(node, facts.nodes.get(node.name)) for node in site.spec.nodes}
        case = Case(site.spec, hosts, look_from_controller(site, cluster=False))
    return case, model.judge(case, checks_of(FIRST if first else LATER))


async def check_before_deploy(site: Site, facts: StackFacts, plan: Plan) -> None:
    """Refuse a plan whose site lacks a must-have, before anything is changed. A plan without steps asks nothing.

    Raises PlanRefusedError with every failed must-have; all findings are in the artifact `preflight-<site>`.
    """
    if plan.empty:
        return
    case, findings = await in_thread(read_before_deploy, site, facts)
    lines = model.evidence(case, findings, _now(site))
    failed = model.failures(findings)
    text = f"{len({one.check.id for one in findings})} checks, {len(failed)} failed must-have(s)"
    name = site.spec.site
    await acreate_markdown_artifact(evidence_markdown(lines), key=f"preflight-{name}", description=text)
    log.info("preflight: %s", text)
    if failed:
        problems = [
            Problem(one.subject, one.check.title, one.check.fix, one.check.wanted(site.spec), one.outcome.seen)
            for one in failed
        ]
        raise PlanRefusedError("the preflight found what must be mended first", problems, where=name)
