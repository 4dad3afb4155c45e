"""A tenant's resource policy: the pools, profiles and policy that it needs, and what is missing of them. Pure.

A tenant's GPU queues become queues of the policy: ClearML's manager lets a job through while the policy's limit and a
pool's resources allow it, and puts it into the queue of the link between profile and pool, which the tenant's agent
serves. The tenant's own pool holds its reservation; pools to spill over into hold what may be used beyond, unless they
are there already. Source: ClearML: resource configuration, resource policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stackwright.domain.clearml_facts import PolicyInfo, Pool, PoolLink, Profile, ResourceConfiguration
from stackwright.domain.spec import Policy, Queue, StackSpec, Tenant
from stackwright.domain.tenant_gpus import cost, on_gpus

FEATURE = "resource_policy"
EVERYBODY = "users"  # ClearML: the built-in group of all users of a company


@dataclass(frozen=True)
class SeenPolicy:
    """What the company has now: `config` is in force, `queues` are names by id."""

    feature: bool = False
    config: ResourceConfiguration = field(default_factory=ResourceConfiguration)
    policy: PolicyInfo | None = None
    queues: Mapping[str, str] = field(default_factory=dict)


def governed(tenant: Tenant) -> tuple[Queue, ...]:
    """Return the queues that the tenant's policy governs: those whose jobs need GPUs."""
    return tuple(queue for queue in tenant.queues if tenant.policy and on_gpus(queue))


def marker(spec: StackSpec, tenant: Tenant) -> str:
    """Return the description by which a pool or policy of ours is known."""
    return f"stackwright {spec.site}/{tenant.name}"


def profile_name(tenant: Tenant, queue: Queue) -> str:
    return f"{tenant.name}-{queue.name}"


def wanted_pools(spec: StackSpec, tenant: Tenant, policy: Policy) -> tuple[Pool, ...]:
    """Return the pools in the order of choice: the tenant's own for its reservation, then those to spill over into."""
    text = marker(spec, tenant)
    own = policy.limit if not policy.pools else policy.reservation
    beyond = policy.limit - policy.reservation
    pools = [Pool(tenant.name, float(own), text)] if own else []
    return (*pools, *(Pool(name, float(beyond), text) for name in policy.pools))


def with_pools(spec: StackSpec, tenant: Tenant, seen: ResourceConfiguration) -> ResourceConfiguration:
    """Return a configuration that has the tenant's pools. One that somebody else made is left as it is."""
    pools = {pool.name: pool for pool in seen.pools}
    for want in wanted_pools(spec, tenant, tenant.policy or Policy()):
        have = pools.get(want.name)
        if have is None:
            pools[want.name] = want
        elif have.description == want.description:
            pools[want.name] = replace(have, resources=want.resources)
    return replace(seen, pools=tuple(pools.values()))


def with_profiles(spec: StackSpec, tenant: Tenant, seen: ResourceConfiguration) -> ResourceConfiguration:
    """Return a configuration whose pools have ids, with the tenant's profiles linked to its pools in their order.

    Profiles of queues that the tenant has no more are taken out.
    """
    names = [pool.name for pool in wanted_pools(spec, tenant, tenant.policy or Policy())]
    ids = [pool.id for name in names if (pool := seen.pool(name))]
    known = {profile.name: profile for profile in seen.profiles}
    ours = {name for name in known if name.startswith(f"{tenant.name}-")}
    for queue in governed(tenant):
        name = profile_name(tenant, queue)
        have = known.get(name, Profile(name, 0.0))
        held = {link.pool: link for link in have.links}
        links = tuple(
            held.get(pool, PoolLink(pool, f"{name}-{where}")) for pool, where in zip(ids, names, strict=False)
        )
        known[name] = replace(have, cost=cost(queue), links=links)
        ours.discard(name)
    return replace(seen, profiles=tuple(profile for name, profile in known.items() if name not in ours))


