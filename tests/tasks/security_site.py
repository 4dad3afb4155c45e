"""A site whose SUSE Security is the lab's stand-in, on a cluster in memory; time is moved by waiting alone."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiError
from stackwright.domain.security_facts import Stand
from stackwright.lab.operators.security import NeuVector
from stackwright.lab.operators.security_admission import WEBHOOK
from stackwright.lab.operators.security_wire import NAMESPACE
from stackwright.lab.operators.world import World
from tasks.security_record import read_life_record, write_life_record
from tests.fakes.kube import FakeKube, ready
from tests.tasks.layer_site import FakeLease, FakeSite

PASSWORD = "planted-admin"
DAY_S = 86400.0
LIFE = {"learn_days": 7, "observe_days": 3, "protect": ["shop", "red"], "watch_minutes": 10, "admission": "protect"}


class State:
    """The fake cluster as the operators see it."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube, self.service_backends, self.webhooks = kube, {}, {}

    def peek(self, kind, namespace, name):
        return next((one for one in self.each(kind) if one["metadata"]["name"] == name
                     and one["metadata"].get("namespace", "") == namespace), None)  # fmt: skip

    def each(self, kind):
        return [obj for (_, its, _, _), obj in list(self.kube.objects.items()) if its == kind.rpartition("/")[2]]

    def put(self, obj):
        self.kube.put(obj)

    def delete(self, kind, namespace, name):
        self.kube.objects = {key: obj for key, obj in self.kube.objects.items() if (key[1], key[3]) != (kind, name)}

    def add_reconciler(self, reconciler):
        raise NotImplementedError


class SecurityKube(FakeKube):
    """A cluster whose service proxy reaches the stand-in, and whose pods pass the stand-in's webhook.

    `cut` is asked before each request to the product: it may raise.
    """

    def __init__(self, *objects: dict[str, Any]) -> None:
        super().__init__(*objects)
        self.product: NeuVector | None = None
        self.asked: list[tuple[str, str]] = []
        self.cut = lambda method, path: None

    def service_request(
        self, ns, service, port, method="GET", path="/", *, json_body=None, body=None, headers=None, scheme="http",
        timeout_s=None,
    ):  # fmt: skip
        assert (ns, service, scheme) == (NAMESPACE, "neuvector-svc-controller-api", "https")
        self.asked.append((method, path))
        self.cut(method, path)
        split = urlsplit(path)
        data = body or (b"" if json_body is None else json.dumps(json_body).encode())
        answer = self.product.answer(method, split.path, headers or {}, dict(parse_qsl(split.query)), data)
        return HttpAnswer(*_done(answer))

    def create_dry_run(self, obj):
        response = self.product.admission.review({"object": obj, "dryRun": True})
        if response is not None:
            # As the API server words a webhook's refusal. Source: apiserver, webhook/errors/statuserror.go
            said = f'admission webhook "{WEBHOOK}" denied the request: {response["status"]["message"]}'
            raise ApiError("the API server refused POST", seen=f"403 {said}", status=403)
        return super().create_dry_run(obj)

    @property
    def changes(self) -> list[str]:
        """What was changed: objects, and the product's settings; sessions and questions are none."""
        asked = [f"{method} {path}" for method, path in self.asked if method != "GET" and "/v1/auth" not in path]
        return [*self.journal, *(one for one in asked if "assess" not in one)]


class SecuritySite(FakeSite):
    """Two namespaces to enforce, `shop` and `red`, with workloads that are ready; all groups are in Discover."""

    def __init__(self, folder, **life: Any) -> None:
        given = {("secret-text", "security-admin"): {"value": PASSWORD}}
        super().__init__(folder, given, layers={"security": {"life": {**LIFE, **life}}})
        self.kube = SecurityKube(*self.kube.objects.values())
        users = yaml.safe_dump({"users": [{"Fullname": "admin", "Role": "admin", "Password": PASSWORD}]})
        start = yaml.safe_dump({"New_Service_Policy_Mode": "Discover", "New_Service_Profile_Mode": "Discover"})
        self.put_secret("neuvector-init", {"userinitcfg.yaml": users, "sysinitcfg.yaml": start})
        for name in ("neuvector-controller-pod", "neuvector-scanner-pod"):
            self.kube.put(ready("Deployment", name, NAMESPACE, 3))
        self.born = self.clock.at
        for name, space in (("web", "shop"), ("db", "shop"), ("train", "red")):
            self.workload(name, space)
        config = {"enable": True, "mode": "monitor", "client_mode": "service"}
        made = {"name": "local", "creationTimestamp": _stamp(self.born)}
        self.kube.put({"apiVersion": "neuvector.com/v1", "kind": "NvAdmissionControlSecurityRule", "metadata": made,
                       "spec": {"config": config}})  # fmt: skip
        self.product = self.kube.product = NeuVector(World(State(self.kube), {}.get, None), self.clock.now)
        self.groups, self.admission = self.product.groups, self.product.admission

    def put_secret(self, name: str, texts: dict[str, str]) -> None:
        import base64

        data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        self.kube.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
                       "data": data})  # fmt: skip

    def workload(self, name: str, space: str, image: str = "", *, up: bool = True) -> None:
        """Put a Deployment with one running pod."""
        image = image or f"registry.example/{name}:1"
        pod = {"containers": [{"name": "main", "image": image}]}
        item = ready("Deployment", name, space)
        item["spec"]["template"] = {"metadata": {"labels": {"app": name}}, "spec": pod}
        if not up:
            item["status"] |= {"availableReplicas": 0, "readyReplicas": 0}
        self.kube.put(item)
        meta = {"name": f"{name}-0", "namespace": space, "creationTimestamp": _stamp(self.born)}
        self.kube.put(
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod, "status": {"phase": "Running"}}
        )

    def days(self, count: float) -> None:
        self.clock.at += count * DAY_S

    def modes(self, *spaces: str) -> dict[str, str]:
        """Return the mode of each group of these namespaces, policy and profile agreeing."""
        found = {}
        for name in self.groups.names():
            mode = self.groups.mode_of(name)
            if name.rpartition(".")[2] in (spaces or ("shop", "red")):
                assert mode["policy_mode"] == mode["profile_mode"]
                found[name] = mode["policy_mode"]
        return found

    def set_all(self, mode: str, *spaces: str) -> None:
        """Give groups a mode as we would have, now."""
        names = list(self.modes(*spaces))
        for name in names:
            self.groups.modes[name] = {**self.groups.mode_of(name), "policy_mode": mode, "profile_mode": mode}
        record = read_life_record(self.kube)
        stands = {**record.groups, **{name: Stand(mode=mode, at=self.clock.at) for name in names}}
        write_life_record(self.kube, record.model_copy(update={"groups": stands}), FakeLease())
        self.kube.journal.clear()


def _done(answer):
    """Return what a coroutine that waits for nothing returns: a loop for each request would cost much time."""
    try:
        answer.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the stand-in waits for something")


def _stamp(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
