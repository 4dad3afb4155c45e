"""Storage proved by work: a volume shared by two nodes, and one that outlives what a node held of it.

No node is cordoned, stopped or drained: the second pod is kept from the first node by its own affinity, and what is
taken away is one copy of a volume that this run has made.
"""

from __future__ import annotations

import logging
from functools import partial

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import GateTimeoutError, NotFoundError
from stackwright.domain.layers.shared import APPCO_HOST, APPCO_PULL_SECRET, STORAGE_CLASS, pull_names
from stackwright.domain.layers.storage import API, NAMESPACE
from stackwright.domain.values import docker_config
from stackwright.domain.work_objects import (
    CLAIM,
    LOSS,
    SHARED,
    Sum,
    claim_of,
    pull_secret,
    read_sum,
    volume_pod,
    work_nodes,
)
from stackwright.domain.work_storage import (
    Copy,
    LossSeen,
    Side,
    copies_of,
    is_whole,
    judge_loss,
    judge_shared,
    judge_volumes,
)
from tasks.preflight_controller import login_of
from tasks.smoke import MANAGER_DAEMON_SET, manager_image
from tasks.work_ground import Ground, WorkFailedError, ground

log = logging.getLogger(__name__)

ONE, TWO = "one", "two"


def share_volume(site: Site) -> Outcome:
    """Let two pods on two nodes exchange a file each over one volume that both have open."""
    nodes = work_nodes(site.spec, site.kube().nodes())
    if (short := _too_few(site, nodes)) is not None:
        return short
    with ground(site, SHARED) as place:
        began = site.clock.now()
        claim(place, "ReadWriteMany")
        for name, node, other in ((ONE, nodes[0], TWO), (TWO, nodes[1], ONE)):
            _start(place, name, node, "exchange", other)
        state = partial(place.state, ONE, TWO)
        for name in (ONE, TWO):
            place.wait(partial(place.said, name, partial(read_sum, verb="READ")), f"what pod {name} read", state)
        return judge_shared(_side(place, ONE), _side(place, TWO), site.clock.now() - began)


def _side(place: Ground, name: str) -> Side:
    text = place.log_of(name)
    return Side(place.pod(name)["spec"]["nodeName"], read_sum(text, "WROTE"), read_sum(text, "READ"))


def lose_node(site: Site) -> Outcome:
    """Write on one node, take the pod and the copy there away, read on another, and wait until the volume is whole."""
    nodes = work_nodes(site.spec, site.kube().nodes())
    if (short := _too_few(site, nodes)) is not None:
        return short
    if site.spec.layers.storage.replicas < 2:
        return Outcome("skipped", "volumes have one copy (layers.storage.replicas): none survives its node")
    with ground(site, LOSS) as place:
        return judge_loss(_lose(place, nodes[0], nodes[1]))


def _lose(place: Ground, first: str, second: str) -> LossSeen:
    clock = place.site.clock
    claim(place, "ReadWriteOnce")
    _start(place, ONE, first, "keep", ONE)
    wrote = place.wait(partial(place.said, ONE, partial(read_sum, verb="WROTE")), "the write", lambda: place.state(ONE))
    volume = volume_name(place)
    before = wait_whole(place, volume)
    place.end(ONE)
    lost = next((copy for copy in before if copy.node == first), before[0])
    log.info("%s: copy %s on %s is removed", place.work, lost.name, lost.node)
    place.kube.delete(API, "Replica", lost.name, NAMESPACE)
    began = clock.now()
    _start(place, TWO, second, "read", ONE)
    read = place.wait(partial(place.said, TWO, partial(read_sum, verb="READ")), "the read", lambda: place.state(TWO))
    read_s = clock.now() - began
    return LossSeen(
        first, place.pod(TWO)["spec"]["nodeName"], tuple(copy.node for copy in before), lost, wrote, read, read_s,
        _whole_again(place, volume, lost, began, read, wrote),
    )  # fmt: skip


def _whole_again(place: Ground, volume: str, lost: Copy, began: float, read: Sum, wrote: Sum) -> float | None:
    """Return after how long the volume was healthy again, None where it was not; nobody waits for wrong data."""
    if read != wrote:
        return None
    try:
        wait_whole(place, volume, lost.uid)
    except GateTimeoutError as error:
        log.warning("%s: %s", place.work, error)
        return None
    return place.site.clock.now() - began


