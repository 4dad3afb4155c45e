"""The spare host in the drill's hand: locked, wiped, prepared, fenced. Nothing here touches production.

What is wanted there is in stackwright/domain/drill_site.py and drill_host.py, the fence in drill_fence.py. The lock is
a lease of the spare host's own, held in its one file: the restored cluster holds production's lease object, which is
not asked.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.connect import connect
from stackwright.clients.secrets import Secrets
from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.ssh import NodeShell
from stackwright.domain.bundle import BundleError
from stackwright.domain.bundle_checks import fault, refuse
from stackwright.domain.drill_fence import (
    check_fence,
    fence_script,
    fence_targets,
    fence_timeout_s,
    fenced_names,
    parse_fence,
)
from stackwright.domain.drill_host import (
    NO_SUCH_FILE,
    HostState,
    check_host,
    host_script,
    mark_script,
    parse_host,
    wipe_script,
)
from stackwright.domain.drill_site import allowed_blocks, check_drill_site, drill_of, spare_host
from stackwright.domain.errors import PlanRefusedError, StackError
from stackwright.domain.kinds import Kind
from stackwright.domain.lease import Holder
from stackwright.domain.node_plan import plan_node
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.shell import Batch, Command
from stackwright.domain.spec import Node, StackSpec
from tasks.lease import Lease
from tasks.lease_holder import this_run
from tasks.nodes import read_node
from tasks.restore import prepare_host

log = logging.getLogger(__name__)

WIPE_S = 900.0
LOOPBACK = ("127.0.0.1", "::1")  # the controller's own: from the spare host it would be that itself
Addresses = Mapping[str, tuple[str, ...]]


class DrillSecrets:
    """The blocks that a drill may read of the site's own, and those that it makes: in memory, gone with the drill."""

    def __init__(self, base: Secrets, allowed: frozenset[tuple[Kind, str]], kept: Mapping[str, SecretStr]) -> None:
        """`kept` maps names of secret texts to their values."""
        self._base, self._allowed = base, allowed
        self._kept: dict[tuple[Kind, str], Mapping[str, SecretStr]] = {
            ("secret-text", name): {"value": value} for name, value in kept.items()
        }

    def read(self, kind: Kind, name: str) -> Mapping[str, SecretStr] | None:
        """Return a block of the drill's own, or an allowed one of the site's; for any other there is none."""
        if (kind, name) in self._kept:
            return self._kept[kind, name]
        return self._base.read(kind, name) if (kind, name) in self._allowed else None

    def write(self, kind: Kind, name: str, fields: Mapping[str, SecretStr]) -> None:
        """Keep a block for as long as the drill lasts."""
        self._kept[kind, name] = dict(fields)

    def remove(self, kind: Kind, name: str) -> None:
        """Forget a block of the drill's own; the site's are out of reach."""
        self._kept.pop((kind, name), None)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of the drill's own blocks of a kind."""
        return tuple(sorted(name for of, name in self._kept if of == kind))


Connect = Callable[[StackSpec, Secrets, Path], Site]


def fenced_site(site: Site, spec: StackSpec, token: SecretStr, made: Connect = connect) -> Site:
    """Return the spare host's own site: production's SSH key, and otherwise only what the drill has made itself."""
    secrets = DrillSecrets(site.secrets, allowed_blocks(site.spec), {spec.rke2.token_block: token})
    workdir = site.workdir / "drill"
    workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return replace(made(spec, secrets, workdir), shells=site.shells, clock=site.clock)


