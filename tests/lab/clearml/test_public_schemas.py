"""The stand-in against what is public of the real server: the SDK's schemas of requests and answers, the error table.

The schemas are those that the real SDK carries (service v2.23) and checks against itself; services that only the
Enterprise server has are in no public schema: they are held to the reference by test_clearml_standin.py alone.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping
from functools import cache

import clearml.backend_api.services.v2_23 as sdk
import jsonschema
import pytest

from stackwright.clients.http import make_client
from stackwright.lab.clearml.alone import clearml_alone
from stackwright.lab.clearml.faults import TABLE, Refusal
from stackwright.lab.clearml.server import ENDPOINTS

KINDS = {
    "text": {"string"},
    "list": {"array"},
    "object": {"object"},
    "yesno": {"boolean"},
    "number": {"number", "integer"},
}
# Fields that the real server needs although its schema does not say so, and the other way round: the implementation of
# revoke_credentials reads access_key, and edit_user needs its user; an event is a union of kinds with these in common.
# ClearML server: services/auth.py, apimodels/auth.py, schema/services/events.conf.
NEEDED = {"auth.edit_user": {"user"}, "events.add": {"task", "type"}}
NOT_NEEDED = {"auth.revoke_credentials": {"key_id"}}


def classes(kind: str) -> dict[str, type]:
    """Return the SDK's models of requests or answers, by endpoint."""
    found = {}
    for module in pkgutil.iter_modules(sdk.__path__):
        models = vars(importlib.import_module(f"{sdk.__name__}.{module.name}"))
        for name, model in models.items():
            if inspect.isclass(model) and name.endswith(kind) and getattr(model, "_action", None):
                found[f"{model._service}.{model._action}"] = model
    return found


@cache
def schemas(kind: str) -> Mapping[str, dict]:
    return {name: model._schema for name, model in classes(kind).items() if isinstance(model._schema, dict)}


COMMON = sorted(ENDPOINTS.keys() & schemas("Request").keys())


def test_the_sdks_endpoints_are_the_ones_compared():
    """The comparison below is about something: most of what the SDK's workloads call is in it."""
    assert len(COMMON) > 50
    assert {"tasks.create", "tasks.completed", "queues.create", "projects.get_all"} <= set(COMMON)


@pytest.mark.parametrize("name", COMMON)
def test_required_fields_are_the_schemas(name):
    """A request that the real server would refuse is refused, and none that it would take."""
    wanted = set(schemas("Request")[name].get("required") or ())
    assert set(ENDPOINTS[name].needs) == (wanted | NEEDED.get(name, set())) - NOT_NEEDED.get(name, set())


@pytest.mark.parametrize("name", COMMON)
def test_types_of_fields_are_the_schemas(name):
    """A field that is checked here has the type that the schema gives it."""
    known = schemas("Request")[name].get("properties") or {}
    for field, kind in ENDPOINTS[name].types.items():
        given = known.get(field)
        if given is None:
            continue  # the real server ignores fields that its schema does not have
        types = {given["type"]} if isinstance(given.get("type"), str) else set(given.get("type") or ())
        if "$ref" in given:
            types = {"object"} if given["$ref"].split("/")[-1] not in _texts(name) else {"string"}
        assert KINDS[kind] & types, (field, kind, given)


def _texts(name: str) -> set[str]:
    """Return the definitions of a request's schema that are texts, such as enumerations."""
    definitions = schemas("Request")[name].get("definitions") or {}
    return {key for key, item in definitions.items() if item.get("type") == "string" or "enum" in item}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Every answer of the stand-in to a course of calls of the SDK's services, by endpoint."""
    with clearml_alone(tmp_path_factory.mktemp("schemas")) as trial:
        tenant = trial.tenant("schemas")
        pair = (tenant.access_key, tenant._secret.get_secret_value())
        kept: dict[str, list[dict]] = {}
        with make_client(trial.api_url, trial.ca_file, trial.resolve, 10, pair) as http:

            def call(endpoint, **body):
                answer = http.post(f"/v2.23/{endpoint}", json=body)
                assert answer.status_code == 200, (endpoint, answer.text)
                kept.setdefault(endpoint, []).append(answer.json()["data"])
                return kept[endpoint][-1]

            _course(call, http)
        yield kept