def look_volumes(site: Site) -> Outcome:
    """Look at the state of every volume."""
    kube = site.kube()
    return judge_volumes(kube.list(API, "Volume", NAMESPACE), kube.list(API, "Replica", NAMESPACE))


# --- steps -----------------------------------------------------------------------------------------------------------


def _too_few(site: Site, nodes: list[str]) -> Outcome | None:
    """Two nodes are needed: a site that has but one is skipped, one whose nodes are away is unknown."""
    if not site.spec.layers.storage.enabled:
        return Outcome("skipped", "layers.storage is disabled")
    if len(nodes) >= 2:
        return None
    if len(site.spec.nodes) < 2:
        return Outcome("skipped", "the site has one node")
    return Outcome("unknown", f"two nodes that take pods are needed, there are: {', '.join(nodes) or 'none'}")


def claim(place: Ground, mode: str) -> None:
    """Claim the volume, and bring the login for the pods' image."""
    place.kube.create(claim_of(place.space, STORAGE_CLASS, mode))
    login = login_of(place.site, place.site.spec.charts.credentials.get(APPCO_HOST, ""))
    if login is not None:
        config = docker_config(APPCO_HOST, *(part.get_secret_value() for part in login))
        place.kube.create(pull_secret(place.space, APPCO_PULL_SECRET, config))


def pod_of(place: Ground, name: str, node: str, program: str, other: str) -> Obj:
    """Return a pod that has the claim open on one node, with the image of SUSE Storage's own manager."""
    return volume_pod(
        place.work, place.space, name, node, _image(place.kube), program, place.life_s, own=name, other=other,
        pulls=pull_names(place.site.spec, APPCO_HOST, APPCO_PULL_SECRET),
    )  # fmt: skip


def _start(place: Ground, name: str, node: str, program: str, other: str) -> None:
    place.kube.create(pod_of(place, name, node, program, other))


def _image(kube: KubeClient) -> str:
    image = manager_image(kube, NAMESPACE)
    if image is None:
        raise NotFoundError("the storage manager does not exist", where=f"DaemonSet {NAMESPACE}/{MANAGER_DAEMON_SET}")
    return image


def volume_name(place: Ground) -> str:
    """Return Longhorn's name of the claim's volume."""
    claim = place.kube.get("v1", "PersistentVolumeClaim", CLAIM, place.space) or {}
    name = (claim.get("spec") or {}).get("volumeName", "")
    volume = place.kube.get("v1", "PersistentVolume", name) if name else None
    if volume is None:
        raise WorkFailedError("the claim of a pod that wrote has no volume", where=f"claim {place.space}/{CLAIM}")
    handle: str = volume["spec"]["csi"]["volumeHandle"]
    return handle


def wait_whole(place: Ground, volume: str, without: str = "") -> tuple[Copy, ...]:
    """Wait until a volume has all its copies, and return them. Raises GateTimeoutError."""
    return place.wait(
        lambda: _whole(place, volume, without), f"all copies of volume {volume}", lambda: _copies_text(place, volume)
    )


def _whole(place: Ground, volume: str, without: str) -> tuple[Copy, ...] | None:
    found = _find(place, volume)
    copies = copies_of_volume(place, volume)
    return copies if found is not None and is_whole(found, copies, without) else None


def _find(place: Ground, volume: str) -> Obj | None:
    """Return SUSE Storage's own object of a volume; None where it has none, or none yet."""
    return place.kube.get(API, "Volume", volume, NAMESPACE)


def copies_of_volume(place: Ground, volume: str) -> tuple[Copy, ...]:
    """Return the copies of a volume as SUSE Storage lists them."""
    return copies_of(place.kube.list(API, "Replica", NAMESPACE, label_selector=f"longhornvolume={volume}"), volume)


def _copies_text(place: Ground, volume: str) -> str:
    found = _find(place, volume)
    if found is None:
        return "SUSE Storage does not know the volume"
    copies = ", ".join(
        f"{copy.node or 'nowhere'} {'healthy' if copy.healthy else 'not healthy'}"
        for copy in copies_of_volume(place, volume)
    )
    return f"{(found.get('status') or {}).get('robustness', 'no state')}, {copies or 'no copy'}"
