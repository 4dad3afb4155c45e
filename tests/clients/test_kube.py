"""The Kubernetes client against a scripted API server: paths, errors, watches, the service proxy, use from threads."""

from __future__ import annotations

import base64
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web

from stackwright.clients.kube import Kube
from stackwright.domain.cluster import condition_of, node_status, rollout_of
from stackwright.domain.errors import (
    ApiError,
    ApiUnavailableError,
    ConflictError,
    GateTimeoutError,
    NotFoundError,
    ToolError,
)
from stackwright.lab.alone import alone


def config(url, **cluster):
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": {"token": "tok-1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }


def status(code, reason, message, **details):
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.json_response({**body, "details": details}, status=code)


CORE = {
    "resources": [
        {"name": "configmaps", "kind": "ConfigMap", "namespaced": True},
        {"name": "secrets", "kind": "Secret", "namespaced": True},
        {"name": "nodes", "kind": "Node", "namespaced": False},
        {"name": "nodes/status", "kind": "Node", "namespaced": False},
    ]
}


class Api:
    """Answers by (method, path) from `script`; everything asked is in `asked`."""

    def __init__(self):
        self.asked, self.script, self.discoveries = [], {}, 0

    async def answer(self, request):
        body = await request.read()
        self.asked.append((request.method, request.path, dict(request.query), dict(request.headers), body))
        if request.path == "/api/v1":
            self.discoveries += 1
            return web.json_response(CORE)
        step = self.script.get((request.method, request.path))
        if isinstance(step, list):
            step = step.pop(0) if len(step) > 1 else step[0]
        if step is None:
            return status(404, "NotFound", f"{request.path} not found")
        return await step(request) if callable(step) else web.json_response(step)

    def app(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app


@pytest.fixture
def api():
    return Api()


@pytest.fixture
def kube(api):
    with alone(api.app) as served:
        client = Kube(config(served.url), timeout_s=5)
        yield client
        client.close()


def failing(*answer, **details):
    async def send(_):
        return status(*answer, **details)

    return send


MAP = "/api/v1/namespaces/n/configmaps/a"


def config_map(version="1", **data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "n", "resourceVersion": version},
        "data": data,
    }


def test_absent_is_none_and_the_kinds_are_discovered_once(api, kube):
    """A missing object is None; discovery of a group is read once; the token goes with each request."""
    assert kube.get("v1", "ConfigMap", "a", "n") is None
    api.script["GET", MAP] = config_map(k="v")
    assert kube.get("v1", "ConfigMap", "a", "n")["data"] == {"k": "v"}
    assert api.discoveries == 1
    assert {asked[3]["Authorization"] for asked in api.asked} == {"Bearer tok-1"}


def test_an_unknown_kind_is_absent_for_get_and_an_error_for_apply(api, kube):
    """A CRD that is not there yet: nothing to get, and an apply that says what is missing."""
    assert kube.get("longhorn.io/v1beta2", "Volume", "v", "n") is None
    with pytest.raises(NotFoundError):
        kube.apply({"apiVersion": "v1", "kind": "Strange", "metadata": {"name": "x", "namespace": "n"}})
    assert not kube.has_kind("v1", "Strange") and kube.has_kind("v1", "ConfigMap")


def test_apply_says_whether_it_changed_anything(api, kube):
    """Server-side apply with our manager; equal objects before and after are no change, whatever their versions."""
    api.script["GET", MAP] = config_map("1", k="v")
    api.script["PATCH", MAP] = config_map("2", k="v")
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": {"k": "v"}}
    assert kube.apply(wanted)[1] is False
    api.script["PATCH", MAP] = config_map("3", k="w")
    assert kube.apply(wanted, force=True)[1] is True
    del api.script["GET", MAP]
    assert kube.apply(wanted)[1] is True
    _, _, query, headers, body = [asked for asked in api.asked if asked[0] == "PATCH"][1]
    assert (query["fieldManager"], query["force"]) == ("stackwright", "true")
    assert headers["Content-Type"] == "application/apply-patch+yaml" and json.loads(body) == wanted


