"""The ingress stand-in: HTTPS by host name to the Services that the Kubernetes stand-in holds.

As the real one: a host without an Ingress gets 404, a Service without ready pods 503, and a host without its own
certificate Secret is served with a self-signed default certificate, which no client of ours accepts.
"""

from __future__ import annotations

import ssl
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from stackwright.lab.kube import KubeState


def rules(state: KubeState) -> Iterator[tuple[str, str, str, str | int, str]]:
    """Yield (host, namespace, service, port, TLS Secret) of every Ingress rule. The live objects, and nothing waits
    meanwhile: each request and each handshake asks, and copies of hundreds would be most of the lab's work.
    """
    for ingress in state.each(state.kind("Ingress").key):
        namespace = ingress["metadata"]["namespace"]
        spec = ingress.get("spec") or {}
        secrets = {host: tls.get("secretName", "") for tls in spec.get("tls") or () for host in tls.get("hosts") or ()}
        for rule in spec.get("rules") or ():
            for path in (rule.get("http") or {}).get("paths") or ():
                service = path["backend"]["service"]
                port = service["port"].get("number") or service["port"].get("name")
                yield rule.get("host", ""), namespace, service["name"], port, secrets.get(rule.get("host", ""), "")


def create_ingress_app(state: KubeState) -> web.Application:
    """Make the app that routes by Host header to `state.service_backends`."""

    async def route(request: web.Request) -> web.Response:
        host = request.host.split(":")[0]
        rule = next((rule for rule in rules(state) if rule[0] == host), None)
        if rule is None:
            return web.Response(status=404, text="404 page not found\n")
        backend = find_backend(state, *rule[1:4])
        if backend is None:
            return web.Response(status=503, text="no available server\n")
        body = await request.read()
        status, headers, answer = await backend(
            request.method, request.path, dict(request.headers), dict(request.query), body
        )
        kept = {
            k: v
            for k, v in headers.items()
            if k.lower() not in ("content-length", "transfer-encoding", "content-encoding")
        }
        return web.Response(status=status, headers=kept, body=answer)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", route)
    return app


def find_backend(state: KubeState, namespace: str, service: str, port: str | int) -> Any:
    """Return the handler behind a Service's port, or None when it has no ready pods."""
    found = state.service_backends.get((namespace, service, str(port)))
    return found or state.service_backends.get((namespace, service, port))


class Certificates:
    """TLS contexts by host name, from the Secrets that the Ingresses name."""

    def __init__(self, state: KubeState, default: ssl.SSLContext) -> None:
        self._state = state
        self._made: dict[tuple[str, str], ssl.SSLContext] = {}
        self.context = default
        self.context.sni_callback = self._choose

    def _choose(self, socket: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        for host, namespace, _service, _port, secret in rules(self._state):
            if host == name and secret:
                found = self._state.get("Secret", namespace, secret)
                if found and "tls.crt" in (found.get("data") or {}):
                    socket.context = self._load(found["data"])
                return

    def _load(self, data: Mapping[str, str]) -> ssl.SSLContext:
        key = (data["tls.crt"], data["tls.key"])
        if key not in self._made:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.TemporaryDirectory() as folder:
                pair = Path(folder) / "pair.pem"
                pair.touch(mode=0o600)
                pair.write_bytes(b64decode(data["tls.key"]) + b"\n" + b64decode(data["tls.crt"]))
                context.load_cert_chain(pair)
            self._made[key] = context
        return self._made[key]
