"""What SUSE Security's REST API promises our sessions: always against the stand-in, and against a real one when given.

STACKWRIGHT_LIVE_SECURITY is its REST API's URL; STACKWRIGHT_LIVE_SECURITY_PASSWORD_FILE names a file with the
administrator's password (or STACKWRIGHT_LIVE_SECURITY_PASSWORD holds it), STACKWRIGHT_LIVE_SECURITY_CA a PEM file if it
needs one. Without them the live half is skipped, and says so. There it is read, asked for what must be refused, and
given disabled admission rules, which are removed. STACKWRIGHT_LIVE_SECURITY_GROUP names a learned group in Discover
that may be moved: it goes to Monitor and back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from stackwright.clients.http import tls_context
from stackwright.domain.security_facts import MODES, parse_event, parse_groups
from tests.tasks.security_site import NAMESPACE, PASSWORD, SecuritySite

LIVE = os.environ.get("STACKWRIGHT_LIVE_SECURITY", "")
SERVICE = "neuvector-svc-controller-api"


@dataclass
class Product:
    """A SUSE Security under test: `send` is one request; `group` one that may be moved, if there is one."""

    send: Callable[..., tuple[int, Any]]
    password: str
    group: str
    crd: bool
    token: str = ""

    def login(self, password: str | None = None) -> tuple[int, Any]:
        return self.send("POST", "/v1/auth", {"password": {"username": "admin", "password": password or self.password}})

    def ask(self, method: str, path: str, body: Any = None, text: str = "") -> tuple[int, Any]:
        return self.send(method, path, body, self.token, text)

    def good(self, method: str, path: str, body: Any = None, text: str = "") -> Any:
        status, found = self.ask(method, path, body, text)
        assert status == 200, (status, found)
        return found


def _password() -> str:
    """Return the administrator's password, from its file or its variable."""
    file = os.environ.get("STACKWRIGHT_LIVE_SECURITY_PASSWORD_FILE")
    if file:
        return Path(file).read_text(encoding="utf-8").strip()
    return os.environ["STACKWRIGHT_LIVE_SECURITY_PASSWORD"]


NOT_GIVEN = pytest.mark.skipif(not LIVE, reason="no real SUSE Security: STACKWRIGHT_LIVE_SECURITY is not set")


@pytest.fixture(scope="module", params=["stand-in", pytest.param("live", marks=NOT_GIVEN)])
def product(request, tmp_path_factory):
    if request.param == "live":
        ca = os.environ.get("STACKWRIGHT_LIVE_SECURITY_CA")
        with httpx.Client(base_url=LIVE, verify=tls_context(ca), timeout=60) as client:

            def send(method, path, body=None, token="", text=""):
                headers = {"X-Auth-Token": token} if token else {}
                data = text.encode() if text else b"" if body is None else json.dumps(body).encode()
                answer = client.request(method, path, content=data, headers=headers)
                return answer.status_code, answer.json() if answer.content else {}

            group = os.environ.get("STACKWRIGHT_LIVE_SECURITY_GROUP", "")
            yield from _session(Product(send, _password(), group, False))
        return
    fake = SecuritySite(tmp_path_factory.mktemp("security"))

    def send_here(method, path, body=None, token="", text=""):
        headers = {"X-Auth-Token": token} if token else {}
        data = text.encode() if text else None
        answer = fake.kube.service_request(NAMESPACE, SERVICE, 10443, method, path, json_body=body, body=data,
                                           headers=headers, scheme="https")  # fmt: skip
        return answer.status, answer.json() if answer.body else {}

    made = Product(send_here, PASSWORD, "nv.web.shop", True)
    made.fake = fake  # type: ignore[attr-defined]  # for the tests that can be tried on a stand-in alone
    yield from _session(made)


def _session(product):
    status, body = product.login()
    assert status == 200, body
    product.token = body["token"]["token"]
    yield product
    assert product.ask("DELETE", "/v1/auth")[0] == 200
    assert product.ask("GET", "/v1/controller")[0] == 401, "the session is over"


def test_a_wrong_password_and_no_session_are_401(product):
    status, body = product.login("wrong-" + "x" * 12)
    assert status == 401 and body["code"] == 3 and body["error"] == "Authentication failed"
    for token in ("", "not-a-token"):
        assert product.send("GET", "/v1/controller", None, token)[0] == 401


@pytest.mark.parametrize("body", [{}, {"password": None}])
def test_a_login_without_a_password_is_400(product, body):
    assert product.send("POST", "/v1/auth", body)[0] == 400


