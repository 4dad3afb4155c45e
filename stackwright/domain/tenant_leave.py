"""How a tenant leaves: what blocks it, what is kept of it, and what counts as left behind. Pure.

Archived, a tenant has no access and nothing runs; its data stays: the namespace with its volumes, the company with its
tasks. Deleted, nothing is left but, on servers that cannot delete a company, an empty one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from stackwright.domain.cluster import Obj
from stackwright.domain.errors import Problem
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers.model import ObjectSpec
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_objects import SITE_LABEL, TENANT_LABEL, quota, router_host

SHOWN = 20  # of running work, in one refusal
COMPANY_STAYS = (
    "ClearML company {name} ({id}) stays, empty and with no user: this server has no call that deletes one. "
    "ClearML documents the manual way (administration, delete a tenant): in the apiserver's container "
    "`python3 -m jobs.management.delete_company_data_from_mongo` and `jobs.management.cleanup_deleted_companies`, then "
    "the tenant's folder on the fileserver's volume"
)


def check_archive(tenant: Tenant, work: Sequence[str]) -> list[Problem]:
    """Return what runs or waits, one problem each: an archive ends it only when that is asked for."""
    remedy = "Let it end, or ask again with stop_running."
    where = f"tenant {tenant.name}"
    problems = [Problem(where, "work is under way", remedy, "nothing queued or running", line) for line in work[:SHOWN]]
    if len(work) > SHOWN:
        problems.append(Problem(where, f"and {len(work) - SHOWN} more", remedy))
    return problems


def check_delete(tenant: Tenant, confirm: str) -> list[Problem]:
    """Return the reason against a deletion that was not asked for twice."""
    if confirm == tenant.name:
        return []
    remedy = "Name the tenant once more in `confirm`: its data will be gone."
    what = "the deletion is not confirmed"
    return [Problem(f"tenant {tenant.name}", what, remedy, tenant.name, ascii(confirm[:80]))]


def pod_line(pod: Obj) -> str:
    return f"pod {pod['metadata']['name']} {(pod.get('status') or {}).get('phase', 'Pending')}"


def volume_line(claim: Obj) -> str:
    """Say which volume is kept, how large it is, and where its data lies."""
    asked = (((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}).get("storage", "unknown size")
    size = ((claim.get("status") or {}).get("capacity") or {}).get("storage", asked)
    where = (claim.get("spec") or {}).get("volumeName") or "not bound"
    return f"volume {claim['metadata']['name']} {size} ({where})"


def kept_lines(
    claims: Iterable[Obj], queues: Mapping[str, int], counts: Mapping[str, int], company_id: str
) -> tuple[str, ...]:
    """Return what an archive keeps, for the record: company, volumes, queues with what waits, tasks by status."""
    lines = [f"company {company_id}"] if company_id else []
    lines += sorted(map(volume_line, claims))
    lines += [f"queue {name}, {count} waiting" for name, count in sorted(queues.items())]
    lines += [f"{count} task(s) {status}" for status, count in sorted(counts.items())]
    return tuple(lines)


def no_pods(spec: StackSpec, tenant: Tenant) -> ObjectSpec:
    """The quota of an archived tenant: no pod, whoever asks; what its volumes take stays allowed."""
    manifest: dict[str, Any] = dict(quota(spec, tenant).manifest)
    hard = {**manifest["spec"]["hard"], "pods": "0"}
    return ObjectSpec({**manifest, "spec": {**manifest["spec"], "hard": hard}})


def is_ours(spec: StackSpec, tenant: Tenant, obj: Mapping[str, Any] | None) -> bool:
    """Tell whether an object carries this tenant's labels, of this site."""
    labels = (((obj or {}).get("metadata")) or {}).get("labels") or {}
    return labels.get(TENANT_LABEL) == tenant.name and labels.get(SITE_LABEL) == spec.site


def strangers_in(objects: Iterable[Obj]) -> tuple[str, ...]:
    """Return the things of weight in a namespace that nobody of ours made."""
    return tuple(f"{item['kind']} {item['metadata']['name']}" for item in objects if not _made_by_us(item))


