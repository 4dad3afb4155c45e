"""On a real Prefect server: the slots of ClearML's limit, and the automations that `stackwright setup` installs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification

from stackwright import runs, zombies
from stackwright.clients.site import Site
from stackwright.domain.errors import GateTimeoutError
from stackwright.domain.schedules import Scheduled, Timing
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from stackwright.schedules import set_schedules
from stackwright.setup import bring
from stackwright.zombies import FAILED_ACTIONS, OWN_TAG, ZOMBIES, ServerAutomations, declared_heartbeats
from tasks.clearml_limit import clearml_slot, limit_name
from tests.flows.server import on_server
from tests.tasks.lease_site import make_site

pytestmark = pytest.mark.usefixtures("prefect_server")


def site_of(folder: Path, size: int, name: str) -> Site:
    site = make_site(folder)
    clearml = site.spec.clearml.model_copy(update={"concurrency": size})
    return replace(site, spec=site.spec.model_copy(update={"site": name, "clearml": clearml}))


def limit(site: Site) -> Any:
    return on_server(lambda client: client.read_global_concurrency_limit_by_name(limit_name(site.spec.site)))


def test_the_limit_is_of_the_site_files_size_and_a_slot_is_held_as_long_as_the_work(tmp_path: Path) -> None:
    """Three runs on two slots: the third waits, in this process; the server's count goes up and down; size follows."""
    site = site_of(tmp_path, 2, f"s{uuid4().hex[:8]}")
    most, at_work = 0, 0

    async def run(until: asyncio.Event | None = None) -> None:
        nonlocal most, at_work
        async with clearml_slot(site):
            at_work += 1
            most = max(most, at_work)
            if until is not None:
                await until.wait()
            at_work -= 1

    async def three() -> int:
        go = asyncio.Event()
        work = asyncio.gather(run(go), run(go), run(go))
        async with get_client() as client:
            while at_work < 2:
                await asyncio.sleep(0.02)
            held = await client.read_global_concurrency_limit_by_name(limit_name(site.spec.site))
        go.set()
        await work
        return int(held.active_slots)

    assert asyncio.run(three()) == 2 and most == 2
    assert (limit(site).limit, limit(site).active_slots) == (2, 0)
    site = site_of(tmp_path, 3, site.spec.site)
    asyncio.run(run())
    assert limit(site).limit == 3


def test_another_process_that_holds_all_slots_is_waited_for_and_its_death_gives_them_back(
    tmp_path: Path, prefect_server: PrefectServer
) -> None:
    """While a process holds the slot, a run is refused at its time limit; the killed process's slot has an end."""
    site = site_of(tmp_path, 1, f"s{uuid4().hex[:8]}")
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from tests.flows.test_limits_and_zombies import clearml_slot, site_of\n"
        "async def hold():\n"
        f"    async with clearml_slot(site_of(Path({str(tmp_path)!r}), 1, {site.spec.site!r})):\n"
        "        print('held', flush=True)\n        await asyncio.sleep(600)\n"
        "asyncio.run(hold())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        holder.kill()

    async def ask() -> None:
        async with clearml_slot(site, wait_s=1):
            raise AssertionError("the slot is another's")

    with pytest.raises(GateTimeoutError, match="no slot got free"):
        asyncio.run(ask())
    (lease,) = (prefect_server.home / "concurrency_leases").glob("*-*-*.json")  # on disk: a restart does not lose it
    assert limit(site).active_slots == 1 and str(limit(site).id) in lease.read_text()


def ensured() -> dict[str, str]:
    """Bring the server's automations to what they should be; say what was done with each."""
    done = on_server(lambda client: bring(client, [ServerAutomations()]))
    return {change.name: change.act for change in done}


