"""Public names as a user's machine sees them: the addresses that a name leads to, and the certificate served there."""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from stackwright.clients.http import tls_context

TIMEOUT_S = 5.0


class Names(Protocol):
    """What the check of a public name asks of the network."""

    def addresses(self, name: str) -> frozenset[str]:
        """Return the addresses that the machine's own resolver gives; none where it knows no such name."""
        ...

    def refusal(self, name: str, address: str, port: int, ca_file: str | None) -> tuple[str, str]:
        """Speak TLS for a name; return (why its certificate is refused, why nothing was heard), both empty if good."""
        ...


class SystemNames:
    """The real network."""

    def addresses(self, name: str) -> frozenset[str]:
        try:
            return frozenset(str(row[4][0]) for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
        except socket.gaierror:
            return frozenset()

    def refusal(self, name: str, address: str, port: int, ca_file: str | None) -> tuple[str, str]:
        context = tls_context(ca_file)
        try:
            with (
                socket.create_connection((address, port), TIMEOUT_S) as link,
                context.wrap_socket(link, server_hostname=name),
            ):
                return "", ""
        except ssl.SSLCertVerificationError as error:
            return error.verify_message or "not verified", ""
        except (OSError, ssl.SSLError) as error:
            return "", f"{address}:{port}: {error.strerror or type(error).__name__}"
