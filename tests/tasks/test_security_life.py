"""SUSE Security's life against the stand-in: both rungs, refusals, the watch, stepping back, death in the middle."""

from __future__ import annotations

import logging

import pytest

from stackwright.domain.errors import ApiUnavailableError, FencedError, PlanRefusedError
from stackwright.domain.layers.security import after
from stackwright.domain.security_life import Ask, cuts, targets
from tasks import layers
from tasks import security_life as life
from tasks.security import SecurityApiError, SecurityLoginError, admin_session, asked, pages
from tasks.security_life import SteppedBackError, bring_target, evidence_now, plan_now
from tasks.security_look import read_life
from tasks.security_record import LifeRecordError, read_life_record
from tests.tasks.layer_site import FakeLease
from tests.tasks.security_site import PASSWORD, SecuritySite

SHOP = Ask(namespaces=("shop",))
ALONE = Ask(enforce=False)


class Killed(BaseException):
    """The run is gone: nothing of it runs any more."""


@pytest.fixture
def fake(tmp_path):
    return SecuritySite(tmp_path)


def carry_out(fake, plan, lease=None, accepted=frozenset()):
    """Carry a plan out as the flow does: target after target."""
    for target in dict.fromkeys(step.target for step in plan.steps):
        bring_target(fake.site, lease or fake.lease, target, accepted, plan.of(target))


def observed(fake, *spaces):
    """Bring groups to Monitor, long enough ago that they may be enforced."""
    fake.set_all("Monitor", *(spaces or ("shop", "red")))
    fake.days(4)


def kinds(plan):
    return [step.id for step in plan.steps]


# --- learning --------------------------------------------------------------------------------------------------------


def test_nothing_moves_before_its_time(fake):
    fake.days(6.9)
    plan = plan_now(fake.site, ALONE)
    assert plan.empty and any("web.shop learned 6.9 of 7 days" in note for note in plan.notes)
    assert fake.kube.changes == []


def test_what_has_learned_reports_and_nobody_is_asked(fake):
    """All namespaces that shall be enforced go from Discover to Monitor; the next run changes nothing."""
    fake.days(7)
    plan = plan_now(fake.site, ALONE)
    assert kinds(plan) == [
        "security/shop/monitor/db.shop", "security/shop/monitor/web.shop", "security/red/monitor/train.red"
    ]  # fmt: skip
    assert not cuts(plan)
    carry_out(fake, plan)
    assert set(fake.modes().values()) == {"Monitor"}
    fake.kube.asked.clear()
    assert plan_now(fake.site, ALONE).empty
    carry_out(fake, plan)
    assert not [one for one in fake.kube.asked if one == ("PATCH", "/v1/service/config")], "they are there already"


def test_a_run_that_died_half_way_through_learning_is_completed(fake):
    fake.days(7)
    plan = plan_now(fake.site, ALONE)
    with pytest.raises(FencedError):
        carry_out(fake, plan, FakeLease(lives=1))
    assert sorted(fake.modes("shop").values()) == ["Discover", "Monitor"]
    rest = plan_now(fake.site, ALONE)
    assert {step.fingerprint for step in rest.steps} < {step.fingerprint for step in plan.steps}
    carry_out(fake, rest)
    assert set(fake.modes().values()) == {"Monitor"}


def test_new_workloads_learn_first(fake):
    fake.product.new_services["new_service_policy_mode"] = "Monitor"
    plan = plan_now(fake.site, ALONE)
    assert kinds(plan)[0] == "security/cluster/new-services"
    carry_out(fake, plan)
    assert fake.product.new_services["new_service_policy_mode"] == "Discover"
    assert plan_now(fake.site, ALONE).empty


# --- refusals --------------------------------------------------------------------------------------------------------


def refused(fake, ask=SHOP):
    with pytest.raises(PlanRefusedError) as raised:
        plan_now(fake.site, ask)
    assert fake.kube.changes == []
    return str(raised.value)


def test_it_refuses_while_it_learns_and_while_it_is_observed(fake):
    fake.days(2)
    assert "db.shop learned 2.0 of 7 days" in refused(fake)
    fake.set_all("Monitor", "shop")
    fake.days(2)
    assert "web.shop observed 2.0 of 3 days" in refused(fake)


