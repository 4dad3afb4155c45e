"""The receiver's promises towards its callers: accept durably, answer the same twice, admit nobody twice."""

from __future__ import annotations

import socket
import sqlite3
import stat
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stackwright.domain.errors import SecretsUnavailableError
from stackwright.webhooks.keys import retire, rotate
from stackwright.webhooks.signing import signed_headers
from tests.webhooks.receiver import KEY, KEY_ID, LARGEST, SITE, Receiver, order

URL = "/v1/tenants"


@pytest.fixture
def receiver(tmp_path: Path):
    with Receiver(tmp_path).running() as running:
        yield running


def headers_of(receiver: Receiver, body: bytes, key: str, key_id: str = KEY_ID, secret: str = KEY) -> dict[str, str]:
    signed = signed_headers("portal", key_id, secret, receiver.stamp(), "POST", URL, key, body)
    return {**signed, "Content-Type": "application/json"}


def test_a_receiver_forgets_by_itself_what_it_need_not_know_any_more(tmp_path: Path) -> None:
    """At its start and every hour; a tenant that is there keeps its last request."""
    place = Receiver(tmp_path, retention_days=2)
    with place.running():
        place.onboard()
        place.wait("green", "ended")
        place.send("PATCH", f"{URL}/{SITE}/green", {"action": "suspend"})
        place.wait("green", "ended")
        assert len(place.tenant()["requests"]) == 2
    place.clock.ahead_s += 3 * 86400
    with place.running():
        deadline = time.monotonic() + 60
        while len(found := place.tenant()["requests"]) == 2:
            assert time.monotonic() < deadline
        assert [request["action"] for request in found] == ["suspend"]
        assert "stackwright_webhooks_purged_total 1.0" in place.client.get("/metrics").text


# --- the way of a request --------------------------------------------------------------------------------------------


def test_a_request_is_kept_dispatched_and_ended(receiver: Receiver) -> None:
    """From the signed request to the hand-over: the block's name, never what is in it."""
    answer = receiver.onboard(admin_name="Zoë Müller")
    assert answer.status_code == 202, answer.text
    found = receiver.wait("green", "ended")
    assert found["state"] == "ready"
    assert found["hand_over"] == {"credentials_block": "clearml-tenant-green", "namespace": "clearml-green"}
    (request,) = found["requests"]
    assert request["outcome"] == "completed" and request["run"]["name"] == "run-green"
    (run,) = receiver.runs.of("green")
    assert receiver.runs.parameters[run]["wanted"]["admin_name"] == "Zoë Müller"
    assert 'stackwright_webhooks_ended_total{outcome="completed"} 1.0' in receiver.client.get("/metrics").text


def test_a_tenant_changes_and_leaves(receiver: Receiver) -> None:
    """Quota, suspension, archive, deletion: each a request with its run, and the name is free in the end."""
    receiver.onboard()
    quota = {"cpu": 32, "memory_gib": 64, "gpus": 0, "storage_gib": 300, "pods": 60}
    for body, state in (
        ({"action": "change", "changes": {"quota": quota}}, "ready"),
        ({"action": "suspend"}, "suspended"),
        ({"action": "resume"}, "ready"),
        ({"action": "rotate"}, "ready"),
    ):
        assert receiver.send("PATCH", f"{URL}/{SITE}/green", body).status_code == 202
        assert receiver.wait("green", "ended")["state"] == state
    change = receiver.runs.parameters[receiver.runs.of("green")[1]]
    assert change["changes"]["quota"] == quota and change["changes"]["queues"] is None
    archived = receiver.send("DELETE", f"{URL}/{SITE}/green?retention=archive&stop_running=true")
    assert archived.status_code == 202 and receiver.wait("green", "ended")["state"] == "archived"
    assert receiver.runs.parameters[receiver.runs.of("green")[-1]]["stop_running"] is True
    assert receiver.onboard().status_code == 409
    assert receiver.send("PATCH", f"{URL}/{SITE}/green", {"action": "resume"}).status_code == 409
    deleted = receiver.send("DELETE", f"{URL}/{SITE}/green?retention=delete&confirm=green")
    assert deleted.status_code == 202 and receiver.wait("green", "ended")["state"] == "deleted"
    assert receiver.send("PATCH", f"{URL}/{SITE}/green", {"action": "resume"}).status_code == 404
    assert receiver.onboard().status_code == 202


def test_a_deletion_must_be_asked_for_after_the_archive_is_done(receiver: Receiver) -> None:
    """Both at once would be one mistake, not two decisions."""
    receiver.onboard()
    receiver.wait("green", "ended")
    receiver.runs.ends_as = None
    assert receiver.send("DELETE", f"{URL}/{SITE}/green?retention=archive").status_code == 202
    assert receiver.send("DELETE", f"{URL}/{SITE}/green?retention=delete&confirm=green").status_code == 409


