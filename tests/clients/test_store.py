"""What the store's client promises, over the wire: whole objects or none, errors that say what to do, no secret."""

from __future__ import annotations

import io
import os
import socket
import time
import traceback

import pytest
from pydantic import SecretStr

from stackwright.clients.store import (
    ObjectMissingError,
    S3Store,
    StoredShortError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnreachableError,
    connect_store,
)
from stackwright.domain.errors import NodeUnreachableError, SecretMissingError
from tests.store_server import ACCESS, SECRET, Fault, running_store

MIB = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with running_store(tmp_path_factory.mktemp("store"), "store.example.test") as server:
        yield server


@pytest.fixture
def server(served):
    served.fault = None
    yield served
    served.fault = None


@pytest.fixture
def store(server):
    """A client that reaches the store's name at its address."""
    return server.store()


class Pipe(io.RawIOBase):
    """A source that cannot seek and gives what it likes; `breaks` is raised after so many bytes."""

    def __init__(self, size, breaks=None):
        self._left, self._breaks = size, breaks

    def readable(self):
        return True

    def read(self, size=-1):
        if not self._left and self._breaks:
            raise self._breaks
        part = min(self._left, size, 300_001)
        self._left -= part
        return b"x" * part


def uploads(store):
    return store._s3.list_multipart_uploads(Bucket="bundles").get("Uploads", [])


def keys(store, prefix=""):
    return [one.key for one in store.list(prefix)]


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 20 * MIB])
def test_a_stream_is_stored_whole(store, size):
    """Whatever its length, and however small the pieces that it gives; it comes back as it went."""
    data = os.urandom(size)
    assert store.put(f"whole/{size}", io.BytesIO(data)) == size
    with store.open(f"whole/{size}") as body:
        assert body.read() == data
    assert store.put(f"pipe/{size}", Pipe(size)) == size
    assert [one.bytes for one in store.list(f"pipe/{size}")] == [size]
    assert uploads(store) == []


def test_a_long_stream_is_read_only_as_fast_as_it_is_sent(server, store):
    """What is held are the parts on their way, not the object: the store's slowness reaches the source."""
    start, ahead = server.received, 0

    class Watched(Pipe):
        def read(self, size=-1):
            nonlocal ahead
            ahead = max(ahead, 150 * MIB - self._left - (server.received - start))
            return super().read(size)

    server.fault = Fault("slow")
    assert store.put("long", Watched(150 * MIB)) == 150 * MIB
    assert 8 * MIB < ahead <= 128 * MIB


def test_small_objects_are_written_read_listed_and_deleted(store):
    before = time.time()
    store.write("small/b", b"two")
    store.write("small/a", b"one")
    assert [(one.key, one.bytes) for one in store.list("small/")] == [("small/a", 3), ("small/b", 3)]
    assert all(abs(one.modified_s - before) < 60 for one in store.list("small/"))
    assert store.read("small/a") == b"one"
    with pytest.raises(StoreError, match="too long"):
        store.read("small/b", limit_bytes=2)
    store.delete(["small/a", "small/b", "small/never-was"])
    assert store.list("small/") == []
    store.delete([])


def test_a_listing_of_more_than_one_page_is_whole(store, monkeypatch):
    """So is a deletion of more keys than one call may name."""
    monkeypatch.setattr("stackwright.clients.store.AT_ONCE", 3)
    for index in range(8):
        store.write(f"many/{index}", b"")
    assert keys(store, "many/") == [f"many/{index}" for index in range(8)]
    store.delete(keys(store, "many/"))
    assert store.list("many/") == []


def test_what_is_not_there_is_missing(store):
    for look in (lambda: store.read("no/such"), lambda: store.open("no/such").__enter__()):
        with pytest.raises(ObjectMissingError) as caught:
            look()
        assert "no/such" in caught.value.where and not caught.value.transient


