"""The receiver as its own process against a real Prefect server: killed -9, started again, nothing lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Crashed
from prefect.utilities.callables import parameter_schema

from stackwright import runs
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer, free_port
from stackwright.webhooks.settings import DEPLOYMENT
from stackwright.webhooks.signing import signed_headers
from tests.flows.server import on_server, wait_for
from tests.flows.tenant_flow import tenant_request

SITE = "lab"
QUOTA = {"cpu": 64, "memory_gib": 256, "gpus": 1, "storage_gib": 2000, "pods": 100}
pytestmark = pytest.mark.usefixtures("prefect_server")


async def deploy(client: PrefectClient) -> UUID:
    """Make the deployment as `stackwright setup` would; the server enforces the schema of its parameters."""
    await runs.ensure_work_pool("nobody")
    flow = await client.create_flow_from_name("tenant-request")
    return await client.create_deployment(
        flow, "tenant-request", entrypoint="tests/flows/tenant_flow.py:tenant_request", work_pool_name="nobody",
        parameter_openapi_schema=parameter_schema(tenant_request).model_dump_for_openapi(), path=".",
        enforce_parameter_schema=True,
    )  # fmt: skip


async def undeploy(client: PrefectClient) -> None:
    with suppress(ObjectNotFound):
        await client.delete_deployment((await client.read_deployment_by_name(DEPLOYMENT)).id)


def runs_of(tenant: str) -> list[FlowRun]:
    """Return the runs of a tenant on the server, oldest first."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"tenant:{tenant}"]))
    found = on_server(lambda client: client.read_flow_runs(flow_run_filter=wanted))
    return sorted(found, key=lambda run: str(run.idempotency_key))


