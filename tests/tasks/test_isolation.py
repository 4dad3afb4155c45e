"""Isolation proved on a served cluster that enforces network policies, quotas and roles; and every way it fails."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from stackwright.clients.kube import Kube
from stackwright.clients.site import Site, SystemClock
from stackwright.domain.errors import FencedError
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_isolation import (
    PROBE_PREFIX,
    Target,
    judge_network,
    judge_quota,
    probe_job,
    read_probe,
    spaces_to_ask,
)
from stackwright.domain.tenant_objects import limits, namespace, network, quota
from stackwright.domain.tenant_record import TenantRecord
from stackwright.lab.kube.alone import kube_alone
from tasks.isolation import look_access, look_network, remove_probes, try_network
from tasks.tenant_proof import prove_apart
from tasks.tenant_register import write_record
from tests.domain.layers.sites import lab_document
from tests.tasks.layer_site import FakeLease
from tests.tasks.tenant_site import TenantSite

CLUSTER_WIDE = "rbac.authorization.k8s.io"


def workload(name, space, port, *, release=""):
    marks = {"app": name}
    container = {
        "name": "main", "image": f"lab/{name}:1", "ports": [{"containerPort": port}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
    }  # fmt: skip
    meta = {"name": name, "namespace": space, "annotations": {"meta.helm.sh/release-name": release}}
    spec = {"selector": {"matchLabels": marks}, "template": {"metadata": {"labels": marks}}}
    spec["template"]["spec"] = {"containers": [container]}
    served = {"selector": marks, "ports": [{"port": port, "targetPort": port}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": space}, "spec": served},
    ]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Two tenants with an agent and a router each, ClearML's API and a database, and Rancher."""
    spec = StackSpec.model_validate(lab_document())
    red, blue = spec.tenants[:2]
    with kube_alone(tmp_path_factory.mktemp("kube")) as cluster:
        kube = Kube(cluster.kubeconfig)
        for name in ("clearml", "cattle-system"):
            kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for tenant in (red, blue):
            for item in (namespace(spec, tenant), quota(spec, tenant), limits(spec, tenant), *network(spec, tenant)):
                kube.apply(item.manifest)
        items = [
            *workload("clearml-enterprise-apiserver", "clearml", 8008),
            *workload("clearml-enterprise-elasticsearch", "clearml", 9200),
            *workload("rancher", "cattle-system", 443),
        ]
        for tenant in (red, blue):
            items += workload("agent", tenant.namespace, 8080, release="clearml-enterprise-agent")
            items += workload("router", tenant.namespace, 80, release="clearml-app-gateway")
        for item in items:
            kube.apply(item)
        for space in ("clearml", "cattle-system", red.namespace, blue.namespace):
            for found in kube.list("apps/v1", "Deployment", space):
                ready(kube, found["metadata"]["name"], space)
        site = Site(
            spec=spec, secrets=None, shells=None, kube=lambda: kube, helm=None, clearml=None, workdir=None,
            clock=SystemClock(),
        )  # fmt: skip
        quick = spec.model_copy(update={"rke2": spec.rke2.model_copy(update={"poll_s": 0.05})})
        yield SimpleNamespace(
            cluster=cluster, kube=kube, site=dataclasses.replace(site, spec=quick), red=red, blue=blue
        )
        kube.close()


def ready(kube, name, space):
    def check(seen):
        subsets = seen[0].get("subsets", ()) if seen else ()
        return True if any(part.get("addresses") for part in subsets) else None

    kube.wait("v1", "Endpoints", check, ns=space, name=name, timeout_s=20, what="endpoints")


def verdicts(found):
    return {check.id.rsplit("/", 1)[1]: (check.verdict, check.seen) for check in found}


