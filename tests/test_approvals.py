"""The approvals' process: the name of the login is written over what was typed; what is no answer goes no further."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stackwright.approvals import LARGEST, PERSON, create_app

RUN = f"/api/flow_runs/{uuid4()}/resume"
FORM = {"run_input": {"decision": "carry out", "approver": "Mallory", "reason": "planted-reason"}}


class Prefect:
    """What Prefect was sent, and its answer."""

    def __init__(self, answer: httpx.Response | Exception | None = None) -> None:
        self.sent: list[httpx.Request] = []
        self.answer = answer or httpx.Response(201, json={"status": "ACCEPT"})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ask(prefect: Prefect, body: Any, person: str | None = "bob", path: str = RUN) -> httpx.Response:
    app = create_app("http://prefect/api/", "user:pass", httpx.MockTransport(prefect))
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://proxy") as client:
            return await client.post(path, content=content, headers={PERSON: person} if person else {})

    return asyncio.run(post())


def test_the_login_decides_whose_name_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Sent on with Prefect's own login; the log says who, what and how it ended, and not the reason."""
    prefect = Prefect()
    assert ask(prefect, FORM).json() == {"status": "ACCEPT"}
    (sent,) = prefect.sent
    assert json.loads(sent.content)["run_input"] == {**FORM["run_input"], "approver": "bob"}
    assert sent.url.path == RUN and sent.headers["authorization"].startswith("Basic ")
    line = json.loads(capsys.readouterr().out)
    assert (line["approver"], line["decision"], line["outcome"]) == ("bob", "carry out", "ACCEPT")
    assert "planted-reason" not in str(line)


def test_an_empty_answer_stays_empty() -> None:
    """It approves nothing, as without the proxy: Prefect refuses it."""
    prefect = Prefect()
    for body in ({"run_input": {}}, {}, b""):
        ask(prefect, body)
    assert [json.loads(sent.content).get("run_input") or {} for sent in prefect.sent] == [{}, {}, {}]


@pytest.mark.parametrize("person", [None, "", "a", "bob\tx", "x" * 90, "<b>", "bob carol"])
def test_without_a_name_nothing_is_passed_on(person: str | None) -> None:
    prefect = Prefect()
    assert ask(prefect, FORM, person).status_code == 403 and prefect.sent == []


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 422), ([], 422), ({"run_input": "x"}, 422), ({"run_input": [1]}, 422), (b"x" * (LARGEST + 1), 413)],
)
def test_what_is_no_answer_is_refused(body: Any, status: int) -> None:
    prefect = Prefect()
    assert ask(prefect, body).status_code == status and prefect.sent == []


def test_no_other_route_and_no_lost_server() -> None:
    prefect = Prefect(httpx.ConnectError("planted"))
    for path in ("/api/flow_runs/filter", "/api/flow_runs/x/resume", f"{RUN}/x"):
        assert ask(prefect, FORM, path=path).status_code == 404 and prefect.sent == []
    lost = ask(prefect, FORM)
    assert lost.status_code == 503 and "planted" not in lost.text
