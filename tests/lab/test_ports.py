"""Ports for what the lab starts: nobody's now, and none that an outgoing connection could take meanwhile."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

from stackwright.lab import server

FIRST = 23_000


def test_a_port_is_below_those_of_outgoing_connections_and_nobodys(monkeypatch, tmp_path):
    """Of fifty all but one are somebody's."""
    monkeypatch.setattr(server, "OUTGOING", tmp_path / "range")
    monkeypatch.setattr(server, "FIRST_PORT", FIRST)
    (tmp_path / "range").write_text(f"{FIRST + 50}\t60999\n")
    free = server.free_port()
    assert FIRST <= free < FIRST + 50
    with ExitStack() as held:
        for port in set(range(FIRST, FIRST + 50)) - {free}:
            one = held.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
        assert server.free_port() == free


def test_where_nothing_is_known_of_them_any_port_will_do(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "OUTGOING", tmp_path / "none")
    assert server.free_port() > 0
    (tmp_path / "none").write_text("1024 60999\n")
    assert server.free_port() > 0
