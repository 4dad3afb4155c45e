"""A tenant's share seen to act: how many jobs are sent to show it, and what came of them. Pure. Guide: 6."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from stackwright.domain.check import Outcome, judge
from stackwright.domain.spec import Queue, Tenant
from stackwright.domain.tenant_gpus import cost, on_gpus
from stackwright.domain.work_clearml import spills


@dataclass(frozen=True)
class Share:
    """A queue, how many of its jobs may run at once, and which limit says so."""

    queue: Queue
    jobs: int
    limit: str


def share_of(tenant: Tenant, queue: Queue) -> Share:
    """Return the tightest of the limits that hold for a queue's jobs: its pods, the tenant's GPUs, its policy."""
    found = [(queue.max_pods, f"maxPods {queue.max_pods}")]
    if on_gpus(queue):
        gpus = tenant.quota.gpus
        found.append((_fit(gpus, queue), f"quota of {gpus} GPU(s)"))
        if tenant.policy:
            found.append((_fit(tenant.policy.limit, queue), f"policy limit of {tenant.policy.limit} GPU(s)"))
    jobs = min(count for count, _ in found)
    return Share(queue, jobs, " and ".join(text for count, text in found if count == jobs))


def _fit(gpus: float, queue: Queue) -> int:
    return math.floor(gpus / cost(queue) + 1e-9)


def chosen_share(tenant: Tenant) -> Share:
    """Return the share that is tried: of a queue on GPUs where there is one, and the smallest: it takes the least."""
    shares = [share_of(tenant, queue) for queue in tenant.queues]
    return min(shares, key=lambda share: (not on_gpus(share.queue), share.jobs))


@dataclass(frozen=True)
class ShareSeen:
    """What came of one job more than the share allows.

    `most` is the highest number that ran at once, `waiting` why the others waited by the server's words, `next_s` how
    long after one had ended the next one started, None if it did not; `failed` names jobs that failed. `pools` maps
    pool to what it had given out while the share was full, None where it could not be told.
    """

    most: int
    waiting: tuple[str, ...] = ()
    next_s: float | None = None
    failed: tuple[str, ...] = ()
    pools: Mapping[str, float | None] = field(default_factory=dict)


def judge_quota(share: Share, seen: ShareSeen) -> Outcome:
    """At most the share ran at once, all of it was used, and the next job started when one ended."""
    text = f"queue {share.queue.name}: {seen.most} of {share.jobs + 1} ran at once ({share.limit})"
    if seen.failed:
        return Outcome("fail", f"{text}; failed instead of waiting: {', '.join(seen.failed)}")
    if seen.most != share.jobs:
        return Outcome("fail", f"{text}, wanted {share.jobs}")
    why = f" ({', '.join(sorted(set(seen.waiting)))})" if any(seen.waiting) else ""
    if seen.next_s is None:
        return Outcome("fail", f"{text}; the next one did not start when one had ended{why}")
    return Outcome("pass", f"{text}, 1 waited{why}; it ran {seen.next_s:.1f} s after one had ended")


def judge_spill(tenant: Tenant, share: Share, seen: ShareSeen) -> Outcome:
    """The tenant's own pool holds the reservation, the pools beyond it the rest."""
    policy = tenant.policy
    if policy is None:
        return Outcome("skipped", "the site file gives this tenant no resource policy")
    if not spills(policy):
        return Outcome("skipped", "the policy names no pools to spill over into")
    if not on_gpus(share.queue):
        return Outcome("skipped", "no queue of the tenant is governed by its policy")
    names = ((tenant.name,) if policy.reservation else ()) + policy.pools
    held = {name: seen.pools.get(name) for name in names}
    text = ", ".join(f"{name} {'?' if used is None else f'{used:g}'}" for name, used in held.items())
    if any(used is None for used in held.values()):
        return Outcome("unknown", f"what the pools give out is not told: {text}")
    price = cost(share.queue)
    own = min(share.jobs, _fit(policy.reservation, share.queue)) * price
    beyond = share.jobs * price - own
    # Shares of a GPU are fractions such as 1/7: their sums meet only within what a float can say.
    same = partial(math.isclose, abs_tol=1e-6)
    good = same(held.get(tenant.name) or 0.0, own) and same(sum(held[name] or 0.0 for name in policy.pools), beyond)
    return judge(good, f"GPUs in use: {text}; wanted {own:g} of the reservation and {beyond:g} beyond")
