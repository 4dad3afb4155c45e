"""Looking at a host: one that answers needs nothing of Prefect, any other is taken up by a task run of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stackwright.domain.errors import NodeUnreachableError
from tasks import stack
from tests.domain.nodes_seen import make_spec
from tests.flows.many_nodes import site_of

NODE = make_spec().nodes[0]


@pytest.fixture
def taken_up(monkeypatch):
    """The hosts for which a task run was asked."""
    names: list[str] = []

    async def call(task, site, node):
        assert task is stack.look_node
        names.append(node.name)
        return "seen by its task run"

    monkeypatch.setattr(stack, "call", call)
    return names


def look(monkeypatch, read):
    monkeypatch.setattr(stack, "read_node", read)
    return asyncio.run(stack.look_at_host(site_of(0), NODE))


def test_a_host_that_answers_has_no_task_run(monkeypatch, taken_up):
    assert look(monkeypatch, lambda *_: "seen") == "seen"
    assert taken_up == []


@pytest.mark.parametrize(
    ("error", "why"),
    [(NodeUnreachableError("no answer", where="s1"), "no answer"), (ValueError("s3cret in it"), "ValueError")],
    ids=["ours", "foreign"],
)
def test_whatever_fails_is_taken_up(monkeypatch, taken_up, caplog, error, why):
    """The log says why; a foreign error's words stay out of it."""

    def read(*_):
        raise error

    with caplog.at_level("WARNING"):
        assert look(monkeypatch, read) == "seen by its task run"
    assert taken_up == [NODE.name]
    assert f"{NODE.name}: is looked at again: {why}" in caplog.text and "s3cret" not in caplog.text


def test_a_look_that_hangs_is_taken_up(monkeypatch, taken_up):
    """A thread cannot be stopped, but nobody waits for it any longer."""
    over = threading.Event()
    monkeypatch.setattr(stack, "LOOK_LIMIT_S", 0.05)
    try:
        assert look(monkeypatch, lambda *_: over.wait(30)) == "seen by its task run"
    finally:
        over.set()
    assert taken_up == [NODE.name]
