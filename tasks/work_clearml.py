"""Work that proves ClearML, for one tenant: what is tried and what an outcome means is in domain/work_clearml.py.

A tenant's trials come one after the other: they share its quota. Each job has a deadline and is removed afterwards,
but for the newest training that completed: it is the proof that a person may look at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import TaskInfo
from stackwright.clients.site import Site
from stackwright.clients.workload import WorkloadFailedError, run_in_queue, version_of
from stackwright.domain.check import Outcome
from stackwright.domain.errors import GateTimeoutError, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_gpus import on_gpus
from stackwright.domain.validation import evidence_of
from stackwright.domain.work_clearml import (
    PIPELINE,
    TAG,
    TRAINING,
    PageSeen,
    PipelineSeen,
    WorkloadSeen,
    judge_last,
    judge_modes,
    judge_page,
    judge_pipeline,
    judge_token,
    judge_waiting,
    judge_workload,
)
from tasks.looking import CheckGroup, look_at, now_of, unread
from tasks.public import public_get
from tasks.tenants import system_client
from tasks.work_jobs import find_queue, our_job, own_client, remove_jobs, remove_leftovers, take_away
from tasks.work_route import look_route
from tasks.work_share import look_share
from tasks.work_tune import look_fine_tune, printed_of

log = logging.getLogger(__name__)

MOST_FILES = 20  # of the web app's page


def groups(spec: StackSpec, tenant: Tenant, light: bool) -> list[CheckGroup]:
    """Return the groups of checks of a tenant; `light` leaves out what makes something."""
    found = [CheckGroup(f"login-{tenant.name}", partial(look_own, tenant=tenant, light=light))]
    if not light:
        found.append(CheckGroup(f"workload-{tenant.name}", partial(run_work, tenant=tenant)))
    return found


# --- looks -----------------------------------------------------------------------------------------------------------


def look_web(site: Site) -> list[Evidence]:
    """Load the web app's page and what it is made of, as a browser would, and ask how people log in."""
    looks: dict[str, Callable[[], Outcome]] = {
        "clearml/ui": lambda: judge_page(_page(site)),
        "clearml/login-modes": lambda: _modes(site),
    }
    return [look_at(site, check, read) for check, read in looks.items()]


def _modes(site: Site) -> Outcome:
    seen = system_client(site).login_modes()
    return judge_modes(seen.password, seen.providers, seen.server_errors)


class _Page(HTMLParser):
    """Title, scripts and style sheets of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title, self.files, self._inside = "", list[str](), False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        sheet = tag == "link" and given.get("rel") == "stylesheet"
        name = given.get("src") if tag == "script" else given.get("href") if sheet else None
        if name and "://" not in name and not name.startswith("//"):
            self.files.append(name)
        self._inside = tag == "title"

    def handle_data(self, data: str) -> None:
        self.title += data.strip() if self._inside else ""
        self._inside = False


def _page(site: Site) -> PageSeen:
    base = site.spec.url("app", site.spec.clearml.base_domain)
    answer = public_get(site, f"{base}/")
    parsed = _Page()
    parsed.feed(answer.text)
    files = {}
    for name in dict.fromkeys(parsed.files[:MOST_FILES]):
        found = public_get(site, f"{base}/{name.removeprefix('/')}")
        kind = {key.lower(): value for key, value in found.headers.items()}.get("content-type", "")
        files[name] = (found.status, kind)
    return PageSeen(answer.status, parsed.title, files)


def look_own(site: Site, tenant: Tenant, light: bool) -> list[Evidence]:
    """Log in as the tenant, look at what waits and, in the light form, at the last training."""
    looks: dict[str, Callable[[Site, Tenant], Outcome]] = {"tenant/token": _token, "tenant/waiting": _waiting}
    looks |= {"tenant/last-work": _last} if light else {}
    return [look_at(site, check, partial(read, site, tenant), target=tenant.name) for check, read in looks.items()]


def _token(site: Site, tenant: Tenant) -> Outcome:
    own = own_client(site, tenant)
    token = own.login().token
    url = f"{site.spec.url('app', site.spec.clearml.base_domain)}/api/users.get_current_user"
    answer = public_get(site, url, {"Authorization": f"Bearer {token.get_secret_value()}"})
    me = own.whoami()
    return judge_token(tenant, me.company_name, me.user_name, answer.status)


def _waiting(site: Site, tenant: Tenant) -> Outcome:
    names = {queue.name for queue in tenant.queues}
    waiting = {queue.name: queue.added for queue in own_client(site, tenant).queues() if queue.name in names}
    return judge_waiting(waiting, now_of(site))


def _last(site: Site, tenant: Tenant) -> Outcome:
    last = next(iter(own_client(site, tenant).find_tasks(name=TRAINING)), None)
    return judge_last(site.spec, last.status if last else "", last.changed if last else "", now_of(site))


# --- work ------------------------------------------------------------------------------------------------------------


def run_work(site: Site, tenant: Tenant) -> list[Evidence]:
    """Try everything that a tenant does, one after the other; what dead runs have left is removed first."""
    take_away(tenant, lambda: remove_leftovers(own_client(site, tenant)))
    found = run_training(site, tenant)
    if site.spec.validation.pipeline:
        found.append(look_at(site, "workload/pipeline", lambda: _pipeline(site, tenant), target=tenant.name))
    found += look_route(site, tenant)
    found += look_share(site, tenant)
    found += look_fine_tune(site, tenant)
    return found


def run_training(site: Site, tenant: Tenant) -> list[Evidence]:
    """Run a training through the tenant's first queue with the real SDK, and read its results back."""
    began = site.clock.now()
    try:
        own = own_client(site, tenant)
        task = _run(site, own, tenant, TRAINING, "training", samples=site.spec.validation.samples)
        outcomes = judge_workload(_seen_of(own, task, site.clock.now() - began))
    except StackError as error:
        outcomes = _broken(error)
    else:
        take_away(tenant, lambda: _remove_older(own, task))
    return [evidence_of(site.spec, check, out, now_of(site), target=tenant.name) for check, out in outcomes.items()]


