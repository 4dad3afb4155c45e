"""A tenant's resource policy on the ClearML server: looked at, brought to what is wanted, taken away again.

All of it is the company's own: the calls are made with the tenant administrator's key. What is wanted and what is
missing is decided in stackwright/domain/tenant_policy.py. Guide: 5.7.2.
"""

from __future__ import annotations

import logging

from stackwright.clients.clearml import Clearml
from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.clearml_facts import PolicyInfo, ResourceConfiguration
from stackwright.domain.errors import GateTimeoutError, StackError
from stackwright.domain.spec import Policy, Tenant
from stackwright.domain.tenant_policy import (
    EVERYBODY,
    FEATURE,
    SeenPolicy,
    governed,
    linked_queues,
    marker,
    policy_gaps,
    profile_name,
    same,
    stale_links,
    with_pools,
    with_profiles,
    without_tenant,
)

log = logging.getLogger(__name__)


class DraftHeldError(StackError):
    """Somebody is editing the company's resource configuration: publishing ours would publish theirs."""

    remedy = "Publish or reset the draft in ClearML (Settings, Resource Configuration), then start again."


class WorkWaitsError(GateTimeoutError):
    """Jobs wait in a queue that has to be replaced."""

    remedy = "Let the waiting jobs start, or move them to another queue, then start again."


def read_policy(own: Clearml, tenant: Tenant) -> SeenPolicy | None:
    """Look at the company's pools, profiles and policy; None where the tenant wants none, and nothing is looked at."""
    if tenant.policy is None:
        return None
    features = own.company_features()
    if features and FEATURE not in features:  # a server that tells none cannot be asked
        return SeenPolicy(feature=False)
    return _read(own, tenant)


def _read(own: Clearml, tenant: Tenant) -> SeenPolicy:
    return SeenPolicy(
        feature=True,
        config=own.resource_configuration(),
        policy=_find(own, tenant),
        queues={queue.id: queue.name for queue in own.queues()},
    )


def _find(own: Clearml, tenant: Tenant) -> PolicyInfo | None:
    found = next((policy for policy in own.policies() if policy.name == tenant.name), None)
    return own.policy(found.id) if found else None


def ensure_policy(
    site: Site, tenant: Tenant, lease: LeaseHandle, system: Clearml, own: Clearml, company_id: str
) -> SeenPolicy | None:
    """Bring the tenant's pools, profiles, policy and its queues to what is wanted; look before each act.

    Raises DraftHeldError or WorkWaitsError where somebody else's edit or waiting jobs would be lost.
    """
    want, seen = tenant.policy, read_policy(own, tenant)
    if want is None or seen is None or not policy_gaps(site.spec, tenant, seen):
        return seen
    if not seen.feature:
        lease.check()
        system.set_company_features(company_id, own.company_features() | {FEATURE})
    _drop_stale(tenant, lease, own)
    _ensure_configuration(site, tenant, lease, own)
    if not own.resource_configuration().enabled:
        lease.check()
        own.enable_policy_manager()
    _ensure_limits(site, tenant, lease, own, want)
    _ensure_queues(tenant, lease, own)
    return _checked(site, tenant, own)


def _checked(site: Site, tenant: Tenant, own: Clearml) -> SeenPolicy | None:
    seen = read_policy(own, tenant)
    gaps = policy_gaps(site.spec, tenant, seen) if seen else []
    if gaps:
        raise StackError(
            "the resource policy does not read back as it was set",
            where=f"tenant {tenant.name}",
            wanted="nothing missing",
            seen=", ".join(gaps),
        )
    return seen


def _ensure_configuration(site: Site, tenant: Tenant, lease: LeaseHandle, own: Clearml) -> None:
    """Make pools first: profiles are linked by the ids that the server gives them. Then publish, once, both."""
    spec, live = site.spec, own.resource_configuration()
    if same(with_profiles(spec, tenant, with_pools(spec, tenant, live)), live):
        return
    draft = _own_draft(site, tenant, own, live)
    pooled = with_pools(spec, tenant, draft)
    if not same(pooled, draft):
        lease.check()
        own.save_resource_configuration(pooled)
        draft = own.resource_configuration(draft=True)
    profiled = with_profiles(spec, tenant, draft)
    if not same(profiled, draft):
        lease.check()
        own.save_resource_configuration(profiled)
    lease.check()
    own.publish_resource_configuration()
    log.info("tenant %s: pools and profiles are in force", tenant.name)