def test_it_refuses_with_names_what_would_cut_known_good_traffic(fake):
    observed(fake)
    assert fake.groups.talk("nv.train.red", "nv.db.shop", 5432)
    assert fake.groups.run("nv.web.shop", "/usr/bin/nginx-reload")
    text = refused(fake)
    assert "train.red>db.shop:5432" in text and "web.shop runs /usr/bin/nginx-reload" in text
    assert "known-good traffic would be blocked" in text


def test_what_somebody_has_looked_at_stands_against_nothing(fake):
    observed(fake)
    fake.groups.talk("nv.train.red", "nv.db.shop", 5432)
    ask = Ask(namespaces=("shop",), accepted=frozenset({"train.red>db.shop:5432"}))
    assert "security/shop/watch" in kinds(plan_now(fake.site, ask))


def test_a_stranger_and_an_attack_are_shown_and_do_not_stand_against_it(fake):
    """They are what it is for: whoever approves reads them."""
    observed(fake)
    fake.groups.talk("external", "nv.web.shop", 22)
    fake.groups.threaten("external", "nv.web.shop", "SQL.Injection")
    fake.groups.run("nv.web.shop", "/tmp/sh", "Container.Suspicious.Process")
    plan = plan_now(fake.site, SHOP)
    told = [note for note in plan.notes if "would have been blocked" in note]
    assert len(told) == 3 and any("external>web.shop:22" in note for note in told)


def test_what_was_long_ago_does_not_count(fake):
    fake.set_all("Monitor", "shop")
    fake.groups.talk("nv.train.red", "nv.db.shop", 5432)
    fake.groups.modes["nv.train.red"] = {"policy_mode": "Monitor", "profile_mode": "Monitor"}
    fake.groups.talk("nv.train.red", "nv.db.shop", 6379, "Redis")
    fake.days(3.1)
    assert "security/shop/watch" in kinds(plan_now(fake.site, SHOP))


def test_a_workload_that_is_down_and_a_full_log_refuse(fake):
    observed(fake)
    fake.workload("web", "shop", up=False)
    assert "Deployment shop/web" in refused(fake)
    fake.workload("web", "shop")
    row = {"name": "x", "client_domain": "elsewhere", "server_domain": "", "policy_action": "violate"}
    at = int(fake.clock.at)
    fake.groups.logs["violation"][:] = [{**row, "id": str(n), "reported_timestamp": at} for n in range(4096)]
    assert "the log of violations is full" in refused(fake)


@pytest.mark.parametrize("name", ["kube-system", "cattle-neuvector-system", "elsewhere"])
def test_a_namespace_that_the_site_file_does_not_name_is_refused(fake, name):
    assert f"{name}: the site file does not ask" in refused(fake, Ask(namespaces=(name,)))


def test_all_means_neither_the_platform_nor_what_is_left_out(tmp_path):
    """Namespaces of Kubernetes and the platform are enforced only where they are named as such."""
    for system, wanted in ((), ["red", "shop"]), (("kube-system",), ["kube-system", "red", "shop"]):
        place = SecuritySite(tmp_path, protect="all", never=["calm"], system=system)
        for space in ("kube-system", "calm", "cattle-system"):
            place.workload("app", space)
        facts = read_life(place.site)
        assert list(targets(place.spec.layers.security.life, facts)) == wanted


def test_without_a_life_nothing_is_promoted(fake, tmp_path):
    from dataclasses import replace

    layers = fake.spec.layers.model_copy(
        update={"security": fake.spec.layers.security.model_copy(update={"life": None})}
    )
    fake.site = replace(fake.site, spec=fake.spec.model_copy(update={"layers": layers}))
    assert "layers.security.life" in refused(fake)


def test_a_mode_that_somebody_else_changed_has_no_age(fake):
    """Set to Monitor by hand after we had it in Discover: since when is not known."""
    fake.set_all("Discover", "shop")
    fake.days(30)
    for name in fake.modes("shop"):
        fake.groups.modes[name] = {"policy_mode": "Monitor", "profile_mode": "Monitor"}
    assert "since when it is in Monitor is not known" in refused(fake)
    again = plan_now(fake.site, Ask("learn again", ("shop",)))
    carry_out(fake, again)
    assert set(fake.modes("shop").values()) == {"Discover"} and plan_now(fake.site, Ask("learn again", ("shop",))).empty