@pytest.mark.parametrize(
    ("answer", "error", "transient"),
    [
        ((409, "Conflict", 'Apply failed with 1 conflict: conflict with "helm"'), ConflictError, False),
        ((409, "AlreadyExists", "exists"), ConflictError, False),
        ((403, "Forbidden", "exceeded quota"), ApiError, False),
        ((422, "Invalid", "spec.x: Required value"), ApiError, False),
        ((503, "ServiceUnavailable", "apiserver is shutting down"), ApiUnavailableError, True),
        ((429, "TooManyRequests", "slow down"), ApiUnavailableError, True),
        ((500, "InternalError", 'failed calling webhook "w": x509'), ApiUnavailableError, True),
        ((500, "InternalError", "nil pointer"), ApiError, False),
        ((404, "NotFound", 'namespaces "n" not found'), NotFoundError, False),
    ],
)
def test_refusals_keep_the_servers_words(api, kube, answer, error, transient):
    """Each Status becomes its error with code, reason and message; only what passes by itself is transient."""
    api.script["POST", "/api/v1/namespaces/n/configmaps"] = failing(*answer)
    with pytest.raises(error) as failed:
        kube.create_dry_run(config_map())
    assert (failed.value.status, failed.value.transient) == (answer[0], transient)
    assert answer[1] in failed.value.seen and answer[2] in failed.value.seen
    assert api.asked[-1][2]["dryRun"] == "All"


def test_a_server_that_is_not_there_is_transient():
    """A refused connection and one that never answers are ApiUnavailableError within the time limit."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(ApiUnavailableError):
            Kube(config(f"http://127.0.0.1:{port}")).nodes()
        held.listen()
        with pytest.raises(ApiUnavailableError):
            Kube(config(f"http://127.0.0.1:{port}"), timeout_s=0.3).nodes()


def test_a_bad_kubeconfig_is_said_so():
    """No context, or no mapping at all."""
    with pytest.raises(ToolError):
        Kube({"apiVersion": "v1", "kind": "Config"})
    with pytest.raises(ToolError):
        Kube("just text")


def test_a_name_can_be_reached_at_an_address(api):
    """`resolve` changes where the connection goes; the name stays for the certificate."""
    with alone(api.app) as served:
        client = Kube(config(f"http://k8s.lab.test:{served.port}"), resolve={"k8s.lab.test": "127.0.0.1"})
        assert client.get("v1", "ConfigMap", "a", "n") is None
        assert client._wire._settings.tls_server_name == "k8s.lab.test"
        client.close()


def test_long_lists_are_read_in_pages(api, kube):
    """All pages are joined, and each object says what it is."""
    pages = [
        {"metadata": {"continue": "t"}, "items": [{"metadata": {"name": "a"}}]},
        {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "b"}}]},
    ]
    api.script["GET", "/api/v1/configmaps"] = pages
    found = kube.list("v1", "ConfigMap", label_selector="x=y")
    assert [(item["kind"], item["metadata"]["name"]) for item in found] == [("ConfigMap", "a"), ("ConfigMap", "b")]
    assert [asked[2].get("continue") for asked in api.asked[-2:]] == [None, "t"]
    assert api.asked[-1][2]["labelSelector"] == "x=y"


def stream(*events):
    async def send(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    return send


def listing_then(*watches, items=()):
    """Answer plain lists with `items`, and each watch with the next of `watches`."""
    left = list(watches)

    async def send(request):
        if request.query.get("watch"):
            return await (left.pop(0) if len(left) > 1 else left[0])(request)
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": list(items)})

    return send


def has_key(key):
    def check(objects):
        return next((item["data"][key] for item in objects if key in item.get("data", {})), None)

    return check


def test_wait_sees_a_change_through_the_watch(api, kube):
    """The watch starts at the list's version; the object that satisfies the check ends the wait."""
    events = stream(
        {"type": "ADDED", "object": config_map("6")}, {"type": "MODIFIED", "object": config_map("7", k="v")}
    )
    api.script["GET", "/api/v1/namespaces/n/configmaps"] = listing_then(events)
    assert kube.wait("v1", "ConfigMap", has_key("k"), ns="n", name="a", timeout_s=5, what="k") == "v"
    watch = next(asked for asked in api.asked if asked[2].get("watch"))
    assert (watch[2]["resourceVersion"], watch[2]["fieldSelector"]) == ("5", "metadata.name=a")


