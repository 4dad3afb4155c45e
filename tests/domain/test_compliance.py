"""Clauses against results: only a result proves, an old one is stale, a stand-in is no product, unknown is no pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from stackwright.domain import releases
from stackwright.domain.compliance import BESIDE, MEANINGS, ORDER, alarming, judge_clauses, totals
from stackwright.domain.compliance_looks import look_evidence, not_asked
from stackwright.domain.coverage import REQUIREMENTS
from stackwright.domain.errata import ERRATA
from stackwright.domain.evidence import Evidence
from stackwright.domain.guide.answers import (
    Check,
    Corrected,
    Field,
    Layer,
    Limit,
    Preflight,
    Requirement,
    Rule,
    Step,
    Tenant,
)
from stackwright.domain.hardening import (
    BAD,
    POLICIES,
    NodeScan,
    bench_error,
    hardening_evidence,
    parse_bench,
    scan_evidence,
)
from stackwright.domain.results import (
    FOREIGN,
    Result,
    age_s,
    family,
    is_stale,
    latest,
    newest,
    read_document,
    read_report,
    results_document,
)
from tests.domain.nodes_seen import make_spec, member
from tests.domain.test_deploy import SPEC as LAB
from tests.domain.test_deploy import bare, finished

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SPEC = make_spec()


@pytest.fixture(autouse=True)
def quick_digests(monkeypatch):
    monkeypatch.setattr(releases, "SECRET_DIGEST_ROUNDS", 1)


def result(name: str, verdict="pass", *, days=0.0, stand_in="", must=True, target="", source="this run", at=None):
    moment = (NOW - timedelta(days=days)).isoformat() if at is None else at
    return Result(Evidence(name, name, verdict, "w", "s", "5", moment, target, must, stand_in=stand_in), source)


def clause(*answers, name="c"):
    return Requirement(name, "5", "p", "Text.", answers)


def status(answers, results):
    (found,) = judge_clauses([clause(*answers)], results, NOW)
    return found.status


PASS, OLD = result("cluster/nodes"), result("cluster/nodes", days=32)
NODES = Check("cluster/nodes")
CLAUSES = [
    # answers, results, status
    ("nobody answers", (), [PASS], "not proved"),
    ("no result", (NODES,), [], "not proved"),
    ("a result of another check", (NODES,), [result("cluster/voters")], "not proved"),
    ("on a product", (NODES,), [PASS], "proved"),
    ("on a stand-in", (NODES,), [result("cluster/nodes", stand_in="RKE2")], "stand-in"),
    ("failed", (NODES,), [result("cluster/nodes", "fail")], "failed"),
    ("unknown is not pass", (NODES,), [result("cluster/nodes", "unknown")], "unknown"),
    ("skipped is not pass", (NODES,), [result("cluster/nodes", "skipped")], "skipped"),
    ("stale", (NODES,), [OLD], "stale"),
    ("stale on a stand-in", (NODES,), [result("cluster/nodes", days=32, stand_in="x")], "stale"),
    ("just not stale", (NODES,), [result("cluster/nodes", days=30.9)], "proved"),
    ("from the future", (NODES,), [result("cluster/nodes", days=-1)], "stale"),
    ("no time", (NODES,), [result("cluster/nodes", at="yesterday")], "stale"),
    ("an old failure stays one", (NODES,), [result("cluster/nodes", "fail", days=90)], "failed"),
    ("one of two not run", (NODES, Check("workload/done")), [PASS], "not proved"),
    ("worst of many", (Check("tenant/login"),),
     [result("tenant/red/login"), result("tenant/blue/login", "unknown")], "unknown"),
    ("one product, one stand-in", (NODES, Check("cluster/voters")),
     [PASS, result("cluster/voters", stand_in="x")], "stand-in"),
    ("skipped beside a pass", (NODES, Check("cluster/gpus")), [PASS, result("cluster/gpus", "skipped")], "proved"),
    ("an optional failure is a failure", (NODES,), [result("cluster/nodes", "fail", must=False)], "failed"),
    ("a part of a tenant's queues", (Check("tenant/queue"),), [result("tenant/red/queue/gpu")], "proved"),
    ("a tenant named like a check", (Check("tenant/login"),), [result("tenant/login/router")], "not proved"),
    ("rule alone", (Rule("r"),), [PASS], "in code"),
    ("rule and field", (Field("f"), Rule("r")), [PASS], "in code"),
    ("erratum alone", (Corrected("rke-up"),), [PASS], "in code"),
    ("field alone", (Field("f"),), [PASS], "operator"),
    ("limit alone", (Limit("because"),), [PASS], "operator"),
    ("a rule adds nothing to a missing result", (NODES, Rule("r")), [], "not proved"),
    ("a limit beside a result", (NODES, Limit("because")), [PASS], "in part"),
    ("a limit beside a failure", (NODES, Limit("because")), [result("cluster/nodes", "fail")], "failed"),
    ("a limit beside a stand-in's", (NODES, Limit("because")), [result("cluster/nodes", stand_in="x")], "stand-in"),
    ("step", (Step("node/*/swap"),), [result("plan/node/*/swap")], "proved"),
    ("another step", (Step("node/*/swap"),), [result("plan/node/*/swap-2")], "not proved"),
    ("look", (Preflight("size"),), [result("look/size", "fail")], "failed"),
    ("tenant step", (Tenant("agent", value="x"),), [result("plan/tenant/*/agent")], "proved"),
    ("layer in force, no gate seen", (Layer("rancher"),), [result("plan/layer/rancher")], "proved"),
    ("layer in force, a gate closed", (Layer("rancher"),),
     [result("plan/layer/rancher"), result("layer/rancher/http/x", "fail")], "failed"),
    ("value: a gate does not matter", (Layer("rancher", value="replicas"),),
     [result("plan/layer/rancher"), result("layer/rancher/http/x", "fail")], "proved"),
    ("gate: being in force is not enough", (Layer("rancher", gate="http/"),), [result("plan/layer/rancher")],
     "not proved"),
    ("gate of a layer that is off", (Layer("rancher", gate="http/"),), [result("plan/layer/rancher", "skipped")],
     "skipped"),
    ("a layer's name is no prefix of another's", (Layer("rancher"),),
     [result("plan/layer/rancher_backup"), result("layer/rancher_backup/x")], "not proved"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "results", "wanted"), [row[1:] for row in CLAUSES], ids=[row[0] for row in CLAUSES]
)
def test_how_a_clause_stands(answers, results, wanted):
    assert status(answers, results) == wanted


def test_every_status_is_met_above_and_has_a_meaning():
    assert {row[3] for row in CLAUSES} == set(ORDER) == set(MEANINGS)


def test_errata_and_limits_come_with_the_clause():
    (found,) = judge_clauses([clause(NODES, Corrected("rke-up"), Limit("because", "docs/lab.md"))], [PASS], NOW)
    assert [one.id for one in found.errata] == ["rke-up"] and "rke2" not in found.errata[0].printed
    assert found.errata[0] in ERRATA and found.errata[0].test.startswith("tests/")
    assert [limit.doc for limit in found.limits] == ["docs/lab.md"]


def test_a_failed_clause_still_says_that_a_part_is_stale():
    (found,) = judge_clauses([clause(NODES, Check("cluster/voters"))], [OLD, result("cluster/voters", "fail")], NOW)
    assert found.status == "failed" and found.stale


def test_without_any_result_nothing_of_the_guide_is_green():
    """Every clause that could be measured is not proved; the rest is in code or the operator's."""
    found = totals(judge_clauses(REQUIREMENTS, [], NOW))
    assert found["proved"] == found["stand-in"] == found["stale"] == 0
    assert found["not proved"] > 100 and sum(found.values()) == len(REQUIREMENTS)