def test_a_group_of_a_custom_resource_is_left_alone(fake):
    observed(fake)
    fake.groups.crd_managed.append("nv.db.shop")
    plan = plan_now(fake.site, SHOP)
    assert "security/shop/protect/db.shop" not in kinds(plan) and any("custom resource" in note for note in plan.notes)


# --- enforcing -------------------------------------------------------------------------------------------------------


def test_a_namespace_is_enforced_watched_and_the_next_one_is_next(fake):
    observed(fake)
    plan = plan_now(fake.site, Ask())
    assert kinds(plan) == ["security/shop/protect/db.shop", "security/shop/protect/web.shop", "security/shop/watch"]
    assert cuts(plan)
    began = fake.clock.at
    carry_out(fake, plan)
    assert set(fake.modes("shop").values()) == {"Protect"} and set(fake.modes("red").values()) == {"Monitor"}
    assert fake.clock.at - began >= 10 * 60, "it was watched"
    record = read_life_record(fake.kube)
    assert record.intent is None and record.groups["nv.web.shop"].mode == "Protect"
    assert kinds(plan_now(fake.site, Ask()))[-1] == "security/red/watch"
    assert plan_now(fake.site, SHOP).empty, "the second run changes nothing"
    lines = {one.id: one.verdict for one in evidence_now(fake.site)}
    assert lines["security/shop/enforced"] == "pass" and lines["security/red/enforced"] == "skipped"


def test_a_run_that_may_not_enforce_says_what_is_ready(fake):
    observed(fake)
    plan = plan_now(fake.site, ALONE)
    assert plan.empty and any("shop is ready to be enforced" in note for note in plan.notes)


def test_a_session_each_look_and_none_is_left(fake):
    observed(fake)
    carry_out(fake, plan_now(fake.site, Ask()))
    assert fake.product.sessions == {}


# --- the watch, and stepping back ------------------------------------------------------------------------------------


def during_the_watch(fake, monkeypatch, act, after=3):
    """Let something happen when the watch has looked some times."""
    waits = []

    def wait(seconds):
        waits.append(seconds)
        fake.clock.at += seconds
        if len(waits) == after:
            act()

    monkeypatch.setattr(fake.clock, "wait", wait)


def step_back_of(fake):
    plan = plan_now(fake.site, SHOP)
    with pytest.raises(SteppedBackError) as raised:
        carry_out(fake, plan)
    assert set(fake.modes("shop").values()) == {"Monitor"}
    record = read_life_record(fake.kube)
    assert record.intent is None and "stepped back" in record.lines[-1]
    return str(raised.value)


def test_blocked_known_good_traffic_steps_back(fake, monkeypatch):
    observed(fake)
    got_through = []
    during_the_watch(
        fake, monkeypatch, lambda: got_through.append(fake.groups.talk("nv.train.red", "nv.db.shop", 5432))
    )
    assert "train.red>db.shop:5432" in step_back_of(fake) and got_through == [False], "it had been blocked"
    assert fake.groups.talk("nv.train.red", "nv.db.shop", 5432), "it gets through again"
    assert "known-good traffic would be blocked" in refused_after(fake)


def refused_after(fake):
    with pytest.raises(PlanRefusedError) as raised:
        plan_now(fake.site, SHOP)
    return str(raised.value)


def test_a_blocked_process_of_ours_steps_back(fake, monkeypatch):
    observed(fake)
    during_the_watch(fake, monkeypatch, lambda: fake.groups.run("nv.web.shop", "/bin/reload"))
    assert "web.shop runs /bin/reload" in step_back_of(fake)


def test_a_blocked_stranger_does_not(fake, monkeypatch):
    observed(fake)
    during_the_watch(fake, monkeypatch, lambda: fake.groups.talk("external", "nv.web.shop", 22))
    carry_out(fake, plan_now(fake.site, SHOP))
    assert set(fake.modes("shop").values()) == {"Protect"}


def test_lost_readiness_steps_back(fake, monkeypatch):
    observed(fake)
    during_the_watch(fake, monkeypatch, lambda: fake.workload("web", "shop", up=False))
    assert "Deployment shop/web" in step_back_of(fake)


