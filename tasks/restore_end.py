"""The end of a restore: hosts that are gone leave the cluster, its access is kept, the way is free for another one."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from stackwright.clients.secrets import Secrets
from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.errors import GateTimeoutError, StackError
from stackwright.domain.restore import clean_step, close_step, first_of
from stackwright.domain.restore_scripts import close_script
from stackwright.domain.rke2 import Rke2Change
from stackwright.domain.token_archive import archive_block, parse_archive, render_archive, token_hash, with_token
from tasks.cluster import save_access
from tasks.restore_gates import forget_password
from tasks.restore_site import Bundle, BundleSecrets
from tasks.scripts import send

log = logging.getLogger(__name__)

DEAD_WITHIN_S = 120.0
"""The cluster marks a Node whose kubelet is silent within 40 s, by its default."""


def clean_cluster(site: Site, lease: LeaseHandle, bundle: Bundle) -> tuple[str, ...]:
    """Remove Nodes and node passwords of hosts that the site file does not have; return their names.

    Only those that the cluster has seen dead: a Node that stays Ready is somebody's host, and is left with a warning.
    """
    kube = site.kube()
    known = {node.name for node in (*site.spec.nodes, *site.spec.removed)}
    strange = {status.name for status in kube.nodes()} - known
    gone = _dead(site, strange)
    for name in sorted(strange - gone):
        log.warning("%s is no node of the site file, but it reports to the cluster: it is left", name)
    for name in sorted(gone):
        lease.check()
        log.info("%s: %s", name, clean_step(bundle.manifest).summary)
        forget_password(site, name)  # first: a run that dies in between finds the Node, and comes by here again
        kube.delete("v1", "Node", name)
    return tuple(sorted(gone))


def _dead(site: Site, names: set[str]) -> set[str]:
    """Return those of these Nodes that are not Ready, after the time in which the cluster notices."""

    def dead() -> set[str]:
        return {status.name for status in site.kube().nodes() if status.name in names and not status.ready}

    try:
        return wait_until(
            lambda: found if (found := dead()) == names else None, "the lost hosts' Nodes not Ready",
            timeout_s=DEAD_WITHIN_S, poll_s=site.spec.rke2.poll_s, clock=site.clock, where=site.spec.site,
        )  # fmt: skip
    except GateTimeoutError:
        return dead()


def keep_access(site: Site, lease: LeaseHandle, bundle: Bundle) -> None:
    """Keep the restored cluster's kubeconfig and token in the site's own secrets; a later token goes to the archive.

    `site` is of `with_bundle`. The token that the block holds now may be younger than the bundle: snapshots that were
    taken with it need it.
    """
    secrets = site.secrets
    if not isinstance(secrets, BundleSecrets):
        raise StackError("the site's secrets are not the bundle's", where=site.spec.site, wanted="with_bundle")
    lease.check()
    block = site.spec.rke2.token_block
    _archive_token(secrets.behind, block, bundle, site.clock.now())
    with site.shells.open(first_of(site.spec)) as shell:
        save_access(site, shell)
    secrets.pass_on("secret-text", block)
    secrets.pass_on("cluster-access", site.spec.rke2.kubeconfig_block)


def _archive_token(secrets: Secrets, block: str, bundle: Bundle, now_s: float) -> None:
    kept = secrets.read("secret-text", block)
    if kept is None or token_hash(kept["value"].get_secret_value()) == bundle.manifest.token_hash:
        return
    archive = archive_block(block)
    found = secrets.read("secret-text", archive)
    entries = parse_archive(found["value"].get_secret_value() if found else None, archive)
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    secrets.write("secret-text", archive, {"value": render_archive(with_token(entries, kept["value"], at))})
    log.info("block %s: the token of before the restore is kept there", archive)


def close_restore(site: Site, lease: LeaseHandle, bundle: Bundle) -> None:
    """End the restore: the snapshot's clear copy goes, and the marker by which a dead run would go on."""
    first = first_of(site.spec)
    with site.shells.open(first) as shell:
        send(site, shell, lease, [Rke2Change(close_step(bundle.manifest, first), close_script())])
