"""The support bundle without a server: deadlines, cuts, names, the last search, and how the file comes to be."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from stackwright.domain.errors import NodeUnreachableError, ToolError
from stackwright.domain.redaction import Known
from stackwright.domain.support import LeakError, Limits, Member, Packed, Part, cut, member_name
from stackwright.support import archive
from stackwright.support.gathering import gather
from stackwright.support.known import from_environment, hidden_leaves, is_secret_variable
from stackwright.support.local import shape_of, sizes_of

ROOT = Path(__file__).parents[2]
SECRET = "planted-5c1d-secret"
LIMITS = Limits()
KNOWN = [Known("block secret-text/x, value", SECRET)]


def packed(*members: Member, known=KNOWN, limits=LIMITS) -> dict[str, Packed]:
    part = Part("logs", "read", members)
    return {one.name: one for one in archive.pack("north", "2026-01-01", [part], known, limits, {})}


# --- gathering -------------------------------------------------------------------------------------------------------


def test_a_part_that_hangs_or_breaks_stops_no_other_and_leaves_what_it_had():
    """Each outcome is told; what a late part reads afterwards is not taken."""
    held = threading.Event()

    def hangs(basket):
        basket.put(Member("half", "x"))
        held.wait(60)
        basket.put(Member("late", "x"))

    def breaks(basket):
        raise NodeUnreachableError("the node does not answer", where="n1")

    def misses(basket):
        basket.put(Member("one", "x"))
        basket.miss("n2: down")

    found = {
        part.name: part
        for part in gather(
            {"hangs": hangs, "breaks": breaks, "misses": misses, "whole": lambda b: b.put(Member("all", "x"))}, 1.0
        )
    }
    held.set()
    assert [(one.name, one.outcome) for one in found.values()] == [
        ("hangs", "partly"), ("breaks", "not read"), ("misses", "partly"), ("whole", "read"),
    ]  # fmt: skip
    assert [one.name for one in found["hangs"].members] == ["half"] and "within 1 s" in found["hangs"].why[0]
    assert "n1: the node does not answer" in found["breaks"].why[0] and found["misses"].why == ("n2: down",)


# --- packing ---------------------------------------------------------------------------------------------------------


def test_secrets_go_out_of_texts_names_and_reasons():
    parts = [Part("p", "partly", (Member(f"logs/{SECRET}.txt", f"a {SECRET} b"),), (f"no answer: {SECRET}",))]
    files = {one.name: one for one in archive.pack("north", "now", parts, KNOWN, Limits(), {})}
    assert files["logs/***.txt"].data == b"a *** b" and files["logs/***.txt"].masked == 1
    assert b"no answer: ***" in files["index.json"].data
    assert SECRET.encode() not in b"".join(one.data for one in files.values())


def test_a_secret_that_would_stay_refuses_the_bundle_and_is_not_shown():
    """The last search is not the one that cleaned: what it finds is named by file and block, without the value."""
    left = [Packed("index.json", b"{}"), Packed("runs/log.txt", f"x {SECRET} y".encode())]
    with pytest.raises(LeakError) as caught:
        archive.check(left, KNOWN)
    said = str(caught.value)
    assert "runs/log.txt" in said and "block secret-text/x" in said and SECRET not in said
    with pytest.raises(LeakError) as caught:
        archive.check([Packed(f"runs/{SECRET}", b"")], KNOWN)
    assert "file 0 of the bundle" in str(caught.value) and SECRET not in str(caught.value)
    archive.check([Packed("runs/log.txt", b"x *** y")], KNOWN)


def test_a_cleaner_that_misses_is_caught(monkeypatch):
    monkeypatch.setattr(archive, "cleaner", lambda known: lambda text: (text, 0))
    with pytest.raises(LeakError, match="logs/a"):
        packed(Member("logs/a", SECRET))


def test_what_is_too_long_is_cut_after_it_was_cleaned():
    """A log keeps its end, a file its beginning, at whole lines; a secret across the place of the cut is not halved."""
    lines = "".join(f"line {number}\n" for number in range(1000))
    text, lost = cut(Member("x", lines, "end"), 100)
    assert text.startswith("[") and text.endswith("line 998\nline 999\n") and lost > 8000 and "\nline 990\n" in text
    text, lost = cut(Member("x", lines), 100)
    assert text.startswith("line 0\n") and text.endswith("bytes left out here]\n") and len(text) < 140
    assert cut(Member("x", lines), 10**6) == (lines, 0)
    files = packed(Member("log", f"{'x' * 80} {SECRET} tail", "end"), limits=Limits(log_bytes=20))
    assert b"planted" not in files["log"].data and b"5c1d" not in files["log"].data and files["log"].cut_bytes


def test_what_does_not_fit_is_left_out_and_named():
    files = packed(Member("a", "x" * 60), Member("b", "y" * 60), Member("c", "z" * 30), limits=Limits(total_bytes=100))
    assert set(files) == {"index.json", "a", "c", "SHA256SUMS"}
    assert b'"left_out": [\n  "b"\n ]' in files["index.json"].data


def test_names_cannot_leave_the_folder():
    assert member_name("runs", "../../etc/passwd") == "runs/_.._etc_passwd"
    assert member_name("nodes", "s1.txt") == "nodes/s1.txt" and member_name("..", "/") == "_/_"


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_archive_is_alike_for_alike_files_and_its_sums_hold(tmp_path):
    files = list(packed(Member("a", "x"), Member("b", "y")).values())
    data = archive.archive(files, "top")
    assert data == archive.archive(files, "top")
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        assert tar.getnames()[0] == "top/index.json" and all(one.mode == 0o600 for one in tar.getmembers())
    (tmp_path / "it.tar.gz").write_bytes(data)
    subprocess.run(["tar", "-xzf", "it.tar.gz"], cwd=tmp_path, check=True)
    done = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path / "top", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.count(": OK") == 3
    assert hashlib.sha256(b"x").hexdigest() in (tmp_path / "top" / "SHA256SUMS").read_text()


def test_the_file_is_its_owners_alone_and_replaces_none(tmp_path):
    path = tmp_path / "one.tar.gz"
    before = os.umask(0)
    try:
        archive.write(path, b"data")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"data" and stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ToolError, match="there is a file of that name"):
        archive.write(path, b"other")
    assert path.read_bytes() == b"data" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ToolError, match="cannot be written"):
        archive.write(tmp_path / "nowhere" / "x", b"data")


def test_a_death_before_the_end_leaves_no_file(tmp_path):
    """Killed when all bytes are written and the name is not given yet: the folder is empty."""
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom stackwright.support import archive\n"
        "os.link = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "archive.write(Path(sys.argv[1]) / 'x.tar.gz', b'data' * 100000)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=env, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []


# --- what is known and what is told ----------------------------------------------------------------------------------


def test_what_a_block_hides_is_found_whatever_its_type():
    opened = {"url": "https://hooks/x", "auth": {"user": "me", "password": "p1"}, "list": ["a", "b"], "on": True}
    shown = {"url": "********", "auth": {"user": "me", "password": "********"}, "list": ["a", "****"], "on": True}
    assert dict(hidden_leaves(opened, shown)) == {"url": "https://hooks/x", "auth.password": "p1", "list.1": "b"}
    assert dict(hidden_leaves({"a": "x", "n": 7}, None)) == {"a": "x", "n": "7"}


def test_secrets_among_the_variables_are_known():
    given = {
        "PREFECT_API_AUTH_STRING": "me:planted-login", "PREFECT_SERVER_ENCRYPTION_KEY": "planted-key",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql://u:planted-db@h/x", "PREFECT_HOME": "/x", "PWD": "/here",
        "VAULT_TOKEN": "planted-vault", "AWS_SECRET_ACCESS_KEY": "planted-aws", "STACKWRIGHT_SSH_KEY": "/path/to/key",
    }  # fmt: skip
    assert {one.name.split()[1] for one in from_environment(given)} == {
        name for name, value in given.items() if "planted" in value
    }
    assert is_secret_variable("PREFECT_CLIENT_CUSTOM_HEADERS") and not is_secret_variable("PREFECT_API_URL")


def test_the_shape_of_a_site_file_keeps_names_and_no_values():
    tree = {
        "rke2": {"token_block": "rke2-token", "token": "typed", "poll_s": 2},
        "layers": {
            "x": {
                "values": {
                    "adminPassword": "typed",
                    "apiKey": "${secret:a.b}",
                    "env": [{"name": "DB_PASSWORD", "value": "typed"}],
                }
            }
        },
    }
    shape = shape_of(tree)
    assert "typed" not in str(shape)
    assert shape["rke2"] == {"token_block": "rke2-token", "token": "***", "poll_s": 2}
    assert shape["layers"]["x"]["values"]["apiKey"] == "${secret:a.b}"


def test_a_database_is_measured_and_not_read(tmp_path):
    path = tmp_path / "prefect.db"
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "odd ""name" (a)')
        connection.execute('INSERT INTO "odd ""name" VALUES (?)', (SECRET,))
    connection.close()
    found = sizes_of(path)
    assert found["rows"] == {'odd "name': 1} and found["bytes"]["prefect.db"] == path.stat().st_size
    assert SECRET not in str(found)