def test_a_moment_of_a_rollout_does_not(fake, monkeypatch):
    """One look that sees a workload not ready is no loss: the next one sees it up."""
    observed(fake)
    acts = iter([lambda: fake.workload("web", "shop", up=False), lambda: fake.workload("web", "shop")])

    def wait(seconds):
        fake.clock.at += seconds
        next(acts, lambda: None)()

    monkeypatch.setattr(fake.clock, "wait", wait)
    carry_out(fake, plan_now(fake.site, SHOP))
    assert set(fake.modes("shop").values()) == {"Protect"}


def test_what_cannot_be_watched_is_not_left_enforced(fake, monkeypatch):
    """The logs do not answer any more; the groups still do."""
    observed(fake)

    def cut(method, path):
        if path.startswith("/v1/log/"):
            raise ApiUnavailableError("no answer", status=503)

    during_the_watch(fake, monkeypatch, lambda: setattr(fake.kube, "cut", cut))
    assert "it could not be watched" in step_back_of(fake)


@pytest.mark.parametrize("removed", [True, False])
def test_a_record_that_is_lost_while_it_is_watched_leaves_nothing_enforced(fake, monkeypatch, removed):
    """Removed, or no record any more: nobody could take the promotion back after this run's death."""
    observed(fake)

    def lose():
        if removed:
            fake.kube.delete("v1", "ConfigMap", "security-life", "stackwright")
        else:
            fake.kube.objects[("v1", "ConfigMap", "stackwright", "security-life")]["data"] = {"record": "none"}

    during_the_watch(fake, monkeypatch, lose)
    plan = plan_now(fake.site, SHOP)
    with pytest.raises((LifeRecordError, SteppedBackError)):
        carry_out(fake, plan)
    assert set(fake.modes("shop").values()) == {"Monitor"}


def test_the_watch_reads_the_logs_since_it_began_alone(fake, monkeypatch):
    observed(fake)
    plan, asked_before = plan_now(fake.site, SHOP), len(fake.kube.asked)
    began = int(fake.clock.now())
    carry_out(fake, plan)
    logs = [path for _, path in fake.kube.asked[asked_before:] if path.startswith("/v1/log/")]
    assert logs and all(f"gte%2C{began}" in path for path in logs)


def test_a_short_silence_is_outlived(fake, monkeypatch):
    observed(fake)
    silent = [3]

    def cut(method, path):
        if path.startswith("/v1/log/violation") and silent[0] and fake.modes("shop")["nv.web.shop"] == "Protect":
            silent[0] -= 1
            raise ApiUnavailableError("no answer", status=503)

    plan = plan_now(fake.site, SHOP)
    fake.kube.cut = cut
    carry_out(fake, plan)
    assert silent == [0] and set(fake.modes("shop").values()) == {"Protect"}


def test_an_overtaken_run_neither_goes_on_nor_takes_back(fake, monkeypatch):
    observed(fake)
    lease = FakeLease()
    during_the_watch(fake, monkeypatch, lambda: setattr(lease, "lives", 0))
    with pytest.raises(FencedError):
        carry_out(fake, plan_now(fake.site, SHOP), lease)
    assert set(fake.modes("shop").values()) == {"Protect"} and read_life_record(fake.kube).intent is not None


# --- death in the middle ---------------------------------------------------------------------------------------------


def died(fake, monkeypatch, at):
    """Let a run die: before the first group, between the groups, or in the watch."""
    observed(fake)
    plan = plan_now(fake.site, SHOP)
    with monkeypatch.context() as patch:
        if at == "watch":
            patch.setattr(fake.clock, "wait", _kill)
        else:
            patched = [{"first": 1, "second": 2}[at]]

            def cut(method, path):
                if (method, path) == ("PATCH", "/v1/service/config"):
                    patched[0] -= 1
                    if not patched[0]:
                        raise Killed

            patch.setattr(fake.kube, "cut", cut)
        with pytest.raises(Killed):
            carry_out(fake, plan)
    assert read_life_record(fake.kube).intent is not None, "the intent outlives the run"
    return plan


def _kill(seconds):
    raise Killed


DEATHS = {"first": ["Monitor", "Monitor"], "second": ["Monitor", "Protect"], "watch": ["Protect", "Protect"]}


