"""The registry wire, for looking only: does a registry have an image or a chart, and what is its digest. No layer is
fetched here. OCI distribution specification 1.1; token login as the Docker registry documents it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from stackwright.clients.http import make_client, wire_errors
from stackwright.domain.errors import StackError
from stackwright.domain.preflight.seen import PullSeen
from stackwright.domain.preflight.wants import Pull

TIMEOUT_S = 10.0
INDEX_LIMIT = 64 << 20
ACCEPT = ", ".join([
    "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
])  # fmt: skip
Login = tuple[SecretStr, SecretStr]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def ask(pull: Pull, login: Login | None, resolve: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> PullSeen:
    """Ask for one chart or image. Never raises for what the registry says: that is the answer."""
    places = {name: (address, 0) for name, address in resolve.items()}
    try:
        with make_client(pull.base, pull.ca_file or None, places, timeout_s, wire="registry") as client:
            if pull.kind == "repository":
                return _index(client, pull)
            return _manifest(client, pull, login)
    except StackError as error:
        return PullSeen(error=error.seen or error.what)
    except OSError as error:  # a CA file that cannot be read
        return PullSeen(error=error.strerror or type(error).__name__)


def _manifest(client: httpx.Client, pull: Pull, login: Login | None) -> PullSeen:
    """Read the manifest; of an index, the first image's too, for the blob that hosts fetch."""
    headers = {"Accept": ACCEPT}
    answer = _get(client, pull, pull.tag, headers, login)
    if answer.status_code == 401:
        headers |= _token(client, answer.headers.get("WWW-Authenticate", ""), login)
        answer = _get(client, pull, pull.tag, headers, None if "Authorization" in headers else login)
    if answer.status_code != 200:
        return PullSeen(answer.status_code, error=f"HTTP {answer.status_code} for {pull.repository}:{pull.tag}")
    digest = answer.headers.get("Docker-Content-Digest", "")
    content = _content(answer)
    images = content.get("manifests") or ()
    if images:
        inner = str(images[0].get("digest", ""))
        answer = _get(client, pull, inner, headers, None if "Authorization" in headers else login)
        content = _content(answer) if answer.status_code == 200 else {}
    blob = str((content.get("config") or {}).get("digest", ""))
    return PullSeen(200, digest, blob if DIGEST.fullmatch(blob) else "")


def _get(
    client: httpx.Client, pull: Pull, reference: str, headers: Mapping[str, str], login: Login | None
) -> httpx.Response:
    auth = (login[0].get_secret_value(), login[1].get_secret_value()) if login else None
    with wire_errors(pull.host, f"asking for {pull.repository}"):
        return client.get(f"/v2/{pull.repository}/manifests/{reference}", headers=dict(headers), auth=auth)


def _content(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = json.loads(answer.content)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _token(client: httpx.Client, challenge: str, login: Login | None) -> dict[str, str]:
    """Get a token that reads this repository, where the registry asks for one; nothing for plain logins."""
    if not challenge.lower().startswith("bearer "):
        return {}
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    if not realm.startswith("https://"):  # a login goes nowhere else
        return {}
    auth = (login[0].get_secret_value(), login[1].get_secret_value()) if login else None
    with wire_errors(realm, "asking for a token"):
        answer = client.get(realm, params=fields, auth=auth)
    content = _content(answer)
    token = content.get("token") or content.get("access_token")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _index(client: httpx.Client, pull: Pull) -> PullSeen:
    """Look for the chart's archive in a classic repository's index, which can be large: it is not parsed."""
    wanted = f"{pull.repository}-{pull.tag}.tgz".encode()
    seen, read = b"", 0
    with (
        wire_errors(pull.host, "reading the index"),
        client.stream("GET", f"{pull.base.rstrip('/')}/index.yaml", follow_redirects=True) as answer,
    ):
        if answer.status_code != 200:
            return PullSeen(answer.status_code, error=f"HTTP {answer.status_code} for index.yaml")
        for part in answer.iter_bytes():
            read += len(part)
            if wanted in (seen := seen[-len(wanted) :] + part):
                return PullSeen(200)
            if read > INDEX_LIMIT:
                return PullSeen(error=f"index.yaml is larger than {INDEX_LIMIT >> 20} MiB")
    return PullSeen(404, error=f"{pull.repository} {pull.tag} is not in index.yaml")
