"""From the store to runs and back: order per tenant, one look at many runs, bounded attempts, both kinds of store."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running
from sqlalchemy import inspect, text

from stackwright.domain.tenant_request import Action, TenantRequest, WantedTenant
from stackwright.lab.server import free_port
from stackwright.webhooks.dispatcher import Dispatcher, judge
from stackwright.webhooks.ledger import Entry, Order
from stackwright.webhooks.metrics import Metrics
from stackwright.webhooks.runs import PrefectRuns, RunRefusedError, RunSeen, RunsUnavailableError
from stackwright.webhooks.settings import Settings
from stackwright.webhooks.store import Store, StoreUnavailableError, open_store
from tests.webhooks.receiver import SETTINGS, FakeRuns

T0 = 1_800_000_000.0


def ask(tenant: str, action: Action = "onboard", key: str = "") -> Order:
    wanted = WantedTenant(name=tenant, admin_email=f"ops@{tenant}.example") if action == "onboard" else None
    request = TenantRequest(
        id=uuid.uuid4().hex, site="lab", tenant=tenant, action=action, caller="portal", wanted=wanted
    )
    return Order(request, key or request.id, "d" * 64)


def undone(tenant: str) -> dict[str, str]:
    return {"name": "Undone"} if tenant == "gone" else {}


def anything(_: object) -> None:
    """Refuse nothing."""


class Desk:
    """A store and a dispatcher on it, with an orchestrator in memory and a clock that stands."""

    def __init__(self, store: Store, runs: FakeRuns | None = None) -> None:
        self.store, self.runs, self.now = store, runs or FakeRuns(), T0
        self.runs.ends_as = None
        settings = Settings.model_validate({**SETTINGS, "attempts": 3, "backoff_s": 2, "pending_limit_s": 60})
        self.dispatcher = Dispatcher(store, self.runs, settings, Metrics(), lambda: self.now)

    async def accept(self, *orders: Order) -> list[Entry]:
        return [await self.store.accept(order, self.now, anything) for order in orders]

    async def end(self, tenant: str, state: str, **more: str) -> None:
        """Let the newest run of a tenant end, and look."""
        self.runs.put(self.runs.of(tenant)[-1], state, **more)
        await self.dispatcher.turn()

    async def newest(self, tenant: str) -> Entry:
        return (await self.store.history("lab", tenant, 1))[0]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of its own, where its programs are installed."""
    programs = Path(shutil.which("initdb") or "").resolve().parent
    if not (programs / "postgres").exists():
        pytest.skip("PostgreSQL is not installed")
    home = Path("/tmp") / f"pg-{uuid.uuid4().hex[:8]}"
    home.mkdir(mode=0o700)
    user: dict[str, str] = {}
    if os.getuid() == 0:  # its programs refuse to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        user = {"user": "nobody"}
    port = free_port()
    made = [programs / "initdb", "-D", home / "data", "-U", "stack", "-A", "trust", "-N"]
    subprocess.run(made, check=True, capture_output=True, timeout=120, cwd="/", **user)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off"
    start = [programs / "pg_ctl", "-D", home / "data", "-w", "-l", home / "log", "-o", options, "start"]
    subprocess.run(
        start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, cwd="/", **user
    )
    try:
        yield f"postgresql://stack@127.0.0.1:{port}/postgres"
    finally:
        stop = [programs / "pg_ctl", "-D", home / "data", "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, timeout=60, cwd="/", **user)
        shutil.rmtree(home)


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Store]:
    store = await open_store(address)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's address, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store' / 'requests.db'}"
    found: str = request.getfixturevalue("postgres")

    async def clear() -> None:
        async with opened(found) as store, store._begin() as db:
            for table in ("webhook_requests", "webhook_tenants", "webhook_signatures"):
                await db.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - names of our own

    asyncio.run(clear())
    return found


# --- store -----------------------------------------------------------------------------------------------------------


def test_a_request_outlives_its_store(address: str) -> None:
    """What was accepted is there for the next one who opens the store, whole."""

    async def run() -> None:
        order = ask("green")
        async with opened(address) as store:
            kept = (await Desk(store).accept(order))[0]
        async with opened(address) as store:
            assert await store.due(T0, 10) == [kept]
            (claim,) = await store.claims(["lab"])
        assert (claim.name, claim.state, claim.wanted) == ("green", "requested", order.request.wanted)

    asyncio.run(run())


