"""The catalogue of checks that prove a platform, and what each makes of what was seen. Pure; looking is in the tasks.

The layers' own gates are checks too: they are in domain/layers. Guide: 6.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from stackwright.domain import work_clearml, work_platform
from stackwright.domain.check import AGENT, GATEWAY, GPUS, KUBERNETES, NETWORK, SERVER, Check, Outcome, judge
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import gpu_operator
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenants import ROUTER_FRESH_S, is_fresh

CATALOGUE: tuple[Check, ...] = (
    Check(
        "cluster/nodes", "All nodes are Ready", "5.2", "every node of the site file, Ready and schedulable",
        "Look at the node with `kubectl describe node`, and at its rke2 service.", KUBERNETES,
    ),
    Check(
        "cluster/versions", "All nodes run the wanted release", "5.2", "one release on all nodes",
        "Run the upgrade, or repair the node that differs.", KUBERNETES,
    ),
    Check(
        "cluster/voters", "All servers vote in etcd", "5.2", "every server EtcdIsVoter",
        "Look at the server's etcd; a learner becomes a voter when it has caught up.", KUBERNETES,
    ),
    Check(
        "cluster/gpus", "GPUs are offered as the site file says", "5.8.3", "each node's GPUs, all allocatable",
        "Look at the GPU operator's pods on that node and at the host's driver.", GPUS,
    ),
    Check(
        "clearml/app", "The user interface answers over its public name", "6", "HTTP 200",
        "Check DNS, the load balancer, the ingress controller and the webserver.", SERVER,
    ),
    Check(
        "clearml/api", "The API answers over its public name", "6", "HTTP 200 from debug.ping",
        "Check DNS, the load balancer, the ingress controller and the apiserver.", SERVER,
    ),
    Check(
        "clearml/files", "The file server answers over its public name", "6", "HTTP 200",
        "Check DNS, the load balancer, the ingress controller and the fileserver.", SERVER,
    ),
    Check(
        "clearml/health", "The server says that it is healthy", "5.7.2", "its version, and no error of its own",
        "Look at the apiserver's log and at its databases.", SERVER,
    ),
    Check(
        "tenant/records", "The tenants that were asked for are known, and none is held", "5.8",
        "every record read, no tenant that is not apart from others",
        "Look at the ConfigMaps in namespace stackwright: the record of a held tenant says why it is held.",
        KUBERNETES,
    ),
    Check(
        "tenant/login", "The tenant's administrator can log in", "5.7.2", "role admin in the tenant's company",
        "Onboard the tenant again: the key pair is then renewed.", SERVER,
    ),
    Check(
        "tenant/queue", "The queue is listed", "5.8.3", "listed to the tenant's key",
        "Look at the log of the tenant's agent.", AGENT,
    ),
    Check(
        "tenant/worker", "A worker serves the queue", "5.8.3", "at least one worker",
        "Look at the log of the tenant's agent; its key may have been revoked.", AGENT,
    ),
    Check(
        "tenant/router", "The application gateway is listed and reports", "5.9",
        f"listed, last report at most {ROUTER_FRESH_S:.0f} s old",
        "Look at the gateway's router pod in the tenant's namespace.", GATEWAY,
    ),
    Check(
        "tenant/name", "The router's name leads to the platform", "5.9",
        "the ingress controller's address, with a trusted certificate for the name",
        "Make the DNS record, or look at the Certificate in the tenant's namespace.", GATEWAY,
    ),
    Check(
        "tenant/quota", "The namespace's quota is in force", "5.8.2", "hard limits as the site file says",
        "Onboard the tenant again: the quota is then applied.", KUBERNETES,
    ),
    Check(
        "tenant/capacity", "The agent reports the tenant's GPUs", "5.8.3", "as many GPUs as the quota allows",
        "Compare the agent's orchestrationDashboard values with the quota.", AGENT, must=False,
    ),
    Check(
        "tenant/isolation-queues", "Another tenant's queues are not seen", "5.7.2", "no queue id in common",
        "Both keys belong to one company: look at the two blocks.", SERVER,
    ),
    Check(
        "tenant/isolation-tasks", "Another tenant's task cannot be read", "5.7.2", "refused (400/101)",
        "Both keys belong to one company: look at the two blocks.", SERVER,
    ),
    Check(
        "tenant/isolation-system", "The tenant's key may not list companies", "5.7.2", "refused (403)",
        "The block holds a platform key: remove it and onboard the tenant again.", SERVER,
    ),
    Check(
        "tenant/isolation-network", "Another tenant's services and pods cannot be reached", "5.8.2",
        "every connection unanswered, while ClearML's API answers",
        "Compare the namespace's network policies; see that the CNI enforces them.", NETWORK, works=True,
    ),
    Check(
        "tenant/isolation-platform", "The platform's own services cannot be reached", "5.8.2",
        "every connection unanswered, while ClearML's API answers",
        "Compare the namespace's network policies; see that the CNI enforces them.", NETWORK, works=True,
    ),
    Check(
        "tenant/isolation-quota", "A pod beyond the quota is refused", "5.8.2", "refused: exceeded quota",
        "Onboard the tenant again: the quota is then applied.", KUBERNETES,
    ),
    Check(
        "tenant/isolation-account", "The agent's service account has no rights outside its namespace", "5.8.3",
        "nothing allowed outside the tenant's namespace",
        "Look for the ClusterRoleBinding or RoleBinding that names the account, and remove it.", KUBERNETES,
    ),
    *work_platform.CHECKS,
    *work_clearml.CHECKS,
)  # fmt: skip
BY_ID: Mapping[str, Check] = {check.id: check for check in CATALOGUE}


def evidence_of(
    spec: StackSpec,
    check_id: str,
    outcome: Outcome,
    at: datetime,
    *,
    target: str = "",
    part: str = "",
    wanted: str = "",
) -> Evidence:
    """Make the evidence of one check. `part` names what of the target it is about, such as a queue."""
    check = BY_ID[check_id]
    area, name = check.id.split("/", 1)
    return Evidence(
        id="/".join(text for text in (area, target, name, part) if text),
        title=f"{check.title}: {part}" if part else check.title,
        verdict=outcome.verdict,
        wanted=wanted or check.wanted,
        seen=outcome.seen,
        guide=check.guide,
        at=at.isoformat(timespec="seconds"),
        target=target,
        must=check.must,
        remedy="" if outcome.verdict == "pass" else check.remedy,
        stand_in=check.product if spec.environment == "lab" else "",
    )


# --- cluster ---------------------------------------------------------------------------------------------------------


def judge_nodes(spec: StackSpec, nodes: Iterable[NodeStatus]) -> Outcome:
    seen = {node.name: node for node in nodes}
    wrong = [f"{node.name} is not in the cluster" for node in spec.nodes if node.name not in seen]
    for node in seen.values():
        wrong += [] if node.ready else [f"{node.name} is not Ready"]
        wrong += [] if node.schedulable else [f"{node.name} is cordoned"]
    return judge(not wrong, "; ".join(wrong) or f"{len(seen)} of {len(spec.nodes)} Ready")


def judge_versions(spec: StackSpec, nodes: Iterable[NodeStatus]) -> Outcome:
    wrong = [f"{node.name} {node.version}" for node in nodes if node.version != spec.rke2.version]
    return judge(not wrong, "; ".join(wrong) or spec.rke2.version)


def judge_voters(spec: StackSpec, nodes: Iterable[NodeStatus]) -> Outcome:
    voters = {node.name for node in nodes if node.etcd_voter}
    missing = [server.name for server in spec.servers if server.name not in voters]
    text = f"{len(voters)} voter(s)"
    return judge(not missing, f"{text}; not voting: {', '.join(missing)}" if missing else text)


def judge_gpus(spec: StackSpec, nodes: Iterable[NodeStatus]) -> Outcome:
    """Compare each node's allocatable GPUs with the site file."""
    wanted = {node.name: node.gpu for node in spec.nodes if node.gpu}
    if not wanted:
        return Outcome("skipped", "the site has no GPU nodes")
    if not spec.layers.gpu_operator.enabled:
        return Outcome("skipped", "layers.gpu_operator is disabled")
    seen = {node.name: node.allocatable for node in nodes}
    counts = {name: seen.get(name, {}).get(gpu_operator.RESOURCES[gpu.vendor], "0") for name, gpu in wanted.items()}
    wrong = [
        f"{name}: {counts[name]}, wanted {gpu.count}" for name, gpu in wanted.items() if counts[name] != str(gpu.count)
    ]
    return judge(not wrong, "; ".join(wrong) or ", ".join(f"{name}: {count}" for name, count in counts.items()))