def _remove_older(own: Clearml, newest: TaskInfo) -> None:
    remove_jobs(own, [one.id for one in own.find_tasks(name=TRAINING, tag=TAG) if one.id != newest.id])


def _run(site: Site, own: Clearml, tenant: Tenant, name: str, script: str, **parameters: object) -> TaskInfo:
    queue = find_queue(own, tenant, tenant.queues[0].name)
    log.info("tenant %s: run %s through queue %s", tenant.name, name, queue.name)
    done = run_in_queue(
        own,
        queue,
        replace(our_job(name, script), type="controller" if name == PIPELINE else "training", parameters=parameters),
        site.spec.validation.workload_timeout_s,
        poll=site.clock.wait,
        poll_s=site.spec.rke2.poll_s,
        now=site.clock.now,
    )
    return own.get_task(done.task_id)


def _seen_of(own: Clearml, task: TaskInfo, seconds: float) -> WorkloadSeen:
    loss, accuracy = task.metric("train", "loss"), task.metric("test", "accuracy")
    printed = printed_of(_lines(own, task))
    series = printed.get("series")
    return WorkloadSeen(
        task_id=task.id,
        status=task.status,
        seconds=seconds,
        first_loss=loss.first if loss else None,
        last_loss=loss.value if loss else None,
        accuracy=accuracy.value if accuracy else None,
        artifacts=task.artifacts,
        version=str(printed.get("version") or version_of("training")),
        samples=int(str(printed.get("samples") or 0)),
        plots=own.plots(task.id),
        series={f"{one.metric}/{one.variant}": one.values for one in own.scalars(task.id)},
        printed=series if isinstance(series, dict) else None,
    )


def _lines(own: Clearml, task: TaskInfo) -> list[str]:
    return [line for message in own.task_log(task.id) for line in message.splitlines()]


def _broken(error: StackError) -> dict[str, Outcome]:
    """A task that ran and failed, or never ended, is a failure; one that could not be asked about is unknown."""
    text = unread(error).seen
    failed = isinstance(error, WorkloadFailedError | GateTimeoutError)
    rest = Outcome("unknown", "the training did not complete")
    names = [f"workload/{name}" for name in ("loss", "accuracy", "metrics", "plot", "artifact")]
    return {"workload/done": Outcome("fail" if failed else "unknown", text), **dict.fromkeys(names, rest)}


def _pipeline(site: Site, tenant: Tenant) -> Outcome:
    first = tenant.queues[0]
    if on_gpus(first) and first.max_pods < 2:
        return Outcome("skipped", f"queue {first.name} runs one job at a time: a controller and its step need two")
    own, began = own_client(site, tenant), site.clock.now()
    try:
        task = _run(site, own, tenant, PIPELINE, "pipeline", queue=first.name)
        seen = _pipeline_seen(own, task, first.name, site.clock.now() - began)
        return judge_pipeline(seen)
    except (WorkloadFailedError, GateTimeoutError) as error:
        return Outcome("fail", unread(error).seen)
    finally:
        take_away(tenant, lambda: remove_leftovers(own))


def _pipeline_seen(own: Clearml, task: TaskInfo, queue: str, seconds: float) -> PipelineSeen:
    total = printed_of(_lines(own, task)).get("total")
    steps = {step.name: step.status for step in own.find_tasks(parent_id=task.id)}
    number = float(total) if isinstance(total, int | float) else None
    return PipelineSeen(task.status, steps, number, queue, seconds, task.status_message)
