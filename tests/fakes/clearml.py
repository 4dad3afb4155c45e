"""A ClearML server in memory for the tests of tasks: accounts, queues, workers, routers, tasks; with a journal.

It refuses what the real one refuses: unknown keys, foreign objects, taken addresses, calls that need a system key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr

from stackwright.clients.clearml_types import (
    Company,
    CredentialInfo,
    Credentials,
    Identity,
    Login,
    LoginModes,
    Metric,
    QueueInfo,
    ResourceUsage,
    RouterInfo,
    Series,
    ServerInfo,
    TaskInfo,
    User,
    WorkerInfo,
)
from stackwright.domain.errors import ApiError, ApiUnavailableError, ConflictError, NotFoundError
from stackwright.domain.work_clearml import PAGE, PIPELINE, SLOT
from tests.fakes.clearml_platform import FakeCompany, PlatformFake

SYSTEM = ("SYSTEMKEY", "planted-system-secret")


LEARNED = {
    "status": "completed",
    "metrics": (
        Metric("test", "accuracy", 0.96, 0.5, 0.96, 0.5, 2),
        Metric("train", "loss", 0.2, 0.2, 0.69, 0.69, 2),
    ),
    "artifacts": ("model",),
}
TOLD = {"train/loss": [0.69, 0.2], "test/accuracy": [0.5, 0.96]}
FINISHED = {"task": "x", "version": "1", "samples": 60_000, "series": TOLD, "total": 30}


@dataclass
class Key:
    user: str
    secret: str
    label: str


@dataclass
class FakeServer:
    """One server. `on_change(action)` is called before each change; `down` makes every call fail as unavailable.

    `newer` servers have the tenant API.
    """

    companies: list[Company] = field(default_factory=list)
    users: list[User] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    queues: dict[str, list[QueueInfo]] = field(default_factory=dict)
    workers: dict[str, list[WorkerInfo]] = field(default_factory=dict)
    routers: dict[str, list[RouterInfo]] = field(default_factory=dict)
    usages: dict[str, list[ResourceUsage]] = field(default_factory=dict)
    tasks: dict[str, list[TaskInfo]] = field(default_factory=dict)
    parts: dict[str, FakeCompany] = field(default_factory=dict)
    journal: list[str] = field(default_factory=list)
    newer: bool = False
    features: frozenset[str] = frozenset({"queues", "resource_policy", "data_management"})
    lost: set[str] = field(default_factory=set)
    down: bool = False
    on_change: Callable[[str], None] = lambda action: None
    number: int = 0
    outcome: dict[str, Any] = field(default_factory=lambda: dict(LEARNED))
    series: dict[str, list[float]] = field(default_factory=lambda: dict(TOLD))
    plots: tuple[str, ...] = ("confusion/test",)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was asked for by the newest task of each name."""
    printed: dict[str, Any] = field(default_factory=lambda: dict(FINISHED))
    steps: dict[str, str] = field(default_factory=lambda: {"make_numbers": "completed", "add_up": "completed"})
    modes: LoginModes | None = field(default_factory=lambda: LoginModes(True, ()))
    feature_set: str = "advanced"
    room: dict[str, int] = field(default_factory=dict)
    """How many jobs that hold their place run at once, by queue; 1 where nothing is said."""
    frees: bool = True
    """The next of them starts when one is stopped."""
    routers_of: dict[str, str] = field(default_factory=dict)
    """Host name of a company's gateway, by company: it gives jobs that serve a page an address below it."""

    def client(self, access_key: str, secret_key: SecretStr) -> FakeClearml:
        return FakeClearml(self, access_key, secret_key.get_secret_value())

    def change(self, action: str, made: Callable[[], Any]) -> Any:
        """Make a change; an action in `lost` is made, but its answer never arrives (once)."""
        self.on_change(action)
        self.journal.append(action)
        result = made()
        name = action.split()[0]
        if name in self.lost:
            self.lost.remove(name)
            raise ApiUnavailableError(f"{name} got no answer in time", where="clearml")
        return result

    def new_id(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number:03d}"

    def company_of_key(self, access_key: str) -> str:
        return next(user.company_id for user in self.users if user.id == self.keys[access_key].user)


