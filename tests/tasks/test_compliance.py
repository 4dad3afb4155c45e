"""Reading what a compliance report stands on, and keeping last results, against fakes and a real object store."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from stackwright.clients.store import StoreUnreachableError
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiError, ApiUnavailableError
from stackwright.domain.evidence import Evidence
from stackwright.domain.hardening import POLICIES
from stackwright.lab.operators import World
from stackwright.lab.operators.benchmarks import Benchmarks
from tasks import compliance, results
from tasks.capacity_history import FolderHistory, StoreHistory
from tasks.compliance import read_hardening, read_images, read_scans
from tasks.results import keep_evidence, kept_results
from tests.store_server import running_store
from tests.tasks.layer_site import FakeSite
from tests.tasks.security_site import SecuritySite
from tests.tasks.stored_bundle import site_with_store

NAMESPACE = "cattle-neuvector-system"
VOLUMES = {"layer/storage/volume/readwriteonce", "layer/storage/volume/readwritemany"}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setenv("STACKWRIGHT_REPORTS", str(tmp_path / "reports"))
    place = FakeSite(tmp_path, {("secret-text", "security-admin"): {"value": "planted-admin"}})
    place.site = replace(place.site, spec=place.spec.model_copy(update={"backup": None}))
    return place


# --- SUSE Security's answers, as the stand-in gives them -------------------------------------------------------------


class Cluster:
    """Just enough of a cluster for the stand-in: nodes, and an enforcer on some of them."""

    def __init__(self, *enforced: str, **profiles: str) -> None:
        self.enforced = enforced
        self.nodes = [_node(name, profile) for name, profile in profiles.items()]

    def each(self, kind):
        if kind == "Node":
            return self.nodes
        meta = {"namespace": NAMESPACE, "labels": {"app": "neuvector-enforcer-pod"}}
        return [{"metadata": meta, "spec": {"nodeName": name}} for name in self.enforced] if kind == "Pod" else []


def _node(name, profile):
    role = "server" if name.startswith("srv") else "agent"
    args = json.dumps([role, "--node-name", name, *(["--profile", profile] if profile else [])])
    meta = {"name": name, "annotations": {"rke2.io/node-args": args}}
    return {"metadata": meta, "status": {"nodeInfo": {"machineID": f"m-{name}"}}}


def served(fake, monkeypatch, cluster):
    """Let the fake cluster's service answer by the stand-in; return what was asked."""
    stand_in = Benchmarks(World(cluster, {}.get, None), NAMESPACE, {})
    asked = []

    def call(method, path):
        asked.append((method, path))
        status, _, body = stand_in.answer(method, path) or (404, {}, b"{}")
        return HttpAnswer(status, {}, body)

    @contextmanager
    def session(*_):
        yield call

    monkeypatch.setattr(compliance, "admin_session", session)
    return stand_in, asked


def test_every_node_that_an_enforcer_told_of_is_read(fake, monkeypatch):
    _, asked = served(fake, monkeypatch, Cluster("srv1", "wrk1", srv1="cis", wrk1="", wrk2=""))
    scans, why = read_scans(fake.site)
    assert why == "" and [(scan.node, scan.benchmark) for scan in scans] == [
        ("srv1", "cis-rke2-1.8.0"), ("wrk1", "cis-rke2-1.8.0")
    ]  # fmt: skip
    assert not scans[0].levels.get("WARN") and scans[0].levels["MANUAL"] == 1, "the profile is in force"
    assert [one.number for one in scans[1].findings] == ["K.4.2.6"], "this one runs without it"
    assert {method for method, _ in asked} == {"GET"}, "nothing is started"


def test_a_report_that_is_being_made_is_unknown_in_the_products_words(fake, monkeypatch):
    stand_in, _ = served(fake, monkeypatch, Cluster("srv1", srv1="cis"))
    assert stand_in.answer("POST", "/v1/bench/host/srv1:m-srv1/kubernetes")[0] == 200
    (scan,), _ = read_scans(fake.site)
    assert scan.why == "the report of the node answers 500: Benchmark is running"
    (again,), _ = read_scans(fake.site)
    assert not again.why


REFUSED = [
    ("GET", "/v1/bench/host/nobody:1/kubernetes", 404, 7),
    ("GET", "/v1/bench/host/srv1:m-srv1/docker", 500, 23),
    ("POST", "/v1/bench/host/srv2:m-srv2/kubernetes", 404, 7),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), REFUSED)
def test_the_stand_in_refuses_as_the_product_does(method, path, status, code):
    """An unknown host, Docker under RKE2, and a node without an enforcer."""
    stand_in = Benchmarks(World(Cluster("srv1", srv1="", srv2=""), {}.get, None), NAMESPACE, {})
    seen, _, body = stand_in.answer(method, path)
    assert (seen, json.loads(body)["code"]) == (status, code) and json.loads(body)["message"]


