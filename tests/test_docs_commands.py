"""Each command that a page shows in a console block is run by a test, or the page says that no test runs it.

Commands that start a flow are run here as they stand, up to the start of the flow: with their parameters they must be
what the flow takes. Flows themselves: tests/flows. For every other command the test that runs it is named below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prefect.flows import load_flow_from_entrypoint
from typer.testing import CliRunner

from stackwright import cli
from stackwright.runs import HOME, catalogue

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
UNPROVED = "No test runs these"
"""How a page marks a console block that needs what no test has, such as a machine of its own; a line: `# no test`."""

RUN_BY = {
    "stackwright backup key": "tests/test_cli_backup.py",
    "stackwright backup list": "tests/test_cli_backup.py",
    "stackwright block kinds": "tests/test_cli.py",
    "stackwright block set": "tests/test_cli.py",
    "stackwright lab": "tests/lab/test_cli.py",
    "stackwright lease": "tests/test_cli_lease.py",
    "stackwright lint": "tests/test_cli.py",
    "stackwright metrics serve": "tests/flows/test_watching.py",
    "stackwright metrics show": "tests/flows/test_cli_server.py",
    "stackwright restore": "tests/test_cli_restore.py",
    "stackwright runs list": "tests/flows/test_cli_server.py",
    "stackwright runs send": "tests/flows/test_cli_server.py",
    "stackwright schedules": "tests/flows/test_schedules.py",
    "stackwright setup": "tests/flows/test_setup.py",
    "stackwright setup --server": "tests/team/test_manifests.py",
    "stackwright support-bundle": "tests/flows/test_support_bundle.py",
    "stackwright webhooks key rotate": "tests/flows/test_webhooks.py",
    "stackwright webhooks serve": "tests/flows/test_webhooks.py",
    "stackwright worker tenants": "tests/load/crew.py",
    "stackwright worker watch": "tests/team/services.py",
    "age -d": "tests/flows/test_one_machine.py",
    "head -n": "tests/flows/test_one_machine.py",
    "prefect server start": "stackwright/lab/server.py",
    "prefect worker start": "tests/browser/conftest.py",
    "sha256sum": "tests/support/test_support_parts.py",
    "tar -xzf": "tests/support/test_support_parts.py",
    "python3 -c": "tests/flows/test_one_machine.py",
    "tail -n": "tests/flows/test_one_machine.py",
}
"""The longest beginning counts. The words of the command stand in that file, as it runs them."""
READS_PAGE = "tests/flows/test_one_machine.py"  # takes its commands from the page itself
OF_ITSELF = (
    "export ",
    "set -a;",
    "umask ",
    "make ",
)  # sets the shell up, or is a proof; that the target exists: test_docs.py


def console(path: Path) -> Iterator[tuple[str, bool]]:
    """Return each command of a page's console blocks, and whether the page says that no test runs it."""
    text = path.read_text(encoding="utf-8")
    for block in re.finditer(r"^ *```console\n(.*?)^ *```\n", text, re.S | re.M):
        marked = UNPROVED in text[: block.start()].rstrip("\n").rsplit("\n\n", 1)[-1]
        for line in re.sub(r"\\\n\s*", "", block[1]).splitlines():
            command, _, comment = line.strip().partition("  #")
            if command.startswith("$ "):
                yield command[2:].strip(), marked or comment.strip().startswith("no test")


COMMANDS = sorted({(command, marked) for path in PAGES for command, marked in console(path)})


def proof(command: str) -> str | None:
    """Return the file that runs a command."""
    beginnings = [one for one in RUN_BY if command == one or command.startswith(f"{one} ")]
    return RUN_BY[max(beginnings, key=len)] if beginnings else None


class StartedError(Exception):
    """A flow would have been started."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Return what commands start instead of carrying it out."""
    found: list[tuple[str, dict[str, Any]]] = []

    def start(name: str, parameters: dict[str, Any], **_: Any) -> None:
        found.append((name, parameters))
        raise StartedError

    monkeypatch.setattr("stackwright.runs.start_here", start)
    monkeypatch.setattr(cli, "run_alone", lambda site, file, work: work())
    return found


@cache
def flow_of(name: str) -> Any:
    return load_flow_from_entrypoint(str(HOME / catalogue()[name]["entrypoint"]), use_placeholder_flow=False)


def as_typed(command: str) -> list[str]:
    """Return a command's words with values where a page has placeholders."""
    quoted = re.findall(r'"([^"]*)"|(\S+)', command.removeprefix("stackwright "))
    words = [first or second for first, second in quoted]
    return [{"NAME": "lab", "berlin": "lab", "HASH": "0123456789ab"}.get(word, word) for word in words]


@pytest.mark.parametrize(
    "command", [one for one, marked in COMMANDS if one.startswith("stackwright ") and not marked and not proof(one)]
)
def test_a_command_starts_its_flow_as_the_page_shows_it(command: str, started: Any) -> None:
    """The flow of the catalogue, with parameters that it takes."""
    done = CliRunner().invoke(cli.app, as_typed(command))
    assert isinstance(done.exception, StartedError), f"neither a test runs it nor starts it a flow: {done.output}"
    ((name, parameters),) = started
    assert parameters["site"] == "lab"
    flow_of(name).validate_parameters(parameters)


def test_every_other_command_is_run_by_the_test_that_is_named() -> None:
    """That file has the command's words; what no test can run is marked on its page."""
    for command, marked in COMMANDS:
        if marked or command.startswith(OF_ITSELF):
            continue
        file = proof(command)
        if file is None:
            assert command.startswith("stackwright "), f"{command}: name the test, or write `{UNPROVED}` beside it"
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        (beginning,) = [max((one for one in RUN_BY if command == one or command.startswith(f"{one} ")), key=len)]
        for word in re.findall(r"[a-z][a-z-]+", beginning.removeprefix("stackwright")):
            assert word in text or file == READS_PAGE, f"{command}: {file} has no {word}"


def test_a_page_that_shows_an_unproved_command_would_be_seen(tmp_path: Path) -> None:
    """A mark in the paragraph before a block counts, and one behind a command; one elsewhere does not."""
    page = tmp_path / "page.md"
    page.write_text(
        f"{UNPROVED}: a host is needed.\n\n```console\n$ systemctl a\n```\n\ntext\n\n"
        f"```console\n$ systemctl b \\\n  c   # why\n```\n\n{UNPROVED}.\n\nother\n\n"
        "```console\n$ d    # no test: e\n$ f\n```\n"
    )
    expected = [("systemctl a", True), ("systemctl b c", False), ("d", True), ("f", False)]
    assert list(console(page)) == expected
    assert proof("systemctl a") is None and proof("stackwright setup --server x") == "tests/team/test_manifests.py"
