"""The agent and gateway stand-ins against the server stand-in, and real tasks through the real SDK."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from stackwright.clients.http import make_client
from stackwright.clients.workload import (
    Job,
    WorkloadFailedError,
    run_in_queue,
    script_fields,
    send_job,
)
from stackwright.domain.errors import GateTimeoutError
from stackwright.lab.clearml import AgentStandin, GatewayStandin
from stackwright.lab.clearml.alone import clearml_alone
from stackwright.lab.clearml.local_run import run_workload, workload_env
from stackwright.lab.clearml.wire import Connection
from stackwright.lab.clearml.workers import QueueLimit, limits_of

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A served stand-in, shared: each test makes its own tenant."""
    with clearml_alone(tmp_path_factory.mktemp("clearml")) as served:
        yield served


def connection(trial, client) -> Connection:
    return trial.connection(client.access_key, client._secret)


@contextmanager
def running(*standins):
    """Run stand-ins in a loop of their own until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    started = [asyncio.run_coroutine_threadsafe(standin.run(), loop) for standin in standins]
    try:
        yield
    finally:
        for future in started:
            future.cancel()  # each ends its own pods

        async def end():
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(DEADLINE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
        assert all(future.cancelled() for future in started), [future.exception() for future in started]


def until(check):
    """Look until the check holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not check():
        assert time.monotonic() < deadline, "not seen in time"
        threading.Event().wait(0.02)


def agent(trial, client, *queues, **more) -> AgentStandin:
    return AgentStandin(connection(trial, client), "clearml-agent", queues, report_s=0.1, poll_s=0.02, **more)


def test_agent_and_gateway_are_listed_while_they_run(trial):
    """Queues are made, the worker serves them, capacity and router show, and all are gone when the releases are."""
    tenant = trial.tenant("listed")
    gateway = GatewayStandin(connection(trial, tenant), "gw-listed", "https://router.listed", report_s=0.1)
    with running(agent(trial, tenant, "default", "gpu", max_gpus=2), gateway):
        until(lambda: tenant.routers() and tenant.resource_usages())
        assert {queue.name for queue in tenant.queues()} == {"default", "gpu"}
        assert [worker.queues for worker in tenant.workers()] == [("default", "gpu")]
        assert [(router.name, router.url) for router in tenant.routers()] == [("gw-listed", "https://router.listed")]
        assert [usage.gpus_max_allowed for usage in tenant.resource_usages()] == [2.0]
    assert tenant.workers() == () and tenant.routers() == ()


def test_agent_without_create_queues_waits_for_its_queue(trial):
    """A missing queue is its problem, until someone makes it."""
    tenant = trial.tenant("waiting")
    worker = agent(trial, tenant, "later", create_queues=False)
    with running(worker):
        until(lambda: "later does not exist" in worker.problem)
        assert tenant.workers() == ()
        tenant.create_queue("later")
        until(lambda: tenant.workers())


def test_agent_with_a_wrong_key_serves_nothing(trial):
    """It stays at the login, and says so without the secret."""
    tenant = trial.tenant("wrongkey")
    worker = agent(trial, trial.client(tenant.access_key, SecretStr("not-the-secret")), "default")
    with running(worker):
        until(lambda: "invalid credentials" in worker.problem)
    assert "not-the-secret" not in worker.problem + repr(worker.connection)


SMALL = {"samples": 3000, "epochs": 4, "batch": 32}


def test_training_runs_through_the_queue_with_the_real_sdk(trial):
    """Validation as the product does it: queued, trained, its results read back; the task says the script's version."""
    tenant = trial.tenant("queued")
    with running(agent(trial, tenant, "gpu")):
        queue = tenant.create_queue("gpu")
        job = Job("smoke", "training", tags=("mine",), parameters=SMALL)
        done = run_in_queue(tenant, queue, job, 60, poll_s=0.05)
        task = tenant.get_task(done.task_id)
        loss = task.metric("train", "loss")
        assert loss is not None and loss.count == 4 and loss.value < 0.5 * loss.maximum
        assert task.artifacts == ("model",) and set(task.tags) >= {"mine", "training-1"} and task.queue_id == queue.id
        printed = json.loads(next(line for line in reversed(done.log_tail) if line.startswith("{")))
        read = {f"{found.metric}/{found.variant}": list(found.values) for found in tenant.scalars(done.task_id)}
        assert read | printed["series"] == read and printed["samples"] == SMALL["samples"]
        assert tenant.plots(done.task_id) == ("confusion/test",)
        assert printed["series"]["test/accuracy"][-1] > 0.9


