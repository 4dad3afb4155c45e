"""ClearML's REST API as one identity: reads, and the few changes that onboarding and validation need.

Every call carries the key pair itself, so there is no token to lose. Nothing is retried here:
whoever calls looks again.
Source: ClearML API reference (Enterprise): system, auth, users, queues, workers, routers, tasks, events.
"""

from __future__ import annotations

import logging
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import httpx
from pydantic import SecretStr

from stackwright.clients.clearml_platform import ClearmlPlatform, PlatformCalls
from stackwright.clients.clearml_types import (
    Company,
    CredentialInfo,
    Credentials,
    Identity,
    Login,
    LoginModes,
    QueueInfo,
    ResourceUsage,
    RouterInfo,
    Series,
    ServerInfo,
    TaskInfo,
    User,
    WorkerInfo,
    company_of,
    modes_of,
    queue_of,
    router_of,
    task_of,
    usage_of,
    user_of,
    worker_of,
)
from stackwright.clients.http import UNAVAILABLE, Resolve, make_client, tls_context, wire_errors
from stackwright.domain.errors import ApiError, ApiUnavailableError, ConflictError, NotFoundError
from stackwright.domain.tokens import claims_of

log = logging.getLogger(__name__)

PAGE = 500
# HTTP 400 with one of these sub-codes means "no such object". ClearML: apierrors/errors.conf.
MISSING = frozenset({75, 101, 130, 201, 300, 401, 403, 701, 703, 1001, 1004})
# ... and with one of these "exists already", or "changed by someone else meanwhile".
TAKEN = frozenset({121, 302, 706, 801, 1003})
DATABASE_UNAVAILABLE = 102
SCOUT = "stackwright-lookup-"


class Clearml(ClearmlPlatform, Protocol):
    """What tasks ask of a ClearML server, as one identity."""

    def server_info(self) -> ServerInfo: ...
    def health(self) -> tuple[str, ...]: ...
    def login_ok(self) -> bool: ...
    def login(self, expiration_s: int = 600) -> Login: ...
    def login_modes(self) -> LoginModes: ...
    def whoami(self) -> Identity: ...
    def tenants_api_offered(self) -> bool: ...
    def companies(self) -> tuple[Company, ...]: ...
    def find_company(self, name: str) -> Company | None: ...
    def create_company(self, name: str) -> Company: ...
    def users(self, *, act_as: str | None = None) -> tuple[User, ...]: ...
    def find_user(self, company_id: str, email: str, *, act_as: str | None = None) -> User | None: ...
    def recover_user(self, company_id: str, email: str) -> User | None: ...
    def create_user(
        self, company_id: str, name: str, email: str, *, role: str = "admin", internal: bool = False
    ) -> User: ...
    def list_credentials(self, *, user_id: str | None = None) -> tuple[CredentialInfo, ...]: ...
    def create_credentials(self, label: str, *, user_id: str | None = None) -> Credentials: ...
    def revoke_credentials(self, access_key: str, *, user_id: str | None = None) -> None: ...
    def queues(self) -> tuple[QueueInfo, ...]: ...
    def find_queue(self, name: str) -> QueueInfo | None: ...
    def create_queue(self, name: str) -> QueueInfo: ...
    def workers(self) -> tuple[WorkerInfo, ...]: ...
    def routers(self) -> tuple[RouterInfo, ...]: ...
    def resource_usages(self) -> tuple[ResourceUsage, ...]: ...
    def ensure_project(self, name: str) -> str: ...
    def create_task(
        self,
        project_id: str,
        name: str,
        script: Mapping[str, Any],
        *,
        type: str = "testing",
        tags: tuple[str, ...] = (),
        parameters: Mapping[str, object] | None = None,
        image: str = "",
    ) -> str: ...
    def enqueue_task(self, task_id: str, queue_id: str) -> bool: ...
    def stop_task(self, task_id: str, reason: str) -> None: ...
    def remove_task(self, task_id: str) -> None: ...
    def get_task(self, task_id: str) -> TaskInfo: ...
    def find_tasks(
        self, *, project_id: str = "", parent_id: str = "", name: str = "", tag: str = ""
    ) -> tuple[TaskInfo, ...]: ...
    def plots(self, task_id: str) -> tuple[str, ...]: ...
    def scalars(self, task_id: str) -> tuple[Series, ...]: ...
    def task_log(self, task_id: str, lines: int = 100) -> tuple[str, ...]: ...


