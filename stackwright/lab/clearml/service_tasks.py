"""tasks.* and pipelines.*: what runs, and the states it may pass through. ClearML server: bll/task."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from stackwright.lab.clearml.calls import Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import HIDDEN, look, need_name, put, select
from stackwright.lab.clearml.scheduling import is_watched, schedule
from stackwright.lab.clearml.service_queues import drop, find_by_name, get_default, make_queue, push, queue_doc
from stackwright.lab.clearml.state import Doc, iso

# From a state to those that may follow it; staying is always allowed. ClearML server: bll/task/utils.py.
FOLLOW: dict[str, frozenset[str]] = {
    "created": frozenset({"queued", "in_progress"}),
    "queued": frozenset({"created", "in_progress", "stopped"}),
    "in_progress": frozenset({"stopped", "failed", "created", "completed"}),
    "stopped": frozenset(
        {"closed", "created", "failed", "queued", "in_progress", "published", "publishing", "completed"}
    ),
    "failed": frozenset({"created", "stopped", "published", "queued"}),
    "completed": frozenset({"published", "in_progress", "created"}),
    "closed": frozenset({"created", "failed", "published", "publishing", "stopped"}),
    "publishing": frozenset({"published"}),
    "published": frozenset(),
    "unknown": frozenset(),
}
FIELDS = (
    "name",
    "comment",
    "type",
    "parent",
    "project",
    "tags",
    "system_tags",
    "script",
    "execution",
    "hyperparams",
    "configuration",
    "container",
    "runtime",
    "models",
    "output",
)
MERGED = ("script", "execution", "models", "output")
TYPES = {
    "task": "text",
    "name": "text",
    "type": "text",
    "project": "text",
    "tags": "list",
    "script": "object",
    "execution": "object",
    "hyperparams": "object",
    "configuration": "object",
    "runtime": "object",
    "container": "object",
}


def empty_task() -> Doc:
    """Return the fields of a task that has not run. The SDK fails on nulls in most of them."""
    return {
        "type": "training",
        "status": "created",
        "status_reason": "",
        "status_message": "",
        "comment": "",
        "parent": None,
        "project": None,
        "script": {"requirements": {}},
        "execution": {"artifacts": [], "queue": None},
        "hyperparams": {},
        "configuration": {},
        "container": {},
        "runtime": {},
        "models": {"input": [], "output": []},
        "output": {"destination": ""},
        "last_metrics": {},
        "last_iteration": 0,
        "active_duration": 0,
    }


# tasks.*: making and changing ------------------------------------------------------------------------------------


def task_doc(call: Call, name: str = "task") -> Doc:
    """Return the task that a call names; those of other companies do not exist."""
    task_id = str(call.params[name])
    task = call.state.doc("tasks", call.company, task_id)
    if task is None:
        raise Refusal("invalid_task_id", id=task_id, company=call.company)
    return task


def create(call: Call) -> Doc:
    need_name(call)
    fields = _given(call, empty_task())
    if fields.get("project") and call.state.doc("projects", call.company, fields["project"]) is None:
        raise Refusal("invalid_project_id", id=fields["project"], company=call.company)
    now = iso(call.state.clock())
    stamps = {"last_update": now, "last_change": now, "status_changed": now}
    return {"id": call.state.add_doc("tasks", call.company, call.who.user, empty_task() | fields | stamps)["id"]}


def _given(call: Call, before: Mapping[str, Any]) -> Doc:
    fields: Doc = {}
    for name in FIELDS:
        value = call.get(name)
        if value is not None:
            fields[name] = {**(before.get(name) or {}), **value} if name in MERGED else value
    if call.get("output_dest"):
        fields["output"] = {**before["output"], "destination": call.params["output_dest"]}
    return fields


def edit(call: Call) -> Doc:
    task = task_doc(call)
    if task["status"] != "created" and not call.get("force"):
        raise Refusal("invalid_task_status", expected="created", status=task["status"])
    return _apply(call, task, _given(call, task))


def update(call: Call) -> Doc:
    task = task_doc(call)
    names = ("name", "comment", "tags", "system_tags", "project")
    return _apply(call, task, {name: call.params[name] for name in names if call.get(name) is not None})


def _apply(call: Call, task: Doc, fields: Doc) -> Doc:
    if fields:
        task.update(fields)
        task["last_update"] = task["last_change"] = iso(call.state.clock())
    return {"updated": int(bool(fields)), "fields": fields}


def edit_hyper_params(call: Call) -> Doc:
    return _edit_named(call, "hyperparams", "replace_hyperparams")


def edit_configuration(call: Call) -> Doc:
    return _edit_named(call, "configuration", "replace_configuration")


def _edit_named(call: Call, field: str, replace_field: str) -> Doc:
    task, replace = task_doc(call), call.get(replace_field, "none")
    items = call.params[field]
    if replace in ("all", True):
        task[field] = {}
    if replace == "section":
        for item in items:
            task[field].pop(item.get("section"), None)
    for item in items:
        path = f"{item['section']}\0{item['name']}" if field == "hyperparams" else item["name"]
        section, _, name = path.partition("\0")
        if name:
            task[field].setdefault(section, {})[name] = item
        else:
            task[field][section] = item
    return {"updated": 1}


def delete_hyper_params(call: Call) -> Doc:
    task = task_doc(call)
    for item in call.params["hyperparams"]:
        task["hyperparams"].get(item.get("section"), {}).pop(item.get("name"), None)
    return {"deleted": 1}


def get_hyper_params(call: Call) -> Doc:
    found = [call.state.doc("tasks", call.company, task) for task in call.params["tasks"]]
    flat = [
        {
            "task": task["id"],
            "hyperparams": [item for section in task["hyperparams"].values() for item in section.values()],
        }
        for task in found
        if task
    ]
    return {"params": flat}


def get_configurations(call: Call) -> Doc:
    found = [call.state.doc("tasks", call.company, task) for task in call.params["tasks"]]
    return {
        "configurations": [{"task": t["id"], "configuration": list(t["configuration"].values())} for t in found if t]
    }


def set_requirements(call: Call) -> Doc:
    task = task_doc(call)
    task["script"]["requirements"] = call.params["requirements"]
    return {"updated": 1, "fields": {}}


def put_artifacts(call: Call) -> Doc:
    task = task_doc(call)
    kept: Doc = {(a["key"], a.get("mode", "output")): a for a in task["execution"].get("artifacts") or ()}  # type: ignore[misc]
    kept |= {(a["key"], a.get("mode", "output")): a for a in call.params["artifacts"]}
    task["execution"]["artifacts"] = list(kept.values())
    return {"updated": 1}


# tasks.*: reading ------------------------------------------------------------------------------------------------

LISTS = ("project", "status", "type", "parent", "user")


def get_by_id(call: Call) -> Doc:
    return {"task": task_doc(call)}


def get_all(call: Call) -> Doc:
    return {"tasks": select(call, _newest_first(call), lists=LISTS, hidden=(HIDDEN,))}


def get_all_ex(call: Call) -> Doc:
    return {"tasks": [_joined(call, task) for task in get_all(call)["tasks"]]}


def _newest_first(call: Call) -> Iterator[Doc]:
    return iter(sorted(call.state.of_company("tasks", call.company), key=lambda task: task["created"], reverse=True))


def _joined(call: Call, task: Doc) -> Doc:
    joined = dict(task)
    project = call.state.docs["projects"].get(str(task.get("project")))
    if project:
        joined["project"] = {"id": project["id"], "name": project["name"]}
    if task.get("user"):
        account = call.state.accounts.get(task["user"])
        joined["user"] = {"id": task["user"], "name": account.name if account else ""}
    if task.get("company"):
        joined["company"] = {"id": call.company, "name": call.who.company_name}
    return joined


# tasks.*: states -------------------------------------------------------------------------------------------------


def move(call: Call, task: Doc, status: str, **extra: Any) -> Doc:
    """Bring a task to a state, if the state machine or `force` allows it."""
    now = task["status"]
    if status != now and status not in FOLLOW[now] and not call.get("force"):
        raise Refusal("invalid_task_status", "Invalid status change", current_status=now, new_status=status)
    at = iso(call.state.clock())
    fields: Doc = {
        "status": status,
        "status_reason": str(call.get("status_reason", "")),
        "status_message": str(call.get("status_message", "")),
        "status_changed": at,
        "last_update": at,
        "last_change": at,
        **extra,
    }
    task.update(fields)
    if status == "queued":
        task["system_tags"] = [tag for tag in task["system_tags"] if tag != "development"]
    return {"updated": 1, "fields": fields}


def started(call: Call) -> Doc:
    task = task_doc(call)
    answer = move(call, task, "in_progress", started=iso(call.state.clock()), completed=None)
    return answer | {"started": 1}


def _ended(call: Call, status: str) -> Doc:
    task = task_doc(call)
    drop(call.state, call.company, task["id"])
    return move(call, task, status, completed=iso(call.state.clock()))


def stopped(call: Call) -> Doc:
    return _ended(call, "stopped")


def failed(call: Call) -> Doc:
    return _ended(call, "failed")


def completed(call: Call) -> Doc:
    answer = _ended(call, "completed")
    if call.get("publish"):
        answer |= {"published": 1} | move(call, task_doc(call), "published")
    return answer


def publish(call: Call) -> Doc:
    return move(call, task_doc(call), "published")


def close(call: Call) -> Doc:
    return move(call, task_doc(call), "closed")


def stop(call: Call) -> Doc:
    """Ask a running task to end itself, or end it where no worker runs it."""
    task = task_doc(call)
    served = any(worker.task == task["id"] for worker in call.state.live_workers(call.company))
    if task["status"] == "in_progress" and served and not call.get("force"):
        return _apply(call, task, {"status_message": "stopping"})
    return _ended(call, "stopped")


def reset(call: Call) -> Doc:
    task = task_doc(call)
    held = drop(call.state, call.company, task["id"])
    answer = move(call, task, "created", started=None, completed=None)
    clean = empty_task()
    task |= {name: clean[name] for name in ("last_metrics", "last_iteration", "models", "runtime")}
    task["execution"] = {**task["execution"], "artifacts": [], "queue": None}
    call.state.events.pop(task["id"], None)
    return answer | {"dequeued": {"updated": held}, "deleted_models": 0}


def ping(call: Call) -> Doc:
    task_doc(call)["last_update"] = iso(call.state.clock())
    return {}


def enqueue(call: Call) -> Doc:
    task = task_doc(call)
    if call.get("queue") and call.get("queue_name"):
        raise Refusal("validation_error", "Either queue id or queue name should be provided")
    if call.get("queue_name"):
        name = str(call.params["queue_name"])
        queue = find_by_name(call, name) or make_queue(call, name)
    elif call.get("queue"):
        queue = queue_doc(call)
    else:
        queue = call.state.docs["queues"][get_default(call)["id"]]
    before = copy.deepcopy({key: task[key] for key in ("status", "status_reason", "status_message")})
    waiting = task.get("enqueue_status") if task["status"] == "queued" else None
    answer = move(call, task, "queued", enqueue_status=waiting or before["status"])
    try:
        push(call, queue, task["id"])
    except Refusal:
        task.update(before)
        raise
    put(task, "execution.queue", queue["id"])
    answer["fields"]["execution.queue"] = queue["id"]
    drop(call.state, call.company, task["id"], keep=queue["id"])
    schedule(call.state, call.company)
    if call.get("verify_watched_queue"):
        answer["queue_watched"] = is_watched(call.state, call.company, queue["id"])
    return answer | {"queued": 1}


def dequeue(call: Call) -> Doc:
    task = task_doc(call)
    if task["status"] != "queued":
        raise Refusal("invalid_task_id", "task is not queued", id=task["id"], status=task["status"])
    held = drop(call.state, call.company, task["id"])
    status = str(call.get("new_status") or task.get("enqueue_status") or "created")
    return move(call, task, status, enqueue_status=None) | {"dequeued": held}


def clone(call: Call) -> Doc:
    return {"id": _clone(call, task_doc(call))["id"]}


def _clone(call: Call, source: Doc) -> Doc:
    clean = empty_task()
    kept = ("type", "script", "hyperparams", "configuration", "container", "comment", "project")
    fields = clean | {name: copy.deepcopy(source[name]) for name in kept}
    fields |= {
        "name": call.get("new_task_name") or f"Clone of {source['name']}",
        "parent": call.get("new_task_parent") or source["id"],
        "tags": list(call.get("new_task_tags") or source["tags"]),
        "system_tags": [tag for tag in source["system_tags"] if tag != "development"],
        "project": call.get("new_task_project") or source["project"],
    }
    now = iso(call.state.clock())
    stamps = {"last_update": now, "last_change": now, "status_changed": now}
    return call.state.add_doc("tasks", call.company, call.who.user, fields | stamps)


def delete(call: Call) -> Doc:
    task = task_doc(call)
    if task["status"] != "created" and "archived" not in task["system_tags"] and not call.get("force"):
        extra = "due to status, use force=True"
        raise Refusal("task_cannot_be_deleted", extra, task=task["id"], expected="created", current=task["status"])
    forget(call, task)
    return {"deleted": True, "updated_children": 0, "updated_models": 0, "events": {}, "urls": {}}


def forget(call: Call, task: Doc) -> None:
    """Remove a task, its place in queues and its events."""
    drop(call.state, call.company, task["id"])
    call.state.events.pop(task["id"], None)
    del call.state.docs["tasks"][task["id"]]


def start_pipeline(call: Call) -> Doc:
    source = task_doc(call)
    made = _clone(call, source)
    made["name"] = source["name"]
    for item in call.get("args", []):
        put(made["hyperparams"], "Args", {**(look(made["hyperparams"], "Args") or {}), item["name"]: _arg(item)})
    answer = enqueue(Call(call.state, call.who, {**call.params, "task": made["id"]}, remote=call.remote))
    watched = {"queue_watched": answer["queue_watched"]} if "queue_watched" in answer else {}
    return {"pipeline": made["id"], "enqueued": True, **watched}


def _arg(item: Mapping[str, Any]) -> Doc:
    return {"section": "Args", "name": item["name"], "value": str(item.get("value", ""))}


def no_models(call: Call) -> Doc:
    return {"models": []}


def _named(call: Call) -> str:
    return str(call.get("name") or call.get("task") or call.get("project") or "")


_STATE = {
    "started": started,
    "stopped": stopped,
    "completed": completed,
    "failed": failed,
    "publish": publish,
    "close": close,
    "stop": stop,
    "reset": reset,
    "ping": ping,
}
ENDPOINTS = {
    "tasks.create": Endpoint(create, ("name", "type"), types=TYPES, change=_named),
    "tasks.get_by_id": Endpoint(get_by_id, ("task",), types={"task": "text"}),
    "tasks.get_by_id_ex": Endpoint(get_all_ex, ("id",), types={"id": "list"}),
    "tasks.get_all": Endpoint(get_all, types={"id": "list", "name": "text"}),
    "tasks.get_all_ex": Endpoint(get_all_ex, types={"id": "list", "name": "text"}),
    "tasks.edit": Endpoint(edit, ("task",), types=TYPES),
    "tasks.update": Endpoint(update, ("task",), types=TYPES),
    "tasks.edit_hyper_params": Endpoint(edit_hyper_params, ("task", "hyperparams"), types={"hyperparams": "list"}),
    "tasks.delete_hyper_params": Endpoint(delete_hyper_params, ("task", "hyperparams"), types={"hyperparams": "list"}),
    "tasks.get_hyper_params": Endpoint(get_hyper_params, ("tasks",), types={"tasks": "list"}),
    "tasks.edit_configuration": Endpoint(
        edit_configuration, ("task", "configuration"), types={"configuration": "list"}
    ),
    "tasks.get_configurations": Endpoint(get_configurations, ("tasks",), types={"tasks": "list"}),
    "tasks.set_requirements": Endpoint(set_requirements, ("task", "requirements"), types={"requirements": "object"}),
    "tasks.add_or_update_artifacts": Endpoint(put_artifacts, ("task", "artifacts"), types={"artifacts": "list"}),
    "tasks.enqueue": Endpoint(enqueue, ("task",), types={"task": "text", "queue": "text"}, change=_named),
    "tasks.dequeue": Endpoint(dequeue, ("task",), change=_named),
    "tasks.clone": Endpoint(clone, ("task",), change=_named),
    "tasks.delete": Endpoint(delete, ("task",), change=_named),
    "pipelines.start_pipeline": Endpoint(start_pipeline, ("task",), types={"args": "list"}, change=_named),
    "models.get_all": Endpoint(no_models),
    "models.get_all_ex": Endpoint(no_models),
    **{f"tasks.{name}": Endpoint(run, ("task",), types={"task": "text"}) for name, run in _STATE.items()},
}
