"""The ClearML client: what answers become, what errors say, and that no secret leaves it."""

import json
import ssl

import httpx
import pytest
from pydantic import SecretStr

from stackwright.clients.clearml import ClearmlClient, exactly, read_envelope
from stackwright.clients.clearml_types import task_of, usage_of
from stackwright.clients.http import make_client, wire_errors
from stackwright.domain.errors import ApiError, ApiUnavailableError, ConflictError, NotFoundError
from stackwright.lab.clearml.alone import SYSTEM_KEY, SYSTEM_SECRET, clearml_alone
from stackwright.lab.net import Authority

SECRET = "planted-secret-of-the-test"


def answer(status, code=0, text="text", data=None):
    meta = {"result_code": status, "result_subcode": code, "result_msg": text}
    return httpx.Response(status, json={"meta": meta, "data": data or {}})


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 101, NotFoundError),
        (400, 701, NotFoundError),
        (400, 300, NotFoundError),
        (404, 0, NotFoundError),
        (400, 801, ConflictError),
        (400, 706, ConflictError),
        (400, 301, ApiError),
        (400, 12, ApiError),
        (401, 22, ApiError),
        (403, 20, ApiError),
        (500, 100, ApiError),
        (500, 102, ApiUnavailableError),
        (503, 0, ApiUnavailableError),
        (429, 0, ApiUnavailableError),
    ],
)
def test_codes_become_our_errors(status, code, kind):
    """The sub-code decides; status and code stay readable; a secret in the server's words is hidden."""
    with pytest.raises(ApiError) as caught:
        read_envelope(answer(status, code, f"said {SECRET}"), "x.y", "https://api/x.y", hide=(SecretStr(SECRET),))
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.transient is (kind is ApiUnavailableError)
    assert SECRET not in str(caught.value) and "https://api/x.y" in str(caught.value)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(502, text="<html>bad gateway</html>"), ApiUnavailableError),
        (httpx.Response(503, text="no available server"), ApiUnavailableError),
        (httpx.Response(404, text="404 page not found"), ApiError),
        (httpx.Response(200, text="<html>a login page</html>"), ApiError),
        (httpx.Response(200, json={"data": {}}), ApiError),
        (httpx.Response(200, json=[1]), ApiError),
    ],
)
def test_answers_of_something_else_are_told_apart(response, kind):
    """An ingress, a load balancer or a login page is named as such, never taken for an empty answer."""
    with pytest.raises(ApiError, match="not answered by ClearML") as caught:
        read_envelope(response, "x.y", "https://api/x.y", hide=(SecretStr(SECRET),))
    assert type(caught.value) is kind


def test_nobody_listening_is_transient(tmp_path):
    """A refused connection and an unknown name are worth another look."""
    context = ssl.create_default_context()
    closed = ClearmlClient(
        "https://api.test", "K", SecretStr(SECRET), context, {"api.test": ("127.0.0.1", 1)}, timeout_s=2
    )
    with pytest.raises(ApiUnavailableError) as caught:
        closed.server_info()
    assert SECRET not in str(caught.value) + repr(closed) + str(closed.__dict__)
    assert "Basic" not in str(caught.value)


def test_time_out_is_transient(tmp_path):
    """A server that holds its answer back is given up after timeout_s."""
    import asyncio

    async def gate(wire, target, action):
        await asyncio.sleep(5)

    with clearml_alone(tmp_path, gate=gate) as slow:
        client = ClearmlClient(slow.api_url, SYSTEM_KEY, SecretStr(SYSTEM_SECRET), slow.ca_file, slow.resolve, 0.2)
        with pytest.raises(ApiUnavailableError, match="no answer in time"):
            client.server_info()


