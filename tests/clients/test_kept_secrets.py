"""Secrets where no server keeps them: what runs write comes first, in files of one's own, whole or not at all."""

from __future__ import annotations

import stat

import pytest
from pydantic import SecretStr

from stackwright.clients.kept_secrets import KeptSecrets, file_of, read_written
from stackwright.domain.errors import SecretsUnavailableError

GIVEN = {("secret-text", "rke2-token"): {"value": SecretStr("given")}, ("s3", "store"): {"access_key": SecretStr("a")}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept-blocks"


def test_what_was_given_is_read_and_nothing_is_written(folder) -> None:
    kept = KeptSecrets(GIVEN, folder)
    assert kept.read("secret-text", "rke2-token") == GIVEN["secret-text", "rke2-token"]
    assert kept.read("secret-text", "other") is None and kept.read("registry", "store") is None
    assert not folder.exists()


def test_what_is_written_comes_first_also_for_the_next_run(folder) -> None:
    """In a file that only its owner reads; each value is told, so that no record holds it."""
    told: list[str] = []
    KeptSecrets(GIVEN, folder, told.extend).write("secret-text", "rke2-token", {"value": SecretStr("newer")})
    again = KeptSecrets(GIVEN, folder)
    assert again.read("secret-text", "rke2-token") == {"value": SecretStr("newer")} and told == ["newer"]
    path = file_of(folder, "secret-text", "rke2-token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [one.name for one in folder.iterdir()] == [path.name]  # nothing half written beside it
    assert sorted(again.values()) == ["a", "given", "newer"]


def test_what_is_removed_stays_removed(folder) -> None:
    KeptSecrets(GIVEN, folder).remove("s3", "store")
    again = KeptSecrets(GIVEN, folder)
    assert again.read("s3", "store") is None and again.names("s3") == ()
    assert again.names("secret-text") == ("rke2-token",)


@pytest.mark.parametrize("text", ["", "{", '{"fields": "planted-x"}', '{"fields"'])
def test_a_file_that_cannot_be_read_is_no_missing_block(folder, text) -> None:
    """Unknown is not absent; what stands in the file is not said."""
    folder.mkdir()
    file_of(folder, "secret-text", "rke2-token").write_text(text)
    with pytest.raises(SecretsUnavailableError) as caught:
        read_written(folder)
    assert "planted" not in str(caught.value) and "rke2-token" in str(caught.value)
