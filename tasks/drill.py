"""Drills: a bundle restored on the fenced spare host, compared with what it says, judged, and wiped away.

Production's cluster, nodes and lease are never needed and never touched. What is compared and what a drill is worth is
in stackwright/domain/drill.py; the spare host is in drill_place.py.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.bundle import KNOWN_NAME, KNOWN_NAMESPACE, BundleError, Manifest, Proof, known_sum
from stackwright.domain.bundle_checks import Fault, check_age, fault, refuse
from stackwright.domain.drill import Judgement, Subject, Times, judge_drill
from stackwright.domain.drill_compare import Restored, RestoredNode, check_authority, check_counts
from stackwright.domain.drill_host import EtcdCount, count_script, parse_count
from stackwright.domain.drill_site import drill_of, drill_spec
from stackwright.domain.errors import ApiError, ApiUnavailableError, FencedError, Problem, StackError
from stackwright.domain.etcd_file import EtcdFileError, read_etcd_file
from stackwright.domain.spec import Node
from tasks.bundles import OpenBundle, backup_identity, backup_of, keep_proof, list_bundles, open_bundle, stores
from tasks.drill_place import (
    check_artifacts,
    check_place,
    check_spare,
    ensure_fence,
    ensure_wiped,
    fenced_site,
    locked,
    look_at_host,
    mark_host,
    prepare,
)
from tasks.restore import restore_first
from tasks.streams import reader_of, unnamed_file

log = logging.getLogger(__name__)

Restore = Callable[[Site, Node, LeaseHandle, OpenBundle], None]
COUNT_S = 900.0
API_PATIENCE_S = 120.0
NOT_OF_THE_BUNDLE = ("store-unreachable", "store-refused", "fence-open")
"""Reasons that say nothing of a bundle: they leave what an earlier drill has proven of it."""


# --- without a host --------------------------------------------------------------------------------------------------


def find_bundle(site: Site, bundle: str = "") -> str:
    """Return the name of the bundle to drill: the newest of the site's store where none is named.

    One that is broken counts: that the newest backup is no good must be said. Raises BundleError (no-bundle).
    """
    if bundle:
        return bundle
    store = stores(site)[0]
    found = list_bundles(store, site.spec.site)
    if not found:
        remedy = "Run snapshot-etcd; look that its folder and bucket are these."
        refuse([fault("no-bundle", store.where, "the store holds no bundle of the site", "one", "none", remedy)], "")
    return found[0].id


def check_opened(site: Site, bundle: OpenBundle, *, newest: bool = True) -> None:
    """Look at everything of an open bundle that can be seen without a host. Raises BundleError with all of it.

    Its age counts only where it is the `newest`: an older one may be drilled for its own sake.
    """
    token = site.secrets.read("secret-text", site.spec.rke2.token_block)
    faults = check_authority(bundle.manifest, bundle.state.token, token["value"] if token else None)
    faults += check_age(bundle.manifest, site.clock.now(), backup_of(site).stale_after_h) if newest else []
    refuse([*faults, *_snapshot_faults(site, bundle)], bundle.where)


def _snapshot_faults(site: Site, bundle: OpenBundle) -> list[Fault]:
    """Read the snapshot to its end, every sum of it, and count what is in it."""
    try:
        with bundle.snapshot() as stream, unnamed_file(site.workdir, stream) as file:
            seen = read_etcd_file(*reader_of(file))
    except EtcdFileError as error:
        return [fault(error.reason, bundle.manifest.id, error.what, error.wanted, error.seen)]
    return check_counts(bundle.manifest, seen.revision, seen.counts)


# --- on the spare host -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restoration:
    """A bundle restored on the fenced spare host. `lease` is the right to change that host, `restore_s` when it began.

    `site` reaches that cluster alone.
    """

    site: Site
    lease: LeaseHandle
    restore_s: float


@contextmanager
def restoring(site: Site, bundle: OpenBundle, restore: Restore = restore_first) -> Iterator[Restoration]:
    """Restore a bundle on the spare host for as long as the context lasts. The host is wiped before and after.

    What a drill that died has left there is wiped by its marker. Raises PlanRefusedError for a host that is not spare,
    LeaseHeldError while another drill holds it, BundleError with the reason for which it could not be restored.
    """
    name = bundle.manifest.id
    addresses = check_place(site)
    spec = drill_spec(site.spec, bundle.manifest, bundle.state)
    fenced = fenced_site(site, spec, bundle.state.token)
    host = spec.nodes[0]
    with locked(site) as lease:
        with site.shells.open(host) as shell:
            check_artifacts(spec, name)
            check_spare(spec, look_at_host(spec, shell), name)
            ensure_wiped(spec, shell, lease)
            ensure_fence(site, shell, addresses, name, "before anything is started")
            mark_host(spec, shell, lease, name)
        try:
            prepare(fenced, lease, name)
            with site.shells.open(host) as shell:
                ensure_fence(site, shell, addresses, name, "right before RKE2 starts")
            began_s = site.clock.now()
            _restore(fenced, lease, bundle, restore)
            yield Restoration(fenced, lease, began_s)
        finally:
            shutil.rmtree(fenced.workdir, ignore_errors=True)  # it may hold the fenced cluster's access, for helm
            with site.shells.open(host) as shell:
                ensure_wiped(spec, shell, lease)


@contextmanager
def restored(site: Site, bundle: OpenBundle) -> Iterator[Site]:
    """Like `restoring`, for those who need the fenced cluster's site alone."""
    with restoring(site, bundle) as restoration:
        yield restoration.site


