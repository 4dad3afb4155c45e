"""The command line refuses before it starts anything, and its exit codes say why. Runs themselves: tests/flows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stackwright import cli
from stackwright.domain import errors

LAB = (Path(__file__).parent.parent / "deployments/sites/lab.yaml").read_text(encoding="utf-8")
PLANTED = "planted-3f9c"
shell = CliRunner()


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch):
    """A command that gets past its refusals would start a run or write a block: here that is a failure."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("the command went on")

    monkeypatch.setattr("stackwright.runs.start_here", started)
    monkeypatch.setattr("blocks.store.BlockSecrets.write", started)


def refused(*words: str) -> str:
    """Run a command that must be refused as wrong usage, and return what it said."""
    done = shell.invoke(cli.app, words)
    assert done.exit_code == cli.EXIT["refused"], done.output
    assert isinstance(done.exception, SystemExit)
    return done.output


def problem_with(*words: str) -> errors.StackError:
    """Run a command and return the error of ours that it ended with."""
    done = shell.invoke(cli.app, words)
    assert isinstance(done.exception, errors.StackError), done.output
    return done.exception


def site_folder(monkeypatch, tmp_path: Path, **files: str) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("STACKWRIGHT_SITES", str(tmp_path))


# --- approval --------------------------------------------------------------------------------------------------------


def test_the_version_is_told():
    """`--version` prints the installed distribution's version and ends well."""
    done = CliRunner().invoke(cli.app, ["--version"])
    assert done.exit_code == 0 and done.output.strip() == f"stackwright {version('stackwright')}"


def test_apply_asks_which_plan_is_approved():
    """Without --plan or --yes nothing is started, and both are named."""
    said = refused("apply", "lab")
    assert "--plan" in said and "--yes" in said


@pytest.mark.parametrize("words", [("apply", "lab", "--plan", "0123456789ab"), ("apply", "lab", "--yes")])
def test_an_approved_apply_goes_on(words):
    """With either, the run is started: the refusal above refuses nothing else."""
    with pytest.raises(AssertionError, match="went on"):
        shell.invoke(cli.app, words, catch_exceptions=False)


def test_a_command_without_its_site_is_refused():
    """No site is ever guessed."""
    for command in ("check", "plan", "apply", "validate", "lint", "report"):
        assert "SITE" in refused(command).upper()
    refused("tenant", "onboard", "lab")


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [f"value={PLANTED}", f"value={PLANTED}=", PLANTED, f"password={PLANTED}"])
def test_a_value_on_the_command_line_is_refused_and_not_said_again(field):
    """Argument lists are seen by every user of the machine; the refusal does not print the value either."""
    said = refused("block", "set", "secret-text", "token", field)
    assert PLANTED not in said


def test_an_unknown_kind_is_refused_with_the_known_ones():
    """The kinds are listed."""
    assert "ssh-key" in refused("block", "set", "nothing", "x", "value=-")


def test_a_source_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    """A missing file or variable is named; no empty secret is kept."""
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    assert "NOT_SET_HERE" in refused("block", "set", "secret-text", "x", "value=env:NOT_SET_HERE")
    said = refused("block", "set", "secret-text", "x", f"value=@{tmp_path}/missing")
    assert "No such file" in "".join(said.replace("│", " ").split("\n"))


@pytest.mark.parametrize("source", ["file", "environment", "prompt"])
def test_a_value_comes_from_a_file_the_environment_or_a_prompt(source, tmp_path, monkeypatch):
    """What is kept is the value, masked; what is printed names the field alone."""
    kept: list[tuple[object, ...]] = []
    monkeypatch.setattr("blocks.store.BlockSecrets.write", lambda self, *words: kept.append(words))
    (tmp_path / "secret").write_text(PLANTED, encoding="utf-8")
    monkeypatch.setenv("GIVEN_HERE", PLANTED)
    given = {"file": f"@{tmp_path}/secret", "environment": "env:GIVEN_HERE", "prompt": "-"}[source]
    done = shell.invoke(cli.app, ["block", "set", "secret-text", "token", f"value={given}"], input=f"{PLANTED}\n")
    assert done.exit_code == 0, done.output
    ((kind, name, fields),) = kept
    assert (kind, name, fields["value"].get_secret_value()) == ("secret-text", "token", PLANTED)
    assert PLANTED not in done.output + repr(kept)


def test_kinds_lists_each_with_its_fields():
    """Every kind that a site file may name can be set."""
    said = shell.invoke(cli.app, ["block", "kinds"]).output
    for words in ("ssh-key", "private_key, passphrase", "secret-text", "certificate, private_key"):
        assert words in said


# --- site files ------------------------------------------------------------------------------------------------------


def test_a_good_site_file_passes():
    """The lab's own."""
    done = shell.invoke(cli.app, ["lint", "lab"])
    assert done.exit_code == 0
    assert "8 nodes, 2 tenants" in done.output and "no problem found" in done.output


