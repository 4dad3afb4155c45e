"""A machine's SSH server: the real protocol (asyncssh), public keys only, commands run in the machine's namespaces.

Product scripts come on standard input and begin with `# stackwright-step: <ids>`; that line makes a journal entry and
is where faults strike. sudo of a user other than root is carried out here too: only here can it get root's namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh

from stackwright.lab.faults import When
from stackwright.lab.journal import Entry

if TYPE_CHECKING:
    from stackwright.lab.nodes import LabNodes, Machine

STEP_LINE = re.compile(rb"^# stackwright-step: (\S.*)$")
NODE_JOURNAL = "/var/lib/stackwright/journal"
CHUNK = 1 << 16
WATCH_S = 0.003
SUDO_ASKS = "sudo: a password is required\n"
SUDO_NO_TERMINAL = (
    "sudo: a terminal is required to read the password; either use the -S option to read from standard input or "
    "configure an askpass helper\nsudo: a password is required\n"
)


class LinkCutError(Exception):
    """The link of this session was cut by a fault."""


def ensure_host_key(folder: Path) -> None:
    """Make the machine's host key once: host_key (0600) and host_key.pub below its folder."""
    path = folder / "host_key"
    if not path.exists():
        key = asyncssh.generate_private_key("ssh-ed25519")
        (folder / "host_key.pub").write_bytes(key.export_public_key())
        path.touch(mode=0o600)
        path.write_bytes(key.export_private_key())


class NodeSshServer:
    """Serves one machine at its address; can be stopped and started again, as the machine's power is."""

    def __init__(self, machine: Machine, nodes: LabNodes) -> None:
        self.machine = machine
        self.nodes = nodes
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.sessions: dict[asyncio.Task[None], Session] = {}
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def start(self) -> None:
        """Listen at the machine's address."""
        if self._acceptor is not None:
            return
        self._acceptor = await asyncssh.listen(
            self.machine.spec.address,
            self.machine.spec.ssh_port,
            server_factory=lambda: _Login(self),
            server_host_keys=[str(self.machine.folder / "host_key")],
            process_factory=self._handle,
            encoding=None,
            allow_scp=False,
            reuse_address=True,
            compression_algs=None,
            server_version="OpenSSH_9.6",
            line_editor=False,
            login_timeout=30,
        )

    async def stop(self) -> None:
        """Stop listening and cut every connection, as a power cut does."""
        if self._acceptor is None:
            return
        self._acceptor.close()
        await self._acceptor.wait_closed()
        self._acceptor = None
        for connection in [*self.connections]:
            connection.abort()
        for session in [*self.sessions]:
            session.cancel()
        await asyncio.gather(*self.sessions, return_exceptions=True)

    async def lose_link(self) -> None:
        """Stop listening and break every connection, as a network that is gone does; commands under way run on."""
        if self._acceptor is None:
            return
        self._acceptor.close()
        await self._acceptor.wait_closed()
        self._acceptor = None
        for session in self.sessions.values():
            session.cut.set()
        for connection in [*self.connections]:
            connection.abort()

    async def _handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        session = Session(self, process)
        task = asyncio.current_task()
        if task is not None:
            self.sessions[task] = session
            task.add_done_callback(lambda done: self.sessions.pop(done, None))
        try:
            await session.run()
        except LinkCutError:
            pass  # the connection is gone already
        except (OSError, asyncssh.Error):
            process.close()  # the client went away in the middle


