"""What SUSE Security's answers mean: groups, events that are known to be good or not, what would be refused."""

from __future__ import annotations

import pytest

from stackwright.domain.layers import BY_NAME
from stackwright.domain.layers.model import ObjectSpec
from stackwright.domain.layers.security import after, check, is_system
from stackwright.domain.security_facts import own_namespaces, parse_event, parse_groups, would_refuse
from tests.domain.layers.sites import lab

OWN = frozenset({"shop", "red"})


def ends(client="", server="", **more):
    row = {"id": "1", "reported_timestamp": 5, "client_domain": client, "server_domain": server, "server_port": 80,
           "client_name": "c", "server_name": "s", "client_id": "c", "server_id": "s",
           "policy_action": "violate"}  # fmt: skip
    return {**row, **more}


VIOLATIONS = [
    (ends("shop", "red"), True, False),
    (ends("shop", "shop", policy_action="deny"), True, True),
    (ends("", "shop", client_id="Host:srv1:1"), True, False),
    (ends("", "shop", client_id="external"), False, False),
    (ends("shop", "", server_id="external"), False, False),
    (ends("elsewhere", "shop"), False, False),
]


@pytest.mark.parametrize(("row", "good", "blocked"), VIOLATIONS)
def test_traffic_is_known_to_be_good_where_both_ends_are_ours(row, good, blocked):
    event = parse_event("violation", row, OWN)
    assert (event.known_good, event.blocked, event.at) == (good, blocked, 5)
    assert event.namespaces == {row["client_domain"], row["server_domain"]} - {""}


INCIDENTS = [
    ("Process.Profile.Violation", "shop", True),
    ("Process.Profile.Violation", "elsewhere", False),
    ("Container.Suspicious.Process", "shop", False),
    ("Container.Privilege.Escalation", "shop", False),
    ("Container.FileAccess.Violation", "shop", False),
]


@pytest.mark.parametrize(("name", "space", "good"), INCIDENTS)
@pytest.mark.parametrize("action", ["Alert", "Denied"])
def test_a_process_is_known_to_be_good_in_a_workload_of_ours_unless_it_is_suspicious(name, space, good, action):
    row = {"id": "1", "name": name, "workload_domain": space, "proc_path": "/bin/x", "action": action}
    event = parse_event("incident", row, OWN)
    assert (event.known_good, event.blocked) == (good, action == "Denied")


def test_an_attack_is_never_known_to_be_good():
    row = {"id": "1", "name": "SQL.Injection", "client_workload_domain": "shop", "server_workload_domain": "red"}
    event = parse_event("threat", {**row, "action": "deny"}, OWN)
    assert not event.known_good and event.blocked and event.namespaces == {"shop", "red"}


def group(**more):
    return {"name": "nv.web.shop", "domain": "shop", "policy_mode": "Discover", "cfg_type": "learned", **more}


def test_groups_of_workloads_alone_are_read_with_the_age_of_the_oldest_container():
    rows = [
        group(),
        group(name="nodes", policy_mode="Discover"),
        group(name="nv.ip.shop", policy_mode=""),
        group(name="custom"),
    ]
    workloads = [
        {"brief": {"service_group": "nv.web.shop"}, "secured_at": f"2026-11-{day}T00:00:00Z"} for day in (20, 10)
    ]
    (found,) = parse_groups(rows, [*workloads, {"brief": {"service_group": "nv.web.shop"}, "secured_at": ""}])
    assert found.service == "web.shop" and found.secured_at == 1794268800.0


MODES = [
    ({}, "Discover"),
    ({"policy_mode": "Protect", "profile_mode": "Monitor"}, "Monitor"),
    ({"policy_mode": "Monitor", "profile_mode": "Protect"}, "Monitor"),
    ({"policy_mode": "Strange", "profile_mode": "Strange"}, "unknown"),
]


@pytest.mark.parametrize(("more", "mode"), MODES)
def test_of_two_modes_the_one_that_stops_less_counts(more, mode):
    assert parse_groups([group(**more)], [])[0].mode == mode


def rule(kind="deny", **more):
    return {"id": 7, "type": kind, "container_image": "a:1", "disabled": False, "mode": "", "rule_details": "d", **more}


REFUSED = [
    ([], True, ""),
    ([rule()], True, "rule 7 (a:1): d"),
    ([rule(disabled=True)], True, ""),
    ([rule(mode="monitor")], True, ""),
    ([rule(mode="protect")], True, "rule 7 (a:1): d"),
    ([rule(), rule("allow")], True, ""),
    ([rule(), rule("allow", container_image="b:1")], True, "rule 7 (a:1): d"),
    ([rule(), rule("allow", disabled=True)], True, "rule 7 (a:1): d"),
    ([], False, "because"),
]


@pytest.mark.parametrize(("rules", "allowed", "why"), REFUSED)
def test_what_protect_would_refuse_is_read_off_an_answer_in_monitor(rules, allowed, why):
    assert would_refuse({"matched_rules": rules, "allowed": allowed, "message": "because"}) == why


def test_our_own_namespaces_are_those_of_layers_tenants_and_the_list():
    spec = lab(layers={"security": {"life": {"protect": ["shop"]}}})
    own = own_namespaces(spec)
    assert {"shop", "clearml", "kube-system", *(tenant.namespace for tenant in spec.tenants)} <= own


def test_a_life_may_not_enforce_the_platform_without_being_told():
    for name in ("kube-system", "cattle-system", "longhorn-system"):
        bare = lab(layers={"security": {"life": {"protect": ["shop", name]}}})
        assert [problem.seen for problem in check(bare)] == ["not there"] and name in check(bare)[0].what
        assert not check(lab(layers={"security": {"life": {"protect": [name], "system": [name]}}}))
    assert not is_system("shop") and not check(lab())


# --- the mode that deploy-stack says once ----------------------------------------------------------------------------


def test_the_mode_that_promote_security_sets_is_left_alone():
    (item,) = after(lab())
    spec = item.manifest["spec"]
    assert item.beside(None) == item.manifest and spec["config"]["mode"] == "monitor"
    seen = {**item.manifest, "spec": {"config": {**spec["config"], "mode": "protect", "enable": False}}}
    kept = item.beside(seen)
    assert kept["spec"]["config"] == {"enable": True, "mode": "protect", "client_mode": "service"}
    assert item.manifest["spec"]["config"]["mode"] == "monitor", "the wish itself is untouched"
    assert item.beside({"spec": {}}) == item.manifest
    assert ObjectSpec({"a": 1}).beside({"a": 2}) == {"a": 1}


def test_the_layer_begins_as_its_life_asks():
    def start(spec):
        (_, main) = BY_NAME["security"].releases(spec)
        return main.values["controller"]["secret"]["data"]["sysinitcfg.yaml"]

    assert start(lab())["New_Service_Policy_Mode"] == "Monitor"
    with_life = start(lab(layers={"security": {"life": {}}}))
    assert with_life["New_Service_Policy_Mode"] == with_life["New_Service_Profile_Mode"] == "Discover"
