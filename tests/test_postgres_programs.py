"""Finding PostgreSQL's programs as they lie on a stock Debian, and on a machine that has them on the path."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres_programs import NEEDED, postgres_programs


def installed(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or NEEDED:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_path_comes_first_then_the_newest_of_debians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest by number, not by letters; a version that is only half there is passed over; none is None."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    debian = tmp_path / "postgresql"
    assert postgres_programs(debian) is None
    installed(debian / "17" / "bin", "pg_dump")  # the client alone
    installed(debian / "9.6" / "bin")
    newest = installed(debian / "15" / "bin")
    assert postgres_programs(debian) == newest
    installed(tmp_path / "bin", "initdb")
    assert postgres_programs(debian) == newest, "initdb alone is no server"
    own = installed(tmp_path / "own")
    monkeypatch.setenv("PATH", str(own))
    assert postgres_programs(debian) == own.resolve()
