"""What a drain meets on the stand-in: cordons, evicted pods made anew elsewhere, daemons, grace, mirror pods."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from stackwright.lab.kube import KubeState
from stackwright.lab.kube.alone import ready_node
from stackwright.lab.kube.pods import ENDS_NOTE
from stackwright.lab.rke2.mirrors import mirror_pod, mirror_pods
from stackwright.lab.rke2.state import STATIC_PODS


@asynccontextmanager
async def cluster(*names, speed=200.0):
    state = KubeState(speed=speed)
    for name in names:
        state.put(ready_node(name))
    await state.start()
    try:
        yield state
    finally:
        await state.stop()


async def until(check):
    async with asyncio.timeout(10):
        while not (found := check()):
            await asyncio.sleep(0.01)
    return found


def workload(kind, name, pod=None, notes=None, **spec):
    labels = {"app": name}
    template = {"metadata": {"labels": labels, "annotations": notes or {}},
                "spec": {"containers": [{"name": "m", "image": "i:1"}], **(pod or {})}}  # fmt: skip
    meta = {"name": name, "namespace": "default"}
    body = {"selector": {"matchLabels": labels}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": body}


def running(state, app):
    """Return name -> node of the pods that run and are not ending."""
    return {
        pod["metadata"]["name"]: pod["spec"]["nodeName"]
        for pod in state.objects("Pod", "default")
        if pod["metadata"]["labels"].get("app") == app
        and not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") == "Running"
    }


def cordon(state, name, on=True):
    found = state.get("Node", "", name)
    state.put({**found, "spec": {**found["spec"], "unschedulable": on}})


def taints(state, name):
    return [taint["key"] for taint in state.get("Node", "", name)["spec"].get("taints") or ()]


def test_a_cordoned_node_keeps_its_daemons_and_gets_no_other_pods():
    async def story():
        async with cluster("n1", "n2") as state:
            state.put(workload("DaemonSet", "d"))
            await until(lambda: len(running(state, "d")) == 2)
            before = running(state, "d")
            cordon(state, "n1")
            await until(lambda: taints(state, "n1") == ["node.kubernetes.io/unschedulable"])
            state.put(workload("Deployment", "web", replicas=4))
            await until(lambda: len(running(state, "web")) == 4)
            assert set(running(state, "web").values()) == {"n2"} and running(state, "d") == before
            cordon(state, "n1", on=False)
            await until(lambda: taints(state, "n1") == [])
            state.put(workload("Deployment", "more", replicas=2))
            await until(lambda: "n1" in running(state, "more").values())

    asyncio.run(story())


def test_a_pod_that_went_is_made_anew_elsewhere_under_its_owners_rules():
    """A Deployment's pod gets another name, a StatefulSet's the same one, and only when the old one is gone."""

    async def story():
        async with cluster("n1", "n2") as state:
            state.put(workload("Deployment", "web", replicas=1))
            state.put(workload("StatefulSet", "db", replicas=1, serviceName="db"))
            await until(lambda: running(state, "web") and running(state, "db"))
            for app in ("web", "db"):
                ((name, node),) = running(state, app).items()
                cordon(state, node)
                state.delete("Pod", "default", name, grace=None)
                await until(lambda app=app: running(state, app))
                ((after, where),) = running(state, app).items()
                assert where != node and (after == name) is (app == "db")
                cordon(state, node, on=False)

    asyncio.run(story())


def test_a_pod_waits_for_room_until_a_node_is_uncordoned():
    async def story():
        async with cluster("n1") as state:
            state.put(ready_node("g1", **{"nvidia.com/gpu": "1"}))
            box = {"containers": [{"name": "m", "image": "i:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
            state.put(workload("Deployment", "train", box, replicas=1))
            await until(lambda: running(state, "train"))
            cordon(state, "g1")
            state.delete("Pod", "default", next(iter(running(state, "train"))), grace=None)
            events = await until(
                lambda: [e["message"] for e in state.objects("Event") if e["reason"] == "FailedScheduling"]
            )
            assert "1 Insufficient nvidia.com/gpu" in events[-1] and "node.kubernetes.io/unschedulable" in events[-1]
            cordon(state, "g1", on=False)
            await until(lambda: running(state, "train"))

    asyncio.run(story())


def test_a_pod_that_does_not_hear_the_signal_uses_its_whole_grace():
    """At speed 100 a grace of 30 s takes 0.3 s; a pod that hears it goes in a fraction of that."""

    async def story():
        async with cluster("n1", speed=100.0) as state:
            grace = {"terminationGracePeriodSeconds": 30}
            state.put(workload("Deployment", "quick", grace, replicas=1))
            state.put(workload("Deployment", "deaf", grace, {ENDS_NOTE: "killed"}, replicas=1))
            await until(lambda: running(state, "quick") and running(state, "deaf"))
            names = {app: next(iter(running(state, app))) for app in ("quick", "deaf")}
            for name in names.values():
                state.delete("Pod", "default", name, grace=None)
            await until(lambda: state.get("Pod", "default", names["quick"]) is None)
            ending = state.get("Pod", "default", names["deaf"])
            assert ending["metadata"]["deletionTimestamp"] and ending["metadata"]["deletionGracePeriodSeconds"] == 30
            await until(lambda: state.get("Pod", "default", names["deaf"]) is None)

    asyncio.run(story())


def test_mirror_pods_run_with_their_node_and_end_with_it():
    async def story():
        async with cluster("a1") as state:
            server = ready_node("s1")
            server["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "true"
            state.put(server)
            for name in ("s1", "a1"):
                node = state.get("Node", "", name)
                own = [mirror_pod(node, part) for part in STATIC_PODS] if name == "s1" else []
                for pod in (*own, *mirror_pods(node)):
                    state.put(pod)

            def seen():
                found = state.objects("Pod", "kube-system")
                return {pod["metadata"]["name"] for pod in found if (pod.get("status") or {}).get("phase") == "Running"}

            want = {f"{part}-s1" for part in (*STATIC_PODS, "kube-proxy")} | {"kube-proxy-a1"}
            await until(lambda: seen() == want)
            state.delete("Node", "", "s1")
            await until(
                lambda: {pod["metadata"]["name"] for pod in state.objects("Pod", "kube-system")} == {"kube-proxy-a1"}
            )

    asyncio.run(story())
