"""The receiver's memory: requests, tenants, used signatures. What `accept` has returned survives the death of anything.

SQLite (WAL, synchronous=FULL, files of mode 0600 in a folder of 0700) or PostgreSQL, by the address. Several receivers
may share one PostgreSQL database. No secret is ever written here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from asyncpg import PostgresError
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    delete,
    event,
    exists,
    func,
    insert,
    inspect,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from stackwright.domain.errors import StackError
from stackwright.domain.tenant_request import TenantRequest, WantedTenant
from stackwright.webhooks.ledger import ENDED, GONE, SENT, WAITING, Claim, Decide, Entry, Order, claim_after

SCHEMA = 1
"""Of the tables below. Whoever changes them counts it up, and makes `_set_up` bring an older store up to it."""
PURGED_AT_ONCE = 500  # one transaction holds up those who accept: it stays short
BUSY_S = 15.0
_SET_UP_LOCK = 0x57AC6B  # any number that others of the same database do not use
TEXT_KEPT = 2000

META = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER keys alone
REQUESTS = Table(
    "webhook_requests",
    META,
    Column("seq", _Id, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("caller", String(40), nullable=False),
    Column("idempotency_key", String(128), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("site", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("document", Text, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("run_id", String(36), nullable=False),
    Column("run_name", Text, nullable=False),
    Column("run_state", String(16), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("message", Text, nullable=False),
    Column("ended_at", Float),
    UniqueConstraint("caller", "idempotency_key"),
    Index("webhook_requests_open", "state", "site", "tenant", "seq"),
    Index("webhook_requests_tenant", "site", "tenant", "seq"),
)
TENANTS = Table(
    "webhook_tenants",
    META,
    Column("site", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("caller", String(40), nullable=False),
    Column("state", String(16), nullable=False),
    Column("wanted", Text, nullable=False),
)
SIGNATURES = Table(
    "webhook_signatures",
    META,
    Column("digest", String(64), primary_key=True),
    Column("expires", Float, nullable=False, index=True),
)
# One row: whoever writes to it holds the right to accept until the transaction ends. `probe` is for readiness.
GATE = Table(
    "webhook_gate",
    META,
    Column("name", String(16), primary_key=True),
    Column("value", BigInteger, nullable=False),
)


class StoreUnavailableError(StackError):
    """The receiver's store cannot be used."""

    remedy = "Check the database's host, its disk and the address in the receiver's settings."
    transient = True


