"""Longhorn's stand-in on a running cluster stand-in: who keeps which copies; what drains and lost nodes do to them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from stackwright.lab.kube import KubeState
from stackwright.lab.kube.alone import ready_node
from stackwright.lab.operators import install_operators
from stackwright.lab.operators.longhorn import manager_name

NS = "longhorn-system"
KINDS = {"Node": "nodes", "Setting": "settings", "InstanceManager": "instancemanagers", "Volume": "volumes",
         "Replica": "replicas", "BackupTarget": "backuptargets"}  # fmt: skip


def definition(kind, plural):
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1beta2", "served": True, "storage": True, "schema": schema}
    names = {"kind": kind, "plural": plural}
    spec = {"group": "longhorn.io", "scope": "Namespaced", "names": names, "versions": [version]}
    meta = {"name": f"{plural}.longhorn.io"}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta, "spec": spec}


def workload(kind, name, ns, pod, **spec):
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "m", "image": "i:1"}], **pod}}
    body = {"selector": {"matchLabels": labels}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": ns}, "spec": body}


@asynccontextmanager
async def plant(nodes=3, replicas=2):
    """A cluster whose storage runs: `data` is claimed by the Deployment `db`."""
    state = KubeState(speed=200)
    for index in range(nodes):
        state.put(ready_node(f"n{index + 1}"))
    state.provisioners.add("driver.longhorn.io")
    for kind, plural in KINDS.items():
        state.put(definition(kind, plural))
    state.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}})
    state.put(workload("DaemonSet", "longhorn-manager", NS, {}))
    parameters = {"numberOfReplicas": str(replicas)}
    state.put({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "longhorn"},
               "provisioner": "driver.longhorn.io", "parameters": parameters})  # fmt: skip
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": "longhorn",
             "resources": {"requests": {"storage": "1Gi"}}}  # fmt: skip
    state.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
               "metadata": {"name": "data", "namespace": "default"}, "spec": claim})  # fmt: skip
    held = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]
    state.put(workload("Deployment", "db", "default", {"volumes": held}, replicas=1))
    await state.start()
    install_operators(state)
    try:
        await until(lambda: volume(state) and volume(state)["status"]["robustness"] == "healthy")
        yield state
    finally:
        await state.stop()


async def until(check):
    async with asyncio.timeout(60):
        while not (found := check()):
            await asyncio.sleep(0.01)
    return found


def volume(state):
    found = state.objects("volumes.longhorn.io", NS)
    return found[0] if found and "status" in found[0] else None


def copies(state):
    """Return node -> True for each healthy replica."""
    found = state.objects("replicas.longhorn.io", NS)
    return {item["spec"]["nodeID"]: bool(item["spec"]["healthyAt"] and not item["spec"]["failedAt"]) for item in found}


def cordon(state, node, on=True):
    found = state.get("nodes", "", node)
    state.put({**found, "spec": {**found["spec"], "unschedulable": on}})


def set_ready(state, node, status):
    found = state.get("nodes", "", node)
    found["status"]["conditions"] = [{"type": "Ready", "status": status}]
    state.put(found)


def manager_state(state, node):
    return state.get("instancemanagers.longhorn.io", NS, manager_name(node))["status"]["currentState"]


def test_each_node_has_a_guarded_instance_manager_and_each_volume_its_copies():
    async def story():
        async with plant() as state:
            assert {node: manager_state(state, node) for node in ("n1", "n2", "n3")} == dict.fromkeys(
                ("n1", "n2", "n3"), "running"
            )
            guard = await until(lambda: state.get("PodDisruptionBudget", NS, manager_name("n1")))
            assert guard["spec"]["minAvailable"] == 1
            assert len(copies(state)) == 2 and all(copies(state).values())
            seen = volume(state)["status"]
            pod = next(item for item in state.objects("Pod", "default"))
            assert seen["currentNodeID"] == pod["spec"]["nodeName"] and seen["state"] == "attached"
            assert seen["kubernetesStatus"]["pvcName"] == "data"

    asyncio.run(story())


def test_a_node_that_is_lost_degrades_the_volume_and_its_return_rebuilds_it():
    """The volume is attached elsewhere: its copy on the lost node fails, is rebuilt when it is back, and takes time."""

    async def story():
        async with plant() as state:
            at = volume(state)["status"]["currentNodeID"]
            lost = next(node for node in copies(state) if node != at)
            set_ready(state, lost, "Unknown")
            await until(lambda: volume(state)["status"]["robustness"] == "degraded")
            assert copies(state)[lost] is False and manager_state(state, lost) == "unknown"
            shown = state.get("nodes.longhorn.io", NS, lost)["status"]["conditions"]
            assert {item["type"]: item["status"] for item in shown}["Ready"] == "False"
            set_ready(state, lost, "True")
            await until(lambda: manager_state(state, lost) == "running")
            assert volume(state)["status"]["robustness"] == "degraded", "rebuilding takes its time"
            await until(lambda: volume(state)["status"]["robustness"] == "healthy")
            assert all(copies(state).values())

    asyncio.run(story())


def test_a_cordon_frees_the_instance_manager_only_when_nothing_is_attached_and_another_copy_is_healthy():
    async def story():
        async with plant() as state:
            at = volume(state)["status"]["currentNodeID"]
            guard = manager_name(at)
            cordon(state, at)
            await until(lambda: schedulable(state, at) == "False")
            assert state.get("PodDisruptionBudget", NS, guard), "the volume is attached here"
            pod = state.objects("Pod", "default")[0]
            state.delete("Pod", "default", pod["metadata"]["name"])
            await until(lambda: state.get("PodDisruptionBudget", NS, guard) is None)
            state.delete("Pod", NS, guard)
            await until(lambda: manager_state(state, at) == "stopped")
            assert state.get("Pod", NS, guard) is None, "no new one while the node is cordoned"
            cordon(state, at, on=False)
            await until(lambda: manager_state(state, at) == "running" and state.get("PodDisruptionBudget", NS, guard))
            await until(lambda: volume(state)["status"]["robustness"] == "healthy")

    asyncio.run(story())


def test_the_last_copy_keeps_its_instance_manager_guarded():
    async def story():
        async with plant(replicas=1) as state:
            (node,) = copies(state)
            state.put(workload("Deployment", "db", "default", {}, replicas=0))
            await until(lambda: volume(state)["status"]["state"] == "detached")
            cordon(state, node)
            await until(lambda: schedulable(state, node) == "False")
            assert state.get("PodDisruptionBudget", NS, manager_name(node))
            policy = {"apiVersion": "longhorn.io/v1beta2", "kind": "Setting", "value": "always-allow",
                      "metadata": {"name": "node-drain-policy", "namespace": NS}}  # fmt: skip
            state.put(policy)
            await until(lambda: state.get("PodDisruptionBudget", NS, manager_name(node)) is None)

    asyncio.run(story())


def test_a_volume_ends_with_its_claim_and_a_node_with_its_node():
    async def story():
        async with plant(nodes=4) as state:
            gone = next(iter(copies(state)))
            state.delete("nodes", "", gone)
            await until(lambda: state.get("nodes.longhorn.io", NS, gone) is None)
            await until(lambda: gone not in copies(state) and all(copies(state).values()) and len(copies(state)) == 2)
            state.put(workload("Deployment", "db", "default", {}, replicas=0))
            state.delete("PersistentVolumeClaim", "default", "data")
            await until(lambda: volume(state) is None and not copies(state))

    asyncio.run(story())


def schedulable(state, node):
    found = state.get("nodes.longhorn.io", NS, node)["status"]["conditions"]
    return next(item["status"] for item in found if item["type"] == "Schedulable")
