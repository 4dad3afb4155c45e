"""`stackwright restore`: what it asks for, what it prints, and that it needs no Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from pydantic import SecretStr
from typer.testing import CliRunner

from stackwright import cli
from stackwright.cli_restore import GivenSecrets, check_given, needed_secrets, parse_secrets, show
from stackwright.clients.sealing import new_identity
from stackwright.domain.errors import SecretMissingError
from stackwright.domain.plan import Plan
from stackwright.domain.restore import plan_restore
from stackwright.domain.spec import Backup
from stackwright.lab.secrets_made import ssh_key_pair
from tests.domain.nodes_seen import make_spec
from tests.domain.test_restore import facts, manifest
from tests.store_server import ACCESS, SECRET, running_store

ROOT = Path(__file__).parents[1]
shell = CliRunner()
PLANTED = "planted-in-the-command-line"


def backed_up(**more):
    return make_spec(backup={"endpoint": "https://store.example.com", "bucket": "b", **more})


def test_every_missing_secret_is_named_as_it_must_be_written():
    with pytest.raises(SecretMissingError) as caught:
        check_given(backed_up(), GivenSecrets({}), second=False)
    for text in (
        "ssh-key/ssh.private_key=...",
        "s3/backup-store.access_key=...",
        "s3/backup-store.secret_key=...",
        "secret-text/backup-key.value=...",
    ):
        assert text in str(caught.value)


def test_the_second_stores_login_is_asked_for_when_it_is_used():
    spec = backed_up(second={"endpoint": "https://b.example.com", "bucket": "b", "credentials_block": "other"})
    assert ("s3", "other") in needed_secrets(spec, second=True)
    assert ("s3", "other") not in needed_secrets(spec, second=False)


@pytest.mark.parametrize("item", [PLANTED, f"ssh-key/{PLANTED}", f"nothing/{PLANTED}.value=-", f"s3/.{PLANTED}=-"])
def test_what_is_no_secrets_place_is_refused_without_being_repeated(item):
    with pytest.raises(typer.BadParameter) as caught:
        parse_secrets([item], lambda source, label: source)
    assert PLANTED not in str(caught.value) and "secret 1" in str(caught.value)


def test_secrets_are_read_from_their_sources_and_shown_nowhere():
    given = parse_secrets(
        ["s3/a.b.access_key=@one", "s3/a.b.secret_key=env:TWO"], lambda source, label: f"from {source}"
    )
    fields = given.read("s3", "a.b")
    assert {name: value.get_secret_value() for name, value in fields.items()} == {
        "access_key": "from @one",
        "secret_key": "from env:TWO",
    }
    assert "from" not in repr(fields) and given.read("s3", "none") is None
    given.write("secret-text", "t", {"value": SecretStr("x")})
    assert given.read("secret-text", "t")["value"].get_secret_value() == "x"


def test_a_value_on_the_command_line_is_refused():
    done = shell.invoke(cli.app, ["restore", "lab", f"ssh-key/ssh.private_key={PLANTED}"])
    assert done.exit_code == 2 and PLANTED not in done.output


def test_the_plan_is_printed_with_its_hash_and_its_effects(capsys):
    plan = plan_restore(make_spec(), facts(), manifest(), [])
    show(plan)
    said = capsys.readouterr().out
    assert f"plan {plan.hash}: {len(plan.steps)} step(s), worst effect: data at risk" in said
    assert "restore/s1/reset" in said and "Everything written later is lost" in said


@pytest.fixture
def bare(tmp_path):
    """Return a shell with a site file, a store without bundles and secrets in files; no Prefect server anywhere."""
    with running_store(tmp_path / "store") as store:
        spec = make_spec().model_copy(update={"backup": Backup(**store.settings().model_dump())})
        sites = tmp_path / "sites"
        sites.mkdir()
        (sites / "north.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True)))
        (tmp_path / "key").write_text(ssh_key_pair()[0])
        (tmp_path / "age").write_text(new_identity().get_secret_value())
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "STACKWRIGHT"))}
        env = {
            **kept, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "STACKWRIGHT_SITES": str(sites), "ACCESS": ACCESS,
            "SECRET": SECRET, "STACKWRIGHT_STATE": str(tmp_path / "state"), "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        }  # fmt: skip
        yield env, tmp_path


def test_it_works_without_a_prefect_server(bare):
    """Its address leads nowhere, none may be started: the program gets as far as the store, and imports none."""
    env, folder = bare
    secrets = [
        f"ssh-key/ssh.private_key=@{folder / 'key'}", "s3/backup-store.access_key=env:ACCESS",
        "s3/backup-store.secret_key=env:SECRET", f"secret-text/backup-key.value=@{folder / 'age'}",
    ]  # fmt: skip
    program = (
        "import sys\nfrom stackwright import cli\ntry:\n    cli.main()\nfinally:\n"
        "    print('SERVER', sorted(name for name in sys.modules if name.startswith('prefect.server')))\n"
    )
    argv = [sys.executable, "-c", program, "restore", "north", *secrets]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd=folder, timeout=120)
    assert "nothing to restore from" in done.stderr and "(no-bundle)" in done.stderr, done.stderr
    assert done.returncode == cli.EXIT["refused"] and "SERVER []" in done.stdout
    assert not list(folder.glob("prefect/*.db")), "a Prefect server was started"
    assert SECRET not in done.stdout + done.stderr


def test_an_empty_plan_is_a_plan(capsys):
    show(Plan("north", ()))
    assert "0 step(s)" in capsys.readouterr().out
