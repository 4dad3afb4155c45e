"""What ClearML's API tells, as values. Times are ISO 8601 texts as the server gives them; empty where it gives none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import SecretStr

Role = Literal["system", "root", "admin", "superuser", "user", "annotator", "guest", "consumer"]
# States that a task never leaves by itself.
TERMINAL = frozenset({"completed", "failed", "stopped", "closed", "published"})


@dataclass(frozen=True)
class ServerInfo:
    """`version` and `api_version` such as 3.29.0 and 2.37."""

    version: str
    api_version: str
    build: str


@dataclass(frozen=True)
class Company:
    """A tenant as the server knows it."""

    id: str
    name: str
    active: bool


@dataclass(frozen=True)
class User:
    """A user of one company."""

    id: str
    name: str
    email: str
    role: str
    company_id: str


@dataclass(frozen=True)
class Identity:
    """Who the API key speaks as."""

    user_id: str
    user_name: str
    role: str
    company_id: str
    company_name: str


@dataclass(frozen=True)
class Credentials:
    """A new key pair. The server shows the secret this once."""

    access_key: str
    secret_key: SecretStr
    label: str


@dataclass(frozen=True)
class Login:
    """What a login gives: a token for later calls, and the set of features that the SDK goes by (basic, advanced)."""

    token: SecretStr
    feature_set: str


@dataclass(frozen=True)
class LoginModes:
    """How people may log in. `server_errors` are what the server says is wrong with itself before anyone has."""

    password: bool
    providers: tuple[str, ...]
    server_errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class CredentialInfo:
    """An existing key, without its secret."""

    access_key: str
    label: str
    last_used: str


@dataclass(frozen=True)
class QueueInfo:
    """`entries` counts the waiting tasks; `added` says since when each waits."""

    id: str
    name: str
    entries: int
    hidden: bool
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that reported within the server's window; `queues` are names."""

    id: str
    queues: tuple[str, ...]
    last_activity: str
    task_id: str


@dataclass(frozen=True)
class RouterInfo:
    """An application gateway of the caller's company. `tasks` are the ids of those that it leads to."""

    name: str
    url: str
    version: str
    last_update: str
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResourceUsage:
    """One category of workers; GPUs are counted whole."""

    key: str
    gpus_total: float
    gpus_idle: float
    gpus_max_allowed: float
    workers: int


@dataclass(frozen=True)
class Metric:
    """The latest value of one scalar series."""

    metric: str
    variant: str
    value: float
    minimum: float
    maximum: float
    first: float | None
    count: int


@dataclass(frozen=True)
class TaskInfo:
    """A task's state and results. `artifacts` are names; `queue_id` is the queue that it was last put into."""

    id: str
    name: str
    status: str
    type: str
    project_id: str
    parent_id: str
    status_reason: str
    status_message: str
    last_iteration: int
    metrics: tuple[Metric, ...]
    artifacts: tuple[str, ...]
    tags: tuple[str, ...] = ()
    runtime: Mapping[str, Any] = field(default_factory=dict)
    queue_id: str = ""
    changed: str = ""
    """When its status changed last."""

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    def metric(self, metric: str, variant: str) -> Metric | None:
        """Return one series' latest value, or None when none was reported."""
        return next((m for m in self.metrics if (m.metric, m.variant) == (metric, variant)), None)


@dataclass(frozen=True)
class Series:
    """One scalar series by iteration."""

    metric: str
    variant: str
    iterations: tuple[int, ...]
    values: tuple[float, ...]


Raw = Mapping[str, Any]


def _text(raw: Raw, key: str) -> str:
    return str(raw.get(key) or "")


def company_of(raw: Raw) -> Company:
    return Company(str(raw["id"]), str(raw["name"]), bool(raw.get("active", True)))


def user_of(raw: Raw) -> User:
    company = raw.get("company")
    company_id = str(company.get("id", "")) if isinstance(company, Mapping) else str(company or "")
    return User(str(raw["id"]), _text(raw, "name"), _text(raw, "email"), _text(raw, "role"), company_id)


def queue_of(raw: Raw) -> QueueInfo:
    hidden = "k8s-glue" in (raw.get("system_tags") or ())
    entries = raw.get("entries") or ()
    added = tuple(str(entry["added"]) for entry in entries if isinstance(entry, Mapping) and entry.get("added"))
    return QueueInfo(str(raw["id"]), str(raw["name"]), len(entries), hidden, added)


def worker_of(raw: Raw) -> WorkerInfo:
    queues = tuple(str(queue.get("name") or queue.get("id")) for queue in raw.get("queues") or ())
    task = raw.get("task") or {}
    return WorkerInfo(str(raw["id"]), queues, _text(raw, "last_activity_time"), _text(task, "id"))


def router_of(raw: Raw) -> RouterInfo:
    tasks = tuple(str(task.get("id") if isinstance(task, Mapping) else task) for task in raw.get("tasks") or ())
    stamp = _text(raw, "last_update_timestamp")
    return RouterInfo(str(raw["router"]), _text(raw, "url"), _text(raw, "version"), stamp, tasks)


def usage_of(raw: Raw) -> ResourceUsage:
    gpus = raw.get("gpus") or {}
    total, idle, allowed = (float(gpus.get(name) or 0) for name in ("total", "idle", "max_allowed"))
    workers = raw.get("workers") or 0
    count = len(workers) if isinstance(workers, list | tuple) else int(_count(workers))
    return ResourceUsage(_text(raw, "key"), total, idle, allowed, count)


def _count(workers: Any) -> float:
    return float(workers.get("total") or 0) if isinstance(workers, Mapping) else float(workers)


def task_of(raw: Raw) -> TaskInfo:
    metrics = [
        Metric(
            str(value["metric"]),
            str(value["variant"]),
            float(value["value"]),
            float(value.get("min_value", value["value"])),
            float(value.get("max_value", value["value"])),
            float(value["first_value"]) if value.get("first_value") is not None else None,
            int(value.get("count") or 0),
        )
        for variants in (raw.get("last_metrics") or {}).values()
        for value in variants.values()
        if isinstance(value.get("value"), int | float)
    ]
    execution = raw.get("execution") or {}
    artifacts = execution.get("artifacts") or ()
    return TaskInfo(
        id=str(raw["id"]),
        name=_text(raw, "name"),
        status=_text(raw, "status"),
        type=_text(raw, "type"),
        project_id=_text(raw, "project"),
        parent_id=_text(raw, "parent"),
        status_reason=_text(raw, "status_reason"),
        status_message=_text(raw, "status_message"),
        last_iteration=int(raw.get("last_iteration") or 0),
        metrics=tuple(sorted(metrics, key=lambda m: (m.metric, m.variant))),
        artifacts=tuple(sorted(str(artifact["key"]) for artifact in artifacts)),
        tags=tuple(str(tag) for tag in raw.get("tags") or ()),
        runtime=dict(raw.get("runtime") or {}),
        queue_id=_text(execution, "queue"),
        changed=_text(raw, "status_changed"),
    )


def modes_of(raw: Raw) -> LoginModes:
    providers = raw.get("sso_providers") or [{"name": name} for name in raw.get("sso") or {}]
    errors = raw.get("server_errors") or {}
    return LoginModes(
        bool((raw.get("basic") or {}).get("enabled")),
        tuple(sorted(_text(item, "name") or _text(item, "display_name") for item in providers)),
        tuple(sorted(name for name, bad in errors.items() if bad)),
    )
