"""The SSH wire, on paramiko: one connection a node and task, scripts over standard input, answers in JSON.

What the scripts say is in domain/shell.py, who is trusted by its host key in clients/hostkeys.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import SecretStr

from stackwright.clients.fetching import PACKET, Fetched
from stackwright.clients.fetching import WINDOW as FETCH_WINDOW
from stackwright.clients.hostkeys import HostKeys
from stackwright.clients.trips import Trip, trip
from stackwright.domain import shell
from stackwright.domain.errors import (
    FencedError,
    HostKeyError,
    LoginRefusedError,
    NodeUnreachableError,
    RemoteStepError,
)
from stackwright.domain.shell import Batch, NodeBusyError, Section, StepOutcome
from stackwright.domain.spec import Node, Ssh

log = logging.getLogger(__name__)

# The library logs what it also raises, with tracebacks; our errors say it once.
WIRE_LOG = logging.getLogger(f"{__name__}.wire")
WIRE_LOG.setLevel(logging.CRITICAL)
CHUNK = 1 << 18
WINDOW = 1 << 22  # bytes in flight: one artifact must not wait for a window at every round trip
SILENCE_S = 60  # a link that swallows packets is given up after this
READ_S = 60.0
QUICK_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""Asked for first: sums need no pass of their own, which halves the work for a file of gigabytes."""
REKEY_BYTES = 1 << 36
"""OpenSSH's own measure for AES. The library's, half a gibibyte, leaves a link hanging when a file ends just there."""
NOT_FETCHED = 43


class StepTimeoutError(RemoteStepError):
    """A script did not end within its limit. It may still be at work: the node's lock keeps the next one waiting."""

    remedy = "Look on the node at what the step waits for; the next run looks first and then continues."


