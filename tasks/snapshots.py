"""etcd snapshots: taken on a server that may take one, and believed only when file and record are there.

The rules are in stackwright/domain/snapshots.py.
"""

from __future__ import annotations

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.errors import ApiUnavailableError, GateTimeoutError, Problem
from stackwright.domain.shell import Batch, Command, last_lines
from stackwright.domain.snapshots import (
    API_VERSION,
    KIND,
    SAVE_TIMEOUT_S,
    SUM_TIMEOUT_S,
    SnapshotError,
    SnapshotFacts,
    check_saver,
    check_snapshot,
    file_script,
    parse_snapshot,
    save_script,
    save_step,
    saved_name,
    with_file,
)
from stackwright.domain.spec import Node
from stackwright.domain.token_archive import archive_block, parse_archive, token_hash
from tasks.common import in_thread, only_transient

log = logging.getLogger(__name__)

RECORD_TIMEOUT_S = 120.0  # RKE2 writes the record in the same call; its reconciler repairs a missed one later


def read_snapshots(site: Site) -> tuple[SnapshotFacts, ...]:
    """Return every snapshot that the cluster records, newest first: those on all servers and in S3.

    Files are not looked at. Raises NotFoundError when the cluster does not know the kind, ApiUnavailableError.
    """
    found = [parse_snapshot(obj) for obj in site.kube().list(API_VERSION, KIND)]
    return tuple(sorted(found, key=lambda one: (-one.created_s, one.name, one.storage)))


def take_snapshot(site: Site, node: Node, lease: LeaseHandle, name: str, *, fresh_s: float = 0.0) -> SnapshotFacts:
    """Take an etcd snapshot on a healthy voter, and return it verified.

    With `fresh_s`, a verified one of this name that is not older is taken for it: a run that died afterwards does not
    take another. Raises SnapshotError with every reason for which there is none that can be relied on.
    """
    lease.check()
    status = next((one for one in site.kube().nodes() if one.name == node.name), None)
    problems = check_saver(node.name, status)
    if problems:
        raise SnapshotError("no snapshot can be taken here", problems, where=node.name)
    kept = _fresh(site, node, name, fresh_s)
    if kept is not None:
        log.info("%s: snapshot %s of %s is fresh enough", node.name, kept.name, kept.created_at)
        return kept
    step = save_step(node.name, name)
    command = Command(step.id, step.fingerprint[:16], save_script(name), timeout_s=SAVE_TIMEOUT_S)
    log.info("%s: %s", node.name, step.summary)
    with site.shells.open(node) as shell:
        lease.check()
        outcomes = shell.apply(Batch((command,), lease.number, f"lease-{lease.number}"))
    saved = saved_name(outcomes[0].out)
    if not saved:
        seen = last_lines(outcomes[0].out) or "no output"
        remedy = "Look at the journal of rke2-server on this node; try another server."
        problem = Problem(node.name, "rke2 ended well but named no snapshot", remedy, "Snapshot ... saved.", seen)
        raise SnapshotError("no snapshot was taken", [problem], where=node.name)
    return verify_snapshot(site, node, saved)


def verify_snapshot(
    site: Site, node: Node, name: str, *, timeout_s: float = RECORD_TIMEOUT_S, want_sha256: str = ""
) -> SnapshotFacts:
    """Return a local snapshot whose record is ready, whose file is there and whose token is kept.

    `want_sha256`, if given, is what the file must still be. Raises SnapshotError with every reason against it.
    """
    try:
        found = wait_until(
            lambda: _recorded(site, node, name), f"the record of snapshot {name}", timeout_s=timeout_s,
            poll_s=site.spec.rke2.poll_s, clock=site.clock, where=node.name, last=lambda: "no record, or not ready",
        )  # fmt: skip
    except GateTimeoutError as error:
        remedy = "Look at the file and at the journal of rke2-server on this node, then take another one."
        wanted = f"an {KIND} local-{name}-... that is ready"
        problem = Problem(node.name, f"the cluster has no good record of {name}", remedy, wanted, error.seen)
        raise SnapshotError("the snapshot cannot be relied on", [problem], where=node.name) from error
    with site.shells.open(node) as shell:
        found = with_file(found, shell.read(file_script(found.path), SUM_TIMEOUT_S))
    problems = check_snapshot(found, known_tokens(site))
    if want_sha256 and found.sha256 != want_sha256:
        remedy = "Use another snapshot: this file was changed since it was taken."
        problems.append(
            Problem(node.name, f"{found.path} is another file", remedy, want_sha256[:16], found.sha256[:16])
        )
    if problems:
        raise SnapshotError("the snapshot cannot be relied on", problems, where=node.name)
    log.info("%s: snapshot %s verified: %d bytes", node.name, found.name, found.file_bytes or 0)
    return found


def known_tokens(site: Site) -> frozenset[str]:
    """Return the hashes of the server tokens that the site's blocks keep: the present one and the archived ones."""
    block = site.spec.rke2.token_block
    present = site.secrets.read("secret-text", block)
    archive = site.secrets.read("secret-text", archive_block(block))
    kept = parse_archive(archive["value"].get_secret_value() if archive else None, archive_block(block))
    now = {token_hash(present["value"].get_secret_value())} if present else set()
    return frozenset(now | {entry.hash for entry in kept})


def _recorded(site: Site, node: Node, name: str) -> SnapshotFacts | None:
    """Return the local record of a file when it is ready or has failed; None while there is none."""
    try:
        found = [one for one in read_snapshots(site) if (one.name, one.node, one.storage) == (name, node.name, "local")]
    except ApiUnavailableError:
        return None
    return next((one for one in found if one.ready or one.error), None)


def _fresh(site: Site, node: Node, name: str, fresh_s: float) -> SnapshotFacts | None:
    """Return the newest verified snapshot of this name that is not older than `fresh_s`, or None."""
    since = site.clock.now() - fresh_s
    for found in read_snapshots(site) if fresh_s else ():
        mine = found.node == node.name and found.storage == "local" and found.name.startswith(f"{name}-{node.name}-")
        if mine and found.ready and found.created_s >= since:
            try:
                return verify_snapshot(site, node, found.name)
            except SnapshotError as error:
                log.warning("%s: snapshot %s is not used: %s", node.name, found.name, error.problems[0].what)
    return None


@task(
    task_run_name="snapshot-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=3600,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=only_transient,
)
async def ensure_snapshot(
    site: Site, node: Node, lease: LeaseHandle, name: str, fresh_s: float = 3600.0
) -> SnapshotFacts:
    """Have a verified etcd snapshot of this name that is not older than `fresh_s`; take one if there is none."""
    return await in_thread(take_snapshot, site, node, lease, name, fresh_s=fresh_s)
