"""HTTPS to the platform's public names, as a user's browser goes: by name, through the ingress, with the site's CA."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from stackwright.clients.http import make_client, wire_errors
from stackwright.clients.site import Site
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.tenant_names import static_address

TIMEOUT_S = 10.0


def public_get(site: Site, url: str, headers: Mapping[str, str] | None = None) -> HttpAnswer:
    """Get a public address and return the answer, redirects not followed. `headers` may hold a login.

    Names that the site file knows are dialled at their address; the certificate is checked for the name all the same.
    Raises ApiUnavailableError when nothing answers, ApiError when the certificate is not trusted.
    """
    host = urlsplit(url).hostname or ""
    address = static_address({**site.spec.dns.hosts, **site.resolve}, host)
    known = {host: (address, 0)} if address else {}
    with (
        wire_errors(url, "the public name"),
        make_client("", site.spec.ingress.ca_file, known, TIMEOUT_S) as client,
    ):
        answer = client.get(url, headers=dict(headers or {}))
    return HttpAnswer(answer.status_code, dict(answer.headers), answer.content)
