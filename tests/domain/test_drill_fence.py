"""The fence: which addresses it holds, how answers count, and the script itself against real sockets."""

from __future__ import annotations

import socket
import subprocess

import pytest

from stackwright.domain.drill_fence import (
    Target,
    check_fence,
    fence_script,
    fence_targets,
    fenced_names,
    parse_fence,
    platform_names,
)
from stackwright.domain.drill_site import spare_host
from stackwright.domain.shell import Section, parse_read
from stackwright.domain.spec import Node
from tests.domain.drill_samples import spec

HERE = Node(name="spare", address="127.0.0.1", roles=("server",))
A, B = Target("192.0.2.11", 22, "node s1"), Target("gone.example.com", 443, "backup.drill.fence", known=False)


def answers(*lines: str, targets=(A,)):
    return parse_fence(targets, {"fence": Section(0, "".join(f"{line}\n" for line in ("0 35 0.001 ", *lines)))})


def test_everything_of_production_is_in_the_fence():
    """Every node on every port that matters, the registration address, the platform's names, the stores, and more."""
    found = {str(target).split(" ")[0] for target in fence_targets(spec(), {"k8s.example.com": ("192.0.2.10",)})}
    for node in spec().nodes:
        assert {f"{node.address}:{port}" for port in (22, 6443, 9345, 2379, 10250)} <= found
    assert {"192.0.2.10:9345", "192.0.2.10:6443", "k8s.example.com:9345", "k8s.example.com:6443"} <= found
    assert {f"{name}:443" for name in platform_names(spec())} <= found
    assert {"s3.example.com:9000", "vault.example.com:8200"} <= found
    assert not any(address.startswith("192.0.2.99") for address in found)


def test_nodes_that_leave_and_ports_of_their_own_are_in_it():
    gone = {"name": "s9", "address": "2001:db8::9", "port": 2222, "roles": ["server"]}
    found = {str(target) for target in fence_targets(spec(removed=[gone], rke2__api_port=7443), {})}
    assert {"[2001:db8::9]:2222 (node s9)", "[2001:db8::9]:22 (node s9)", "192.0.2.11:7443 (node s1)"} <= found


def test_names_are_for_the_controller_to_look_up():
    names = fenced_names(spec())
    assert {"k8s.example.com", "s3.example.com", "vault.example.com"} <= set(names)
    assert not any(name[0].isdigit() for name in names)


ANSWERS = {
    "it answers": ("1 52 0.002 ", A, "open"),
    "it answers, and then says nothing": ("1 28 0.002 ", A, "open"),
    "it refuses": ("1 7 0.000000 Connection refused ", A, "open"),
    "one of its addresses refuses": ("1 7 0.000000 Connection refused No route to host ", A, "open"),
    "silence": ("1 28 0.000000 ", A, "closed"),
    "no route": ("1 7 0.000000 No route to host ", A, "closed"),
    "no network": ("1 7 0.000000 Network is unreachable ", A, "closed"),
    "a rule of the host itself": ("1 7 0.000000 Permission denied ", A, "closed"),
    "a failure without words": ("1 7 0.000000 ", A, "unknown"),
    "its name is not known there": ("1 6 0.000000 ", A, "closed"),
    "its name is known nowhere": ("1 6 0.000000 ", B, "unknown"),
    "curl is not there": ("1 127 0 ", A, "unknown"),
    "no line": ("", A, "unknown"),
    "a broken line": ("1 x", A, "unknown"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_how_answers_count(name):
    """A refusal is an answer; what could not be asked is not closed."""
    line, target, verdict = ANSWERS[name]
    found = answers(line, targets=(target,))
    assert [one.verdict for one in found] == [verdict]
    assert bool(check_fence(HERE, found)) is (verdict != "closed")


@pytest.mark.parametrize("control", ["", "0 28 0.000000 ", "0 127 0 "])
def test_a_check_that_sees_nothing_proves_nothing(control):
    """The host's own SSH port must be seen by the same means; else all silence is unknown."""
    found = parse_fence((A,), {"fence": Section(0, f"{control}\n1 28 0.000000 \n")})
    assert [one.verdict for one in found] == ["unknown"] and check_fence(HERE, found)


def test_what_answers_is_named_first():
    found = answers("1 127 0 ", "2 0 0.001 ", targets=(A, Target("192.0.2.12", 6443, "node s2")))
    problems = check_fence(spare_host(spec()), found)
    assert problems[0].where == "192.0.2.12:6443 (node s2)" and "answers from spare" in problems[0].what
    assert problems[1].where == "192.0.2.11:22 (node s1)"


def test_the_script_tells_open_from_refused_from_silent():
    """Run by this machine's sh and curl: a listener that says nothing, a closed port, a queue that takes nobody."""
    with socket.create_server(("127.0.0.1", 0)) as own, socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            closed = free.getsockname()[1]
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        held = [socket.socket() for _ in range(4)]
        for one in held:  # the queue is full: the next connection is answered by silence
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        host = HERE.model_copy(update={"port": own.getsockname()[1]})
        targets = [
            Target("127.0.0.1", listener.getsockname()[1], "listens"),
            Target("127.0.0.1", closed, "refuses"),
            Target("127.0.0.1", full.getsockname()[1], "is silent"),
            Target("no-such-name.invalid", 443, "unknown name", known=True),
        ]
        done = subprocess.run(
            ["sh", "-s"], input=fence_script(host, targets), capture_output=True, text=True, check=True
        )
        for one in (*held, full):
            one.close()
    found = parse_fence(targets, parse_read(done.stdout))
    assert [one.verdict for one in found] == ["open", "open", "closed", "closed"], found