@pytest.mark.parametrize("at", DEATHS)
def test_the_next_run_completes_it_under_the_same_approval(fake, monkeypatch, at):
    plan = died(fake, monkeypatch, at)
    assert sorted(fake.modes("shop").values()) == DEATHS[at]
    rest = plan_now(fake.site, Ask())
    assert rest.steps[-1].id == "security/shop/watch"
    assert {one.fingerprint for one in rest.steps} <= {one.fingerprint for one in plan.steps}, (
        "no new approval is needed"
    )
    carry_out(fake, rest)
    assert set(fake.modes("shop").values()) == {"Protect"} and read_life_record(fake.kube).intent is None


@pytest.mark.parametrize("at", DEATHS)
def test_where_nobody_approves_it_is_taken_back(fake, monkeypatch, at):
    died(fake, monkeypatch, at)
    plan = plan_now(fake.site, ALONE)
    assert kinds(plan) == ["security/shop/step-back"] and not cuts(plan)
    carry_out(fake, plan)
    assert set(fake.modes("shop").values()) == {"Monitor"} and read_life_record(fake.kube).intent is None
    assert plan_now(fake.site, ALONE).empty


def test_what_was_blocked_while_nobody_watched_is_taken_back_whatever_is_asked(fake, monkeypatch):
    died(fake, monkeypatch, "watch")
    fake.days(0.1)
    fake.groups.talk("nv.train.red", "nv.db.shop", 5432)
    plan = plan_now(fake.site, Ask())
    assert kinds(plan) == ["security/shop/step-back"]
    assert any("known-good traffic was blocked: train.red>db.shop:5432" in note for note in plan.notes)


def test_taking_back_that_dies_is_taken_up_again(fake, monkeypatch):
    died(fake, monkeypatch, "watch")
    plan = plan_now(fake.site, ALONE)
    with pytest.raises(FencedError):
        carry_out(fake, plan, FakeLease(lives=1))
    assert sorted(fake.modes("shop").values()) == ["Monitor", "Protect"]
    carry_out(fake, plan_now(fake.site, ALONE))
    assert set(fake.modes("shop").values()) == {"Monitor"}


def test_an_operator_takes_enforcement_away(fake):
    observed(fake)
    carry_out(fake, plan_now(fake.site, SHOP))
    plan = plan_now(fake.site, Ask("step back", ("shop",)))
    assert not cuts(plan)
    carry_out(fake, plan)
    assert set(fake.modes("shop").values()) == {"Monitor"} and plan_now(fake.site, Ask("step back", ("shop",))).empty


# --- admission control -----------------------------------------------------------------------------------------------

ADMISSION = Ask(admission=True)
BAD_RULE = {"cfg_type": "user_created", "rule_type": "deny", "criteria": [
    {"name": "image", "op": "containsAny", "value": "registry.example/web:*"}]}  # fmt: skip


def test_admission_control_is_promoted_where_its_product_holds_it(fake):
    """The custom resource is changed: the REST API refuses to."""
    fake.days(4)
    plan = plan_now(fake.site, ADMISSION)
    assert kinds(plan) == ["security/admission/protect", "security/admission/watch"] and cuts(plan)
    carry_out(fake, plan)
    assert fake.admission.state()["mode"] == "protect" and plan_now(fake.site, ADMISSION).empty
    assert not [one for one in fake.kube.changes if "/v1/admission" in one]


def test_it_refuses_while_a_running_workload_would_be_refused(fake):
    fake.days(4)
    fake.admission._add(BAD_RULE)
    text = refused(fake, ADMISSION)
    assert "Deployment shop/web" in text and "rule 1001 (registry.example/web:1)" in text


def test_it_refuses_before_its_time_and_where_the_site_file_does_not_want_it(fake, tmp_path):
    fake.days(1)
    assert "1.0 days" in refused(fake, ADMISSION)
    calm = SecuritySite(tmp_path, admission="monitor")
    calm.days(9)
    assert "the site file wants it to monitor only" in refused(calm, ADMISSION)


def test_a_workload_of_ours_that_is_refused_steps_back(fake, monkeypatch):
    fake.days(4)
    plan = plan_now(fake.site, ADMISSION)
    during_the_watch(fake, monkeypatch, lambda: fake.admission._add(BAD_RULE))
    with pytest.raises(SteppedBackError, match="Deployment shop/web is refused"):
        carry_out(fake, plan)
    assert fake.admission.state()["mode"] == "monitor" and read_life_record(fake.kube).intent is None


