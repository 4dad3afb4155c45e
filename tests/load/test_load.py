"""The load's own judgement: what it asks for, what it calls lost, doubled and leaked, and how it counts. No lab."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Crashed

from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_record import TenantRecord
from tests.load.asking import Ask, plan_asks
from tests.load.crew import Row
from tests.load.run import layout_for, seconds_of, summary
from tests.load.verify import Findings, Seen, check_answers, check_forged, check_tenant, find_leaks

NAME = "load0000"
VIEW = {"state": "ready", "hand_over": {"credentials_block": "x"}}


def run(state, name=NAME):
    return FlowRun(flow_id=uuid4(), state=state, tags=["tenant", f"tenant:{name}", "site:lab"])


def user(name=NAME, keys=("k",)):
    return {"company": name, "email": f"admin@{name}.example", "keys": list(keys)}


def row(name=NAME, outcome="completed", ended_at=20.0):
    return Row(name, "ended", "COMPLETED", outcome, 1, 11.0, ended_at, "")


def seen(**changes):
    record = TenantRecord(site="lab", wanted=Tenant(name=NAME, admin_email="a@b.example"), state="ready", request="")
    whole = {
        "companies": Counter([NAME]), "users": [user()], "routers": {NAME: ["r"]}, "workers": {NAME: ["w"]},
        "namespaces": {f"clearml-{NAME}"}, "releases": Counter({f"clearml-{NAME}": 2}), "records": {NAME: record},
        "runs": [run(Crashed()), run(Completed())], "rows": [row()],
    }  # fmt: skip
    return Seen(**{**whole, **changes})


def found(view=VIEW, works=True, **changes):
    findings = Findings()
    check_tenant(NAME, seen(**changes), view, works, findings)
    return findings


def test_a_tenant_that_is_there_once_and_whole_is_good():
    assert found() == Findings()


@pytest.mark.parametrize(
    "changes",
    [
        {"companies": Counter()}, {"users": []}, {"users": [user(keys=())]}, {"routers": {}}, {"workers": {}},
        {"namespaces": set()}, {"releases": Counter({f"clearml-{NAME}": 1})}, {"records": {}}, {"rows": []},
        {"runs": [run(Crashed())]}, {"rows": [row(outcome="failed")]}, {"works": False}, {"view": None},
        {"view": {**VIEW, "state": "requested"}}, {"view": {**VIEW, "hand_over": None}},
    ],
)  # fmt: skip
def test_what_is_missing_is_lost(changes):
    findings = found(**changes)
    assert findings.lost and not findings.doubled


@pytest.mark.parametrize(
    "changes",
    [
        {"companies": Counter([NAME, NAME])}, {"users": [user(), user()]}, {"users": [user(keys=("a", "b"))]},
        {"routers": {NAME: ["a", "b"]}}, {"runs": [run(Completed()), run(Completed())]}, {"rows": [row(), row()]},
    ],
)  # fmt: skip
def test_what_is_there_twice_is_doubled(changes):
    assert found(**changes).doubled


def test_a_forged_request_must_be_refused_and_make_nothing():
    forged = Ask("forged0000", "k", 0, forged=True, status=401)
    findings = Findings()
    check_forged([forged], seen(), findings)
    assert not findings.wrong
    check_forged([Ask("forged0001", "k", 0, forged=True, status=202)], seen(), findings)
    check_forged([forged], seen(companies=Counter(["forged0000"])), findings)
    check_forged([forged], seen(namespaces={"clearml-forged0000"}), findings)
    check_forged([forged], seen(runs=[run(Completed(), "forged0000")]), findings)
    check_forged([forged], seen(rows=[row("forged0000")]), findings)
    assert len(findings.wrong) == 5


def test_a_request_that_is_sent_again_must_be_one_request():
    findings = Findings()
    once, again = Ask(NAME, "k", 0, status=202, request_id="1"), Ask(NAME, "k", 1, status=202, request_id="1")
    check_answers([once, again], findings)
    assert findings == Findings()
    again.request_id = "2"
    check_answers([once, again, Ask("other", "o", 2, status=422)], findings)
    assert findings.doubled and findings.wrong == ["other: answered 422"]


def test_a_secret_is_found_in_a_file_of_any_kind(tmp_path: Path):
    clean, database = tmp_path / "clean", tmp_path / "db"
    clean.write_bytes(b"nothing here\n")
    database.write_bytes(b"\0\1binary\0s3cr3t-of-red\0\xff")
    assert find_leaks({"s3cr3t-of-red", "other"}, [clean]) == []
    (leak,) = find_leaks({"s3cr3t-of-red", "other"}, [clean, database])
    assert str(database) in leak and "s3cr3t" not in leak


def test_the_load_is_what_was_asked_for():
    """All tenants once, a twentieth again with the same key and body, a twentieth forged, all within the time."""
    asks = plan_asks(200, 55.0, random.Random(1))  # noqa: S311 - the same load each time
    good = [ask for ask in asks if not ask.forged]
    assert len({ask.tenant for ask in good}) == 200 and len(good) == 210 and len(asks) == 220
    twins = [key for key, times in Counter(ask.key for ask in good).items() if times == 2]
    assert len(twins) == 10 and all(len({ask.body for ask in good if ask.key == key}) == 1 for key in twins)
    assert min(ask.due_s for ask in asks) >= 0 and max(ask.due_s for ask in asks) <= 55
    layout = layout_for(200)
    assert (layout.workers + layout.agents) * 110 >= 200 * 4


def test_the_last_line_counts_tenants_and_times_from_the_first_request():
    asks = [Ask(NAME, "k", 0, first_sent=10.0), Ask(NAME, "k", 1, first_sent=15.0), Ask("b", "b", 0, first_sent=12.0)]
    rows = [row(ended_at=20.0), row("b", ended_at=52.0)]
    assert seconds_of(asks, rows) == [10.0, 40.0]
    findings = Findings(lost=["b: no company", "b: no router"], doubled=[f"{NAME}: 2 times: company"], leaked=["x"])
    told = summary(asks, rows, findings)
    assert (told["asked"], told["ready"], told["lost"], told["doubled"], told["leaked"]) == (2, 1, 1, 1, 1)
    assert summary([], [], Findings())["p95_s"] == 0


def test_a_tenant_of_another_name_is_not_mistaken():
    assert found(users=[user("load00001")]).lost
