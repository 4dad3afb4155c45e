"""The kubelet's part: the Node object, its heartbeat and conditions, mirror pods, and static pods kept running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from stackwright.lab.host.disk import HostDisk, say
from stackwright.lab.host.kubeapi import ApiError, KubeApi
from stackwright.lab.host.pods import StaticPods
from stackwright.lab.rke2.mirrors import mirror_pod
from stackwright.lab.rke2.objects import node_object, set_condition
from stackwright.lab.rke2.state import STATIC_PODS

LEASE_SPACE = "kube-node-lease"
NODES, LEASES = "/api/v1/nodes", f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_SPACE}/leases"
PODS = "/api/v1/namespaces/kube-system/pods"
POD_LOOK_S = 1.0
MIRROR_EVERY = 10  # heartbeats, where nothing is known to have changed
VOTER = ("True", "MemberNotLearner", "Node is a voting member of the etcd cluster")
LEARNER = ("False", "MemberIsLearner", "Node has not been promoted to voting member of the etcd cluster")


class Kubelet:
    """One node's kubelet. `learner` says whether the node's etcd member is one; None where there is none to ask."""

    def __init__(
        self, disk: HostDisk, api: KubeApi, name: str, pods: StaticPods, learner: Callable[[], bool | None]
    ) -> None:
        self._disk, self._api, self._name, self._pods, self._learner = disk, api, name, pods, learner
        self._shown: dict[str, str] = {}

    async def register(self, role: str, version: str, config: dict[str, Any], member: str = "") -> None:
        """Make the Node, or bring it up to date; waits for an API server. `member` is its etcd member's name."""
        while True:
            try:
                old = await self._api.get(f"{NODES}/{self._name}")
                node = node_object(self._disk, self._name, role, version, config, old, member.rpartition("-")[2])
                set_condition(node, "Ready", "True", "KubeletReady", "kubelet is posting ready status")
                if old is None:
                    await self._api.call("POST", NODES, node)
                else:
                    await self._api.call("PUT", f"{NODES}/{self._name}", node)
                    node["metadata"].pop("resourceVersion", None)
                    await self._api.call("PUT", f"{NODES}/{self._name}/status", node)
                return
            except ApiError as error:
                say("info", f"Unable to register node with API server: {error}")
            await asyncio.sleep(self._disk.spec.wait_s(self._disk.spec.retry_s))

    async def run(self) -> None:
        """Keep the Node's heartbeat and conditions until cancelled. A failure is logged once while it lasts."""
        failing, count = "", 0
        while True:
            if count % MIRROR_EVERY == 0:
                self._shown.clear()
            count += 1
            try:
                await self._beat()
                await self._mirror()
                failing = ""
            except ApiError as error:
                if str(error) != failing:
                    say("warning", f"Unable to update node status, will retry: {error}")
                failing = str(error)
            await asyncio.sleep(self._disk.spec.wait_s(self._disk.spec.heartbeat_s))

    async def keep_pods(self) -> None:
        """Start static pods that have ended, until cancelled."""
        while True:
            await asyncio.sleep(POD_LOOK_S)
            for done in await asyncio.to_thread(self._pods.reconcile):
                say("info", f"static pod: {done}")

    async def _beat(self) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._name, "leaseDurationSeconds": 40, "renewTime": now}
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        meta = {"name": self._name, "namespace": LEASE_SPACE}
        patch = "application/merge-patch+json"
        try:
            await self._api.call("PATCH", f"{LEASES}/{self._name}", {"spec": spec}, patch)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.call("POST", LEASES, {**kind, "metadata": meta, "spec": spec})
        await self._set_conditions()

    async def _set_conditions(self) -> None:
        node = await self._api.get(f"{NODES}/{self._name}")
        if node is None:
            return  # deleted: like the real one, it comes back when its process is started again
        changed = set_condition(node, "Ready", "True", "KubeletReady", "kubelet is posting ready status")
        learner = await asyncio.to_thread(self._learner)
        if learner is not None:
            changed = set_condition(node, "EtcdIsVoter", *(LEARNER if learner else VOTER)) or changed
        if changed:
            await self._api.call("PUT", f"{NODES}/{self._name}/status", node)

    async def _mirror(self) -> None:
        """Show the static pods: one mirror pod each, made again when the pod has another uid."""
        for name in STATIC_PODS:
            uid, path = self._pods.uid(name), f"{PODS}/{name}-{self._name}"
            if not uid or self._shown.get(name) == uid or not self._pods.started_at(name):
                continue
            seen = await self._api.get(path)
            if seen is not None:
                if seen["metadata"]["annotations"].get("kubernetes.io/config.hash") == uid:
                    self._shown[name] = uid
                    continue
                await self._api.call("DELETE", f"{path}?gracePeriodSeconds=0")
            node = await self._api.get(f"{NODES}/{self._name}")
            if node is not None:
                await self._api.call("POST", PODS, mirror_pod(node, name, uid))
                self._shown[name] = uid
