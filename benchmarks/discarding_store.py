"""A store that speaks as much of S3 as an upload needs, sums up every body and keeps none: it is not what is measured.

`python -m benchmarks.discarding_store PORT CERTIFICATE KEY`. A body whose sum its request signs is refused when it
differs. What is kept of an object is its length. Upstream: Amazon S3 API, PutObject and the multipart calls.
"""

from __future__ import annotations

import hashlib
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CHUNK = 1 << 20


class Store(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    lengths: dict[str, int] = {}  # noqa: RUF012  shared by all connections
    parts: dict[tuple[str, str], int] = {}  # noqa: RUF012
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _say(self, status: int, body: str = "", **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _where(self) -> tuple[str, dict[str, str]]:
        split = urlsplit(self.path)
        return split.path, {key: values[0] for key, values in parse_qs(split.query, keep_blank_values=True).items()}

    def _body(self) -> tuple[int, bool]:
        """Read the body and forget it; return its own length and whether it is what was signed."""
        sha, length = hashlib.sha256(), int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while left := int(self.rfile.readline().split(b";")[0], 16):
                self._drain(left, sha)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            self._drain(length, sha)
        length = int(self.headers.get("X-Amz-Decoded-Content-Length") or length)
        signed = self.headers.get("X-Amz-Content-Sha256", "")
        return length, len(signed) != 64 or signed == sha.hexdigest()

    def _drain(self, left: int, sha: Any) -> None:
        while left:
            part = self.rfile.read(min(left, CHUNK))
            if not part:
                raise ConnectionError("the body breaks off")
            sha.update(part)
            left -= len(part)

    def do_PUT(self) -> None:
        path, query = self._where()
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        length, good = self._body()
        if not good:
            self._say(400, "<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
            return
        with self.lock:
            if "partNumber" in query:
                self.parts[path, query["partNumber"]] = length
            else:
                self.lengths[path] = length
        self._say(200, ETag='"0"')

    def do_POST(self) -> None:
        path, query = self._where()
        self._body()
        if "uploads" in query:
            with self.lock:
                for key in [key for key in self.parts if key[0] == path]:
                    del self.parts[key]
            self._say(200, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
            return
        with self.lock:
            self.lengths[path] = sum(size for (of, _), size in self.parts.items() if of == path)
        self._say(200, '<CompleteMultipartUploadResult><ETag>"0"</ETag></CompleteMultipartUploadResult>')

    def do_HEAD(self) -> None:
        path, _ = self._where()
        length = self.lengths.get(path)
        self._say(404 if length is None else 200, Content_Length=str(length or 0), ETag='"0"')

    def do_GET(self) -> None:
        self._say(200, "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>")

    def do_DELETE(self) -> None:
        with self.lock:
            self.lengths.pop(self._where()[0], None)
        self._say(204)


def main() -> None:
    port, certificate, key = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Store)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
