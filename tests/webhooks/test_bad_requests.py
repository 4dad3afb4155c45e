"""Bad requests: each gets its 4xx with every problem and changes nothing; a secret in one is never repeated."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.webhooks.receiver import KEY, KEY_ID, OTHER_KEY, SITE, Receiver, order

PLANTED = "hunter2-planted-secret"
POST, PATCH_GREEN = ("POST", "/v1/tenants"), ("PATCH", f"/v1/tenants/{SITE}/green")
DELETE_GREEN = ("DELETE", f"/v1/tenants/{SITE}/green")

EVIL = {
    "provider": "keycloak", "client_id": "ml", "client_block": "clearml-tenant-violet-sso",
    "base_url": "https://evil.example.com",
}  # fmt: skip


@dataclass(frozen=True)
class Bad:
    """One bad request: what is sent, the status that it gets, and a place or word that the answer names."""

    name: str
    status: int
    names: str
    body: Any = None
    to: tuple[str, str] = POST
    over: dict[str, Any] = field(default_factory=dict)


def tenant(name: str, status: int, names: str, /, **parts: Any) -> Bad:
    """A tenant whose parts are wrong."""
    base = {"name": "violet", "admin_email": "ops@violet.example"}
    return Bad(name, status, names, {"site": SITE, "tenant": {**base, **parts}})


def raw(name: str, status: int, names: str, sent: bytes) -> Bad:
    """A body that is sent as it is."""
    return Bad(name, status, names, over={"raw": sent})


def patch(name: str, status: int, names: str, body: Any) -> Bad:
    """A change of the tenant `green` that is wrong."""
    return Bad(name, status, names, body, PATCH_GREEN)


GOOD = order("violet")
QUOTA = {"cpu": 8, "memory_gib": 32, "gpus": 0, "storage_gib": 100, "pods": 20}
LARGE = {**QUOTA, "cpu": 65}
AROUND = b'{"site":"lab","tenant":{%b}}'
DEEP = b'{"site":"lab","tenant":' + b"[" * 5000 + b"]" * 5000 + b"}"
BAD = [
    # names that Kubernetes or ClearML refuse
    tenant("name-short", 422, "tenant.name", name="ab"),
    tenant("name-long", 422, "tenant.name", name="a" * 56),
    tenant("name-upper", 422, "tenant.name", name="Violet"),
    tenant("name-underscore", 422, "tenant.name", name="vio_let"),
    tenant("name-hyphen-end", 422, "tenant.name", name="violet-"),
    tenant("name-empty", 422, "tenant.name", name=""),
    tenant("name-number", 422, "tenant.name", name=42),
    tenant("name-reserved", 422, "tenant.name", name="stackwright"),
    tenant("name-reserved-prefix", 422, "tenant.name", name="kube-violet"),
    # regular expressions and traversal
    tenant("name-regex-all", 422, "tenant.name", name=".*"),
    tenant("name-regex-group", 422, "tenant.name", name="(violet|red)"),
    tenant("name-regex-anchor", 422, "tenant.name", name="^red$"),
    tenant("name-traversal", 422, "tenant.name", name="../../red"),
    tenant("name-encoded-traversal", 422, "tenant.name", name="..%2f..%2fred"),
    tenant("name-slash", 422, "tenant.name", name="red/blue"),
    Bad("site-traversal", 422, "site", {**GOOD, "site": "../lab"}),
    Bad("path-traversal", 404, "", {"action": "suspend"}, ("PATCH", "/v1/tenants/lab/..%2f..%2fadmin")),
    Bad("path-regex", 422, "path.name", {"action": "suspend"}, ("PATCH", "/v1/tenants/lab/.%2A")),
    # unicode
    tenant("name-cyrillic", 422, "tenant.name", name="vi\u043elet"),
    tenant("name-newline", 422, "tenant.name", name="violet\n"),
    tenant("name-nul", 422, "tenant.name", name="vio\u0000let"),
    tenant("admin-control", 422, "tenant.admin_name", admin_name="Ada\u0007"),
    tenant("admin-bidi", 422, "tenant.admin_name", admin_name="Ada \u202egnp.exe"),
    tenant("admin-zero-width", 422, "tenant.admin_name", admin_name="Ada\u200bByron"),
    tenant("admin-decomposed", 422, "tenant.admin_name", admin_name="Zoe\u0308"),
    tenant("admin-blank", 422, "tenant.admin_name", admin_name="   "),
    tenant("admin-long", 422, "tenant.admin_name", admin_name="a" * 101),
    raw("surrogate", 422, "", AROUND % b'"admin_email":"\\ud800@x.example"'),
    raw("latin-1", 400, "body", AROUND % '"admin_name":"Zoë"'.encode("latin-1")),
    raw("byte-order-mark", 400, "body", b"\xef\xbb\xbf{}"),
    # markers that Prefect or our own values resolve
    tenant("prefect-kind-as-name", 422, "tenant.name", name={"__prefect_kind": "json"}),
    tenant("prefect-kind-in-admin", 422, "tenant.admin_name", admin_name="x __prefect_kind x"),
    tenant("prefect-kind-as-key", 422, "tenant.__prefect_kind", **{"__prefect_kind": "json", "value": "1"}),
    tenant("ref-as-email", 422, "tenant.admin_email", admin_email={"$ref": {"block_document_slug": "api-key/x"}}),
    tenant("ref-in-admin", 422, "tenant.admin_name", admin_name="$ref"),
    tenant("ref-as-quota", 422, "tenant.quota[$ref]", quota={"$ref": "#/x"}),
    tenant("value-marker", 422, "tenant.admin_name", admin_name="${secret:clearml-supervisor.secret_key}"),
    tenant("template", 422, "tenant.admin_name", admin_name="{{ prefect.blocks.secret.x }}"),
    # schema
    Bad("no-body", 415, "Content-Type"),
    raw("not-json", 400, "body", b"site=lab"),
    Bad("list", 422, "body", []),
    Bad("nothing", 422, "site", {}),
    Bad("no-tenant", 422, "tenant", {"site": SITE}),
    Bad("unknown-field", 422, "region", {**GOOD, "region": "eu"}),
    tenant("unknown-tenant-key", 422, "tenant.tcp_ports", tcp_ports={"start": 22, "end": 22}),
    tenant("namespaces", 422, "tenant.allowed_namespaces", allowed_namespaces=["kube-system"]),
    raw("key-twice", 400, "name", AROUND % b'"name":"violet","name":"red"'),
    raw("not-a-number", 400, "body", b'{"site":"lab","tenant":{"quota":{"cpu":NaN}}}'),
    raw("endless-number", 400, "body", AROUND % (b'"workspace_gib":1' + b"0" * 5000)),
    raw("deep", 400, "body", DEEP),
    Bad("query", 422, "dry_run", GOOD, ("POST", "/v1/tenants?dry_run=true")),
    Bad("content-type", 415, "Content-Type", GOOD, over={"Content_Type": "text/plain"}),
    Bad("compressed", 415, "Content-Encoding", GOOD, over={"Content_Encoding": "gzip"}),
    # quota
    tenant("quota-unit", 422, "tenant.quota.memory_gib", quota={"memory_gib": "64Gi"}),
    tenant("quota-text", 422, "tenant.quota.cpu", quota={"cpu": "16"}),
    tenant("quota-bool", 422, "tenant.quota.cpu", quota={"cpu": True}),
    tenant("quota-fraction", 422, "tenant.quota.gpus", quota={"gpus": 0.5}),
    tenant("quota-negative", 422, "tenant.quota.gpus", quota={"gpus": -1}),
    tenant("quota-zero", 422, "tenant.quota.cpu", quota={"cpu": 0}),
    tenant("quota-unknown", 422, "tenant.quota.memory_gb", quota={"memory_gb": 64}),
    tenant("quota-huge", 422, "tenant.quota.pods", quota={"pods": 10**20}),
    tenant("quota-beyond-caller", 403, "tenant.quota.storage_gib", quota={"storage_gib": 2001}),
    tenant("quota-beyond-site", 422, "tenant.quota.gpus", quota={"gpus": 64}),
    tenant("quota-shared-out", 409, "tenant.quota.gpus", quota={"gpus": 2}),
    tenant("workspace-beyond-quota", 422, "tenant.workspace_gib", workspace_gib=201),
    # queues
    tenant("no-queue", 422, "tenant.queues", queues=[]),
    tenant("queue-short", 422, "tenant.queues[0].name", queues=[{"name": "q"}]),
    tenant("queue-regex", 422, "tenant.queues[0].name", queues=[{"name": "que.*"}]),
    tenant("queue-twice", 422, "tenant.queues[1].name", queues=[{"name": "one"}, {"name": "ONE"}]),
    tenant("queue-gpus", 422, "tenant.queues[0].gpus", queues=[{"name": "gpu", "gpus": 1}]),
    tenant("queue-many", 422, "tenant.queues", queues=[{"name": f"queue{n}"} for n in range(33)]),
    tenant("queue-mig", 422, "tenant.queues[0].mig", queues=[{"name": "mig", "mig": "1g.10gb;rm -rf"}]),
    # people and identity
    tenant("email-none", 422, "tenant.admin_email", admin_email="nobody"),
    tenant("email-space", 422, "tenant.admin_email", admin_email="a b@violet.example"),
    tenant("email-header", 422, "tenant.admin_email", admin_email="a@violet.example\r\nBcc: x@y.example"),
    tenant("email-shell", 422, "tenant.admin_email", admin_email="$(id)@violet.example"),
    tenant("email-taken-by-site", 409, "tenant.admin_email", admin_email="ADMIN@red.example"),
    tenant("email-taken", 409, "tenant.admin_email", admin_email="Ops@Green.example"),
    tenant("name-of-site-file", 409, "tenant.name", name="red"),
    tenant("name-taken", 409, "tenant.name", name="green"),
    tenant("another-block", 422, "tenant.identity.client_block", identity={"client_block": "clearml-supervisor"}),
    tenant("provider-http", 422, "tenant.identity.base_url", identity={"base_url": "http://login.example.com"}),
    tenant("provider-address", 422, "tenant.identity.base_url", identity={"base_url": "https://169.254.169.254/x"}),
    tenant("provider-user", 422, "tenant.identity.base_url", identity={"base_url": "https://a:b@login.example.com"}),
    tenant("provider-not-given", 403, "tenant.identity.base_url", identity=EVIL),
    tenant("domain", 422, "tenant.identity.domains[0]", identity={"domains": ["*"]}),
    tenant("domain-taken", 409, "tenant.identity.domains[0]", identity={"domains": ["green.example"]}),
    tenant("policy", 422, "tenant.policy.limit", policy={"reservation": 2, "limit": 1}),
    tenant("pool-regex", 422, "tenant.policy.pools[0]", policy={"pools": [".*"]}),
    # rights, state, address
    Bad("site-not-given", 403, "site", {**GOOD, "site": "berlin"}),
    Bad("no-such-address", 404, "", GOOD, ("POST", "/v1/tenant")),
    Bad("no-such-method", 405, "", GOOD, ("PUT", "/v1/tenants")),
    Bad("unknown-tenant", 404, "name", {"action": "suspend"}, ("PATCH", "/v1/tenants/lab/nobody")),
    Bad("tenant-of-another", 404, "name", {"action": "suspend"}, PATCH_GREEN, {"caller": "other"}),
    Bad("tenant-of-the-site-file", 409, "name", {"action": "suspend"}, ("PATCH", "/v1/tenants/lab/red")),
    patch("unknown-action", 422, "action", {"action": "destroy"}),
    patch("no-action", 422, "action", {"changes": {"workspace_gib": 1}}),
    patch("changes-nothing", 422, "changes", {"action": "change", "changes": {}}),
    patch("changes-null", 422, "changes.quota", {"action": "change", "changes": {"quota": None}}),
    patch("changes-name", 422, "changes.name", {"action": "change", "changes": {"name": "other"}}),
    patch("changes-with-suspend", 422, "changes", {"action": "suspend", "changes": {"workspace_gib": 1}}),
    patch("changes-too-much", 403, "changes.quota.cpu", {"action": "change", "changes": {"quota": LARGE}}),
    patch("changes-half-a-quota", 422, "changes.quota.gpus", {"action": "change", "changes": {"quota": {"cpu": 8}}}),
    Bad("delete-without-retention", 422, "retention", None, DELETE_GREEN),
    Bad("delete-not-archived", 409, "name", None, ("DELETE", f"{DELETE_GREEN[1]}?retention=delete&confirm=green")),
    Bad("delete-not-confirmed", 422, "confirm", None, ("DELETE", f"{DELETE_GREEN[1]}?retention=delete")),
    Bad("delete-retention", 422, "retention", None, ("DELETE", f"{DELETE_GREEN[1]}?retention=shred")),
    Bad("delete-with-body", 400, "body", {"retention": "archive"}, ("DELETE", f"{DELETE_GREEN[1]}?retention=archive")),
    # signature
    Bad("unsigned", 401, "X-Stackwright-Signature", GOOD, over={"X_Stackwright_Signature": ""}),
    Bad("no-key-id", 401, "X-Stackwright-Key", GOOD, over={"X_Stackwright_Key": ""}),
    Bad("unknown-caller", 401, "signature", GOOD, over={"X_Stackwright_Key": f"nobody:{KEY_ID}"}),
    Bad("unknown-key", 401, "signature", GOOD, over={"X_Stackwright_Key": "portal:ffffffff"}),
    Bad("anothers-key", 401, "signature", GOOD, over={"X_Stackwright_Key": f"other:{KEY_ID}"}),
    Bad("wrong-signature", 401, "signature", GOOD, over={"X_Stackwright_Signature": "v1=" + "0" * 64}),
    Bad("short-signature", 401, "X-Stackwright-Signature", GOOD, over={"X_Stackwright_Signature": "v1=00"}),
    Bad("old-version", 401, "X-Stackwright-Signature", GOOD, over={"X_Stackwright_Signature": "v0=" + "0" * 64}),
    Bad("time-is-text", 401, "X-Stackwright-Timestamp", GOOD, over={"X_Stackwright_Timestamp": "now"}),
    Bad("time-changed", 401, "signature", GOOD, over={"X_Stackwright_Timestamp": "soon"}),
    Bad("stale", 401, "X-Stackwright-Timestamp", GOOD, over={"X_Stackwright_Timestamp": "1700000000"}),
    Bad("idempotency-changed", 401, "signature", GOOD, over={"Idempotency_Key": "another-key-than-signed"}),
    Bad("idempotency-short", 400, "Idempotency-Key", GOOD, over={"key": "short"}),
    Bad("idempotency-missing", 400, "Idempotency-Key", GOOD, over={"key": ""}),
    # size
    Bad("too-long", 413, "body", {**GOOD, "pad": "x" * 70000}),
]  # fmt: skip


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory):
    """A receiver with one tenant, `green`, that is ready: what a bad request could change."""
    with Receiver(tmp_path_factory.mktemp("bad")).running() as running:
        assert running.onboard(identity={"domains": ["green.example"]}).status_code == 202
        running.wait("green", "ended")
        yield running


def kept(receiver: Receiver) -> tuple[list[Any], ...]:
    """Return all that the store and the orchestrator hold about requests and tenants."""
    with closing(sqlite3.connect(receiver.folder / "requests.db")) as db:
        looks = ("SELECT * FROM webhook_requests ORDER BY seq", "SELECT * FROM webhook_tenants ORDER BY site, name")
        rows = [db.execute(look).fetchall() for look in looks]
    return (*rows, list(receiver.runs.created))


def test_the_table_is_long_enough() -> None:
    assert len({bad.name for bad in BAD}) == len(BAD) >= 40


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_request_is_refused_and_changes_nothing(receiver: Receiver, bad: Bad) -> None:
    before = kept(receiver)
    if bad.name == "time-changed":
        bad.over["X_Stackwright_Timestamp"] = f"{receiver.clock.now() - 1:.3f}"
    answer = receiver.send(*bad.to, bad.body, **bad.over)
    assert answer.status_code == bad.status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == bad.status and body["problems"]
    places = [f"{problem['where']} {problem['what']}" for problem in body["problems"]]
    assert any(bad.names in place for place in places), places
    assert all(problem["remedy"] for problem in body["problems"])
    assert kept(receiver) == before


SECRETS: dict[str, Callable[[Receiver], Any]] = {
    "as-a-key": lambda r: r.send("POST", "/v1/tenants", {**GOOD, "password": PLANTED}),
    "nested": lambda r: r.onboard("violet", quota={"cpu": 1, "api_token": PLANTED}),
    "wrong-type": lambda r: r.onboard("violet", identity={"client_secret": {"value": PLANTED}}),
    "in-a-block-name": lambda r: r.onboard("violet", identity={"client_block": f"block {PLANTED}"}),
    "in-a-url": lambda r: r.onboard("violet", identity={"base_url": f"https://u:{PLANTED}@login.example.com"}),
    "broken-json": lambda r: r.send("POST", "/v1/tenants", raw=f'{{"password": "{PLANTED}"'.encode()),
    "twice": lambda r: r.send("POST", "/v1/tenants", raw=f'{{"a": "{PLANTED}", "a": "{PLANTED}"}}'.encode()),
    "in-a-query": lambda r: r.send("POST", f"/v1/tenants?token={PLANTED}", GOOD),
    "in-a-signature": lambda r: r.send("POST", "/v1/tenants", GOOD, X_Stackwright_Signature=PLANTED),
}


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_comes_back_or_stays(receiver: Receiver, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a caller sends by mistake is in no answer, log or file; nor are the signing keys."""
    caplog.set_level("DEBUG", logger="stackwright")
    answer = SECRETS[name](receiver)
    assert 400 <= answer.status_code < 500
    files = b"".join(path.read_bytes() for path in receiver.folder.iterdir())
    for secret in (PLANTED, KEY, OTHER_KEY):
        assert secret not in answer.text and secret not in caplog.text
        assert secret.encode() not in files
