"""HTTP for every REST client: TLS against a site's own CA, names reached at given addresses, and errors as ours.

What a product's answers mean lives with that product's client.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from stackwright.clients.trips import trip
from stackwright.domain.errors import ApiError, ApiUnavailableError

Resolve = Mapping[str, tuple[str, int]]
UNAVAILABLE = frozenset({429, 502, 503, 504})


class ResolvingTransport(httpx.BaseTransport):
    """Reach names at given (address, port) pairs; the Host header and TLS's server name stay the name.

    Port 0 keeps the port of the URL. Names that are not given are looked up as usual.
    """

    def __init__(self, verify: ssl.SSLContext, resolve: Resolve, limits: httpx.Limits, wire: str = "http") -> None:
        self._inner = httpx.HTTPTransport(verify=verify, trust_env=False, limits=limits)
        self._resolve, self._wire = resolve, wire

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with trip(self._wire, request.method.lower()) as made:
            response = self._send(request)
            made.answered(response.status_code)
        return response

    def _send(self, request: httpx.Request) -> httpx.Response:
        target = self._resolve.get(request.url.host)
        if target is None:
            return self._inner.handle_request(request)
        address, port = target
        return self._inner.handle_request(
            httpx.Request(
                request.method,
                request.url.copy_with(host=address, port=port or request.url.port),
                headers=request.headers,  # holds the Host header already
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.host},
            )
        )

    def close(self) -> None:
        self._inner.close()


def tls_context(ca_file: str | Path | None) -> ssl.SSLContext:
    """Return a verifying context: the machine's own trust, or one CA file alone."""
    return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)


def make_client(
    base_url: str,
    ca_file: str | Path | ssl.SSLContext | None = None,
    resolve: Resolve | None = None,
    timeout_s: float = 30.0,
    auth: httpx.Auth | tuple[str, str] | None = None,
    wire: str = "http",
) -> httpx.Client:
    """Make a client without proxies, redirects or retries: retrying is the task's business.

    `wire` is what its round trips are counted as (domain/figures.py).
    """
    verify = ca_file if isinstance(ca_file, ssl.SSLContext) else tls_context(ca_file)
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
    return httpx.Client(
        base_url=base_url,
        transport=ResolvingTransport(verify, resolve or {}, limits, wire),
        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
        auth=auth,
        trust_env=False,
    )


@contextmanager
def wire_errors(where: str, what: str) -> Iterator[None]:
    """Turn httpx's exceptions into ours. A certificate that fails verification is not worth a retry."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ApiUnavailableError(f"{what} got no answer in time", where=where, seen=type(error).__name__) from error
    except httpx.TransportError as error:
        certificate = _certificate_error(error)
        if certificate is not None:
            remedy = "Give the CA that signed the service's certificate, and a name that the certificate holds."
            seen = certificate.verify_message
            raise ApiError("the certificate is not trusted", where=where, seen=seen, remedy=remedy) from error
        raise ApiUnavailableError(f"{what} did not reach the service", where=where, seen=str(error)) from error
    except httpx.InvalidURL as error:
        raise ApiError("the address is not a URL", where=where, seen=str(error)) from error


def _certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
