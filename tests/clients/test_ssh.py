"""What the SSH client promises: one connection, verified host keys, one round trip a script, errors a person can act
on."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time

import asyncssh
import pytest
from pydantic import SecretStr

from stackwright.clients.ssh import (
    QUICK_CIPHERS,
    SshShells,
    StepFailedError,
    StepTimeoutError,
    read_key,
)
from stackwright.domain import shell
from stackwright.domain.errors import (
    FencedError,
    HostKeyError,
    LoginRefusedError,
    NodeUnreachableError,
    RemoteStepError,
)
from stackwright.domain.shell import Batch, Command, NodeBusyError, read_script, run_section, shell_section
from stackwright.domain.spec import Node, Ssh
from tests.clients.sshd import SmallSshd

HELLO = read_script(run_section("hello", "echo", "it's", "$HOME; rm -rf x"))


@pytest.fixture
def sshd(tmp_path):
    with SmallSshd(tmp_path) as server:
        yield server


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Let changing scripts keep fence and journal in a folder of the test's own."""
    folder = tmp_path / "state"
    change = shell.change_script
    monkeypatch.setattr(shell, "change_script", lambda batch: change(batch, state=str(folder), scratch=str(tmp_path)))
    return folder


def node_of(sshd, host_key="pinned"):
    pin = sshd.host_line if host_key == "pinned" else host_key
    return Node(name="n1", address="127.0.0.1", port=sshd.port, roles=("worker",), host_key=pin)


def shells_of(sshd, tmp_path, **ssh):
    return SshShells(Ssh(connect_timeout_s=5, **ssh), SecretStr(sshd.private_key), tmp_path / "known" / "hosts")


def batch(*bodies, fence=1, **more):
    commands = tuple(Command(f"node/n1/{index}", "f" * 8, body, **more) for index, body in enumerate(bodies))
    return Batch(commands, fence, "run")


def test_several_scripts_take_one_connection_and_one_round_trip_each(sshd, tmp_path, state):
    """Words are quoted once; the first line tells reading from changing."""
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node:
        assert node.read(HELLO)["hello"].out == "it's $HOME; rm -rf x\n"
        assert [outcome.out for outcome in node.apply(batch("echo one", "echo two; cat"))] == ["one\n", "two\n"]
        assert node.round_trips == 2
    assert sshd.connections == 1
    assert sshd.first_lines == ["# stackwright-read", "# stackwright-step: node/n1/0,node/n1/1"]
    assert sshd.commands == ["sh -s", "sh -s"]


def test_a_batch_stops_at_its_first_failing_step(sshd, tmp_path, state):
    """The failing step is named with its last lines, without secrets; what came after did not run; the journal says
    so."""
    secret = SecretStr("planted-secret")
    failing = 'echo "code $code"; false; echo never'
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node, pytest.raises(StepFailedError) as caught:
        node.apply(batch("echo fine", failing, f"touch {tmp_path}/later", secrets={"code": secret}))
    assert "node/n1/1" in str(caught.value) and "code ***" in str(caught.value)
    assert "planted-secret" not in str(caught.value)
    assert not (tmp_path / "later").exists()
    lines = (state / "journal").read_text().splitlines()
    assert lines == [
        "begin node/n1/0 ffffffff run",
        "end node/n1/0 0",
        "begin node/n1/1 ffffffff run",
        "end node/n1/1 1",
    ]


def test_a_smaller_number_is_fenced(sshd, tmp_path, state):
    """A node that has seen number 7 refuses 6 and changes nothing."""
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node:
        node.apply(batch("true", fence=7))
        with pytest.raises(FencedError) as caught:
            node.apply(batch(f"touch {tmp_path}/late", fence=6))
    assert "7" in caught.value.seen
    assert not (tmp_path / "late").exists()


def test_a_node_where_a_script_still_runs_is_busy(sshd, tmp_path, state, monkeypatch):
    """A script of a lost link keeps the node's lock; the next one waits, then says so."""
    monkeypatch.setattr(shell, "LOCK_WAIT_S", 0)
    holder = batch(f"mkfifo {tmp_path}/gate; read x <{tmp_path}/gate")
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node:
        first = threading.Thread(target=node.apply, args=(holder,))
        first.start()
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "gate").exists():
                assert time.monotonic() < deadline
            with shells_of(sshd, tmp_path).open(node_of(sshd)) as other, pytest.raises(NodeBusyError) as caught:
                other.apply(batch("true"))
            assert caught.value.transient
        finally:
            (tmp_path / "gate").write_text("go\n")
            first.join()


