"""Bringing a cluster back from a bundle: all servers fenced, the first one reset from the snapshot, the others empty.

What is done in which order is in stackwright/domain/restore.py. Works without a Prefect server: the wrappers for flows
are in tasks/restore_flow.py. A function that is called again looks at the node's marker and goes on from there.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.ssh import NodeShell, StepFailedError
from stackwright.domain.bundle import BundleError
from stackwright.domain.errors import Problem, StackError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Plan, Step
from stackwright.domain.restore import (
    Mark,
    fence_step,
    first_of,
    install_step,
    needs_install,
    parse_mark,
    place_step,
    reached,
    reason_of,
    rejoin_step,
    reset_step,
    start_step,
)
from stackwright.domain.restore_checks import check_working
from stackwright.domain.restore_scripts import (
    FENCE_TIMEOUT_S,
    LOG,
    MARK,
    RESET_TIMEOUT_S,
    back_script,
    fence_script,
    place_script,
    rejoin_script,
    reset_script,
    snapshot_path,
    start_script,
)
from stackwright.domain.rke2 import Rke2Change, install_script
from stackwright.domain.rke2_files import FileWant, wanted_files
from stackwright.domain.shell import last_lines, parse_settled, read_script, settled_section, value_section
from stackwright.domain.spec import Node
from tasks.cluster import read_sources
from tasks.nodes import bring_node, look
from tasks.restore_gates import forget_lease, forget_password, wait_until_back
from tasks.restore_site import Bundle
from tasks.scripts import replacing, send

log = logging.getLogger(__name__)


def fence_server(site: Site, node: Node, lease: LeaseHandle, bundle: Bundle, *, anyway: bool = False) -> None:
    """End RKE2 on one server and move its etcd data and snapshots aside. Does nothing when this restore has done so.

    The first server comes first: its marker gives the restore its number. `anyway` replaces an etcd that works.
    Raises QuorumError while that is not asked for, RemoteStepError when something goes on listening.
    """
    with site.shells.open(node) as shell:
        mark = _mark_for(site, node, shell, lease, bundle)
        if not reached(mark.phase, "fenced"):
            _fence(site, node, shell, lease, bundle, mark, anyway=anyway)


def _fence(
    site: Site, node: Node, shell: NodeShell, lease: LeaseHandle, bundle: Bundle, mark: Mark, *, anyway: bool
) -> None:
    problems = [] if anyway else check_working(site.spec.site, node, look(site, node, shell))
    step = fence_step(bundle.manifest, node)
    with replacing(node, problems):
        _send(site, shell, lease, step, fence_script(mark, node), timeout_s=FENCE_TIMEOUT_S)


def prepare_host(site: Site, node: Node, lease: LeaseHandle, plan: Plan) -> NodeFacts:
    """Make a host ready: prepared as the guide wants it, the site file's RKE2 installed and not started."""
    facts = bring_node(site, node, lease, plan.of(node.name, "node"))
    if not needs_install(site.spec, facts):
        return facts
    step = install_step(site.spec, node)
    script, uploads = install_script(site.spec, node, facts.arch, read_sources(site.spec))
    log.info("%s: %s", node.name, step.summary)
    with site.shells.open(node) as shell:
        for local, remote in uploads.items():
            lease.check()
            shell.put(Path(local), remote)
        send(site, shell, lease, [Rke2Change(step, script, timeout_s=1800)])
        return look(site, node, shell)


def restore_first(site: Site, node: Node, lease: LeaseHandle, bundle: Bundle, *, anyway: bool = False) -> None:
    """Bring a bundle back on one server, as a cluster of one member, and wait until it serves.

    `site` must be of `with_bundle`: its secrets are the bundle's, and the access to the restored cluster is kept there
    alone. RKE2 must be installed. Every other server of the spec must be fenced. Goes on where a dead run was; the
    cluster is never reset again once it has been started.
    Raises BundleError with the reason that RKE2's own words give, QuorumError, GateTimeoutError.
    """
    with site.shells.open(node) as shell:
        mark = _mark_for(site, node, shell, lease, bundle)
        if not reached(mark.phase, "fenced"):
            _fence(site, node, shell, lease, bundle, mark, anyway=anyway)
            mark = _with(mark, "fenced")
        if not reached(mark.phase, "placed"):
            _place(site, node, shell, lease, bundle, mark)
            mark = _with(mark, "placed")
        if not reached(mark.phase, "reset"):
            _check_fenced(site, node, bundle, mark)
            _reset(site, node, shell, lease, bundle, mark)
            mark = _with(mark, "reset")
        facts = look(site, node, shell)
        if not reached(mark.phase, "back"):
            _send(site, shell, lease, start_step(bundle.manifest, node), start_script(mark, node))
        wait_until_back(site, node, shell, facts, [node], keeps_access=True)
        if not reached(mark.phase, "back"):
            forget_lease(site)
            _note_back(site, shell, lease, start_step(bundle.manifest, node), mark)


def rejoin_server(site: Site, node: Node, lease: LeaseHandle, bundle: Bundle, joined: Sequence[Node]) -> None:
    """Bring another server back as an empty one, and wait until it votes. `joined` are those that are in already.

    Does nothing when this restore has done so. Its old data were moved away when it was fenced; without that it is
    refused.
    """
    _rejoin(site, node, lease, bundle, [*joined, node])


def rejoin_agent(site: Site, node: Node, lease: LeaseHandle, bundle: Bundle) -> None:
    """Start an agent anew against the restored cluster, or bring a new one in. Does nothing when that is done."""
    _rejoin(site, node, lease, bundle, [])