class Store:
    """One store. Open it with `open_store`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def probe(self) -> None:
        """Write and commit one row. Raises StoreUnavailableError."""
        async with self._begin() as db:
            await db.execute(update(GATE).where(GATE.c.name == "probe").values(value=GATE.c.value + 1))

    async def remember(self, digest: str, expires: float, now: float) -> bool:
        """Keep a signature until `expires`; False where it was used before. Forgets those that are over."""
        try:
            async with self._begin() as db:
                await db.execute(delete(SIGNATURES).where(SIGNATURES.c.expires < now))
                await db.execute(insert(SIGNATURES).values(digest=digest, expires=expires))
        except IntegrityError:
            return False
        return True

    async def accept(self, order: Order, now: float, decide: Decide) -> Entry:
        """Keep a request and return it once it is on the disk; the one before it if its idempotency key was used.

        `decide` raises what refuses it; then nothing is kept. Nobody else accepts anything meanwhile.
        """
        request = order.request
        async with self._begin() as db:
            await db.execute(update(GATE).where(GATE.c.name == "accept").values(value=GATE.c.value + 1))
            same = and_(REQUESTS.c.caller == request.caller, REQUESTS.c.idempotency_key == order.idempotency_key)
            if before := (await db.execute(select(REQUESTS).where(same))).mappings().first():
                return _entry(before)
            decide(await _claims(db, request.site))
            if request.wanted is not None:
                await _put_claim(db, Claim(request.site, request.tenant, request.caller, "requested", request.wanted))
            values = _values(Entry(0, request, order.idempotency_key, order.digest, now))
            done = await db.execute(insert(REQUESTS).values(values).returning(REQUESTS.c.seq))
            seq = int(done.scalar_one())
        return Entry(seq, request, order.idempotency_key, order.digest, now)

    async def claims(self, sites: Iterable[str]) -> list[Claim]:
        """Return every tenant of these sites, the gone ones too, in order."""
        async with self._begin() as db:
            return [claim for site in sorted(set(sites)) for claim in await _claims(db, site)]

    async def history(self, site: str, tenant: str, limit: int) -> list[Entry]:
        """Return a tenant's last requests, newest first."""
        asked = and_(REQUESTS.c.site == site, REQUESTS.c.tenant == tenant)
        query = select(REQUESTS).where(asked).order_by(REQUESTS.c.seq.desc()).limit(limit)
        async with self._begin() as db:
            return [_entry(row) for row in (await db.execute(query)).mappings()]

    async def due(self, now: float, limit: int) -> list[Entry]:
        """Return what may be sent now: of each tenant the oldest request that has not ended, if it waits."""
        first = (
            select(func.min(REQUESTS.c.seq))
            .where(REQUESTS.c.state != ENDED)
            .group_by(REQUESTS.c.site, REQUESTS.c.tenant)
        )
        waits = and_(REQUESTS.c.state == WAITING, REQUESTS.c.not_before <= now, REQUESTS.c.seq.in_(first))
        async with self._begin() as db:
            rows = await db.execute(select(REQUESTS).where(waits).order_by(REQUESTS.c.seq).limit(limit))
            return [_entry(row) for row in rows.mappings()]

    async def sent(self) -> list[Entry]:
        """Return every request whose run is known and has not ended, oldest first."""
        query = select(REQUESTS).where(REQUESTS.c.state == SENT).order_by(REQUESTS.c.seq)
        async with self._begin() as db:
            return [_entry(row) for row in (await db.execute(query)).mappings()]

    async def mark_sent(self, entry: Entry, run_id: str, run_name: str) -> bool:
        """Note the run of a request; False where another receiver has gone on with it."""
        values = {"state": SENT, "run_id": run_id, "run_name": run_name[:TEXT_KEPT], "run_state": "SCHEDULED"}
        return await self._move(entry, values)

    async def mark_state(self, entry: Entry, run_state: str) -> bool:
        """Note in which state the run is."""
        return await self._move(entry, {"run_state": run_state})

    async def mark_again(self, entry: Entry, not_before: float, message: str) -> bool:
        """Let a request have another run: the one that it had will not carry it out."""
        values = {
            "state": WAITING, "attempt": entry.attempt + 1, "not_before": not_before, "run_id": "", "run_name": "",
            "run_state": "", "message": message[:TEXT_KEPT],
        }  # fmt: skip
        return await self._move(entry, values)

    async def mark_ended(self, entry: Entry, outcome: str, message: str, now: float) -> bool:
        """Note how a request ended, and what that makes of its tenant."""
        request = entry.request
        values = {"state": ENDED, "outcome": outcome, "message": message[:TEXT_KEPT], "ended_at": now}
        async with self._begin() as db:
            if not (await db.execute(_moving(entry).values(values))).rowcount:
                return False
            claims = {claim.name: claim for claim in await _claims(db, request.site)}
            if claim := claims.get(request.tenant):
                await _put_claim(db, claim_after(claim, request, outcome))
        return True

    async def purge(self, before: float, limit: int = PURGED_AT_ONCE) -> int:
        """Forget requests that ended before this time, with their idempotency keys; return how many, `limit` at most.

        What has not ended stays, and so does the last request of each tenant that is there. A tenant that is gone is
        forgotten with its last request.
        """
        gone = exists().where(_same_tenant(), TENANTS.c.state.in_(GONE))
        newest = select(func.max(REQUESTS.c.seq)).group_by(REQUESTS.c.site, REQUESTS.c.tenant)
        spent = and_(REQUESTS.c.state == ENDED, REQUESTS.c.ended_at < before)
        old = select(REQUESTS.c.seq).where(spent, or_(gone, REQUESTS.c.seq.not_in(newest))).limit(limit)
        left = and_(TENANTS.c.state.in_(GONE), not_(exists().where(_same_tenant())))
        async with self._begin() as db:
            seqs = list((await db.execute(old)).scalars())
            await db.execute(delete(REQUESTS).where(REQUESTS.c.seq.in_(seqs)))
            await db.execute(delete(TENANTS).where(left))
        return len(seqs)

    async def counts(self) -> dict[str, int]:
        """Return how many requests are in each state, or ended with each outcome."""
        query = select(REQUESTS.c.state, REQUESTS.c.outcome, func.count()).group_by(
            REQUESTS.c.state, REQUESTS.c.outcome
        )
        async with self._begin() as db:
            rows = (await db.execute(query)).all()
        return {outcome if state == ENDED else state: int(number) for state, outcome, number in rows}

    async def oldest_open(self) -> float | None:
        """Return when the oldest request that has not ended was accepted."""
        query = select(func.min(REQUESTS.c.accepted_at)).where(REQUESTS.c.state != ENDED)
        async with self._begin() as db:
            found: float | None = (await db.execute(query)).scalar()
            return found

    async def _move(self, entry: Entry, values: dict[str, Any]) -> bool:
        async with self._begin() as db:
            return bool((await db.execute(_moving(entry).values(values))).rowcount)

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction and turn the database's errors into ours. IntegrityError is an answer and stays."""
        try:
            async with self._engine.begin() as db:
                yield db
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout, PostgresError, OSError, TimeoutError) as error:
            seen = type(getattr(error, "orig", None) or error).__name__
            # `from None`: SQLAlchemy's text quotes the statement's values.
            raise StoreUnavailableError("the store does not answer", where="webhook store", seen=seen) from None


