"""The cluster's own interface, as stand-in operators use it, and what HTTP promises beyond the contract tests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from stackwright.lab.kube import KubeState, User, create_kube_app
from stackwright.lab.kube.alone import ready_node

WEB = {"app": "web"}


def deployment(name="web", namespace="default", replicas=1, **container):
    pod = {"containers": [{"name": "main", "image": "i:1", **container}]}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": WEB},
        "template": {"metadata": {"labels": WEB}, "spec": pod},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


@asynccontextmanager
async def running(state):
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


def cluster(*nodes, **options):
    state = KubeState(speed=200, **options)
    for node in nodes or ("n1", "n2"):
        state.put(ready_node(node))
    return state


def ready(state, name="web", want=1):
    found = state.get("Deployment", "default", name)
    return (found.get("status") or {}).get("availableReplicas") == want and found


def test_an_equal_put_changes_nothing():
    state = KubeState()
    state.put(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}, "data": {"a": "1"}}
    )
    version = state.version
    again = state.put(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}, "data": {"a": "1"}}
    )
    assert state.version == version and again["metadata"]["uid"]
    copy = state.get("ConfigMap", "default", "a")
    copy["data"]["a"] = "2"
    assert state.get("ConfigMap", "default", "a")["data"] == {"a": "1"}, "what is returned is a copy"


def test_a_name_that_two_groups_have_means_the_built_in_kind():
    state = KubeState()
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    spec = {
        "group": "disk.test",
        "scope": "Namespaced",
        "names": {"kind": "Node", "plural": "nodes"},
        "versions": [version],
    }
    state.put(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "nodes.disk.test"},
            "spec": spec,
        }
    )
    state.put({"apiVersion": "disk.test/v1", "kind": "Node", "metadata": {"name": "a", "namespace": "default"}, "x": 1})
    assert state.objects("Node") == []
    assert state.get("nodes.disk.test", "default", "a")["x"] == state.get("disk.test/Node", "default", "a")["x"] == 1
    assert state.get("Thing", "default", "a") is None and state.objects("Thing") == []


def test_reconcilers_see_changes_in_order_and_survive_their_own_faults(caplog):
    seen = []

    async def work(state, event):
        if event is None:
            return
        seen.append((event.type, event.name, event.obj.get("data")))
        if len(seen) == 1:
            raise RuntimeError("a stand-in's fault")

    async def story():
        async with running(cluster()) as state:
            state.add_reconciler(work, kinds=["Secret"], every_s=1)
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}}
            state.put(body)
            state.put({**body, "data": {"a": "MQ=="}})
            state.delete("Secret", "default", "s")
            await until(lambda: len(seen) == 3)

    asyncio.run(story())
    assert [kind for kind, _, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert "a stand-in's fault" in caplog.text


def test_a_server_that_stops_leaves_the_controllers_to_the_others():
    async def story():
        async with running(cluster()) as state:
            await state.start()
            await state.stop()
            state.put(deployment())
            await until(lambda: ready(state))

    asyncio.run(story())


def test_gpus_go_to_who_asks_until_none_is_left():
    async def story():
        state = cluster("plain")
        state.put(ready_node("gpu", **{"nvidia.com/gpu": "2"}))
        async with running(state):
            limits = {"limits": {"nvidia.com/gpu": "1"}}
            state.put(deployment(replicas=3, resources=limits))
            await until(lambda: ready(state, want=2))
            pods = state.objects("Pod")
            assert {pod["spec"].get("nodeName") for pod in pods} == {"gpu", None}
            events = [e["message"] for e in state.objects("Event") if e["reason"] == "FailedScheduling"]
            assert events == ["0/2 nodes are available: 2 Insufficient nvidia.com/gpu."]
            state.put(ready_node("gpu", **{"nvidia.com/gpu": "3"}))
            await until(lambda: ready(state, want=3))

    asyncio.run(story())


def test_a_pod_waits_for_the_secret_that_it_names():
    async def story():
        async with running(cluster()) as state:
            state.put(deployment(envFrom=[{"secretRef": {"name": "late"}}]))

            def waiting():
                pods = state.objects("Pod")
                status = pods and (pods[0]["status"].get("containerStatuses") or [{}])[0].get("state", {}).get(
                    "waiting"
                )
                return status and status["reason"] == "CreateContainerConfigError"

            await until(waiting)
            state.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late", "namespace": "default"}})
            await until(lambda: ready(state))

    asyncio.run(story())


@pytest.mark.parametrize(
    ("storage_class", "mode", "bound"),
    [
        ({"provisioner": "known"}, "ReadWriteOnce", True),
        ({"provisioner": "unknown"}, "ReadWriteOnce", False),
        ({"provisioner": "known"}, "ReadWriteMany", False),
        ({"provisioner": "driver.longhorn.io"}, "ReadWriteMany", True),
        ({"provisioner": "known", "volumeBindingMode": "WaitForFirstConsumer"}, "ReadWriteOnce", False),
    ],
)
def test_claims_are_bound_as_their_class_can(storage_class, mode, bound):
    async def story():
        state = cluster()
        state.provisioners |= {"known", "driver.longhorn.io"}
        async with running(state):
            state.put(
                {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "c"}, **storage_class}
            )
            spec = {"accessModes": [mode], "storageClassName": "c", "resources": {"requests": {"storage": "1Gi"}}}
            state.put(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "p", "namespace": "default"},
                    "spec": spec,
                }
            )
            phase = lambda: state.get("PersistentVolumeClaim", "default", "p")["status"]["phase"]  # noqa: E731  # said twice below
            if bound:
                await until(lambda: phase() == "Bound")
                return
            await until(lambda: state.objects("Event", "default"))
            assert phase() == "Pending"
            if "volumeBindingMode" in storage_class:
                pod = {
                    "containers": [{"name": "m", "image": "i"}],
                    "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "p"}}],
                }
                state.put(
                    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "u", "namespace": "default"}, "spec": pod}
                )
                await until(lambda: phase() == "Bound")

    asyncio.run(story())


# --- over HTTP -------------------------------------------------------------------------------------------------------


async def ask(client, method, path, body=None, **headers):
    answer = await client.request(method, path, json=body, headers={"Authorization": "Bearer root", **headers})
    return answer.status, await answer.json()


@asynccontextmanager
async def served(state, gate=None):
    state.tokens["root"] = User("root", ("system:masters",))
    async with TestClient(TestServer(create_kube_app(state, gate))) as client:
        yield client


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
SECRETS = "/api/v1/namespaces/default/secrets"


def test_only_changes_are_recorded_and_only_those_that_change_something():
    journal = []
    state = cluster(record=lambda *entry: journal.append(entry))

    async def story():
        async with served(state) as client:
            await ask(client, "GET", SECRETS)
            await ask(client, "POST", SECRETS + "?dryRun=All", SECRET)
            await ask(client, "POST", SECRETS, SECRET)
            await ask(client, "POST", SECRETS, SECRET)
            await ask(client, "PUT", f"{SECRETS}/s", SECRET)
            await ask(client, "PUT", f"{SECRETS}/s", {**SECRET, "data": {"a": "MQ=="}})
            review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {}}
            await ask(client, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
            await ask(client, "DELETE", f"{SECRETS}/s")
            await ask(client, "DELETE", f"{SECRETS}/s")

    asyncio.run(story())
    assert journal == [("kube", "root:Secret/default/s", action) for action in ("create", "update", "delete")]


def test_the_gate_may_answer_in_the_servers_stead():
    async def gate(info):
        return web.json_response({"kind": "Status", "code": 500}, status=500) if info.resource == "secrets" else None

    async def story():
        async with served(cluster(), gate) as client:
            assert (await ask(client, "GET", SECRETS))[0] == 500
            assert (await ask(client, "GET", "/api/v1/namespaces/default/configmaps"))[0] == 200

    asyncio.run(story())


def test_a_version_that_is_too_old_is_gone():
    async def story():
        state = cluster()
        state.history = deque(maxlen=3)
        async with served(state) as client:
            for index in range(5):
                await ask(client, "POST", SECRETS, {**SECRET, "metadata": {"name": f"s{index}"}})
            answer = await client.get(f"{SECRETS}?watch=1&resourceVersion=5", headers={"Authorization": "Bearer root"})
            event = json.loads(await answer.content.readline())
            assert event["type"] == "ERROR" and (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")

    asyncio.run(story())


@pytest.mark.parametrize("anonymous", [True, False])
def test_who_gives_no_name_sees_health_alone(anonymous):
    async def story():
        state = cluster()
        state.anonymous = anonymous
        async with served(state) as client:
            assert (await client.get("/livez")).status == (200 if anonymous else 401)
            refused = await client.get("/api/v1/nodes")
            assert refused.status == (403 if anonymous else 401)
            if anonymous:
                assert (await refused.json())["message"] == (
                    'nodes is forbidden: User "system:anonymous" cannot list resource "nodes" in API group "" '
                    "at the cluster scope"
                )

    asyncio.run(story())


WEBHOOK = {
    "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "w"},
    "webhooks": [{
        "name": "check.lab.test", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "hook", "namespace": "default", "path": "/v"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"]}],
    }],
}  # fmt: skip


def test_a_webhook_without_pods_fails_the_request_and_one_that_answers_decides():
    async def story():
        state = cluster()
        async with served(state) as client:
            state.put(WEBHOOK)
            status, body = await ask(client, "POST", SECRETS, SECRET)
            assert (status, body["reason"]) == (500, "InternalError")
            assert body["message"] == (
                'Internal error occurred: failed calling webhook "check.lab.test": failed to call webhook: Post '
                '"https://hook.default.svc:443/v?timeout=10s": service "hook" not found'
            )
            service = {"selector": WEB, "ports": [{"port": 443, "targetPort": 8443}]}
            state.put(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "hook", "namespace": "default"},
                    "spec": service,
                }
            )
            _, body = await ask(client, "POST", SECRETS, SECRET)
            assert 'no endpoints available for service "hook"' in body["message"]
            state.put(deployment())
            await until(lambda: state.service_ready("default", "hook"))
            state.webhooks["check.lab.test"] = lambda review: {
                "allowed": False,
                "status": {"message": "not here", "code": 403},
            }
            status, body = await ask(client, "POST", SECRETS, SECRET)
            assert (status, body["message"]) == (403, 'admission webhook "check.lab.test" denied the request: not here')
            del state.webhooks["check.lab.test"]
            assert (await ask(client, "POST", SECRETS, SECRET))[0] == 201

    asyncio.run(story())


def test_snapshots_of_two_clusters_of_one_content_are_equal_and_hold_no_secret():
    async def make():
        async with running(cluster()) as state:
            state.put(deployment(replicas=2))
            secret = base64.b64encode(b"planted-secret").decode()
            state.put(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "s", "namespace": "default"},
                    "data": {"a": secret},
                }
            )
            await until(lambda: ready(state, want=2))
            await until(lambda: state.controllers.idle)
            return state.snapshot()

    one, two = asyncio.run(make()), asyncio.run(make())
    assert one == two
    assert one["core/Pods of ReplicaSet/default/web"] == {"Running": 2}
    assert "planted" not in json.dumps(one) and "cGxhbnRlZC1zZWNyZXQ" not in json.dumps(one)