def without_tenant(spec: StackSpec, tenant: Tenant, seen: ResourceConfiguration) -> ResourceConfiguration:
    """Return a configuration without the tenant's profiles, and without the pools that were made for them alone."""
    profiles = tuple(profile for profile in seen.profiles if not profile.name.startswith(f"{tenant.name}-"))
    used = {link.pool for profile in profiles for link in profile.links}
    text = marker(spec, tenant)
    pools = tuple(pool for pool in seen.pools if pool.description != text or pool.id in used)
    return replace(seen, pools=pools, profiles=profiles)


def same(one: ResourceConfiguration, other: ResourceConfiguration) -> bool:
    """Tell whether two configurations say the same; ids and what the server adds do not count."""
    return _shape(one) == _shape(other)


def _shape(config: ResourceConfiguration) -> object:
    names = {pool.id: pool.name for pool in config.pools if pool.id}
    pools = sorted((pool.name, pool.resources) for pool in config.pools)
    profiles = sorted(
        (p.name, p.cost, tuple(names.get(link.pool, link.pool) for link in p.links)) for p in config.profiles
    )
    return pools, profiles


def policy_gaps(spec: StackSpec, tenant: Tenant, seen: SeenPolicy) -> list[str]:
    """Return what is missing or differs, for people; empty when the policy is as wanted."""
    want = tenant.policy
    if want is None:
        return []
    gaps = [] if seen.feature else [f"feature {FEATURE}"]
    gaps += [] if seen.config.enabled else ["policy manager off"]
    full = with_profiles(spec, tenant, with_pools(spec, tenant, seen.config))
    gaps += [] if same(full, seen.config) else ["pools and profiles"]
    policy = seen.policy
    if policy is None:
        return [*gaps, f"policy {tenant.name}", *(f"queue {queue.name}" for queue in governed(tenant))]
    if (policy.reservation, policy.limit) != (want.reservation, want.limit):
        gaps.append(f"reservation {policy.reservation:g} and limit {policy.limit:g}")
    served = linked_queues(seen)
    gaps += [
        f"queue {queue.name}" for queue in governed(tenant) if served.get(queue.name) != profile_name(tenant, queue)
    ]
    gaps += [f"queue {name} too many" for name in stale_links(tenant, seen).values()]
    gaps += [
        f"queues of the pools for {name}" for name, ids in pool_queues(tenant, seen).items() if pending(name) in ids
    ]
    return gaps


def linked_queues(seen: SeenPolicy) -> dict[str, str]:
    """Return, by name of the policy's queues, the name of the profile that each stands for."""
    profiles = {profile.id: profile.name for profile in seen.config.profiles}
    links = seen.policy.links if seen.policy else ()
    return {seen.queues.get(link.queue_id, link.queue_id): profiles.get(link.profile_id, "") for link in links}


def stale_links(tenant: Tenant, seen: SeenPolicy) -> dict[str, str]:
    """Return id and name of the policy's queues that stand for no queue of the tenant, or for another profile."""
    profiles = {profile.id: profile.name for profile in seen.config.profiles}
    wanted = {queue.name: profile_name(tenant, queue) for queue in governed(tenant)}
    stale = {}
    for link in seen.policy.links if seen.policy else ():
        name = seen.queues.get(link.queue_id, link.queue_id)
        if name not in wanted or wanted[name] != profiles.get(link.profile_id):
            stale[link.queue_id] = name
    return stale


def pool_queues(tenant: Tenant, seen: SeenPolicy | None) -> dict[str, tuple[str, ...]]:
    """Return, for each governed queue, the ids of the queues that the agent serves in its place, first choice first.

    Those of profiles that are not in force yet stand as a text that no queue has: nothing can be served for them.
    """
    found = {}
    for queue in governed(tenant):
        profile = seen.config.profile(profile_name(tenant, queue)) if seen else None
        ids = tuple(link.queue_id for link in profile.links if link.queue_id) if profile else ()
        found[queue.name] = ids or (pending(queue.name),)
    return found


def pending(queue: str) -> str:
    return f"pool-queue-of-{queue}"
