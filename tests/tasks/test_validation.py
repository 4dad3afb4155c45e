"""Validation against fakes: a good platform passes, each defect is found, what cannot be read is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain import work_platform
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiUnavailableError
from stackwright.domain.evidence import passed
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.validation import CATALOGUE
from tasks import validation, work_clearml, work_route
from tasks.validation import (
    look_cluster,
    look_isolation,
    look_layers,
    look_server,
    look_tenant,
    stages,
    validate,
)
from tasks.work_clearml import run_training
from tests.tasks.tenant_site import TenantSite

ELSEWHERE = ("layers", "access-", "network-", "platform-")
QUOTA = ("v1", "ResourceQuota", "clearml-red", "tenant-quota")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A site with both tenants up, whose public names answer."""
    place = TenantSite(tmp_path)
    place.bring("red")
    place.bring("blue")
    place.answers = {}
    for module in (validation, work_clearml, work_route):
        monkeypatch.setattr(module, "public_get", lambda site, url, headers=None: _answer(place, url, headers or {}))
    for node in place.spec.nodes:
        _dress(place, node)
    return place


PAGE = b'<title>ClearML</title><script src="main.js"></script>'


def _answer(place, url, headers):
    """The web app's page and script; a gateway that leads to a job while it is there, for a login."""
    outcome = place.answers.get(url.split("//")[1].split(".")[0], 200)
    if isinstance(outcome, Exception):
        raise outcome
    if "/service/" in url:
        task = url.rsplit("/", 1)[1]
        there = any(found.id == task for tasks in place.server.tasks.values() for found in tasks)
        return HttpAnswer(200, {}, task.encode()) if there and "Cookie" in headers else HttpAnswer(401, {})
    return HttpAnswer(outcome, {}, PAGE)


def _dress(place, node):
    """Give a fake node what its kubelet and RKE2 would report."""
    obj = place.kube.objects[("v1", "Node", "", node.name)]
    obj["status"] |= {
        "nodeInfo": {"kubeletVersion": place.spec.rke2.version},
        "allocatable": {"nvidia.com/gpu": str(node.gpu.count)} if node.gpu else {},
        "conditions": [{"type": name, "status": "True"} for name in ("Ready", "EtcdIsVoter")],
    }


def verdicts(evidence):
    return {check.id: check.verdict for check in evidence}


def without_layers(place, light):
    """Look at all but the layers' own gates and what test_isolation and test_work_platform have clusters for."""
    found = []
    for stage in stages(place.spec, light):
        for group in stage:
            found += [] if group.name.startswith(ELSEWHERE) else group.look(place.site)
    return found


def test_a_good_platform_passes_every_check(place):
    """All checks of the catalogue are looked at, each passes or says why it is skipped, and the values are told."""
    evidence = without_layers(place, light=False)
    assert {check.verdict for check in evidence} == {"pass", "skipped"}
    assert {check.id for check in evidence if check.verdict == "skipped"} == {
        "workload/red/spill-over",
        "workload/blue/spill-over",
        "workload/blue/fine-tune",
        "workload/red/fine-tune-run",
        "workload/blue/fine-tune-run",
    }
    assert passed(evidence)
    looked_at = {
        "/".join((check.id.split("/")[0], check.id.split("/")[2 if check.target else 1])) for check in evidence
    }
    elsewhere = {
        *(check.id for check in work_platform.CHECKS),
        "tenant/last-work",
        "tenant/records",
        *(f"tenant/isolation-{name}" for name in ("network", "platform", "quota", "account")),
    }
    assert looked_at == {check.id for check in CATALOGUE} - elsewhere
    assert all(check.seen and check.stand_in for check in evidence)


def test_the_light_form_only_reads(place):
    """Nothing is written to ClearML or the cluster, and no workload check is made."""
    before = [*place.server.journal, *place.kube.journal, *place.helm.journal]
    evidence = without_layers(place, light=True)
    assert [*place.server.journal, *place.kube.journal, *place.helm.journal] == before
    assert not [check for check in evidence if check.id.startswith("workload/")]


def test_layers_are_looked_at_through_their_gates(place):
    """Every gate that changes nothing gives one piece of evidence, and a layer that is not there does not pass."""
    evidence = look_layers(place.site)
    assert {check.id.split("/")[1] for check in evidence} >= {"cert_manager", "storage", "clearml", "gpu_operator"}
    assert not passed(evidence)
    place.site = replace(place.site, kube=_broken)
    assert {check.verdict for check in look_layers(place.site)} == {"unknown"}


