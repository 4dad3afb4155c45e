"""Proving on the cluster that a tenant is apart: its pods' network, its quota, its agent's service account.

What is tried and what an outcome means is in stackwright/domain/tenant_isolation.py. Only the look at the network makes
something, a Job in the tenant's namespace; it is removed again, and ends by itself where this run dies.
"""

from __future__ import annotations

import logging
import secrets
from functools import partial

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site, wait_until
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import image_of
from stackwright.domain.errors import StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_isolation import (
    PROBE_LABEL,
    PROBE_LIFE_S,
    PROBE_PREFIX,
    Act,
    Reached,
    Target,
    access_review,
    account_of,
    acts_outside,
    agent_deployment,
    beyond_quota,
    judge_account,
    judge_network,
    judge_quota,
    probe_job,
    read_probe,
    spaces_to_ask,
    targets_of,
)
from stackwright.domain.tenant_objects import TENANT_LABEL
from stackwright.domain.validation import evidence_of
from tasks.looking import look_at, now_of, unread
from tasks.work_ground import refusal_of

log = logging.getLogger(__name__)

RBAC = "rbac.authorization.k8s.io/v1"
QUOTA_STATUS = 403  # Kubernetes: a pod that a quota refuses is forbidden
SIDES = {"tenant/isolation-network": "tenant", "tenant/isolation-platform": "platform"}


class ProbeFailedError(StackError):
    """The pod that tries the network did not say what it saw."""

    remedy = "Look at the Job's pod in the tenant's namespace: its image, the room in the quota, its log."


# --- quota and account: nothing is made, so any look may do this ------------------------------------------------------


def look_access(site: Site, tenant: Tenant) -> list[Evidence]:
    """Ask the API server for a pod beyond the quota, and for what the agent's account may do elsewhere.

    The first is a dry run, the second a question: neither leaves anything.
    """
    return [
        look_at(site, "tenant/isolation-quota", partial(look_quota, site, tenant), target=tenant.name),
        look_at(site, "tenant/isolation-account", partial(look_account, site, tenant), target=tenant.name),
    ]


def look_quota(site: Site, tenant: Tenant) -> Outcome:
    """Try pods that ask for more than the whole quota, as dry runs."""
    kube = site.kube()
    return judge_quota(
        {what: refusal_of(kube, pod, (QUOTA_STATUS,)) for what, pod in beyond_quota(site.spec, tenant).items()}
    )


def look_account(site: Site, tenant: Tenant) -> Outcome:
    """Ask what the agent's service account may do outside its namespace: elsewhere, and cluster-wide."""
    kube = site.kube()
    found = agent_deployment(kube.list("apps/v1", "Deployment", tenant.namespace))
    if found is None:
        return Outcome("unknown", f"no Deployment of the agent in {tenant.namespace}")
    account = account_of(found)
    spaces = spaces_to_ask(tenant, account, _other_spaces(kube, tenant), kube.list(RBAC, "RoleBinding"))
    return judge_account(account, {act: _may(kube, tenant, account, act) for act in acts_outside(spaces)})


def _may(kube: KubeClient, tenant: Tenant, account: str, act: Act) -> bool:
    answer = kube.create(access_review(tenant, account, act))
    return bool((answer.get("status") or {}).get("allowed"))


def _other_spaces(kube: KubeClient, tenant: Tenant) -> list[str]:
    """Return the namespaces of the other tenants, as their labels say."""
    found = (item["metadata"] for item in kube.list("v1", "Namespace"))
    return [
        meta["name"]
        for meta in found
        if (meta.get("labels") or {}).get(TENANT_LABEL, tenant.name) != tenant.name and meta["name"] != tenant.namespace
    ]


# --- the network -----------------------------------------------------------------------------------------------------


def look_network(site: Site, tenant: Tenant) -> list[Evidence]:
    """Let a pod of the tenant try to reach other tenants and the platform's own services."""
    try:
        reached = try_network(site, tenant)
        outcomes = {check: judge_network(side, reached) for check, side in SIDES.items()}
    except StackError as error:
        outcomes = dict.fromkeys(SIDES, unread(error))
    return [
        evidence_of(site.spec, check, outcome, now_of(site), target=tenant.name) for check, outcome in outcomes.items()
    ]


def try_network(site: Site, tenant: Tenant) -> dict[Target, Reached]:
    """Run the probe in the tenant's namespace and return what it reached. Removes what it made, also when it fails."""
    kube = site.kube()
    found = agent_deployment(kube.list("apps/v1", "Deployment", tenant.namespace))
    if found is None:
        raise ProbeFailedError("there is no agent whose image could be used", where=f"namespace {tenant.namespace}")
    targets = targets_of(
        tenant,
        kube.list("v1", "Service"),
        kube.list("v1", "Pod"),
        kube.list("v1", "Endpoints"),
        _other_spaces(kube, tenant),
    )
    name = f"{PROBE_PREFIX}{secrets.token_hex(3)}"
    kube.create(probe_job(tenant, name, image_of(found), targets))
    log.info("tenant %s: %d connection(s) tried by Job %s", tenant.name, len(targets), name)
    try:
        return wait_until(
            lambda: _answer(kube, tenant, name, targets),
            "the probe's answer",
            timeout_s=PROBE_LIFE_S,
            poll_s=min(site.spec.rke2.poll_s, 2.0),
            clock=site.clock,
            where=f"Job {tenant.namespace}/{name}",
            last=lambda: _state(kube, tenant, name),
        )
    finally:
        kube.delete("batch/v1", "Job", name, tenant.namespace)


def remove_probes(site: Site, tenant: Tenant) -> None:
    """Remove the probes that runs which died have left. Whoever calls is the only one at work on the tenant."""
    kube = site.kube()
    for job in kube.list("batch/v1", "Job", tenant.namespace, label_selector=f"{PROBE_LABEL}=isolation"):
        kube.delete("batch/v1", "Job", job["metadata"]["name"], tenant.namespace)


def _answer(kube: KubeClient, tenant: Tenant, name: str, targets: tuple[Target, ...]) -> dict[Target, Reached] | None:
    for pod in kube.list("v1", "Pod", tenant.namespace, label_selector=f"job-name={name}"):
        phase = (pod.get("status") or {}).get("phase")
        if phase not in ("Succeeded", "Failed"):
            continue
        text = kube.pod_logs(pod["metadata"]["name"], tenant.namespace)
        reached = read_probe(text, targets)
        if reached is None:
            seen = text.strip().splitlines()[-1:] or ["nothing"]
            raise ProbeFailedError("the probe ended without an answer", where=f"Job {name}", seen=seen[0][:200])
        return reached
    return None


def _state(kube: KubeClient, tenant: Tenant, name: str) -> str:
    pods = kube.list("v1", "Pod", tenant.namespace, label_selector=f"job-name={name}")
    phases = [str((pod.get("status") or {}).get("phase", "Pending")) for pod in pods]
    return f"pod {', '.join(phases)}" if phases else "no pod: is there room in the quota?"
