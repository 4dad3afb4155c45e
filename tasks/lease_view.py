"""Looking at a site's lease without touching it: both copies, and the fencing number that each node has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from stackwright.clients.site import Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.errors import StackError
from stackwright.domain.lease import LeaseState, fence_section, lease_script, parse_lease
from stackwright.domain.lease_object import API, KIND, NAMESPACE, lease_name, parse_object
from stackwright.domain.shell import read_script
from stackwright.domain.spec import Node
from tasks.lease_places import CLUSTER, has_cluster

T = TypeVar("T")


@dataclass(frozen=True)
class PlaceView:
    """One place's copy, with that place's clock. `problem` says why it could not be read."""

    place: str
    state: LeaseState | None = None
    now: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class FenceView:
    """The largest fencing number that a node has seen; None where it could not be read."""

    node: str
    number: int | None
    problem: str = ""


@dataclass(frozen=True)
class LeaseView:
    """The lease of a site as it lies now. A site without a cluster has one place."""

    places: tuple[PlaceView, ...]
    fences: tuple[FenceView, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        said = [*(place.problem for place in self.places), *(fence.problem for fence in self.fences)]
        return tuple(problem for problem in said if problem)


def read_lease(site: Site) -> LeaseView:
    """Look at every place and every node at once. What cannot be read is said, and never taken for free."""
    nodes = site.spec.nodes
    with RunThreads(max_workers=min(len(nodes) + 2, site.spec.ssh.width)) as pool:
        server = pool.submit(_server, site)
        cluster = pool.submit(_cluster, site)
        fences = tuple(pool.map(lambda node: _fence(site, node), nodes))
        places = (server.result(), cluster.result())
    return LeaseView(tuple(place for place in places if place is not None), fences)


def _server(site: Site) -> PlaceView:
    node = site.spec.servers[0]

    def look() -> PlaceView:
        with site.shells.open(node) as shell:
            seen = shell.read(lease_script())
        text = None if seen["lease"].absent else seen["lease"].out
        return PlaceView(node.name, parse_lease(text, node.name), float(seen["now"].out))

    return _or_problem(look, lambda problem: PlaceView(node.name, problem=problem))


def _cluster(site: Site) -> PlaceView | None:
    def look() -> PlaceView | None:
        if not has_cluster(site):
            return None
        obj, now = site.kube().get_dated(API, KIND, lease_name(site.spec.site), NAMESPACE)
        return PlaceView(CLUSTER, parse_object(obj), now)

    return _or_problem(look, lambda problem: PlaceView(CLUSTER, problem=problem))


def _fence(site: Site, node: Node) -> FenceView:
    def look() -> FenceView:
        with site.shells.open(node) as shell:
            seen = shell.read(read_script(fence_section()))["fence"]
        return FenceView(node.name, 0 if seen.absent else int(seen.out.strip() or 0))

    return _or_problem(look, lambda problem: FenceView(node.name, None, problem))


def _or_problem(look: Callable[[], T], told: Callable[[str], T]) -> T:
    try:
        return look()
    except StackError as error:
        return told(str(error))
