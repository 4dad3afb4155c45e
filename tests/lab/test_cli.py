"""`stackwright lab up|status|fault|journal|down`, as docs/lab.md shows them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stackwright.lab.cli import lab_app

shell = CliRunner()


@pytest.mark.slow
@pytest.mark.lab
def test_a_lab_is_started_asked_broken_and_stopped_from_the_shell(tmp_path):
    """Up says where the site file is, and starts nothing the second time; down leaves the folder, and says so."""

    def said(*words: str, code: int = 0) -> str:
        done = shell.invoke(lab_app, [*words, "--folder", str(tmp_path)])
        assert done.exit_code == code, done.output
        return done.output

    assert "lab is down" in said("status", code=1)
    try:
        assert "STACKWRIGHT_SITES=" in said("up")
        first = said("status")
        assert "lab is up, pid" in first and said("up") and said("status") == first
        assert said("fault", '{"kind": "node-dead", "match": {"target": "wrk2"}}') == ""
        assert all(json.loads(line) for line in said("journal").splitlines())
        assert (tmp_path / "sites").exists()
    finally:
        said("down")
    assert "lab is down" in said("status", code=1)
