"""The lab's daemon: puts the stand-ins together, serves them on the lab's own loopback addresses, and takes orders.

`python -m stackwright.lab.daemon FOLDER [--speed N]`. It runs until SIGTERM. Orders come over FOLDER/control.sock.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from stackwright.lab.center import Center

log = logging.getLogger(__name__)


def control_app(center: Center) -> web.Application:
    """Make the app behind the control socket."""

    async def journal(request: web.Request) -> web.Response:
        since = int(request.query.get("since", "0"))
        return web.json_response([asdict(entry) for entry in center.journal.changed_since(since)])

    async def snapshot(request: web.Request) -> web.Response:
        return web.json_response(await center.snapshot())

    async def members(request: web.Request) -> web.Response:
        return web.json_response([asdict(change) for change in center.rke2.log.changes])

    async def faults(request: web.Request) -> web.Response:
        return web.json_response([asdict(fault) for fault in center.faults.listed()])

    async def controller(request: web.Request) -> web.Response:
        center.faults.controller = int((await request.json())["pid"])
        return web.json_response({"ok": True})

    async def add_fault(request: web.Request) -> web.Response:
        center.faults.add(await request.json())
        return web.json_response({"ok": True})

    async def clear_faults(request: web.Request) -> web.Response:
        center.faults.clear()
        return web.json_response({"ok": True})

    async def power(request: web.Request) -> web.Response:
        order = await request.json()
        await center.power(order["node"], on=order["on"])
        return web.json_response({"ok": True})

    async def rebuild(request: web.Request) -> web.Response:
        order = await request.json()
        return web.json_response({"host_key": await center.rebuild(order["node"])})

    async def certificates(request: web.Request) -> web.Response:
        order = await request.json()
        center.rke2.age_certificates(order["node"], order["days"])
        return web.json_response({"ok": True})

    app = web.Application()
    app.add_routes(
        [
            web.get("/journal", journal),
            web.get("/snapshot", snapshot),
            web.get("/members", members),
            web.get("/faults", faults),
            web.post("/faults", add_fault),
            web.put("/controller", controller),
            web.delete("/faults", clear_faults),
            web.post("/power", power),
            web.post("/rebuild", rebuild),
            web.post("/certificates", certificates),
        ]
    )
    return app


async def serve(folder: Path, speed: float) -> None:
    """Run one lab until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    socket = folder / "control.sock"
    socket.unlink(missing_ok=True)
    center = Center(folder, speed)
    await center.start()
    runner = web.AppRunner(control_app(center), access_log=None)
    try:
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        socket.chmod(0o600)
        (folder / "ready").write_text("ready\n")
        await stop.wait()
    finally:
        await runner.cleanup()
        await center.stop()


def main(run: Callable[[Path, float], Awaitable[Any]] = serve) -> None:
    """Start the daemon in the foreground."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--speed", type=float, default=20.0)
    options = parser.parse_args()
    logging.basicConfig(level=os.environ.get("STACKWRIGHT_LAB_LOG", "INFO"), format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.WARNING)  # it says six lines for each command
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    pid_file = folder / "daemon.pid"
    pid_file.write_text(str(os.getpid()))
    try:
        asyncio.run(run(folder, options.speed))  # type: ignore[arg-type]
    finally:
        pid_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
