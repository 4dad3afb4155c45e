"""What the SSH client promises: measured on a machine of the lab always, on a live host when one is given.

A live host is named by STACKWRIGHT_LIVE_SSH=user@host:port, its login key's file by STACKWRIGHT_LIVE_SSH_KEY. The
client's state is kept in a folder of the test's own below /tmp there, removed afterwards: the host's own fence is not
touched.
"""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from stackwright.clients.ssh import SshShells, StepFailedError, StepTimeoutError
from stackwright.domain import shell
from stackwright.domain.errors import (
    FencedError,
    HostKeyError,
    LoginRefusedError,
    NodeUnreachableError,
    RemoteStepError,
)
from stackwright.domain.shell import Batch, Command, read_script, run_section, shell_section
from stackwright.domain.spec import Node, Ssh
from stackwright.lab.secrets_made import ssh_key_pair
from tests.lab.conftest import running

LIVE = os.environ.get("STACKWRIGHT_LIVE_SSH", "")
PLANTED = "planted-s3cret-42"


@dataclass
class Host:
    """A host that can be logged in to. `scratch` is a folder there."""

    node: Node
    user: str
    key: SecretStr
    known: Path
    scratch: str = ""

    def shells(self, *, known=None, key=None, host_keys="accept-new"):
        ssh = Ssh(user=self.user, connect_timeout_s=10, host_keys=host_keys)
        return SshShells(ssh, SecretStr(key) if key else self.key, known or self.known)

    def open(self):
        return self.shells().open(self.node)

    def there(self, body):
        """Return what some shell lines print on the host."""
        with self.open() as node:
            return node.read(read_script(shell_section("there", body)))["there"].out


@pytest.fixture(scope="module")
def lab_host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssh")
    with running(folder, [{"name": "n1"}], 200.0) as lab:
        spec = lab.nodes["n1"].spec
        pin = lab.nodes.host_keys["n1"]
        node = Node(name="n1", address=spec.address, port=spec.ssh_port, roles=("worker",), host_key=pin)
        yield Host(node, "root", SecretStr((folder / "key").read_text()), folder / "known" / "hosts")


def live_host(folder):
    user, _, place = LIVE.rpartition("@")
    address, _, port = place.rpartition(":")
    node = Node(name="live", address=address, port=int(port), roles=("worker",))
    key = Path(os.environ["STACKWRIGHT_LIVE_SSH_KEY"]).read_text()
    return Host(node, user or "root", SecretStr(key), folder / "known" / "hosts")


@pytest.fixture(params=["stand-in", *(["live"] if LIVE else [])])
def host(request, tmp_path, monkeypatch):
    """A host with an empty scratch folder, where changing scripts keep their state."""
    found = live_host(tmp_path) if request.param == "live" else request.getfixturevalue("lab_host")
    found.scratch = f"/tmp/stackwright-contract-{uuid.uuid4().hex[:8]}"
    found.there(f"mkdir -m 700 {found.scratch}")
    change, state = shell.change_script, f"{found.scratch}/state"
    monkeypatch.setattr(shell, "change_script", lambda batch: change(batch, state=state, scratch=found.scratch))
    yield found
    found.there(f"rm -rf {found.scratch}")


def batch(*bodies, fence=1, **more):
    commands = tuple(Command(f"contract/{index}", "f" * 8, body, **more) for index, body in enumerate(bodies))
    return Batch(commands, fence, "run")


def test_words_arrive_as_they_were_given(host):
    """Nothing is expanded on the way; a script is one round trip; what is absent is told from what is empty."""
    script = read_script(run_section("hello", "echo", "it's", "$HOME; rm -rf x") + shell_section("who", "id -u"))
    with host.open() as node:
        seen = node.read(script)
        assert node.round_trips == 1
    assert seen["hello"].out == "it's $HOME; rm -rf x\n"
    assert seen["who"].out == "0\n", "scripts run as root, with sudo where the login is another user"


def test_a_batch_stops_at_its_first_failing_step(host):
    """The error has the step's name and last lines without the secret; the journal on the host says how far it came."""
    failing = 'echo "code $code"; false; echo never'
    bodies = ("echo fine; cat", failing, f"touch {host.scratch}/later")
    with host.open() as node, pytest.raises(StepFailedError) as caught:
        node.apply(batch(*bodies, secrets={"code": SecretStr(PLANTED)}))
    assert "contract/1" in caught.value.what and "code ***" in caught.value.seen
    assert PLANTED not in f"{caught.value}{caught.value.outcome}"
    assert host.there(f"ls {host.scratch}/later 2>/dev/null || :") == ""
    assert host.there(f"cat {host.scratch}/state/journal").splitlines() == [
        "begin contract/0 ffffffff run",
        "end contract/0 0",
        "begin contract/1 ffffffff run",
        "end contract/1 1",
    ]