def test_what_this_page_measures_is_of_clauses_that_exist():
    assert BESIDE.keys() <= {entry.id for entry in REQUIREMENTS}
    scan = [result("scan/s1/scan"), result("scan/s1/findings", "fail", must=False)]
    found = {one.requirement.id: one for one in judge_clauses(REQUIREMENTS, scan, NOW)}
    assert found["security-templates"].status == "failed"
    assert [one.evidence.id for one in found["security-scan"].results] == ["scan/s1/scan"]


def test_only_must_haves_of_clauses_alarm_and_each_once():
    """A drill's failure was told by the drill; what belongs to no clause is nobody's alarm here."""
    bad = [
        result("cluster/nodes", "fail"), result("cluster/voters", "unknown"), result("cluster/gpus", "skipped"),
        result("tenant/red/capacity", "fail", must=False), result("drill/rto", "fail"), result("odd/one", "fail"),
    ]  # fmt: skip
    assert [one.id for one in alarming(judge_clauses(REQUIREMENTS, bad, NOW))] == ["cluster/voters", "cluster/nodes"]


def test_what_scheduled_flows_prove_counts_for_its_clauses():
    kept = [result("drill/rto", source="drill-restore"), result("backup/age", "fail"), result("certificate/srv1/x")]
    found = {one.requirement.id: one.status for one in judge_clauses(REQUIREMENTS, kept, NOW)}
    assert found["rke2-recovery"] == found["security-restore"] == "in part"
    assert (found["rke2-offsite"], found["rke2-upgrade-test"]) == ("failed", "not proved")


