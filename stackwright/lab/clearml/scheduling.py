"""The resource policy manager: it lets a job of a policy's queue through to the queue of a pool that has room for it.

It counts only, as the real one does. What it leaves out: reservations are not weighed against other policies' jobs.
ClearML: resource configuration.
"""

from __future__ import annotations

from collections.abc import Iterator

from stackwright.lab.clearml.state import Allocation, ClearmlState, Doc

HOLDING = ("queued", "in_progress")


def live(state: ClearmlState, company: str, kind: str) -> list[Doc]:
    """Return the pools or profiles that are in force."""
    found: list[Doc] = state.resources.get(company, {}).get("live", {}).get(kind, [])
    return found


def schedule(state: ClearmlState, company: str) -> None:
    """Let through what fits, queue by queue in the order in which jobs came."""
    if company not in state.policy_manager:
        return
    release(state)
    for policy in state.of_company("policies", company):
        for queue, profile in connections(state, company, policy):
            for entry in list(queue.get("entries") or ()):
                if not _let_through(state, company, policy, profile, queue, entry):
                    break


def connections(state: ClearmlState, company: str, policy: Doc) -> Iterator[tuple[Doc, Doc]]:
    """Yield each queue of a policy with the profile that it stands for."""
    profiles = {profile["id"]: profile for profile in live(state, company, "profiles")}
    for link in policy["profile_links"]:
        queue = state.doc("queues", company, link["queue"])
        if queue is not None and link["profile"] in profiles:
            yield queue, profiles[link["profile"]]


def _let_through(state: ClearmlState, company: str, policy: Doc, profile: Doc, queue: Doc, entry: Doc) -> bool:
    cost = float(profile["profile_cost"])
    if used(state, policy=policy["id"]) + cost > float(policy["limit"]):
        return False
    pools = {pool["id"]: pool for pool in live(state, company, "pools")}
    for link in profile["pool_links"]:
        pool, target = pools.get(link["pool"]), state.doc("queues", company, link.get("queue", ""))
        if pool and target and used(state, pool=pool["id"]) + cost <= float(pool["resources"]):
            queue["entries"].remove(entry)
            target.setdefault("entries", []).append(entry)
            state.allocations[entry["task"]] = Allocation(policy["id"], pool["id"], cost)
            return True
    return False


def used(state: ClearmlState, *, policy: str = "", pool: str = "") -> float:
    """Return what a policy or a pool has given out."""
    held = state.allocations.values()
    return sum(item.cost for item in held if policy in ("", item.policy) and pool in ("", item.pool))


def release(state: ClearmlState) -> None:
    """Take back what ended jobs held."""
    tasks = state.docs["tasks"]
    state.allocations = {
        task: held for task, held in state.allocations.items() if tasks.get(task, {}).get("status") in HOLDING
    }


def is_watched(state: ClearmlState, company: str, queue: str) -> bool:
    """Tell whether a worker serves a queue: itself, or a pool's queue that its policy's jobs are let through to."""
    served = {name for worker in state.live_workers(company) for name in worker.queues}
    for policy in state.of_company("policies", company):
        for mine, profile in connections(state, company, policy):
            if mine["id"] == queue:
                on = company in state.policy_manager
                return on and any(link.get("queue") in served for link in profile["pool_links"])
    return queue in served
