"""The units of one machine at work as plain processes: start, setup, drain, stop; its database lost and restored."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    temporary_settings,
)

from stackwright.clients.sealing import new_identity, opened
from stackwright.lab.rig import ROOT
from stackwright.lab.server import free_port
from tasks import other_state
from tests.store_server import ACCESS, SECRET, running_store
from tests.systemd_units import Machine, read_unit
from tests.tasks.layer_site import FakeSite

PASSWORD, PLANTED = "planted-login-77", "planted-block-value-31"
SERVER, WORKER = "stackwright-server.service", "stackwright-worker.service"
TENANTS, WEBHOOKS = "stackwright-tenants.service", "stackwright-webhooks.service"
WATCH = "stackwright-watch.service"


def until(look: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while not look():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)


class Site:
    """One machine in a folder, with its login and its key."""

    def __init__(self, folder: Path, key: str) -> None:
        self.machine = Machine(folder, {"4200": free_port(), "8470": free_port()})
        self.secrets = {"prefect.env": PASSWORD, "encryption.env": key}
        self.folder, self.processes = folder, {}
        (folder / "state" / "prefect").mkdir(parents=True, exist_ok=True)
        (folder / "etc" / "sites").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "deployments" / "webhooks.yaml", folder / "etc" / "webhooks.yaml")
        self.env = self.machine.environment(SERVER, self.secrets)
        self.login = ("stackwright", PASSWORD)

    @property
    def url(self) -> str:
        return self.env["PREFECT_API_URL"]

    @property
    def database(self) -> Path:
        return self.folder / "state" / "prefect" / "prefect.db"

    def start(self, unit: str, ready: Callable[[], object]) -> None:
        log = self.folder / f"{unit}.log"
        process = self.processes[unit] = self.machine.start(unit, self.secrets, log)
        until(ready, process, log)

    def start_server(self) -> None:
        """Start it as systemd does: the unit's own command says when it answers."""
        self.start(SERVER, lambda: True)
        for done in self.machine.run(SERVER, "ExecStartPost", self.secrets):
            assert done.returncode == 0, done.stderr + (self.folder / f"{SERVER}.log").read_text()[-3000:]

    def stop(self, unit: str) -> int:
        process = self.processes.pop(unit)
        process.send_signal(signal.SIGTERM)
        try:
            return int(process.wait(60))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def says(self, *words: str, **more: str) -> str:
        argv = [sys.executable, "-m", "stackwright.cli", *words]
        done = subprocess.run(
            argv, cwd=ROOT, env={**self.env, **more}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, body: object = None) -> httpx.Response:
        method = "GET" if body is None else "POST"
        return httpx.request(method, f"{self.url}{path}", json=body, auth=self.login, timeout=30)

    def value(self) -> httpx.Response:
        return self.ask("/block_types/slug/stackwright-secret-text/block_documents/name/kept?include_secrets=true")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[str, str], Site]]:
    """Make machines; whatever still runs at the end is stopped."""
    sites: list[Site] = []

    def make(name: str, key: str) -> Site:
        sites.append(Site(tmp_path / name, key))
        return sites[-1]

    yield make
    for site in sites:
        for unit in list(site.processes):
            site.stop(unit)


def restore_commands() -> list[str]:
    """Return the commands of docs/one-machine.md that take an opened export apart."""
    text = (ROOT / "docs" / "one-machine.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\$ (.*)$", text, re.M)
    start = next(number for number, line in enumerate(lines) if line.startswith("age -d"))
    return lines[start + 1 : start + 4]