@pytest.mark.parametrize(("state", "name"), [("FAILED", "Undone"), ("COMPLETED", "Refused")])
def test_an_onboarding_that_failed_may_be_asked_for_again(receiver: Receiver, state: str, name: str) -> None:
    """What a run says in the end is the answer; the name is not lost by it."""
    receiver.runs.ends_as = None
    receiver.onboard()
    receiver.wait("green", "dispatched")
    receiver.runs.put(receiver.runs.of("green")[0], state, name, "the quota cannot be met")
    found = receiver.wait("green", "ended")
    assert found["hand_over"] is None and found["requests"][0]["message"] == "the quota cannot be met"
    assert found["requests"][0]["outcome"] == name.lower()
    assert receiver.onboard().status_code == 202


def test_a_tenant_that_is_held_is_not_handed_over_and_may_be_asked_for_again(receiver: Receiver) -> None:
    """It is made, and not apart from others: it keeps its name and its share, and its caller may try once more."""
    receiver.runs.ends_as = None
    receiver.onboard()
    receiver.wait("green", "dispatched")
    receiver.runs.put(receiver.runs.of("green")[0], "FAILED", "NotIsolated", "blue was reached")
    found = receiver.wait("green", "ended")
    assert (found["state"], found["hand_over"]) == ("held", None)
    assert found["requests"][0]["outcome"] == "held" and found["requests"][0]["message"] == "blue was reached"
    other = receiver.send("POST", URL, order(admin_email="other@green.example"), caller="other")
    assert other.status_code == 409
    assert receiver.onboard().status_code == 202


def test_a_failed_tenant_is_not_for_another_caller(receiver: Receiver) -> None:
    receiver.runs.ends_as = "CANCELLED"
    receiver.onboard()
    receiver.wait("green", "ended")
    body = order(admin_email="other@green.example")
    assert receiver.send("POST", URL, body, caller="other").status_code == 409


def test_callers_see_their_own_tenants_page_by_page(receiver: Receiver) -> None:
    """Others' tenants are not there for a caller, in the list and one by one."""
    for name in ("amber", "beige", "coral"):
        assert receiver.onboard(name).status_code == 202
    assert receiver.send("POST", URL, order("denim"), caller="other").status_code == 202
    first = receiver.send("GET", f"{URL}?site={SITE}&limit=2").json()
    assert [tenant["name"] for tenant in first["tenants"]] == ["amber", "beige"] and first["next"] == "beige"
    rest = receiver.send("GET", f"{URL}?site={SITE}&limit=2&after=beige").json()
    assert [tenant["name"] for tenant in rest["tenants"]] == ["coral"] and rest["next"] is None
    assert receiver.send("GET", f"{URL}/{SITE}/denim").status_code == 404
    assert receiver.send("GET", f"{URL}/{SITE}/denim", caller="other").status_code == 200
    assert receiver.send("GET", f"{URL}?site=berlin").status_code == 403


def test_a_caller_has_so_many_tenants_at_most(tmp_path: Path) -> None:
    callers = {"portal": {"sites": [SITE], "largest": LARGEST, "tenants": 1}}
    with Receiver(tmp_path, callers=callers).running() as receiver:
        assert receiver.onboard("amber").status_code == 202
        refused = receiver.onboard("beige")
        assert refused.status_code == 403 and "as many tenants" in refused.text


def test_promised_gpus_count_what_was_only_asked_for(receiver: Receiver) -> None:
    """The lab has four GPUs and its site file promises three: one request takes the last, the next is a clash."""
    receiver.runs.away = True
    quota = {"cpu": 8, "memory_gib": 32, "gpus": 1, "storage_gib": 100, "pods": 20}
    assert receiver.onboard("amber", quota=quota).status_code == 202
    refused = receiver.onboard("beige", quota=quota)
    assert refused.status_code == 409 and "more GPUs than the site has" in refused.text


# --- replay and idempotency ------------------------------------------------------------------------------------------


def test_a_replayed_request_is_refused(receiver: Receiver) -> None:
    """The very same bytes again, within the window and after a restart."""
    body = receiver.client.build_request("POST", URL, json=order()).content
    headers = headers_of(receiver, body, "replayed-key-1")
    assert receiver.client.post(URL, content=body, headers=headers).status_code == 202
    again = receiver.client.post(URL, content=body, headers=headers)
    assert again.status_code == 401 and "used before" in again.text
    with receiver.running():
        assert receiver.client.post(URL, content=body, headers=headers).status_code == 401
    assert len(receiver.runs.created) <= 1