SOONER = [
    ("backup/age", 2.1, "stale"),
    ("backup/age", 1.9, "pass"),
    ("certificate/a/b", 9, "stale"),
    ("drill/rto", 9, "pass"),
]


@pytest.mark.parametrize(("name", "days", "wanted"), SOONER)
def test_what_is_looked_at_often_is_stale_sooner(name, days, wanted):
    assert is_stale(result(name, days=days), NOW) == (wanted == "stale")


def test_a_site_without_a_store_is_not_blamed_for_drills():
    spec = make_spec()
    found = {one.id: one.verdict for one in look_evidence(spec, None, "x", NOW)}
    assert found["drill/not-asked"] == found["backup/not-asked"] == found["rehearsal/not-asked"] == "skipped"
    assert "backup/not-asked" not in {one.id for one in look_evidence(LAB, None, "x", NOW)}


# --- last results ----------------------------------------------------------------------------------------------------

FAMILIES = [
    ("cluster/nodes", ("cluster", "", "nodes")),
    ("clearml/api", ("clearml", "", "api")),
    ("tenant/red/queue/gpu", ("tenant", "red", "queue")),
    ("workload/red/done", ("workload", "red", "done")),
    ("workload/done", ("workload", "", "done")),
    ("layer/storage/volume/readwriteonce", ("layer", "storage", "volume")),
    ("cis/network-policies", ("cis", "", "network-policies")),
    ("odd", ("odd", "", "odd")),
]


@pytest.mark.parametrize(("name", "parts"), FAMILIES)
def test_an_id_is_taken_apart(name, parts):
    assert family(name) == parts


def seen_after(fresh, kept):
    return {one.evidence.id: one.source for one in latest(LAB, [one.evidence for one in fresh], kept)}


def test_what_this_run_has_not_looked_at_comes_from_before():
    """The newest of two kept ones, whatever their order."""
    kept = [
        result("workload/red/done", days=9, source="older", target="red"),
        result("workload/red/done", days=2, source="newer", target="red"),
    ]
    for order in (kept, kept[::-1]):
        assert seen_after([PASS], order) == {"cluster/nodes": "this run", "workload/red/done": "newer"}


def test_what_this_run_could_not_read_is_not_taken_from_before():
    """An old pass does not stand in for an unknown of now."""
    found = latest(LAB, [result("cluster/nodes", "unknown").evidence], [PASS])
    assert [one.evidence.verdict for one in found] == ["unknown"]


def test_parts_and_targets_that_are_gone_leave_no_results():
    """A queue, a tenant and a node that the site file does not name any more; a check without a target stays."""
    kept = [
        result("tenant/red/queue/gone", target="red"), result("tenant/gone/login", target="gone"),
        result("cis/gone/profile", target="gone"), result("clearml/app", source="kept"),
    ]  # fmt: skip
    fresh = [result("tenant/red/queue/cpu", target="red")]
    assert seen_after(fresh, kept) == {"tenant/red/queue/cpu": "this run", "clearml/app": "kept"}


