"""The units of one machine: systemd accepts them, they may do little, and what they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main
from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings

from stackwright import cli
from tests.systemd_units import FOLDER, SERVICES, read_unit
from tests.test_docs import complaint

EXPOSURE = 20  # tenths: systemd shows 2.0 and counts from 0.0 (best) to 10.0; the units' own comment names it
tool = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def verify(folder: Path, units: Path) -> subprocess.CompletedProcess[str]:
    """Have systemd load the units in a root of their own, with programs at the paths that they name."""
    system = folder / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for path in Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(path, system)
    for path in [*units.glob("*.service"), *units.glob("*.target")]:
        shutil.copy(path, system)
        for program in re.findall(r"^Exec\w+=-?(/\S+)", path.read_text(encoding="utf-8"), re.M):
            place = folder / program.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("#!/bin/sh\n")
            place.chmod(0o755)
    argv = ["systemd-analyze", "verify", f"--root={folder}", "--man=no"]
    argv += [path.name for path in sorted(units.iterdir()) if path.suffix in (".service", ".target")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@tool
def test_systemd_takes_them(tmp_path: Path) -> None:
    """No unknown directive, no missing program, no cycle: nothing is said."""
    done = verify(tmp_path, FOLDER)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@tool
def test_a_directive_that_does_not_exist_would_be_seen(tmp_path: Path) -> None:
    units = tmp_path / "units"
    shutil.copytree(FOLDER, units)
    path = units / SERVICES[0]
    path.write_text(path.read_text().replace("ProtectSystem=strict", "ProtectSytem=strict"))
    assert "ProtectSytem" in verify(tmp_path / "root", units).stderr


@tool
@pytest.mark.parametrize("name", SERVICES)
def test_they_may_do_little(name: str) -> None:
    """By systemd's own measure; without the hardening it would be 90 or more."""
    argv = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={EXPOSURE}",
        "--no-pager",
        str(FOLDER / name),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_every_command_of_ours_exists() -> None:
    """Each unit that starts `stackwright` gives it a command line that the program takes."""
    given = [read_unit(name)["ExecStart"][0].split() for name in SERVICES]
    ours = [words[1:] for words in given if words[0].endswith("/stackwright")]
    group = typer.main.get_command(cli.app)
    assert ["worker", "watch"] in ours and len(ours) == 4
    assert not any(complaint(words, group) for words in ours)


def test_each_comment_names_the_exposure_that_is_held() -> None:
    for name in SERVICES:
        assert f"rates it {EXPOSURE / 10} or better" in (FOLDER / name).read_text(), name


def test_all_are_hardened_alike() -> None:
    """One list in all: a line that one service lacks is an oversight."""
    lists = {
        (FOLDER / name).read_text().split("# What the service may not do.")[1].split("[Install]")[0]
        for name in SERVICES
    }
    assert len(lists) == 1 and len(SERVICES) == 7
    assert "LimitCORE=0" in lists.pop(), "a core dump would hold every secret that the process has opened"


def test_a_run_that_takes_all_memory_does_not_take_the_others_with_it() -> None:
    """Runs are processes of the worker's unit, and systemd's own answer to one that is killed is to stop the unit."""
    assert read_unit("stackwright-worker.service")["OOMPolicy"] == ["continue"]


def test_an_operators_shell_takes_nothing_that_is_the_services_own() -> None:
    """A root that has their HOME or state folder makes files in them that they cannot write."""
    told = (FOLDER.parents[1] / "docs" / "one-machine.md").read_text(encoding="utf-8")
    (wanted,) = re.findall(r"grep -E '([^']+)' /etc/stackwright/prefect.env", told)
    lines = (FOLDER / "prefect.env.example").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if re.search(wanted, line)}
    assert names == {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "STACKWRIGHT_SITES", "STACKWRIGHT_WEBHOOKS"}


@pytest.mark.parametrize("name", SERVICES)
def test_each_starts_again_after_a_fall_and_is_part_of_the_whole(name: str) -> None:
    unit = read_unit(name)
    assert unit["Restart"] == ["always"] and unit["PartOf"] == unit["WantedBy"] == ["stackwright.target"]
    assert unit["EnvironmentFile"][0] == "/etc/stackwright/prefect.env" and unit["UMask"] == ["0077"]
    if "server" not in name:
        assert "stackwright-server.service" in unit["After"][0], "it would be stopped after the server"
    (docs,) = unit["Documentation"]
    assert (FOLDER.parent.parent / docs.removeprefix("file:///opt/stackwright/")).is_file()
    assert name in (FOLDER / "stackwright.target").read_text()


def test_limits_of_stopping_leave_time_for_what_is_stopped() -> None:
    """systemd kills at TimeoutStopSec: later than the drain's and the grace's own ends."""
    worker, tenants = read_unit("stackwright-worker.service"), read_unit("stackwright-tenants.service")
    (limit,) = re.findall(r"--limit (\d+)", worker["ExecStop"][0])
    (grace,) = re.findall(r"--grace (\d+)", tenants["ExecStart"][0])
    assert int(worker["TimeoutStopSec"][0]) >= int(limit) + 60
    assert int(tenants["TimeoutStopSec"][0]) >= int(grace) + 60


def test_every_setting_of_prefect_that_is_named_exists() -> None:
    """A misspelt one would be ignored in silence."""
    known = _get_valid_setting_names(Settings) | {"PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_HOME"}
    for path in FOLDER.glob("*.example"):
        named = set(re.findall(r"^(PREFECT_\w+)=", path.read_text(), re.M))
        assert named and named <= known, named - known
        assert "CHANGE-ME" in path.read_text(), "an example must not work as it stands"
