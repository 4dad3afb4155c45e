"""Certificates, token and encryption key of a whole lab cluster, as an operator looks at them and rotates them."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stackwright.lab.layout import Layout
from stackwright.lab.rig import Finished, Rig
from stackwright.lab.server import PrefectServer
from tasks.certificates import EVENT
from tests.planted import ProcessWatch

SPEED = 40.0
PLAN_MOVED, FAILED = 3, 1
pytestmark = [pytest.mark.lab, pytest.mark.slow]  # minutes: `make test-long`


@pytest.fixture(scope="module")
def rig(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Three servers and three agents without layers, deployed once."""
    rig = Rig(Path(tmp_path_factory.mktemp("rig")), prefect_server, speed=SPEED)
    try:
        rig.set_up()
        rig.start_lab(layout=Layout(workers=0, gpus=0, agents=3, bare=True))
        done = rig.run("apply", "lab", "--yes")
        assert done.code == 0, done.output[-3000:]
        yield rig
    finally:
        rig.close()


def report(done: Finished) -> dict[str, Any]:
    """Return the report that a command printed as JSON."""
    return json.loads(next(line for line in reversed(done.output.splitlines()) if line.startswith("{")))


def plan_of(rig: Rig, *words: str) -> dict[str, Any]:
    """Return the plan that a rotation shows without changing anything."""
    before = len(rig.lab.journal())
    done = rig.run(*words, "lab", "--dry-run", "--json")
    assert done.code == 0, done.output[-3000:]
    assert len(rig.lab.journal()) == before
    return report(done)["plan"]


def database(rig: Rig) -> str:
    """Return everything that Prefect keeps."""
    with sqlite3.connect(f"file:{rig.server.home / 'prefect.db'}?mode=ro", uri=True) as connection:
        return "\n".join(connection.iterdump())


def token(rig: Rig, node: str) -> str:
    """Return the secret part of the token in a server's own file."""
    path = rig.lab.folder / "nodes" / node / "root" / "var/lib/rancher/rke2/server/token"
    return path.read_text().strip().rpartition(":")[2]


def test_a_scan_of_a_fresh_site_finds_nothing_that_ends_soon(rig: Rig) -> None:
    done = rig.run("certificates", "scan", "lab", "--json")
    found = report(done)
    assert done.code == 0 and found["verdict"] == "ok", done.output[-3000:]
    kinds = {check["title"].split(" ")[0] for check in found["evidence"]}
    assert {"rke2", "ca", "kubeconfig", "served"} <= kinds


def test_what_ends_soon_fails_the_scan_and_is_told_as_an_event(rig: Rig) -> None:
    """The node, the file and the days are in the report; the event names them."""
    rig.lab.age_certificates("srv2", 10)
    done = rig.run("certificates", "scan", "lab", "--json")
    assert done.code == FAILED
    bad = [check for check in report(done)["evidence"] if check["verdict"] == "fail"]
    assert {check["target"] for check in bad} == {"srv2"} and all(check["remedy"] for check in bad)
    assert "certificates-lab" in database(rig)
    deadline = time.monotonic() + 180
    while EVENT not in database(rig):  # the server writes events a moment later
        assert time.monotonic() < deadline, "the event was not kept"
        time.sleep(0.2)


def test_certificates_are_rotated_under_the_approved_hash_alone(rig: Rig) -> None:
    """A plan, a refusal of another hash, the rotation of the one node, a good scan, and an empty second plan."""
    plan = plan_of(rig, "certificates", "rotate")
    assert [step["id"] for step in plan["steps"]] == ["certificate/srv2/rotate", "certificate/cluster/kubeconfig"]
    refused = rig.run("certificates", "rotate", "lab", "--plan", "0123456789ab")
    assert refused.code == PLAN_MOVED and "does not hold any more" in refused.output
    done = rig.run("certificates", "rotate", "lab", "--plan", plan["hash"])
    assert done.code == 0, done.output[-3000:]
    assert plan_of(rig, "certificates", "rotate")["steps"] == []
    assert rig.run("certificates", "scan", "lab").code == 0
    assert all(len(change.healthy) >= 2 for change in rig.lab.members() if len(change.members) == 3)


def test_a_token_rotation_is_killed_continued_and_leaves_no_trace_of_a_token(rig: Rig, tmp_path: Path) -> None:
    """Killed inside a server's restart, it is continued under its hash; no token is in database, log or argument."""
    old, plan = token(rig, "srv1"), plan_of(rig, "token", "rotate", "--older-than-days", "0")
    with ProcessWatch() as watch:
        run = rig.spawn(
            "token", "rotate", "lab", "--older-than-days", "0", "--plan", plan["hash"], log=tmp_path / "log"
        )
        rig.lab.fault(kind="kill", match={"action": "token/srv2/restart"}, when="inside", pid=run.pid)
        assert run.wait(timeout=300) == -signal.SIGKILL, (tmp_path / "log").read_text()[-3000:]
        done = rig.run("token", "rotate", "lab", "--plan", plan["hash"])
    assert done.code == 0, done.output[-3000:]
    new = token(rig, "srv1")
    assert new != old and {token(rig, name) for name in ("srv1", "srv2", "srv3")} == {new}
    assert plan_of(rig, "token", "rotate")["steps"] == []
    places = {"database": database(rig), "arguments": "\n".join(watch.seen), "output": done.output}
    places["log"] = (tmp_path / "log").read_text()
    for path in (rig.folder / "reports").rglob("*"):
        places[str(path)] = path.read_text(errors="replace") if path.is_file() else ""
    assert not [place for place, text in places.items() if old in text or new in text]


def test_the_key_of_secrets_is_rotated_after_a_snapshot(rig: Rig) -> None:
    assert rig.run("encryption", "status", "lab").code == 0
    plan = plan_of(rig, "encryption", "rotate")
    assert [step["id"] for step in plan["steps"]] == [
        "snapshot/srv1/save", "encryption/srv1/rotate", "encryption/srv2/restart", "encryption/srv3/restart",
    ]  # fmt: skip
    done = rig.run("encryption", "rotate", "lab", "--plan", plan["hash"])
    assert done.code == 0, done.output[-3000:]
    shown = rig.run("encryption", "status", "lab", "--json")
    assert {check["verdict"] for check in report(shown)["evidence"]} == {"pass"}
    assert "reencrypt_finished" in shown.output and plan_of(rig, "encryption", "rotate")["steps"] == []


def test_a_deploy_has_nothing_to_do_afterwards(rig: Rig) -> None:
    """Rotations leave the site as its site file says."""
    before = len(rig.lab.journal())
    assert rig.run("apply", "lab", "--yes").code == 0
    assert len(rig.lab.journal()) == before