def test_a_run_that_was_overtaken_changes_nothing(host):
    """The host remembers the largest fencing number across connections."""
    with host.open() as node:
        assert [done.out for done in node.apply(batch("echo one", fence=7))] == ["one\n"]
    with host.open() as node, pytest.raises(FencedError) as caught:
        node.apply(batch(f"touch {host.scratch}/late", fence=6))
    assert caught.value.seen == "7"
    assert host.there(f"ls {host.scratch}/late 2>/dev/null || :") == ""


def test_a_file_is_sent_once(host, tmp_path):
    """Whole and with its mode; an equal one is left alone, another one is replaced."""
    local, remote = tmp_path / "artifact", f"{host.scratch}/deep/er/artifact 'x'"
    quoted = shell.quote(remote)
    local.write_bytes(os.urandom(1 << 20))
    with host.open() as node:
        assert node.put(local, remote, 0o640) is True
        assert node.put(local, remote, 0o640) is False
        local.write_bytes(b"")
        small = node.put(local, f"{host.scratch}/empty")
        local.write_bytes(b"changed\n")
        assert small is True and node.put(local, remote, 0o600) is True
    digest = hashlib.sha256(b"changed\n").hexdigest()
    assert host.there(f"sha256sum <{quoted}; stat -c %a {quoted}; ls {host.scratch}/deep/er | wc -l").split() == [
        digest, "-", "600", "1",
    ]  # fmt: skip


def test_a_file_that_only_root_may_read_is_fetched(host):
    """Whole; one that is not there is told from an empty one."""
    there = f"{host.scratch}/only root's"
    file = shell.quote(there)
    digest = host.there(f"umask 077; head -c 3000000 /dev/urandom >{file}; sha256sum <{file}").split()[0]
    with host.open() as node:
        with node.fetch(there) as stream:
            assert hashlib.sha256(stream.read()).hexdigest() == digest
        with node.fetch(f"{host.scratch}/none") as stream, pytest.raises(RemoteStepError):
            stream.read()


def test_a_script_that_hangs_is_left_at_its_limit(host):
    """The next connection works; what hangs is not killed, so it may not be tried again blindly."""
    gate = f"{host.scratch}/gate"
    host.there(f"mkfifo {gate}")
    hang = read_script(shell_section("hang", f"read x <{gate}"))
    with host.open() as node, pytest.raises(StepTimeoutError) as caught:
        node.read(hang, timeout_s=0.5)
    assert not caught.value.transient
    host.there(f"timeout 5 sh -c 'echo go >{gate}' || :")


def test_a_strangers_key_is_refused(host):
    stranger, _ = ssh_key_pair()
    with pytest.raises(LoginRefusedError) as caught, host.shells(key=stranger).open(host.node):
        pass
    assert f"user {host.user}" in caught.value.wanted and not caught.value.transient
    assert not any(line in str(caught.value) for line in stranger.splitlines()[1:-1])


def test_another_host_key_than_the_pinned_one_is_refused(host):
    """Nothing is sent to a host that cannot show the pinned key, not even the login."""
    _, other = ssh_key_pair()
    node = host.node.model_copy(update={"host_key": " ".join(other.split()[:2])})
    with pytest.raises(HostKeyError) as caught, host.shells(host_keys="pinned").open(node):
        pass
    assert "SHA256:" in caught.value.wanted and not caught.value.transient


def test_a_key_seen_first_is_remembered_and_then_demanded(host, tmp_path):
    """`accept-new` takes the first key; `pinned` takes none that it does not know; a changed one is always refused."""
    known = tmp_path / "known-here"
    node = host.node.model_copy(update={"host_key": None})
    with pytest.raises(HostKeyError), host.shells(known=known, host_keys="pinned").open(node):
        pass
    with host.shells(known=known).open(node):
        place, kind, _ = known.read_text().split()
    with host.shells(known=known, host_keys="pinned").open(node) as again:
        assert again.read(read_script(run_section("hello", "echo", "hi")))["hello"].out == "hi\n"
    _, other = ssh_key_pair()
    known.write_text(f"{place} {' '.join(other.split()[:2])}\n")
    with pytest.raises(HostKeyError), host.shells(known=known).open(node):
        pass
    assert kind in {"ssh-ed25519", "ssh-rsa"} or kind.startswith("ecdsa-")


def test_a_port_where_nobody_listens_is_worth_another_try(host):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        node = host.node.model_copy(update={"address": "127.0.0.1", "port": held.getsockname()[1]})
        with pytest.raises(NodeUnreachableError) as caught, host.shells().open(node):
            pass
    assert caught.value.transient