async def open_store(address: str) -> Store:
    """Open a store, or make a new one. Raises StoreUnavailableError, also for a store of another release's."""
    url = _with_driver(address)
    engine = (
        _sqlite(url)
        if url.get_backend_name() == "sqlite"
        else create_async_engine(url, pool_pre_ping=True, hide_parameters=True)
    )
    store = Store(engine)
    try:
        await _set_up(store)
    except BaseException:
        await store.close()
        raise
    return store


async def _set_up(store: Store) -> None:
    async with store._begin() as db:
        if db.dialect.name == "postgresql":  # two receivers may start at once; SQLite lets one write at a time anyway
            await db.execute(select(func.pg_advisory_xact_lock(_SET_UP_LOCK)))
        await _refuse_other(db)
        await db.run_sync(META.create_all)
        names = set((await db.execute(select(GATE.c.name))).scalars())
        for name, value in (("accept", 0), ("probe", 0), ("schema", SCHEMA)):
            if name not in names:
                await db.execute(insert(GATE).values(name=name, value=value))


async def _refuse_other(db: AsyncConnection) -> None:
    """Refuse a store that another release made, before anything in it is touched."""
    if not await db.run_sync(lambda sync: inspect(sync).has_table(GATE.name)):
        return
    found = (await db.execute(select(GATE.c.value).where(GATE.c.name == "schema"))).scalar_one_or_none()
    if found == SCHEMA:
        return
    newer = found is not None and found > SCHEMA
    remedy = "Start the release that wrote it, or a newer one; nothing was changed."
    if not newer:
        remedy = "Start the release that wrote it until nothing is open, then name a new store; nothing was changed."
    raise StoreUnavailableError(
        f"the store was written by {'a newer' if newer else 'an older'} release, with another schema",
        where="webhook store", wanted=f"schema {SCHEMA}", seen="none" if found is None else str(found), remedy=remedy,
    )  # fmt: skip


def _with_driver(address: str) -> URL:
    """Return the address with the driver that the Prefect client brings along."""
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    try:
        url = make_url(address)
    except ArgumentError:  # `from None`: its text quotes the address, which may hold a password
        wanted = "such as sqlite:////var/lib/stackwright/requests.db"
        raise StoreUnavailableError("this is not a store's address", where="store", wanted=wanted) from None
    name = url.get_backend_name()
    if name not in drivers:
        raise StoreUnavailableError("no such kind of store", where="store", wanted=" or ".join(drivers), seen=name)
    return url.set(drivername=drivers[name])