def test_an_unknown_address_and_an_unknown_group_are_404(product):
    assert product.ask("GET", "/v1/stackwright-nothing")[0] == 404
    status, body = product.ask("GET", "/v1/group/nv.stackwright-nothing.nowhere")
    assert status == 404 and body["code"] == 7


def test_groups_have_what_the_life_reads(product):
    rows = product.good("GET", "/v1/group?with_cap=true")["groups"]
    for row in rows:
        if row["name"].startswith("nv.") and row.get("policy_mode"):
            assert {row["policy_mode"], row.get("profile_mode") or row["policy_mode"]} <= set(MODES)
            assert row["cfg_type"] in ("learned", "user_created", "ground", "federal") and "domain" in row
    workloads = product.good("GET", "/v2/workload")["workloads"]
    assert all({"brief", "security", "secured_at"} <= one.keys() for one in workloads)
    assert parse_groups(rows, workloads)


def test_pages_are_cut_and_put_together(product):
    whole = [one["name"] for one in product.good("GET", "/v1/group")["groups"]]
    parts = [
        one["name"]
        for start in range(0, len(whole) + 2, 2)
        for one in product.good("GET", f"/v1/group?start={start}&limit=2")["groups"]
    ]
    assert parts == whole
    assert product.good("GET", f"/v1/group?start={len(whole) + 5}&limit=2")["groups"] == []


REFUSED = [
    ({"config": {"services": []}}, 400, 6),
    ({"config": {"services": ["stackwright-nothing.nowhere"], "policy_mode": "Enforce"}}, 400, 6),
    ({"config": {"services": ["stackwright-nothing.nowhere"], "profile_mode": "protect"}}, 400, 6),
    ({"config": {"services": ["stackwright-nothing.nowhere"], "baseline_profile": "none"}}, 400, 6),
    ({"config": {"services": ["stackwright-nothing.nowhere"], "policy_mode": "Monitor"}}, 404, 7),
]


@pytest.mark.parametrize(("body", "status", "code"), REFUSED)
def test_a_change_of_mode_is_refused(product, body, status, code):
    seen, answer = product.ask("PATCH", "/v1/service/config", body)
    assert (seen, answer["code"]) == (status, code)


def test_a_group_is_moved_and_moved_back(product):
    if not product.group:
        pytest.skip("STACKWRIGHT_LIVE_SECURITY_GROUP names no group")

    def mode():
        group = product.good("GET", f"/v1/group/{product.group}")["group"]
        return group["policy_mode"], group["profile_mode"]

    assert mode() == ("Discover", "Discover")
    service = product.group.removeprefix("nv.")
    for wanted in ("Monitor", "Discover"):
        config = {"services": [service], "policy_mode": wanted, "profile_mode": wanted}
        product.good("PATCH", "/v1/service/config", {"config": config})
        assert mode() == (wanted, wanted)


@pytest.mark.parametrize("kind", ["violation", "incident", "threat"])
def test_logs_are_filtered_by_time_and_can_be_read(product, kind):
    rows = product.good("GET", f"/v1/log/{kind}?limit=50")[f"{kind}s"]
    assert [parse_event(kind, row, frozenset()).id for row in rows] == [row["id"] for row in rows]
    assert rows == sorted(rows, key=lambda row: -row["reported_timestamp"])
    newest = max([row["reported_timestamp"] for row in rows], default=0)
    later = product.good("GET", f"/v1/log/{kind}?f_reported_timestamp=gte,{newest + 86400 * 365}&limit=50")
    assert later[f"{kind}s"] == []


def test_new_services_have_a_mode_and_a_wrong_one_is_refused(product):
    config = product.good("GET", "/v2/system/config")["config"]["new_svc"]
    assert config["new_service_policy_mode"] in MODES
    wrong = {"config_v2": {"svc_cfg": {"new_service_policy_mode": "Enforce"}}}
    assert product.ask("PATCH", "/v2/system/config", wrong)[0] == 400
    assert product.good("GET", "/v2/system/config")["config"]["new_svc"] == config


def test_images_are_listed_with_counts_and_a_time(product):
    for row in product.good("GET", "/v1/scan/image")["images"]:
        assert row["status"] == "finished" and row["scanned_timestamp"] > 0
        assert all(isinstance(row[key], int) for key in ("critical", "high", "medium"))


def test_the_state_of_admission_control(product):
    state = product.good("GET", "/v1/admission/state")["state"]
    assert state["mode"] in ("monitor", "protect") and isinstance(state["enable"], bool)
    status, body = product.ask("PATCH", "/v1/admission/state", {"state": {"mode": "enforce"}})
    assert status == 400 and body["code"] in (4, 6), "held by a resource, or no such mode"
    assert product.good("GET", "/v1/admission/state")["state"]["mode"] == state["mode"]