class FakeClearml(PlatformFake):
    """The server as one identity."""

    def __init__(self, server: FakeServer, access_key: str, secret_key: str) -> None:
        self.server, self.key, self.secret = server, access_key, secret_key

    # who am I

    def _user(self) -> User | None:
        if self.server.down:
            raise ApiUnavailableError("no answer", where="clearml")
        if (self.key, self.secret) == SYSTEM:
            return None
        known = self.server.keys.get(self.key)
        if known is None or known.secret != self.secret:
            raise ApiError("refused", where="clearml", status=401, code=22)
        return next(user for user in self.server.users if user.id == known.user)

    def _system(self) -> None:
        if self._user() is not None:
            raise ApiError("refused", where="clearml", status=403, code=20)

    def _company(self) -> str:
        user = self._user()
        return user.company_id if user else "default"

    def server_info(self):
        self._user()
        return ServerInfo("3.29.0", "2.37", "1")

    def health(self):
        return ()

    def login_ok(self):
        try:
            self._user()
        except ApiError as error:
            if error.status == 401:
                return False
            raise
        return True

    def login(self, expiration_s=600):
        self._user()
        return Login(SecretStr(f"token-of-{self.key}"), self.server.feature_set)

    def login_modes(self):
        self._user()
        if self.server.modes is None:
            raise NotFoundError("no such endpoint", where="clearml", status=404)
        return self.server.modes

    def whoami(self):
        user = self._user()
        company = next(company for company in self.server.companies if company.id == user.company_id)
        return Identity(user.id, user.name, user.role, company.id, company.name)

    # accounts

    def companies(self):
        self._system()
        return tuple(self.server.companies)

    def find_company(self, name):
        self._system()
        found = [company for company in self.server.companies if company.name.casefold() == name.casefold()]
        if len(found) > 1:
            raise ConflictError("several companies have this name", where=name)
        return found[0] if found else None

    def create_company(self, name):
        self._system()
        company = Company(self.server.new_id("company"), name, True)
        self.server.change(f"create_company {name}", lambda: self.server.companies.append(company))
        return company

    def users(self, *, act_as=None):
        company = self._company()
        if act_as:
            self._system()
            company = next(user.company_id for user in self.server.users if user.id == act_as)
        return tuple(user for user in self.server.users if user.company_id == company)

    def find_user(self, company_id, email, *, act_as=None):
        return next((u for u in self.users(act_as=act_as) if u.email == email and u.company_id == company_id), None)

    def recover_user(self, company_id, email):
        self._system()
        self.server.journal.append(f"scout {company_id}")
        return next((u for u in self.server.users if u.email == email and u.company_id == company_id), None)

    def create_user(self, company_id, name, email, *, role="admin", internal=False):
        self._system()
        if any(user.email == email for user in self.server.users):
            raise ConflictError("the address is taken", where=email, status=400, code=801)
        user = User(self.server.new_id("user"), name, email, role, company_id)
        self.server.change(f"create_user {email}", lambda: self.server.users.append(user))
        return user

    def list_credentials(self, *, user_id=None):
        self._system()
        return tuple(CredentialInfo(k, v.label, "") for k, v in self.server.keys.items() if v.user == user_id)

    def create_credentials(self, label, *, user_id=None):
        self._system()
        access, secret = self.server.new_id("KEY"), f"planted-{self.server.new_id('secret')}"
        key = Key(user_id, secret, label)
        self.server.change(f"create_credentials {access}", lambda: self.server.keys.update({access: key}))
        return Credentials(access, SecretStr(secret), label)

    def revoke_credentials(self, access_key, *, user_id=None):
        self._system()
        self.server.change(f"revoke_credentials {access_key}", lambda: self.server.keys.pop(access_key))

    # inside a company

    def queues(self):
        return tuple(self.server.queues.get(self._company(), ()))

    def find_queue(self, name):
        return next((queue for queue in self.queues() if queue.name == name), None)

    def workers(self):
        return tuple(self.server.workers.get(self._company(), ()))

    def routers(self):
        return tuple(self.server.routers.get(self._company(), ()))

    def resource_usages(self):
        return tuple(self.server.usages.get(self._company(), ()))

    def ensure_project(self, name):
        return f"project-{name}"

    def create_task(self, project_id, name, script, *, type="testing", tags=(), parameters=None, image=""):
        self.server.asked[name] = {"script": script, "parameters": dict(parameters or {}), "image": image}
        task = TaskInfo(
            self.server.new_id("task"), name, "created", type, project_id, "", "", "", 0, (), (), tags=tuple(tags)
        )
        self.server.change(
            f"create_task {name}", lambda: self.server.tasks.setdefault(self._company(), []).append(task)
        )
        return task.id

    def enqueue_task(self, task_id, queue_id):
        """The worker runs it at once, if there is one and room: `outcome` of the server decides how it ends."""
        name = self.get_task(task_id).name
        stamp = {"queue_id": queue_id, "changed": "2026-01-01T00:00:00+00:00"}
        if not self.workers():
            self._update(task_id, {"status": "queued", **stamp})
        elif name == SLOT:
            self._update(task_id, {"status": "queued", "status_reason": "k8s max pod limit", **stamp})
            self._start_slots(queue_id)
        elif name == PAGE:
            self._update(task_id, {"status": "in_progress", **stamp} | self._address(task_id))
        else:
            self._update(task_id, {**self.server.outcome, **stamp})
            if name == PIPELINE:
                self._run_steps(task_id)
        return bool(self.workers())

    def _start_slots(self, queue_id):
        slots = [task for task in self.server.tasks[self._company()] if (task.name, task.queue_id) == (SLOT, queue_id)]
        running = sum(task.status == "in_progress" for task in slots)
        for task in [task for task in slots if task.status == "queued"][: self.server.room.get(queue_id, 1) - running]:
            self._update(task.id, {"status": "in_progress", "status_reason": ""})

    def _address(self, task_id):
        host = self.server.routers_of.get(self._company())
        if not host:
            return {}
        routers = self.server.routers.get(self._company(), [])
        routers[:] = [replace(router, tasks=(*router.tasks, task_id)) for router in routers]
        return {"runtime": {"endpoint": f"https://{host}/service/{task_id}"}}

    def _run_steps(self, task_id):
        steps = [
            TaskInfo(self.server.new_id("step"), name, status, "training", "", task_id, "", "", 0, (), ())
            for name, status in self.server.steps.items()
        ]
        self.server.tasks[self._company()].extend(steps)

    def stop_task(self, task_id, reason):
        task = self.get_task(task_id)
        self._update(task_id, {"status": "stopped"})
        if task.name == SLOT and self.server.frees:
            self._start_slots(task.queue_id)

    def remove_task(self, task_id):
        self.get_task(task_id)
        tasks = self.server.tasks[self._company()]
        self.server.change(
            f"remove_task {task_id}", lambda: tasks.__setitem__(slice(None), [t for t in tasks if t.id != task_id])
        )

    def _update(self, task_id, values):
        tasks = self.server.tasks[self._company()]
        tasks[:] = [replace(task, **values) if task.id == task_id else task for task in tasks]

    def get_task(self, task_id):
        found = next((task for task in self.server.tasks.get(self._company(), ()) if task.id == task_id), None)
        if found is None:
            raise NotFoundError("there is no such task", where=task_id, status=400, code=101)
        return found

    def find_tasks(self, *, project_id="", parent_id="", name="", tag=""):
        tasks = reversed(self.server.tasks.get(self._company(), ()))  # newest first
        return tuple(
            task
            for task in tasks
            if parent_id in ("", task.parent_id)
            and name in ("", task.name)
            and (not tag or tag in task.tags)
            and project_id in ("", task.project_id)
        )

    def task_log(self, task_id, lines=100):
        printed = json.dumps(self.server.printed) if self.server.printed else "no result"
        return ("epoch 1", f"done\n{printed}")

    def scalars(self, task_id):
        self.get_task(task_id)
        return tuple(
            Series(*name.split("/"), tuple(range(len(values))), tuple(values))
            for name, values in self.server.series.items()
        )

    def plots(self, task_id):
        self.get_task(task_id)
        return self.server.plots