def test_lint_lists_every_mistake_of_a_bad_site_file(monkeypatch, tmp_path):
    """An unknown key and two servers are told at once."""
    bad = LAB.replace("site: lab", "site: bad").replace("roles: [server]}", "roles: [worker]}", 1)
    site_folder(monkeypatch, tmp_path, bad=bad.replace("\ntime:", "\ntmie:"))
    problem = problem_with("lint", "bad")
    assert isinstance(problem, errors.SiteFileError)
    assert {found.where for found in problem.problems} >= {"tmie"}
    assert "time" in str(problem) and len(problem.problems) >= 2
    assert all(found.remedy for found in problem.problems)


def test_a_file_under_another_name_than_its_site_is_refused(monkeypatch, tmp_path):
    """Reports, leases and state folders go by the site's name: the file must not say another."""
    site_folder(monkeypatch, tmp_path, other=LAB)
    assert "another name" in str(problem_with("lint", "other"))


def test_an_unknown_site_is_refused_with_the_known_ones(monkeypatch, tmp_path):
    """The sites that are here are offered, in the same order as `sites` lists them."""
    site_folder(monkeypatch, tmp_path, north="", east="")
    assert "east, north" in str(problem_with("lint", "west"))
    assert shell.invoke(cli.app, ["sites"]).output.split() == ["east", "north"]


def test_schema_is_printed_or_written(tmp_path):
    """The same JSON Schema, which knows the sections and refuses unknown keys."""
    printed = json.loads(shell.invoke(cli.app, ["schema"]).output)
    assert {"site", "nodes", "rke2", "layers", "tenants"} <= set(printed["properties"])
    assert printed["additionalProperties"] is False
    path = tmp_path / "site.schema.json"
    assert shell.invoke(cli.app, ["schema", "--output", str(path)]).exit_code == 0
    assert json.loads(path.read_text(encoding="utf-8")) == printed


# --- reports and exit codes ------------------------------------------------------------------------------------------


def test_a_site_without_a_report_says_how_to_get_one(monkeypatch, tmp_path):
    """Not an empty table: an error with a remedy."""
    monkeypatch.setenv("STACKWRIGHT_REPORTS", str(tmp_path))
    assert "stackwright validate lab" in str(problem_with("report", "lab"))


def test_no_server_set_is_said_with_its_remedy(monkeypatch):
    """Setting up asks for a server before it does anything."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        problem = problem_with("setup")
    assert isinstance(problem, errors.ApiUnavailableError)
    assert "PREFECT_API_URL" in str(problem) and "prefect server start" in str(problem)


NO_PROBLEMS: list[errors.Problem] = []
CODES = [
    (errors.SiteFileError("x", NO_PROBLEMS), "refused"),
    (errors.ProblemsError("x", NO_PROBLEMS), "refused"),
    (errors.PlanMovedError("x"), "plan moved"),
    (errors.PlanRefusedError("x", NO_PROBLEMS), "plan moved"),
    (errors.LeaseHeldError("x"), "lease held"),
    (errors.ApiUnavailableError("x"), "no server"),
    (errors.NotFoundError("x"), "failed"),
    (errors.SecretMissingError("x"), "failed"),
    (errors.GateTimeoutError("x"), "failed"),
    (errors.FencedError("x"), "failed"),
    (errors.NodeUnreachableError("x"), "failed"),
]


@pytest.mark.parametrize(("error", "name"), CODES, ids=lambda value: type(value).__name__)
def test_each_class_of_error_has_its_exit_code(error, name, monkeypatch, capsys):
    """The code tells scripts what to do next; the error is printed whole, without a traceback."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", AppThatFails(fail))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.EXIT[name]
    said = capsys.readouterr().err
    assert error.how_to_fix in " ".join(said.split()) and "Traceback" not in said


class AppThatFails:
    """Stands for the app: takes the lab's commands, then raises."""

    registered_groups = ()

    def __init__(self, run) -> None:
        self.run = run

    def add_typer(self, *_: object, **__: object) -> None:
        return None

    def command(self, **_: object):
        return lambda function: function

    def __call__(self) -> None:
        self.run()


def test_codes_are_all_different():
    """Each name has a number of its own."""
    assert len(set(cli.EXIT.values())) == len(cli.EXIT)


def test_a_refused_site_file_ends_a_real_process_with_2(tmp_path):
    """From a shell: exit code, the problem on stderr, nothing on stdout, no traceback."""
    (tmp_path / "bad.yaml").write_text("site: bad\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "stackwright.cli", "lint", "bad"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "STACKWRIGHT_SITES": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == cli.EXIT["refused"]
    assert "nodes" in done.stderr and "remedy" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_failed_check_is_printed_with_its_remedy(capsys):
    """A run that ends with failed checks says what to do about each; a passed one takes no line."""
    check = {"wanted": "Ready", "seen": "srv3 is not Ready", "remedy": "Look at the node."}
    checks = [{"id": "cluster/nodes", "verdict": "fail", **check}, {"id": "cluster/voters", "verdict": "pass", **check}]
    cli._print_report(
        {"plan": {"hash": "0" * 12, "steps": []}, "notes": [], "evidence": checks, "verdict": "failed"}, as_json=False
    )
    printed = capsys.readouterr().out
    assert "cluster/nodes: remedy: Look at the node." in printed and "cluster/voters" not in printed
