"""Fixtures of the contract tests: each gives the lab's stand-in always, and the real thing where one is named.

A live cluster is named by STACKWRIGHT_LIVE_KUBECONFIG. Tests work in namespaces of their own, deleted afterwards.
STACKWRIGHT_LIVE_IMAGE names an image that its nodes can pull and that keeps running; without it, tests that need
running pods are skipped there.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import pytest
import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from stackwright.lab.kube.alone import kube_alone

LIVE_KUBECONFIG = os.environ.get("STACKWRIGHT_LIVE_KUBECONFIG", "")
LIVE_IMAGE = os.environ.get("STACKWRIGHT_LIVE_IMAGE", "")
WAIT_S = 60.0


@dataclass
class Answer:
    """An HTTP answer of the API server."""

    status: int
    body: dict
    headers: dict

    @property
    def reason(self):
        return self.body.get("reason")

    @property
    def message(self):
        return self.body.get("message", "")

    @property
    def causes(self):
        return (self.body.get("details") or {}).get("causes") or []


@dataclass
class KubeApi:
    """A cluster under test, spoken to in plain HTTP with the kubeconfig's login."""

    kubeconfig: Path
    live: bool
    image: str
    space: str = ""
    has_controllers: bool = True
    token: str = ""
    made: list = field(default_factory=list)

    def __post_init__(self):
        settings = kubernetes_client.Configuration()
        kubernetes_config.load_kube_config(str(self.kubeconfig), client_configuration=settings)
        self.client = kubernetes_client.ApiClient(settings)
        self.host = settings.host.rstrip("/")
        self._anonymous = urllib3.PoolManager(ca_certs=settings.ssl_ca_cert, assert_hostname=False)

    @property
    def core(self):
        return f"/api/v1/namespaces/{self.space}"

    @property
    def apps(self):
        return f"/apis/apps/v1/namespaces/{self.space}"

    def ask(
        self,
        method,
        path,
        body=None,
        *,
        content="application/json",
        token=None,
        raw=False,
        accept="application/json",
        **query,
    ):
        """Send a request and return the answer, whatever its status. `token` replaces the kubeconfig's login."""
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": content, "Accept": accept}
        data = None if body is None else json.dumps(body).encode()
        if token is None:
            headers |= {"Authorization": value} if (value := self._login()) else {}
            pool = self.client.rest_client.pool_manager
        else:
            headers |= {"Authorization": f"Bearer {token}"} if token else {}
            pool = self._anonymous
        answer = pool.request(
            method, url, body=data, headers=headers, preload_content=not raw, retries=False, timeout=60
        )
        if raw:
            return answer
        kind = answer.headers.get("Content-Type", "")
        return Answer(
            answer.status,
            json.loads(answer.data) if "json" in kind else {"text": answer.data.decode()},
            dict(answer.headers),
        )

    def _login(self):
        settings = self.client.configuration
        return settings.get_api_key_with_prefix("authorization") or settings.get_api_key_with_prefix("BearerToken")

    def good(self, method, path, body=None, **more):
        """Send a request that must succeed; return its body."""
        answer = self.ask(method, path, body, **more)
        assert 200 <= answer.status < 300, (answer.status, answer.body)
        return answer.body

    def apply(self, path, body, *, manager="one", force=False, **more):
        query = {"fieldManager": manager, "force": str(force).lower(), **more}
        return self.ask("PATCH", path, body, content="application/apply-patch+yaml", **query)

    def until(self, check, what="the condition"):
        """Poll until `check` returns something true, and return that."""
        deadline = time.monotonic() + WAIT_S
        while True:
            found = check()
            if found:
                return found
            assert time.monotonic() < deadline, f"{what} was not seen within {WAIT_S} s"
            time.sleep(0.02 if not self.live else 0.5)

    def namespace(self, labels=None):
        """Make a namespace that is deleted after the test."""
        name = f"stackwright-test-{uuid.uuid4().hex[:8]}"
        meta = {"name": name, "labels": labels or {}}
        self.good("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        self.made.append(f"/api/v1/namespaces/{name}")
        return name


@pytest.fixture(scope="session")
def stand_in_cluster(tmp_path_factory):
    with kube_alone(tmp_path_factory.mktemp("kube")) as cluster:
        yield cluster


@pytest.fixture(params=["stand-in", *(["live"] if LIVE_KUBECONFIG else [])])
def kube(request):
    """A cluster with a fresh namespace, `kube.space`, whose default service account is there."""
    live = request.param == "live"
    path = Path(LIVE_KUBECONFIG) if live else request.getfixturevalue("stand_in_cluster").kubeconfig
    api = KubeApi(path, live, (LIVE_IMAGE if live else "") or "pause:1")
    api.space = api.namespace()
    api.has_controllers = not live or _has_controllers(api)
    if not live:
        api.until(lambda: api.ask("GET", f"{api.core}/serviceaccounts/default").status == 200, "the default account")
    yield api
    for made in reversed(api.made):
        api.ask("DELETE", made)
    api.client.close()


def _has_controllers(api):
    """Tell whether a live API server has controllers behind it (it may be run alone)."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if api.ask("GET", f"{api.core}/serviceaccounts/default").status == 200:
            return True
        time.sleep(0.5)
    return False


@pytest.fixture
def kube_controllers(kube):
    """The same, where controllers work."""
    if not kube.has_controllers:
        pytest.skip("this API server has no controllers behind it")
    return kube


@pytest.fixture
def kube_nodes(kube_controllers):
    """The same, where pods run."""
    if kube_controllers.live and not LIVE_IMAGE:
        pytest.skip("STACKWRIGHT_LIVE_IMAGE is not set")
    return kube_controllers