def _restore(fenced: Site, lease: LeaseHandle, bundle: OpenBundle, restore: Restore) -> None:
    """Restore; what fails there is the bundle's, unless it is a link or another run."""
    try:
        restore(fenced, fenced.spec.nodes[0], lease, bundle)
    except (BundleError, FencedError):
        raise
    except StackError as error:
        if error.transient:
            raise
        problem = Problem(error.where or bundle.manifest.id, error.what, error.how_to_fix, error.wanted, error.seen)
        raise BundleError("restore-failed", "RKE2 does not restore the bundle", [problem]) from error


def read_restored(fenced: Site, manifest: Manifest) -> Restored:
    """Return what the restored cluster holds, from its API and from its etcd. Raises GateTimeoutError, AnswerError."""
    host = fenced.spec.nodes[0]
    with fenced.shells.open(host) as shell:
        seen = shell.read(count_script(manifest.snapshot.revision), COUNT_S)
    count = parse_count(seen, host.name)
    last = ""

    def look() -> Restored | None:
        nonlocal last
        try:
            return _look(fenced.kube(), count)
        except ApiUnavailableError as error:
            last = str(error)
            return None

    return wait_until(
        look, "the restored content through the API", timeout_s=API_PATIENCE_S, poll_s=fenced.spec.rke2.poll_s,
        clock=fenced.clock, where=host.name, last=lambda: last,
    )  # fmt: skip


def _look(kube: KubeClient, count: EtcdCount) -> Restored:
    system = kube.get("v1", "Namespace", "kube-system")
    known = kube.get("v1", "ConfigMap", KNOWN_NAME, KNOWN_NAMESPACE)
    nodes = {
        obj["metadata"]["name"]: RestoredNode(
            obj["metadata"]["uid"], str(((obj.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", ""))
        )
        for obj in kube.list("v1", "Node")
    }
    return Restored(
        cluster_id=system["metadata"]["uid"] if system else "",
        nodes=nodes,
        revision=count.revision,
        counts=count.counts,
        exact=count.exact,
        known_sha256=known_sum(known.get("data") or {}) if known else None,
        secrets=_secrets(kube),
    )


def _secrets(kube: KubeClient) -> int | None:
    """Return how many Secrets the API lists; None where it cannot: one that it cannot decrypt fails the whole list."""
    try:
        return len(kube.list("v1", "Secret"))
    except ApiUnavailableError:
        raise
    except ApiError as error:
        log.warning("the restored Secrets cannot be listed: %s", error)
        return None


# --- the whole drill -------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """What a drill has got to so far."""

    site: Site
    times: Times
    subject: Subject = field(default_factory=Subject)
    bundle: OpenBundle | None = None
    seen: Restored | None = None

    def carry_out(self, name: str) -> None:
        """Open, restore, read. Raises BundleError with the reason for which it goes no further."""
        self.subject = Subject(find_bundle(self.site, name))
        store, identity = stores(self.site)[0], backup_identity(self.site)
        opened = self.bundle = open_bundle(store, self.site.spec.site, self.subject.bundle, identity)
        check_opened(self.site, opened, newest=not name)
        self.subject = Subject(opened.manifest.id, opened.manifest, opened=True)
        with restoring(self.site, opened) as restoration:
            self.times = replace(self.times, restore_s=restoration.restore_s)
            self.seen = read_restored(restoration.site, opened.manifest)
            self.times = replace(self.times, verified_s=self.site.clock.now())


def drill(site: Site, bundle: str = "") -> Judgement:
    """Restore a bundle (the newest of the store where none is named) on the spare host, and return what it is worth.

    The proof is kept in the store, of a pass as of a failure. Whatever is no fault of a bundle is raised: a spare host
    that is none or is held by another drill, a link that is lost.
    """
    run, faults = _Run(site, Times(site.clock.now())), list[Fault]()
    try:
        run.carry_out(bundle)
    except BundleError as error:
        faults = [Fault(error.reason, problem) for problem in error.problems]
        log.warning("%s", error)
    judged = judge_drill(run.subject, backup_of(site), drill_of(site.spec), run.times, run.seen, faults)
    _keep(site, run.bundle, judged)
    return judged


def _keep(site: Site, bundle: OpenBundle | None, judged: Judgement) -> Proof | None:
    """Keep the proof, where there is a bundle whose seal it can have, and the reason is the bundle's own."""
    if bundle is None or judged.reason in NOT_OF_THE_BUNDLE:
        return None
    return keep_proof(site, bundle, judged.proof(site.clock.now()))