class ClearmlClient(PlatformCalls):
    """The real API. Used as a context manager it keeps its connection; otherwise each call opens its own.

    `verify` is a CA file, a TLS context, or None for the machine's own trust. `resolve` gives addresses for names.
    """

    def __init__(
        self,
        api_url: str,
        access_key: str,
        secret_key: SecretStr,
        verify: ssl.SSLContext | str | Path | None = None,
        resolve: Resolve | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.api_url = api_url.rstrip("/")
        self.access_key = access_key
        self._secret = secret_key
        self._verify = verify if isinstance(verify, ssl.SSLContext) else tls_context(verify)
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._kept: httpx.Client | None = None

    def __repr__(self) -> str:
        return f"ClearmlClient({self.api_url!r}, {self.access_key!r})"

    def __enter__(self) -> Self:
        self._kept = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    # The server itself -------------------------------------------------------------------------------------------

    def server_info(self) -> ServerInfo:
        """Return versions."""
        data = self._call("server.info")
        return ServerInfo(str(data.get("version", "")), str(data.get("api_version", "")), str(data.get("build", "")))

    def health(self) -> tuple[str, ...]:
        """Return what the server says is wrong with it: nothing on a healthy one."""
        errors = self._call("server.health_check").get("errors") or ()
        return tuple(str(error) for error in errors)

    def login_ok(self) -> bool:
        """Tell whether the server accepts this key pair."""
        try:
            return bool(self._call("auth.login", expiration_sec=60).get("token"))
        except ApiError as error:
            if error.status == 401:
                return False
            raise

    def login(self, expiration_s: int = 600) -> Login:
        """Exchange the key pair for a token, as the SDK and a browser do; its claims are read, not checked."""
        token = str(self._call("auth.login", expiration_sec=expiration_s).get("token") or "")
        return Login(SecretStr(token), str((claims_of(token) or {}).get("feature_set") or ""))

    def login_modes(self) -> LoginModes:
        """Return how people may log in. ClearML API reference: login.supported_modes."""
        return modes_of(self._call("login.supported_modes"))

    def whoami(self) -> Identity:
        """Return who is behind this key pair. For tenants' keys: a system key has no such record."""
        user = self._call("users.get_current_user")["user"]
        company = user.get("company") or {}
        return Identity(
            str(user["id"]),
            str(user.get("name", "")),
            str(user.get("role", "")),
            str(company.get("id", "")),
            str(company.get("name", "")),
        )

    def tenants_api_offered(self) -> bool:
        """Tell whether the server has the one-call tenant API of newer releases."""
        try:
            self._call("tenants.get_tenants")
        except NotFoundError:
            return False
        return True

    # Companies, users, keys --------------------------------------------------------------------------------------

    def companies(self) -> tuple[Company, ...]:
        """Return all companies."""
        return tuple(company_of(raw) for raw in self._call("system.get_companies").get("companies") or ())

    def find_company(self, name: str) -> Company | None:
        """Return the company of exactly this name, or None. Raises ConflictError when there are twins."""
        raw = self._call("system.get_companies", name=name).get("companies") or ()
        found = [company for company in map(company_of, raw) if company.name.casefold() == name.casefold()]
        if len(found) > 1:
            raise ConflictError(
                "several companies have this name",
                where=f"company {name}",
                wanted="one",
                seen=", ".join(company.id for company in found),
                remedy="Decide which one is the tenant and rename or remove the others.",
            )
        return found[0] if found else None

    def create_company(self, name: str) -> Company:
        """Make a company; look with `find_company` first, for a server may accept twins."""
        log.info("clearml: create company %s", name)
        data = self._call("system.create_company", name=name)
        return Company(str(data["id"]), name, True)

    def users(self, *, act_as: str | None = None) -> tuple[User, ...]:
        """Return the users, with email and role, of the caller's company or of the company of the user acted as."""
        return tuple(map(user_of, self._pages("users.get_all_ex", "users", act_as=act_as, include_auth=True)))

    def find_user(self, company_id: str, email: str, *, act_as: str | None = None) -> User | None:
        """Return a company's user by email, or None.

        The server lists only the caller's company: a system key must know one user of the company to act as.
        """
        for user in self.users(act_as=act_as):
            if user.email.casefold() == email.casefold() and user.company_id in ("", company_id):
                return user
        return None

    def recover_user(self, company_id: str, email: str) -> User | None:
        """Find the user of an interrupted onboarding, whose id was lost before it could be kept.

        With no known user of the company to act as, one is made for the look and removed again.
        """
        address = f"{SCOUT}{secrets.token_hex(6)}@{company_id}.invalid"
        scout = self.create_user(company_id, "Stackwright look-up", address, role="user")
        try:
            seen = self.users(act_as=scout.id)
        finally:
            self._call("users.delete", user=scout.id)
        for left in (user for user in seen if user.email.startswith(SCOUT) and user.id != scout.id):
            self._call("users.delete", user=left.id)
        return next((user for user in seen if user.email.casefold() == email.casefold()), None)

    def create_user(
        self, company_id: str, name: str, email: str, *, role: str = "admin", internal: bool = False
    ) -> User:
        """Make a user. Raises ConflictError when the email is taken, on any company of the server."""
        log.info("clearml: create user %s", email)
        data = self._call("auth.create_user", name=name, company=company_id, email=email, role=role, internal=internal)
        return User(str(data["id"]), name, email, role, company_id)

    def list_credentials(self, *, user_id: str | None = None) -> tuple[CredentialInfo, ...]:
        """Return the keys of the caller, or of the user impersonated."""
        raw = self._call("auth.get_credentials", impersonate=user_id).get("credentials") or ()
        return tuple(
            CredentialInfo(str(key["access_key"]), str(key.get("label") or ""), str(key.get("last_used") or ""))
            for key in raw
        )

    def create_credentials(self, label: str, *, user_id: str | None = None) -> Credentials:
        """Make a key pair for the caller, or for the user impersonated. Its secret cannot be read again."""
        log.info("clearml: create credentials %s", label)
        made = self._call("auth.create_credentials", impersonate=user_id, label=label)["credentials"]
        return Credentials(str(made["access_key"]), SecretStr(str(made["secret_key"])), label)

    def revoke_credentials(self, access_key: str, *, user_id: str | None = None) -> None:
        """Withdraw a key. Tokens made with it stay valid until they expire."""
        log.info("clearml: revoke credentials %s", access_key)
        self._call("auth.revoke_credentials", impersonate=user_id, access_key=access_key)

    # Queues, workers, gateways -----------------------------------------------------------------------------------

    def queues(self) -> tuple[QueueInfo, ...]:
        """Return the company's queues, hidden ones too."""
        return tuple(map(queue_of, self._pages("queues.get_all", "queues", search_hidden=True)))

    def find_queue(self, name: str) -> QueueInfo | None:
        """Return the queue of exactly this name, or None."""
        found = self._pages("queues.get_all", "queues", name=exactly(name), search_hidden=True)
        return next((queue for queue in map(queue_of, found) if queue.name == name), None)

    def create_queue(self, name: str) -> QueueInfo:
        """Return the queue of this name, making it if it is missing."""
        found = self.find_queue(name)
        if found is not None:
            return found
        log.info("clearml: create queue %s", name)
        try:
            return QueueInfo(str(self._call("queues.create", name=name)["id"]), name, 0, False)
        except ConflictError:
            found = self.find_queue(name)  # an agent that makes its own queues was quicker
            if found is None:
                raise
            return found

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the company's workers that reported within the server's window (an hour, unless configured)."""
        return tuple(worker_of(raw) for raw in self._call("workers.get_all").get("workers") or ())

    def routers(self) -> tuple[RouterInfo, ...]:
        """Return the company's application gateways."""
        return tuple(router_of(raw) for raw in self._call("routers.get_task_routers").get("routers") or ())

    def resource_usages(self) -> tuple[ResourceUsage, ...]:
        """Return what the company's agents report of their GPUs."""
        return tuple(usage_of(raw) for raw in self._call("workers.get_resource_usages").get("categories") or ())

    # Tasks -------------------------------------------------------------------------------------------------------

    def ensure_project(self, name: str) -> str:
        """Return the id of the project of exactly this name, making it if it is missing."""
        found = self._pages("projects.get_all", "projects", name=exactly(name), search_hidden=True)
        for raw in found:
            if raw.get("name") == name:
                return str(raw["id"])
        return str(self._call("projects.create", name=name)["id"])

    def create_task(
        self,
        project_id: str,
        name: str,
        script: Mapping[str, Any],
        *,
        type: str = "testing",
        tags: tuple[str, ...] = (),
        parameters: Mapping[str, object] | None = None,
        image: str = "",
    ) -> str:
        """Make a task that holds a script, not yet queued; return its id. `parameters` are its section General.

        `image` is the container image of its pod; empty: the agent's own.
        """
        log.info("clearml: create task %s", name)
        more: dict[str, Any] = {"tags": list(tags)} if tags else {}
        more |= {"container": {"image": image}} if image else {}
        if parameters:
            section = {
                key: {"section": "General", "name": key, "value": str(value)} for key, value in parameters.items()
            }
            more["hyperparams"] = {"General": section}
        data = self._call("tasks.create", project=project_id, name=name, type=type, script=dict(script), **more)
        return str(data["id"])

    def enqueue_task(self, task_id: str, queue_id: str) -> bool:
        """Queue a task; tell whether some worker serves that queue."""
        data = self._call("tasks.enqueue", task=task_id, queue=queue_id, verify_watched_queue=True)
        return bool(data.get("queue_watched", True))

    def stop_task(self, task_id: str, reason: str) -> None:
        """End a task that runs or waits."""
        self._call("tasks.dequeue", tolerate=True, task=task_id)
        self._call("tasks.stopped", task=task_id, force=True, status_reason=reason)

    def remove_task(self, task_id: str) -> None:
        """Delete a task and what it reported."""
        self._call("tasks.delete", task=task_id, force=True)

    def get_task(self, task_id: str) -> TaskInfo:
        """Return a task. Raises NotFoundError for one of another company, too."""
        return task_of(self._call("tasks.get_by_id", task=task_id)["task"])

    def find_tasks(
        self, *, project_id: str = "", parent_id: str = "", name: str = "", tag: str = ""
    ) -> tuple[TaskInfo, ...]:
        """Return tasks by project, parent, exact name and tag, newest first."""
        wanted: dict[str, Any] = {"order_by": ["-created"], "search_hidden": True}
        wanted |= {"project": [project_id]} if project_id else {}
        wanted |= {"parent": parent_id} if parent_id else {}
        wanted |= {"name": exactly(name)} if name else {}
        wanted |= {"tags": [tag]} if tag else {}
        return tuple(map(task_of, self._pages("tasks.get_all", "tasks", **wanted)))

    def plots(self, task_id: str) -> tuple[str, ...]:
        """Return the names of a task's plots, as metric/variant."""
        raw = self._call("events.get_task_plots", task=task_id).get("plots") or ()
        return tuple(sorted({f"{plot.get('metric', '')}/{plot.get('variant', '')}" for plot in raw}))

    def scalars(self, task_id: str) -> tuple[Series, ...]:
        """Return every scalar series of a task."""
        data = self._call("events.scalar_metrics_iter_histogram", task=task_id, key="iter")
        return tuple(
            Series(
                metric,
                variant,
                tuple(int(x) for x in points.get("x") or ()),
                tuple(float(y) for y in points.get("y") or ()),
            )
            for metric, variants in sorted(data.items())
            for variant, points in sorted(variants.items())
        )

    def task_log(self, task_id: str, lines: int = 100) -> tuple[str, ...]:
        """Return the last console messages of a task, oldest first."""
        data = self._call("events.get_task_log", task=task_id, batch_size=lines, navigate_earlier=True)
        events = sorted(data.get("events") or (), key=lambda event: event.get("timestamp") or 0)
        return tuple(str(event.get("msg", "")).rstrip("\n") for event in events)

    # The wire ----------------------------------------------------------------------------------------------------

    def _open(self) -> httpx.Client:
        auth = (self.access_key, self._secret.get_secret_value())
        return make_client(self.api_url, self._verify, self._resolve, self._timeout_s, auth, "clearml")

    def _pages(self, endpoint: str, key: str, *, act_as: str | None = None, **body: Any) -> Iterator[dict[str, Any]]:
        page = 0
        while True:
            found: list[dict[str, Any]] = (
                self._call(endpoint, act_as=act_as, page=page, page_size=PAGE, **body).get(key) or []
            )
            yield from found
            if len(found) < PAGE:
                return
            page += 1

    def _call(
        self,
        endpoint: str,
        *,
        impersonate: str | None = None,
        act_as: str | None = None,
        tolerate: bool = False,
        hide: tuple[SecretStr, ...] = (),
        **body: Any,
    ) -> dict[str, Any]:
        """Send one request and return its data; with `tolerate`, a refusal (HTTP 400) counts as an empty answer.

        Neither the key's own secret nor those of `hide` show in a refusal's text.
        """
        headers = {"X-Clearml-Client": "stackwright"}
        if impersonate:
            headers["X-Clearml-Impersonate-As"] = impersonate
        if act_as:
            headers["X-Clearml-Act-As"] = act_as
        where = f"{self.api_url}/{endpoint}"
        with wire_errors(where, endpoint):
            if self._kept is not None:
                answer = self._kept.post(f"/{endpoint}", json=body, headers=headers)
            else:
                with self._open() as http:
                    answer = http.post(f"/{endpoint}", json=body, headers=headers)
        if tolerate and answer.status_code == 400:
            return {}
        return read_envelope(answer, endpoint, where, hide=(self._secret, *hide))


def exactly(name: str) -> str:
    """Return the pattern that matches this name alone: the server's name filters are regular expressions."""
    return f"^{re.escape(name)}$"


def read_envelope(
    answer: httpx.Response, endpoint: str, where: str, *, hide: tuple[SecretStr, ...] = ()
) -> dict[str, Any]:
    """Return the data of an answer, or raise what its codes mean."""
    try:
        body = answer.json()
        meta = body["meta"]
        status, code, text = (
            int(meta["result_code"]),
            int(meta.get("result_subcode") or 0),
            str(meta.get("result_msg", "")),
        )
    except (ValueError, KeyError, TypeError) as error:
        # Whatever answered is not ClearML's API: an ingress, a load balancer, a login page.
        kind = ApiUnavailableError if answer.status_code in UNAVAILABLE else ApiError
        raise kind(
            f"{endpoint} was not answered by ClearML's API",
            where=where,
            wanted="a JSON answer with meta",
            seen=f"HTTP {answer.status_code}, {answer.headers.get('content-type', 'no content type')}",
            status=answer.status_code,
        ) from error
    if status == 200:
        return dict(body.get("data") or {})
    for secret in filter(None, (held.get_secret_value() for held in hide)):
        text = text.replace(secret, "***")
    refuse(endpoint, where, status, code, text)


def refuse(endpoint: str, where: str, status: int, code: int, text: str) -> NoReturn:
    """Raise the error that a status and sub-code stand for."""
    kind: type[ApiError] = ApiError
    remedy = ""
    if status in UNAVAILABLE or (status, code) == (500, DATABASE_UNAVAILABLE):
        kind = ApiUnavailableError
    elif status == 404 or (status == 400 and code in MISSING):
        kind = NotFoundError
    elif status == 400 and code in TAKEN:
        kind = ConflictError
    elif status == 401:
        remedy = "Check the key pair in the block that the site file names; it may have been revoked."
    elif status == 403:
        remedy = "Use a key whose role may do this: a system key for companies, an administrator's for the rest."
    elif status == 500:
        remedy = "The server itself failed: read the log of its API server's pods, then start the flow again."
    seen = f"{status}/{code} {text}"
    raise kind(
        f"{endpoint} was refused", where=where, wanted="200/0", seen=seen, remedy=remedy, status=status, code=code
    )
