"""What may be changed about a tenant that lives, and what a change is refused for. Pure.

A quota is never lowered below what is used now. Kubernetes itself would take it, and then refuse every new pod of the
tenant until its work has ended: its agent's and gateway's among them, which the same change renews.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from stackwright.domain.checks.platform import check_platform
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import Problem
from stackwright.domain.quantities import quantity
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_checks import check_tenant_names
from stackwright.domain.tenant_objects import quota
from stackwright.domain.tenant_request import TenantChanges

JOB_LABEL = "CLEARML=agent"  # ClearML agent: glue/k8s.py, labels of the pods that it makes for tasks
LOGIN_GRACE = timedelta(minutes=2)
"""A job's container that started so long ago has logged in: from then on it holds a token, and needs no key pair."""


@dataclass(frozen=True)
class ChangeFacts:
    """What was seen of a tenant that a change must respect.

    `used` is the quota's own count by resource name, `waiting` the tasks that wait by queue name; a queue that was not
    listed is not there.
    """

    used: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)


def changed_tenant(tenant: Tenant, changes: TenantChanges) -> Tenant:
    """Return the tenant with what the changes name; what they do not name stays."""
    named = {name: getattr(changes, name) for name in type(changes).model_fields}
    return tenant.model_copy(update={name: value for name, value in named.items() if value is not None})


def changed_parts(before: Tenant, after: Tenant) -> tuple[str, ...]:
    """Return the parts of a tenant that a change makes different."""
    return tuple(name for name in type(before).model_fields if getattr(before, name) != getattr(after, name))


def with_tenant(spec: StackSpec, tenant: Tenant) -> StackSpec:
    """Return the spec with this tenant in the place of the one of its name, or beside the others."""
    others = tuple(one for one in spec.tenants if one.name != tenant.name)
    if len(others) == len(spec.tenants):
        return spec.model_copy(update={"tenants": (*others, tenant)})
    same = tuple(tenant if one.name == tenant.name else one for one in spec.tenants)
    return spec.model_copy(update={"tenants": same})


def check_change(spec: StackSpec, before: Tenant, after: Tenant, facts: ChangeFacts) -> list[Problem]:
    """Return every reason against a change: the site's rules, what is used, what waits, what cannot shrink."""
    where = f"tenant {before.name}"
    problems = [*_rules(spec, before, after), *_used(spec, before, after, facts, where)]
    problems += _queues(before, after, facts, where)
    if after.workspace_gib < before.workspace_gib:
        remedy = "Ask for at least its size of now. A smaller one would be another volume: copy the data first."
        what = "a volume cannot shrink"
        sizes = (f"{before.workspace_gib} GiB or more", f"{after.workspace_gib} GiB")
        problems.append(Problem(f"{where}.workspace_gib", what, remedy, *sizes))
    if after.admin_name != before.admin_name:
        remedy = "Change the name in ClearML, in the user's own profile; leave it out of the request."
        what = "a user's name is changed by the user"
        problems.append(Problem(f"{where}.admin_name", what, remedy, before.admin_name[:80], after.admin_name[:80]))
    return problems


def _rules(spec: StackSpec, before: Tenant, after: Tenant) -> list[Problem]:
    """Return what the site's own rules find with the change and did not find before it."""
    old, new = with_tenant(spec, before), with_tenant(spec, after)
    known = {str(problem) for problem in (*check_tenant_names(old), *check_platform(old))}
    return [problem for problem in (*check_tenant_names(new), *check_platform(new)) if str(problem) not in known]


def _used(spec: StackSpec, before: Tenant, after: Tenant, facts: ChangeFacts, where: str) -> Iterator[Problem]:
    hard: Mapping[str, Any] = quota(spec, after).manifest["spec"]["hard"]
    was: Mapping[str, Any] = quota(spec, before).manifest["spec"]["hard"]
    for name, value in hard.items():
        used = facts.used.get(name, "0")
        if quantity(value) < min(quantity(used), quantity(was.get(name, value))):
            remedy = "Let the tenant's work end or remove what it keeps, or ask for no less than it uses now."
            yield Problem(
                f"{where}.quota", f"{name} is in use beyond what is asked for", remedy, f"{used} or more", value
            )


def _queues(before: Tenant, after: Tenant, facts: ChangeFacts, where: str) -> Iterator[Problem]:
    for name in dropped_queues(before, after):
        count = facts.waiting.get(name, 0)
        if count:
            remedy = "Let them run, or move them to another queue, then ask again."
            what = "a queue that holds waiting tasks is not dropped"
            yield Problem(f"{where}.queues", what, remedy, f"queue {name} empty", f"{count} task(s) wait in it")


def dropped_queues(before: Tenant, after: Tenant) -> tuple[str, ...]:
    """Return the queues that are wanted no more."""
    kept = {queue.name for queue in after.queues}
    return tuple(queue.name for queue in before.queues if queue.name not in kept)


# --- rotation --------------------------------------------------------------------------------------------------------


def starting_jobs(pods: Iterable[Obj], now: datetime) -> tuple[str, ...]:
    """Return the jobs' pods that may not have logged in yet: with the key pair that they were made with.

    One that has logged in holds a token, which stays valid when its key pair is revoked.
    """
    return tuple(
        pod["metadata"]["name"]
        for pod in pods
        if (pod.get("status") or {}).get("phase", "Pending") in ("Pending", "Running", "Unknown")
        and not _logged_in(pod, now)
    )


def _logged_in(pod: Obj, now: datetime) -> bool:
    states = [(item.get("state") or {}).get("running") or {} for item in pod["status"].get("containerStatuses") or ()]
    starts = [str(state.get("startedAt", "")) for state in states]
    if not starts or not all(starts):
        return False
    return all(now - datetime.fromisoformat(start.replace("Z", "+00:00")) >= LOGIN_GRACE for start in starts)