def test_setup_installs_the_watch_over_heartbeats_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Created, then found as it should be and not written again; one that was changed by hand is mended."""
    on_server(lambda client: client.create_flow_from_name("deploy-stack"))
    flow = on_server(lambda client: client.read_flow_by_name("deploy-stack")).id
    assert ZOMBIES in ensured()  # the server is shared: another test may have set it up
    (made,) = on_server(lambda client: client.read_automations_by_name(ZOMBIES))
    beats = declared_heartbeats()
    trigger: Any = made.trigger
    assert made.enabled and made.tags == [OWN_TAG]
    assert trigger.posture == "Proactive" and trigger.within.total_seconds() == beats.silent_s >= 3 * beats.every_s
    assert (trigger.after, trigger.expect) == ({"prefect.flow-run.heartbeat"}, {"prefect.flow-run.*"})
    assert trigger.for_each == {"prefect.resource.id"} and f"prefect.flow.{flow}" in str(trigger.match_related)
    (action,) = made.actions
    assert isinstance(action, ChangeFlowRunState) and action.state == StateType.CRASHED
    updated = on_server(lambda client: client.read_automation(made.id))
    assert ensured()[ZOMBIES] == "keep"
    assert on_server(lambda client: client.read_automation(made.id)) == updated
    monkeypatch.setattr(zombies, "declared_heartbeats", lambda: replace(beats, silent_s=999))
    assert ensured()[ZOMBIES] == "change"
    monkeypatch.undo()
    assert ensured()[ZOMBIES] == "change"
    assert len(on_server(lambda client: client.read_automations_by_name(ZOMBIES))) == 1


def test_failed_actions_are_told_where_the_sites_are_told() -> None:
    """Without a notification block there is none; with one it calls that block, and never about itself."""

    async def base(client: PrefectClient) -> str:
        await runs.ensure_work_pool("nobody")
        flow = await client.create_flow_from_name("tick")
        await client.create_deployment(flow, "tick", work_pool_name="nobody", entrypoint="x.py:tick", path=".")
        block = CustomWebhookNotificationBlock(name="oncall", url="http://127.0.0.1:9/", json_data={"text": "{{body}}"})
        await block.register_type_and_schema()
        name = f"oncall-{uuid4().hex[:8]}"
        await block.asave(name)
        return name

    name = on_server(base)
    site, row = f"s{uuid4().hex[:8]}", Scheduled("tick", (Timing("hourly", "0 * * * *", "UTC"),), 3600, 600)
    asyncio.run(set_schedules(site, [row], f"custom-webhook/{name}"))
    block = on_server(lambda client: client.read_block_document_by_name(name, "custom-webhook")).id
    assert FAILED_ACTIONS in ensured()
    assert ensured()[FAILED_ACTIONS] == "keep"
    (made,) = on_server(lambda client: client.read_automations_by_name(FAILED_ACTIONS))
    trigger: Any = made.trigger
    assert trigger.expect == {"prefect.automation.action.failed"}
    assert trigger.match["prefect.resource.name"] == [f"!{FAILED_ACTIONS}"]
    assert block in {action.block_document_id for action in made.actions if isinstance(action, SendNotification)}


def test_every_way_to_start_a_run_beats_as_declared() -> None:
    """The pool's runs, the tenants' worker and the shell set the frequency that the automation counts on."""
    from stackwright.cli_worker import SETTINGS

    every = str(declared_heartbeats().every_s)
    assert SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == every
    pools = [entry["work_pool"] for entry in runs.catalogue().values()]
    of_processes = [pool["job_variables"]["env"] for pool in pools if pool["name"] == "stackwright"]
    assert of_processes and {env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] for env in of_processes} == {every}
    assert f'"PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "{every}"' in (ROOT / "stackwright/cli.py").read_text()


def test_a_silence_that_is_too_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "automations.yaml"
    path.write_text(yaml.safe_dump({"heartbeats": {"every_s": 30, "silent_s": 89}}))
    monkeypatch.setattr(zombies, "WATCH", path)
    with pytest.raises(ValueError, match="three times"):
        declared_heartbeats()


@pytest.mark.slow
def test_a_run_whose_process_is_gone_is_reported_as_crashed(tmp_path: Path) -> None:
    """A real flow of the catalogue's name, killed: its heartbeats stop, and the server says Crashed by itself."""
    code = (
        "import asyncio\nfrom prefect import flow, runtime\n"
        "@flow(name='deploy-stack')\nasync def f():\n"
        "    print(runtime.flow_run.id, flush=True)\n    await asyncio.sleep(600)\n"
        "asyncio.run(f())\n"
    )
    on_server(lambda client: client.create_flow_from_name("deploy-stack"))
    ensured()
    env = {**os.environ, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        run = process.stdout.readline().decode().strip()
        threading.Event().wait(5)  # its first heartbeat is on its way
        process.kill()
    deadline = time.monotonic() + declared_heartbeats().silent_s + 150
    while on_server(lambda client: client.read_flow_run(run)).state_name == "Running":  # type: ignore[arg-type]
        assert time.monotonic() < deadline, "still Running"
        threading.Event().wait(5)
    state = on_server(lambda client: client.read_flow_run(run)).state  # type: ignore[arg-type]
    assert state is not None and state.name == "Crashed" and "no heartbeat" in (state.message or "")
