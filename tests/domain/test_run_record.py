"""Records of runs: the seal, what is taken out of them, and how one without an end ends."""

from __future__ import annotations

import base64
import json

import pytest

from stackwright.domain.run_record import (
    MASK,
    RecordError,
    RunRecord,
    clean,
    ended,
    hidden_in,
    parse,
    redacted,
    render,
)

PLANTED = "planted-9c1d-value"
HEAD = {
    "id": "0b6c1c5e-0000-4000-8000-000000000001", "flow": "deploy-stack", "flow_id": "f", "deployment": "deploy-stack",
    "name": "deploy-north", "site": "north", "parameters": {"site": "north", "plan_hash": "0123456789ab"},
    "tags": ["site:north"], "began": "2026-11-26T03:12:01.5+00:00", "ended": "2026-11-26T03:15:00+00:00",
    "host": "bastion", "user": "ada as root",
}  # fmt: skip
STATES = (
    {"type": "RUNNING", "name": "Running", "message": None, "timestamp": "2026-11-26T03:12:01.5+00:00"},
    {"type": "COMPLETED", "name": "Completed", "message": "ok", "timestamp": "2026-11-26T03:15:00+00:00"},
)
LOG = {"name": "x", "level": 20, "message": "a line", "timestamp": "2026-11-26T03:13:00+00:00", "task_run_id": None}
RECORD = RunRecord(HEAD, STATES, ({"key": "plan-north", "data": "# Plan"},), (LOG,), ({"id": "e", "event": "x"},))


def test_a_record_comes_back_as_it_was_written() -> None:
    assert parse(render(RECORD), "file") == RECORD
    assert RECORD.file_name == "20261126T031201-deploy-north-0b6c1c5e.jsonl" and RECORD.end["name"] == "Completed"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"\n".join(raw.split(b"\n")[:-2]),
        lambda raw: raw.replace(b"Completed", b"Failed"),
        lambda raw: raw.replace(b"a line", b"another"),
        lambda raw: b"",
        lambda raw: b"[]\n",
        lambda raw: b"no json\n",
    ],
    ids=["cut", "without its seal", "another end", "another line", "empty", "a list", "no json"],
)
def test_a_record_that_was_cut_or_changed_is_refused(spoil) -> None:
    with pytest.raises(RecordError):
        parse(spoil(render(RECORD)), "file")


def test_a_record_of_a_later_version_is_refused() -> None:
    import hashlib

    body = render(RECORD).rpartition(b'{"seal"')[0].replace(b'"record": 1', b'"record": 2')
    raw = body + json.dumps({"seal": hashlib.sha256(body).hexdigest()}).encode() + b"\n"
    with pytest.raises(RecordError, match="another version"):
        parse(raw, "file")


def test_no_value_is_left_anywhere_also_not_as_base64_or_as_a_key() -> None:
    """Everything else stays as it was: short values are words such as a login's name."""
    other = base64.b64encode(PLANTED.encode()).decode()
    line = {**LOG, "message": f"{PLANTED} and {other}, lab"}
    page = {"key": "x", "data": {PLANTED: [PLANTED]}}
    state = {**STATES[1], "message": f"refused: {PLANTED}"}
    dirty = RunRecord({**HEAD, "parameters": {"x": PLANTED}}, (STATES[0], state), (page,), (line,), (page,))
    raw = render(clean(dirty, [PLANTED, "lab", "", " "])).decode()
    assert PLANTED not in raw and other not in raw
    assert "lab" in raw and "plan_hash" not in raw and raw.count(MASK) >= 7


def test_what_looks_like_a_secret_goes_though_nobody_gave_it() -> None:
    """Only its own line; a private key's rows go with it when they are known."""
    key = "-----BEGIN OPENSSH PRIVATE KEY-----"
    assert redacted({"a": f"before\n{key}\nafter"}, hidden_in(())) == {"a": f"before\n{MASK}\nafter"}
    assert redacted(f"{key}\nrow1row1\n", hidden_in([f"{key}\nrow1row1\n"])) == MASK


def test_a_line_of_a_known_key_goes_alone_and_escaped_too() -> None:
    """Also a single row of it, and the whole as JSON writes it."""
    row = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ"
    hidden = hidden_in([f"-----BEGIN X KEY-----\n{row}\n{row[::-1]}\n-----END X KEY-----\n"])
    assert redacted(f"seen: {row}", hidden) == f"seen: {MASK}"
    assert row not in redacted(json.dumps(f"{row}\n{row[::-1]}"), hidden)


def test_a_run_without_an_end_was_killed_when_it_was_last_seen() -> None:
    """A run that has ended keeps its own end."""
    assert ended(STATES, "later", "killed") == STATES
    last = ended(STATES[:1], "2026-11-26T03:13:00+00:00", "killed")[-1]
    assert (last["type"], last["message"], last["timestamp"]) == ("CRASHED", "killed", "2026-11-26T03:13:00+00:00")