def test_a_result_without_a_time_never_wins():
    kept = [result("a", at="", source="no time"), result("a", days=300, source="old")]
    assert [one.source for one in newest(kept)] == ["old"]


def test_kept_results_come_back_as_they_were():
    kept = [result("a", "fail", must=False, target="t", stand_in="x", source="validate-stack of 2026-11-20 05:17")]
    assert read_document(results_document(kept)) == (kept, 0)


BROKEN = [None, 7, [], {}, {"results": 3}, {"evidence": None}]


@pytest.mark.parametrize("data", BROKEN, ids=repr)
def test_what_is_no_document_gives_nothing_and_says_so(data):
    assert read_document(data) == ([], 1) and read_report(data) == ([], 1)


def test_a_broken_entry_is_left_out_and_counted():
    rows = [{"id": "a", "verdict": "pass"}, {"id": "b", "verdict": "green"}, {"verdict": "pass"}, "c"]
    found, broken = read_document({"results": rows})
    assert [one.evidence.id for one in found] == ["a"] and broken == 3
    assert is_stale(found[0], NOW), "a result without a time cannot stand for today"


def test_a_labs_report_never_proves_a_product():
    """Evidence in a lab's report that names no product is of a stand-in all the same."""
    rows = [{"id": "cluster/nodes", "verdict": "pass", "at": NOW.isoformat()}]
    head = {"flow": "validate-stack", "started": "2026-11-20T05:17:00+00:00", "evidence": rows}
    (of_lab,), _ = read_report({**head, "environment": "lab"})
    (of_site,), _ = read_report({**head, "environment": "production"})
    assert of_lab.evidence.stand_in == FOREIGN and not of_site.evidence.stand_in
    assert of_site.source == "validate-stack of 2026-11-20 05:17"
    assert status((NODES,), [of_lab]) == "stand-in"


def test_age():
    assert age_s(result("a", days=2), NOW) == 2 * 86400
    assert age_s(result("a", at=(NOW + timedelta(seconds=60)).isoformat()), NOW) == 0
    assert age_s(result("a", at="2026-11-26T11:00:00"), NOW) == 3600, "a time without a zone is UTC"


# --- what a look says ------------------------------------------------------------------------------------------------


def looked(spec, facts, why=""):
    return {one.id: one for one in look_evidence(spec, facts, why, NOW)}


def test_without_facts_everything_is_unknown_with_the_reason():
    found = looked(LAB, None, "srv1: the node does not answer")
    assert {one.verdict for one in found.values()} == {"unknown", "skipped"}
    unknown = [one for one in found.values() if one.verdict == "unknown"]
    assert len(unknown) > 40 and {one.seen for one in unknown} == {"srv1: the node does not answer"}


def test_bare_hosts_fail_what_a_plan_still_wants():
    found = looked(LAB, bare())
    assert found["plan/rke2/*/start"].verdict == "fail" and "srv1" in found["plan/rke2/*/start"].seen
    assert found["plan/layer/rancher"].verdict == "fail" and found["plan/tenant/*/agent"].verdict == "fail"
    assert found["plan/node/*/swap"].verdict == "pass", "the hosts have none"
    assert found["look/host/os"].verdict == "pass" and found["plan/rke2/*/start"].remedy


def test_a_finished_site_passes_and_says_that_it_is_a_lab():
    found = looked(LAB, finished())
    assert found["plan/layer/rancher"].verdict == "pass" and found["plan/rke2/*/config"].verdict == "pass"
    assert found["plan/node/*/swap"].stand_in == "SLES hosts"
    assert found["plan/tenant/*/agent"].verdict == "fail", "its tenants are still to come"
    real = LAB.model_copy(update={"environment": "production"})
    assert not looked(real, finished())["plan/node/*/swap"].stand_in


def test_a_host_with_a_problem_fails_its_look_and_forbids_the_plan():
    found = looked(LAB, bare(srv1={"cpus": 1}))
    assert found["look/host/cpu"].verdict == "fail" and "srv1: 1 cores" in found["look/host/cpu"].seen
    assert found["plan/node/*/swap"].verdict == "unknown" and "too few cores" in found["plan/node/*/swap"].seen


