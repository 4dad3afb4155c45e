"""HTTPS to the platform's public names, as a user's browser goes: by name, through the ingress, with the site's CA."""

from __future__ import annotations

from stackwright.clients.http import make_client, wire_errors
from stackwright.clients.site import Site
from stackwright.domain.cluster import HttpAnswer

TIMEOUT_S = 10.0


def public_get(site: Site, url: str) -> HttpAnswer:
    """Get a public address and return the answer, redirects not followed.

    Names that the site file knows are dialled at their address; the certificate is checked for the name all the same.
    Raises ApiUnavailableError when nothing answers, ApiError when the certificate is not trusted.
    """
    known = {name: (address, 0) for name, address in {**site.spec.dns.hosts, **site.resolve}.items()}
    with (
        wire_errors(url, "the public name"),
        make_client("", site.spec.ingress.ca_file, known, TIMEOUT_S) as client,
    ):
        answer = client.get(url)
    return HttpAnswer(answer.status_code, dict(answer.headers), answer.content)
