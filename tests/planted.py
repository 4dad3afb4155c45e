"""Where secrets are looked for, and how. Each place of the list is proved by one test:

| place | test |
| --- | --- |
| every table of the server's database, its file's raw bytes | tests/flows/test_deploy.py |
| every list of its API, events, logs and artifacts among them | tests/flows/test_deploy.py |
| argument lists and environments of all processes during a deploy | tests/flows/test_deploy.py |
| reports, results, server log, command's output | tests/flows/test_deploy.py |
| pages of the UI, and what they load | tests/browser/test_planted_pages.py |
| jobs that a Kubernetes worker makes of the template, manifests | tests/team/test_planted_jobs.py, test_manifests.py |
| layers, history and settings of the image | tests/image/test_image.py |
| the nodes' disks and processes | tests/rung/test_cluster.py |
| the support bundle | tests/flows/test_support_bundle.py |
| argument lists, own server and files of a run without the server, its bundle | tests/flows/test_without_server.py |
| core dumps: there are none | tests/test_systemd.py, tests/team/test_docker_pool.py |
"""

from __future__ import annotations

import base64
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

PAGE = 200
PAGED = (
    "flows", "flow_runs", "task_runs", "logs", "artifacts", "artifacts/latest", "deployments", "work_pools",
    "automations", "block_types", "block_schemas", "block_documents", "variables", "saved_searches",
    "concurrency_limits", "v2/concurrency_limits", "work_queues",
)  # fmt: skip
SINGLE = ("admin/settings", "admin/version", "health", "collections/views/aggregate-worker-metadata")
PART = 2**16
RAW_LEAST = 12  # shorter texts turn up by chance in bytes that are not text


def needles(secret: str) -> set[str]:
    """Return what to look for: a secret's own text, and the most telling line of a longer one."""
    lines = [line.strip() for line in secret.splitlines() if len(line.strip()) >= 16 and "-----" not in line]
    return {lines[len(lines) // 2]} if len(lines) > 1 else {secret.strip()}


def encoded(needle: str) -> set[str]:
    """Return a needle as it is and in base64, wherever it stands in there."""
    found = {needle}
    for pad in range(3):
        text = base64.b64encode(b"\0" * pad + needle.encode()).decode()
        found.add(text[(0, 2, 3)[pad] : len(text) - (0, 3, 2)[(pad + len(needle.encode())) % 3]])
    return {text for text in found if len(text) >= 8}


def found_in(secrets: Mapping[str, str], places: Iterable[tuple[str, str | bytes]]) -> list[str]:
    """Return `secret in place` for every secret that a place holds, as it is or in base64."""
    wanted = [(name, text) for name, secret in secrets.items() for one in needles(secret) for text in encoded(one)]
    hits = set()
    for place, said in places:
        for name, text in wanted:
            if text in said if isinstance(said, str) else len(text) >= RAW_LEAST and text.encode() in said:
                hits.add(f"{name} in {place}")
    return sorted(hits)


# --- the server ------------------------------------------------------------------------------------------------------


def tables(database: Path) -> Iterator[tuple[str, str]]:
    """Yield every table of a SQLite file as one text: each value of each column as it lies there."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        names = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        for name in names:
            rows = connection.execute(f'select * from "{name}"')  # noqa: S608 - the database's own name
            yield (
                f"table {name}",
                "\n".join(
                    value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                    for row in rows for value in row
                ),
            )  # fmt: skip
    connection.close()


def raw_files(database: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of a SQLite file and of what lies beside it: pages that no table refers to any more, too."""
    for path in sorted(database.parent.glob(f"{database.name}*")):
        if not path.name.endswith("-shm"):
            yield f"file {path.name}", path.read_bytes()


def answers(url: str, runs: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield what the API says to anybody who asks for lists, page by page, and for each run its states and graph."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for path in SINGLE:
            yield f"GET {path}", client.get(f"/{path}").text
        for path in PAGED:
            yield from _pages(client, path)
        yield from _events(client)
        for run in runs:
            for path in (f"flow_runs/{run}", f"flow_runs/{run}/graph-v2", f"flow_run_states/?flow_run_id={run}"):
                yield f"GET {path}", client.get(f"/{path}").raise_for_status().text


def _pages(client: httpx.Client, path: str) -> Iterator[tuple[str, str]]:
    offset = 0
    while True:
        body: dict[str, Any] = {"limit": PAGE, "offset": offset}
        answer = client.post(f"/{path}/filter", json=body).raise_for_status()
        yield f"POST {path}/filter", answer.text
        count = len(answer.json())
        offset += count
        if count < PAGE:
            return


def _events(client: httpx.Client) -> Iterator[tuple[str, str]]:
    answer = client.post("/events/filter", json={"limit": 50}).raise_for_status()
    while True:
        yield "POST events/filter", answer.text
        following = answer.json().get("next_page")
        if not following:
            return
        answer = client.get(following).raise_for_status()


# --- processes -------------------------------------------------------------------------------------------------------


class ProcessWatch:
    """Reads the argument lists and environments of all processes while something runs."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.environments: set[str] = set()
        self._raw: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for pid in pids():
                self._read(pid)

    def _read(self, pid: str) -> None:
        try:
            raw = raw_of(f"/proc/{pid}/cmdline")
            if raw not in self._raw:
                self._raw.add(raw)
                self.seen.add(raw.replace(b"\0", b" ").decode(errors="replace"))
                self.environments.add(raw_of(f"/proc/{pid}/environ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass  # the process ended between the two looks, or is not ours


def pids() -> Iterator[str]:
    """Yield the ids of all processes."""
    return filter(str.isdigit, os.listdir("/proc"))  # noqa: PTH208 - paths would cost more than all the reading


def raw_of(path: str) -> bytes:
    """Return what a file of the kernel says, by as few calls as it takes: a thousand are asked each second."""
    file = os.open(path, os.O_RDONLY)
    try:
        said = part = os.read(file, PART)
        while len(part) == PART:
            said += (part := os.read(file, PART))
        return said
    finally:
        os.close(file)
