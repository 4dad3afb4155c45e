"""One deploy of a lab's site, in a process of its own: through Prefect, or by the same functions without Prefect.

`python -m benchmarks.orchestrated prefect|bare FOLDER`, for benchmarks/orchestration.py: FOLDER is the lab's. The last
line is JSON: wall time from the call to the final state, what this process used of the processor, and how many tasks
and calls of the API it took. Imports are done before.

`bare` runs the flow's and the tasks' own functions. Nothing of Prefect is left in them: a task called is its function
called, artifacts and events go nowhere, blocks are a file. No server is named, so whatever was forgotten would fail.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import prefect.artifacts
import prefect.events
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger
from prefect.settings import get_current_settings
from prefect.tasks import Task
from prefect.utilities.annotations import BaseAnnotation
from pydantic import SecretStr

SITE = "lab"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
KEPT = "bare-blocks.json"


@dataclass
class Calls:
    """The tasks that were started, by name; the calls of the API, by route; those that were not answered well."""

    tasks: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def route(self, request: httpx.Request) -> str:
        """Return a request's route, without what names a single thing; empty for what is not asked of the API."""
        if not str(request.url).startswith(str(get_current_settings().api.url)):
            return ""
        path = ID.sub("ID", request.url.path.removeprefix("/api"))
        return f"{request.method} {re.sub('/name/.*', '/name/NAME', path)}"

    def note(self, route: str, outcome: httpx.Response | httpx.TransportError) -> None:
        """Count a call. That a thing is not there yet, or is there already, is an answer; so is that CSRF is off."""
        if not route or route.endswith("/csrf-token"):
            return
        self.routes[route] += 1
        failed = outcome.status_code if isinstance(outcome, httpx.Response) else type(outcome).__name__
        if not isinstance(failed, int) or (failed >= 400 and failed not in (404, 409)):
            self.refused[f"{failed} {route}"] += 1


@contextmanager
def counted() -> Iterator[Calls]:
    """Count what this process asks of Prefect."""
    calls = Calls()
    call_task = Task.__call__
    send, send_later = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.tasks[self.name] += 1
        return call_task(self, *args, **kwargs)

    def handle(self: Any, request: httpx.Request) -> httpx.Response:
        try:
            answer = send(self, request)
        except httpx.TransportError as error:
            calls.note(calls.route(request), error)
            raise
        calls.note(calls.route(request), answer)
        return answer

    async def handle_later(self: Any, request: httpx.Request) -> httpx.Response:
        try:
            answer = await send_later(self, request)
        except httpx.TransportError as error:
            calls.note(calls.route(request), error)
            raise
        calls.note(calls.route(request), answer)
        return answer

    Task.__call__ = called  # type: ignore[method-assign]
    httpx.HTTPTransport.handle_request = handle  # type: ignore[method-assign]
    httpx.AsyncHTTPTransport.handle_async_request = handle_later  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        Task.__call__ = call_task  # type: ignore[method-assign]
        httpx.HTTPTransport.handle_request = send  # type: ignore[method-assign]
        httpx.AsyncHTTPTransport.handle_async_request = send_later  # type: ignore[method-assign]


# --- through Prefect -------------------------------------------------------------------------------------------------


async def with_prefect() -> tuple[State[Any], str]:
    """Run the deployment as `stackwright apply` does, and return its final state and the run's id."""
    from stackwright.runs import start_here

    run, state = await start_here("deploy-stack", {"site": SITE, "unattended": True})
    return state, str(run.id)


# --- without ---------------------------------------------------------------------------------------------------------


class FileSecrets:
    """Blocks in a file of the lab's folder: the ones that the lab gives, and what deploys add to them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / KEPT
        given: Any = json.loads((folder / "secrets.json").read_text(encoding="utf-8"))
        self._kept: dict[str, dict[str, dict[str, str]]] = given
        if self._path.exists():
            self._kept = json.loads(self._path.read_text(encoding="utf-8"))

    def read(self, kind: str, name: str) -> Mapping[str, SecretStr] | None:
        fields = self._kept.get(kind, {}).get(name)
        return None if fields is None else {key: SecretStr(value) for key, value in fields.items()}

    def write(self, kind: str, name: str, fields: Mapping[str, SecretStr]) -> None:
        plain = {key: value.get_secret_value() for key, value in fields.items()}
        self._kept.setdefault(kind, {})[name] = plain
        self._path.touch(mode=0o600)
        self._path.write_text(json.dumps(self._kept), encoding="utf-8")

    def remove(self, kind: str, name: str) -> None:
        self._kept.get(kind, {}).pop(name, None)

    def names(self, kind: str) -> tuple[str, ...]:
        return tuple(sorted(self._kept.get(kind, {})))


def take_out_prefect(folder: Path) -> None:
    """Replace what flows and tasks use of Prefect, before they are imported."""
    import blocks.site
    from stackwright.clients.connect import connect

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    async def shown(*_: Any, **__: Any) -> Any:
        return uuid4()

    def loaded(name: str) -> Any:
        spec = blocks.site.read_spec(name)
        return spec, connect(spec, FileSecrets(folder), blocks.site.state_folder(name))

    Task.__call__ = called  # type: ignore[method-assign]
    for name in ("acreate_markdown_artifact", "acreate_progress_artifact", "aupdate_progress_artifact"):
        setattr(prefect.artifacts, name, shown)
    prefect.events.emit_event = lambda *_, **__: None
    blocks.site.load_site = loaded


def _plain(value: Any) -> Any:
    return value.unwrap() if isinstance(value, BaseAnnotation) else value


async def without_prefect() -> tuple[State[Any], str]:
    """Run the flow's own function, and return the state that it earns."""
    from flows.deploy_stack import deploy_stack

    with disable_run_logger():
        work: Callable[..., Any] = deploy_stack.fn
        return await work(site=SITE, unattended=True), ""


# --- both ------------------------------------------------------------------------------------------------------------


def main() -> None:
    """Deploy once, and print what it took. Exit code 1 unless the deploy ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["prefect", "bare"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.way == "bare":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("paramiko").setLevel(logging.WARNING)
        take_out_prefect(options.folder)
    import flows.deploy_stack  # noqa: F401 - both ways start with everything imported

    started, cpu = time.perf_counter(), time.process_time()
    if options.way == "bare":
        calls = Calls()
        state, run = asyncio.run(without_prefect())
    else:
        with counted() as calls:
            state, run = asyncio.run(with_prefect())
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        json.dumps(
            {
                "wall_s": wall, "cpu_s": cpu, "run": run, "state": state.name, "message": state.message,
                "tasks": calls.tasks, "routes": calls.routes, "refused": calls.refused,
            }
        )
    )  # fmt: skip
    if not state.is_completed():
        sys.exit(1)


if __name__ == "__main__":
    main()
