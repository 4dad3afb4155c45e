"""A store for tests: moto's S3 server behind a small TLS front that checks keys and sums, and strikes on demand.

The faults: `refused` 403 AccessDenied; `hang` no answer; `cut` the connection ends in the middle of the body;
`full` 507 XMinioStorageFull, `quota` 403 QuotaExceeded as Ceph says it; `busy` 503 SlowDown; `slow` takes its time;
`shortened` the upload is acknowledged but the last bytes are not kept; `flipped` one bit is kept changed; `cut-read`
the answer ends in its middle; `flipped-read` one bit of the answer is changed.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from werkzeug.serving import WSGIRequestHandler

from stackwright.clients.store import S3Store
from stackwright.domain.spec import BackupStore
from stackwright.lab.net import Authority

ACCESS, SECRET = "planted-access-1", "planted-secret-8"
ANSWERS = {
    "refused": (403, "AccessDenied"),
    "full": (507, "XMinioStorageFull"),
    "quota": (403, "QuotaExceeded"),
    "busy": (503, "SlowDown"),
}
HOP = {"host", "connection", "transfer-encoding", "content-length", "expect"}


@dataclass
class Fault:
    """What happens to requests of a method whose path and query match; `times` so often, then no more."""

    kind: str
    method: str = "PUT"
    path: str = ""
    times: int = 1 << 30


@dataclass
class StoreServer:
    """The server. `seen` holds method and path of every request, `received` counts the bytes of their bodies.

    `fault` strikes while it is set.
    """

    url: str
    ca_file: Path
    fault: Fault | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    received: int = 0
    bucket: str = "bundles"
    released: threading.Event = field(default_factory=threading.Event)

    def settings(self, **more: object) -> BackupStore:
        """Return the settings of a site file for it."""
        given = {"endpoint": self.url, "bucket": self.bucket, "folder": "sw", "ca_file": str(self.ca_file), **more}
        return BackupStore(**given)

    def store(self, *, access: str = ACCESS, secret: str = SECRET, read_s: float = 60.0, **more: object) -> S3Store:
        """Return a client."""
        resolve = {"store.example.test": "127.0.0.1"}
        settings = self.settings(**more)
        return S3Store(settings, SecretStr(access), SecretStr(secret), resolve, connect_s=2.0, read_s=read_s)

    def strikes(self, method: str, path: str) -> str:
        """Return the fault that hits this request, if any."""
        fault = self.fault
        if fault is None or fault.times <= 0 or fault.method != method or not re.search(fault.path, path):
            return ""
        fault.times -= 1
        return fault.kind


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are written one by one: the second would wait 40 ms for the first's receipt.
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ssl.SSLError):
            self.close_connection = True

    def do_any(self) -> None:
        store = self.server.store
        store.seen.append((self.command, self.path))
        kind = store.strikes(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if kind == "hang":
            store.released.wait(60)
            self.close_connection = True
            return
        if kind == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        store.received += len(body)
        if kind == "slow":
            time.sleep(0.1)  # a slow disk
        if kind in ANSWERS:
            self._refuse(*ANSWERS[kind])
        elif f"Credential={ACCESS}/" not in (self.headers.get("Authorization") or ""):
            self._refuse(403, "InvalidAccessKeyId")
        elif self._sum_differs(body):
            self._refuse(400, "XAmzContentSHA256Mismatch")
        else:
            self._forward({"shortened": body[:-10], "flipped": _flip(body)}.get(kind, body), kind)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

    def _sum_differs(self, body: bytes) -> bool:
        said = self.headers.get("x-amz-content-sha256") or ""
        return len(said) == 64 and hashlib.sha256(body).hexdigest() != said

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET} quoted back</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], text.encode())

    def _forward(self, body: bytes, kind: str) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self.server.backend, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            link.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            answer = link.getresponse()
            data = answer.read()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
            if self.command == "HEAD":
                kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
            self._answer(answer.status, kept, _flip(data) if kind == "flipped-read" else data, cut=kind == "cut-read")
        finally:
            link.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, tls: ssl.SSLContext, backend: int) -> None:
        super().__init__(("127.0.0.1", 0), _Front)
        self.tls, self.backend = tls, backend
        self.store: StoreServer

    def finish_request(self, request, client_address) -> None:
        """Shake hands in the connection's own thread."""
        request.settimeout(60)
        try:
            with self.tls.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except (ssl.SSLError, OSError):
            pass  # a client that does not trust the certificate, or went away: that is what some tests are about

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that went away is part of the tests."""


@contextmanager
def running_store(folder: Path, name: str = "127.0.0.1") -> Iterator[StoreServer]:
    """Run a store with an empty bucket `bundles`. Its certificate is for 127.0.0.1 and `name`."""
    authority = Authority("store-ca")
    certificate, key = authority.issue("store", ["127.0.0.1", name])
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("ca.pem", authority.certificate), ("store.pem", certificate), ("store.key", key)):
        (folder / file).write_text(text)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "store.pem", folder / "store.key")
    WSGIRequestHandler.disable_nagle_algorithm = True  # as above: moto gives no other way in
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    backend = moto.get_host_and_port()[1]
    _reset(backend)
    front = _Listener(tls, backend)
    front.store = StoreServer(f"https://{name}:{front.server_address[1]}", folder / "ca.pem")
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        front.store.store()._s3.create_bucket(Bucket=front.store.bucket)
        front.store.seen.clear()
        yield front.store
    finally:
        front.store.released.set()
        front.shutdown()
        thread.join()
        front.server_close()
        moto.stop()
        moto._server.server_close()


def _reset(port: int) -> None:
    """Forget all: moto keeps its state in the process, whichever server serves it."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    deadline = time.monotonic() + 60
    while True:
        try:
            link.request("POST", "/moto-api/reset")
            link.getresponse().read()
            break
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
    link.close()
