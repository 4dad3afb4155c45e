"""Secrets from a Vault, against a real HTTPS server with its answers; and the other ways to open a reference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from stackwright.clients.references import LARGEST, References
from stackwright.clients.vault import Vault
from stackwright.domain.errors import ApiError, ApiUnavailableError, NotFoundError, Problem
from stackwright.domain.references import Reference, VaultAccess, parse_reference
from tests.vault_server import TOKEN, VaultServer, vault_server

PLANTED = "planted-in-vault-2b"


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[VaultServer]:
    with vault_server(tmp_path) as server:
        server.secrets["secret/data/site/clearml"] = {"access": "AK", "secret": PLANTED, "number": 7}
        yield server


def client(vault: VaultServer, token: str = TOKEN) -> Vault:
    return Vault(SecretStr(token), str(vault.ca_file), "team")


def url(vault: VaultServer, path: str = "secret/data/site/clearml") -> str:
    return f"{vault.url}/v1/{path}"


def test_a_secret_is_read_once_for_all_its_keys(vault: VaultServer) -> None:
    """The namespace goes with it; the values are masked wherever they are shown."""
    reader = client(vault)
    assert reader.read(url(vault), "access").get_secret_value() == "AK"
    found = reader.read(url(vault), "secret")
    assert found.get_secret_value() == PLANTED and PLANTED not in f"{found!r} {reader!r}"
    assert vault.asked == [("/v1/secret/data/site/clearml", "team")]


def test_what_is_not_there_is_told_apart(vault: VaultServer) -> None:
    """No secret, a deleted version, no such key: each with its own words; keys are named, values are not."""
    vault.secrets["secret/data/gone"] = None
    for path, key, said in (
        ("secret/data/none", "a", "is not there"),
        ("secret/data/gone", "a", "newest version of the secret is deleted"),
        ("secret/data/site/clearml", "nothing", "no such key"),
    ):
        with pytest.raises(NotFoundError, match=said) as caught:
            client(vault).read(url(vault, path), key)
        assert PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "said", "transient"),
    [
        (403, ApiError, "may not read", False),
        (503, ApiUnavailableError, "sealed", True),
        (429, ApiUnavailableError, "cannot answer now", True),
        (500, ApiUnavailableError, "cannot answer now", True),
        (307, ApiError, "elsewhere", False),
        (400, ApiError, "refused", False),
    ],
)
def test_its_refusals_say_what_to_do(
    vault: VaultServer, status: int, kind: type[ApiError], said: str, transient: bool
) -> None:
    vault.status = status
    with pytest.raises(kind, match=said) as caught:
        client(vault).read(url(vault), "access")
    assert caught.value.transient is transient and caught.value.status == status and TOKEN not in str(caught.value)


def test_a_wrong_token_another_engine_and_a_value_that_is_no_text(vault: VaultServer) -> None:
    with pytest.raises(ApiError, match="may not read"):
        client(vault, "wrong").read(url(vault), "access")
    vault.secrets["secret/data/old"] = {"kv1": PLANTED}
    with pytest.raises(ApiError, match="version 2") as caught:
        client(vault).read(url(vault, "secret/data/old"), "kv1")
    assert PLANTED not in str(caught.value)
    with pytest.raises(ApiError, match="no text"):
        client(vault).read(url(vault), "number")


def test_its_certificate_is_verified_and_silence_is_said(vault: VaultServer, tmp_path: Path) -> None:
    """The token goes to nobody whose certificate is not the CA's."""
    with pytest.raises(ApiError, match="not trusted"):
        Vault(SecretStr(TOKEN)).read(url(vault), "access")
    assert vault.asked == []
    with pytest.raises(ApiError, match="CA file"):
        Vault(SecretStr(TOKEN), str(tmp_path / "none.pem")).read(url(vault), "access")
    with pytest.raises(ApiUnavailableError, match="did not reach"):
        Vault(SecretStr(TOKEN)).read("https://127.0.0.1:9/v1/secret/data/x", "a")


# --- references ------------------------------------------------------------------------------------------------------


def opened(text: str, access: VaultAccess | None = None, **environment: str) -> SecretStr | Problem:
    reference = parse_reference(text)
    assert isinstance(reference, Reference)
    return References(access or VaultAccess(), environment).open(reference, "here")


def value(found: SecretStr | Problem) -> str:
    assert isinstance(found, SecretStr), found
    return found.get_secret_value()


def problem(found: SecretStr | Problem) -> str:
    assert isinstance(found, Problem), "a value was given"
    return str(found)


def test_each_way_gives_its_value(vault: VaultServer, tmp_path: Path) -> None:
    """A single line loses its end, a key keeps it."""
    path = tmp_path / "key"
    path.write_text("one\n")
    path.chmod(0o600)
    access = VaultAccess(Reference("env", "T"), str(vault.ca_file))
    assert value(opened("env:A", A="x\n")) == "x"
    assert value(opened(f"file:{path}")) == "one"
    path.write_text("a\nb\n")
    assert value(opened(f"file:{path}")) == "a\nb\n"
    assert value(opened(f"vault:{url(vault)}#secret", access, T=TOKEN)) == PLANTED


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o622, 0o660, 0o601])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_text(PLANTED)
    path.chmod(mode)
    assert "open to others" in problem(opened(f"file:{path}")) and PLANTED not in problem(opened(f"file:{path}"))


def test_what_cannot_be_opened_is_said_without_a_value(vault: VaultServer, tmp_path: Path) -> None:
    """Missing, empty, a folder, a pipe that nobody writes, too large, no text; a Vault without a token."""

    def file(name: str, raw: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(raw)
        path.chmod(0o600)
        return path

    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not set" in problem(opened("env:NONE"))
    assert "is empty" in problem(opened("env:A", A=" \n"))
    assert "cannot be read" in problem(opened(f"file:{tmp_path}/none"))
    assert "regular file" in problem(opened(f"file:{tmp_path}/pipe"))
    assert "cannot be read" in problem(opened(f"file:{tmp_path}")) or "regular" in problem(opened(f"file:{tmp_path}"))
    assert "too large" in problem(opened(f"file:{file('large', b'x' * (LARGEST + 1))}"))
    assert "no text" in problem(opened(f"file:{file('raw', bytes([255, 254]))}"))
    access = VaultAccess(Reference("env", "T"), str(vault.ca_file))
    assert "vault.token: the variable is not set" in problem(opened(f"vault:{url(vault)}#secret", access))
    vault.status = 503
    said = problem(opened(f"vault:{url(vault)}#secret", access, T=TOKEN))
    assert "sealed" in said and "HTTP 503" in said and TOKEN not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_another_users_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text(PLANTED)
    path.chmod(0o600)
    os.chown(path, 12345, 12345)
    assert "another user's" in problem(opened(f"file:{path}"))