def test_apart_as_onboarded_everything_passes_and_nothing_is_left(ground):
    """Other tenant, platform, quota and account are all refused, and no Job or pod of the probe stays."""
    found = [*look_access(ground.site, ground.red), *look_network(ground.site, ground.red)]
    assert {check.verdict for check in found} == {"pass"}, verdicts(found)
    assert {check.guide for check in found} == {"5.8.2", "5.8.3"}
    assert all(check.stand_in for check in found)
    jobs = [item["metadata"]["name"] for item in ground.kube.list("batch/v1", "Job", ground.red.namespace)]
    assert not [name for name in jobs if name.startswith(PROBE_PREFIX)]
    assert ground.kube.get("v1", "Pod", f"{PROBE_PREFIX}cpu", ground.red.namespace) is None


def test_the_probe_tries_services_and_pods_of_both_sides(ground):
    reached = try_network(ground.site, ground.red)
    names = {(target.side, target.name) for target in reached}
    assert ("control", "clearml/clearml-enterprise-apiserver") in names
    assert {("tenant", "clearml-blue/router"), ("platform", "cattle-system/rancher")} <= names
    assert ("platform", "clearml/clearml-enterprise-elasticsearch") in names
    assert any(side == "tenant" and name.startswith("clearml-blue/agent-") for side, name in names)
    assert not [name for _, name in names if name.startswith(("clearml-red/", "kube-system/"))]