def test_the_stand_in_leaves_other_paths_to_others():
    stand_in = Benchmarks(World(Cluster(), {}.get, None), NAMESPACE, {})
    assert (
        stand_in.answer("GET", "/v1/enforcer") is None and stand_in.answer("DELETE", "/v1/bench/host/a/docker") is None
    )


def test_a_session_that_cannot_be_had_is_the_reason_for_no_scan(fake):
    """No such Service; then no block with the password; then an answer that is an error."""
    scans, why = read_scans(fake.site)
    assert scans == () and "there is no such object" in why
    fake.secrets.remove("secret-text", "security-admin")
    assert "security-admin" in read_scans(fake.site)[1] and "planted" not in read_scans(fake.site)[1]


def test_a_list_of_nodes_that_is_refused_is_the_reason(fake, monkeypatch):
    @contextmanager
    def session(*_):
        yield lambda method, path: HttpAnswer(403, {}, b'{"code":25,"error":"Object access denied","message":"x"}')

    monkeypatch.setattr(compliance, "admin_session", session)
    assert read_scans(fake.site) == ((), "the list of nodes answers 403: x")


# --- the cluster's own state -----------------------------------------------------------------------------------------


def note(gates, made="2026-05-01T10:00:00Z"):
    meta = {"name": "stackwright-proven-storage", "namespace": "longhorn-system", "creationTimestamp": made}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"gates": gates}}


def proofs(fake):
    return {one.id: one for one in read_hardening(fake.site)[2] if one.id in VOLUMES}


def test_policies_and_proofs_are_read(fake):
    for space, name in (*POLICIES, ("kube-system", "other")):
        meta = {"name": name, "namespace": space}
        fake.kube.put({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta})
    fake.kube.put(note("volume/readwriteonce volume/readwritemany"))
    policies, why, _ = read_hardening(fake.site)
    assert policies is not None and policies > frozenset(POLICIES) and why == ""
    assert {(one.verdict, one.at) for one in proofs(fake).values()} == {("pass", "2026-05-01T10:00:00Z")}


def test_without_the_note_nothing_was_proved_by_work(fake):
    assert {one.verdict for one in proofs(fake).values()} == {"fail"} and proofs(fake).keys() == VOLUMES
    fake.kube.put(note("volume/readwriteonce"))
    assert {name: one.verdict for name, one in proofs(fake).items()} == {
        "layer/storage/volume/readwriteonce": "pass", "layer/storage/volume/readwritemany": "fail"
    }  # fmt: skip


def test_what_the_cluster_does_not_say_is_unknown(fake, monkeypatch):
    def refused(*_, **__):
        raise ApiUnavailableError("the API server does not answer", where="https://api")

    monkeypatch.setattr(fake.kube, "list", refused)
    monkeypatch.setattr(fake.kube, "get", refused)
    policies, why, found = read_hardening(fake.site)
    assert policies is None and "does not answer" in why
    assert {one.verdict for one in found} == {"unknown"}


# --- last results ----------------------------------------------------------------------------------------------------


def evidence(name, days=0.0, verdict="pass", **more):
    at = datetime.fromtimestamp(1_780_000_000, UTC) - timedelta(days=days)
    return Evidence(name, name, verdict, "w", "s", "6", at.isoformat(), **more)


def kept(site):
    found, _, _ = kept_results(site)
    return {one.evidence.id: (one.evidence.verdict, one.source) for one in found}


def test_a_light_run_leaves_what_a_full_one_has_proved(fake):
    keep_evidence(fake.site, "validate-stack", [evidence("workload/red/done", 2), evidence("clearml/api", 2)])
    keep_evidence(fake.site, "validate-stack", [evidence("clearml/api", verdict="fail")])
    found = kept(fake.site)
    assert found["workload/red/done"][0] == "pass" and found["clearml/api"][0] == "fail"
    assert found["clearml/api"][1].startswith("validate-stack of 2026-05-28")


def test_kept_twice_is_kept_once_and_what_is_a_year_old_is_dropped(fake):
    for _ in range(2):
        keep_evidence(fake.site, "validate-stack", [evidence("a"), evidence("old", days=400)])
    found, where, unread = kept_results(fake.site)
    assert [one.evidence.id for one in found] == ["a"] and not unread
    assert "this controller only" in where and "reports" in where


def test_what_a_lab_finds_is_kept_as_a_stand_ins(fake):
    """Also where the evidence names no product, as a drill's."""
    keep_evidence(fake.site, "drill-restore", [evidence("drill/rto"), evidence("cluster/nodes", stand_in="RKE2")])
    assert [one.evidence.stand_in for one in kept_results(fake.site)[0]] == [results.FOREIGN, "RKE2"]


