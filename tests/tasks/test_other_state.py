"""Exports of blocks, security and Prefect's database, over the wire to an S3 store: sealed, read back, counted."""

from __future__ import annotations

import io
import json
import sqlite3

import pytest
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL, temporary_settings

from stackwright.clients.sealing import new_identity, opened
from stackwright.clients.store import StoreError
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiError, SecretMissingError, StackError
from stackwright.domain.layers import security
from tasks import other_state
from tests.store_server import ACCESS, SECRET, Fault, running_store
from tests.tasks.layer_site import FakeSite

CONFIG = b'{"policy": "PLANTED-POLICY"}'
SERVICE = (security.NAMESPACE, security.API_SERVICE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_store(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def fake(server, tmp_path):
    """A site whose store is there and empty, and whose SUSE Security lets itself be exported."""
    server.fault = None
    settings = server.settings().model_dump()
    identity = new_identity()
    blocks = {
        ("s3", "backup-store"): {"access_key": ACCESS, "secret_key": SECRET},
        ("secret-text", "backup-key"): {"value": identity.get_secret_value()},
        ("secret-text", "security-admin"): {"value": "planted-password"},
    }
    fake = FakeSite(tmp_path, blocks, backup=settings, site=f"lab-{tmp_path.name[-8:].strip('_').replace('_', '-')}")
    fake.identity, fake.store = identity, server.store()
    fake.kube.services = {
        (*SERVICE, "POST", "/v1/auth"): HttpAnswer(200, {}, b'{"token": {"token": "t"}}'),
        (*SERVICE, "DELETE", "/v1/auth"): HttpAnswer(200, {}, b"{}"),
        (*SERVICE, "GET", "/v1/file/config"): HttpAnswer(200, {}, CONFIG),
    }
    return fake


def content(fake, key: str) -> bytes:
    with fake.store.open(key) as stored, opened(stored, fake.identity) as plain:
        return plain.read()


def test_the_blocks_are_exported_sealed(fake):
    """Every block that there is comes back with the key; in the store there is none of them in clear."""
    key = other_state._saved(fake.site, "blocks")
    rows = json.loads(content(fake, key))["blocks"]
    kept = {(row["kind"], row["name"]): row["fields"] for row in rows}
    assert kept[("registry", "lab-registry")] == {"username": "lab", "password": "planted-lab"}
    assert ("s3", "backup-store") in kept
    with fake.store.open(key) as stored:
        assert b"planted" not in stored.read()
    assert set(other_state.read_exports(fake.site)) == {"blocks"}


def test_the_security_configuration_is_exported_and_the_session_ended(fake):
    calls = []
    asked = fake.kube.service_request
    fake.kube.service_request = lambda ns, svc, port, method="GET", path="/", **more: (
        calls.append((method, path)), asked(ns, svc, port, method, path, **more))[1]  # fmt: skip
    key = other_state._saved(fake.site, "security")
    assert json.loads(content(fake, key))["config"].encode() == CONFIG
    assert calls[-1] == ("DELETE", "/v1/auth")


@pytest.mark.parametrize("answer", [HttpAnswer(500, {}, b"no"), HttpAnswer(200, {}, b"")])
def test_an_empty_or_failed_export_is_none(fake, answer):
    """Nothing is put into the store for it, and it is not counted."""
    fake.kube.services[(*SERVICE, "GET", "/v1/file/config")] = answer
    with pytest.raises(StackError, match="gives no export"):
        other_state._saved(fake.site, "security")
    assert other_state.read_exports(fake.site) == {}


def test_a_refused_login_names_the_block(fake):
    fake.kube.services[(*SERVICE, "POST", "/v1/auth")] = HttpAnswer(401, {}, b"{}")
    with pytest.raises(ApiError, match="secret-text/security-admin"):
        other_state._saved(fake.site, "security")


def test_prefects_database_is_copied_while_it_is_in_use(fake, tmp_path):
    """A consistent copy with its key; nothing of it stays on the disk."""
    path = tmp_path / "live.db"
    with sqlite3.connect(path) as live:
        live.execute("create table t (x text)")
        live.execute("insert into t values ('PLANTED-ROW')")
    address = f"sqlite+aiosqlite:///{path}"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: address, PREFECT_API_URL: None}):
        key = other_state._saved(fake.site, "prefect")
    head, _, database = content(fake, key).partition(b"\n")
    assert json.loads(head)["bytes"] == len(database)
    (tmp_path / "back.db").write_bytes(database)
    with sqlite3.connect(tmp_path / "back.db") as back:
        assert back.execute("select x from t").fetchall() == [("PLANTED-ROW",)]
    assert not list(fake.site.workdir.rglob("prefect.db"))


@pytest.mark.parametrize("url", ["https://prefect.example.com/api", "http://10.0.0.9:4200/api"])
def test_a_database_of_another_machine_is_not_ours(fake, url):
    with temporary_settings({PREFECT_API_URL: url}):
        assert other_state.prefect_database() is None and other_state._saved(fake.site, "prefect") is None


@pytest.mark.parametrize("fault", ["refused", "cut", "full", "shortened", "flipped"])
def test_a_copy_that_the_store_did_not_keep_is_not_counted(fake, server, fault):
    """Whatever the store does to the upload: an error, and no copy that a report would call fresh."""
    server.fault = Fault(fault, path=r"\.age")
    with pytest.raises(StackError):
        other_state._saved(fake.site, "blocks")
    server.fault = None
    assert other_state.read_exports(fake.site) == {}


def test_a_copy_that_comes_back_damaged_is_not_counted(fake, server):
    server.fault = Fault("flipped-read", method="GET", path=r"\.age")
    with pytest.raises(StackError):
        other_state._saved(fake.site, "blocks")
    server.fault = None
    assert other_state.read_exports(fake.site) == {}


def test_only_so_many_copies_stay(fake, monkeypatch):
    monkeypatch.setattr(other_state, "KEPT", 2)
    keys = []
    for _ in range(5):
        keys.append(other_state.export(fake.site, "blocks", io.BytesIO(b"x")))
        fake.clock.wait(60)
    left = {one.key for one in fake.store.list(other_state.exports_prefix(fake.site, "blocks"))}
    assert left == {name for key in keys[3:] for name in (key, f"{key}.sha256")}


def test_without_store_or_key_it_is_refused_by_name(fake):
    del fake.secrets.blocks[("secret-text", "backup-key")]
    with pytest.raises(SecretMissingError, match="backup-key"):
        other_state._saved(fake.site, "blocks")
    object.__setattr__(fake.site, "spec", fake.spec.model_copy(update={"backup": None}))
    with pytest.raises(StackError, match="has no backup"):
        other_state._saved(fake.site, "blocks")


def test_an_unreachable_store_is_an_error_and_not_an_absence(fake, server):
    server.fault = Fault("refused", method="GET")
    with pytest.raises(StoreError):
        other_state.read_exports(fake.site)