@pytest.mark.slow
def test_one_machine_works_drains_and_comes_back_from_its_backup(
    made: Callable[[str, str], Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All units but the approvals start; setup is done once; the pool is drained; a new machine has blocks again."""
    key = Fernet.generate_key().decode()
    site = made("first", key)
    site.start_server()
    assert httpx.post(f"{site.url}/deployments/filter", json={}, timeout=30).status_code == 401
    assert " created" in site.says("setup") and "nothing to change" in site.says("setup")
    site.says("block", "set", "secret-text", "kept", "value=env:PLANTED", PLANTED=PLANTED)

    site.start(WORKER, lambda: site.ask("/work_pools/stackwright/workers/filter", {}).json())
    site.start(TENANTS, lambda: site.ask("/work_pools/stackwright-tenants/workers/filter", {}).json())
    port = site.machine.ports["8470"]
    site.start(WEBHOOKS, lambda: _answers(f"http://127.0.0.1:{port}/healthz"))

    site.start(WATCH, lambda: list((site.folder / "state").rglob("watch.alive")))

    def paused() -> bool:
        return bool(site.ask("/work_pools/stackwright").json()["is_paused"])

    (closed,) = site.machine.run(WORKER, "ExecStop", site.secrets)
    assert closed.returncode == 0 and "0 run(s) still at work" in closed.stderr and paused()
    for unit in (WORKER, WATCH, TENANTS, WEBHOOKS):
        assert site.stop(unit) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), (site.folder / f"{unit}.log").read_text()
    (opened_again,) = site.machine.run(WORKER, "ExecStartPre", site.secrets)
    assert opened_again.returncode == 0 and not paused(), opened_again.stderr

    export = _exported(site, tmp_path, monkeypatch, key)
    assert site.stop(SERVER) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    assert not [path for path in site.folder.rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]
    assert key.encode() not in site.database.read_bytes()

    back = tmp_path / "unpacked"
    back.mkdir()
    (back / "export").write_bytes(export)
    for command in restore_commands():
        done = subprocess.run(["sh", "-ec", command], cwd=back, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ok\n"
    assert (back / "encryption.env").read_text() == f"PREFECT_SERVER_ENCRYPTION_KEY={key}\n"
    second = made("second", key)
    shutil.copy(back / "prefect.db", second.database)
    second.start_server()
    assert second.value().json()["data"] == {"value": PLANTED}
    assert len(second.ask("/deployments/filter", {}).json()) >= 20
    second.stop(SERVER)

    third = made("third", Fernet.generate_key().decode())
    shutil.copy(back / "prefect.db", third.database)
    third.start_server()
    assert third.value().status_code == 500, "another key must not open it"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code < 500
    except httpx.TransportError:
        return False


def _exported(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> bytes:
    """Save the machine's database as `back-up-state` does, refuse it without its key, and return it opened."""
    identity = new_identity()
    blocks = {
        ("s3", "backup-store"): {"access_key": ACCESS, "secret_key": SECRET},
        ("secret-text", "backup-key"): {"value": identity.get_secret_value()},
    }
    place = folder / "site"
    place.mkdir()
    (folder / "store").mkdir()
    with running_store(folder / "store") as store:
        fake = FakeSite(place, blocks, backup=store.settings().model_dump(), site="one")
        database = {PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{site.database}"}
        with temporary_settings({**database, PREFECT_API_URL: site.url, PREFECT_API_AUTH_STRING: None}):
            monkeypatch.delenv(other_state.KEY_VARIABLE, raising=False)
            with pytest.raises(other_state.StackError, match="nobody can read"):
                other_state.save_prefect(fake.site)
            monkeypatch.setenv(other_state.KEY_VARIABLE, key)
            saved = other_state.save_prefect(fake.site)
            assert saved is not None
        with store.store().open(saved) as stored, opened(stored, identity) as plain:
            return bytes(plain.read())


def test_the_worker_units_commands_name_the_same_pool_and_mark() -> None:
    unit = read_unit(WORKER)
    places = {tuple(line.split("pool_drain ")[1].split()[1:3]) for line in unit["ExecStartPre"] + unit["ExecStop"]}
    assert places == {("stackwright", "/var/lib/stackwright/drained")} and "--pool stackwright " in unit["ExecStart"][0]