def test_nothing_is_written_for_a_run_without_results(fake, tmp_path):
    keep_evidence(fake.site, "plan-stack", [])
    assert not list((tmp_path / "results").glob("*"))


def test_the_reports_on_this_controller_are_read_and_a_torn_one_is_named(fake, tmp_path):
    head = {"flow": "validate-stack", "started": "2026-05-20T05:17:00+00:00", "environment": "lab"}
    row = {"id": "workload/red/done", "verdict": "pass", "at": "2026-05-20T05:20:00+00:00", "target": "red"}
    for name, text in (("r1", json.dumps({**head, "evidence": [row]})), ("r2", '{"flow": "val'), ("r3", "[]")):
        folder = tmp_path / "reports" / "lab" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(text)
    found, _, unread = kept_results(fake.site)
    assert [(one.evidence.id, one.source) for one in found] == [
        ("workload/red/done", "validate-stack of 2026-05-20 05:17")
    ]  # fmt: skip
    assert len(unread) == 2 and all("cannot be read" in line for line in unread)


def test_only_the_newest_reports_are_read(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MOST_REPORTS", 1)
    for number in range(3):
        folder = tmp_path / "reports" / "lab" / f"r{number}"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({"evidence": [{"id": f"c{number}", "verdict": "pass"}]}))
        os.utime(folder / "report.json", (number, number))
    assert kept(fake.site).keys() == {"c2"}


def test_a_torn_document_is_told_and_replaced(fake, tmp_path, caplog):
    FolderHistory(tmp_path, "results").write("validate-stack.json", '{"results": [')
    assert kept_results(fake.site)[2]
    keep_evidence(fake.site, "validate-stack", [evidence("a")])
    assert "cannot be read" in caplog.text and kept(fake.site).keys() == {"a"} and not kept_results(fake.site)[2]


def test_in_the_bundle_store_results_outlive_the_controller(tmp_path, monkeypatch):
    """Written by one controller, read by another that has no report on its disk."""
    with running_store(tmp_path / "store") as stored:
        site = site_with_store(stored, tmp_path)
        monkeypatch.setenv("STACKWRIGHT_REPORTS", str(tmp_path / "elsewhere"))
        keep_evidence(site, "validate-stack", [evidence("workload/red/done", target="red")])
        found, where, unread = kept_results(site)
        assert [one.evidence.id for one in found] == ["workload/red/done"] and not unread
        assert "/results/" in where


def test_a_store_that_is_down_fails_no_run_and_is_named_on_the_page(fake, monkeypatch, caplog):
    class Down:
        folder, where = "", "https://store.example"

        def list(self, prefix):
            raise StoreUnreachableError("the store does not answer", where=self.where)

        def read(self, key):
            raise StoreUnreachableError("the store does not answer", where=self.where)

    monkeypatch.setattr(results, "history_of", lambda site, what: StoreHistory(Down(), "lab", what))
    caplog.set_level("INFO")
    keep_evidence(fake.site, "validate-stack", [evidence("a")])
    assert "results are kept on this controller only" in caplog.text
    assert any("does not answer" in line for line in kept_results(fake.site)[2])


def test_a_site_that_cannot_be_looked_at_gives_the_reason(fake, monkeypatch):
    async def refused(site):
        raise ApiError("the API server refused GET", where="nodes", seen="403 Forbidden")

    monkeypatch.setattr(compliance, "read_stack", refused)
    assert asyncio.run(compliance._read_stack(fake.site)) == (
        None, "nodes: the API server refused GET (403 Forbidden)"
    )  # fmt: skip


# --- running images --------------------------------------------------------------------------------------------------


def test_images_are_read_over_the_wire_page_by_page(tmp_path):
    """All of them, also beyond one page; what the scanner does not know of is unknown by name."""
    place = SecuritySite(tmp_path)
    for number in range(205):
        place.workload(f"app{number}", "shop", f"registry.example/app{number}:1")
    place.groups.cves["registry.example/app7:1"] = [2, 1, 0]
    place.groups.unscanned.append("registry.example/app9:1")
    images, why = read_images(place.site)
    assert why == "" and len(images) == 208
    assert images[0].image == "registry.example/app7:1" and images[0].critical == 2
    assert [one.image for one in images if one.why] == ["registry.example/app9:1"]
    assert [path for _, path in place.kube.asked if "scan/image" in path] == [
        f"/v1/scan/image?start={start}&limit=200" for start in (0, 200)
    ]
    assert place.kube.changes == [] and place.product.sessions == {}


def test_images_that_cannot_be_read_are_unknown_with_the_reason(tmp_path):
    place = SecuritySite(tmp_path)

    def cut(method, path):
        raise ApiUnavailableError("no answer", where="neuvector", status=503)

    place.kube.cut = cut
    images, why = read_images(place.site)
    assert images == () and "no answer" in why
