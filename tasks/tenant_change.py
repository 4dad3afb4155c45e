"""Changing a tenant that was asked for: quota, queues, workspace, policy, logins; suspended, resumed; a new key pair.

What may be changed is decided in stackwright/domain/tenant_change.py; each step itself is in tasks/tenants.py. Nothing
here writes states: whoever carries out a request does. Each function can be called again after a death at any point.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from pydantic import SecretStr

from stackwright.clients.clearml import Clearml
from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.cluster import rollout_of
from stackwright.domain.errors import ApiError, PlanRefusedError, SecretMissingError, StackError
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_change import (
    JOB_LABEL,
    ChangeFacts,
    changed_tenant,
    check_change,
    dropped_queues,
    starting_jobs,
    with_tenant,
)
from stackwright.domain.tenant_identity import login_emails
from stackwright.domain.tenant_isolation import release_of
from stackwright.domain.tenant_objects import AGENT_RELEASE, GATEWAY_RELEASE, QUOTA
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenant_request import TenantChanges, TenantRequest
from stackwright.domain.tenant_saga import is_refusal
from stackwright.domain.tenants import credentials_label
from tasks.tenant_identity import drop_emails
from tasks.tenant_policy import read_policy
from tasks.tenant_register import write_record
from tasks.tenant_undo import remove_releases, wait_for
from tasks.tenants import carry_on, look_for_bringing, served_queues, system_client, tenant_client

log = logging.getLogger(__name__)
QUEUE_ID = re.compile(r"[0-9a-f]{32}")

QUEUE_NOT_EMPTY = 702


def change_tenant(site: Site, record: TenantRecord, request: TenantRequest, lease: LeaseHandle) -> TenantRecord:
    """Bring a tenant to what is wanted of it from now on; return the record that says so.

    What is wanted is what the record claims (`changing_to`); a record that claims nothing is judged here. It says what
    the tenant was until all is done: a run that died goes on from there.
    Raises PlanRefusedError with every reason against the change; nothing was done then.
    """
    before = record.wanted
    after = record.changing_to or allowed_change(site, record, request, read_change_facts(site, before))
    try:
        settle(site, after, lease)
    except StackError as error:
        if is_refusal(error):
            settle(site, before, lease)  # half a change is none: what was begun goes back
        raise
    strays = _replaced_queues(site, after) if before.policy or after.policy else ()
    _drop_queues(site, after, (*dropped_queues(before, after), *strays), lease)
    _drop_logins(site, before, after, lease)
    return record.model_copy(update={"wanted": after, "changing_to": None})


def allowed_change(site: Site, record: TenantRecord, request: TenantRequest, facts: ChangeFacts) -> Tenant:
    """Return what a change makes of a tenant, by the site's rules and what was seen. Changes nothing.

    `site` holds all tenants, as they are now. Raises PlanRefusedError with every reason against the change.
    """
    after = changed_tenant(record.wanted, request.changes or TenantChanges())
    problems = check_change(site.spec, record.wanted, after, facts)
    if problems:
        raise PlanRefusedError("the change is refused", problems, where=f"tenant {record.name}")
    return after


def read_change_facts(site: Site, tenant: Tenant) -> ChangeFacts:
    """Look at what the tenant uses now. Raises StackError where that cannot be known."""
    seen = site.kube().get("v1", "ResourceQuota", QUOTA, tenant.namespace)
    if seen is None or "used" not in (seen.get("status") or {}):
        remedy = "Run check-tenants: it applies the quota again. Then ask again."
        what = "what the tenant uses is not known: its quota is not in force"
        raise StackError(what, where=f"namespace {tenant.namespace}", wanted=f"ResourceQuota {QUOTA}", remedy=remedy)
    waiting = {queue.name: queue.entries for queue in _own(site, tenant).queues()}
    return ChangeFacts(seen["status"]["used"], waiting)


def settle(site: Site, tenant: Tenant, lease: LeaseHandle) -> None:
    """Carry out every step that the tenant needs to be as wanted now."""
    carry_on(look_for_bringing(replace(site, spec=with_tenant(site.spec, tenant)), tenant, lease))


def _replaced_queues(site: Site, tenant: Tenant) -> tuple[str, ...]:
    """Return queues that have an id for a name: an agent is told a policy's queues by id, and makes one that it misses.

    The agent of before misses those that the policy has just replaced.
    """
    return tuple(queue.name for queue in _own(site, tenant).queues() if QUEUE_ID.fullmatch(queue.name))


def _drop_queues(site: Site, tenant: Tenant, names: tuple[str, ...], lease: LeaseHandle) -> None:
    """Delete queues that no agent serves any more; one that got a task meanwhile stays, and is named every night."""
    own = _own(site, tenant)
    for name in names:
        found = own.find_queue(name)
        if found is None:
            continue
        lease.check()
        try:
            own.delete_queue(found.id)
        except ApiError as error:
            if error.code != QUEUE_NOT_EMPTY:
                raise
            log.warning("tenant %s: queue %s got a task meanwhile: it stays, and nobody serves it", tenant.name, name)


def _drop_logins(site: Site, before: Tenant, after: Tenant, lease: LeaseHandle) -> None:
    """Let addresses in no more that were wanted before; those that the tenant's administrators let in stay."""
    if before.identity is None or after.identity is None:
        return
    gone = login_emails(before.identity) - login_emails(after.identity)
    if gone:
        drop_emails(after, gone, lease, system_client(site), _own(site, after).whoami().user_id)