def _sqlite(url: URL) -> AsyncEngine:
    _private(Path(url.database or ""))
    # One connection: writers of one process wait for each other here, and not with SQLite's errors.
    engine = create_async_engine(
        url,
        connect_args={"timeout": BUSY_S},
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # we begin by ourselves, see below
        cursor = raw.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(db: Any) -> None:
        # Whoever reads first and writes then would fail, instead of waiting, if another process wrote in between.
        db.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _private(path: Path) -> None:
    """Make a SQLite store's folder and file for this user alone; SQLite gives its other files the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreUnavailableError(
            "the store cannot be made", where=str(path), wanted="a folder that this user may write to",
            seen=error.strerror or type(error).__name__,
        ) from error  # fmt: skip
    for place, wanted in ((path.parent, 0o700), (path, 0o600)):
        seen = stat.S_IMODE(place.stat().st_mode)
        if seen & ~wanted:
            raise StoreUnavailableError(
                "others may read the store", where=str(place), wanted=oct(wanted), seen=oct(seen),
                remedy="Give the store a folder of its own, and take the rights of others away.",
            )  # fmt: skip


async def _claims(db: AsyncConnection, site: str) -> list[Claim]:
    rows = await db.execute(select(TENANTS).where(TENANTS.c.site == site).order_by(TENANTS.c.name))
    waiting: dict[str, list[TenantRequest]] = {}
    is_open = and_(REQUESTS.c.site == site, REQUESTS.c.state != ENDED)
    query = select(REQUESTS.c.tenant, REQUESTS.c.document).where(is_open).order_by(REQUESTS.c.seq)
    for tenant, document in (await db.execute(query)).all():
        waiting.setdefault(tenant, []).append(_request(document))
    claims = [_claim(row) for row in rows.mappings()]
    return [replace(claim, waiting=tuple(waiting.get(claim.name, ()))) for claim in claims]


async def _put_claim(db: AsyncConnection, claim: Claim) -> None:
    here = and_(TENANTS.c.site == claim.site, TENANTS.c.name == claim.name)
    values = {"caller": claim.caller, "state": claim.state, "wanted": claim.wanted.model_dump_json()}
    if not (await db.execute(update(TENANTS).where(here).values(values))).rowcount:
        await db.execute(insert(TENANTS).values(site=claim.site, name=claim.name, **values))


def _same_tenant() -> Any:
    return and_(TENANTS.c.site == REQUESTS.c.site, TENANTS.c.name == REQUESTS.c.tenant)


def _moving(entry: Entry) -> Any:
    """Move a request on only from where it was seen: two receivers may look at the same one."""
    same = (REQUESTS.c.seq == entry.seq, REQUESTS.c.state == entry.state, REQUESTS.c.attempt == entry.attempt)
    return update(REQUESTS).where(and_(*same))


def _values(entry: Entry) -> dict[str, Any]:
    request = entry.request
    return {
        "id": request.id, "caller": request.caller, "idempotency_key": entry.idempotency_key, "digest": entry.digest,
        "site": request.site, "tenant": request.tenant, "document": request.model_dump_json(),
        "accepted_at": entry.accepted_at, "state": entry.state, "attempt": entry.attempt,
        "not_before": entry.not_before, "run_id": "", "run_name": "", "run_state": "", "outcome": "", "message": "",
    }  # fmt: skip


def _entry(row: RowMapping) -> Entry:
    kept = {name: row[name] for name in Entry.__dataclass_fields__ if name != "request"}
    return Entry(request=_request(row["document"]), **kept)


def _claim(row: RowMapping) -> Claim:
    return Claim(row["site"], row["name"], row["caller"], row["state"], _wanted(row["wanted"]))


# Each acceptance reads every tenant of the site, and each turn every open request: the same texts again and again.
@lru_cache(maxsize=4096)
def _request(document: str) -> TenantRequest:
    return TenantRequest.model_validate_json(document)


@lru_cache(maxsize=4096)
def _wanted(document: str) -> WantedTenant:
    return WantedTenant.model_validate_json(document)