def test_a_command_cannot_eat_the_script(sshd, tmp_path, state):
    """Steps see an empty standard input; what follows them runs all the same."""
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node:
        assert [done.rc for done in node.apply(batch("cat", "read x || :; wc -c", "echo end"))] == [0, 0, 0]


def test_a_script_that_hangs_is_left_at_its_limit(sshd, tmp_path):
    """The limit holds although the server answers; the error says how long was waited."""
    hang = read_script(shell_section("hang", f"mkfifo {tmp_path}/never; read x <{tmp_path}/never"))
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node, pytest.raises(StepTimeoutError) as caught:
        node.read(hang, timeout_s=0.3)
    assert not caught.value.transient
    (tmp_path / "never").write_text("go\n")


def test_a_lost_link_is_transient(sshd, tmp_path, state):
    """The connection breaks after the script ran and before its exit code: nothing is taken for done or failed."""
    sshd.cut_after_command = True
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node, pytest.raises(NodeUnreachableError) as caught:
        node.apply(batch("echo done"))
    assert caught.value.transient
    assert "lost" in caught.value.what


def test_a_port_where_nobody_listens_is_unreachable(sshd, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    node = node_of(sshd).model_copy(update={"port": port})
    with pytest.raises(NodeUnreachableError) as caught, shells_of(sshd, tmp_path).open(node):
        pass
    assert f"127.0.0.1:{port}" in caught.value.wanted


def test_a_server_that_never_speaks_is_left_at_the_limit(sshd, tmp_path):
    """TCP answers, SSH does not: the banner has a limit of its own."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        node = node_of(sshd).model_copy(update={"port": mute.getsockname()[1]})
        shells = SshShells(Ssh(connect_timeout_s=0.3), SecretStr(sshd.private_key), tmp_path / "hosts")
        with pytest.raises(NodeUnreachableError), shells.open(node):
            pass


def test_an_unknown_host_key_is_refused_where_keys_are_pinned(sshd, tmp_path):
    with pytest.raises(HostKeyError) as caught, shells_of(sshd, tmp_path).open(node_of(sshd, host_key=None)):
        pass
    assert sshd.fingerprint in caught.value.seen
    assert "none is" in caught.value.wanted


@pytest.mark.parametrize("form", ["line", "fingerprint"])
def test_another_host_key_than_the_pinned_one_is_refused_with_both_fingerprints(sshd, tmp_path, form):
    other = asyncssh.generate_private_key("ssh-ed25519")
    pin = other.export_public_key().decode().strip() if form == "line" else other.get_fingerprint()
    with pytest.raises(HostKeyError) as caught, shells_of(sshd, tmp_path).open(node_of(sshd, host_key=pin)):
        pass
    assert other.get_fingerprint() in caught.value.wanted
    assert "SHA256:" in caught.value.seen


def test_a_fingerprint_of_any_key_type_can_be_pinned(tmp_path):
    """The host offers ed25519 first; the pinned fingerprint is of its RSA key."""
    server = SmallSshd(tmp_path)
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    server.more_host_keys.append(rsa)
    with server, shells_of(server, tmp_path).open(node_of(server, host_key=rsa.get_fingerprint())) as node:
        assert node.read(HELLO)["hello"].rc == 0


def test_accept_new_remembers_and_then_refuses_another_key(sshd, tmp_path):
    """The first sight is remembered in the site's own file; a changed key is refused for ever."""
    shells = shells_of(sshd, tmp_path, host_keys="accept-new")
    with shells.open(node_of(sshd, host_key=None)) as node:
        node.read(HELLO)
    kept = (tmp_path / "known" / "hosts").read_text()
    assert kept == f"[127.0.0.1]:{sshd.port} {' '.join(sshd.host_line.split()[:2])}\n"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()
    (tmp_path / "known" / "hosts").write_text(f"[127.0.0.1]:{sshd.port} {other[0]} {other[1]}\n")
    with pytest.raises(HostKeyError), shells.open(node_of(sshd, host_key=None)):
        pass


def test_a_user_whose_sudo_asks_is_told_so(tmp_path):
    """sudo's own words are in the error, the remedy names the rule; no extra round trip was spent to find out."""
    with SmallSshd(tmp_path, user="ops", sudo="asks") as server:
        shells = shells_of(server, tmp_path, user="ops")
        with shells.open(node_of(server)) as node, pytest.raises(LoginRefusedError) as caught:
            node.read(HELLO)
        assert server.commands == ["sudo -n sh -s"]
    assert "password is required" in caught.value.seen
    assert "NOPASSWD" in caught.value.how_to_fix


def test_a_user_with_password_less_sudo_works(tmp_path):
    with (
        SmallSshd(tmp_path, user="ops") as server,
        shells_of(server, tmp_path, user="ops").open(node_of(server)) as node,
    ):
        assert node.read(HELLO)["hello"].rc == 0


def test_a_refused_key_is_a_refused_login(sshd, tmp_path):
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    shells = SshShells(Ssh(connect_timeout_s=5), SecretStr(stranger), tmp_path / "hosts")
    with pytest.raises(LoginRefusedError), shells.open(node_of(sshd)):
        pass


@pytest.mark.parametrize(
    ("algorithm", "options"), [("ssh-ed25519", {}), ("ecdsa-sha2-nistp256", {}), ("ssh-rsa", {"key_size": 2048})]
)
def test_keys_are_read_from_text(algorithm, options):
    key = asyncssh.generate_private_key(algorithm, **options)
    assert read_key(SecretStr(key.export_private_key().decode())).get_name().startswith(algorithm[:8])


def test_an_unreadable_key_is_refused_without_showing_it():
    with pytest.raises(LoginRefusedError) as caught:
        read_key(SecretStr("-----BEGIN OPENSSH PRIVATE KEY-----\nplanted\n-----END OPENSSH PRIVATE KEY-----"))
    assert "planted" not in str(caught.value) and caught.value.__cause__ is None


def test_a_file_is_sent_once_and_verified(sshd, tmp_path):
    """Sent whole with its mode; an equal one is left alone; nothing half-written is left."""
    local = tmp_path / "local.bin"
    local.write_bytes(bytes(range(256)) * 4096)
    remote = tmp_path / "there" / "it's.bin"
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node:
        assert node.put(local, str(remote), 0o640) is True
        assert node.put(local, str(remote), 0o640) is False
        assert node.round_trips == 2
    assert remote.read_bytes() == local.read_bytes()
    assert stat.S_IMODE(remote.stat().st_mode) == 0o640
    assert [path.name for path in remote.parent.iterdir()] == ["it's.bin"]


def test_a_file_is_fetched_as_a_stream(sshd, tmp_path):
    """Byte for byte over one channel; the connection serves on."""
    data = bytes(range(256)) * 20_000
    (tmp_path / "it's.bin").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node:
        with node.fetch(str(tmp_path / "it's.bin")) as stream:
            assert stream.read(3) == data[:3] and stream.read() == data[3:] and stream.read() == b""
        assert node.round_trips == 1
        with node.fetch(str(tmp_path / "empty")) as stream:
            assert stream.read() == b""
        assert node.read(HELLO)["hello"].rc == 0


def test_a_reader_that_stops_early_does_not_hang(sshd, tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node, node.fetch(str(tmp_path / "file")) as stream:
        assert stream.read(1000) == bytes(1000)


def test_keys_are_not_exchanged_again_within_a_snapshot(sshd, tmp_path):
    """The library would do it after half a gibibyte, and hang where a file ends just then."""
    with shells_of(sshd, tmp_path).open(node_of(sshd)) as node:
        assert node._transport.packetizer.REKEY_BYTES > 16 << 30
        assert node._transport.remote_cipher in QUICK_CIPHERS


def test_a_file_that_is_not_there_is_no_empty_file(sshd, tmp_path):
    with (
        shells_of(sshd, tmp_path).open(node_of(sshd)) as node,
        node.fetch("/no/such/file") as stream,
        pytest.raises(RemoteStepError) as caught,
    ):
        stream.read()
    assert "/no/such/file" in caught.value.what and "o such file" in caught.value.seen


def test_a_link_lost_while_a_file_is_fetched_is_no_end(sshd, tmp_path):
    """Also when everything was given and only the exit code is missing."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    sshd.cut_after_command = True
    with (
        shells_of(sshd, tmp_path).open(node_of(sshd)) as node,
        node.fetch(str(tmp_path / "file")) as stream,
        pytest.raises(NodeUnreachableError),
    ):
        while stream.read(4096):
            pass


def test_a_node_that_gives_no_more_of_a_file_is_given_up(sshd, tmp_path, monkeypatch):
    monkeypatch.setattr("stackwright.clients.fetching.SILENCE_S", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with (
        shells_of(sshd, tmp_path).open(node_of(sshd)) as node,
        node.fetch(str(tmp_path / "pipe")) as stream,
        pytest.raises(NodeUnreachableError) as caught,
    ):
        stream.read()
    assert "pipe" in caught.value.what


def test_fetching_with_a_sudo_that_asks_is_a_refused_login(tmp_path):
    with (
        SmallSshd(tmp_path, user="ops", sudo="asks") as server,
        shells_of(server, tmp_path, user="ops").open(node_of(server)) as node,
        node.fetch("/etc/shadow") as stream,
        pytest.raises(LoginRefusedError),
    ):
        stream.read()