def test_wait_lists_again_when_the_version_is_too_old(api, kube):
    """410 Gone inside a watch, a closed watch and an API server that is away for a moment do not end the wait."""
    gone = stream({"type": "ERROR", "object": {"kind": "Status", "code": 410}})
    good = stream({"type": "ADDED", "object": config_map("7", k="v")})
    away = failing(503, "ServiceUnavailable", "away")
    api.script["GET", "/api/v1/namespaces/n/configmaps"] = listing_then(gone, stream(), away, good)
    assert kube.wait("v1", "ConfigMap", has_key("k"), ns="n", timeout_s=10, what="k") == "v"


def test_wait_ends_at_its_deadline_with_what_was_seen(api, kube):
    """The error names what was awaited and the last state."""
    unready = {"metadata": {"name": "a", "namespace": "n"}}
    api.script["GET", "/api/v1/namespaces/n/configmaps"] = listing_then(stream(), items=[unready])
    with pytest.raises(GateTimeoutError) as failed:
        kube.wait("v1", "ConfigMap", has_key("k"), ns="n", timeout_s=0.3, what="key k", where="layer x")
    assert (failed.value.where, failed.value.wanted) == ("layer x", "key k") and "a (" in failed.value.seen


def test_a_deleted_object_leaves_the_wait(api, kube):
    """DELETED takes the object out of what the check sees."""
    events = stream({"type": "DELETED", "object": config_map("6", k="v")})
    api.script["GET", "/api/v1/namespaces/n/configmaps"] = listing_then(events, items=[config_map("5", k="v")])
    assert kube.wait("v1", "ConfigMap", lambda found: found == [] or None, ns="n", timeout_s=5, what="gone") is True


def test_the_service_proxy_gives_the_services_own_answer(api, kube):
    """The Service's status and body come back as they are; the API server's own Status is an error."""
    path = "/api/v1/namespaces/n/services/https:web:443/proxy/a/b"

    async def teapot(request):
        return web.Response(status=503, text="busy " + (await request.text()))

    api.script["POST", path] = teapot
    answer = kube.service_request("n", "web", 443, "POST", "/a/b", json_body={"x": 1}, scheme="https")
    assert (answer.status, answer.text, answer.ok) == (503, 'busy {"x": 1}', False)
    api.script["POST", path] = failing(503, "ServiceUnavailable", 'no endpoints available for service "web"')
    with pytest.raises(ApiUnavailableError, match="no endpoints"):
        kube.service_request("n", "web", 443, "POST", "/a/b", scheme="https")


def test_a_secret_is_returned_sealed(api, kube):
    """A Secret's value is decoded into something that does not print it."""
    path = "/api/v1/namespaces/n/secrets/s"
    api.script["GET", path] = {"metadata": {"name": "s"}, "data": {"k": base64.b64encode(b"planted").decode()}}
    value = kube.secret_value("s", "n", "k")
    assert value.get_secret_value() == "planted" and "planted" not in repr(value)
    assert kube.secret_value("s", "n", "other") is None and kube.secret_value("t", "n", "k") is None


