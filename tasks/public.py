"""HTTPS to the platform's public names, as a user's browser goes: by name, through the ingress, with the site's CA."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from stackwright.clients.site import Site
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiUnavailableError, StackError

TIMEOUT_S = 10.0


def public_get(site: Site, url: str) -> HttpAnswer:
    """Get a public address and return the answer, redirects not followed.

    Names that the site file knows are dialled at their address; the certificate is checked for the name all the same.
    Raises ApiUnavailableError when nothing answers or the certificate is not trusted.
    """
    target = httpx.URL(url)
    known = {**site.spec.dns.hosts, **site.resolve}
    extensions = {"sni_hostname": target.host}
    headers = {"Host": target.netloc.decode()}
    address = target.copy_with(host=known.get(target.host, target.host))
    try:
        with httpx.Client(verify=_context(site.spec.ingress.ca_file), timeout=TIMEOUT_S) as client:
            answer = client.get(address, headers=headers, extensions=extensions)
    except httpx.HTTPError as error:
        seen = f"{type(error).__name__}: {error}"
        raise ApiUnavailableError("the public name does not answer", where=url, seen=seen) from error
    return HttpAnswer(answer.status_code, dict(answer.headers), answer.content)


def _context(ca_file: str | None) -> ssl.SSLContext:
    if ca_file and not Path(ca_file).is_file():
        raise StackError("the CA file does not exist", where="ingress.ca_file", wanted="a PEM file", seen=ca_file)
    return ssl.create_default_context(cafile=ca_file)