class NodeShell(Protocol):
    """One open connection to a node."""

    round_trips: int
    """Scripts sent so far."""

    def read(self, script: str, timeout_s: float = READ_S) -> dict[str, Section]:
        """Run a reading script and return its sections."""
        ...

    def apply(self, batch: Batch, timeout_s: float | None = None) -> list[StepOutcome]:
        """Run a batch. Raises RemoteStepError at its first failing step, FencedError when another run took over."""
        ...

    def put(self, local: Path, remote: str, mode: int = 0o644) -> bool:
        """Bring a file to the node and tell whether it was sent; an equal one is left alone."""
        ...

    def fetch(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Read a file of the node as a stream, one that only root may read too. One at a time on a connection.

        Its end is seen only when the node has given it to its end: a file that is not there or vanishes raises
        RemoteStepError, a lost link NodeUnreachableError.
        """
        ...


class Shells(Protocol):
    """How to reach the nodes of one site."""

    def open(self, node: Node) -> AbstractContextManager[NodeShell]:
        """Connect to a node for as long as the context lasts."""
        ...


class SshShells:
    """The nodes of one site by SSH, with one key. Nothing is connected before `open`."""

    def __init__(self, ssh: Ssh, key: SecretStr, known_hosts: Path, passphrase: SecretStr | None = None) -> None:
        self._ssh = ssh
        self._secret, self._passphrase = key, passphrase
        self._key: paramiko.PKey | None = None
        self._lock = threading.Lock()
        self._host_keys = HostKeys(known_hosts, accept_new=ssh.host_keys == "accept-new")

    @contextmanager
    def open(self, node: Node) -> Iterator[NodeShell]:
        """Connect, check the host key, log in. Raises NodeUnreachableError, HostKeyError, LoginRefusedError."""
        with trip("ssh", "connect", node.name):
            transport = self._connect(node)
        try:
            yield SshNodeShell(node, transport, sudo=self._ssh.user != "root", wait_s=self._ssh.connect_timeout_s)
        finally:
            _close(transport)

    def _private_key(self) -> paramiko.PKey:
        with self._lock:
            if self._key is None:
                self._key = read_key(self._secret, self._passphrase)
            return self._key

    def _connect(self, node: Node) -> paramiko.Transport:
        key = self._private_key()
        seen = ""
        for types in self._host_keys.orders(node):
            transport = self._greet(node, types)
            if transport is None:
                continue
            try:
                seen = self._host_keys.check(node, transport.get_remote_server_key())
                if not seen:
                    self._log_in(node, transport, key)
                    return transport
            except BaseException:
                _close(transport)
                raise
            _close(transport)
        raise HostKeyError(
            "the host key is not the expected one",
            where=node.name,
            wanted=self._host_keys.wanted(node),
            seen=seen or "no key of that type",
        )

    def _greet(self, node: Node, types: tuple[str, ...]) -> paramiko.Transport | None:
        """Open the TCP connection and exchange keys; None when the node has no key of these types."""
        limit = self._ssh.connect_timeout_s
        try:
            link = socket.create_connection((node.address, node.port), timeout=limit)
        except OSError as error:
            raise _unreachable(node, "does not answer on its SSH port", error) from error
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)
        transport = paramiko.Transport(link, default_window_size=WINDOW)
        transport.daemon = True
        transport.packetizer.REKEY_BYTES = REKEY_BYTES
        transport.set_log_channel(WIRE_LOG.name)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = limit
        transport.channel_timeout = limit
        options = transport.get_security_options()
        quick = tuple(name for name in QUICK_CIPHERS if name in options.ciphers)
        options.ciphers = (*quick, *(name for name in options.ciphers if name not in quick))
        if types:
            options.key_types = types
        try:
            transport.start_client(timeout=limit)
            transport.get_remote_server_key()  # raises when the limit ended the wait for the key exchange
        except paramiko.ssh_exception.IncompatiblePeer as error:
            _close(transport)
            if types:
                return None
            raise _unreachable(node, "answers, but no SSH session can be agreed on", error) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            _close(transport)
            raise _unreachable(node, "answers, but no SSH session can be agreed on", error) from error
        transport.set_keepalive(15)
        return transport

    def _log_in(self, node: Node, transport: paramiko.Transport, key: paramiko.PKey) -> None:
        user = self._ssh.user
        try:
            left = transport.auth_publickey(user, key)
        except paramiko.AuthenticationException as error:
            if not transport.is_active():  # the node went down in the middle: that is no answer about the key
                raise NodeUnreachableError(
                    "the link was lost during the login", where=node.name, wanted="a login", seen=str(error)
                ) from error
            wanted = f"user {user} with key {key.fingerprint}"
            seen = "the key was refused"
            raise LoginRefusedError("the node refused the login", where=node.name, wanted=wanted, seen=seen) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _unreachable(node, "was lost while logging in", error) from error
        if left:
            seen = f"it also asks for {', '.join(left)}"
            raise LoginRefusedError("a key alone is not enough", where=node.name, wanted="key login", seen=seen)


def read_key(text: SecretStr, passphrase: SecretStr | None = None) -> paramiko.PKey:
    """Return a private key given as text (OpenSSH or PEM; ed25519, ecdsa, rsa). It never touches a file."""
    data = (text.get_secret_value().strip() + "\n").encode()
    word = passphrase.get_secret_value().encode() if passphrase and passphrase.get_secret_value() else None
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
            key = load(data, word)
            if isinstance(key, rsa.RSAPrivateKey):
                return paramiko.RSAKey(key=key)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return paramiko.ECDSAKey(vals=(key, key.public_key()))
            if isinstance(key, ed25519.Ed25519PrivateKey):
                return paramiko.Ed25519Key(file_obj=io.StringIO(_openssh(key)))
    remedy = "Put an ed25519, ecdsa or rsa private key into the SSH block, with its passphrase if it has one."
    # The cause is left out on purpose: parsers quote what they could not read.
    raise LoginRefusedError("the SSH key of the block cannot be read", where="SSH block", remedy=remedy) from None


def _openssh(key: ed25519.Ed25519PrivateKey) -> str:
    """Return a key as the library's only constructor for ed25519 takes it."""
    private, nothing = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, private, nothing).decode()


@dataclass
class _Finished:
    """What one exec request gave back. `status` is -1 when there was none."""

    status: int
    out: str
    err: str