def test_a_budget_refuses_an_eviction(api, kube):
    """429 by a disruption budget is False, a gone pod True, another 429 an error that may pass."""
    path = "/api/v1/namespaces/n/pods/p/eviction"
    api.script["POST", path] = failing(429, "TooManyRequests", "no", causes=[{"reason": "DisruptionBudget"}])
    assert kube.evict("p", "n") is False
    api.script["POST", path] = failing(404, "NotFound", "gone")
    assert kube.evict("p", "n") is True
    api.script["POST", path] = failing(429, "TooManyRequests", "slow down")
    with pytest.raises(ApiUnavailableError):
        kube.evict("p", "n")


def test_delete_of_what_is_gone_is_false(api, kube):
    """Deleting twice is no error."""
    api.script["DELETE", MAP] = {"kind": "Status", "status": "Success"}
    assert kube.delete("v1", "ConfigMap", "a", "n") is True
    del api.script["DELETE", MAP]
    assert kube.delete("v1", "ConfigMap", "a", "n") is False


def test_many_threads_may_use_one_client(api, kube):
    """Sixteen threads at once get their own answers."""
    barrier = threading.Barrier(16)
    for index in range(16):
        path = f"/api/v1/namespaces/n/configmaps/m{index}"
        api.script["GET", path] = {"metadata": {"name": f"m{index}"}}

    def ask(index):
        barrier.wait(60)
        return kube.get("v1", "ConfigMap", f"m{index}", "n")["metadata"]["name"]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == [f"m{index}" for index in range(16)]


def deployment(generation=2, observed=2, want=3, updated=3, available=3, total=3):
    return {
        "kind": "Deployment",
        "metadata": {"generation": generation},
        "spec": {"replicas": want},
        "status": {
            "observedGeneration": observed,
            "updatedReplicas": updated,
            "availableReplicas": available,
            "replicas": total,
        },
    }


@pytest.mark.parametrize(
    ("obj", "ready", "detail"),
    [
        (None, False, "does not exist"),
        (deployment(), True, "3/3"),
        (deployment(observed=1), False, "has not seen"),
        (deployment(updated=1), False, "1 updated"),
        (deployment(available=2), False, "2/3"),
        (deployment(total=4), False, "3/3"),
        (
            {
                "kind": "DaemonSet",
                "status": {"desiredNumberScheduled": 2, "numberReady": 2, "updatedNumberScheduled": 2},
            },
            True,
            "2/2",
        ),
        ({"kind": "DaemonSet", "status": {"desiredNumberScheduled": 0}}, False, "0/0"),
        (
            {
                "kind": "StatefulSet",
                "spec": {"replicas": 1},
                "status": {"readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            },
            False,
            "update under way",
        ),
        (
            {
                "kind": "StatefulSet",
                "spec": {"replicas": 1},
                "status": {"readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"},
            },
            True,
            "1/1",
        ),
        ({"kind": "Job", "status": {"succeeded": 1}}, True, "1/1"),
        ({"kind": "Job", "status": {"conditions": [{"type": "Failed", "status": "True"}]}}, False, "failed"),
        ({"kind": "PersistentVolumeClaim", "status": {"phase": "Pending"}}, False, "Pending"),
        ({"kind": "Certificate", "status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True, "True"),
        ({"kind": "Backup"}, False, "not set"),
    ],
)
def test_rollouts_are_judged_by_status(obj, ready, detail):
    """A workload is ready only when its controller has seen the last change and all replicas follow it."""
    judged = rollout_of(obj)
    assert (judged.ready, detail in judged.detail) == (ready, True)


def test_a_node_is_read():
    """Roles, taints, voter condition and readiness come from the object."""
    node = node_status(
        {
            "metadata": {"name": "srv1", "labels": {"node-role.kubernetes.io/etcd": "true"}},
            "spec": {"unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "EtcdIsVoter", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "127.77.0.1"}],
            },
        }
    )
    assert (node.ready, node.schedulable, node.etcd_voter, node.roles) == (True, False, True, ("etcd",))
    assert (node.taints, node.address) == (("k=:NoSchedule",), "127.77.0.1")
    assert condition_of(None, "Ready") == {}