ANSWERED = [
    ("refused", StoreRefusedError, "403 AccessDenied"),
    ("full", StoreFullError, "507 XMinioStorageFull"),
    ("quota", StoreFullError, "403 QuotaExceeded"),
    ("busy", StoreUnreachableError, "503 SlowDown"),
    ("cut", StoreUnreachableError, ""),
    ("shortened", StoredShortError, "20971510 bytes"),
]


@pytest.mark.parametrize(("kind", "error", "seen"), ANSWERED, ids=lambda value: value if isinstance(value, str) else "")
def test_an_upload_that_fails_leaves_no_object_and_no_parts(server, store, kind, error, seen):
    """A fault at the second part of three: named, what was begun is given up, no secret in any text."""
    server.fault = Fault(kind, path="partNumber=2")
    with pytest.raises(error) as caught:
        store.put(f"fault/{kind}", io.BytesIO(os.urandom(20 * MIB)))
    server.fault = None
    assert seen in caught.value.seen and caught.value.where.endswith(f"/bundles/fault/{kind}")
    assert caught.value.transient is (error is StoreUnreachableError)
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in str(caught.value) and ACCESS not in text
    assert uploads(store) == []
    assert keys(store, "fault/") == ([f"fault/{kind}"] if kind == "shortened" else [])
    store.delete([f"fault/{kind}"])


@pytest.mark.parametrize("kind", ["cut", "busy"])
def test_one_lost_part_is_sent_again(server, store, kind):
    server.fault = Fault(kind, path="partNumber=2", times=1)
    data = os.urandom(20 * MIB)
    store.put(f"again/{kind}", io.BytesIO(data))
    assert store.read(f"again/{kind}", 21 * MIB) == data


def test_a_small_object_that_is_kept_shortened_is_found(server, store):
    server.fault = Fault("shortened")
    with pytest.raises(StoredShortError):
        store.write("short", b"twenty bytes of text")


def test_a_body_that_was_changed_on_its_way_is_not_kept(server, monkeypatch):
    """The signature covers the body, and the store compares. One that changes it later is caught by who reads it."""
    plain = server.store(endpoint=server.url.replace("store.example.test", "127.0.0.1"))
    session = plain._s3._endpoint.http_session
    send = session.send

    def change(request):
        if request.method == "PUT":
            request.body = io.BytesIO(b"c0ntent")
        return send(request)

    monkeypatch.setattr(session, "send", change)
    with pytest.raises(StoreError, match="XAmzContentSHA256Mismatch"):
        plain.write("sum", b"content")
    monkeypatch.undo()
    server.fault = Fault("flipped")
    plain.write("changed", b"content")
    assert plain.read("changed") != b"content"


@pytest.mark.parametrize("error", [NodeUnreachableError("lost", where="s1"), OSError(5, "a disk"), RuntimeError("x")])
def test_a_source_that_breaks_makes_no_object(store, error):
    """Its own error is what is seen, whether it breaks in the first part or in a later one."""
    for size in (1000, 20 * MIB):
        with pytest.raises(type(error)) as caught:
            store.put(f"broken/{size}", Pipe(size, error))
        assert caught.value is error
    assert uploads(store) == [] and keys(store, "broken/") == []


def test_a_store_that_does_not_answer_is_given_up(server):
    """A read that hangs ends at the limit; nothing listens: at once."""
    server.fault = Fault("hang", "GET")
    quick = server.store(read_s=0.3)
    started = time.monotonic()
    with pytest.raises(StoreUnreachableError) as caught:
        quick.list("")
    assert caught.value.transient and time.monotonic() - started < 10
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = server.store(endpoint=f"https://127.0.0.1:{port}")
    for call in (
        lambda: gone.put("x", io.BytesIO(b"1")),
        lambda: gone.read("x"),
        lambda: gone.list(""),
        lambda: gone.delete(["x"]),
    ):
        with pytest.raises(StoreUnreachableError):
            call()