def test_the_window_closes(receiver: Receiver) -> None:
    """A signature is worth nothing once its time is over, and none is worth anything before its time."""
    body = receiver.client.build_request("POST", URL, json=order()).content
    headers = headers_of(receiver, body, "window-key-1")
    receiver.clock.ahead_s = 301
    assert "too far" in receiver.client.post(URL, content=body, headers=headers).text
    receiver.clock.ahead_s = -301
    assert receiver.client.post(URL, content=body, headers=headers).status_code == 401


def test_the_same_key_and_body_get_the_same_answer(receiver: Receiver) -> None:
    """Once before it is done, once after: carried out once."""
    first = receiver.send("POST", URL, order(), key="one-and-only-key")
    receiver.wait("green", "ended")
    again = receiver.send("POST", URL, order(), key="one-and-only-key")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert len(receiver.runs.created) == 1 and len(receiver.tenant()["requests"]) == 1


def test_the_same_key_for_another_request_is_refused(receiver: Receiver) -> None:
    receiver.send("POST", URL, order(), key="one-and-only-key")
    for method, target, body in (
        ("POST", URL, order("amber")),
        ("PATCH", f"{URL}/{SITE}/green", {"action": "suspend"}),
        ("DELETE", f"{URL}/{SITE}/green?retention=archive", None),
    ):
        refused = receiver.send(method, target, body, key="one-and-only-key")
        assert refused.status_code == 422 and "another request" in refused.text
    assert receiver.send("POST", URL, order("amber"), key="one-and-only-key", caller="other").status_code == 202


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_body_without_a_length_is_cut_at_the_limit(receiver: Receiver) -> None:
    """Chunked: the receiver stops reading; it does not take it all in to find that it is too long."""
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(2000):
            sent += 65536
            yield b" " * 65536

    headers = headers_of(receiver, b"", "chunked-key-1")
    try:
        answer = receiver.client.post(URL, content=endless(), headers=headers)
    except Exception as error:  # the receiver hung up while we were still sending
        assert "closed" in str(error).lower() or "broken pipe" in str(error).lower() or "reset" in str(error).lower()
    else:
        assert answer.status_code == 413
    assert sent < 2000 * 65536
    assert receiver.client.get("/healthz").status_code == 200


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    """A length is told and nothing follows."""
    with Receiver(tmp_path, body_timeout_s=0.2).running() as receiver:
        headers = headers_of(receiver, b"", "slow-key-0001")
        head = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        with socket.create_connection((receiver.client.base_url.host, receiver.client.base_url.port or 0)) as wire:
            wire.settimeout(60)
            wire.sendall(f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n{head}\r\n".encode())
            assert b" 408 " in wire.recv(4096).split(b"\r\n", 1)[0]


def test_a_caller_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    """Others are not held up by it, and time lets it in again."""
    callers: dict[str, Any] = {
        "portal": {"sites": [SITE], "largest": LARGEST, "per_minute": 6, "burst": 2},
        "other": {"sites": [SITE], "largest": LARGEST},
    }
    with Receiver(tmp_path, callers=callers).running() as receiver:
        target = f"{URL}?site={SITE}"
        assert [receiver.send("GET", target).status_code for _ in range(3)] == [200, 200, 429]
        refused = receiver.send("POST", URL, order())
        assert refused.status_code == 429 and 1 <= int(refused.headers["Retry-After"]) <= 11
        assert receiver.send("GET", target, caller="other").status_code == 200
        receiver.clock.ahead_s = 11
        assert receiver.send("GET", target).status_code == 200
        assert not receiver.runs.created


def test_wrong_signatures_do_not_use_up_a_callers_rate(tmp_path: Path) -> None:
    """A stranger cannot lock a caller out by using its name."""
    callers = {"portal": {"sites": [SITE], "largest": LARGEST, "per_minute": 1, "burst": 1}}
    with Receiver(tmp_path, callers=callers).running() as receiver:
        for _ in range(5):
            assert (
                receiver.send("GET", f"{URL}?site={SITE}", X_Stackwright_Signature="v1=" + "0" * 64).status_code == 401
            )
        assert receiver.send("GET", f"{URL}?site={SITE}").status_code == 200


# --- keys ------------------------------------------------------------------------------------------------------------


def try_key(receiver: Receiver, key_id: str, secret: str) -> int:
    body = receiver.client.build_request("POST", URL, json=order(f"t-{uuid.uuid4().hex[:8]}")).content
    return receiver.client.post(
        URL, content=body, headers=headers_of(receiver, body, uuid.uuid4().hex, key_id, secret)
    ).status_code


def test_keys_rotate_without_a_restart(receiver: Receiver) -> None:
    """Old and new are valid side by side; then the old one is retired and the new one stays."""
    assert try_key(receiver, KEY_ID, KEY) == 202
    new_id, new = rotate(receiver.secrets, "webhook-portal")
    assert new_id != KEY_ID and len(new.get_secret_value()) == 64
    receiver.clock.ahead_s = 2
    assert try_key(receiver, new_id, new.get_secret_value()) == 202
    assert try_key(receiver, KEY_ID, KEY) == 202
    with pytest.raises(Exception, match="the previous key is still valid"):
        rotate(receiver.secrets, "webhook-portal")
    assert retire(receiver.secrets, "webhook-portal") == KEY_ID
    assert retire(receiver.secrets, "webhook-portal") == ""
    receiver.clock.ahead_s = 4
    assert try_key(receiver, "ffffffff", KEY) == 401  # an unknown id makes the receiver look at the block
    assert try_key(receiver, KEY_ID, KEY) == 401
    assert try_key(receiver, new_id, new.get_secret_value()) == 202


def test_keys_are_read_again_by_themselves(tmp_path: Path) -> None:
    """A retired key ends within the reload time, though nobody asks with an unknown one."""
    with Receiver(tmp_path, keys_reload_s=0.05).running() as receiver:
        receiver.secrets.put("portal", "11112222", "f" * 64)
        for _ in range(200):
            if try_key(receiver, KEY_ID, KEY) == 401:
                break
        else:
            pytest.fail("the old key is still valid")


def test_keys_outlive_prefect_for_a_while_and_no_longer(receiver: Receiver) -> None:
    """Without Prefect the known keys hold for their time; then nobody is let in, and readiness says so."""
    assert try_key(receiver, KEY_ID, KEY) == 202
    receiver.secrets.away = SecretsUnavailableError("the block cannot be read")
    receiver.clock.ahead_s = 3000
    assert try_key(receiver, KEY_ID, KEY) == 202
    receiver.clock.ahead_s = 3700
    assert try_key(receiver, KEY_ID, KEY) == 503
    answer = receiver.client.get("/readyz")
    assert answer.status_code == 503 and "keys of caller portal" in answer.text


# --- readiness and the store -----------------------------------------------------------------------------------------


def test_readiness_says_what_is_wrong(receiver: Receiver) -> None:
    """Without Prefect requests are kept, so it stays ready in a degraded way, and says why."""
    receiver.runs.away = True
    answer = receiver.client.get("/readyz")
    assert answer.status_code == 200 and answer.json()["status"] == "degraded"
    assert any("Prefect server does not answer" in problem for problem in answer.json()["problems"])
    assert any("site gone" in problem for problem in answer.json()["problems"])
    assert receiver.onboard().status_code == 202
    assert "stackwright_webhooks_prefect_up 0.0" in receiver.client.get("/metrics").text


def test_a_store_that_cannot_be_written_is_no_readiness_and_no_acceptance(receiver: Receiver) -> None:
    """202 is never said for what is not on the disk."""
    with closing(sqlite3.connect(receiver.folder / "requests.db", isolation_level=None)) as db:
        db.execute("DROP TABLE webhook_requests")
        db.execute("DROP TABLE webhook_gate")
        assert receiver.onboard().status_code == 503
        answer = receiver.client.get("/readyz")
        assert answer.status_code == 503 and "store does not answer" in answer.text


def test_the_store_is_for_its_user_alone(receiver: Receiver) -> None:
    """Folder 0700, every file 0600."""
    receiver.onboard()
    assert stat.S_IMODE(receiver.folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in receiver.folder.iterdir()}
    assert set(modes) >= {"requests.db", "requests.db-wal"} and set(modes.values()) == {0o600}


def test_a_site_whose_file_is_missing_is_not_worked_on(receiver: Receiver) -> None:
    body = {**order(), "site": "gone"}
    assert receiver.send("POST", URL, body, caller="other").status_code == 503


def test_a_dispatcher_that_has_ended_is_no_health(receiver: Receiver) -> None:
    """A row that nobody can read ends it: that is said aloud, so that the process is started again and looked at."""
    receiver.runs.ends_as = None
    receiver.onboard()
    receiver.wait("green", "dispatched")
    assert receiver.client.get("/healthz").status_code == 200
    with closing(sqlite3.connect(receiver.folder / "requests.db", isolation_level=None, timeout=10)) as db:
        db.execute("UPDATE webhook_requests SET document = '{}'")
    deadline = time.monotonic() + 60
    while receiver.client.get("/healthz").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "background task has ended" in receiver.client.get("/healthz").text
