"""A Vault for tests: KV version 2 over real TLS, with the answers of the real one: 403, 404, deleted, sealed, standby.

Shapes as documented in Vault's HTTP API: `{"errors": [...]}` with the status; a deleted version is a 404 with metadata.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from stackwright.lab.net import Authority

TOKEN = "planted-vault-token-4f"


@dataclass
class VaultServer:
    """The server. `secrets` maps paths below /v1/ to data, None is a deleted version; `status` overrides answers."""

    url: str
    ca_file: Path
    secrets: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    status: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, path: str, token: str) -> tuple[int, Any]:
        """Return status and body for one request."""
        if self.status:
            return self.status, {"errors": ["Vault is sealed"] if self.status == 503 else ["trouble"]}
        if token != TOKEN or path in self.denied:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if path not in self.secrets:
            return 404, {"errors": []}
        data = self.secrets[path]
        metadata = {"version": 3, "destroyed": False, "deletion_time": "" if data else "2026-01-01T00:00:00Z"}
        if data is not None and "kv1" in data:
            return 200, {"data": data}
        return (404 if data is None else 200), {"data": {"data": data, "metadata": metadata}}


@contextmanager
def vault_server(folder: Path) -> Iterator[VaultServer]:
    """Run a Vault on loopback, its CA in a file of the folder."""
    authority = Authority("vault test")
    ca_file = folder / "vault-ca.pem"
    ca_file.write_text(authority.certificate, encoding="utf-8")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            vault.asked.append((self.path, self.headers.get("X-Vault-Namespace", "")))
            status, body = vault.answer(self.path.removeprefix("/v1/"), self.headers.get("X-Vault-Token", ""))
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = authority.server_context("127.0.0.1", ["127.0.0.1"]).wrap_socket(server.socket, server_side=True)
    vault = VaultServer(f"https://127.0.0.1:{server.server_port}", ca_file)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield vault
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