def test_untrusted_certificate_is_refused_and_not_retried(tmp_path):
    """Another CA, or a name that the certificate lacks, is no transient error."""
    other = tmp_path / "other.pem"
    other.write_text(Authority("another CA").certificate)
    with clearml_alone(tmp_path) as trial:
        key = (SYSTEM_KEY, SecretStr(SYSTEM_SECRET))
        with pytest.raises(ApiError, match="certificate is not trusted") as caught:
            ClearmlClient(trial.api_url, *key, other, trial.resolve).server_info()
        assert not caught.value.transient
        wrong = {"api.elsewhere.test": ("127.0.0.1", trial.served.port)}
        with pytest.raises(ApiError, match="certificate is not trusted"):
            ClearmlClient("https://api.elsewhere.test", *key, trial.ca_file, wrong).server_info()


def test_name_is_kept_where_the_address_is_given(tmp_path):
    """With `resolve`, Host header and TLS name stay the name; port 0 keeps the URL's."""
    with clearml_alone(tmp_path) as trial:
        assert trial.client().server_info().version
        kept = {"api.ml.test": ("127.0.0.1", 0)}
        url = f"https://api.ml.test:{trial.served.port}"
        with make_client(url, trial.ca_file, kept, 5) as http:
            seen = http.post("/debug.ping", headers={"Host": "api.ml.test"})
            assert seen.status_code == 200
            assert seen.request.url.host == "api.ml.test"


def test_proxies_of_the_machine_are_not_used(tmp_path, monkeypatch):
    """HTTPS_PROXY does not get to see the key."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with clearml_alone(tmp_path) as trial:
        assert trial.client().login_ok()


def test_connection_is_kept_inside_a_with_block(tmp_path):
    """The client works with and without the block, and after it."""
    with clearml_alone(tmp_path) as trial:
        with trial.client() as client:
            assert client.login_ok() and client.login_ok()
        assert client.login_ok()


def test_all_pages_are_read(tmp_path, monkeypatch):
    """Lists longer than a page are whole."""
    monkeypatch.setattr("stackwright.clients.clearml.PAGE", 3)
    with clearml_alone(tmp_path) as trial:
        tenant = trial.tenant("pages")
        names = {f"queue-{i}" for i in range(6)}
        for name in names:
            tenant.create_queue(name)
        assert {queue.name for queue in tenant.queues()} == names


def test_queue_made_meanwhile_by_an_agent_is_taken(tmp_path):
    """The conflict of a race ends in the queue that is there."""
    with clearml_alone(tmp_path) as trial:
        tenant = trial.tenant("race")
        made = tenant.create_queue("gpu")
        usual, looks = tenant.find_queue, []

        def find_late(name):
            looks.append(name)
            return usual(name) if len(looks) > 1 else None

        tenant.find_queue = find_late
        assert tenant.create_queue("gpu") == made


def test_names_are_patterns_on_the_server_only():
    """A name with special characters matches itself alone."""
    assert exactly("a.b (c)") == r"^a\.b\ \(c\)$"


def test_task_values_survive_missing_fields():
    """Half-filled tasks, as a server may give them, are read without a guess."""
    task = task_of({"id": "t", "execution": None, "last_metrics": None})
    assert (task.status, task.metrics, task.artifacts, task.ended) == ("", (), (), False)
    metrics = {"m": {"v": {"metric": "train", "variant": "loss", "value": 1}}, "n": {"x": {"value": None}}}
    found = task_of({"id": "t", "last_metrics": metrics}).metric("train", "loss")
    assert found is not None and (found.value, found.minimum, found.first) == (1.0, 1.0, None)
    assert usage_of({"key": "k8s", "gpus": {"total": 4}, "workers": 2}).workers == 2


def test_wire_errors_hide_nothing_of_value():
    """The address of a wrong URL is in the message, the key never was."""
    with pytest.raises(ApiError), wire_errors("https://x", "x.y"), httpx.Client() as http:
        http.get("http://[broken")


def test_answers_hold_secrets_as_secrets(tmp_path):
    """A new key's secret shows in no repr."""
    with clearml_alone(tmp_path) as trial:
        tenant = trial.tenant("shown")
        key = tenant.create_credentials("second")
        assert key.secret_key.get_secret_value() not in repr(key) + str(key)
        assert key.secret_key.get_secret_value() not in json.dumps([str(item) for item in tenant.list_credentials()])
