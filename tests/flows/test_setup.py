"""`stackwright setup` against a real Prefect server: what it makes, finds, removes, holds, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Running, Scheduled
from pydantic import SecretStr
from typer.testing import CliRunner

from blocks.store import BlockSecrets
from blocks.types import BLOCKS
from stackwright import setup_deployments
from stackwright.cli import app
from stackwright.domain import schedules as domain
from stackwright.domain.errors import ProblemsError
from stackwright.domain.server_file import ServerFile
from stackwright.domain.setup import Change
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from stackwright.pool_drain import close_pool, open_pool
from stackwright.schedules import SiteAutomations, SiteDeployments
from stackwright.setup import Resource, bring, look, made_of
from stackwright.setup_blocks import read_blocks
from stackwright.setup_deployments import Deployments
from stackwright.setup_kinds import BlockTypes, Limits, WorkPools, WorkQueues, read_server_file
from stackwright.setup_server import Asked, set_up
from tests.flows.server import on_server
from tests.vault_server import TOKEN, vault_server

pytestmark = pytest.mark.usefixtures("prefect_server")
PLANTED = "planted-c83e"


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"t{uuid4().hex[:8]}"


def apart(resource: Any, name: str) -> Any:
    """Let a resource keep notes of its own: the server is shared with other tests."""
    resource.kind = f"{resource.kind} {name}"
    return resource


def done(*resources: Resource, remove: bool = False, **named: Any) -> list[tuple[str, str]]:
    changes = on_server(lambda client: bring(client, resources, remove=remove, **named))
    return [(change.act, change.name) for change in changes]


def notes(kind: str) -> dict[str, str]:
    return on_server(lambda client: made_of(client, kind))


def planned(*resources: Resource, remove: bool = False) -> list[Change]:
    return on_server(lambda client: look(client, resources, remove=remove))


def there(read: Callable[[PrefectClient], Any]) -> bool:
    try:
        on_server(read)
    except ObjectNotFound:
        return False
    return True


# --- work pools, queues, limits --------------------------------------------------------------------------------------


def pools_of(name: str, **pools: dict[str, Any]) -> list[Any]:
    declared = ServerFile.model_validate({"work_pools": {f"{name}-keep": {"type": "process"}, **pools}})
    return [apart(WorkPools(declared, ROOT), name), apart(WorkQueues(declared), name)]


def at_work_in(pool: str) -> FlowRun:
    """Make a run that is at work in a pool, of a deployment named like it."""

    async def make(client: PrefectClient) -> FlowRun:
        flow = await client.create_flow_from_name("tick")
        deployment = await client.create_deployment(flow, pool, work_pool_name=pool, entrypoint="x.py:t", path=".")
        return await client.create_flow_run_from_deployment(deployment, state=Running())

    return on_server(make)


def test_pools_and_queues_come_change_and_go_and_others_stay(name: str) -> None:
    """Created with limit and queue, found, changed, removed once undeclared; somebody else's pool is never touched."""
    other = f"{name}-theirs"
    on_server(lambda client: client.create_work_pool(WorkPoolCreate(name=other, type="process")))
    pool = {"type": "process", "concurrency_limit": 3, "queues": {"urgent": {"priority": 1, "concurrency_limit": 2}}}
    full = {name: pool}
    assert {act for act, _ in done(*pools_of(name, **full))} == {"create"}
    made = on_server(lambda client: client.read_work_pool(name))
    queue = next(
        one for one in on_server(lambda client: client.read_work_queues(work_pool_name=name)) if one.name != "default"
    )
    assert made.concurrency_limit == 3 and (queue.name, queue.concurrency_limit) == ("urgent", 2)
    assert {act for act, _ in done(*pools_of(name, **full))} == {"keep"}
    assert on_server(lambda client: client.read_work_pool(name)).updated == made.updated
    pool["concurrency_limit"] = 5
    (change,) = [one for one in planned(*pools_of(name, **full)) if one.act == "change"]
    assert (change.name, change.why) == (name, "concurrency_limit 3 -> 5")
    done(*pools_of(name, **full))
    assert on_server(lambda client: client.read_work_pool(name)).concurrency_limit == 5
    assert ("remove", name) in done(*pools_of(name)) and not there(lambda client: client.read_work_pool(name))
    assert there(lambda client: client.read_work_pool(other))
    assert {act for act, _ in done(*pools_of(name))} == {"keep"}