def fails(trial, tenant, text):
    """Send a script that is none of ours."""
    queue = tenant.create_queue("gpu")
    script = script_fields(text, "")
    task = tenant.create_task(tenant.ensure_project("Stackwright"), "fails", script)
    tenant.enqueue_task(task, queue.id)
    until(lambda: tenant.get_task(task).ended)
    return tenant.get_task(task)


def test_failing_script_fails_the_task_with_its_last_lines(trial):
    """The task's log has the script's own words; the secret is only in the environment."""
    tenant = trial.tenant("failing")
    script = (
        "import os, sys, pathlib\n"
        "key = os.environ['CLEARML_API_SECRET_KEY']\n"
        "assert key not in pathlib.Path('/proc/self/cmdline').read_text()\n"
        "sys.exit('no such GPU')\n"
    )
    with running(agent(trial, tenant, "gpu")):
        task = fails(trial, tenant, script)
    assert task.status == "failed" and "exit code 1" in task.status_reason
    assert "no such GPU" in " ".join(tenant.task_log(task.id))


def test_a_workload_that_fails_is_told_with_queue_and_last_lines(trial):
    """A training of no samples cannot be done: the error names queue and task, and the script's own words."""
    tenant = trial.tenant("failing-workload")
    with running(agent(trial, tenant, "gpu")), pytest.raises(WorkloadFailedError, match="queue gpu") as caught:
        job = Job("fails", "training", parameters={"samples": -1})
        run_in_queue(tenant, tenant.create_queue("gpu"), job, 30, poll_s=0.05)
    assert "exit code 1" in str(caught.value) and "Error" in str(caught.value)


def test_queue_without_a_worker_is_named_at_the_deadline(trial):
    """The task is stopped, and the message says that nobody serves the queue."""
    tenant = trial.tenant("unserved")
    now = [0.0]

    def poll(seconds):
        now[0] += seconds

    with pytest.raises(GateTimeoutError, match="no worker serves the queue"):
        run_in_queue(tenant, tenant.create_queue("idle"), Job("waits", "slot"), 5, poll, poll_s=1, now=lambda: now[0])
    project = tenant.ensure_project("Stackwright")
    assert [task.status for task in tenant.find_tasks(project_id=project, name="waits")] == ["stopped"]


@pytest.mark.parametrize("end", ["stop_task", "remove_task"])
def test_an_aborted_or_deleted_task_ends_its_pod(trial, end):
    """The pod shows as a worker while it runs; the agent takes the next job once it is gone."""
    tenant = trial.tenant(f"aborting-{end}")
    with running(agent(trial, tenant, "gpu")):
        queue = tenant.create_queue("gpu")
        first, _ = send_job(tenant, queue, Job("holds", "slot"))
        until(lambda: first in {worker.task_id for worker in tenant.workers()})
        second, _ = send_job(tenant, queue, Job("waits", "slot"))
        if end == "stop_task":
            tenant.stop_task(first, "test")
        else:
            tenant.remove_task(first)
        until(lambda: tenant.get_task(second).status == "in_progress")
        until(lambda: first not in {worker.task_id for worker in tenant.workers()})
        assert end == "remove_task" or tenant.get_task(first).status == "stopped"