def test_two_receivers_on_one_store_keep_one_request(address: str) -> None:
    """The same idempotency key at the same time: one row, the same answer for both, and one decision at a time."""

    async def run() -> None:
        deciding = 0

        def decide(claims: object) -> None:
            nonlocal deciding
            deciding += 1

        async with opened(address) as one, opened(address) as two:
            orders = [ask("green", key="one-key-for-all") for _ in range(12)]
            kept = await asyncio.gather(
                *(store.accept(order, T0, decide) for order, store in zip(orders, [one, two] * 6, strict=True))
            )
            assert len({entry.request.id for entry in kept}) == 1 and deciding == 1
            assert await one.counts() == {"accepted": 1}

    asyncio.run(run())


def test_two_receivers_send_a_request_once(address: str) -> None:
    """Both dispatchers take their turns at once: Prefect's key makes it one run, and both agree on it."""

    async def run() -> None:
        runs = FakeRuns()
        async with opened(address) as one, opened(address) as two:
            desks = [Desk(one, runs), Desk(two, runs)]
            await desks[0].accept(*(ask(f"team-{n}") for n in range(8)))
            await asyncio.gather(*(desk.dispatcher.turn() for desk in desks))
            assert len(runs.created) == 8
            assert {entry.run_id for entry in await one.sent()} == set(runs.runs)

    asyncio.run(run())


def test_a_signature_is_new_once_and_forgotten_in_the_end(address: str) -> None:
    async def run() -> None:
        async with opened(address) as store:
            assert await store.remember("a" * 64, T0 + 600, T0)
            assert not await store.remember("a" * 64, T0 + 600, T0 + 599)
            assert await store.remember("a" * 64, T0 + 1300, T0 + 601)

    asyncio.run(run())