def test_what_a_custom_resource_holds_is_not_changed_over_rest(product):
    state = product.good("GET", "/v1/admission/state")["state"]
    if state["cfg_type"] != "ground":
        pytest.skip("no custom resource holds the state here")
    status, body = product.ask("PATCH", "/v1/admission/state", {"state": {"mode": state["mode"]}})
    assert (status, body["code"]) == (400, 4)


RULE = {
    "cfg_type": "user_created", "rule_type": "deny", "category": "Kubernetes", "disable": True,
    "comment": "stackwright contract test", "criteria": [
        {"name": "image", "op": "containsAny", "value": "registry.stackwright.test/never:1"}],
}  # fmt: skip


def test_rules_come_in_the_products_order(product):
    """Its own first, then those of the custom resource, then those of users; of each the exceptions first."""
    exception = {**RULE, "rule_type": "exception", "comment": "stackwright contract test, exception"}
    for body in (RULE, exception):
        product.good("POST", "/v1/admission/rule", {"config": body})
    rules = product.good("GET", "/v1/admission/rules")["rules"]
    mine = [one for one in rules if one["comment"].startswith("stackwright contract test")]
    try:
        places = [
            (0 if one["critical"] else 1 if one["cfg_type"] == "ground" else 2, one["rule_type"] != "exception")
            for one in rules
            if one["cfg_type"] != "federal"
        ]
        assert places == sorted(places) and [one["rule_type"] for one in mine] == ["exception", "deny"]
    finally:
        for one in mine:
            product.good("DELETE", f"/v1/admission/rule/{one['id']}")


def test_a_rule_is_added_assessed_and_removed(product):
    rule = product.good("POST", "/v1/admission/rule", {"config": RULE})
    rules = product.good("GET", "/v1/admission/rules")["rules"]
    (mine,) = [one for one in rules if one["comment"] == RULE["comment"]]
    try:
        assert rule is not None and mine["rule_type"] == "deny" and mine["disable"]
        pod = {"containers": [{"name": "a", "image": "registry.stackwright.test/never:1"}]}
        meta = {"name": "stackwright-contract", "namespace": "stackwright-contract"}
        text = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod})
        text += "\n---\n" + json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
        first, second = product.good("POST", "/v1/assess/admission/rule", text=text)["results"]
        assert (first["index"], first["kind"], first["name"]) == (1, "Pod", "stackwright-contract") and first["allowed"]
        matched = [one for one in first["matched_rules"] if one["id"] == mine["id"]]
        assert [(one["disabled"], one["type"]) for one in matched] == [(True, "deny")], (
            "told, though it is switched off"
        )
        assert second["allowed"] and "not assessed" in second["message"]
    finally:
        product.good("DELETE", f"/v1/admission/rule/{mine['id']}")
    assert product.ask("GET", f"/v1/admission/rule/{mine['id']}")[0] == 404


@pytest.mark.parametrize(
    "change", [{"rule_type": "maybe"}, {"rule_mode": "enforce"}, {"rule_type": "exception", "rule_mode": "protect"}]
)
def test_a_rule_in_the_wrong_form_is_refused(product, change):
    status, body = product.ask("POST", "/v1/admission/rule", {"config": {**RULE, **change}})
    assert (status, body["code"]) == (400, 6)


# --- tried on the stand-in alone: it would cost a real one its sessions or its users ----------------------------------


@pytest.fixture
def stand_in(product):
    if not hasattr(product, "fake"):
        pytest.skip("not tried on a real product")
    return product


def test_the_33rd_session_is_refused_and_idle_ones_end(stand_in):
    tokens = [stand_in.login()[1]["token"]["token"] for _ in range(31)]
    assert stand_in.login()[0] == 401
    stand_in.fake.clock.at += 200
    assert stand_in.ask("GET", "/v1/controller")[0] == 200, "used: it lives on"
    stand_in.fake.clock.at += 150
    assert stand_in.send("GET", "/v1/controller", None, tokens[0])[0] == 401 and stand_in.login()[0] == 200
    stand_in.ask("GET", "/v1/controller")


def test_a_reader_may_look_and_not_change(stand_in):
    token = "reader"
    stand_in.fake.product.sessions[token] = ["guest", stand_in.fake.clock.at, "reader"]
    assert stand_in.send("GET", "/v1/group", None, token)[0] == 200
    status, body = stand_in.send("PATCH", "/v1/service/config", {"config": {"services": ["web.shop"]}}, token)
    assert (status, body["code"], body["error"]) == (403, 25, "Object access denied")


def test_a_body_that_is_no_json_is_400(stand_in):
    assert stand_in.ask("PATCH", "/v1/service/config", text="{")[0] == 400