def _own_draft(site: Site, tenant: Tenant, own: Clearml, live: ResourceConfiguration) -> ResourceConfiguration:
    """Return the draft, if it differs from what is in force in the tenant's own parts at most."""
    draft = own.resource_configuration(draft=True)
    if not same(without_tenant(site.spec, tenant, draft), without_tenant(site.spec, tenant, live)):
        raise DraftHeldError(
            "the resource configuration has a draft that is not published",
            where=f"tenant {tenant.name}",
            wanted="a draft equal to what is in force",
            seen="other pools or profiles",
        )
    return draft


def _ensure_limits(site: Site, tenant: Tenant, lease: LeaseHandle, own: Clearml, want: Policy) -> None:
    seen = _find(own, tenant)
    if seen is not None and (seen.reservation, seen.limit) == (want.reservation, want.limit):
        return
    lease.check()
    if seen is not None:
        own.update_policy(seen.id, reservation=want.reservation, limit=want.limit)
        return
    groups = sorted((group for group in own.groups() if group.name == EVERYBODY), key=lambda group: not group.system)
    if not groups:
        raise StackError(
            "the company has no group of all its users", where=f"tenant {tenant.name}", wanted=f"group {EVERYBODY}"
        )
    text = marker(site.spec, tenant)
    own.create_policy(tenant.name, groups[0].id, reservation=want.reservation, limit=want.limit, description=text)


def _drop_stale(tenant: Tenant, lease: LeaseHandle, own: Clearml) -> None:
    """Disconnect what the tenant wants no more, before its profile is taken out of force."""
    seen = _read(own, tenant)
    waiting = {queue.id: queue.entries for queue in own.queues()}
    for queue_id, name in stale_links(tenant, seen).items():
        _refuse_waiting(tenant, name, waiting.get(queue_id, 0))
        lease.check()
        own.disconnect_profile(queue_id)


def _ensure_queues(tenant: Tenant, lease: LeaseHandle, own: Clearml) -> None:
    """Connect the tenant's GPU queues to the policy. A plain queue of that name, which the agent made, gives way."""
    seen = _read(own, tenant)
    policy = seen.policy
    if policy is None:
        return  # gone again: what is missing is told by the look that follows
    plain = {queue.name: queue for queue in own.queues()}
    linked = linked_queues(seen)
    for queue in governed(tenant):
        profile = seen.config.profile(profile_name(tenant, queue))
        if profile is None or linked.get(queue.name) == profile.name:
            continue
        if old := plain.get(queue.name):
            _refuse_waiting(tenant, old.name, old.entries)
            lease.check()
            own.delete_queue(old.id)
        lease.check()
        own.connect_profile(policy.id, profile.id, queue.name)


def _refuse_waiting(tenant: Tenant, name: str, entries: int) -> None:
    if entries:
        raise WorkWaitsError(
            f"queue {name} cannot be replaced while jobs wait in it",
            where=f"tenant {tenant.name}",
            wanted="an empty queue",
            seen=f"{entries} waiting",
        )


def drop_policy(site: Site, tenant: Tenant, lease: LeaseHandle, own: Clearml | None) -> bool:
    """Take the tenant's policy with its queues, its profiles and its pools away; tell whether it could be looked at.

    Jobs that wait in the policy's queues become drafts: whoever calls has asked for that. Without a working key of the
    tenant (`own` None) nothing of the company can be seen, and nothing is done.
    """
    if own is None:
        return False
    features = own.company_features()
    if features and FEATURE not in features:
        return True
    policy = _find(own, tenant)
    if policy is not None:
        lease.check()
        own.delete_policy(policy.id)
    live = own.resource_configuration()
    if not same(without_tenant(site.spec, tenant, live), live):
        draft = _own_draft(site, tenant, own, live)
        lease.check()
        own.save_resource_configuration(without_tenant(site.spec, tenant, draft))
        lease.check()
        own.publish_resource_configuration()
    log.info("tenant %s: resource policy taken away", tenant.name)
    return True