def suspend_tenant(site: Site, record: TenantRecord, request: TenantRequest, lease: LeaseHandle) -> TenantRecord:
    """Let nothing of the tenant start any more: its agent and gateway go. What runs ends by itself, what waits waits.

    Jobs' pods are no part of the agent's release. Quota, logins and data stay.
    """
    remove_releases(site, record.wanted, lease, (GATEWAY_RELEASE, AGENT_RELEASE))
    return record.model_copy(update={"wanted": record.wanted.model_copy(update={"suspended": True})})


def resume_tenant(site: Site, record: TenantRecord, request: TenantRequest, lease: LeaseHandle) -> TenantRecord:
    """Bring agent and gateway back, and wait until they report."""
    tenant = record.wanted.model_copy(update={"suspended": False})
    settle(site, tenant, lease)
    return record.model_copy(update={"wanted": tenant})


# --- rotation --------------------------------------------------------------------------------------------------------


def rotate_tenant(site: Site, record: TenantRecord, request: TenantRequest, lease: LeaseHandle) -> TenantRecord:
    """Give the tenant a new key pair, and revoke the old one when nothing needs it any more.

    The record names the pair that goes (`replaces`) before anything is made: a run that died goes on from what the
    block holds. Running jobs hold tokens, which stay valid; jobs that have not logged in yet are waited for.
    """
    tenant, block = record.wanted, record.wanted.credentials_block
    if not record.replaces:
        held = need(site.secrets, "api-key", block)["access_key"].get_secret_value()
        record = write_record(site, record.model_copy(update={"replaces": held}), lease)
    own = _own(site, tenant)
    if own.login_ok() and _held(site, tenant) == record.replaces:
        _make_pair(site, tenant, own.whoami().user_id, record.replaces, lease)
    settle(site, tenant, lease)  # a pair that does not work is replaced here, as at onboarding
    if not tenant.suspended:
        wait_reporting(site, tenant)
    wait_logged_in(site, tenant)
    _revoke_others(site, tenant, record.replaces, lease)
    return record.model_copy(update={"replaces": ""})


def _make_pair(site: Site, tenant: Tenant, admin_id: str, old: str, lease: LeaseHandle) -> None:
    """Make a pair and keep it. One that was made and never kept, its secret lost, is revoked first."""
    system, label = system_client(site), credentials_label(site.spec, tenant)
    for key in system.list_credentials(user_id=admin_id):
        if key.label == label and key.access_key != old:
            lease.check()
            system.revoke_credentials(key.access_key, user_id=admin_id)
    lease.check()
    pair = system.create_credentials(label, user_id=admin_id)
    if not site.clearml(pair.access_key, pair.secret_key).login_ok():
        raise StackError("the new key pair does not log in", where=f"tenant {tenant.name}", wanted="a login")
    fields = {"access_key": SecretStr(pair.access_key), "secret_key": pair.secret_key}
    site.secrets.write("api-key", tenant.credentials_block, fields)
    log.info("tenant %s: new key pair kept in block %s", tenant.name, tenant.credentials_block)


