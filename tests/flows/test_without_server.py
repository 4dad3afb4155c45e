"""Whole runs without the Prefect server on the lab, and putting their records onto a real server afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from pydantic import SecretStr
from typer.testing import CliRunner

from blocks.site import load_site, secrets_from, state_folder
from blocks.store import BlockSecrets
from blocks.types import BLOCKS
from stackwright import cli, send_runs, spool
from stackwright.clients.connect import connect
from stackwright.clients.kept_secrets import KeptSecrets, file_of
from stackwright.clients.site import Site
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.run_record import RunRecord, parse
from stackwright.lab.control import LabHandle
from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT, Finished
from stackwright.lab.server import PrefectServer
from stackwright.return_blocks import return_blocks
from stackwright.without_server import open_source
from tasks.lease import Lease, this_process
from tests.domain.test_run_record import HEAD, LOG, STATES
from tests.flows.ground import LEASE, set_lease_back
from tests.flows.server import ask, on_server, wait_for

OTHER = Plan("lab", (Step("node/srv1/x", "srv1", "x", Effect.FILE, "5.1", "look"),))


class Dark:
    """A small lab, its operator's files, and a Prefect server that does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lab = LabHandle(folder / "lab")
        self.file = folder / "safe" / "blocks.yaml"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        self.environment = {
            **clean,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
            "STACKWRIGHT_SITES": str(self.lab.sites),
            "STACKWRIGHT_STATE": str(folder / "state"),
            "STACKWRIGHT_REPORTS": str(folder / "reports"),
            "STACKWRIGHT_TOOLS": str(ROOT / "build" / "tools" / "bin"),
            "PYTHONPATH": str(ROOT),
        }

    def start(self) -> None:
        self.lab.start(speed=20.0, fresh=True, layout=Layout(servers=1, workers=0, gpus=0, bare=True))
        self.change(lambda site: site.update(validation={"workload": False}))
        self.change(lambda site: site["rke2"].update(allow_single_server=True, poll_s=0.1))
        self.file.parent.mkdir(mode=0o700)
        rows: dict[str, dict[str, str]] = {}
        for kind, blocks in json.loads((self.lab.folder / "secrets.json").read_text()).items():
            for name, fields in blocks.items():
                for field, value in fields.items():
                    if value:
                        path = self.file.parent / f"{kind}.{name}.{field}"
                        path.touch(mode=0o600)
                        path.write_text(value)
                        rows.setdefault(f"{kind}/{name}", {})[field] = f"file:{path}"
        self.file.write_text(yaml.safe_dump({"blocks": rows}))

    def change(self, edit: Any) -> None:
        path = self.lab.sites / "lab.yaml"
        document = yaml.safe_load(path.read_text())
        edit(document)
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def name_host(self, name: str) -> None:
        """One small step for the next plan."""
        self.change(lambda site: site["dns"]["hosts"].update({name: "192.0.2.1"}))

    def spawn(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "stackwright.cli", *words, "--without-server", str(self.file)]
        with log.open("wb") as sink:
            return subprocess.Popen(
                argv, cwd=ROOT, env=self.environment, stdout=sink, stderr=sink, start_new_session=True
            )

    def run(self, *words: str) -> Finished:
        log, began = self.folder / f"{len(list(self.folder.glob('*.log')))}.log", time.monotonic()
        with self.spawn(*words, log=log) as process:
            code = process.wait(timeout=300)
        return Finished(code, log.read_text(), time.monotonic() - began)

    @property
    def home(self) -> Path:
        return self.folder / "state" / "stackwright" / ".without-server"

    def records(self) -> list[RunRecord]:
        return [parse(path.read_bytes(), str(path)) for path in sorted((self.home / "spool").glob("*.jsonl"))]

    def planned(self) -> str:
        """The hash of the plan that the newest record shows."""
        pages = [page for page in self.records()[-1].artifacts if page["key"] == "plan-lab"]
        found = re.search(r"[0-9a-f]{12}", pages[-1]["description"])
        assert found is not None
        return found[0]

    def given(self) -> dict[str, bytes]:
        """What was planted: the given secrets that are longer than a word, by their file."""
        texts = {path.name: path.read_bytes().strip() for path in self.file.parent.glob("*.*.*")}
        return {name: text for name, text in texts.items() if len(text) > 8}

    def written(self) -> dict[str, bytes]:
        """What runs have written to blocks."""
        found = {}
        for path in (self.folder / "state" / "stackwright" / "lab" / "kept-blocks").glob("*.json"):
            for field, value in json.loads(path.read_text())["fields"].items():
                found[f"{path.name} {field}"] = value.encode()
        return found

    def site(self, patch: pytest.MonkeyPatch, name: str) -> Site:
        """The site as another operator reaches it, from a state folder of his own."""
        for key in ("STACKWRIGHT_SITES", "STACKWRIGHT_TOOLS"):
            patch.setenv(key, self.environment[key])
        patch.setenv("STACKWRIGHT_STATE", str(self.folder / name))
        source = open_source("lab", self.file)
        with secrets_from(source.secrets):
            return load_site("lab")[1]


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dark]:
    dark = Dark(tmp_path_factory.mktemp("dark"))
    dark.start()
    try:
        yield dark
    finally:
        dark.lab.stop()