def test_a_pool_with_work_in_it_is_held(name: str) -> None:
    """Runs that have not ended, or somebody else's deployment, hold it; asked for twice, it goes."""
    done(*pools_of(name, **{name: {"type": "process"}}))

    run = at_work_in(name)
    (hold,) = [change for change in planned(*pools_of(name)) if change.act == "hold"]
    assert hold.name == name and "1 run(s) in it have not ended" in hold.why
    assert ("hold", name) in done(*pools_of(name))
    on_server(lambda client: client.set_flow_run_state(run.id, Completed(), force=True))
    (hold,) = [change for change in planned(*pools_of(name)) if change.act == "hold"]
    assert "not ours" in hold.why and there(lambda client: client.read_work_pool(name))
    assert ("remove", name) in done(*pools_of(name), remove=True)


def test_a_pool_of_another_type_is_refused_before_anything_changes(name: str, tmp_path: Path) -> None:
    on_server(lambda client: client.create_work_pool(WorkPoolCreate(name=name, type="docker")))
    path = tmp_path / "server.yaml"
    path.write_text(f"work_pools: {{{name}-new: {{type: process}}, {name}: {{type: process}}}}")
    with pytest.raises(ProblemsError, match="type cannot be changed") as caught:
        set_up(Asked(server=path))
    assert "wanted: process | seen: docker" in str(caught.value)
    assert not there(lambda client: client.read_work_pool(f"{name}-new"))


def test_a_limit_that_runs_hold_is_not_taken_away(name: str) -> None:
    def limits(*names: str) -> Any:
        return apart(Limits(dict.fromkeys(names, 2)), name)

    assert done(limits(name)) == [("create", name)]
    on_server(lambda client: client.increment_concurrency_slots([name], 1, "concurrency"))
    (hold,) = planned(limits())
    assert (hold.act, hold.why) == ("hold", "no longer declared, but 1 of its slots are taken")
    on_server(lambda client: client.release_concurrency_slots([name], 1, 1.0))
    assert done(limits()) == [("remove", name)] and done(limits()) == []


def test_a_pool_is_closed_before_its_worker_stops_and_opened_after(name: str, tmp_path: Path) -> None:
    """It waits for runs at work up to the limit; a second time changes nothing; who died in between is continued.

    A pool that a person has paused is not opened by us.
    """
    mark = tmp_path / "drained"
    done(*pools_of(name, **{name: {"type": "process"}}))

    run = at_work_in(name)

    def close(limit_s: float) -> int:
        return on_server(lambda client: close_pool(client, name, mark, limit_s, 0.05))

    def paused() -> bool:
        return on_server(lambda client: client.read_work_pool(name)).is_paused

    assert close(0) == 1 and paused() and mark.exists()
    on_server(lambda client: client.set_flow_run_state(run.id, Completed(), force=True))
    assert close(60) == 0 and mark.exists()
    for _ in range(2):
        on_server(lambda client: open_pool(client, name, mark))
        assert not paused() and not mark.exists()
    mark.touch()  # it died between its mark and the pause
    assert close(60) == 0 and paused()
    on_server(lambda client: open_pool(client, name, mark))
    on_server(lambda client: client.update_work_pool(name, WorkPoolUpdate(is_paused=True)))
    assert close(60) == 0 and not mark.exists()
    on_server(lambda client: open_pool(client, name, mark))
    assert paused(), "a person's pause was undone"