class _Login(asyncssh.SSHServer):
    """Checks the keys that the machine's own authorized_keys files name."""

    def __init__(self, server: NodeSshServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._server.connections.discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        spec = self._server.machine.spec
        if username not in ("root", spec.user):
            return False
        home = "/root" if username == "root" else f"/home/{username}"
        wanted = key.export_public_key().split()[1].decode()
        lines = self._server.machine.read(f"{home}/.ssh/authorized_keys").splitlines()
        return any(wanted in line.split() for line in lines if not line.startswith("#"))


class Session:
    """One exec request: the command, its pipes, its journal entry and its faults."""

    def __init__(self, server: NodeSshServer, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self._server = server
        self._machine = server.machine
        self._faults = server.nodes.faults
        self._process = process
        self._user: str = process.get_extra_info("username")
        self._entry: Entry | None = None
        self._begun_at = 0  # where this script's lines begin in the machine's journal
        self.cut = asyncio.Event()

    async def run(self) -> None:
        """Carry the request out and send its exit status."""
        command = self._process.command
        if not command:
            self._process.stderr.write(b"This account offers no interactive shell in the lab.\n")
            self._process.exit(1)
            return
        user = self._user
        if user != "root":
            user, command, refusal = self._sudo(command)
            if refusal is not None:
                self._process.stderr.write(refusal.encode())
                self._process.exit(1)
                return
        first = await self._first_line(command)
        await self._announce(first)
        child = await asyncio.create_subprocess_exec(
            *self._machine.argv(["/bin/bash", "-c", command], user=user, env=dict(self._environment())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        await self._serve(child, first)

    def _environment(self) -> list[tuple[str, str]]:
        peer, port = self._process.get_extra_info("peername")[:2]
        return [("SSH_CONNECTION", f"{peer} {port} {self._machine.spec.address} {self._machine.spec.ssh_port}")]

    async def _serve(self, child: asyncio.subprocess.Process, first: bytes) -> None:
        if child.stdin is None or child.stdout is None or child.stderr is None:
            raise RuntimeError("pipes were asked for")
        feed = asyncio.create_task(self._feed(child, child.stdin, first))
        watch = asyncio.create_task(self._watch_inside())
        pumps = asyncio.gather(
            self._pump(child.stdout, self._process.stdout), self._pump(child.stderr, self._process.stderr)
        )
        try:
            # A cut link does not end the command: sshd lets it run on, and nobody hears how it ended.
            await pumps
            code = await child.wait()
            if not self.cut.is_set():
                await self._strike_ended()
                self._send_status(code)
        except asyncio.CancelledError:
            _kill_group(child.pid, signal.SIGKILL)
            await child.wait()
            raise
        finally:
            for task in (feed, watch, pumps):
                task.cancel()
            await asyncio.gather(feed, watch, pumps, return_exceptions=True)

    def _send_status(self, code: int) -> None:
        if code < 0:
            self._process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"), False, "", "")
        else:
            self._process.exit(code)

    async def _first_line(self, command: str) -> bytes:
        """Read the first line of a script that a shell is to read from standard input; nothing for other commands."""
        if not re.search(r"(^|[ /])(ba)?sh (-[a-z]+ )*-[a-z]*s\b", command):
            return b""
        seen = b""
        while b"\n" not in seen and len(seen) < CHUNK:
            part = await self._process.stdin.read(CHUNK)
            if not part:
                break
            seen += part
        return seen

    async def _announce(self, first: bytes) -> None:
        found = STEP_LINE.match(first.split(b"\n", 1)[0].strip())
        if found:
            steps = ",".join(found.group(1).decode(errors="replace").replace(",", " ").split())
            self._entry = self._server.nodes.journal.record("ssh", self._machine.name, steps)
            self._faults.sent.update(steps.split(","))
            await self._strike("before")
            await self._strike("before", steps.split(",")[0])
            path = self._machine.path(NODE_JOURNAL)
            self._begun_at = path.stat().st_size if path.exists() else 0

    async def _strike_ended(self) -> None:
        """Let strike what waits for the end of the script: of its last step, and of all of it."""
        if self._entry is not None:
            await self._strike("after", self._entry.action.rpartition(",")[2])
            await self._strike("after")

    async def _strike(self, when: When, step: str = "") -> None:
        """Let the faults of this moment strike. Raises LinkCutError when the link is cut or the machine dies."""
        entry = self._entry
        if entry is None or self.cut.is_set():
            return
        if await self._server.nodes.befall(when, entry, step):
            await self.cut.wait()  # until the link is gone, or this session with its machine
            if when != "inside":
                raise LinkCutError
            return
        killed = self._faults.kill_at(when, entry, step)
        cut = self._faults.take("cut", when, entry, step)
        if killed or cut is not None:
            self.cut.set()
            self._process.channel.get_connection().abort()
            if when != "inside":
                raise LinkCutError

    async def _watch_inside(self) -> None:
        """Strike what waits for a step of the script to begin or to end, as the script writes it."""
        entry = self._entry
        if entry is None:
            return
        steps, seen = entry.action.split(","), 0
        while not self.cut.is_set() and self._faults.watches(entry, steps):
            lines = self._written()
            for word, step in lines[seen:]:
                if word == "begin" and not seen:
                    await self._strike("inside")
                if word == "begin":
                    await self._strike("inside", step)
                elif step != steps[-1]:  # the end of the last is the end of the script
                    await self._strike("after", step)
                seen += 1
            await asyncio.sleep(WATCH_S)

    def _written(self) -> list[tuple[str, str]]:
        """Return what the script has written into the machine's journal: (begin or end, step)."""
        path = self._machine.path(NODE_JOURNAL)
        if not path.exists() or path.stat().st_size <= self._begun_at:
            return []
        with path.open("rb") as source:
            source.seek(self._begun_at)
            whole = source.read().rpartition(b"\n")[0]
        words = [line.split() for line in whole.decode(errors="replace").splitlines()]
        return [(word[0], word[1]) for word in words if len(word) > 1 and word[0] in ("begin", "end")]

    async def _feed(self, child: asyncio.subprocess.Process, sink: asyncio.StreamWriter, first: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if first:
                sink.write(first)
                await sink.drain()
            while True:
                try:
                    part = await self._process.stdin.read(CHUNK)
                except asyncssh.SignalReceived as received:
                    _kill_group(child.pid, getattr(signal, f"SIG{received.signal}", signal.SIGTERM))
                    continue
                except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
                    continue
                if not part:
                    break
                sink.write(part)
                await sink.drain()
        sink.close()

    @staticmethod
    async def _pump(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
        lost = False
        while part := await source.read(CHUNK):
            if lost:
                continue  # the client is gone, the command goes on: it must not block on a full pipe
            try:
                sink.write(part)
                await sink.drain()
            except (OSError, asyncssh.Error):
                lost = True

    def _sudo(self, command: str) -> tuple[str, str, str | None]:
        """Take a leading sudo off a command: (user to run as, command, refusal)."""
        found = re.match(r"\s*(?:/usr/bin/)?sudo(?=\s|$)", command)
        if not found:
            return self._user, command, None
        rest = command[found.end() :].lstrip()
        asks, reads = True, False
        while True:
            option = re.match(r"(--|-n|-S|-E|-H|-v|-u\s+\S+|-p\s+(?:''|\"\"|\S+)|-\S+)(?:\s+|$)", rest)
            if not option:
                break
            word, rest = option.group(1), rest[option.end() :]
            asks, reads = asks and word != "-n", reads or word == "-S"
            if word == "--":
                break
            if word == "-v" and not rest:
                rest = "true"
            elif word[:2] not in ("-n", "-S", "-E", "-H", "-v", "-u", "-p"):
                return "", "", f"sudo: invalid option -- '{word.lstrip('-')[:1]}'\nusage: sudo -h | -K | -k | -V\n"
        if not self._may_sudo():
            return "", "", SUDO_ASKS if reads or not asks else SUDO_NO_TERMINAL
        if not rest:
            return "", "", "usage: sudo -h | -K | -k | -V\n"
        # What follows sudo is one simple command to its end or first operator; operators belong to the user's shell.
        if _has_operator(rest):
            return "root", f"exec {rest}" if "\n" not in rest else rest, None
        return "root", f"exec {rest}", None

    def _may_sudo(self) -> bool:
        folder = self._machine.path("/etc/sudoers.d")
        rules = "\n".join(path.read_text() for path in sorted(folder.glob("*")) if path.is_file())
        return re.search(rf"^{re.escape(self._user)}\s+ALL=.*NOPASSWD:\s*ALL", rules, re.M) is not None


def _has_operator(command: str) -> bool:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return any(token and set(token) <= set("();<>|&") for token in lexer)


def _kill_group(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signum)