def _course(call, http):
    project = call("projects.create", name="schemas", description="x")["id"]
    queue = call("queues.create", name="schemas", tags=["x"])["id"]
    task = call("tasks.create", name="schemas", type="training", project=project)["id"]
    call("tasks.edit", task=task, script={"diff": "x"}, hyperparams={"Args": {"a": {"section": "Args", "name": "a"}}})
    call("workers.register", worker="w1", queues=[queue], timeout=600)
    call("workers.status_report", worker="w1", timestamp=1, queues=[queue])
    call("workers.get_all")
    call("tasks.enqueue", task=task, queue=queue)
    for name in ("queues.get_all", "projects.get_all", "tasks.get_all"):
        call(name, name="^schemas$")
    call("queues.get_by_id", queue=queue)
    call("projects.get_by_id", project=project)
    call("queues.get_num_entries", queue=queue)
    call("queues.get_next_task", queue=queue)
    call("tasks.started", task=task)
    lines = json.dumps(
        {"type": "training_stats_scalar", "task": task, "metric": "m", "variant": "v", "value": 1, "iter": 1}
    )
    http.post("/v2.23/events.add_batch", content=lines, headers={"Content-Type": "application/json-lines"})
    call("events.scalar_metrics_iter_histogram", task=task)
    call("tasks.add_or_update_artifacts", task=task, artifacts=[{"key": "a", "type": "custom"}])
    call("tasks.ping", task=task)
    call("tasks.get_by_id", task=task)
    call("tasks.completed", task=task)
    clone = call("tasks.clone", task=task)["id"]
    call("tasks.enqueue", task=clone, queue=queue)
    call("tasks.dequeue", task=clone)
    call("tasks.stopped", task=clone, force=True)
    call("tasks.reset", task=clone, force=True)
    call("tasks.delete", task=clone, force=True)
    call("queues.update", queue=queue, name="schemas-two")
    call("queues.delete", queue=queue)
    call("auth.login")
    call("auth.get_credentials")
    key = call("auth.create_credentials", label="x")["credentials"]["access_key"]
    call("auth.revoke_credentials", access_key=key)


def test_answers_are_the_schemas(answers):
    """The real SDK drops an answer whose fields have other types than its schema's: none of ours has."""
    wanted = schemas("Response")
    compared = [name for name in answers if wanted.get(name, {}).get("properties")]
    assert len(compared) > 20
    for name in compared:
        for answer in answers[name]:
            jsonschema.validate(answer, wanted[name])


# ClearML server: apierrors/errors.conf; the codes that the reference sheet of the product lists.
PUBLIC = {
    "bad_request": (400, 0), "invalid_headers": (400, 5), "impersonation_error": (400, 6), "invalid_id": (400, 10),
    "missing_required_fields": (400, 11), "validation_error": (400, 12), "fields_not_allowed_for_role": (400, 13),
    "fields_value_error": (400, 16), "batch_contains_no_items": (400, 17), "invalid_regex_error": (400, 21),
    "invalid_email_address": (400, 22), "invalid_access_key": (400, 75), "invalid_task_id": (400, 101),
    "invalid_task_status": (400, 110), "task_cannot_be_deleted": (400, 123), "events_not_added": (400, 131),
    "invalid_user": (400, 300), "invalid_user_id": (400, 301), "invalid_project_id": (400, 401),
    "project_has_tasks": (400, 402), "project_not_found": (400, 403), "invalid_queue_id": (400, 701),
    "queue_not_empty": (400, 702), "invalid_queue_or_task_not_queued": (400, 703), "task_already_queued": (400, 706),
    "no_default_queue": (400, 707), "multiple_default_queues": (400, 708), "data_validation_error": (400, 800),
    "expected_unique_data": (400, 801), "worker_not_registered": (400, 1004), "bad_auth_type": (401, 10),
    "no_credentials": (401, 20), "bad_credentials": (401, 21), "invalid_credentials": (401, 22),
    "invalid_token": (401, 30), "role_not_allowed": (403, 20), "unknown_endpoint": (404, 0), "general_error": (500, 0),
}  # fmt: skip


def test_every_refusal_has_the_codes_of_the_public_table():
    """Neither a code of our own nor one that means something else there."""
    assert {name: entry[:2] for name, entry in TABLE.items()} == PUBLIC


def test_a_refusal_that_the_table_does_not_have_cannot_be_made():
    """So that no service can answer with a code of its own."""
    with pytest.raises(KeyError):
        Refusal("made_up")