# --- deployments -----------------------------------------------------------------------------------------------------


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "description": "Ticks.", "entrypoint": "tests/flows/scheduled_flow.py:tick", "tags": ["site"],
        "work_pool": {"name": "nobody"}, "parameters": {"site": "x", "done": os.devnull}, **changes,
    }  # fmt: skip


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    """A catalogue of the test's own."""
    entries: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(setup_deployments, "catalogue", lambda: entries)

    async def pool(client: PrefectClient) -> None:
        try:
            await client.read_work_pool("nobody")
        except ObjectNotFound:
            await client.create_work_pool(WorkPoolCreate(name="nobody", type="process"))

    on_server(pool)
    yield entries


def deployments(name: str) -> Any:
    return apart(Deployments(), name)


@pytest.fixture
def flow_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the flow of an entry the deployment's name, as all of the catalogue have it."""
    load = setup_deployments._flow
    monkeypatch.setattr(
        setup_deployments, "_flow", lambda found: load(found).with_options(name=found.get("flow", "tick"))
    )


def test_a_deployment_is_made_found_changed_and_removed_with_its_history_kept(
    name: str, catalogue: dict[str, Any], flow_named: None
) -> None:
    """Its runs stay after it; a schedule that is no longer declared goes at once; another's of that flow stays."""
    row = {"slug": "s", "cron": "0 1 * * *", "timezone": "UTC", "active": False}
    catalogue[name] = entry(flow=name, schedules=[row, {**row, "slug": "t"}])
    assert done(deployments(name)) == [("create", name)]
    made = on_server(lambda client: client.read_deployment_by_name(f"{name}/{name}"))
    assert done(deployments(name)) == [("keep", name)]
    assert on_server(lambda client: client.read_deployment(made.id)).updated == made.updated

    catalogue[name]["schedules"] = []
    (change,) = planned(deployments(name))
    assert change.why == "schedules" and done(deployments(name)) == [("change", name)]
    assert on_server(lambda client: client.read_deployment(made.id)).schedules == []

    async def history(client: PrefectClient) -> UUID:
        await client.create_deployment(made.flow_id, f"{name}-theirs", work_pool_name="nobody", entrypoint="x.py:t")
        run = await client.create_flow_run_from_deployment(made.id, state=Running())
        await client.set_flow_run_state(run.id, Completed())
        return run.id

    run = on_server(history)
    catalogue.clear()
    assert done(deployments(name)) == [("remove", name)] and done(deployments(name)) == []
    kept = on_server(lambda client: client.read_flow_run(run))
    assert kept.state is not None and kept.state.is_completed() and kept.flow_id == made.flow_id
    assert there(lambda client: client.read_deployment_by_name(f"{name}/{name}-theirs"))


@pytest.mark.parametrize("state", [Running(), pytest.param(Scheduled(), marks=pytest.mark.slow)], ids=["run", "due"])
def test_a_deployment_whose_runs_have_not_ended_is_held_and_makes_no_more(
    name: str, catalogue: dict[str, Any], flow_named: None, state: State[Any]
) -> None:
    """Running, or waiting because a person started it: paused, not removed, until it has ended or it is asked for."""
    catalogue[name] = entry(flow=name)
    done(deployments(name))
    made = on_server(lambda client: client.read_deployment_by_name(f"{name}/{name}"))
    run = on_server(lambda client: client.create_flow_run_from_deployment(made.id, state=state))
    catalogue.clear()
    assert done(deployments(name)) == [("hold", name)]
    assert on_server(lambda client: client.read_deployment(made.id)).paused
    (hold,) = planned(deployments(name))
    assert hold.act == "hold" and "1 run(s) of it have not ended" in hold.why
    (removal,) = planned(deployments(name), remove=True)
    assert removal.act == "remove"
    on_server(lambda client: client.set_flow_run_state(run.id, Completed(), force=True))
    assert done(deployments(name)) == [("remove", name)]


