"""The main job on the lab, as an operator starts it: one deploy is shared by the promises below."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from stackwright.lab.rig import Finished, Rig
from stackwright.lab.server import PrefectServer
from tests.planted import ProcessWatch, answers, found_in, needles, raw_files, tables

pytestmark = pytest.mark.lab
SDK_KEY = re.compile(r"CLEARML_API_(ACCESS|SECRET)_KEY=[^\0]*")


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


def test_no_secret_is_found_outside_its_block(deployed: Deployed) -> None:
    """Reports, results, the server's log, argument lists, environments and the command's output hold no secret."""
    secrets = secrets_of(deployed)
    assert len(secrets) > 10
    places: dict[str, str] = {"output": deployed.first.output, "argument lists": "\n".join(deployed.watch.seen)}
    home = str(deployed.rig.server.home)
    assert any(home in one for one in deployed.watch.environments), "the deploy's own processes were seen"
    # The ClearML SDK is given a tenant's key by its own variables: in the workload's process, and in no other.
    workloads = [one for one in deployed.watch.environments if SDK_KEY.search(one)]
    assert not [one for one in workloads if home in one]
    places["environments"] = "\n".join(SDK_KEY.sub("", one) for one in deployed.watch.environments)
    for folder in (deployed.rig.folder / "reports", deployed.rig.server.home / "storage"):
        for path in folder.rglob("*"):
            if path.is_file():
                places[str(path)] = path.read_text(errors="replace")
    places["server log"] = (deployed.rig.server.home / "server.log").read_text(errors="replace")
    assert not found_in(secrets, places.items())


def test_no_secret_is_in_any_table_or_page_of_prefects_database(deployed: Deployed) -> None:
    """Each value of each table as it lies there, and the raw bytes of the file, with what was deleted."""
    database = deployed.rig.server.home / "prefect.db"
    of_tables = dict(tables(database))
    assert {"table flow_run", "table log", "table events", "table artifact", "table block_document"} <= set(of_tables)
    assert "deploy-lab" in of_tables["table flow_run"], "what is there would be seen"
    secrets = secrets_of(deployed)
    assert not found_in(secrets, [*of_tables.items(), *raw_files(database)])


def test_no_secret_is_in_any_answer_of_the_api(deployed: Deployed) -> None:
    """Nobody who lists runs, logs, events, artifacts, deployments or blocks is told one; who asks for a block's is."""
    database = deployed.rig.server.home / "prefect.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        runs = [
            str(UUID(str(row[0]))) for row in connection.execute("select id from flow_run where name = 'deploy-lab'")
        ]
    said = list(answers(deployed.rig.server.url, runs))
    secrets = secrets_of(deployed)
    assert not found_in(secrets, said)
    asked = httpx.post(f"{deployed.rig.server.url}/block_documents/filter", json={"include_secrets": True}, timeout=60)
    assert found_in(secrets, [("asked for", asked.text)]), "the search sees a secret where one is"


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


def test_what_was_done_to_a_node_and_layer_is_in_the_runs_log(deployed: Deployed) -> None:
    """Our own lines reach the server, each with its run: an operator reads them in the UI, not on a shell."""
    database = deployed.rig.server.home / "prefect.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        lines = connection.execute(
            "select log.name, log.message from log join flow_run on flow_run.id = log.flow_run_id"
            " where flow_run.name = 'deploy-lab'"
        ).fetchall()
    assert any(name == "tasks.nodes" and message.startswith("gpu1: ") for name, message in lines)
    assert any(name == "tasks.layers" for name, _ in lines)


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
