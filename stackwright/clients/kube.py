"""The Kubernetes wire, on the official client: objects as dictionaries, server-side apply, watches, service proxy.

What an object's status means is in domain/cluster.py; kubeconfig, TLS, login and errors are in kube_wire.py. Paths come
from discovery, read once for each API group when it is first needed, so that any kind works without a generated class.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import urllib3
from pydantic import SecretStr

from stackwright.clients.kube_wire import KubeWire, lines_of, raise_for
from stackwright.domain.cluster import HttpAnswer, NodeStatus, Obj, Rollout, node_status, rollout_of
from stackwright.domain.errors import (
    ApiError,
    ApiUnavailableError,
    GateTimeoutError,
    NotFoundError,
)

log = logging.getLogger(__name__)
T = TypeVar("T")
Objs = list[Obj]
Nodes = list[NodeStatus]

MANAGER = "stackwright"
WATCH_S = 60  # one watch request; the deadline is kept by `wait`
PAGE = 500


@dataclass(frozen=True)
class Resource:
    """One kind as discovery names it."""

    plural: str
    namespaced: bool


class KubeClient(Protocol):
    """What tasks ask of a cluster."""

    def get(self, api_version: str, kind: str, name: str, ns: str | None = None) -> Obj | None: ...
    def get_dated(self, api_version: str, kind: str, name: str, ns: str | None = None) -> tuple[Obj | None, float]: ...
    def list(
        self, api_version: str, kind: str, ns: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> Objs: ...
    def each(self, api_version: str, kind: str, ns: str | None = None) -> Iterator[Obj]: ...
    def apply(
        self, obj: Mapping[str, Any], *, field_manager: str = MANAGER, force: bool = False
    ) -> tuple[Obj, bool]: ...
    def create(self, obj: Mapping[str, Any]) -> Obj: ...
    def create_dry_run(self, obj: Mapping[str, Any]) -> Obj: ...
    def patch_merge(
        self,
        api_version: str,
        kind: str,
        name: str,
        patch: Mapping[str, Any],
        ns: str | None = None,
        *,
        subresource: str = "",
    ) -> Obj: ...
    def delete(
        self,
        api_version: str,
        kind: str,
        name: str,
        ns: str | None = None,
        *,
        propagation: str = "Background",
        grace_s: int | None = None,
    ) -> bool: ...
    def nodes(self) -> Nodes: ...
    def rollout(self, kind: str, name: str, ns: str) -> Rollout: ...
    def wait(
        self,
        api_version: str,
        kind: str,
        check: Callable[[Objs], T | None],
        *,
        ns: str | None = None,
        name: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: float,
        what: str,
        where: str = "",
    ) -> T: ...
    def service_request(
        self,
        ns: str,
        service: str,
        port: int | str,
        method: str = "GET",
        path: str = "/",
        *,
        json_body: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        scheme: str = "http",
        timeout_s: float | None = None,
    ) -> HttpAnswer: ...
    def secret_value(self, name: str, ns: str, key: str) -> SecretStr | None: ...
    def pod_logs(self, name: str, ns: str, *, container: str = "", tail: int = 100, previous: bool = False) -> str: ...
    def evict(self, pod: str, ns: str, *, grace_s: int | None = None, uid: str = "") -> bool: ...
    def can_i(self, verb: str, resource: str, *, group: str = "", ns: str = "") -> bool: ...
    def server_version(self) -> str: ...
    def readyz(self) -> str: ...
    def has_kind(self, api_version: str, kind: str) -> bool: ...


class Kube:
    """One cluster, reached with a kubeconfig: a path, its text, or its content as a dictionary.

    May be used from several threads at once; they share a pool of connections. `timeout_s` limits each request.
    `resolve` maps host names of the kubeconfig to addresses, with the certificate still checked for the name.
    """

    def __init__(
        self,
        kubeconfig: Path | str | Mapping[str, Any],
        *,
        timeout_s: float = 30.0,
        resolve: Mapping[str, str] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, dict[str, Resource]] = {}
        self._wire = KubeWire(kubeconfig, timeout_s, resolve)
        self.host = self._wire.host

    def close(self) -> None:
        """Close the pooled connections."""
        self._wire.close()

    # --- objects -----------------------------------------------------------------------------------------------------

    def get(self, api_version: str, kind: str, name: str, ns: str | None = None) -> Obj | None:
        """Return an object, or None where there is none; also None where the cluster does not know the kind."""
        try:
            return self._request("GET", self._path(api_version, kind, ns, name))
        except NotFoundError:
            return None

    def get_dated(self, api_version: str, kind: str, name: str, ns: str | None = None) -> tuple[Obj | None, float]:
        """Return an object (None where there is none) and the API server's own clock: its answer's date, to a second.

        Raises ApiError when the answer has no date.
        """
        path = self._path(api_version, kind, ns, name)
        answer = self._wire.send("GET", path)
        date = next((value for key, value in answer.headers.items() if key.lower() == "date"), "")
        try:
            now = parsedate_to_datetime(date).timestamp()
        except ValueError as error:
            remedy = "A proxy before the API server must pass the header Date on."
            raise ApiError(
                "the API server's answer has no date", where=self.host, wanted="the header Date", seen=date or "none",
                remedy=remedy, status=answer.status,
            ) from error  # fmt: skip
        if answer.status == 404:
            return None, now
        raise_for(answer, path, "GET")
        found: Obj = answer.json()
        return found, now

    def list(
        self, api_version: str, kind: str, ns: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> Objs:
        """Return all objects of a kind, of one namespace or of all. A kind that is not served raises NotFoundError."""
        return self._list(api_version, kind, ns, label_selector, field_selector)[0]

    def each(self, api_version: str, kind: str, ns: str | None = None) -> Iterator[Obj]:
        """Yield all objects of a kind, page by page: for what a large cluster has too many of to hold at once."""
        for page in self._pages(api_version, kind, ns):
            yield from ({"apiVersion": api_version, "kind": kind, **item} for item in page.get("items") or ())

    def apply(self, obj: Mapping[str, Any], *, field_manager: str = MANAGER, force: bool = False) -> tuple[Obj, bool]:
        """Apply an object server-side; return what is there now and whether that changed anything.

        Raises ConflictError naming the other owner when a field is owned by someone else and `force` is not set.
        """
        path = self._path_of(obj)
        before = None
        with contextlib.suppress(NotFoundError):
            before = self._request("GET", path)
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        after = self._request("PATCH", path, body=dict(obj), query=query, content="application/apply-patch+yaml")
        return after, before is None or _wanted_part(before) != _wanted_part(after)

    def create(self, obj: Mapping[str, Any]) -> Obj:
        """Create an object. Raises ConflictError when it exists."""
        return self._request(
            "POST", self._path_of(obj, collection=True), body=dict(obj), query={"fieldManager": MANAGER}
        )

    def create_dry_run(self, obj: Mapping[str, Any]) -> Obj:
        """Let the server do everything for a create (validation, admission webhooks) except keep it."""
        return self._request(
            "POST",
            self._path_of(obj, collection=True),
            body=dict(obj),
            query={"dryRun": "All", "fieldManager": MANAGER},
        )

    def patch_merge(
        self,
        api_version: str,
        kind: str,
        name: str,
        patch: Mapping[str, Any],
        ns: str | None = None,
        *,
        subresource: str = "",
    ) -> Obj:
        """Merge a patch into an object that exists (JSON merge patch: null removes a key).

        A patch that names a resourceVersion raises ConflictError when the object has another by now.
        """
        path = self._path(api_version, kind, ns, name) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": MANAGER}
        return self._request("PATCH", path, body=dict(patch), query=query, content="application/merge-patch+json")

    def delete(
        self,
        api_version: str,
        kind: str,
        name: str,
        ns: str | None = None,
        *,
        propagation: str = "Background",
        grace_s: int | None = None,
    ) -> bool:
        """Delete an object; False where there is none. It may live on until its finalizers are done.

        `grace_s` of 0 takes a pod off the API without its kubelet's word: only where that is known to be dead.
        """
        options: Obj = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        options |= {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        try:
            self._request("DELETE", self._path(api_version, kind, ns, name), body=options)
        except NotFoundError:
            return False
        return True

    def nodes(self) -> Nodes:
        """Return all nodes, by name."""
        return sorted((node_status(node) for node in self.list("v1", "Node")), key=lambda node: node.name)

    def rollout(self, kind: str, name: str, ns: str) -> Rollout:
        """Say whether a workload of apps/v1 (or a Job or a claim) is as wanted."""
        group = {"Job": "batch/v1", "PersistentVolumeClaim": "v1"}.get(kind, "apps/v1")
        obj = self.get(group, kind, name, ns)
        return rollout_of(obj and {"kind": kind, **obj})

    def secret_value(self, name: str, ns: str, key: str) -> SecretStr | None:
        """Return one value of a Secret, or None where the Secret or the key is not there."""
        obj = self.get("v1", "Secret", name, ns)
        value = ((obj or {}).get("data") or {}).get(key)
        return None if value is None else SecretStr(base64.b64decode(value).decode())

    def pod_logs(self, name: str, ns: str, *, container: str = "", tail: int = 100, previous: bool = False) -> str:
        """Return a pod's last log lines."""
        query = (
            {"tailLines": str(tail)}
            | ({"container": container} if container else {})
            | ({"previous": "true"} if previous else {})
        )
        return self._raw("GET", f"/api/v1/namespaces/{quote(ns)}/pods/{quote(name)}/log", query=query).text

    def evict(self, pod: str, ns: str, *, grace_s: int | None = None, uid: str = "") -> bool:
        """Ask for a pod's eviction; False where a disruption budget refuses it now. A pod that is gone is evicted.

        With `uid` only that very pod is meant: where another one has its name by now, nothing is asked of it.
        Raises ApiError where more than one budget covers the pod: the API server can never evict it.
        """
        options: Obj = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        options |= {"preconditions": {"uid": uid}} if uid else {}
        body: Obj = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": ns}}
        body |= {"deleteOptions": options} if options else {}
        answer = self._wire.send("POST", f"/api/v1/namespaces/{quote(ns)}/pods/{quote(pod)}/eviction", body=body)
        causes = ((answer.json() or {}).get("details") or {}).get("causes") or () if not answer.ok else ()
        if answer.status == 429 and any(cause.get("reason") == "DisruptionBudget" for cause in causes):
            return False
        if answer.status == 409 and uid and self._is_another(pod, ns, uid):
            return True
        if answer.status != 404:
            raise_for(answer, f"pod {ns}/{pod}", "evict")
        return True

    def _is_another(self, pod: str, ns: str, uid: str) -> bool:
        found = self.get("v1", "Pod", pod, ns)
        return found is None or found["metadata"]["uid"] != uid

    def can_i(self, verb: str, resource: str, *, group: str = "", ns: str = "") -> bool:
        """Ask the server whether this login may do something."""
        attributes = {"verb": verb, "resource": resource, "group": group} | ({"namespace": ns} if ns else {})
        kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        answer = self._request(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            body=kind | {"spec": {"resourceAttributes": attributes}},
        )
        return bool((answer.get("status") or {}).get("allowed"))

    def server_version(self) -> str:
        """Return the API server's version, such as v1.34.10+rke2r1."""
        return str(self._request("GET", "/version")["gitVersion"])

    def readyz(self) -> str:
        """Return what the API server says of its own readiness: `ok`. Raises ApiError where it is not ready."""
        return self._raw("GET", "/readyz").text

    def has_kind(self, api_version: str, kind: str) -> bool:
        """Say whether the cluster serves a kind now (a CRD may have come or gone since the last look)."""
        self._forget(api_version)
        try:
            self._resource(api_version, kind)
        except NotFoundError:
            return False
        return True

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(
        self,
        api_version: str,
        kind: str,
        check: Callable[[Objs], T | None],
        *,
        ns: str | None = None,
        name: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: float,
        what: str,
        where: str = "",
    ) -> T:
        """Watch objects until `check` of them returns something, and return that.

        `check` is called with the objects (none, or one when `name` is given) at the start and after each change.
        Raises GateTimeoutError with the last state when the deadline passes. An API server that goes away for a moment
        does not end the wait: it is asked again until the deadline.
        """
        deadline = time.monotonic() + timeout_s
        fields = ",".join(filter(None, (f"metadata.name={name}" if name else "", field_selector)))
        last, pause_s = "nothing was seen", 0.1
        while True:
            try:
                for objects in self._changes(api_version, kind, ns, label_selector, fields, deadline):
                    found = check(objects)
                    if found is not None:
                        return found
                    last, pause_s = _summary(objects), 0.1
            except (ApiUnavailableError, NotFoundError) as error:
                last = error.seen or error.what
                threading.Event().wait(min(pause_s, max(0.0, deadline - time.monotonic())))
                pause_s = min(pause_s * 2, 5.0)
            if time.monotonic() >= deadline:
                raise GateTimeoutError(
                    f"{what} was not seen within {timeout_s:.0f} s", where=where or kind, wanted=what, seen=last
                )

    def _changes(
        self, api_version: str, kind: str, ns: str | None, labels: str, fields: str, deadline: float
    ) -> Iterator[Objs]:
        """Yield the objects, then again after each watch event, until the watch ends or the deadline passes."""
        listed, version = self._list(api_version, kind, ns, labels, fields)
        objects = {_identity(item): item for item in listed}
        yield list(objects.values())
        left = deadline - time.monotonic()
        if left <= 0:
            return
        limit = max(1, min(WATCH_S, int(left)))
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(limit)}
        query |= {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
        for event in self._events(self._path(api_version, kind, ns), query, limit, deadline):
            if event.get("type") == "ERROR":  # the version is too old: list again
                return
            if event.get("type") == "BOOKMARK":
                continue
            item = event["object"]
            if event["type"] == "DELETED":
                objects.pop(_identity(item), None)
            else:
                objects[_identity(item)] = item
            yield list(objects.values())

    def _events(self, path: str, query: Mapping[str, str], limit_s: int, deadline: float) -> Iterator[Obj]:
        """Yield a watch's events. The read time limit ends a watch whose server hangs."""
        read_s = max(0.2, min(limit_s + 2.0, deadline - time.monotonic()))
        try:
            with contextlib.closing(self._wire.open("GET", path, query, None, {}, read_s=read_s)) as response:
                if response.status != 200:
                    raise_for(HttpAnswer(response.status, dict(response.headers), response.read()), path, "watch")
                for line in lines_of(response):
                    yield json.loads(line)
        except (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ProtocolError):
            return  # an idle watch, or one cut off: the caller lists again

    # --- the service proxy -------------------------------------------------------------------------------------------

    def service_request(
        self,
        ns: str,
        service: str,
        port: int | str,
        method: str = "GET",
        path: str = "/",
        *,
        json_body: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        scheme: str = "http",
        timeout_s: float | None = None,
    ) -> HttpAnswer:
        """Send a request to a Service through the API server, and return the Service's answer whatever its status.

        The API server takes the Authorization header for itself and does not pass it on. Raises ApiUnavailableError
        when it finds no endpoint behind the Service, NotFoundError when there is no Service.
        """
        target = f"{scheme}:{service}:{port}" if scheme == "https" else f"{service}:{port}"
        full = f"/api/v1/namespaces/{quote(ns)}/services/{quote(target)}/proxy/{path.lstrip('/')}"
        data, extra = body, dict(headers or {})
        if json_body is not None:
            data = json.dumps(json_body).encode()
            extra.setdefault("Content-Type", "application/json")
        answer = self._wire.fetch(method, full, {}, data, extra, read_s=timeout_s)
        status = answer.json() if not answer.ok else None
        if isinstance(status, dict) and status.get("kind") == "Status" and status.get("apiVersion") == "v1":
            raise_for(answer, f"service {ns}/{service}:{port}", method)
        return answer

    # --- requests ----------------------------------------------------------------------------------------------------

    def _list(self, api_version: str, kind: str, ns: str | None, labels: str, fields: str) -> tuple[Objs, str]:
        found: Objs = []
        version = ""
        for page in self._pages(api_version, kind, ns, labels, fields):
            found += page.get("items") or []
            version = (page.get("metadata") or {}).get("resourceVersion", "")
        # The items of a list leave these two out; an object should say what it is.
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found], version

    def _pages(self, api_version: str, kind: str, ns: str | None, labels: str = "", fields: str = "") -> Iterator[Obj]:
        path, token = self._path(api_version, kind, ns), ""
        while True:
            query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            query |= {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
            page = self._request("GET", path, query=query)
            yield page
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return

    def _path_of(self, obj: Mapping[str, Any], *, collection: bool = False) -> str:
        meta = obj["metadata"]
        return self._path(obj["apiVersion"], obj["kind"], meta.get("namespace"), "" if collection else meta["name"])

    def _path(self, api_version: str, kind: str, ns: str | None, name: str = "") -> str:
        resource = self._resource(api_version, kind)
        scope = f"/namespaces/{quote(ns)}" if ns and resource.namespaced else ""
        if name and resource.namespaced and not ns:
            raise ApiError(f"{kind} {name} needs a namespace", where=f"{kind} {name}", wanted="a namespace")
        return f"{_root(api_version)}{scope}/{resource.plural}" + (f"/{quote(name)}" if name else "")

    def _resource(self, api_version: str, kind: str) -> Resource:
        with self._lock:
            known = self._kinds.get(api_version, {}).get(kind)
        if known is None:
            # A CRD may have been added since: discovery of the one group is read again before giving up.
            listed = self._request("GET", _root(api_version), where=f"API {api_version}").get("resources") or ()
            table = {
                item["kind"]: Resource(item["name"], item["namespaced"]) for item in listed if "/" not in item["name"]
            }
            with self._lock:
                self._kinds[api_version] = table
            known = table.get(kind)
        if known is None:
            remedy = "Install the product that brings this kind first."
            raise NotFoundError(
                "the cluster does not know this kind", where=f"{api_version} {kind}", remedy=remedy, status=404
            )
        return known

    def _forget(self, api_version: str) -> None:
        with self._lock:
            self._kinds.pop(api_version, None)

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
        where: str = "",
    ) -> Obj:
        answer = self._wire.send(method, path, body=body, query=query, content=content)
        raise_for(answer, where or path, method)
        result: Obj = answer.json()
        return result

    def _raw(self, method: str, path: str, *, query: Mapping[str, str] | None = None) -> HttpAnswer:
        answer = self._wire.send(method, path, query=query)
        raise_for(answer, path, method)
        return answer


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _wanted_part(obj: Mapping[str, Any]) -> Obj:
    """Leave out what changes by itself: status, versions and the book-keeping of field owners."""
    meta = {
        key: value
        for key, value in obj["metadata"].items()
        if key not in {"resourceVersion", "generation", "managedFields"}
    }
    return {key: value for key, value in obj.items() if key not in {"status", "metadata"}} | {"metadata": meta}


def _identity(obj: Mapping[str, Any]) -> tuple[str, str]:
    meta = obj.get("metadata") or {}
    return meta.get("namespace", ""), meta.get("name", "")


def _summary(objects: Objs) -> str:
    """Say in one line what was seen last: names with what is not ready about them."""
    parts = []
    for obj in objects[:5]:
        rollout = rollout_of(obj)
        parts.append(f"{_identity(obj)[1]} ({'ready' if rollout.ready else rollout.detail})")
    return ", ".join(parts) + (f" and {len(objects) - 5} more" if len(objects) > 5 else "") or "none exist"