def test_what_was_not_shown_is_not_removed_and_what_is_not_ours_never(
    name: str, catalogue: dict[str, Any], flow_named: None
) -> None:
    """Between the plan and its doing somebody else's change adds no removal. Another of the same name is not ours."""
    catalogue[name] = entry(flow=name)
    done(deployments(name))
    catalogue.clear()
    assert done(deployments(name), removals=()) == []
    made = on_server(lambda client: client.read_deployment_by_name(f"{name}/{name}"))

    async def replace(client: PrefectClient) -> None:
        await client.delete_deployment(made.id)
        await client.create_deployment(made.flow_id, name, work_pool_name="nobody", entrypoint="x.py:t", path=".")

    on_server(replace)
    assert done(deployments(name), remove=True) == []
    assert there(lambda client: client.read_deployment_by_name(f"{name}/{name}"))


@pytest.mark.slow
def test_a_setup_that_dies_in_the_middle_is_continued(
    name: str, catalogue: dict[str, Any], flow_named: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each place where it may die: the next one finishes, the one after finds nothing to do."""
    names = [f"{name}-{letter}" for letter in "abc"]
    for number in range(len(names)):
        catalogue.clear()
        catalogue.update({one: entry(flow=one) for one in names})
        resource = deployments(name)
        put, calls = resource.put, 0

        async def dying(client: PrefectClient, one: str, found: Any, put: Any = put, last: int = number) -> None:
            nonlocal calls
            if calls == last:
                raise KeyboardInterrupt
            calls += 1
            await put(client, one, found)

        monkeypatch.setattr(resource, "put", dying)
        with pytest.raises(KeyboardInterrupt):
            done(resource)
        assert {act for act, _ in done(deployments(name))} <= {"keep", "create"}
        assert {act for act, _ in done(deployments(name))} == {"keep"}
        kept = notes(deployments(name).kind)
        assert sorted(kept) == names and all(kept.values())
        catalogue.clear()
        assert [act for act, _ in done(deployments(name))] == ["remove"] * len(names)


def test_what_a_setup_that_died_may_have_made_is_held(name: str, catalogue: dict[str, Any], flow_named: None) -> None:
    """It died after its note; nobody can know whose the object is: it is named, and not removed."""
    catalogue[name] = entry(flow=name)
    resource = deployments(name)

    async def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    resource.put = dies
    with pytest.raises(KeyboardInterrupt):
        done(resource)

    async def theirs(client: PrefectClient) -> None:
        flow = await client.create_flow_from_name(name)
        await client.create_deployment(flow, name, work_pool_name="nobody", entrypoint="x.py:t", path=".")

    on_server(theirs)
    catalogue.clear()
    assert done(deployments(name)) == [("hold", name)]
    assert there(lambda client: client.read_deployment_by_name(f"{name}/{name}"))


@pytest.mark.slow
def test_a_sites_schedule_that_is_dropped_goes_but_not_under_a_run(
    name: str, catalogue: dict[str, Any], flow_named: None
) -> None:
    """As in `setup` after a release that schedules less: alarms and deployment go; at work, the deployment waits."""
    catalogue["tick"] = entry()
    base = asyncio.run(_wanted(deployments(name)))
    done(deployments(name))
    row = domain.Scheduled("tick", (domain.Timing("hourly", "0 * * * *", "UTC"),), 3600, 600)

    def site(*rows: domain.Scheduled) -> list[Any]:
        mine = SiteDeployments(name, rows, base)
        return [mine, SiteAutomations(mine)]

    assert [act for act, _ in done(*site(row))] == ["create"] * 3
    assert [change.act for change in planned(*site(row))] == ["keep"] * 3
    made = on_server(lambda client: client.read_deployment_by_name(f"tick/tick-{name}"))
    run = on_server(lambda client: client.create_flow_run_from_deployment(made.id, state=Running()))
    assert done(*site()) == [
        ("remove", f"tick-{name} failed"), ("remove", f"tick-{name} missed"), ("hold", f"tick-{name}"),
    ]  # fmt: skip
    assert on_server(lambda client: client.read_deployment(made.id)).paused
    on_server(lambda client: client.set_flow_run_state(run.id, Completed(), force=True))
    assert done(*site()) == [("remove", f"tick-{name}")]
    catalogue.clear()
    done(deployments(name))


async def _wanted(resource: Any) -> Mapping[str, Any]:
    return dict(await resource.wanted())


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_block_types_are_brought_up_to_date_and_kept_while_they_keep_blocks(name: str) -> None:
    """A type's text that differs is written again. One that is dropped goes only when it is empty, however asked."""

    class Old(Block):
        _block_type_name: ClassVar[str] = f"Stackwright old {name}"
        _block_type_slug: ClassVar[str] = f"stackwright-old-{name}"
        _description: ClassVar[str] = "one"
        value: SecretStr

    ours = list(BLOCKS.values())
    done(BlockTypes([*ours, Old]))
    assert {act for act, _ in done(BlockTypes([*ours, Old]))} == {"keep"}
    Old._description = "two"
    (change,) = [one for one in planned(BlockTypes([*ours, Old])) if one.act != "keep"]
    assert change.act == "change" and change.why.startswith("description")
    done(BlockTypes([*ours, Old]))
    asyncio.run(Old(value=SecretStr("x")).asave("kept"))
    assert ("hold", f"stackwright-old-{name}") in done(BlockTypes(ours))
    with pytest.raises(ProblemsError, match=r"keeps 1 block"):
        done(BlockTypes(ours), remove=True)
    asyncio.run(Old.adelete("kept"))
    assert ("remove", f"stackwright-old-{name}") in done(BlockTypes(ours))


def test_every_type_of_ours_says_what_it_is_and_shows_how_to_use_it() -> None:
    for kind, block in BLOCKS.items():
        assert block.get_description() and f'"{kind}' not in (block.get_description() or "")
        assert "block set" in (block.get_code_example() or "") and kind in (block.get_code_example() or "")


def test_blocks_come_from_references_and_their_values_from_nowhere_else(
    name: str, tmp_path: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a variable, a file and a Vault into blocks; found the second time; a changed value is named, not shown.

    Output, plan, notes and the server's files hold none of them in clear.
    """
    key = tmp_path / "key"
    key.write_text(f"{PLANTED}-file\n")
    key.chmod(0o600)
    monkeypatch.setenv("PLANTED_VALUE", f"{PLANTED}-env")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with vault_server(tmp_path) as vault:
        vault.secrets["secret/data/clearml"] = {"access": f"{PLANTED}-vault", "secret": f"{PLANTED}-vault2"}
        at = f"vault:{vault.url}/v1/secret/data/clearml"
        path = tmp_path / "blocks.yaml"
        path.write_text(
            f"vault: {{ca: {vault.ca_file}}}\nblocks:\n"
            f"  ssh-key/{name}: {{private_key: file:{key}}}\n"
            f"  secret-text/{name}: {{value: env:PLANTED_VALUE}}\n"
            f'  api-key/{name}: {{access_key: "{at}#access", secret_key: "{at}#secret"}}\n'
            f"  slack-webhook/{name}: {{url: env:PLANTED_VALUE}}\n"
        )
        done(BlockTypes(list(BLOCKS.values())))
        assert [act for act, _ in done(read_blocks(path))] == ["create"] * 4
        assert [act for act, _ in done(read_blocks(path))] == ["keep"] * 4
        monkeypatch.setenv("PLANTED_VALUE", f"{PLANTED}-other")
        plan = planned(read_blocks(path))
        assert [(one.act, one.why) for one in plan] == [
            ("keep", ""), ("change", "value"), ("keep", ""), ("change", "url"),
        ]  # fmt: skip
        ran = CliRunner().invoke(app, ["setup", "--dry-run", "--json", "--blocks", str(path)])
    said = json.loads(ran.stdout)
    row = {"act": "change", "kind": "block", "name": f"secret-text/{name}", "why": "value"}
    assert said["applied"] is False and row in said["changes"]
    assert PLANTED not in ran.output + repr(plan) and TOKEN not in ran.output
    found = BlockSecrets().read("api-key", name)
    assert found is not None and found["secret_key"].get_secret_value() == f"{PLANTED}-vault2"
    kept = BlockSecrets().read("secret-text", name)
    assert kept is not None and kept["value"].get_secret_value() == f"{PLANTED}-env", "a dry run wrote"
    files = [one for one in prefect_server.home.rglob("*") if one.is_file()]
    assert not [one for one in files if PLANTED.encode() in one.read_bytes() or TOKEN.encode() in one.read_bytes()]


def test_every_problem_of_the_references_comes_at_once_and_nothing_is_made(name: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(PLANTED)
    key.chmod(0o644)
    path = tmp_path / "blocks.yaml"
    path.write_text(
        f"blocks:\n  secret-text/{name}: {{value: file:{key}}}\n  s3/{name}: {{access_key: env:NOT_SET_ANYWHERE}}\n"
        f"  nothing/{name}: {{value: env:PATH}}\n  registry/{name}: {{user: env:PATH, username: {PLANTED},"
        " password: 5}\n"
    )
    ran = CliRunner().invoke(app, ["setup", "--blocks", str(path)])
    said = str(ran.exception)
    assert isinstance(ran.exception, ProblemsError) and PLANTED not in said and PLANTED not in ran.output
    for part in (
        "open to others", "NOT_SET_ANYWHERE", f"s3/{name}.secret_key: is missing", "no such kind",
        "user: no such field", f"registry/{name}.username: a secret is typed", f"registry/{name}.password: a secret",
    ):  # fmt: skip
        assert part in said, part
    assert BlockSecrets().read("secret-text", name) is None


# --- the whole -------------------------------------------------------------------------------------------------------


def mine(changes: list[Change]) -> list[Change]:
    """Leave out what other tests' sites, whose files are nowhere, make setup hold back."""
    return [change for change in changes if change.kind != "site's schedules"]


def test_the_whole_is_made_once() -> None:
    """The second time nothing is to be done, and nothing is written: the exit code and the last line say so."""
    set_up(Asked())
    shown: list[Change] = []
    changes = mine(set_up(Asked(), shown.extend))
    assert {change.act for change in changes} == {"keep"} and mine(shown) == changes
    ran = CliRunner().invoke(app, ["setup", "--dry-run"])
    last = ran.output.splitlines()[-1]  # what other tests' sites make it hold back may be there too
    assert ran.exit_code == 0 and re.search(r"nothing to change|^dry run: \d+ held back$", last), ran.output
    assert not set(re.findall(r"^\w+", ran.output, re.M)) & {"create", "change", "remove"}


@pytest.mark.slow
def test_a_dry_run_makes_nothing(name: str, tmp_path: Path) -> None:
    declared, _ = read_server_file(None)
    pools = {pool: one.model_dump() for pool, one in declared.work_pools.items()}
    path = tmp_path / "server.yaml"
    path.write_text(json.dumps({"work_pools": {**pools, name: {"type": "process"}}}))
    changes = mine(set_up(Asked(server=path, dry_run=True)))
    assert ("create", name) in [(change.act, change.name) for change in changes]
    assert not there(lambda client: client.read_work_pool(name))


@pytest.mark.slow
def test_prefect_deploy_makes_the_same() -> None:
    """What `prefect deploy --all` makes of the catalogue, setup finds as it should be: one catalogue, not two."""
    set_up(Asked())
    env = {**os.environ, "STACKWRIGHT_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    ran = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert [change for change in mine(set_up(Asked(dry_run=True))) if change.act != "keep"] == []