def _broken():
    raise ApiUnavailableError("the API server does not answer", where="k8s.lab.test", seen="refused")


def test_an_api_server_that_is_silent_leaves_the_cluster_unknown(place):
    """What cannot be read is unknown, with the reason; it neither passes nor fails."""
    place.site = replace(place.site, kube=_broken)
    evidence = look_cluster(place.site)
    assert verdicts(evidence) == dict.fromkeys(
        ("cluster/nodes", "cluster/versions", "cluster/voters", "cluster/gpus"), "unknown"
    )
    assert all("refused" in check.seen and check.remedy for check in evidence)


def test_public_names_are_measured(place):
    """Each of the three names has its own verdict and time."""
    place.answers = {"files": 502, "app": ApiUnavailableError("the public name does not answer", seen="timed out")}
    found = {check.id: check for check in look_server(place.site)}
    assert verdicts(found.values()) == {
        "clearml/app": "unknown", "clearml/api": "pass", "clearml/files": "fail", "clearml/health": "pass",
        "clearml/ui": "unknown", "clearml/login-modes": "pass",
    }  # fmt: skip
    assert "ms" in found["clearml/api"].seen and "timed out" in found["clearml/app"].seen


@pytest.mark.parametrize(
    ("defect", "failed"),
    [
        (lambda p, c: p.server.queues[c].pop(1), {"tenant/red/queue/gpu", "tenant/red/worker/gpu"}),
        (lambda p, c: p.server.workers[c].clear(), {"tenant/red/worker/gpu", "tenant/red/worker/default"}),
        (lambda p, c: p.server.routers[c].clear(), {"tenant/red/router"}),
        (lambda p, c: setattr(p.clock, "at", p.clock.at + 3600), {"tenant/red/router"}),
        (lambda p, c: p.server.usages.update({c: []}), {"tenant/red/capacity"}),
        (lambda p, c: p.kube.objects[QUOTA]["spec"]["hard"].update(pods="9"), {"tenant/red/quota"}),
    ],
)  # fmt: skip
def test_each_defect_of_a_tenant_is_found(place, defect, failed):
    """A platform with one thing wrong fails exactly the checks about it."""
    defect(place, place.server.companies[0].id)
    evidence = look_tenant(place.site, place.tenant("red"))
    assert {check.id for check in evidence if check.verdict != "pass"} == failed


def test_a_revoked_key_fails_the_login_and_leaves_the_rest_unknown(place):
    """Without a login nothing else of the tenant can be judged."""
    place.server.keys.clear()
    found = verdicts(look_tenant(place.site, place.tenant("red")))
    assert found.pop("tenant/red/login") == "fail"
    assert found.pop("tenant/red/quota") == found.pop("tenant/red/name") == "pass"
    assert set(found.values()) == {"unknown"}


def test_a_tenant_that_sees_another_one_fails(place):
    """When both blocks hold keys of one company, isolation is broken and said to be."""
    run_training(place.site, place.tenant("blue"))
    good = look_isolation(place.site, place.tenant("red"))
    assert {check.verdict for check in good} == {"pass"}
    place.secrets.blocks[("api-key", "clearml-tenant-red")] = place.secrets.blocks[("api-key", "clearml-tenant-blue")]
    found = verdicts(look_isolation(place.site, place.tenant("red")))
    assert found["tenant/red/isolation-queues/blue"] == found["tenant/red/isolation-tasks/blue"] == "fail"


def test_a_platform_key_in_a_tenants_block_is_found(place):
    """A key that may list companies is no tenant's key."""
    place.secrets.blocks[("api-key", "clearml-tenant-red")] = place.secrets.blocks[("api-key", "clearml-supervisor")]
    assert verdicts(look_isolation(place.site, place.tenant("red")))["tenant/red/isolation-system"] == "fail"


def test_isolation_without_a_task_to_ask_for_is_skipped(place):
    """No task, no proof: the check says so."""
    assert verdicts(look_isolation(place.site, place.tenant("red")))["tenant/red/isolation-tasks/blue"] == "skipped"