@pytest.fixture(scope="module")
def refused(dark: Dark) -> Finished:
    """A run while somebody else holds the lease. Nothing was deployed before."""
    with pytest.MonkeyPatch.context() as patch:
        site = dark.site(patch, "holder")
        lease = Lease(site, replace(this_process("other-operator", "http://ui/other"), host="elsewhere"))
        lease.take(OTHER)
        before = len(dark.lab.journal())
        done = dark.run("apply", "lab", "--plan", "000000000000")
        assert [one for one in dark.lab.journal(before) if " lease/" not in f" {one['action']}"] == []
        lease.check()
        lease.release(finished=True)
    return done


@pytest.fixture(scope="module")
def applied(dark: Dark, refused: Finished) -> tuple[Finished, list[str]]:
    """The first deploy, with the hash that the refused run's record shows; and where a secret was seen meanwhile."""
    log, seen = dark.folder / "applied.log", []
    began = time.monotonic()
    with dark.spawn("apply", "lab", "--plan", dark.planned(), log=log) as run:
        while run.poll() is None:
            seen += look_for_secrets(dark)
            time.sleep(0.3)
    return Finished(run.returncode, log.read_text(), time.monotonic() - began), seen


def look_for_secrets(dark: Dark) -> list[str]:
    """Return where a given or written secret stands: argument lists, the environment and files of the run's server."""
    places = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes()
            if b"stackwright.own_server" in argv:
                places[f"{process} environ"] = (process / "environ").read_bytes()
        except (OSError, ProcessLookupError):
            continue
        places[f"{process} cmdline"] = argv
    for path in dark.home.rglob("*"):
        try:
            places[str(path)] = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue
    secrets = {**dark.given(), **dark.written()}
    return [f"{name} in {place}" for place, raw in places.items() for name, text in secrets.items() if text in raw]


@pytest.mark.lab
def test_it_is_refused_while_another_run_holds_the_lease(dark: Dark, refused: Finished) -> None:
    """Two places from which a site is changed: the lease keeps them apart. Exit code, holder and record say so."""
    assert refused.code == 4, refused.output[-3000:]
    assert "other-operator" in refused.output and "http://ui/other" in refused.output
    record = dark.records()[0]
    assert record.end["name"] == "Refused" and "other-operator" in record.end["message"]
    assert {"site:lab", "action:deploy", "without-server"} <= set(record.head["tags"])