# --- ClearML ---------------------------------------------------------------------------------------------------------


def judge_http(status: int, ms: float) -> Outcome:
    return judge(status == 200, f"HTTP {status} in {ms:.0f} ms")


def judge_health(version: str, api_version: str, errors: Collection[str]) -> Outcome:
    text = f"server {version}, API {api_version}"
    return judge(not errors and bool(version), f"{text}; {'; '.join(errors)}" if errors else text)


def judge_records(count: int, held: Sequence[str]) -> Outcome:
    """Judge what the records of tenants say; what runs of a tenant at rest is looked at by checks of its own."""
    if held:
        return Outcome("fail", f"held, for it is not apart from others: {', '.join(held)}")
    return Outcome("pass", f"{count} record(s) read")


def judge_login(tenant: Tenant, company: str, role: str, user: str) -> Outcome:
    good = company.casefold() == tenant.name.casefold() and role == "admin"
    return judge(good, f"{user}, role {role}, company {company}")


def judge_queue(name: str, listed: Collection[str]) -> Outcome:
    return judge(name in listed, "listed" if name in listed else f"listed: {', '.join(sorted(listed)) or 'none'}")


def judge_worker(queue: str, served_by: Mapping[str, Collection[str]]) -> Outcome:
    """`served_by` maps queue to the ids of its workers."""
    found = sorted(served_by.get(queue, ()))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return judge(bool(found), ", ".join(found[:3]) + more if found else "no worker")


def judge_router(name: str, routers: Mapping[str, str], now: datetime) -> Outcome:
    """`routers` maps name to the time of its last report. A time that cannot be read leaves the check unknown."""
    if name not in routers:
        return Outcome("fail", f"listed: {', '.join(sorted(routers)) or 'none'}")
    fresh = is_fresh(routers[name], now)
    if fresh is None:
        return Outcome("unknown", f"{name} is listed, its last report's time cannot be read")
    return judge(fresh, f"{name}, last report {routers[name]}")


def judge_capacity(tenant: Tenant, reported: float | None) -> Outcome:
    if not tenant.quota.gpus:
        return Outcome("skipped", "the tenant has no GPUs")
    if reported is None:
        return Outcome("unknown", "no agent reports resources")
    return judge(int(reported) == tenant.quota.gpus, f"{reported:g} GPU(s)")


def judge_foreign_queues(own: Collection[str], foreign: Collection[str]) -> Outcome:
    """Both are queue ids, each as listed to its own tenant."""
    if not foreign:
        return Outcome("unknown", "the other tenant has no queue to look for")
    common = sorted(set(own) & set(foreign))
    return judge(not common, f"in common: {', '.join(common)}" if common else f"none of {len(foreign)}")
