"""A small lab in a thread of its own, driven over real SSH by paramiko."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from aiohttp import web

from stackwright.lab.faults import Faults
from stackwright.lab.journal import Journal
from stackwright.lab.net import LabNet
from stackwright.lab.nodes import LabNode, LabNodes, NodeRootError
from stackwright.lab.rke2.cluster import Rke2Cluster
from stackwright.lab.rke2.release import artifacts_app, build_release
from stackwright.lab.rke2.supervisor import serve
from stackwright.lab.secrets_made import ssh_key_pair

VERSION = "v1.34.10+rke2r1"
OTHERS = ("v1.33.10+rke2r1", "v1.35.3+rke2r1")


class DictApi:
    """Kubernetes objects in a dict: all that RKE2's stand-in needs of an API."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], dict[str, Any]] = {}

    def put(self, obj):
        meta = obj["metadata"]
        self.kept[obj["kind"], meta.get("namespace", ""), meta["name"]] = obj

    def get(self, kind, namespace, name):
        return self.kept.get((kind, namespace, name))

    def delete(self, kind, namespace, name):
        self.kept.pop((kind, namespace, name), None)

    def objects(self, kind):
        return [obj for key, obj in self.kept.items() if key[0] == kind]

    def stored(self):
        return [
            ("/".join(("/registry", f"{kind.lower()}s", *filter(None, place))), json.dumps(obj).encode())
            for (kind, *place), obj in self.kept.items()
        ]

    async def serve(self, address, port, context, version):
        async def ready(request):
            return web.Response(text="ok")

        async def say_version(request):
            return web.json_response({"gitVersion": version})

        app = web.Application()
        app.router.add_get("/readyz", ready)
        app.router.add_get("/version", say_version)
        return await serve(app, address, port, context)


class SmallLab:
    """Machines, RKE2 and artifacts below one folder; `call` runs a coroutine in the lab's loop."""

    def __init__(self, folder: Path, specs: list[dict[str, Any]], speed: float) -> None:
        self.folder, self.specs, self.speed = folder, specs, speed
        if not (folder / "key").exists():
            private, public = ssh_key_pair()
            (folder / "key").write_text(private)
            (folder / "authorized_key").write_text(public)
        self.api = DictApi()
        self.close_artifacts = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def inject(self, **fault):
        """Inject a fault; without arguments take all faults back. In the loop, as the daemon does."""

        async def change():
            if fault:
                self.faults.add(fault)
            else:
                self.faults.clear()

        self.call(change())

    def call(self, work, timeout_s=30.0):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def start(self) -> None:
        self.net = LabNet.allocate(self.folder)
        self.journal = Journal(self.folder / "journal.jsonl")
        self.faults = Faults(self.folder / "faults.json")
        specs = [LabNode(address=self.net.address(10 + index), **spec) for index, spec in enumerate(self.specs)]
        self.nodes = LabNodes(self.folder, specs, self.journal, self.faults, self.speed)
        self.cluster = Rke2Cluster(self.nodes, self.net, self.api, self.net.address(2), self.speed)
        self.thread.start()
        self.call(self._up())

    async def _up(self) -> None:
        await self.cluster.start()
        await self.nodes.start()
        for version in (VERSION, *OTHERS):
            build_release(self.folder / "artifacts", version)
        context = self.net.ca.server_context("lab", [self.net.address(2)])
        self.close_artifacts = await serve(artifacts_app(self.folder / "artifacts"), self.net.address(2), 8444, context)

    async def _down(self) -> None:
        if self.close_artifacts is not None:
            await self.close_artifacts()
        await self.nodes.stop()
        await self.cluster.stop()

    def stop(self) -> None:
        try:
            self.call(self._down())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()
            self.journal.close()
            self.net.release()

    @contextmanager
    def ssh(self, node: str, user: str = "root", key: str | None = None) -> Iterator[paramiko.SSHClient]:
        spec = self.nodes[node].spec
        client = paramiko.SSHClient()
        kind, _, blob = self.nodes.host_keys[node].partition(" ")
        known = paramiko.Ed25519Key(data=b64decode(blob.split()[0]))
        client.get_host_keys().add(f"[{spec.address}]:{spec.ssh_port}", kind, known)
        private = paramiko.Ed25519Key.from_private_key(io.StringIO(key or (self.folder / "key").read_text()))
        client.connect(
            spec.address, spec.ssh_port, user, pkey=private, allow_agent=False, look_for_keys=False, timeout=10
        )
        try:
            yield client
        finally:
            client.close()

    def sh(self, node: str, script: str, user: str = "root", command: str = "sh -s", timeout_s: float = 30.0):
        """Send a script to a shell's standard input, as production does; return code, out, err."""
        with self.ssh(node, user) as client:
            channel = client.get_transport().open_session(timeout=timeout_s)
            channel.settimeout(timeout_s)
            channel.exec_command(command)
            with suppress(OSError):  # the command may have refused before it read anything
                channel.sendall(script.encode())
                channel.shutdown_write()
            out = channel.makefile("rb").read().decode()
            err = channel.makefile_stderr("rb").read().decode()
            return SimpleNamespace(code=channel.recv_exit_status(), out=out, err=err)

    def wait(self, condition, what: str, timeout_s: float = 20.0) -> None:
        """Poll a condition until it holds."""
        deadline = self.loop.time() + timeout_s
        pause = threading.Event()
        while not condition():
            assert self.loop.time() < deadline, f"not in {timeout_s} s: {what}"
            pause.wait(0.02)


@contextmanager
def running(folder: Path, specs: list[dict[str, Any]], speed: float) -> Iterator[SmallLab]:
    """Run a lab for the time of the block; skip the test where the kernel has no user namespaces for us."""
    lab = SmallLab(folder, specs, speed)
    try:
        lab.start()
    except NodeRootError as error:
        lab.stop()
        pytest.skip(f"no machines here: {error}")
    try:
        yield lab
    finally:
        if not lab.loop.is_closed():
            lab.stop()


@pytest.fixture(scope="session")
def small_lab():
    """Return `running`, for fixtures of a module's own."""
    return running


@pytest.fixture
def make_lab(tmp_path):
    """Return a function that starts a lab with these machines (fields of LabNode without address)."""
    with ExitStack() as stack:
        yield lambda *specs, speed=200.0, folder=None: stack.enter_context(
            running(folder or tmp_path, list(specs), speed)
        )
