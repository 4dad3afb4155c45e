"""The two places where a site's lease lies, on their wires: the first server's file and the cluster's object.

Both are read and then changed only if they still are what was read. What their answers mean is in
stackwright/domain/lease.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site
from stackwright.clients.ssh import NodeShell, StepFailedError, StepTimeoutError
from stackwright.clients.threads import RunThreads
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import (
    ApiError,
    ConflictError,
    NodeUnreachableError,
    NotFoundError,
    RemoteStepError,
    SecretsUnavailableError,
    StackError,
)
from stackwright.domain.lease import Copy, LeaseState, NoLeasePlaceError, lease_script, parse_lease, swap_script
from stackwright.domain.lease_object import API, KIND, NAMESPACE, lease_name, new_object, parse_object, patch_of
from stackwright.domain.shell import Batch, Command, NodeBusyError
from stackwright.domain.spec import Node

log = logging.getLogger(__name__)

CLUSTER = "cluster"
MOVED = 9  # exit code of a swap that found another content
SILENT = (NodeUnreachableError, StepTimeoutError, ApiError, SecretsUnavailableError)
"""What says that a place does not answer; anything else, such as a changed host key, stops the run."""

Swap = Callable[[LeaseState, str], bool]


@dataclass(frozen=True)
class Answer:
    """One place's copy, and how to write another in its stead: False when the place has moved since.

    `fence` is the largest fencing number that this place's node has seen.
    """

    copy: Copy
    swap: Swap
    fence: int = 0


@dataclass(frozen=True)
class Looks:
    """What both places answered, and why one did not."""

    answers: tuple[Answer, ...]
    silent: Mapping[str, StackError]

    @property
    def copies(self) -> tuple[Copy, ...]:
        return tuple(answer.copy for answer in self.answers)

    @property
    def fence(self) -> int:
        return max(answer.fence for answer in self.answers)

    @property
    def cluster_alone(self) -> bool:
        return [answer.copy.place for answer in self.answers] == [CLUSTER]


def has_cluster(site: Site) -> bool:
    """Tell whether the site has a cluster to ask: its access is kept from the moment the first server is up."""
    return site.secrets.read("cluster-access", site.spec.rke2.kubeconfig_block) is not None


@contextmanager
def look_at_places(site: Site) -> Iterator[Looks]:
    """Read every place there is, and keep the connections until the end of the context, for the answers' swaps.

    Raises NoLeasePlaceError when none answers (before there is a cluster: what the first server's client raises), and
    LeaseBrokenError for a copy that is no lease.
    """
    answers: list[Answer] = []
    silent: dict[str, StackError] = {}
    with ExitStack() as stack:
        for place, look in ((site.spec.servers[0].name, _look_at_server), (CLUSTER, _look_at_cluster)):
            try:
                answer = look(site, stack)
            except SILENT as error:
                silent[place] = error
            else:
                answers += [answer] if answer else []
        if not answers:
            raise _nobody(site, silent)
        yield Looks(tuple(answers), silent)


def _nobody(site: Site, silent: Mapping[str, StackError]) -> StackError:
    if len(silent) == 1:
        return next(iter(silent.values()))
    seen = "; ".join(f"{place}: {error.what} ({error.seen or error.where})" for place, error in silent.items())
    return NoLeasePlaceError(
        "the lease cannot be read in any place", where=site.spec.site, wanted=" or ".join(silent), seen=seen
    )


def _look_at_server(site: Site, stack: ExitStack) -> Answer:
    server = site.spec.servers[0]
    opening: AbstractContextManager[NodeShell] = site.shells.open(server)
    shell = stack.enter_context(opening)
    seen = shell.read(lease_script())
    lease, fence = seen["lease"], seen["fence"]
    if lease.rc and not lease.absent:
        raise StackError("the lease could not be read", where=server.name, seen=f"exit code {lease.rc}")
    text = None if lease.absent else lease.out
    copy = Copy(server.name, parse_lease(text, server.name), float(seen["now"].out))

    def swap(state: LeaseState, what: str) -> bool:
        command = Command(f"lease/{site.spec.site}/{what}", str(state.number), swap_script(text, state))
        try:
            shell.apply(Batch((command,), state.number, f"lease-{state.number}"))
        except StepFailedError as error:
            if error.outcome.rc == MOVED:
                return False
            raise
        return True

    return Answer(copy, swap, int(fence.out.strip() or 0))


def _look_at_cluster(site: Site, stack: ExitStack) -> Answer | None:
    """Return the cluster's answer; None where there is no cluster yet."""
    if not has_cluster(site):
        return None
    kube = site.kube()
    obj, now = kube.get_dated(API, KIND, lease_name(site.spec.site), NAMESPACE)

    def swap(state: LeaseState, what: str) -> bool:
        return _write_object(kube, site.spec.site, obj, state)

    return Answer(Copy(CLUSTER, parse_object(obj), now), swap)


def fence_nodes(site: Site, number: int) -> None:
    """Tell every node a new fencing number, all at once: a holder of before that wakes up finds no open door.

    A script of that holder that is still at work is waited for. A node that cannot be told is named in the log: it
    learns the number with the first change. Raises FencedError when a node knows a larger one.
    """
    with RunThreads(max_workers=min(len(site.spec.nodes), site.spec.ssh.width)) as pool:
        list(pool.map(lambda node: _fence(site, node, number), site.spec.nodes))


def _fence(site: Site, node: Node, number: int) -> None:
    command = Command(f"lease/{site.spec.site}/fence", str(number), ":")
    try:
        with site.shells.open(node) as shell:
            shell.apply(Batch((command,), number, f"lease-{number}"))
    except (NodeUnreachableError, NodeBusyError, RemoteStepError) as error:
        log.warning("%s was not told fencing number %d: %s", node.name, number, error)


def _write_object(kube: KubeClient, site: str, seen: Obj | None, state: LeaseState) -> bool:
    try:
        if seen is None:
            kube.create(new_object(site, state))
        else:
            kube.patch_merge(API, KIND, lease_name(site), patch_of(seen, state), NAMESPACE)
    except (ConflictError, NotFoundError):
        return False
    return True