def _rejoin(site: Site, node: Node, lease: LeaseHandle, bundle: Bundle, servers: Sequence[Node]) -> None:
    step = rejoin_step(bundle.manifest, node)
    with site.shells.open(node) as shell:
        mark = _mark_for(site, node, shell, lease, bundle)
        if reached(mark.phase, "back"):
            return
        if node.is_server and not reached(mark.phase, "fenced"):
            raise _not_fenced(node.name, mark)
        begun = reached(mark.phase, "started")
        facts = look(site, node, shell)
        if not begun and not facts.rke2.has_password:
            forget_password(site, node.name)  # a new host with the name of one that the snapshot knows
        files = wanted_files(site.spec, node, read_sources(site.spec).local_files, joins=True)
        with replacing(node, []):  # it is fenced: it holds no member of etcd, or it has just become one of this cluster
            _send(site, shell, lease, step, rejoin_script(mark, node, files, begun=begun), files)
        wait_until_back(site, node, shell, facts, servers)
        with replacing(node, []):
            _note_back(site, shell, lease, step, mark)


def _place(site: Site, node: Node, shell: NodeShell, lease: LeaseHandle, bundle: Bundle, mark: Mark) -> None:
    """Bring the snapshot to the node; in clear it lies here only in a file without a name."""
    step = place_step(bundle.manifest, node)
    site.workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=site.workdir) as spare:
        with bundle.snapshot() as source:
            shutil.copyfileobj(source, spare, 1 << 20)
        spare.flush()
        lease.check()
        shell.put(Path(f"/proc/{os.getpid()}/fd/{spare.fileno()}"), snapshot_path(bundle.manifest), 0o600)
    files = wanted_files(site.spec, node, read_sources(site.spec).local_files, joins=False)
    _send(site, shell, lease, step, place_script(mark, files, bundle.manifest), files)


def _reset(site: Site, node: Node, shell: NodeShell, lease: LeaseHandle, bundle: Bundle, mark: Mark) -> None:
    step = reset_step(bundle.manifest, node)
    try:
        with replacing(node, []):  # fenced: the marker says so, and the script looks once more
            _send(site, shell, lease, step, reset_script(mark, bundle.manifest), timeout_s=RESET_TIMEOUT_S + 300)
    except StepFailedError as error:
        seen = last_lines(error.outcome.out)
        remedy = f"Read {LOG} on {node.name}; use another bundle, or mend what it names and start again."
        problem = Problem(node.name, "rke2 server --cluster-reset failed", remedy, "exit code 0 and its words", seen)
        reason = reason_of(error.outcome.out)
        raise BundleError(reason, "the bundle cannot be restored", [problem], where=node.name) from error


def _check_fenced(site: Site, first: Node, bundle: Bundle, mark: Mark) -> None:
    """Raise unless every other server of the spec is kept from coming back with its old data."""
    for node in site.spec.servers:
        if node.name != first.name:
            with site.shells.open(node) as shell:
                seen = read_mark(shell)
            if (seen.bundle, seen.run) != (bundle.manifest.id, mark.run) or not reached(seen.phase, "fenced"):
                raise _not_fenced(node.name, seen)


def _not_fenced(name: str, seen: Mark) -> StackError:
    what = "the server is not fenced: with its old data it would come back as a second cluster"
    return StackError(what, where=name, wanted="the marker of this restore", seen=str(seen).strip() or "no marker")


def read_mark(shell: NodeShell) -> Mark:
    """Return what a node notes of a restore, once a script that a dead run has left at work there is at its end.

    Raises NodeBusyError (transient) while one goes on.
    """
    seen = shell.read(read_script(settled_section() + value_section("mark", MARK)))
    parse_settled(seen, MARK)
    section = seen["mark"]
    if section.rc and not section.absent:
        raise StackError("the restore's marker cannot be read", where=MARK, seen=f"exit code {section.rc}")
    return parse_mark(None if section.absent else section.out)


def _mark_for(site: Site, node: Node, shell: NodeShell, lease: LeaseHandle, bundle: Bundle) -> Mark:
    """Return the node's marker if it is of the restore that is under way, else that restore's with nothing done."""
    seen, first = read_mark(shell), first_of(site.spec)
    if node.name == first.name:
        begun = seen
    else:
        with site.shells.open(first) as other:
            begun = read_mark(other)
    run = begun.run if begun.bundle == bundle.manifest.id else 0
    if run and (seen.bundle, seen.run) == (bundle.manifest.id, run):
        return seen
    return Mark(bundle.manifest.id, run or lease.number)


def _with(mark: Mark, phase: str) -> Mark:
    return parse_mark(f"{mark.bundle} {mark.run} {phase}")


def _note_back(site: Site, shell: NodeShell, lease: LeaseHandle, step: Step, mark: Mark) -> None:
    """Note that a step's gate was passed."""
    log.info("%s: is back", step.target)
    send(site, shell, lease, [Rke2Change(step, back_script(mark))])


def _send(
    site: Site,
    shell: NodeShell,
    lease: LeaseHandle,
    step: Step,
    script: str,
    files: Sequence[FileWant] = (),
    *,
    timeout_s: float = 120.0,
) -> None:
    """Carry out one step's script under the lease's number."""
    log.info("%s: %s", step.target, step.summary)
    secret = {f"file_{index}": want for index, want in enumerate(files) if want.is_secret}
    send(site, shell, lease, [Rke2Change(step, script, secret, timeout_s=timeout_s)])
