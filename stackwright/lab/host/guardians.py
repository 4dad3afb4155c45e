"""Controllers that RKE2 and Kubernetes run beside the objects: lost nodes, and members that follow their Node's end.

They run in the API server that leads. Source: k3s pkg/etcd/member_controller.go, pkg/nodepassword; the node controller.
"""

from __future__ import annotations

import asyncio
import logging
import time

from stackwright.lab.host.disk import HostDisk
from stackwright.lab.host.etcd import Etcd, EtcdMember
from stackwright.lab.host.etcdpod import node_of
from stackwright.lab.host.kubelet import LEASE_SPACE
from stackwright.lab.host.store import EtcdState
from stackwright.lab.kube.state import KubeState
from stackwright.lab.kube.store import Event
from stackwright.lab.rke2.objects import Obj, set_condition

log = logging.getLogger(__name__)
REMOVE, REMOVED = "etcd.rke2.cattle.io/remove", "etcd.rke2.cattle.io/removed-node-name"
MEMBER = "etcd.rke2.cattle.io/node-name"
LEASES = ("coordination.k8s.io", "leases")


class Guardians:
    """The controllers of one API server."""

    def __init__(self, disk: HostDisk, etcd: Etcd) -> None:
        self._disk, self._etcd = disk, etcd
        self._beats: dict[str, tuple[str, float]] = {}  # node -> its lease's version, and since when that is seen

    def watch_over(self, state: EtcdState) -> None:
        """Hook the controllers into the API server's state."""
        state.add_reconciler(self._nodes, ["Node"], every_s=self._disk.spec.lost_s / 4)

    async def _nodes(self, state: KubeState, event: Event | None) -> None:
        if event is None:
            self._look_for_lost(state)
        elif event.type == "DELETED":
            await self._forget(state, event.obj)
        elif event.obj["metadata"].get("annotations", {}).get(REMOVE) == "true":
            await self._remove(state, event.name)

    def _look_for_lost(self, state: KubeState) -> None:
        """Mark nodes whose kubelet has renewed nothing for too long. Times count from what was seen here."""
        limit = self._disk.spec.wait_s(self._disk.spec.lost_s)
        for node in state.objects("Node"):
            name = node["metadata"]["name"]
            lease = state.peek(LEASES, LEASE_SPACE, name) or {"metadata": {}}
            version, now = str(lease["metadata"].get("resourceVersion", "")), time.monotonic()
            seen, since = self._beats.get(name, ("-", 0.0))
            if seen != version:
                self._beats[name] = (version, now)
            elif now - since > limit and _is(node, "Ready", "True"):
                set_condition(node, "Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
                state.set_status("Node", "", name, node["status"])

    async def _remove(self, state: KubeState, name: str) -> None:
        """Remove the member of a Node that is annotated so, and say which it was."""
        node = state.get("Node", "", name)
        if node is None:
            return
        annotations = node["metadata"]["annotations"]
        wanted = annotations.get(MEMBER, "")
        if annotations.get(REMOVED) == wanted:
            return
        await self._remove_member(wanted, name)
        annotations[REMOVED] = wanted
        state.put(node, manager="rke2")

    async def _forget(self, state: KubeState, node: Obj) -> None:
        """Drop the password and the member of a Node that was deleted."""
        name = node["metadata"]["name"]
        self._beats.pop(name, None)
        if state.peek("Secret", "kube-system", f"{name}.node-password.rke2") is not None:
            state.delete("Secret", "kube-system", f"{name}.node-password.rke2")
        member = node["metadata"].get("annotations", {}).get(MEMBER)
        if member:
            await self._remove_member(member, name)

    async def _remove_member(self, wanted: str, name: str) -> None:
        members = await asyncio.to_thread(self._etcd.members)
        for member in members:
            if member.name == wanted or (not wanted and node_of(member) == name):
                await asyncio.to_thread(self._etcd.remove, member.id)
                log.info("Removed member %s from etcd cluster", _shown(member))


def _is(node: Obj, kind: str, status: str) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(item["type"] == kind and item["status"] == status for item in conditions)


def _shown(member: EtcdMember) -> str:
    return f"{member.name}={member.peer_url}"
