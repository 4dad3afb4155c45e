"""What flow tests ask of the Prefect server, and how they run a flow in a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prefect.client.orchestration import PrefectClient, get_client

from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer

T = TypeVar("T")


def on_server(work: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Do one piece of work with a client of the server that this process's settings name."""

    async def call() -> T:
        async with get_client() as client:
            return await work(client)

    return asyncio.run(call())


def wait_for(look: Callable[[], T], limit_s: float = 180) -> T:
    """Look until something is there."""
    deadline = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < deadline, "not seen in time"
        threading.Event().wait(0.1)
    return found


def ask(server: PrefectServer, path: str, body: dict[str, Any]) -> Any:
    """Post to the server's API and return the answer."""
    return httpx.post(f"{server.url}{path}", json=body, timeout=30).raise_for_status().json()


def events(server: PrefectServer, name: str, count: int = 1, site: str = "north", **said: Any) -> list[dict[str, Any]]:
    """Wait until so many events of a site, with these words in their payload, are there, and return them by time."""
    about = {"event": {"name": [name]}, "resource": {"id": [f"stackwright.site.{site}"]}}

    def look() -> list[dict[str, Any]]:
        found = ask(server, "/events/filter", {"filter": about})["events"]
        return [one for one in found if said.items() <= one["payload"].items()]

    deadline = time.monotonic() + 180
    while len(found := look()) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} events {name} were seen"
        time.sleep(0.2)
    return sorted(found, key=lambda one: one["occurred"])


def run_apart(server: PrefectServer, module: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a flow's module in a process of its own, its reports below the folder; it must end well."""
    env = {**os.environ, **server.environment, "STACKWRIGHT_REPORTS": str(folder / "reports")}
    argv = [sys.executable, "-m", module, str(folder)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return done