def _revoke_others(site: Site, tenant: Tenant, old: str, lease: LeaseHandle) -> None:
    """Leave exactly one of the pairs that we made: the kept one. Pairs made by hand are not ours to revoke."""
    system, label, kept = system_client(site), credentials_label(site.spec, tenant), _held(site, tenant)
    admin_id = _own(site, tenant).whoami().user_id
    for key in system.list_credentials(user_id=admin_id):
        if key.access_key != kept and (key.label == label or key.access_key == old):
            lease.check()
            system.revoke_credentials(key.access_key, user_id=admin_id)
            log.info("tenant %s: key %s revoked", tenant.name, key.access_key)


def wait_reporting(site: Site, tenant: Tenant) -> None:
    """Wait until the releases' pods of now have reported: a worker of each queue, and the router.

    The pods of before are gone first; then a report that comes after a look is by the new ones.
    """
    _wait(site, tenant, lambda: _unready(site, tenant), "agent and gateway rolled out")
    before = _stamps(site, tenant)
    _wait(site, tenant, lambda: _silent(before, _stamps(site, tenant)), "agent and gateway reporting with the new pair")


def _wait(site: Site, tenant: Tenant, missing: Callable[[], list[str]], what: str) -> None:
    """Wait until nothing is missing. Raises GateTimeoutError with what still is."""
    last: list[str] = []

    def look() -> bool | None:
        last[:] = missing()
        return None if last else True

    wait_for(site, look, what, f"tenant {tenant.name}", last)


def _unready(site: Site, tenant: Tenant) -> list[str]:
    found = [
        item
        for item in site.kube().list("apps/v1", "Deployment", tenant.namespace)
        if release_of(item) in (AGENT_RELEASE, GATEWAY_RELEASE)
    ]
    rollouts = {item["metadata"]["name"]: rollout_of({"kind": "Deployment", **item}) for item in found}
    return [f"{name}: {rollout.detail}" for name, rollout in rollouts.items() if not rollout.ready]


def _stamps(site: Site, tenant: Tenant) -> Mapping[str, frozenset[str]]:
    """Return when each queue's workers and the router last reported, each with its name."""
    own = _own(site, tenant)
    names = {queue.id: queue.name for queue in own.queues()}
    stamps: dict[str, set[str]] = {f"queue {queue.name}": set() for queue in tenant.queues}
    stamps[f"router {GATEWAY_RELEASE}"] = {one.last_update for one in own.routers() if one.name == GATEWAY_RELEASE}
    reported = {worker.id: worker.last_activity for worker in own.workers()}
    for name, workers in served_queues(tenant, own, names, read_policy(own, tenant)).items():
        stamps.get(f"queue {name}", set()).update(f"{worker} {reported.get(worker, '')}" for worker in workers)
    return {what: frozenset(seen) for what, seen in stamps.items()}


def _silent(before: Mapping[str, frozenset[str]], now: Mapping[str, frozenset[str]]) -> list[str]:
    return [what for what, seen in now.items() if not seen - before[what]]


def wait_logged_in(site: Site, tenant: Tenant) -> None:
    """Wait until every job that may have been given the old pair has logged in with it, or has ended."""
    kube = site.kube()

    def starting() -> list[str]:
        now = datetime.fromtimestamp(site.clock.now(), UTC)
        return list(starting_jobs(kube.list("v1", "Pod", tenant.namespace, label_selector=JOB_LABEL), now))

    before = set(starting())
    _wait(site, tenant, lambda: [name for name in starting() if name in before], "jobs logged in")


def _held(site: Site, tenant: Tenant) -> str:
    return need(site.secrets, "api-key", tenant.credentials_block)["access_key"].get_secret_value()


def _own(site: Site, tenant: Tenant) -> Clearml:
    own = tenant_client(site, tenant)
    if own is None:
        where, remedy = f"block api-key/{tenant.credentials_block}", "Run check-tenants, or ask for the tenant again."
        raise SecretMissingError("the tenant has no key pair", where=where, remedy=remedy)
    return own
