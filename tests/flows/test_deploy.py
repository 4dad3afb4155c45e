"""The main job on the lab, as an operator starts it: one deploy is shared by the promises below."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackwright.lab.rig import Finished, Rig
from stackwright.lab.server import PrefectServer

pytestmark = pytest.mark.lab


class ProcessWatch:
    """Reads the argument lists and environments' names of all processes while something runs."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # the process ended between the two looks, or is not ours


class Deployed:
    """A rig on which the platform was deployed once, with what was seen meanwhile."""

    def __init__(self, rig: Rig, first: Finished, watch: ProcessWatch) -> None:
        self.rig, self.first, self.watch = rig, first, watch
        self.report = rig.report()
        self.changes = len(rig.lab.journal())
        self.snapshot = rig.lab.snapshot()


@pytest.fixture(scope="module")
def deployed(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    rig = Rig(tmp_path_factory.mktemp("rig"), prefect_server, speed=60)
    try:
        rig.set_up()
        rig.start_lab()
        with ProcessWatch() as watch:
            first = rig.run("apply", "lab", "--yes")
        assert first.code == 0, first.output[-6000:]
        yield Deployed(rig, first, watch)
    finally:
        rig.close()


def test_every_must_have_check_passed(deployed: Deployed) -> None:
    """The verdict comes from evidence, and the report holds it."""
    assert deployed.report["verdict"] == "ok"
    assert len(deployed.report["evidence"]) > 40
    assert not [
        check for check in deployed.report["evidence"] if check["must"] and check["verdict"] in ("fail", "unknown")
    ]


def test_the_report_says_that_it_was_a_lab(deployed: Deployed) -> None:
    """A report made on stand-ins says so on its face, and names them."""
    assert deployed.report["environment"] == "lab"
    assert deployed.report["stand_ins"]
    page = Path(deployed.report["html"]).read_text()
    assert "stand-in" in page


def test_a_second_deploy_changes_nothing(deployed: Deployed) -> None:
    """The lab's journal is as long as before, and the run says that its plan was empty."""
    second = deployed.rig.run("apply", "lab", "--yes")
    assert second.code == 0, second.output[-4000:]
    assert deployed.rig.lab.journal(deployed.changes) == []
    report = deployed.rig.report()
    assert report["plan"]["steps"] == []


def test_a_plan_that_does_not_hold_is_refused(deployed: Deployed) -> None:
    """`apply --plan` with another hash on a site that needs a change ends with exit code 3 and changes nothing."""
    site = deployed.rig.lab.sites / "lab.yaml"
    before = site.read_text()
    try:
        site.write_text(before.replace("admin@blue.example", "boss@blue.example").replace("pods: 20", "pods: 21"))
        refused = deployed.rig.run("apply", "lab", "--plan", "0123456789ab")
    finally:
        site.write_text(before)
    assert refused.code == 3, refused.output[-3000:]
    assert "does not hold" in refused.output
    assert deployed.rig.lab.journal(deployed.changes) == []


def test_planning_changes_nothing_and_says_so_in_json(deployed: Deployed) -> None:
    """`plan --json` prints one object, with no steps after a good run."""
    planned = deployed.rig.run("plan", "lab", "--json")
    assert planned.code == 0, planned.output[-3000:]
    assert json.loads(planned.output.splitlines()[-1])["plan"]["steps"] == []
    assert deployed.rig.lab.journal(deployed.changes) == []


def secrets_of(deployed: Deployed) -> dict[str, str]:
    """Return every secret of the site by name: those that the operator gave, and those that were made."""
    import sys
    from subprocess import run

    script = (
        "import json\n"
        "from blocks.types import BLOCKS\n"
        "from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as c:\n"
        "    docs = [d for b in BLOCKS.values() for d in c.read_block_documents_by_type(b._block_type_slug)] \n"
        "print(json.dumps({f'{d.block_type.slug}/{d.name}.{k}': v for d in docs for k, v in d.data.items()}))\n"
    )
    done = run([sys.executable, "-c", script], env=deployed.rig.environment, capture_output=True, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    return {
        name: text
        for name, text in values.items()
        if isinstance(text, str) and len(text) >= 8 and not name.endswith((".username", ".certificate"))
    }


def needles(secret: str) -> set[str]:
    """Return what to look for: a secret's own text, and the most telling line of a longer one."""
    lines = [line.strip() for line in secret.splitlines() if len(line.strip()) >= 16 and "-----" not in line]
    return {lines[len(lines) // 2]} if len(lines) > 1 else {secret.strip()}


def test_no_secret_is_found_outside_its_block(deployed: Deployed) -> None:
    """Prefect's database and logs, reports, state folder, argument lists and the command's output hold no secret."""
    secrets = secrets_of(deployed)
    assert len(secrets) > 10
    places: dict[str, str] = {"output": deployed.first.output, "argument lists": "\n".join(deployed.watch.seen)}
    database = deployed.rig.server.home / "prefect.db"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        places["Prefect's database"] = "\n".join(connection.iterdump())
    for folder in (deployed.rig.folder / "reports", deployed.rig.server.home / "storage"):
        for path in folder.rglob("*"):
            if path.is_file():
                places[str(path)] = path.read_text(errors="replace")
    places["server log"] = (deployed.rig.server.home / "server.log").read_text(errors="replace")
    found = [
        f"{name} in {place}" for name, secret in secrets.items() for needle in needles(secret)
        for place, text in places.items() if needle in text
    ]  # fmt: skip
    assert not found


def test_files_with_secrets_are_for_their_owner_alone(deployed: Deployed) -> None:
    """On the controller, whatever holds a secret is mode 0600 or lies in a 0700 folder."""
    secrets = secrets_of(deployed)
    for path in (deployed.rig.folder / "state").rglob("*"):
        if path.is_file() and any(n in path.read_text(errors="replace") for s in secrets.values() for n in needles(s)):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_run_can_be_found_in_prefect(deployed: Deployed) -> None:
    """The run belongs to the deployment, is named for the site, and holds plan, evidence and report as artifacts."""
    database = deployed.rig.server.home / "prefect.db"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        runs = connection.execute(
            "select name, deployment_id, state_type from flow_run where name = 'deploy-lab'"
        ).fetchall()
        keys = {row[0] for row in connection.execute("select key from artifact")}
        tasks = {row[0] for row in connection.execute("select name from task_run")}
    assert runs and all(deployment for _, deployment, _ in runs)
    assert {"plan-lab", "evidence-lab", "report-lab"} <= keys
    assert any(re.search("srv1", name) for name in tasks) and any(re.search("rancher", name) for name in tasks)


def test_no_process_of_the_deploy_is_left(deployed: Deployed) -> None:
    """The deploy leaves no helm, ssh or workload process behind."""
    left = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes()
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue  # another user's, or it ended
        if str(deployed.rig.folder / "state").encode() in environment:
            left.append(path)
    assert not left