def _made_by_us(item: Obj) -> bool:
    meta = item["metadata"]
    return bool(meta.get("ownerReferences")) or (meta.get("labels") or {}).get("app.kubernetes.io/managed-by") in (
        "stackwright",
        "Helm",
    )


def hanging(namespace: Obj, holders: Iterable[Obj]) -> str:
    """Say what keeps a namespace from going: its conditions, and the objects in it with their finalizers."""
    conditions = (namespace.get("status") or {}).get("conditions") or ()
    lines = [f"{item['type']}: {item.get('message', '')}" for item in conditions if item.get("status") == "True"]
    for item in holders:
        meta = item["metadata"]
        if meta.get("finalizers"):
            lines.append(f"{item['kind']} {meta['name']} is held by {', '.join(meta['finalizers'])}")
    return "; ".join(lines) or "nothing names a reason"


# --- what is left ----------------------------------------------------------------------------------------------------


def cluster_leftovers(
    spec: StackSpec, tenant: Tenant, namespace: Obj | None, scoped: Iterable[Obj], volumes: Iterable[Obj]
) -> list[str]:
    """Return what a deleted tenant has left in Kubernetes.

    `scoped` are ClusterRoles and ClusterRoleBindings: a chart that makes such puts the namespace into their names, and
    a binding names its account's namespace. `volumes` are PersistentVolumes, which outlive a namespace by themselves.
    """
    space = tenant.namespace
    found = [f"Namespace {space}"] if namespace is not None else []
    for item in scoped:
        subjects = [subject.get("namespace") for subject in item.get("subjects") or ()]
        if space in subjects or _names(item["metadata"]["name"], space):
            found.append(f"{item['kind']} {item['metadata']['name']}")
    for item in volumes:
        claim = (item.get("spec") or {}).get("claimRef") or {}
        if claim.get("namespace") == space:
            phase = (item.get("status") or {}).get("phase", "unknown")
            found.append(f"PersistentVolume {item['metadata']['name']} {phase}, of claim {claim.get('name', '')}")
    return found


def _names(name: str, space: str) -> bool:
    """Tell whether a name holds the namespace as a part of its own: clearml-red is not meant by clearml-reddish."""
    return f"-{space}-" in f"-{name.replace(':', '-').replace('.', '-')}-"


def route_leftovers(spec: StackSpec, tenant: Tenant, ingresses: Iterable[Obj]) -> list[str]:
    """Return the Ingresses that still serve the tenant's router name, in any namespace."""
    host = router_host(spec, tenant)
    return [
        f"Ingress {item['metadata'].get('namespace', '')}/{item['metadata']['name']} serves {host}"
        for item in ingresses
        if host in [rule.get("host") for rule in (item.get("spec") or {}).get("rules") or ()]
    ]


def left_evidence(tenant: Tenant, where: str, left: Sequence[str] | None, at: datetime, note: str = "") -> Evidence:
    """Return the evidence of one look for leftovers; `left` is None where it could not be looked."""
    titles = {
        "clearml": "Nothing of the tenant is left in ClearML",
        "kubernetes": "Nothing of the tenant is left in Kubernetes, cluster-wide objects too",
        "names": "No Ingress serves the tenant's name",
        "blocks": "No block holds a key pair of the tenant",
    }
    guides = {"clearml": "5.7.2", "kubernetes": "5.8.2", "names": "5.9", "blocks": "5.7.2"}
    return Evidence(
        id=f"tenant/{tenant.name}/left-{where}",
        title=titles[where],
        verdict="unknown" if left is None else "fail" if left else "pass",
        wanted="nothing",
        seen=note if left is None else "; ".join(filter(None, (*left, note))) or "nothing",
        guide=guides[where],
        at=at.isoformat(timespec="seconds"),
        target=tenant.name,
        remedy="Ask for the deletion again; remove by hand what stays." if left or left is None else "",
    )
