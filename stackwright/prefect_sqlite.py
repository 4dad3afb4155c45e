"""SQLite below Prefect's server: a transaction takes the write lock at its begin, not at its first write.

prefect_collection.py loads this in Prefect's server. As shipped (3.8), most transactions read first and write later.
Where somebody else has written in between, SQLite refuses the write at once with "database is locked": a state, a
heartbeat or an automation's event is lost or tried again. Worse, the refused statement stays open; when the server's
event loop drops it while the same connection waits for the lock, the loop waits too, and with it whoever holds the
lock: nothing is answered for the minute that SQLite waits at most.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

AS_SHIPPED = AioSqliteConfiguration.begin_transaction


@asynccontextmanager
async def begin_transaction(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    """Enter a transaction that may write; one inside another's block begins as shipped, for it would wait for itself.

    Only the begin asks for the lock: a session that reads inside the block must not.
    """
    inside = SQLITE_BEGIN_MODE.get() is not None
    async with AS_SHIPPED(self, session, with_for_update and inside) as transaction:
        if not inside:
            token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                SQLITE_BEGIN_MODE.reset(token)
        yield transaction


AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[method-assign] # no setting for it
