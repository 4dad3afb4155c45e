"""The way of an approval behind the proxy: whoever logged in there is who decides, whatever was typed into the form.

`python -m stackwright.approvals` takes `POST /api/flow_runs/ID/resume` alone, from a proxy on the same machine that
names the person in X-Stackwright-User, writes that name into the answer's field `approver`, and hands it on to Prefect.
Each is a line of JSON on standard output: who, which run, what was decided, and what Prefect said.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import uvicorn
from prefect.settings import get_current_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

APPROVER = "approver"
PERSON = "x-stackwright-user"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{1,79}")
LARGEST = 64 * 1024
TIMEOUT_S = 60.0


def create_app(url: str, login: str | None, transport: httpx.AsyncBaseTransport | None = None) -> Starlette:
    """Return the application in front of a Prefect API; `login` is its user:password, if it has one."""

    async def resume(request: Request) -> Response:
        person, run = request.headers.get(PERSON, ""), request.path_params["run"]
        if not NAME.fullmatch(person):
            return _refused(403, "the proxy names nobody")
        raw = await _body(request)
        if raw is None:
            return _refused(413, "the answer is too large")
        try:
            answer = _signed(raw, person)
        except ValueError as error:
            return _refused(422, str(error))
        user, _, password = (login or "").partition(":")
        auth = (user, password) if login else None
        async with httpx.AsyncClient(transport=transport, auth=auth, timeout=TIMEOUT_S, trust_env=False) as client:
            try:
                said = await client.post(f"{url.rstrip('/')}/flow_runs/{run}/resume", json=answer)
            except httpx.TransportError as error:
                _log(person, run, answer, f"no answer: {type(error).__name__}")
                return _refused(503, "the Prefect server does not answer")
        _log(person, run, answer, _status(said))
        return Response(said.content, said.status_code, media_type="application/json")

    return Starlette(routes=[Route("/api/flow_runs/{run:uuid}/resume", resume, methods=["POST"])])


async def _body(request: Request) -> bytes | None:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LARGEST:
            return None
    return raw


def _signed(raw: bytes, person: str) -> dict[str, Any]:
    """Return the answer with the person's name in it. Raises ValueError for what is no answer of a form."""
    try:
        answer = json.loads(raw or b"{}")
    except ValueError:
        raise ValueError("the answer is no JSON") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("run_input") or {}, dict):
        raise ValueError("the answer is none of a form")
    given = answer.get("run_input")
    return {**answer, "run_input": {**given, APPROVER: person}} if given else answer


def _status(said: httpx.Response) -> str:
    try:
        return str(said.json()["status"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {said.status_code}"


def _log(person: str, run: UUID, answer: dict[str, Any], outcome: str) -> None:
    decision = str((answer.get("run_input") or {}).get("decision", ""))[:40]
    at = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"at": at, "approver": person, "run": str(run), "decision": decision, "outcome": outcome}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _refused(status: int, why: str) -> JSONResponse:
    return JSONResponse({"detail": why}, status)


def main() -> None:
    """Serve on loopback: the name in the header is believed, so nobody but the proxy may come here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8471)
    settings = get_current_settings().api
    login = settings.auth_string.get_secret_value() if settings.auth_string else None
    if not settings.url:
        raise SystemExit("PREFECT_API_URL is not set")
    uvicorn.run(
        create_app(settings.url, login), host="127.0.0.1", port=parser.parse_args().port, proxy_headers=False,
        server_header=False, access_log=False, log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