def test_an_answer_that_breaks_off_is_never_a_whole_object(server, store):
    store.write("whole", b"y" * 3 * MIB)
    server.fault = Fault("cut-read", "GET", "whole")
    with pytest.raises(StoreUnreachableError):
        store.read("whole")
    with pytest.raises(StoreUnreachableError), store.open("whole") as body:
        while body.read(65536):
            pass


def test_a_reader_that_stops_early_leaves_the_client_usable(store):
    store.write("early", b"z" * 3 * MIB)
    with store.open("early") as body:
        assert body.read(10) == b"z" * 10
    assert len(store.read("early")) == 3 * MIB


def test_wrong_keys_and_a_bucket_that_is_not_there_are_refusals(server):
    """They are not worth another try."""
    for made, seen in (
        (server.store(access="another"), "403 InvalidAccessKeyId"),
        (server.store(bucket="no-such-bucket"), "404 NoSuchBucket"),
    ):
        with pytest.raises(StoreRefusedError) as caught:
            made.put("x", io.BytesIO(b"1"))
        assert caught.value.seen == seen and not caught.value.transient
    assert "Create the bucket" in caught.value.how_to_fix


def test_a_certificate_of_another_authority_is_refused(server):
    """Neither the machine's own trust nor a name that the certificate does not hold will do."""
    untrusted = server.store(ca_file=None)
    other = server.store(endpoint=server.url.replace("store.example.test", "localhost"))
    for made in (untrusted, other):
        with pytest.raises(StoreRefusedError) as caught:
            made.list("")
        assert "certificate" in caught.value.what and "ca_file" in caught.value.how_to_fix


def test_settings_of_this_machine_have_no_say(server, monkeypatch, tmp_path):
    """A profile, a proxy or another endpoint in the environment sends no snapshot elsewhere."""
    (tmp_path / "config").write_text("[profile other]\nregion = nowhere\nendpoint_url = https://127.0.0.1:1\n")
    for name, value in (
        ("AWS_PROFILE", "ghost"), ("AWS_CONFIG_FILE", str(tmp_path / "config")), ("HTTPS_PROXY", "http://127.0.0.1:1"),
        ("AWS_ENDPOINT_URL", "https://127.0.0.1:1"), ("AWS_ACCESS_KEY_ID", "ghost"), ("AWS_CA_BUNDLE", "/no/such"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    store = server.store()
    store.write("own", b"1")
    assert store.read("own") == b"1"


@pytest.mark.parametrize(
    "settings", [{"endpoint": "no url"}, {"ca_file": "/no/such/file"}, {"bucket": "Not A Bucket!"}]
)
def test_settings_that_cannot_work_are_named(server, settings):
    with pytest.raises(StoreError) as caught:
        server.store(**settings).list("")
    assert SECRET not in str(caught.value)


def test_uploads_that_a_killed_run_left_are_given_up(store):
    """Only those below the prefix that are old enough. This store says of all that they began in 2010."""
    for key in ("sweep/a", "sweep/b", "other/c"):
        store._s3.create_multipart_upload(Bucket="bundles", Key=key)
    assert store.sweep("sweep/", 1.2e9) == 0
    assert store.sweep("sweep/", time.time()) == 2
    assert [row["Key"] for row in uploads(store)] == ["other/c"]
    assert store.sweep("", time.time()) == 1


class Blocks:
    """Secrets by kind and name."""

    def __init__(self, **fields):
        self._fields = {name: SecretStr(value) for name, value in fields.items()}

    def read(self, kind, name):
        return self._fields or None if (kind, name) == ("s3", "backup-store") else None


def test_a_store_is_made_from_the_site_file_and_its_block(server):
    """Its representation holds no key."""
    made = connect_store(
        server.settings(), Blocks(access_key=ACCESS, secret_key=SECRET), {"store.example.test": "127.0.0.1"}
    )
    made.write("made", b"1")
    assert made.folder == "sw" and made.where.endswith("/bundles") and isinstance(made, S3Store)
    assert SECRET not in f"{made!r}{vars(made)}"
    with pytest.raises(SecretMissingError):
        connect_store(server.settings(), Blocks())
