"""A small SSH server for the tests of the SSH client: real protocol, commands run by this machine's shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

import asyncssh


async def _to_the_end(child: asyncio.subprocess.Process) -> None:
    """Wait for a killed child, also when the one who waits is cancelled: its end is seen once what it wrote is read."""
    ending = asyncio.ensure_future(child.communicate())
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await ending
        raise


class SmallSshd:
    """Serves 127.0.0.1 at a free port. `sudo` says what sudo does; `cut_after` cuts the link after so many bytes
    out."""

    def __init__(self, folder: Path, *, key_type: str = "ssh-ed25519", user: str = "root", sudo: str = "works") -> None:
        self.client_key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = asyncssh.generate_private_key(key_type)
        self.more_host_keys: list[asyncssh.SSHKey] = []
        self.folder, self.user, self.sudo = folder, user, sudo
        self.connections = 0
        self.commands: list[str] = []
        self.first_lines: list[str] = []
        self.cut_after_command = False
        self.port = 0
        self._sessions: set[asyncio.Task] = set()
        self.open: set[asyncssh.SSHServerConnection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> SmallSshd:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def host_line(self) -> str:
        return self.host_key.export_public_key().decode().strip()

    @property
    def fingerprint(self) -> str:
        return self.host_key.get_fingerprint()

    @property
    def private_key(self) -> str:
        return self.client_key.export_private_key().decode()

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        outer = self

        class Login(asyncssh.SSHServer):
            def connection_made(self, conn):
                outer.connections += 1
                outer.open.add(conn)
                self.conn = conn

            def connection_lost(self, exc):
                outer.open.discard(self.conn)

            def begin_auth(self, username):
                return True

            def public_key_auth_supported(self):
                return True

            def validate_public_key(self, username, key):
                return username == outer.user and key == outer.client_key.convert_to_public()

        self._server = await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Login, server_host_keys=[self.host_key, *self.more_host_keys],
            process_factory=self._process, encoding=None,
        )  # fmt: skip
        self.port = self._server.get_port()

    async def _stop(self) -> None:
        for connection in [*self.open]:  # a session may wait for a reader that has gone
            connection.abort()
        for task in [*self._sessions]:
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        self._server.close()
        await self._server.wait_closed()

    async def _process(self, process) -> None:
        self._sessions.add(asyncio.current_task())
        try:
            await self._serve(process)
        finally:
            self._sessions.discard(asyncio.current_task())

    async def _serve(self, process) -> None:
        command = process.command
        self.commands.append(command)
        if command.startswith("sudo -n "):
            if self.sudo == "asks":
                process.stderr.write(b"sudo: a password is required\n")
                process.exit(1)
                return
            command = command.removeprefix("sudo -n ")
        child = await asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
            start_new_session=True,
        )
        try:
            await self._carry(process, child)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await _to_the_end(child)

    async def _carry(self, process, child) -> None:
        feed = asyncio.create_task(self._feed(process, child))
        pumps = [asyncio.create_task(self._pump(child.stdout, process.stdout)),
                 asyncio.create_task(self._pump(child.stderr, process.stderr))]  # fmt: skip
        try:
            await asyncio.gather(*pumps)
            code = await child.wait()
            if self.cut_after_command:
                process.channel.get_connection().abort()
            else:
                process.exit(code)
        finally:
            for task in (feed, *pumps):
                task.cancel()
            await asyncio.gather(feed, *pumps, return_exceptions=True)

    async def _feed(self, process, child) -> None:
        first = b""
        while part := await process.stdin.read(65536):
            if not first:
                first = part.split(b"\n", 1)[0]
                self.first_lines.append(first.decode(errors="replace"))
            child.stdin.write(part)
            await child.stdin.drain()
        child.stdin.close()

    @staticmethod
    async def _pump(source, sink) -> None:
        while part := await source.read(65536):
            sink.write(part)