class SshNodeShell:
    """Scripts on one node, over one connection. Not for several threads at once."""

    def __init__(self, node: Node, transport: paramiko.Transport, *, sudo: bool, wait_s: float) -> None:
        self._node, self._transport = node, transport
        self._prefix = "sudo -n " if sudo else ""
        self._wait_s = wait_s
        self.round_trips = 0

    def read(self, script: str, timeout_s: float = READ_S) -> dict[str, Section]:
        done = self._script(script, timeout_s)
        return shell.parse_read(done.out, self._node.name)

    def apply(self, batch: Batch, timeout_s: float | None = None) -> list[StepOutcome]:
        done = self._script(shell.change_script(batch), timeout_s or batch.timeout_s)
        answer = shell.parse_change(done.out, batch.secrets, self._node.name)
        where = self._node.name
        if answer.fenced_by is not None:
            raise FencedError(
                "a later run has taken over this node",
                where=where, wanted=f"fencing number {batch.fence}", seen=str(answer.fenced_by),
            )  # fmt: skip
        if answer.busy:
            raise NodeBusyError("another script still runs", where=where, wanted="the node's lock", seen="held")
        if answer.broken:
            raise RemoteStepError(
                f"the node's {answer.broken} file cannot be used",
                where=where, wanted=f"{shell.STATE} can be read and written", seen=shell.last_lines(done.err),
                remedy=f"Look for a full or read-only disk and at the files in {shell.STATE}, then start again.",
            )  # fmt: skip
        for outcome in answer.outcomes:
            if outcome.rc != 0:
                raise StepFailedError(
                    f"step {outcome.id} failed", where=where, wanted="exit code 0",
                    seen=f"exit code {outcome.rc}: {shell.last_lines(outcome.out) or 'no output'}", outcome=outcome,
                )  # fmt: skip
        if len(answer.outcomes) != len(batch.commands):
            done_ids = f"{len(answer.outcomes)} of {len(batch.commands)} steps"
            raise NodeUnreachableError(
                "the script broke off", where=where, wanted="an answer to each step", seen=done_ids
            )
        return list(answer.outcomes)

    def put(self, local: Path, remote: str, mode: int = 0o644) -> bool:
        digest = _sha256(local)
        script = _PUT.format(target=shell.quote(remote), digest=digest, mode=f"{mode:04o}")
        deadline = time.monotonic() + 60 + local.stat().st_size / (1 << 20)  # 1 MiB/s at the least
        command = f"{self._prefix}sh -c {shell.quote(script)}"
        with self._watched("put"), self._exec(command, self._wait_s) as channel:
            channel.settimeout(max(60.0, local.stat().st_size / (200 << 20)))  # the far side sums an equal file up
            try:
                word = channel.recv(16)
                if word.strip() == b"send":
                    _stream(local, channel, deadline)
                channel.shutdown_write()
                done = self._collect(channel, deadline)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise _unreachable(self._node, f"was lost while {local.name} was sent", error) from error
        if done.status != 0:
            seen = f"exit code {done.status}: {shell.last_lines(done.err)}"
            raise RemoteStepError(
                f"{remote} could not be written", where=self._node.name, wanted=digest[:16], seen=seen
            )
        return word.strip() == b"send"

    @contextmanager
    def fetch(self, path: str) -> Iterator[BinaryIO]:
        script = f"cat -- {shell.quote(path)} || exit {NOT_FETCHED}"

        def ended(status: int, said: str) -> None:
            if status == NOT_FETCHED:
                raise RemoteStepError(
                    f"{path} could not be read", where=self._node.name, wanted="the file to its end",
                    seen=shell.last_lines(said), remedy="Look at the file and its disk on the node.",
                )  # fmt: skip
            if status:
                self._explain(_Finished(status, "", said))

        def lost(error: BaseException | None) -> NodeUnreachableError:
            return _unreachable(self._node, f"was lost while {path} was read", error)

        command = f"{self._prefix}sh -c {shell.quote(script)}"
        with (
            self._watched("fetch"),
            self._exec(command, self._wait_s, window_size=FETCH_WINDOW, max_packet_size=PACKET) as channel,
        ):
            yield cast(BinaryIO, io.BufferedReader(Fetched(channel, ended, lost), CHUNK))

    def _script(self, script: str, timeout_s: float) -> _Finished:
        """Send one script, wait for its end, and make sure that it ran at all."""
        with self._watched("script"):
            return self._run(script, timeout_s)

    def _run(self, script: str, timeout_s: float) -> _Finished:
        deadline = time.monotonic() + timeout_s
        with self._exec(f"{self._prefix}sh -s", self._wait_s) as channel:
            try:
                channel.settimeout(timeout_s)
                # A shell that refuses to start (sudo) closes its end while we send: its answer is read all the same.
                with contextlib.suppress(socket.error, EOFError):
                    channel.sendall(script.encode())
                    channel.shutdown_write()
                done = self._collect(channel, deadline)
            except TimeoutError as error:
                seen = f"nothing after {timeout_s:.0f} s"
                raise StepTimeoutError(
                    "a script did not end", where=self._node.name, wanted="its end", seen=seen
                ) from error
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise _unreachable(self._node, "was lost in the middle of a script", error) from error
        if shell.greeted(done.out):
            if done.status < 0:
                raise _unreachable(self._node, "was lost in the middle of a script", None)
            return done
        self._explain(done)
        return done

    def _explain(self, done: _Finished) -> None:
        """Raise what fits a script that did not begin to run."""
        if done.status < 0:
            raise _unreachable(self._node, "was lost before the script began", None)
        seen = shell.last_lines(done.err or done.out) or f"exit code {done.status}"
        if self._prefix:
            raise LoginRefusedError(
                "sudo does not let the user run a shell",
                where=self._node.name,
                wanted="sudo without a password",
                seen=seen,
            )
        remedy = "Let the login user have a POSIX shell, and no ForceCommand in sshd_config."
        raise LoginRefusedError(
            "the login does not run commands", where=self._node.name, wanted="sh -s", seen=seen, remedy=remedy
        )

    def _watched(self, call: str) -> AbstractContextManager[Trip]:
        return trip("ssh", call, self._node.name)

    @contextmanager
    def _exec(
        self, command: str, timeout_s: float, *, window_size: int | None = None, max_packet_size: int | None = None
    ) -> Iterator[paramiko.Channel]:
        self.round_trips += 1
        try:
            channel = self._transport.open_session(window_size, max_packet_size, timeout=timeout_s)
            channel.settimeout(timeout_s)
            channel.exec_command(command)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise _unreachable(self._node, "was lost before a script could be sent", error) from error
        try:
            yield channel
        finally:
            channel.close()

    def _collect(self, channel: paramiko.Channel, deadline: float) -> _Finished:
        """Read both outputs to their end. Raises TimeoutError."""
        out: list[bytes] = []
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
            part = channel.recv(CHUNK)
            if not part:
                break
            out.append(part)
        err = b""
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(CHUNK)
        if not channel.status_event.wait(max(0.1, deadline - time.monotonic())):
            raise TimeoutError
        status = channel.exit_status if self._transport.is_active() or channel.exit_status >= 0 else -1
        return _Finished(status, b"".join(out).decode("utf-8", "replace"), err.decode("utf-8", "replace"))