@pytest.mark.lab
def test_an_approved_plan_is_applied_and_recorded(dark: Dark, applied: tuple[Finished, list[str]]) -> None:
    """Whole, with the pages of a usual run and who gave the hash; the run's own server is gone."""
    done, _ = applied
    assert done.code == 0, done.output[-3000:]
    assert "verdict: ok" in done.output and "runs send" in done.output
    record = dark.records()[-1]
    keys = {page["key"] for page in record.artifacts}
    assert {"plan-lab", "progress-lab", "evidence-lab", "report-lab", "approval-lab"} <= keys
    assert any("rke2 srv1: done" in line["message"] for line in record.logs)
    tasks = {event["resource"]["prefect.resource.name"] for event in record.events if "task-run" in event["event"]}
    assert {"node-srv1", "rke2-srv1", "check-cluster"} <= tasks
    assert record.end["type"] == "COMPLETED" and record.head["began"] < record.head["ended"]
    assert list((dark.home / "servers").iterdir()) == []


@pytest.mark.lab
def test_no_secret_is_seen_while_it_runs_nor_left_afterwards(dark: Dark, applied: tuple[Finished, list[str]]) -> None:
    """Neither what was given nor what the run wrote: argv, environment, private database, record, log, reports."""
    done, seen = applied
    assert len(dark.given()) >= 6 and len(dark.written()) >= 2
    assert seen == [] and look_for_secrets(dark) == []
    left = {str(path): path.read_bytes() for path in (dark.folder / "reports").rglob("*") if path.is_file()}
    left["log"] = done.output.encode()
    secrets = {**dark.given(), **dark.written()}
    assert [(name, place) for place, raw in left.items() for name, text in secrets.items() if text in raw] == []


def sent(server: PrefectServer, record: RunRecord) -> list[dict[str, Any]]:
    """The runs on the real server that were made of a record."""
    runs = ask(server, "/flow_runs/filter", {"flow_runs": {"tags": {"all_": ["without-server"]}}})
    return [run for run in runs if run["labels"].get(send_runs.LABEL) == record.id]


def parts(server: PrefectServer, run: dict[str, Any]) -> tuple[int, int]:
    """How many log lines and pages a run on the real server has."""
    logs = ask(server, "/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})
    pages = ask(server, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})
    return len(logs), len(pages)


@pytest.mark.lab
def test_a_recorded_run_is_on_the_real_server_with_its_task_runs_at_their_time(
    dark: Dark, applied: tuple[Finished, list[str]], prefect_server: PrefectServer
) -> None:
    """Sent twice it is there once."""
    record = dark.records()[-1]
    assert on_server(lambda client: send_runs.send(client, record))[0] == "sent"
    assert on_server(lambda client: send_runs.send(client, record))[0] == "was there"
    (run,) = sent(prefect_server, record)
    assert run["state_name"] == record.end["name"] and set(record.head["tags"]) <= set(run["tags"])
    assert record.head["began"][:16].replace("T", " ") in run["name"]
    assert parts(prefect_server, run) == (len(record.logs), len(record.artifacts) + 1)
    about = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    wanted = {event["resource"]["prefect.resource.id"] for event in record.events if "task-run" in event["event"]}

    def there() -> list[dict[str, Any]]:
        found = ask(prefect_server, "/task_runs/filter", about)
        ends = [one for one in found if one["state_type"] == "COMPLETED"]
        return ends if len(ends) == len(wanted) else []

    for task in wait_for(there):
        assert record.head["began"] <= task["start_time"].replace("Z", "+00:00") <= record.head["ended"]


# --- sending, without the lab ----------------------------------------------------------------------------------------