def test_sqlite_syncs_every_commit(tmp_path: Path) -> None:
    """WAL with synchronous=FULL: a 202 survives a power cut, not only the process."""

    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path / 'store' / 'requests.db'}") as store, store._begin() as db:
            assert (await db.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
            assert (await db.execute(text("PRAGMA synchronous"))).scalar() == 2

    asyncio.run(run())


def test_a_store_that_others_may_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(StoreUnavailableError, match="others may read the store"):
        asyncio.run(open_store(f"sqlite:///{tmp_path / 'requests.db'}"))


@pytest.mark.parametrize(("version", "whose"), [(99, "a newer"), (0, "an older")])
def test_another_releases_store_is_refused(address: str, version: int, whose: str) -> None:
    """Before anything in it is touched: a table that it has not is not made."""

    async def run() -> None:
        async with opened(address) as store, store._begin() as db:
            await db.execute(text(f"UPDATE webhook_gate SET value = {version} WHERE name = 'schema'"))  # noqa: S608
            await db.execute(text("DROP TABLE webhook_signatures"))
        try:
            with pytest.raises(StoreUnavailableError, match=f"{whose} release.*schema 1.*nothing was changed"):
                await open_store(address)
            async with opened_raw(address) as db:
                assert not await db.run_sync(lambda sync: inspect(sync).has_table("webhook_signatures"))
        finally:
            async with opened_raw(address) as db:
                await db.execute(text("UPDATE webhook_gate SET value = 1 WHERE name = 'schema'"))

    asyncio.run(run())


def test_what_ended_long_ago_is_forgotten(address: str) -> None:
    """With its idempotency key; but never what is open, nor the last request of a tenant that is there."""

    async def run() -> None:
        async with opened(address) as store:
            desk = Desk(store)
            first = ask("green", key="first-key")
            await desk.accept(first, ask("green", "suspend"), ask("open"), ask("gone"), ask("left", "onboard"))
            for _ in range(2):
                await desk.dispatcher.turn()
                for tenant in ("green", "gone", "left"):
                    if desk.runs.of(tenant) and desk.runs.runs[desk.runs.of(tenant)[-1]].state == "SCHEDULED":
                        await desk.end(tenant, "FAILED" if tenant == "gone" else "COMPLETED", **undone(tenant))
            assert await store.purge(desk.now) == 0  # ended now, not before
            desk.now += 10
            await desk.accept(ask("left", "archive"))
            assert await store.purge(desk.now, limit=1) == 1 and await store.purge(desk.now) == 2
            assert await store.purge(desk.now) == 0
            kept = {tenant: [entry.request.action for entry in await store.history("lab", tenant, 9)]
                    for tenant in ("green", "open", "gone", "left")}  # fmt: skip
            assert kept == {"green": ["suspend"], "open": ["onboard"], "gone": [], "left": ["archive"]}
            claims = {claim.name: claim.state for claim in await store.claims(["lab"])}
            assert claims == {"green": "suspended", "open": "requested", "left": "ready"}
            again = (await desk.accept(Order(ask("green").request, "first-key", "e" * 64)))[0]
            assert again.state == "accepted"  # its key is as good as new

    asyncio.run(run())


@asynccontextmanager
async def opened_raw(address: str) -> AsyncIterator[object]:
    from sqlalchemy.ext.asyncio import create_async_engine

    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[address.partition(":")[0]]
    engine = create_async_engine(driver + address[address.index(":") :])
    async with engine.begin() as db:
        yield db
    await engine.dispose()


# --- dispatcher ------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store' / 'requests.db'}"


def test_a_tenants_requests_go_one_after_the_other(address: str) -> None:
    """The next one when the one before has ended, however it ended; other tenants do not wait."""

    async def run() -> None:
        async with opened(address) as store:
            desk = Desk(store)
            await desk.accept(ask("green"), ask("green", "suspend"), ask("amber"), ask("green", "resume"))
            await desk.dispatcher.turn()
            assert len(desk.runs.of("green")) == 1 and len(desk.runs.of("amber")) == 1
            await desk.end("green", "RUNNING")
            assert len(desk.runs.of("green")) == 1
            await desk.end("green", "COMPLETED")
            assert len(desk.runs.of("green")) == 2
            await desk.end("green", "FAILED", name="Undone", message="no such quota")
            assert len(desk.runs.of("green")) == 3
            actions = [desk.runs.parameters[run]["action"] for run in desk.runs.of("green")]
            assert actions == ["onboard", "suspend", "resume"]
            assert desk.runs.told == ["requested green", "requested amber", "requested green", "requested green"]

    asyncio.run(run())


def test_many_runs_are_looked_at_together(path: str) -> None:
    """One look for all of them, and none where nothing is open."""

    async def run() -> None:
        async with opened(path) as store:
            desk = Desk(store)
            await desk.dispatcher.turn()
            assert desk.runs.looks == []
            await desk.accept(*(ask(f"team-{n}") for n in range(120)))
            for _ in range(4):
                await desk.dispatcher.turn()
            assert len(desk.runs.created) == 120 and desk.runs.looks[-1] == 120

    asyncio.run(run())


def test_attempts_are_bounded_and_backed_off(path: str) -> None:
    """2 s, then 10 s, then it is given up, told as an event, and the tenant's next request goes on."""

    async def run() -> None:
        async with opened(path) as store:
            desk = Desk(store)
            await desk.accept(ask("green"), ask("green", "suspend"))
            await desk.dispatcher.turn()
            for wait_s in (2, 10):
                await desk.end("green", "CRASHED", message="worker killed")
                before = len(desk.runs.created)
                desk.now += wait_s - 0.1
                await desk.dispatcher.turn()
                assert len(desk.runs.created) == before
                desk.now += 0.2
                await desk.dispatcher.turn()
                assert len(desk.runs.created) == before + 1
            await desk.end("green", "CRASHED", message="worker killed")
            first = (await store.history("lab", "green", 5))[-1]
            assert (first.state, first.outcome, first.attempt) == ("ended", "failed", 3)
            assert "given up after 3 runs" in first.message and "failed green" in desk.runs.told
            assert (await store.claims(["lab"]))[0].state == "failed"
            assert (await desk.newest("green")).state == "dispatched"

    asyncio.run(run())


def test_a_run_that_nobody_starts_is_given_up_first(path: str) -> None:
    """Taken by a worker that died before the start: marked as crashed, so that it does not start later."""

    async def run() -> None:
        async with opened(path) as store:
            desk = Desk(store)
            await desk.accept(ask("green"))
            await desk.dispatcher.turn()
            (first,) = desk.runs.of("green")
            desk.runs.put(first, "PENDING", since=datetime.fromtimestamp(desk.now - 61, UTC))
            await desk.dispatcher.turn()
            assert desk.runs.runs[first].state == "CRASHED" and "given up" in desk.runs.runs[first].message
            desk.now += 3
            await desk.dispatcher.turn()
            assert len(desk.runs.of("green")) == 2

    asyncio.run(run())


def test_a_run_that_starts_at_the_last_moment_goes_on(path: str) -> None:
    """Between the look and the giving up it became Running: it is not killed, and gets no successor."""

    async def run() -> None:
        async with opened(path) as store:
            desk = Desk(store)
            await desk.accept(ask("green"))
            await desk.dispatcher.turn()
            (first,) = desk.runs.of("green")
            desk.runs.put(first, "PENDING", since=datetime.fromtimestamp(desk.now - 61, UTC))
            desk.runs.on_give_up = lambda: desk.runs.put(first, "RUNNING")
            await desk.dispatcher.turn()
            assert desk.runs.runs[first].state == "RUNNING" and (await desk.newest("green")).state == "dispatched"

    asyncio.run(run())


class Pages:
    """Prefect's client, as far as a list of runs: it notes how many runs each call asks for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def read_flow_runs(self, *, flow_run_filter: FlowRunFilter, limit: int) -> list[FlowRun]:
        ids = flow_run_filter.id.any_
        self.asked.append(len(ids))
        return [FlowRun(id=run, flow_id=run, name="x", state=Running()) for run in ids[:limit]]


def test_a_list_of_runs_is_asked_for_in_pages() -> None:
    """The server lists 200 at most: the two hundred and first must not look as if it were gone."""
    client = Pages()
    ids = [str(uuid.uuid4()) for _ in range(450)]
    found = asyncio.run(PrefectRuns(client).look(ids))  # type: ignore[arg-type]
    assert client.asked == [200, 200, 50] and set(found) == set(ids)
    assert {run.state for run in found.values()} == {"RUNNING"}


def test_a_database_that_is_not_there_is_our_error(postgres: str) -> None:
    """Refused by the server, or nobody listens: said without the address, which may hold a password."""
    for address in (postgres.replace("/postgres", "/nothing"), "postgresql://u:hunter2@127.0.0.1:9/x"):
        with pytest.raises(StoreUnavailableError) as caught:
            asyncio.run(open_store(address))
        assert "hunter2" not in str(caught.value) and caught.value.__suppress_context__


def test_a_dispatcher_that_dies_anywhere_is_continued(path: str) -> None:
    """Death after the run was created and before it was noted; then after its end and before that was noted."""

    async def run() -> None:
        async with opened(path) as store:
            runs = FakeRuns()
            (entry,) = await Desk(store, runs).accept(ask("green"))
            await runs.create(entry)  # the dispatcher died here
            desk = Desk(store, runs)
            await desk.dispatcher.turn()
            assert len(runs.created) == 1 and (await desk.newest("green")).run_id in runs.runs
            runs.put(runs.of("green")[0], "COMPLETED")
            await Desk(store, runs).dispatcher.turn()
            assert (await desk.newest("green")).outcome == "completed" and len(runs.created) == 1

    asyncio.run(run())


def test_without_prefect_everything_waits_and_nothing_is_used_up(path: str) -> None:
    async def run() -> None:
        async with opened(path) as store:
            desk = Desk(store)
            await desk.accept(ask("green"))
            desk.runs.away = True
            for _ in range(5):
                with pytest.raises(RunsUnavailableError):
                    await desk.dispatcher.turn()
            desk.runs.away = False
            await desk.dispatcher.turn()
            assert [key[-2:] for key in desk.runs.created] == [":1"]

    asyncio.run(run())


def test_a_request_that_prefect_refuses_holds_up_nobody(path: str) -> None:
    """It waits by itself, longer and longer, and goes when the deployment fits again."""

    async def run() -> None:
        async with opened(path) as store:
            desk = Desk(store)
            desk.runs.refuses["green"] = RunRefusedError("the Prefect server refused", seen="HTTP 409")
            await desk.accept(ask("green"), ask("amber"))
            await desk.dispatcher.turn()
            assert desk.runs.of("amber") and not desk.runs.of("green")
            del desk.runs.refuses["green"]
            await desk.dispatcher.turn()
            assert not desk.runs.of("green")
            desk.now += 1.1
            await desk.dispatcher.turn()
            assert desk.runs.of("green")

    asyncio.run(run())


NOW = datetime.fromtimestamp(T0, UTC)


@pytest.mark.parametrize(
    ("state", "name", "age_s", "kind", "outcome"),
    [
        ("SCHEDULED", "Late", 9999, "wait", ""),
        ("PENDING", "Pending", 59, "wait", ""),
        ("PENDING", "Pending", 61, "again", ""),
        ("RUNNING", "Running", 9999, "wait", ""),
        ("PAUSED", "Paused", 9999, "wait", ""),
        ("CANCELLING", "Cancelling", 1, "wait", ""),
        ("CRASHED", "Crashed", 1, "again", ""),
        ("COMPLETED", "Completed", 1, "ended", "completed"),
        ("COMPLETED", "Ready", 1, "ended", "completed"),
        ("FAILED", "Failed", 1, "again", "failed"),
        ("FAILED", "Undone", 1, "ended", "undone"),
        ("FAILED", "NotIsolated", 1, "ended", "held"),
        ("FAILED", "ToBeCompleted", 1, "again", "to be completed"),
        ("COMPLETED", "Refused", 1, "ended", "refused"),
        ("CANCELLED", "Cancelled", 1, "ended", "cancelled"),
    ],
)
def test_what_a_run_means(state: str, name: str, age_s: float, kind: str, outcome: str) -> None:
    verdict = judge(RunSeen("id", "run", state, name, "", NOW - timedelta(seconds=age_s)), T0, 60)
    assert (verdict.kind, verdict.outcome) == (kind, outcome)


def test_a_run_that_is_gone_is_made_again() -> None:
    assert judge(None, T0, 60).kind == "again"