class Process:
    """A receiver in a process of its own."""

    def __init__(self, folder: Path, server: PrefectServer) -> None:
        self.folder = folder
        self.file = folder / "webhooks.yaml"
        callers = {"portal": {"sites": [SITE], "largest": QUOTA}}
        self.file.write_text(yaml.safe_dump({"callers": callers, "poll_s": 0.1, "backoff_s": 0.1}))
        self.env = {
            **os.environ, **server.environment, "PYTHONPATH": str(ROOT), "STACKWRIGHT_WEBHOOKS": str(self.file),
            "STACKWRIGHT_STATE": str(folder / "state"), "STACKWRIGHT_SITES": str(ROOT / "deployments" / "sites"),
        }  # fmt: skip
        self.log = folder / "receiver.log"
        done = self.command("webhooks", "key", "rotate", "portal", "--drop-previous")
        assert done.returncode == 0, done.stderr
        name, self.key = done.stdout.split()
        self.key_id = name.partition(":")[2]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.answers: list[str] = []

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "stackwright.cli", *words]
        return subprocess.run(argv, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    def start(self) -> None:
        """Start it, unless it runs already."""
        if self.process is not None and self.process.poll() is None:
            return
        argv = [sys.executable, "-m", "stackwright.cli", "webhooks", "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=self.env, cwd=ROOT, stdout=log, stderr=log)
        wait_for(self.alive)

    def alive(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        return False

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def send(self, method: str, target: str, body: Any = None, key: str = "") -> httpx.Response:
        raw = b"" if body is None else json.dumps(body).encode()
        headers = signed_headers("portal", self.key_id, self.key, f"{time.time():.6f}", method, target, key, raw)
        headers |= {"Content-Type": "application/json"} if raw else {}
        answer = httpx.request(method, f"{self.url}{target}", content=raw, headers=headers, timeout=30)
        self.answers.append(answer.text)
        return answer

    def onboard(self, tenant: str, key: str) -> httpx.Response:
        body = {"site": SITE, "tenant": {"name": tenant, "admin_email": f"ops@{tenant}.example"}}
        return self.send("POST", "/v1/tenants", body, key)

    def last(self, tenant: str) -> dict[str, Any]:
        """Return a tenant's newest request."""
        found: dict[str, Any] = self.send("GET", f"/v1/tenants/{SITE}/{tenant}").json()["requests"][0]
        return found


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[Process]:
    """One receiver for all tests here, each with tenants of its own: a process takes seconds to start."""
    made = Process(tmp_path_factory.mktemp("receiver"), prefect_server)
    try:
        yield made
    finally:
        made.kill()


def carry_out(run: FlowRun) -> None:
    """Do a worker's part in a process of its own, with the parameters as they are on the server."""
    argv = [sys.executable, "-m", "tests.flows.tenant_flow", str(run.id)]
    subprocess.run(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=120)


def end(run: FlowRun) -> None:
    """Let a run have ended well."""
    on_server(lambda client: client.set_flow_run_state(run.id, Completed(), force=True))


def new_name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def test_what_was_answered_survives_kill_9_and_is_sent_once(receiver: Process, prefect_server: PrefectServer) -> None:
    """Killed after the 202 and before any run could be created; then once more while it waits for the run's end.

    Nothing is lost, nothing doubled; the key that signed all of it is nowhere to be found.
    """
    first, second = new_name(), new_name()
    on_server(undeploy)
    receiver.start()
    for tenant in (first, second, first):  # the last one is a duplicate: the same key and body
        assert receiver.onboard(tenant, f"key-of-{tenant}").status_code == 202
    assert receiver.send("PATCH", f"/v1/tenants/{SITE}/{first}", {"action": "suspend"}, "suspend-1").status_code == 202
    receiver.kill()
    assert not runs_of(first) and not runs_of(second)

    on_server(deploy)
    receiver.start()
    wait_for(lambda: runs_of(first) and runs_of(second))
    receiver.kill()
    receiver.start()
    again = receiver.onboard(first, f"key-of-{first}")
    assert again.status_code == 202
    (run,) = runs_of(first)
    assert run.idempotency_key == f"tenant:{again.json()['id']}:1" and run.name == f"onboard-{first}-{SITE}"
    assert run.parameters["request"]["id"] == again.json()["id"]

    carry_out(run)
    wait_for(lambda: len(runs_of(first)) == 2)  # the suspension waited for the onboarding's end
    end(next(run for run in runs_of(first) if run.name == f"suspend-{first}-{SITE}"))
    wait_for(lambda: receiver.last(first)["state"] == "ended")
    assert receiver.last(first)["outcome"] == "completed"
    assert (
        f"/runs/flow-run/{receiver.last(first)['run']['url'].rsplit('/', 1)[1]}" in receiver.last(first)["run"]["url"]
    )
    assert len(runs_of(first)) == 2 and len(runs_of(second)) == 1

    events = wait_for(lambda: requested(prefect_server, first))
    assert len(events) == 2 and {event["payload"]["action"] for event in events} == {"onboard", "suspend"}
    files = [path for folder in (receiver.folder, prefect_server.home) for path in folder.rglob("*") if path.is_file()]
    assert receiver.key not in "".join(receiver.answers)
    assert not [path for path in files if receiver.key.encode() in path.read_bytes()]


def requested(server: PrefectServer, tenant: str) -> list[dict[str, Any]]:
    """Return the events of a tenant once both are there."""
    about = {
        "event": {"name": ["stackwright.tenant.requested"]},
        "resource": {"id": [f"stackwright.tenant.{SITE}.{tenant}"]},
    }
    found: list[dict[str, Any]] = (
        httpx.post(f"{server.url}/events/filter", json={"filter": about}, timeout=30)
        .raise_for_status()
        .json()["events"]
    )
    return found if len(found) >= 2 else []


@pytest.mark.slow
def test_killed_while_a_run_is_being_created(receiver: Process, prefect_server: PrefectServer) -> None:
    """Prefect has the call and its answer never comes: the next start finds the same run by its key."""
    tenant = new_name()
    on_server(deploy)
    receiver.start()
    group = os.getpgid(prefect_server._process.pid)  # type: ignore[union-attr]
    os.killpg(group, signal.SIGSTOP)
    try:
        assert receiver.onboard(tenant, "frozen-server-1").status_code == 202
        threading.Event().wait(1.0)  # the call is on the wire
        receiver.kill()
    finally:
        os.killpg(group, signal.SIGCONT)
    receiver.start()
    wait_for(lambda: receiver.last(tenant)["state"] == "dispatched")
    (run,) = runs_of(tenant)
    assert str(run.id) in receiver.last(tenant)["run"]["url"]


def test_a_run_that_crashes_or_vanishes_gets_another(receiver: Process) -> None:
    """Each attempt has a key of its own; a run that ends by itself is the answer."""
    tenant = new_name()
    on_server(deploy)
    receiver.start()
    assert receiver.onboard(tenant, "crashing-run-1").status_code == 202
    (one,) = wait_for(lambda: runs_of(tenant))
    on_server(lambda client: client.set_flow_run_state(one.id, Crashed(message="worker killed"), force=True))
    two = wait_for(lambda: runs_of(tenant)[1:])[0]
    wait_for(lambda: receiver.last(tenant)["state"] == "dispatched")
    on_server(lambda client: client.delete_flow_run(two.id))
    three = wait_for(lambda: runs_of(tenant)[1:])[0]
    assert [str(run.idempotency_key)[-2:] for run in (one, two, three)] == [":1", ":2", ":3"]
    end(three)
    wait_for(lambda: receiver.last(tenant)["state"] == "ended")
    found = receiver.last(tenant)
    assert (found["outcome"], found["attempt"]) == ("completed", 3)


def test_the_curl_example_works(receiver: Process) -> None:
    """docs/webhooks.md shows how to sign and to send with curl: what it shows is run as it stands."""
    on_server(deploy)
    receiver.start()
    text = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    script = text.split("```sh\n# sign and send\n", 1)[1].split("```", 1)[0]
    tenant = new_name()
    body = {"site": SITE, "tenant": {"name": tenant, "admin_email": f"ops@{tenant}.example"}}
    (receiver.folder / "body.json").write_text(json.dumps(body))
    (receiver.folder / "key").write_text(receiver.key)
    env = {**os.environ, "URL": receiver.url, "KEY_ID": f"portal:{receiver.key_id}"}
    shell = ["sh", "-eu", "-c", script]
    done = subprocess.run(shell, cwd=receiver.folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["tenant"] == tenant, done.stdout + done.stderr
    wait_for(lambda: runs_of(tenant))

    receiver.env["STACKWRIGHT_WEBHOOK_KEY"] = receiver.key
    target = f"/v1/tenants?site={SITE}"
    signed = receiver.command("webhooks", "sign", env["KEY_ID"], "GET", target)
    curl = ["curl", "-s", "--header", "@-", f"{receiver.url}{target}"]
    listed = subprocess.run(curl, input=signed.stdout, capture_output=True, text=True, timeout=60, check=True)
    assert tenant in [item["name"] for item in json.loads(listed.stdout)["tenants"]]
