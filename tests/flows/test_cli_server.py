"""Commands of the pages that ask the Prefect server and start no flow: `metrics show`, `runs list`, `runs send`."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from stackwright.cli import app
from stackwright.lab.server import PrefectServer


def said(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_figures_are_printed_once(prefect_server: PrefectServer) -> None:
    """`metrics show --hours 24`: what Prometheus would be answered."""
    lines = said("metrics", "show", "--hours", "24").splitlines()
    assert any(line.startswith("# HELP stackwright_") for line in lines)


def test_no_run_waits_to_be_sent(
    prefect_server: PrefectServer, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs list` shows none, `runs send` says that all are there; a record itself: test_without_server.py."""
    monkeypatch.setenv("STACKWRIGHT_STATE", str(tmp_path))
    assert said("runs", "list") == ""
    assert said("runs", "send").endswith("all runs are on the server\n")