NOT_ASKED = [
    ({"registration__kind": "none", "registration__products": []}, "node/*/register"),
    ({"registration__products": []}, "node/*/products"),
    ({"rke2__profile": "none"}, "node/*/cis-user"),
    ({"time__servers": []}, "node/*/time"),
    ({"firewall__mode": "unmanaged"}, "node/*/firewall"),
    ({"layers__storage__enabled": False, "layers__clearml__enabled": False}, "node/*/iscsi"),
    ({}, "node/*/resolver"),
]


@pytest.mark.parametrize(("changes", "kind"), NOT_ASKED, ids=lambda value: str(value)[:40])
def test_a_step_that_the_site_file_does_not_ask_for_proves_nothing_by_its_absence(changes, kind):
    assert not_asked(make_spec(**changes), kind)


@pytest.mark.parametrize("kind", ["node/*/register", "node/*/cis-user", "node/*/time", "node/*/swap", "rke2/*/labels"])
def test_a_step_that_is_asked_for_does(kind):
    assert not not_asked(SPEC, kind)


def test_checks_that_are_never_made_say_why():
    spec = make_spec(validation__workload=False)
    found = look_evidence(spec, None, "x", NOW)
    assert {one.id for one in found if one.id.startswith("tenant/")} >= {"tenant/login"}, "no tenant is named"
    lab = LAB.model_copy(update={"validation": LAB.validation.model_copy(update={"pipeline": False})})
    skipped = [one.id for one in look_evidence(lab, None, "x", NOW) if one.id.startswith("workload/")]
    assert skipped == ["workload/pipeline", "workload/fine-tune-run"]


# --- the CIS profile -------------------------------------------------------------------------------------------------

ALL = frozenset(POLICIES)


def hardened(spec=SPEC, nodes=None, policies=ALL, why=""):
    seen = {node.name: member(spec, node.name) for node in spec.nodes} if nodes is None else nodes
    return {one.id: one for one in hardening_evidence(spec, seen, policies, why, NOW)}


def test_a_hardened_site_passes_on_every_node():
    found = hardened()
    assert {one.verdict for one in found.values()} == {"pass"}
    assert {"cis/s1/etcd-user", "cis/g1/profile", "cis/network-policies"} <= found.keys()
    assert "cis/w1/etcd-user" not in found, "agents need no user etcd"


BENT = [
    ("profile", {"rke2": {"config": {}}}),
    ("profile", {"rke2": {"started_sum": None}}),
    ("profile", {"rke2": {"config_sum": "other"}}),
    ("profile", {"units": {"rke2-server.service": replace(member(SPEC, "s1").unit("rke2-server"), active="failed")}}),
    ("kernel", {"sysctls": {**member(SPEC, "s1").sysctls, "kernel.panic": "0"}}),
    ("etcd-user", {"groups": frozenset({"root"})}),
    ("pod-security", {"rke2": {"files": {}}}),
    (
        "pod-security",
        {"rke2": {"files": {**member(SPEC, "s1").rke2.files, "/etc/rancher/rke2/psa.yaml": ("0", "600")}}},
    ),
]


@pytest.mark.parametrize(("what", "changes"), BENT, ids=lambda value: str(value)[:50])
def test_each_difference_fails_its_check_alone(what, changes):
    nodes = {node.name: member(SPEC, node.name) for node in SPEC.nodes} | {"s1": member(SPEC, "s1", **changes)}
    bad = {name for name, one in hardened(nodes=nodes).items() if one.verdict != "pass"}
    assert f"cis/s1/{what}" in bad and all(name.startswith("cis/s1/") for name in bad)


def test_a_setting_that_was_not_read_is_unknown():
    nodes = {"s1": member(SPEC, "s1", sysctls={})}
    found = hardened(nodes=nodes)
    assert found["cis/s1/kernel"].verdict == "unknown" and found["cis/s2/profile"].verdict == "unknown"


def test_nothing_read_is_unknown_with_the_reason():
    found = hardening_evidence(SPEC, None, None, "the API does not answer", NOW)
    assert {(one.verdict, one.seen) for one in found} == {("unknown", "the API does not answer")}