@pytest.fixture
def policy(ground):
    """Take a policy away, and put it back after the test."""
    taken = []

    def take(space, name):
        found = ground.kube.get("networking.k8s.io/v1", "NetworkPolicy", name, space)
        taken.append(found)
        ground.kube.delete("networking.k8s.io/v1", "NetworkPolicy", name, space)

    yield take
    for found in taken:
        meta = {key: found["metadata"][key] for key in ("name", "namespace", "labels")}
        ground.kube.create({key: found[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": meta})


def open_all(ground, space, kind):
    spec = {"podSelector": {}, "policyTypes": [kind], kind.lower(): [{}]}
    meta = {"name": f"open-{kind.lower()}", "namespace": space}
    ground.kube.create({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec})
    return lambda: ground.kube.delete("networking.k8s.io/v1", "NetworkPolicy", meta["name"], space)


def test_a_policy_that_opens_the_way_out_is_found_by_the_platforms_services(ground):
    """The other tenant still keeps its own door shut; Rancher and the database have none."""
    close = open_all(ground, ground.red.namespace, "Egress")
    try:
        found = verdicts(look_network(ground.site, ground.red))
    finally:
        close()
    assert (
        found["isolation-platform"][0] == "fail"
        and "cattle-system/rancher:443 (open)" in found["isolation-platform"][1]
    )
    assert found["isolation-network"][0] == "pass"


def test_a_tenant_that_is_open_on_both_sides_is_found(ground):
    closes = [open_all(ground, ground.red.namespace, "Egress"), open_all(ground, ground.blue.namespace, "Ingress")]
    try:
        found = verdicts(look_network(ground.site, ground.red))
    finally:
        for close in closes:
            close()
    assert found["isolation-network"][0] == "fail"
    assert "clearml-blue/router:80 (open)" in found["isolation-network"][1]
    assert "(refused)" in found["isolation-network"][1]  # a pod that was reached where nothing listens


def test_a_pod_that_reaches_nothing_at_all_proves_nothing(ground, policy):
    """Without the way to ClearML's API silence is no proof: the check is unknown, not passed."""
    policy(ground.red.namespace, "allow-clearml")
    found = verdicts(look_network(ground.site, ground.red))
    assert {verdict for verdict, _ in found.values()} == {"unknown"}
    assert "proves nothing" in found["isolation-network"][1]


def test_without_a_quota_the_pod_beyond_it_is_let_in_and_the_check_fails(ground):
    item = quota(ground.site.spec, ground.red).manifest
    ground.kube.delete("v1", "ResourceQuota", "tenant-quota", ground.red.namespace)
    try:
        found = verdicts(look_access(ground.site, ground.red))
    finally:
        ground.kube.apply(item)
    assert found["isolation-quota"][0] == "fail" and "cpu" in found["isolation-quota"][1]
    assert ground.kube.list("v1", "Pod", ground.red.namespace, label_selector="app.kubernetes.io/managed-by=x") == []


def bind(ground, name, role, *, space=""):
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": ground.red.namespace}
    meta = {"name": name, **({"namespace": space} if space else {})}
    kind = "RoleBinding" if space else "ClusterRoleBinding"
    ground.kube.create({
        "apiVersion": f"{CLUSTER_WIDE}/v1", "kind": kind, "metadata": meta, "subjects": [subject],
        "roleRef": {"apiGroup": CLUSTER_WIDE, "kind": "ClusterRole", "name": role},
    })  # fmt: skip
    return lambda: ground.kube.delete(f"{CLUSTER_WIDE}/v1", kind, name, space or None)


@pytest.mark.parametrize(
    ("role", "space", "seen"),
    [
        ("cluster-admin", "", "create clusterrolebindings cluster-wide"),
        ("edit", "clearml-blue", "get secrets in clearml-blue"),
        ("view", "kube-system", "list pods in kube-system"),
    ],
)
def test_rights_outside_the_namespace_are_found(ground, role, space, seen):
    drop = bind(ground, "too-much", role, space=space)
    try:
        found = verdicts(look_access(ground.site, ground.red))
    finally:
        drop()
    assert found["isolation-account"][0] == "fail" and seen in found["isolation-account"][1]


def test_rights_in_a_namespace_that_no_tenant_has_are_found_by_their_binding(ground):
    """It is asked for because a RoleBinding there names the account, or a group of every account."""
    for subject in (
        {"kind": "ServiceAccount", "name": "default", "namespace": ground.red.namespace},
        {"kind": "Group", "name": "system:serviceaccounts", "apiGroup": CLUSTER_WIDE},
    ):
        meta = {"name": "stray", "namespace": "cattle-system"}
        role = {"apiGroup": CLUSTER_WIDE, "kind": "ClusterRole", "name": "edit"}
        kind = {"apiVersion": f"{CLUSTER_WIDE}/v1", "kind": "RoleBinding"}
        ground.kube.create({**kind, "metadata": meta, "subjects": [subject], "roleRef": role})
        try:
            found = verdicts(look_access(ground.site, ground.red))
        finally:
            ground.kube.delete(kind["apiVersion"], kind["kind"], "stray", "cattle-system")
        assert found["isolation-account"][0] == "fail" and "in cattle-system" in found["isolation-account"][1]


def test_of_many_tenants_a_few_are_asked_for_each_by_some():
    """The questions do not grow with the number of pairs, and nobody is left out by all."""
    tenants = [Tenant(name=f"t{number:02}", admin_email="a@b.example") for number in range(30)]
    spaces = [one.namespace for one in tenants]
    asked = [spaces_to_ask(one, "default", set(spaces) - {one.namespace}, ()) for one in tenants]
    assert {len(found) for found in asked} == {8}
    assert all(one.namespace not in found for one, found in zip(tenants, asked, strict=True))
    assert set().union(*asked) >= set(spaces)


def test_a_probe_that_a_dead_run_has_left_is_removed(ground):
    """And nothing else of the namespace is."""
    ground.kube.create(probe_job(ground.red, f"{PROBE_PREFIX}dead01", "lab/agent:1", (API,)))
    own = probe_job(ground.red, "theirs", "lab/agent:1", (API,))
    own["metadata"]["labels"] = {}
    ground.kube.create(own)
    try:
        remove_probes(ground.site, ground.red)
        left = [item["metadata"]["name"] for item in ground.kube.list("batch/v1", "Job", ground.red.namespace)]
        assert left == ["theirs"]
    finally:
        ground.kube.delete("batch/v1", "Job", "theirs", ground.red.namespace)


def test_rights_inside_the_namespace_are_its_own_matter(ground):
    drop = bind(ground, "own", "edit", space=ground.red.namespace)
    try:
        found = verdicts(look_access(ground.site, ground.red))
    finally:
        drop()
    assert found["isolation-account"][0] == "pass"


def test_a_tenant_without_an_agent_is_unknown(ground):
    """Where there is no agent, neither its account nor its image is known: nothing passes."""
    nobody = ground.red.model_copy(update={"name": "nobody"})
    found = verdicts([*look_access(ground.site, nobody), *look_network(ground.site, nobody)])
    assert found["isolation-account"][0] == found["isolation-network"][0] == "unknown"


def test_a_probe_that_dies_is_unknown_and_removed(ground):
    """A probe whose program failed says nothing; its Job is gone all the same."""
    ground.cluster.do(lambda: ground.cluster.state.broken_images.add("lab/agent:1"))
    quick = ground.site.clock
    try:
        began = quick.now()
        late = SimpleNamespace(now=lambda: began + 1000 * (quick.now() - began), wait=quick.wait)
        found = verdicts(look_network(dataclasses.replace(ground.site, clock=late), ground.red))
    finally:
        ground.cluster.do(lambda: ground.cluster.state.broken_images.discard("lab/agent:1"))
    assert {verdict for verdict, _ in found.values()} == {"unknown"}
    assert ground.kube.list("batch/v1", "Job", ground.red.namespace) == []


def test_a_new_tenant_is_tried_by_everything_that_can_be_tried(ground, tmp_path):
    """The proof before `ready`: access, another tenant's key, the network; beside tenants at rest alone."""
    place = TenantSite(tmp_path)
    for name in ("blue", "red"):
        place.bring(name)
    site = dataclasses.replace(place.site, kube=lambda: ground.kube, clock=ground.site.clock)
    half = ground.blue.model_copy(update={"name": "half", "admin_email": "admin@half.example"})
    write_record(site, TenantRecord(site="lab", wanted=half, state="onboarding"), place.lease)
    found = {check.id.split("/", 2)[2]: check for check in prove_apart(site, ground.red, place.lease)}
    assert {name: check.verdict for name, check in found.items()} == {
        "isolation-quota": "pass", "isolation-account": "pass", "isolation-system": "pass",
        "isolation-network": "pass", "isolation-platform": "pass",
        "isolation-queues/blue": "pass", "isolation-tasks/blue": "skipped",
    }  # fmt: skip
    with pytest.raises(FencedError):  # whoever has lost the lease starts no pod
        prove_apart(site, ground.red, FakeLease(0))


# --- what an outcome means -------------------------------------------------------------------------------------------

API, OTHER = Target("control", "clearml/api", "10.0.0.1", 8008), Target("tenant", "clearml-blue/x", "10.0.0.2", 80)


@pytest.mark.parametrize(
    ("control", "other", "verdict"),
    [
        ("open", "silent", "pass"), ("open", "open", "fail"), ("open", "refused", "fail"),
        ("silent", "silent", "unknown"), ("refused", "silent", "unknown"),
    ],
)  # fmt: skip
def test_only_silence_beside_an_open_control_passes(control, other, verdict):
    assert judge_network("tenant", {API: control, OTHER: other}).verdict == verdict


def test_no_target_is_skipped_and_no_control_is_unknown():
    assert judge_network("tenant", {API: "open"}).verdict == "skipped"
    assert judge_network("tenant", {OTHER: "silent"}).verdict == "unknown"


def test_another_reason_of_refusal_proves_no_quota():
    assert judge_quota({"cpu": "403 Forbidden: violates PodSecurity"}).verdict == "unknown"
    assert judge_quota({"cpu": "exceeded quota: x", "gpus": ""}).verdict == "fail"


def test_a_log_without_an_answer_is_none():
    assert read_probe("Traceback (most recent call last)", [API]) is None
    assert read_probe('x\nPROBED ["open"]\n', [API]) == {API: "open"}