class StepFailedError(RemoteStepError):
    """One step of a batch failed; `outcome` has its exit code and the end of its output."""

    def __init__(self, what: str, *, where: str, wanted: str, seen: str, outcome: StepOutcome) -> None:
        self.outcome = outcome
        super().__init__(what, where=where, wanted=wanted, seen=seen)


# The header is the first line of the command itself: standard input carries the file.
_PUT = """# stackwright-step: put
t={target}
if [ -f "$t" ] && [ "$(sha256sum <"$t")" = "{digest}  -" ]; then echo same; chmod {mode} "$t"; exit; fi
mkdir -p "${{t%/*}}" || exit
trap 'rm -f "$t.stackwright-new"' EXIT
echo send
rm -f "$t.stackwright-new"; ( umask 077; : >"$t.stackwright-new" ) && chmod {mode} "$t.stackwright-new" || exit
cat >"$t.stackwright-new" || exit
if [ "$(sha256sum <"$t.stackwright-new")" != "{digest}  -" ]; then echo 'the checksum differs' >&2; exit 1; fi
mv -f "$t.stackwright-new" "$t"
"""


def _stream(local: Path, channel: paramiko.Channel, deadline: float) -> None:
    with local.open("rb") as source:
        while part := source.read(CHUNK):
            if time.monotonic() > deadline:
                raise TimeoutError
            channel.sendall(part)


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _close(transport: paramiko.Transport) -> None:
    """Close at once: the library's own close waits for its reading thread's next look."""
    with contextlib.suppress(OSError):
        transport.sock.shutdown(socket.SHUT_RDWR)
    transport.close()


def _unreachable(node: Node, what: str, error: BaseException | None) -> NodeUnreachableError:
    seen = "the connection was closed" if error is None else f"{type(error).__name__}: {error}".rstrip(": ")
    return NodeUnreachableError(
        f"the node {what}", where=node.name, wanted=f"SSH at {node.address}:{node.port}", seen=seen
    )