def look_up(names: tuple[str, ...], known: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of host names as the controller knows them; none for a name that it does not know."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        try:
            rows = [known[name]] if name in known else _addresses(name)
        except socket.gaierror as error:
            log.info("%s is not known here: %s", name, error.strerror)
            rows = []
        found[name] = tuple(dict.fromkeys(row for row in rows if row not in LOOPBACK))
    return found


def _addresses(name: str) -> list[str]:
    return [str(row[4][0]) for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def check_place(site: Site) -> Addresses:
    """Return where the fence's names lead. Raises PlanRefusedError for a spare host that is none."""
    drill_of(site.spec)
    addresses = look_up(fenced_names(site.spec), site.spec.dns.hosts)
    problems = check_drill_site(site.spec, addresses)
    if problems:
        raise PlanRefusedError("no drill can be held at this site", problems, where=site.spec.site)
    return addresses


# --- the fence -------------------------------------------------------------------------------------------------------


def ensure_fence(site: Site, shell: NodeShell, addresses: Addresses, bundle: str, when: str) -> int:
    """See that nothing of production answers from the spare host; return how many addresses were asked.

    Raises BundleError (fence-open) with everything that answers, or of which it is not known.
    """
    host, targets = spare_host(site.spec), fence_targets(site.spec, addresses)
    answers = parse_fence(targets, shell.read(fence_script(host, targets), fence_timeout_s(targets)))
    problems = check_fence(host, answers)
    if problems:
        raise BundleError("fence-open", f"the spare host is not fenced off {when}", problems, where=bundle)
    log.info("%s: the fence is closed %s: %d addresses are silent", host.name, when, len(targets))
    return len(targets)


# --- the lock --------------------------------------------------------------------------------------------------------


@contextmanager
def locked(site: Site, holder: Holder | None = None) -> Iterator[LeaseHandle]:
    """Hold the spare host for as long as the context lasts. Raises LeaseHeldError while another drill does."""
    host = spare_host(site.spec)
    spec = site.spec.model_copy(update={"site": f"{site.spec.site}-drill", "nodes": (host,), "removed": ()})
    nothing = DrillSecrets(site.secrets, frozenset(), {})  # no access to any cluster: the host's file is the one place
    lease = Lease(replace(site, spec=spec, secrets=nothing), holder or this_run())
    lease.take(Plan(spec.site, (_step(host, "hold", "restore a bundle", Effect.DATA_AT_RISK),)))
    lease.keep()
    try:
        yield lease
    finally:
        try:
            lease.release(finished=True)
        except StackError as error:
            # The drill's own outcome counts; the lock frees itself when its time is over, or this process is gone.
            log.warning("%s: the lock could not be given back: %s", host.name, error)


def _step(host: Node, what: str, summary: str, effect: Effect) -> Step:
    return Step(f"drill/{host.name}/{what}", host.name, summary, effect, "5.3", "the host is clean afterwards")


# --- the host --------------------------------------------------------------------------------------------------------


def look_at_host(spec: StackSpec, shell: NodeShell) -> HostState:
    """Return what lies on the spare host, and whether the release can be had there. `spec` is the drill's own."""
    return parse_host(shell.read(host_script(spec)), spec.nodes[0].name)


def check_spare(spec: StackSpec, seen: HostState, bundle: str) -> None:
    """Refuse a host that is somebody's (PlanRefusedError), and a release that is nowhere (BundleError)."""
    problems = check_host(spec.nodes[0].name, seen)
    if problems:
        raise PlanRefusedError("the spare host may not be wiped", problems, where=spec.nodes[0].name)
    if seen.release == str(NO_SUCH_FILE):
        what = "the release of the bundle cannot be had"
        remedy = "Bring its artifacts to rke2.artifacts: without them the bundle cannot be restored at all."
        refuse([fault("wrong-version", bundle, what, spec.rke2.version, "no such release there", remedy)], bundle)


def check_artifacts(spec: StackSpec, bundle: str) -> None:
    """Refuse a release whose folder is not on the controller (BundleError). `spec` is the drill's own."""
    want = spec.rke2.artifacts
    if want.source != "folder" or want.on_nodes or Path(want.folder or "").is_dir():
        return
    remedy = "Bring its artifacts there: without them the bundle cannot be restored at all."
    what = "the release of the bundle cannot be had"
    refuse([fault("wrong-version", bundle, what, f"{spec.rke2.version} in {want.folder}", "no folder", remedy)], bundle)


def ensure_wiped(spec: StackSpec, shell: NodeShell, lease: LeaseHandle) -> None:
    """Take everything of a drill off the spare host. Changes nothing on a clean one.

    Raises PlanRefusedError where RKE2 lies there without the marker.
    """
    seen = look_at_host(spec, shell)
    check_spare(spec, replace(seen, release=""), "")
    if seen.clean:
        return
    log.info("%s: the drill %s is wiped off", spec.nodes[0].name, seen.mark)
    _apply(shell, lease, spec.nodes[0], "wipe", wipe_script(), WIPE_S)


def mark_host(spec: StackSpec, shell: NodeShell, lease: LeaseHandle, bundle: str) -> None:
    """Mark the host as one of a drill, before anything else is done on it."""
    _apply(shell, lease, spec.nodes[0], "mark", mark_script(bundle), 60.0)


def _apply(shell: NodeShell, lease: LeaseHandle, host: Node, what: str, body: str, timeout_s: float) -> None:
    """Send one step, past the quorum guard: the host is in no cluster that anybody needs, its marker says so."""
    lease.check()
    command = Command(f"drill/{host.name}/{what}", "-", body, timeout_s=timeout_s)
    shell.apply(Batch((command,), lease.number, f"drill-{lease.number}"))


def prepare(fenced: Site, lease: LeaseHandle, bundle: str) -> None:
    """Prepare the spare host and install RKE2; start nothing. Changes nothing the second time.

    Raises BundleError (wrong-version) when the release that was brought is another one than the bundle's.
    """
    host = fenced.spec.nodes[0]
    steps = tuple(change.step for change in plan_node(fenced.spec, host, read_node(fenced, host)))
    version = prepare_host(fenced, host, lease, Plan(fenced.spec.site, steps)).rke2.version
    if version != fenced.spec.rke2.version:
        what = "the artifacts are those of another release than the bundle's"
        remedy = "Bring the artifacts of the bundle's release to rke2.artifacts."
        refuse([fault("wrong-version", bundle, what, fenced.spec.rke2.version, version or "none", remedy)], bundle)
