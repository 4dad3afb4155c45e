"""The transport under the Kubernetes client: kubeconfig, TLS and login from the official client, requests, and errors.

What is asked of the cluster is in kube.py. Nothing is tried twice here: the task decides about that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from stackwright.clients.trips import trip
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiError, ApiUnavailableError, ConflictError, NotFoundError, ToolError

AGENT = "stackwright"
POOL_SIZE = 16  # threads of one run that talk to the API server at once
UNAVAILABLE = frozenset({429, 502, 503, 504})
# An internal error of these kinds passes by itself: a webhook whose pods are not up yet, an etcd without a leader.
PASSING_CAUSES = ("failed calling webhook", "etcdserver:", "context deadline exceeded", "connection refused")


class KubeWire:
    """Requests to one API server. May be used from several threads at once; they share a pool of connections."""

    def __init__(
        self, kubeconfig: Path | str | Mapping[str, Any], timeout_s: float, resolve: Mapping[str, str] | None
    ) -> None:
        self._timeout_s = timeout_s
        settings = kubernetes_client.Configuration()
        settings.connection_pool_maxsize = POOL_SIZE
        content = _resolved(_content(kubeconfig), resolve or {})
        try:
            load: Any = kubernetes_config.load_kube_config_from_dict
            load(content, client_configuration=settings, persist_config=False)
        except kubernetes_config.ConfigException as error:
            remedy = "Fetch the kubeconfig again (it is in the cluster's block), or name the context in it."
            raise ToolError(
                "the kubeconfig cannot be used", where="kubeconfig", seen=str(error), remedy=remedy
            ) from error
        self._settings = settings
        self._client: Any = kubernetes_client.ApiClient(settings)
        self.host = str(settings.host).rstrip("/")

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> HttpAnswer:
        data = None if body is None else json.dumps(body).encode()
        return self.fetch(method, path, query or {}, data, {"Content-Type": content} if data else {})

    def fetch(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        read_s: float | None = None,
    ) -> HttpAnswer:
        response = self.open(method, path, query, body, headers, read_s=read_s)
        try:
            return HttpAnswer(response.status, dict(response.headers), response.read())
        except urllib3.exceptions.HTTPError as error:
            raise ApiUnavailableError(
                "the API server's answer broke off", where=self.host, seen=type(error).__name__
            ) from error
        finally:
            response.release_conn()

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        read_s: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        sent = {"Accept": "application/json, */*", "User-Agent": AGENT, **headers}
        logins: Mapping[str, Any] = self._settings.auth_settings()
        for login in logins.values():  # reads a token file or exec plugin again when it is due
            if login.get("in") == "header" and login.get("value"):
                sent[login["key"]] = login["value"]
        limit = urllib3.Timeout(connect=min(self._timeout_s, 10.0), read=read_s or self._timeout_s)
        pool = self._client.rest_client.pool_manager
        try:
            with trip("kubernetes", method.lower()) as made:
                response: urllib3.BaseHTTPResponse = pool.request(
                    method, url, body=body, headers=sent, timeout=limit, retries=False, preload_content=False
                )
                made.answered(response.status)
        except urllib3.exceptions.SSLError as error:
            remedy = "Check the CA in the kubeconfig, and that the API certificate names the address that is used."
            raise ApiError("TLS with the API server failed", where=self.host, seen=str(error), remedy=remedy) from error
        except urllib3.exceptions.HTTPError as error:
            raise ApiUnavailableError(
                "the API server does not answer", where=self.host, seen=type(error).__name__
            ) from error
        return response


def raise_for(answer: HttpAnswer, where: str, verb: str) -> None:
    """Raise the error that an answer stands for, with the server's own reason and message."""
    if answer.ok:
        return
    status = answer.json()
    status = status if isinstance(status, dict) else {}
    reason, message = status.get("reason", ""), status.get("message") or answer.text[:500]
    seen = f"{answer.status} {reason}: {message}".replace(" : ", ": ")
    what, wanted = f"the API server refused {verb}", f"{verb} answered with 2xx"
    if answer.status == 404:
        raise NotFoundError("there is no such object", where=where, wanted=wanted, seen=seen, status=404)
    if answer.status == 409:
        raise ConflictError(what, where=where, wanted=wanted, seen=seen, status=409)
    if answer.status in UNAVAILABLE or (answer.status == 500 and any(cause in message for cause in PASSING_CAUSES)):
        what = "the API server cannot do this now"
        raise ApiUnavailableError(what, where=where, wanted=wanted, seen=seen, status=answer.status)
    remedy = {
        401: "Fetch the kubeconfig again.",
        500: "The server itself failed: read the log of the API server on the servers, then start the flow again.",
        403: "Give this login the right, or lift the quota or policy that the message names.",
    }
    how = remedy.get(answer.status, "")
    raise ApiError(what, where=where, wanted=wanted, seen=seen, status=answer.status, remedy=how)


def lines_of(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(65536, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())


def _content(kubeconfig: Path | str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(kubeconfig, Mapping):
        return dict(kubeconfig)
    text = kubeconfig.read_text() if isinstance(kubeconfig, Path) else kubeconfig
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise ToolError("the kubeconfig is no mapping", where="kubeconfig", wanted="a kubeconfig in YAML")
    return content


def _resolved(content: dict[str, Any], resolve: Mapping[str, str]) -> dict[str, Any]:
    """Put addresses in the place of names, keeping the name for the certificate check."""
    if not resolve:
        return content
    clusters = []
    for entry in content.get("clusters") or ():
        cluster = dict(entry["cluster"])
        url = urllib3.util.parse_url(cluster.get("server", ""))
        if url.host and url.host in resolve:
            cluster["server"] = url._replace(host=resolve[url.host]).url
            cluster.setdefault("tls-server-name", url.host)
        clusters.append({**entry, "cluster": cluster})
    return {**content, "clusters": clusters}
