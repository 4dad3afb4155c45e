"""A route of the application gateway, answered: a job serves a page, which is got with a login and without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import TaskInfo
from stackwright.clients.site import Site, wait_until
from stackwright.clients.workload import WorkloadFailedError
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiUnavailableError, GateTimeoutError, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Queue, Tenant
from stackwright.domain.tenant_gpus import cost
from stackwright.domain.tenant_objects import GATEWAY_RELEASE, router_host
from stackwright.domain.validation import evidence_of
from stackwright.domain.work_clearml import PAGE, RouteSeen, judge_route
from tasks.looking import now_of, unread
from tasks.public import public_get
from tasks.work_jobs import find_queue, our_job, own_client, remove_jobs, send, take_away, wait_for

REMOVED_S = 60.0  # a gateway looks at its jobs every few seconds


def look_route(site: Site, tenant: Tenant) -> list[Evidence]:
    """Look at the checks of the gateway's route by one job."""
    try:
        outcomes = judge_route(_try(site, own_client(site, tenant), tenant))
    except (WorkloadFailedError, GateTimeoutError) as error:
        outcomes = judge_route(RouteSeen(message=unread(error).seen))
    except StackError as error:
        names = ("workload/route", "workload/route-login", "workload/route-removed")
        outcomes = dict.fromkeys(names, unread(error))
    return [evidence_of(site.spec, check, out, now_of(site), target=tenant.name) for check, out in outcomes.items()]


def least_queue(tenant: Tenant) -> Queue:
    """Return the queue whose jobs take the least: a page shall not hold a GPU where it need not."""
    return min(tenant.queues, key=cost)


def _try(site: Site, own: Clearml, tenant: Tenant) -> RouteSeen:
    queue = find_queue(own, tenant, least_queue(tenant).name)
    task_id = send(own, tenant, queue, our_job(PAGE, "page"))
    try:
        url = _address(site, own, tenant, task_id)
        token = own.login().token
        cookie = {"Cookie": f"{site.spec.clearml.auth_cookie_name}={token.get_secret_value()}"}

        def get(headers: dict[str, str]) -> tuple[int, bool]:
            return _answer(lambda: public_get(site, url, headers), task_id)

        status, served = _settled(site, lambda: get(cookie), tenant, lambda seen: seen[1])
        listed, _ = _settled(site, lambda: (int(_listed(own, task_id)), False), tenant, lambda seen: bool(seen[0]))
        bare_status, bare_served = get({})
        remove_jobs(own, [task_id])
        gone_status, gone_served = _settled(site, lambda: get(cookie), tenant, lambda seen: not seen[1])
        return RouteSeen(url, bool(listed), status, served, bare_status, bare_served, gone_status, gone_served)
    finally:
        take_away(tenant, lambda: remove_jobs(own, [task_id]))


def _address(site: Site, own: Clearml, tenant: Tenant, task_id: str) -> str:
    """Return the address that the gateway wrote into the job, on the tenant's own router."""

    def look() -> TaskInfo | None:
        task = own.get_task(task_id)
        if task.ended:
            lines = " / ".join(own.task_log(task_id)[-3:])
            raise WorkloadFailedError(
                "the job that serves the page ended", where=f"task {task_id}", seen=f"{task.status}: {lines}"
            )
        return task if task.runtime.get("endpoint") else None

    where = f"tenant {tenant.name}, task {task_id}"
    found = urlsplit(str(wait_for(site, look, "an address from the gateway", where=where).runtime["endpoint"]))
    if found.hostname != router_host(site.spec, tenant):
        raise WorkloadFailedError(
            "the gateway's address is not the tenant's router", where=where, wanted=router_host(site.spec, tenant),
            seen=found.geturl(),
        )  # fmt: skip
    host = found.hostname.removesuffix(f".{site.spec.clearml.base_domain}")
    return f"{site.spec.url(host, site.spec.clearml.base_domain)}{found.path}"


def _listed(own: Clearml, task_id: str) -> bool:
    return any(task_id in router.tasks for router in own.routers() if router.name == GATEWAY_RELEASE)


def _answer(get: Callable[[], HttpAnswer], task_id: str) -> tuple[int, bool]:
    """Return the status, 0 where nothing answers, and whether it was the job that answered."""
    try:
        answer = get()
    except ApiUnavailableError:
        return 0, False
    return answer.status, task_id in answer.text


def _settled(
    site: Site, look: Callable[[], tuple[int, bool]], tenant: Tenant, good: Callable[[tuple[int, bool]], bool]
) -> tuple[int, bool]:
    """Look until it is good, or for a minute: a gateway is not told, it looks. Return the last look."""
    last: list[tuple[int, bool]] = [(0, False)]

    def seen() -> bool | None:
        last[0] = look()
        return True if good(last[0]) else None

    with suppress(GateTimeoutError):  # what was seen last is the outcome
        wait_until(
            seen,
            "the gateway",
            timeout_s=REMOVED_S,
            poll_s=site.spec.rke2.poll_s,
            clock=site.clock,
            where=f"tenant {tenant.name}",
        )
    return last[0]
