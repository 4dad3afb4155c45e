"""A lab, a Prefect server and a worker, as an operator's machine has them, and Chromium in front of them.

What is missing for it is named: these tests are skipped, never passed, without a browser.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT, Rig
from stackwright.lab.server import PrefectServer
from tests.flows.server import wait_for

CHROMIUM = Path("/usr/bin/chromium")
PICTURES = ROOT / "build" / "browser"
RUN_LIMIT_S = 600.0


class Ground:
    """The lab's site, and the runs on it as the server knows them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.site_file = rig.lab.sites / "lab.yaml"

    def change(self, edit: Callable[[dict[str, Any]], Any]) -> None:
        """Change the site file."""
        document = yaml.safe_load(self.site_file.read_text())
        edit(document)
        self.site_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def ask(self, path: str, **body: Any) -> Any:
        """Ask the server's API."""
        return httpx.post(f"{self.rig.server.url}/{path}", json=body, timeout=60).raise_for_status().json()

    def deployment(self, name: str) -> dict[str, Any]:
        """Return one deployment."""
        (found,) = self.ask("deployments/filter", deployments={"name": {"any_": [name]}})
        return dict(found)

    def newest(self, flow: str) -> dict[str, Any]:
        """Return the newest run of a flow."""
        found = self.ask("flow_runs/filter", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_DESC", limit=1)
        return dict(found[0]) if found else {}

    def begun(self, flow: str, after: str) -> dict[str, Any]:
        """Wait until a run of a flow is there that is another one than `after`, and return it."""
        return wait_for(lambda: (run := self.newest(flow)) and run["id"] != after and run, 60)

    def state(self, run: str, *types: str) -> dict[str, Any]:
        """Wait until a run is in a state of one of these types, and return the run."""

        def look() -> dict[str, Any] | None:
            (found,) = self.ask("flow_runs/filter", flow_runs={"id": {"any_": [run]}})
            return found if found["state"]["type"] in types else None

        return wait_for(look, RUN_LIMIT_S) or {}

    def artifact(self, run: str, key: str) -> dict[str, Any]:
        """Return a run's newest artifact with a key."""
        wanted = {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}
        return dict(self.ask("artifacts/filter", artifacts=wanted, sort="CREATED_DESC")[0])


def missing() -> str:
    """Return what a browser test lacks here, or nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "Python package playwright (make browser-test installs it)"
    if not CHROMIUM.exists():
        return f"{CHROMIUM} (Debian: apt-get install chromium)"
    return ""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Three servers and four agents, nothing installed yet; every deployment; a worker."""
    if lacks := missing():
        pytest.skip(f"no browser test: {lacks} is missing")
    server = PrefectServer(Path(tmp_path_factory.mktemp("prefect")))
    server.launch()
    rig = Rig(tmp_path_factory.mktemp("rig"), server, speed=60)
    worker = None
    try:
        server.wait()
        # The site file first: the forms offer the sites that there are when they are made.
        rig.lab.start(speed=rig.speed, fresh=True, layout=Layout(workers=0, gpus=0, agents=4, bare=True))
        rig.set_up()
        rig.fill_blocks()
        worker = start_worker(rig)
        yield Ground(rig)
    finally:
        if worker is not None:
            worker.terminate()
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:  # Prefect's worker may lose a signal while it has no run
                worker.kill()
                worker.wait()
        rig.close()
        server.stop()


def start_worker(rig: Rig) -> subprocess.Popen[bytes]:
    """Start a worker for the pool of the catalogue."""
    env = {**rig.environment, "STACKWRIGHT_HOME": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
    argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "stackwright"]
    with (rig.folder / "worker.log").open("wb") as log:
        return subprocess.Popen(argv, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@pytest.fixture
def browser(ground: Ground) -> Iterator[Any]:
    """Chromium on this server's UI."""
    from tests.browser.pages import Browser

    with Browser(ground.rig.server.ui, PICTURES) as browser:
        yield browser