def test_an_agent_starts_no_job_beyond_its_limits(trial):
    """Jobs beyond the queue's pods, or the GPUs of all, stay in their queues; another queue's run all the same."""
    tenant = trial.tenant("limits")
    limits = limits_of({
        "gpu": {"templateOverrides": {"resources": {"limits": {"nvidia.com/gpu": 1}}}, "queueSettings": {"maxPods": 5}},
        "default": {"queueSettings": {"maxPods": 1}},
    })  # fmt: skip
    assert limits == {"gpu": QueueLimit(5, 1.0), "default": QueueLimit(1, 0.0)}
    with running(agent(trial, tenant, "gpu", "default", max_gpus=2, limits=limits)):
        until(lambda: len(tenant.queues()) == 2)
        queues = {queue.name: queue for queue in tenant.queues()}
        sent = {name: [send_job(tenant, queues[name], Job(f"{name} job", "slot"))[0] for _ in range(count)]
                for name, count in (("gpu", 3), ("default", 2))}  # fmt: skip

        def states(name):
            return [tenant.get_task(task).status for task in sent[name]]

        until(lambda: states("gpu").count("in_progress") == 2 and states("default").count("in_progress") == 1)
        looks = []
        until(lambda: looks.append(states("gpu")) or len(looks) > 20)
        assert all(look == ["in_progress", "in_progress", "queued"] for look in looks)
        tenant.stop_task(sent["gpu"][0], "test")
        until(lambda: states("gpu") == ["stopped", "in_progress", "in_progress"])


def test_ending_agent_ends_its_pods(trial):
    """A stopped release leaves no process behind."""
    tenant = trial.tenant("ending")
    script = (
        "import os, time\nprint(os.getpid(), flush=True)\nopen(PATH, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    marker = trial.ca_file.parent / "pod.pid"
    with running(agent(trial, tenant, "gpu")):
        queue = tenant.create_queue("gpu")
        text = {"diff": script.replace("PATH", repr(str(marker))), "entry_point": "x.py"}
        task = tenant.create_task(tenant.ensure_project("Stackwright"), "long", text)
        assert tenant.enqueue_task(task, queue.id) in (True, False)
        until(lambda: marker.exists() and marker.read_text())
    assert not is_alive(int(marker.read_text()))


def is_alive(pid: int) -> bool:
    from pathlib import Path

    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"


# On this machine -------------------------------------------------------------------------------------------------


def environment(trial, client, **more):
    return workload_env(
        trial.api_url,
        trial.web_url,
        trial.files_url,
        client.access_key,
        client._secret,
        ca_file=trial.ca_file,
        resolve=trial.resolve,
        **more,
    )


def test_training_runs_over_tls_with_a_private_ca(trial):
    """Task.init, connect, scalars, plot, artifact and close of the real SDK; the file reaches the file sink."""
    tenant = trial.tenant("direct")
    done = run_workload("training", environment(trial, tenant, project="Checks", task="direct"), 120)
    losses = done.output["series"]["train/loss"]
    assert losses[-1] < losses[0] and done.output["samples"] == 60_000
    task = tenant.get_task(done.task_id)
    assert (task.status, task.name, task.artifacts) == ("completed", "direct", ("model",))
    assert task.project_id == tenant.ensure_project("Checks")
    [artifact] = [name for name in trial.state.files if done.task_id in name]
    assert len(json.loads(trial.state.files[artifact])["weights"]) == 2
    assert tenant._secret.get_secret_value() not in " ".join(done.log_tail)


def test_workload_with_a_wrong_key_fails_at_once(trial):
    """The SDK's refusal comes through as our error, without the secret."""
    tenant = trial.tenant("badlogin")
    env = environment(trial, tenant) | {"CLEARML_API_SECRET_KEY": "planted-secret-value"}
    with pytest.raises(WorkloadFailedError) as caught:
        run_workload("training", env, 60)
    assert "planted-secret-value" not in str(caught.value)


def test_workload_is_killed_at_its_deadline(trial):
    """A server that does not answer costs the deadline, not hours; nothing of the process is left."""
    tenant = trial.tenant("deadline")
    started = time.monotonic()
    with pytest.raises(GateTimeoutError, match="did not end within 0 s"):
        run_workload("training", environment(trial, tenant), 0.2)
    assert time.monotonic() - started < 10


def test_isolation_holds_for_the_sdks_results(trial):
    """Another tenant's key does not see the task that the SDK made."""
    mine, other = trial.tenant("mine"), trial.tenant("other")
    task = mine.create_task(mine.ensure_project("Stackwright"), "mine", {})
    auth = (other.access_key, other._secret.get_secret_value())
    with make_client(trial.api_url, trial.ca_file, trial.resolve, 10, auth) as http:
        meta = http.post("/tasks.get_by_id", json={"task": task}).json()["meta"]
    assert (meta["result_code"], meta["result_subcode"]) == (400, 101)
