"""The flow report-compliance in a process of its own: `python -m tests.flows.compliance_flow FOLDER`, site made up.

It says in JSON how two runs ended: one on a site in which all is well, and one whose hosts do not answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from flows import report_compliance as module
from stackwright.domain import releases
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.compliance_looks import look_evidence
from stackwright.domain.deploy import StackFacts
from stackwright.domain.errors import NodeUnreachableError
from stackwright.domain.hardening import POLICIES
from stackwright.domain.layers.facts import ClusterFacts as LayerFacts
from stackwright.domain.rke2_facts import ClusterFacts
from tasks import compliance as tasks
from tasks.results import keep_evidence
from tests.domain.nodes_seen import member
from tests.reports.compliance_samples import AT, bench, checks, works
from tests.tasks.tenant_site import TenantSite

NO_CA = {"registries": {"ca_file": None}, "artifacts": {"ca_file": None}}
NAMESPACE, SERVICE = "cattle-neuvector-system", "neuvector-svc-controller-api"


def answer(body) -> HttpAnswer:
    return HttpAnswer(200, {}, json.dumps(body).encode())


def dress(place) -> None:
    """Give the cluster what a hardened RKE2 and SUSE Security bring; the benchmark's messages quote a secret."""
    for space, name in POLICIES:
        meta = {"name": name, "namespace": space}
        place.kube.put({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta})
    proof = {"name": "stackwright-proven-storage", "namespace": "longhorn-system"}
    note = {"gates": "volume/readwriteonce volume/readwritemany"}
    made = (AT - timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
    place.kube.put(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**proof, "creationTimestamp": made}, "data": note}
    )
    hosts = [{"name": node.name, "id": f"{node.name}:1"} for node in place.spec.nodes]
    routes = {("POST", "/v1/auth"): {"token": {"token": "planted-session"}}, ("DELETE", "/v1/auth"): {}}
    routes |= {("GET", "/v1/host"): {"hosts": hosts}}
    routes |= {("GET", f"/v1/bench/host/{one['id']}/kubernetes"): bench(one["name"], bad=False) for one in hosts}
    image = {"image": "registry.example/web:1", "image_id": "sha256:1", "status": "finished", "critical": 0, "high": 2,
             "medium": 5, "scanned_timestamp": int(AT.timestamp()) - 3600, "scanner_version": "4.001"}  # fmt: skip
    routes |= {("GET", "/v1/scan/image?start=0&limit=200"): {"images": [image]}}
    routes |= {("GET", "/v2/workload?start=0&limit=200"): {"workloads": []}}
    pod = {"metadata": {"name": "web-0", "namespace": "shop"}, "spec": {"containers": [{"image": image["image"]}]}}
    place.kube.put({"apiVersion": "v1", "kind": "Pod", **pod, "status": {"phase": "Running"}})
    for (method, path), body in routes.items():
        place.kube.services[(NAMESPACE, SERVICE, method, path)] = answer(body)


def main(folder: Path) -> None:
    releases.SECRET_DIGEST_ROUNDS = 1
    given = {("secret-text", "security-admin"): {"value": "planted-admin"}}
    place = TenantSite(folder, layers={"rancher": {"values": {"note": "planted-value"}}}, rke2=NO_CA)
    place.secrets.blocks |= given
    place.clock.at = AT.timestamp()
    spec = place.spec.model_copy(update={"backup": None})
    site = replace(place.site, spec=spec)
    dress(place)
    keep_evidence(site, "validate-stack", [one.evidence for one in works(spec, 3)])
    module.load_site = lambda name: (spec, site)
    facts = StackFacts(
        AT.isoformat(), {node.name: member(spec, node.name) for node in spec.nodes}, ClusterFacts(), LayerFacts(AT)
    )

    async def reads(asked):
        return facts

    async def sees(asked, *, light):
        return checks(spec, bad=False)

    def all_done(spec, facts, why, at):
        found = look_evidence(spec, None, why, at)
        return [one if one.verdict == "skipped" else replace(one, verdict="pass", seen="as wanted") for one in found]

    async def unreachable(asked):
        raise NodeUnreachableError("the node does not answer", where="srv1")

    tasks.read_stack, tasks.validate_site, tasks.look_evidence = reads, sees, all_done
    good = asyncio.run(module.report_compliance("lab", return_state=True))
    tasks.read_stack, tasks.look_evidence = unreachable, look_evidence
    bad = asyncio.run(module.report_compliance("lab", return_state=True))
    told = [{"type": end.type.value, "name": end.name, "message": end.message} for end in (good, bad)]
    sys.stdout.write("\n" + json.dumps({"runs": told}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
