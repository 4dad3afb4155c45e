"""Who else may change a cluster's release: two owners fight, so a second one is found and named. Pure.

Signs: RKE2 documentation, automated upgrades; system-upgrade-controller, Plan; Rancher's system agent; Cluster API's
annotations on nodes; Fleet's marks on what it deploys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stackwright.domain.cluster import NodeStatus, Obj
from stackwright.domain.errors import Problem
from stackwright.domain.node_facts import NodeFacts

UPGRADE_IMAGE = "rke2-upgrade"
SYSTEM_AGENT = "rancher-system-agent"
MACHINE_MARKS = ("cluster.x-k8s.io/machine", "rke.cattle.io/machine")
FLEET_MARKS = ("fleet.cattle.io/bundle-id", "fleet.cattle.io/bundle-name", "objectset.rio.cattle.io/owner-name")


def check_owners(
    facts: Mapping[str, NodeFacts], nodes: Mapping[str, NodeStatus], plans: Iterable[Obj], clusters: Iterable[Obj]
) -> list[Problem]:
    """Return each other owner of the cluster's release.

    `plans` are the objects upgrade.cattle.io Plan, `clusters` the objects management.cattle.io Cluster that the cluster
    holds of itself (named `local`).
    """
    return [*_agents(facts), *_machines(nodes), *_plans(plans), *_managed(clusters)]


def _agents(facts: Mapping[str, NodeFacts]) -> Iterator[Problem]:
    for name, seen in facts.items():
        if seen.unit(SYSTEM_AGENT).is_active:
            remedy = "Change the version in Rancher's cluster page: Rancher's agent would bring its own release back."
            what = "Rancher provisions this node"
            yield Problem(name, what, remedy, f"no {SYSTEM_AGENT}", f"{SYSTEM_AGENT} is active")


def _machines(nodes: Mapping[str, NodeStatus]) -> Iterator[Problem]:
    for name, status in nodes.items():
        marks = [mark for mark in MACHINE_MARKS if mark in status.annotations]
        if marks:
            remedy = "Change the version in the Cluster API object that owns the machine, or release the node from it."
            yield Problem(name, "Cluster API owns this node", remedy, "no owner", f"annotation {marks[0]}")


def _plans(plans: Iterable[Obj]) -> Iterator[Problem]:
    for plan in plans:
        meta, spec = plan["metadata"], plan.get("spec") or {}
        if UPGRADE_IMAGE not in str((spec.get("upgrade") or {}).get("image", "")):
            continue
        where = f"Plan {meta.get('namespace', '')}/{meta['name']}"
        wants = spec.get("version") or spec.get("channel") or "no version"
        if fleet := _fleet(meta):
            remedy = f"Take the Plan out of the Fleet bundle {fleet}, and wait until Fleet has removed it."
            yield Problem(where, "Fleet upgrades this cluster by the upgrade controller", remedy, "no Plan", wants)
        else:
            remedy = (
                "Delete the Plan, or switch version management of this cluster off in Rancher. Plans neither skip nor "
                "guard as this flow does, and both at once would restart servers at the same time."
            )
            yield Problem(where, "the upgrade controller upgrades this cluster", remedy, "no Plan", wants)


def _fleet(meta: Mapping[str, Any]) -> str:
    marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    return next((str(marks[mark]) for mark in FLEET_MARKS if mark in marks), "")


def _managed(clusters: Iterable[Obj]) -> Iterator[Problem]:
    for cluster in clusters:
        wants = ((cluster.get("spec") or {}).get("rke2Config") or {}).get("kubernetesVersion")
        if wants:
            remedy = "Switch version management of this cluster off in Rancher, then start again."
            what = "Rancher manages the release of this cluster"
            yield Problem(
                f"Cluster {cluster['metadata']['name']}", what, remedy, "no rke2Config.kubernetesVersion", wants
            )
