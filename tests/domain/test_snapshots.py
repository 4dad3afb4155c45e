"""What is read of a snapshot, and each reason for which one is not relied on."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import StackError
from stackwright.domain.snapshots import (
    SnapshotFacts,
    check_saver,
    check_snapshot,
    parse_quantity,
    parse_snapshot,
    save_script,
    saved_name,
    savers,
)
from stackwright.domain.token_archive import (
    find_token,
    parse_archive,
    render_archive,
    token_hash,
    with_token,
)

FULL = "K10abc::server:old-secret"
GOOD = SnapshotFacts(
    "n-s1-1", "s1", "local", "file:///x/n-s1-1", 10, "2026-01-02T03:04:05+00:00", ready=True,
    token_hash=token_hash(FULL), file_bytes=10, sha256="ab",
)  # fmt: skip


def changed(**fields):
    return SnapshotFacts(**{**vars(GOOD), **fields})


def node(name="s1", ready=True, voter="True"):
    conditions = {"Ready": str(ready)} | ({"EtcdIsVoter": voter} if voter else {})
    return NodeStatus(name, ready, True, "v1.34.10+rke2r1", "", ("etcd",), conditions=conditions)


def test_a_good_one_has_no_problem():
    assert check_snapshot(GOOD, {token_hash("old-secret")}) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ready": False}, "not ready"),
        ({"error": "no space left on device"}, "recorded a failure"),
        ({"file_bytes": 0}, "holds nothing"),
        ({"file_bytes": -1}, "no such file"),
        ({"file_bytes": 9}, "not as long"),
        ({"token_hash": "0123456789ab"}, "is not kept"),
    ],
)
def test_each_reason_against_one_is_said_with_a_remedy(fields, says):
    problems = check_snapshot(changed(**fields), {token_hash(FULL)})
    assert len(problems) == 1 and says in str(problems[0]) and problems[0].remedy


def test_all_reasons_are_said_at_once():
    assert len(check_snapshot(changed(ready=False, file_bytes=0, token_hash="x"), set())) == 3


def test_a_failed_record_and_one_in_s3_are_read():
    """The error's text is kept in base64; a quantity may be short."""
    failed = parse_snapshot({
        "metadata": {"name": "local-x"}, "spec": {"snapshotName": "x", "nodeName": "s1"},
        "status": {"readyToUse": False, "error": {"message": "bm8gc3BhY2U="}},
    })  # fmt: skip
    assert (failed.error, failed.ready, failed.created_s, failed.token_hash) == ("no space", False, 0.0, "")
    remote = parse_snapshot({
        "metadata": {"name": "s3-x", "annotations": {"etcd.rke2.cattle.io/snapshot-token-hash": "abc"}},
        "spec": {"snapshotName": "x", "nodeName": "s3", "s3": {"bucket": "b"}, "location": "s3://b/x"},
        "status": {"readyToUse": True, "size": "1M", "creationTime": "2026-01-02T03:04:05Z"},
    })  # fmt: skip
    assert (remote.storage, remote.size_bytes, remote.token_hash) == ("s3", 1_000_000, "abc")
    assert remote.created_s == 1767323045


@pytest.mark.parametrize(
    ("text", "number"), [("4198432", 4198432), ("4Ki", 4096), ("2Mi", 2 << 20), ("3k", 3000), (7, 7), ("", 0)]
)
def test_quantities(text, number):
    assert parse_quantity(text) == number


def test_only_healthy_voters_may_take_one():
    nodes = [node("s3"), node("s1"), node("s2", ready=False), node("s4", voter="False"), node("a1", voter="")]
    assert savers(nodes) == ["s1", "s3"]
    assert [problem.what for problem in check_saver("s9", None)] == ["the server is not in the cluster"]


def test_the_name_is_taken_from_the_programs_words():
    assert saved_name('level=info msg="Snapshot n-s1-1 saved."\nlevel=info msg="Snapshot n-s1-1 saved."') == "n-s1-1"
    assert saved_name("") == ""
    with pytest.raises(ValueError, match="cannot begin"):
        save_script("a; reboot")


def test_the_archive_keeps_every_token_once_and_finds_it_by_hash():
    first = with_token((), SecretStr(FULL), "2026-01-01T00:00:00+00:00")
    assert with_token(first, SecretStr("old-secret"), "2027-01-01T00:00:00+00:00") == first
    both = with_token(first, SecretStr("K10abc::server:second"), "2027-01-01T00:00:00+00:00")
    kept = parse_archive(render_archive(both).get_secret_value())
    assert kept == both and "old-secret" not in repr(kept)
    assert find_token({"value": SecretStr("now")}, kept, token_hash("now")).get_secret_value() == "now"
    assert find_token(None, kept, token_hash(FULL)).get_secret_value() == FULL
    assert find_token(None, kept, "000000000000") is None


def test_a_broken_archive_is_an_error_that_quotes_nothing():
    with pytest.raises(StackError) as caught:
        parse_archive('[{"token": "planted"}]', "block")
    assert "planted" not in str(caught.value) and caught.value.__cause__ is None