def test_what_the_assessment_does_not_tell_the_dry_run_does(fake, monkeypatch):
    """A pod that the API server refuses only now, and not before, is one that admission control refuses."""
    fake.days(4)
    plan = plan_now(fake.site, ADMISSION)
    monkeypatch.setattr("tasks.security_look.would_refuse", lambda row: "")
    during_the_watch(fake, monkeypatch, lambda: fake.admission._add(BAD_RULE))
    with pytest.raises(SteppedBackError, match=r"403 admission webhook .*denied the request: <Server Dry Run>"):
        carry_out(fake, plan)


def test_a_promotion_of_admission_control_that_died_is_taken_back(fake, monkeypatch):
    fake.days(4)
    plan = plan_now(fake.site, ADMISSION)
    with monkeypatch.context() as patch:
        patch.setattr(fake.clock, "wait", _kill)
        with pytest.raises(Killed):
            carry_out(fake, plan)
    assert fake.admission.state()["mode"] == "protect"
    back = plan_now(fake.site, ALONE)
    assert kinds(back) == ["security/admission/step-back"]
    carry_out(fake, back)
    assert fake.admission.state()["mode"] == "monitor" and plan_now(fake.site, ALONE).empty


def test_a_deploy_leaves_the_mode_alone_that_was_promoted(fake):
    """deploy-stack applies the resource again, without a conflict and with the mode that is there."""
    fake.days(4)
    carry_out(fake, plan_now(fake.site, ADMISSION))
    (item,) = after(fake.spec)
    layers._apply(fake.kube, item, {})
    assert fake.admission.state()["mode"] == "protect" and fake.admission.state()["enable"]


# --- the wire --------------------------------------------------------------------------------------------------------


def test_lists_are_read_to_their_end(fake):
    for number in range(430):
        fake.groups.logs["incident"].append(
            {"id": str(number), "name": "x", "reported_timestamp": int(fake.clock.at), "workload_domain": "shop"}
        )
    with admin_session(fake.site) as call:
        assert len(list(pages(call, "/v1/log/incident", "incidents"))) == 430
    assert [path for _, path in fake.kube.asked if "log" in path] == [
        f"/v1/log/incident?start={start}&limit=200" for start in (0, 200, 400)
    ]


def test_a_session_that_ended_is_begun_anew(fake):
    with admin_session(fake.site) as call:
        fake.clock.at += 301
        assert asked(call, "GET", "/v1/controller")
    assert fake.product.sessions == {}


def test_no_session_is_left_over_a_limit_says_so_and_no_secret_is_told(fake, caplog):
    caplog.set_level(logging.DEBUG)
    body = {"password": {"username": "admin", "password": PASSWORD}}
    for _ in range(32):
        fake.product._login(body)
    with pytest.raises(SecurityLoginError, match="32 sessions") as raised, admin_session(fake.site):
        pass
    fake.product.sessions.clear()
    with pytest.raises(SecurityApiError, match="URL not found") as other, admin_session(fake.site) as call:
        asked(call, "GET", "/v1/nothing")
    token = [line for line in caplog.text.split() if any(one in line for one in fake.product.sessions)]
    assert not token and PASSWORD not in caplog.text + str(raised.value) + str(other.value)


def test_a_record_that_is_none_is_refused(fake):
    meta = {"name": "security-life", "namespace": "stackwright"}
    fake.kube.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"record": "{}x"}})
    with pytest.raises(LifeRecordError, match="security-life"):
        plan_now(fake.site, ALONE)


def test_names_of_runs(monkeypatch):
    monkeypatch.setattr(life, "flow_run", type("Run", (), {"parameters": {"site": "berlin", "namespaces": ["shop"]}}))
    assert life.name_of_run() == "promote-security-berlin-shop"


def test_each_line_of_the_products_logs_has_an_id_of_its_own(fake, monkeypatch):
    """Also in one second, and after the oldest were dropped: whoever reads page after page tells lines apart by it."""
    monkeypatch.setattr("stackwright.lab.operators.security_groups.LOG_SIZE", 3)
    seen = set()
    for _ in range(8):
        fake.groups.threaten("external", "nv.web.shop", "SQL.Injection")
        seen |= {line["id"] for line in fake.groups.logs["threat"]}
    assert len(seen) == 8 and len(fake.groups.logs["threat"]) == 3