def test_the_first_tenant_has_nobody_to_be_kept_from(place):
    """While no other tenant is onboarded, isolation between tenants is skipped, and the rest is checked."""
    place.secrets.blocks.pop(("api-key", "clearml-tenant-blue"))
    found = verdicts(look_isolation(place.site, place.tenant("red")))
    assert list(found.values()) == ["skipped", "skipped", "pass"]


def test_a_silent_server_proves_no_isolation(place):
    """No answer is not a refusal."""
    place.server.down = True
    assert {check.verdict for check in look_isolation(place.site, place.tenant("red"))} == {"unknown"}


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        ({"status": "failed", "status_reason": "worker lost"}, {"done": "fail", "loss": "unknown"}),
        ({"status": "in_progress"}, {"done": "fail", "loss": "unknown"}),
        ({"status": "completed", "artifacts": ("model",)}, {"done": "pass", "loss": "fail", "accuracy": "fail"}),
    ],
)
def test_a_training_that_did_not_learn_does_not_pass(place, outcome, verdict):
    """A task that fails, never ends, or reports nothing is told apart."""
    place.server.outcome = outcome
    found = verdicts(run_training(place.site, place.tenant("red")))
    assert {name: found[f"workload/red/{name}"] for name in verdict} == verdict


def test_validate_runs_all_stages_and_keeps_their_order(place):
    """The plain form returns evidence of cluster, layers, ClearML, tenants and isolation, without a flow around it."""
    evidence = validate(place.site, True)
    areas = list(dict.fromkeys(check.id.split("/")[0] for check in evidence))
    assert areas == ["cluster", "layer", "platform", "clearml", "tenant"]
    assert evidence[-1].id == "tenant/blue/isolation-system"


def test_without_clearml_only_cluster_and_layers_are_looked_at(tmp_path):
    """A site without the ClearML layer has nothing to log in to."""
    off = {"validation": {"platform": False}}
    spec = TenantSite(tmp_path, layers={"clearml": {"enabled": False}}, tenants=[], **off).spec
    assert [group.name for stage in stages(spec, light=False) for group in stage] == ["cluster", "layers"]


def test_tenants_that_were_asked_for_are_looked_at_while_they_are_at_rest(place, monkeypatch):
    """One that a request is at work on is not judged; where no record can be read the site file's are."""
    wanted = place.tenant("red").model_copy(update={"name": "asked", "admin_email": "a@asked.example"})
    record = TenantRecord(site="lab", wanted=wanted, state="ready")
    seen = {}
    for state in ("ready", "suspended", "changing", "archived"):
        monkeypatch.setattr(validation, "read_records", lambda site, s=state: (record.model_copy(update={"state": s}),))
        whole, (evidence,) = validation.with_asked(place.site)
        seen[state] = "asked" in [tenant.name for tenant in whole.spec.tenants]
        assert (evidence.id, evidence.verdict) == ("tenant/records", "pass")
    assert seen == {"ready": True, "suspended": True, "changing": False, "archived": False}

    def down(site):
        raise ApiUnavailableError("no answer", where="api")

    monkeypatch.setattr(validation, "read_records", down)
    whole, (evidence,) = validation.with_asked(place.site)
    assert whole is place.site
    assert (evidence.verdict, evidence.must, evidence.seen) == ("unknown", True, "no answer")


def test_a_tenant_that_is_held_fails_the_site(place, monkeypatch):
    """It is not apart from others: the platform has to be mended, and nothing else would say so."""
    record = TenantRecord(site="lab", wanted=place.tenant("red"), state="held")
    monkeypatch.setattr(validation, "read_records", lambda site: (record,))
    _, (evidence,) = validation.with_asked(place.site)
    assert (evidence.verdict, evidence.seen) == ("fail", "held, for it is not apart from others: red")


def test_without_clearml_no_record_is_asked_for(tmp_path, monkeypatch):
    place = TenantSite(tmp_path, layers={"clearml": {"enabled": False}}, tenants=[])
    monkeypatch.setattr(validation, "read_records", None)
    assert validation.with_asked(place.site) == (place.site, [])


def test_nothing_is_asked_of_a_suspended_tenant(place):
    """Its agent and gateway are gone on purpose: only the others have checks."""
    red, blue = place.tenant("red"), place.tenant("blue")
    spec = place.spec.model_copy(update={"tenants": (red.model_copy(update={"suspended": True}), blue)})
    names = [group.name for stage in stages(spec, False) for group in stage]
    assert not [name for name in names if name.endswith("-red")] and "network-blue" in names
