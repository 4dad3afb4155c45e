"""One HTTP stand-in on its own, in a thread: for a test, or to try it by hand. The lab's daemon serves them itself."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

START_LIMIT_S = 20.0


class Alone:
    """A served application: its port, and a way to run something inside its event loop."""

    def __init__(self, make: Callable[[], web.Application], tls: ssl.SSLContext | None, host: str) -> None:
        self._make, self._tls, self.host = make, tls, host
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="alone", daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def call(self, work: Coroutine[Any, Any, Any], timeout_s: float = START_LIMIT_S) -> Any:
        """Run a coroutine in the application's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def start(self) -> None:
        self._thread.start()
        self._up.wait(START_LIMIT_S)
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_LIMIT_S)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner: web.AppRunner | None = None
        try:
            runner = self._loop.run_until_complete(self._open())
            self._up.set()
            self._loop.run_forever()
        except OSError as error:
            self._failed = error
            self._up.set()
        finally:
            if runner is not None:
                self._loop.run_until_complete(_close(runner))
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _open(self) -> web.AppRunner:
        runner = web.AppRunner(self._make(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self.host, 0, ssl_context=self._tls)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner


async def _close(runner: web.AppRunner) -> None:
    """Stop serving and drop what is still open: a TLS connection would wait for the client's goodbye, which is slow."""
    transports = [each.transport for each in (runner.server.connections if runner.server else ())]
    await runner.cleanup()
    for transport in transports:
        if transport is not None:
            transport.abort()
    await asyncio.sleep(0)  # the loop closes an aborted socket in its next turn


@contextmanager
def alone(
    make: Callable[[], web.Application], *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Alone]:
    """Serve an application on a free port of the loopback for the time of the block."""
    served = Alone(make, tls, host)
    served.start()
    try:
        yield served
    finally:
        served.stop()