def made(**more: Any) -> RunRecord:
    now = datetime.now(UTC)
    times = {"began": (now - timedelta(minutes=9)).isoformat(), "ended": now.isoformat()}
    head = {**HEAD, **times, "id": str(uuid4()), "flow_id": str(uuid4()), "flow": f"deploy-{uuid4().hex[:6]}",
            "tags": ["site:north", "without-server"], **more}  # fmt: skip
    pages = tuple({"key": "plan-north", "type": "markdown", "description": "p", "data": "# Plan"} for _ in range(2))
    lines = tuple({**LOG, "message": f"line {number}", "timestamp": head["began"]} for number in range(3))
    event = {"id": str(uuid4()), "occurred": head["began"], "event": "stackwright.trial", "payload": {}, "related": [],
             "resource": {"prefect.resource.id": f"stackwright.trial.{head['id']}"}}  # fmt: skip
    return RunRecord(head, STATES, pages, lines, (event,))


class Dying:
    """A client whose process dies before its call number `at`."""

    def __init__(self, client: PrefectClient, at: int) -> None:
        self._client, self._at, self.calls = client, at, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                raise KeyboardInterrupt
            return await method(*args, **kwargs)

        return call


def test_a_sending_that_dies_anywhere_is_completed_by_the_next(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run with each line and page once, whatever had arrived before."""
    monkeypatch.setattr(send_runs, "BATCH", 1)
    at = 1
    while True:
        record = made()
        try:
            on_server(lambda client, at=at, record=record: send_runs.send(Dying(client, at), record))  # type: ignore[misc]
            break
        except KeyboardInterrupt:
            on_server(lambda client, record=record: send_runs.send(client, record))  # type: ignore[misc]
        (run,) = sent(prefect_server, record)
        assert parts(prefect_server, run) == (3, 3) and run["state_type"] == "COMPLETED", at
        at += 1
    assert at > 10, "every call was a place to die"
    (run,) = sent(prefect_server, record)  # the event speaks of the run by the id that it has there
    about = {"event": {"name": ["stackwright.trial"]}, "resource": {"id": [f"stackwright.trial.{run['id']}"]}}
    wait_for(lambda: ask(prefect_server, "/events/filter", {"filter": about})["events"])


def test_a_killed_run_arrives_as_crashed_and_no_worker_takes_it(prefect_server: PrefectServer) -> None:
    """It never was scheduled, so the watch over lost runs leaves it alone (tests/flows/test_resume.py)."""
    crashed = {**STATES[1], "type": "CRASHED", "name": "Crashed", "message": "killed"}
    record = replace(made(), states=(STATES[0], crashed))
    on_server(lambda client: send_runs.send(client, record))
    (run,) = sent(prefect_server, record)
    states = ask(prefect_server, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert states[0]["state_type"] == "CRASHED" and "killed" in states[0]["state"]["message"]
    history = on_server(lambda client: client.read_flow_run_states(run["id"]))
    assert {state.type.value for state in history} == {"PENDING", "RUNNING", "CRASHED"}


def test_records_are_sent_from_the_spool_and_spoilt_ones_are_not(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STACKWRIGHT_STATE", str(tmp_path))
    good, bad = spool.keep(made()), spool.keep(made(name="other"))
    bad.write_bytes(bad.read_bytes().replace(b"line 1", b"line 9"))
    record = spool.read(good)
    bad = bad.rename(bad.with_name(f"0-{bad.name}"))  # it comes first, and stops nothing
    done = CliRunner().invoke(cli.app, ["runs", "send"])
    assert done.exit_code == 2 and f"{record.head['name']}: sent" in done.output and str(bad) in done.output
    assert spool.waiting() == [bad] and len(sent(prefect_server, record)) == 1
    done = CliRunner().invoke(cli.app, ["runs", "list"])
    assert done.exit_code == 0 and "seal does not fit" in done.output


def test_blocks_that_runs_wrote_go_back_to_the_server_unless_it_knows_newer_ones(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    """Written, removed, or held where the server's was changed since; the second time there is nothing to do."""
    for kind in ("secret-text", "cluster-access"):
        BLOCKS[kind].register_type_and_schema(_sync=True)  # type: ignore[call-arg]
    server = BlockSecrets()
    server.write("secret-text", "old-one", {"value": SecretStr("before")})
    server.write("secret-text", "gone-one", {"value": SecretStr("before")})
    kept = KeptSecrets({}, tmp_path / "kept")
    kept.write("secret-text", "old-one", {"value": SecretStr("by the run")})
    kept.write("secret-text", "newer-one", {"value": SecretStr("by the run")})
    kept.write("cluster-access", "new-one", {"kubeconfig": SecretStr("by the run")})
    kept.remove("secret-text", "gone-one")
    for path in (tmp_path / "kept").iterdir():  # well after the server's, whose clock may be another
        os.utime(path, (time.time() + 600, time.time() + 600))
    older = file_of(tmp_path / "kept", "secret-text", "newer-one")
    server.write("secret-text", "newer-one", {"value": SecretStr("on the server")})
    os.utime(older, (time.time() - 3600, time.time() - 3600))
    told = dict(return_blocks(tmp_path / "kept"))
    assert told["secret-text/old-one"] == told["cluster-access/new-one"] == "written"
    assert told["secret-text/gone-one"] == "removed" and told["secret-text/newer-one"].startswith("held")
    fresh = BlockSecrets()
    assert fresh.read("secret-text", "old-one") == {"value": SecretStr("by the run")}
    assert fresh.read("secret-text", "newer-one") == {"value": SecretStr("on the server")}
    assert fresh.read("secret-text", "gone-one") is None
    assert list(dict(return_blocks(tmp_path / "kept"))) == ["secret-text/newer-one"] and older.exists()


# --- long ones -------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@pytest.mark.slow
def test_check_and_plan_look_and_change_nothing(dark: Dark, applied: tuple[Finished, list[str]]) -> None:
    """A second plan after the deploy is empty: what the run wrote is known to the next one."""
    before = len(dark.lab.journal())
    checked, planned = dark.run("check", "lab"), dark.run("plan", "lab")
    assert (checked.code, planned.code) == (1, 0), checked.output[-2000:] + planned.output[-2000:]
    failed = re.findall(r"^(preflight/\S+) +fail  ", checked.output, re.M)
    assert failed == ["preflight/cluster/storage-class"]  # true of a cluster without layers
    assert "0 step(s)" in planned.output and "kept by earlier runs" in planned.output
    assert dark.lab.journal(before) == []
    assert dark.run("lease", "lab").code == 0


@pytest.mark.lab
@pytest.mark.slow
def test_the_hosts_are_in_a_support_bundle_and_no_secret(dark: Dark, applied: tuple[Finished, list[str]]) -> None:
    """Journals, lease, plan and the records of the night: all with secrets of the file alone."""
    done = dark.run("support-bundle", "lab", "--output", str(dark.folder / "bundle"))
    assert done.code == 0, done.output[-2000:]
    (path,) = (dark.folder / "bundle").iterdir()
    with tarfile.open(path) as tar:
        files = {one.name.partition("/")[2]: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]
    assert b"journal" in files["nodes/srv1.txt"] and {"lease.json", "plan.json", "cluster.json"} <= files.keys()
    assert [name for name in files if name.startswith("unsent-runs/")]
    raw, secrets = b"".join(files.values()), {**dark.given(), **dark.written()}
    assert secrets and [name for name, text in secrets.items() if text in raw] == []


@pytest.mark.lab
@pytest.mark.slow
def test_a_run_that_is_killed_is_recorded_and_the_same_command_continues(
    dark: Dark, applied: tuple[Finished, list[str]]
) -> None:
    """SIGKILL before a step: the run's own server writes its record and goes; nothing private is left."""
    dark.name_host("killed.lab.test")
    assert dark.run("plan", "lab").code == 0
    words = ("apply", "lab", "--plan", dark.planned())
    run = dark.spawn(*words, log=dark.folder / "killed.log")
    dark.lab.fault(kind="kill", match={"target": "^srv1$", "action": "node/"}, when="before", pid=run.pid)
    assert run.wait(timeout=120) == -signal.SIGKILL
    dark.lab.clear_faults()
    wait_for(lambda: not list((dark.home / "servers").iterdir()))
    crashed = dark.records()[-1]
    assert crashed.end["type"] == "CRASHED" and crashed.head["deployment"] == "deploy-stack"
    again = dark.run(*words)
    assert again.code == 0, again.output[-3000:]
    assert "lease taken over" in again.output and "(without-server)" in again.output
    assert look_for_secrets(dark) == []


@pytest.mark.lab
@pytest.mark.slow
def test_what_died_with_its_server_is_recorded_by_the_next_command(
    dark: Dark, applied: tuple[Finished, list[str]]
) -> None:
    """As after a power cut: the process and its server are killed at once."""
    dark.name_host("cut.lab.test")
    assert dark.run("plan", "lab").code == 0
    words, count = ("apply", "lab", "--plan", dark.planned()), len(dark.records())
    run = dark.spawn(*words, log=dark.folder / "cut.log")
    dark.lab.fault(kind="kill", match={"target": "^srv1$", "action": "node/"}, when="before", pid=run.pid)
    servers = []
    while run.poll() is None:
        argv = {path.parent.name: path for path in Path("/proc").glob("[0-9]*/cmdline")}
        servers = [pid for pid, path in argv.items() if f"{dark.home}/servers".encode() in quiet_read(path)] or servers
        time.sleep(0.05)
    for pid in servers:
        os.kill(int(pid), signal.SIGKILL)
    dark.lab.clear_faults()
    again = dark.run(*words)
    assert again.code == 0 and "was cut off" in again.output, again.output[-3000:]
    found = dark.records()[count:]
    assert sorted(record.end["type"] for record in found) == ["COMPLETED", "CRASHED"]


def quiet_read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.lab
@pytest.mark.slow
def test_it_is_fenced_as_any_run_is(
    dark: Dark, applied: tuple[Finished, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was taken over while it was stopped changes nothing more when it goes on."""
    dark.name_host("fenced.lab.test")
    assert dark.run("plan", "lab").code == 0
    words, log = ("apply", "lab", "--plan", dark.planned()), dark.folder / "fenced.log"
    site = dark.site(monkeypatch, "taker")
    site = connect(site.spec, KeptSecrets({**dict_of(dark)}, dark.folder / "none"), state_folder("lab"))
    before = len(dark.lab.journal())
    # The node is so far away that the run can be stopped between taking the lease in both places and its first step.
    dark.lab.fault(kind="slow-link", node="srv1", seconds=2.0)
    run = dark.spawn(*words, log=log)
    try:
        wait_for(lambda: any(one["wire"] == "kube" and LEASE.search(one["target"]) for one in dark.lab.journal(before)))
        run.send_signal(signal.SIGSTOP)
        dark.lab.clear_faults()
        place = set_lease_back(site, 3600)
        taker = Lease(site, replace(this_process("taker", "http://ui/taker"), host="elsewhere"))
        taker.take(OTHER, at_least=place.number)
        run.send_signal(signal.SIGCONT)
        assert run.wait(timeout=240) == 1
        taker.check()
        taker.release(finished=True)
    finally:
        run.kill()
        run.wait()
    assert dark.records()[-1].end["type"] == "FAILED"
    left = dark.run("plan", "lab")  # a script that it had begun to send was refused by the node's own fence
    assert left.code == 0 and "node/srv1/hosts" in left.output, left.output[-2000:]
    assert dark.run("apply", "lab", "--plan", dark.planned()).code == 0


def dict_of(dark: Dark) -> dict[Any, Any]:
    """All secrets of the operator and of the runs: given files, and kept blocks behind none."""
    kept = KeptSecrets({}, dark.folder / "state" / "stackwright" / "lab" / "kept-blocks")
    known = {
        (kind, name): kept.read(kind, name) for kind in ("cluster-access", "secret-text") for name in kept.names(kind)
    }
    return {**dict(open_source("lab", dark.file).secrets._given), **known}