def test_a_missing_policy_is_named():
    found = hardened(policies=ALL - {("default", "default-network-policy")})["cis/network-policies"]
    assert (found.verdict, found.seen) == ("fail", "missing: default/default-network-policy")


def test_what_the_profile_does_not_ask_for_is_skipped():
    none = hardened(make_spec(rke2__profile="none"))
    assert {one.verdict for one in none.values()} == {"skipped"}
    etcd = hardened(make_spec(rke2__profile="etcd"))
    assert etcd["cis/s1/etcd-user"].verdict == "pass" and etcd["cis/s1/profile"].verdict == "pass"
    assert "cis/w1/profile" not in etcd
    assert etcd["cis/s1/kernel"].verdict == etcd["cis/network-policies"].verdict == "skipped"


# --- SUSE Security's scan --------------------------------------------------------------------------------------------


RAN = int(NOW.timestamp())


def bench(*levels, ran=RAN):
    items = [{"test_number": f"K.{n}", "level": level, "description": "d"} for n, level in enumerate(levels)]
    return {"run_timestamp": ran, "cis_version": "cis-rke2-1.8.0", "items": items}


def scanned(scan, spec=SPEC, why=""):
    found = {one.id: one for one in scan_evidence(spec, [scan], why, NOW)}
    return found["scan/s1/scan"], found["scan/s1/findings"]


FOUND = [
    (("PASS", "PASS"), "pass"),
    (("PASS", "MANUAL", "INFO", "NOTE"), "pass"),
    (("PASS", "WARN"), "fail"),
    (("PASS", "HIGH"), "fail"),
    (("PASS", "ERROR"), "fail"),
    (("MANUAL", "MANUAL"), "unknown"),
]


@pytest.mark.parametrize(("levels", "verdict"), FOUND)
def test_what_a_benchmark_finds(levels, verdict):
    """Items for a person's eyes are no pass: a report of them alone proves nothing."""
    ran, found = scanned(parse_bench("s1", bench(*levels)))
    assert ran.verdict == "pass" and found.verdict == verdict and not found.must


EMPTY = [None, [], {"items": 3}, {"items": []}, {**bench("PASS"), "run_timestamp": 0}, bench()]


@pytest.mark.parametrize("body", EMPTY, ids=repr)
def test_no_report_is_unknown(body):
    ran, found = scanned(parse_bench("s1", body))
    assert ran.verdict == found.verdict == "unknown" and ran.seen


def test_a_node_that_the_product_does_not_know_is_unknown():
    found = scan_evidence(SPEC, [parse_bench("s1", bench("PASS"))], "", NOW)
    assert {one.verdict for one in found if one.target == "g1"} == {"unknown"}
    assert all("does not know" in one.seen for one in found if one.target == "g1")


def test_an_old_scan_is_stale_and_keeps_its_time():
    ran, _ = scanned(parse_bench("s1", bench("PASS", ran=int((NOW - timedelta(days=40)).timestamp()))))
    assert is_stale(Result(ran), NOW)


def test_a_site_without_the_layer_is_not_asked():
    spec = make_spec(layers__security__enabled=False)
    assert {one.verdict for one in scan_evidence(spec, [], "x", NOW)} == {"skipped"}


def test_messages_of_the_benchmark_are_left_out():
    """They quote files of the node, and the product appends them to the description."""
    body = bench("WARN")
    body["items"][0] |= {"description": "Ensure a file - token=abc, b", "message": ["token=abc", "b"]}
    scan = parse_bench("s1", body)
    assert [one.text for one in scan.findings] == ["Ensure a file"] and "abc" not in repr(scan)


def test_the_products_own_words_say_why_there_is_no_report():
    assert bench_error(500, {"code": 16, "error": "Object in use", "message": "Benchmark is running"}) == (
        "answers 500: Benchmark is running"
    )
    assert "without a reason" in bench_error(502, None)
    assert scanned(NodeScan("s1", why="answers 500: Benchmark is running"))[0].verdict == "unknown"


def test_every_bad_level_is_told_in_the_findings():
    assert [one.level for one in parse_bench("s1", bench(*BAD, "PASS", "MANUAL")).findings] == [*BAD, "MANUAL"]
