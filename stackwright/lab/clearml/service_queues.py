"""queues.* and workers.*: what waits, and who works. ClearML server: bll/queue, bll/workers."""

from __future__ import annotations

from collections.abc import Iterable

from stackwright.lab.clearml.calls import Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import compiled, matches, need_name, select, trim
from stackwright.lab.clearml.scheduling import schedule
from stackwright.lab.clearml.state import ClearmlState, Doc, Report, Worker, iso

HIDDEN_TAGS = ("k8s-glue",)
WORKER_TIMEOUT_S = 600.0
LAST_SEEN_S = 3600.0


def queue_doc(call: Call, name: str = "queue") -> Doc:
    """Return the queue that a call names, or refuse."""
    queue_id = str(call.params[name])
    queue = call.state.doc("queues", call.company, queue_id)
    if queue is None:
        raise Refusal("invalid_queue_id", id=queue_id, company=call.company)
    return queue


def find_by_name(call: Call, name: str) -> Doc | None:
    return next((q for q in call.state.of_company("queues", call.company) if q["name"] == name), None)


def make_queue(call: Call, name: str, **fields: object) -> Doc:
    if find_by_name(call, name):
        raise Refusal("expected_unique_data", name=name, company=call.company)
    return call.state.add_doc(
        "queues", call.company, call.who.user, {"name": name, "entries": [], "metadata": {}, **fields}
    )


def create(call: Call) -> Doc:
    fields = {key: call.params[key] for key in ("display_name", "tags", "system_tags", "metadata") if call.get(key)}
    return {"id": make_queue(call, need_name(call), **fields)["id"]}


def _entries(queue: Doc) -> list[Doc]:
    entries: list[Doc] = queue.setdefault("entries", [])
    return entries


def get_all(call: Call) -> Doc:
    for queue in call.state.of_company("queues", call.company):
        _entries(queue)
    return {"queues": select(call, call.state.of_company("queues", call.company), hidden=HIDDEN_TAGS)}


def get_all_ex(call: Call) -> Doc:
    state = call.state
    watched = state.live_workers(call.company)

    def expanded(queue: Doc) -> Doc:
        tasks = [
            {"task": {"id": entry["task"], "name": state.docs["tasks"].get(entry["task"], {}).get("name", "")}}
            for entry in queue.get("entries") or ()
        ]
        workers = [{"name": worker.id, "ip": worker.ip} for worker in watched if queue["id"] in worker.queues]
        return queue | {"entries": tasks, "workers": workers}

    return {"queues": [expanded(queue) for queue in get_all(call)["queues"]]}


def get_by_id(call: Call) -> Doc:
    queue = queue_doc(call)
    _entries(queue)
    return {"queue": queue}


def get_default(call: Call) -> Doc:
    found = [q for q in call.state.of_company("queues", call.company) if "default" in q["system_tags"]]
    if not found:
        raise Refusal("no_default_queue")
    if len(found) > 1:
        raise Refusal("multiple_default_queues")
    return {"id": found[0]["id"], "name": found[0]["name"]}


def update(call: Call) -> Doc:
    queue = queue_doc(call)
    names = ("name", "display_name", "tags", "system_tags", "metadata")
    fields = {key: call.params[key] for key in names if call.get(key) is not None}
    if "name" in fields:
        need_name(call)
        if any(
            other["name"] == fields["name"]
            for other in call.state.of_company("queues", call.company)
            if other is not queue
        ):
            raise Refusal("expected_unique_data", name=fields["name"], company=call.company)
    queue.update(fields)
    return {"updated": int(bool(fields)), "fields": fields}


def delete(call: Call) -> Doc:
    queue = queue_doc(call)
    if _entries(queue) and not call.get("force"):
        raise Refusal("queue_not_empty", "use force=true to delete", id=queue["id"])
    del call.state.docs["queues"][queue["id"]]
    return {"deleted": 1}


def push(call: Call, queue: Doc, task_id: str) -> None:
    """Put a task at the end of a queue."""
    if any(entry["task"] == task_id for entry in _entries(queue)):
        raise Refusal("task_already_queued", task=task_id)
    _entries(queue).append({"task": task_id, "added": iso(call.state.clock())})


def drop(state: ClearmlState, company: str, task_id: str, *, keep: str = "") -> int:
    """Take a task out of all the company's queues but one; return how many held it."""
    held = 0
    for queue in state.of_company("queues", company):
        entries = _entries(queue)
        if queue["id"] != keep and any(entry["task"] == task_id for entry in entries):
            queue["entries"] = [entry for entry in entries if entry["task"] != task_id]
            held += 1
    return held


def add_task(call: Call) -> Doc:
    queue = queue_doc(call)
    if call.state.doc("tasks", call.company, call.params["task"]) is None:
        raise Refusal("invalid_task_id", id=call.params["task"], company=call.company)
    push(call, queue, call.params["task"])
    return {"added": 1}


def remove_task(call: Call) -> Doc:
    queue, task = queue_doc(call), call.params["task"]
    if not any(entry["task"] == task for entry in _entries(queue)):
        raise Refusal("invalid_queue_or_task_not_queued", task=task, id=queue["id"], company=call.company)
    queue["entries"] = [entry for entry in queue["entries"] if entry["task"] != task]
    return {"removed": 1}


def clear_queue(call: Call) -> Doc:
    queue = queue_doc(call)
    removed = [entry["task"] for entry in _entries(queue)]
    queue["entries"] = []
    return {"removed_tasks": removed}


def get_next_task(call: Call) -> Doc:
    queue = queue_doc(call)
    schedule(call.state, call.company)
    if not _entries(queue):
        return {}
    entry = queue["entries"].pop(0)
    answer: Doc = {"entry": entry}
    if call.get("get_task_info"):
        task = call.state.docs["tasks"].get(entry["task"], {})
        answer["task_info"] = {"company": task.get("company"), "user": task.get("user")}
    return answer


def peek_task(call: Call) -> Doc:
    entries = _entries(queue_doc(call))
    return {"task": entries[0]["task"]} if entries else {}


def get_num_entries(call: Call) -> Doc:
    return {"num": len(_entries(queue_doc(call)))}


# workers.* -------------------------------------------------------------------------------------------------------


def _worker(call: Call, *, new: bool = False) -> Worker:
    """Return the worker that a call speaks of; a status report registers one that is unknown."""
    state, name = call.state, str(call.params["worker"])
    key = (call.company, name)
    worker = state.workers.get(key)
    now = state.clock()
    if worker is None or new:
        worker = Worker(name, call.company, call.who.user, [], WORKER_TIMEOUT_S, now, now, call.remote)
        state.workers[key] = worker
    worker.active = now
    return worker


def _known_queues(call: Call, ids: Iterable[str]) -> list[str]:
    wanted = [str(queue) for queue in ids]
    unknown = [queue for queue in wanted if call.state.doc("queues", call.company, queue) is None]
    if unknown:
        raise Refusal("invalid_queue_id", queue_ids=unknown)
    return wanted


def register(call: Call) -> Doc:
    queues = _known_queues(call, call.get("queues", []))
    worker = _worker(call, new=True)
    worker.queues = queues
    worker.timeout = float(call.get("timeout", WORKER_TIMEOUT_S))
    worker.tags = [str(tag) for tag in call.get("tags", [])]
    return {}


def unregister(call: Call) -> Doc:
    if call.state.workers.pop((call.company, str(call.params["worker"])), None) is None:
        raise Refusal("worker_not_registered", worker=call.params["worker"], company=call.company)
    return {}


def status_report(call: Call) -> Doc:
    queues = call.get("queues")
    known = _known_queues(call, queues) if queues is not None else None
    worker = _worker(call)
    worker.task = str(call.get("task") or "")
    if known is not None:
        worker.queues = known
    return {}


def cluster_report(call: Call) -> Doc:
    key = (call.company, str(call.params["key"]))
    timeout = float(call.get("timeout", WORKER_TIMEOUT_S))
    call.state.clusters[key] = Report(key[1], call.company, call.state.clock(), timeout, call.get("properties", {}))
    return {}


def _seen(call: Call) -> list[Worker]:
    last_seen = float(call.get("last_seen", LAST_SEEN_S))
    now = call.state.clock()
    found = [w for w in call.state.live_workers(call.company) if not last_seen or now - w.active <= last_seen]
    if call.get("worker_pattern"):
        pattern = compiled(call.params["worker_pattern"])
        found = [worker for worker in found if pattern.search(worker.id)]
    if call.get("tags"):
        found = [worker for worker in found if matches(worker.tags, call.params["tags"])]
    return found


def _shown(state: ClearmlState, worker: Worker) -> Doc:
    task = state.docs["tasks"].get(worker.task)
    queues = [state.docs["queues"][queue] for queue in worker.queues if queue in state.docs["queues"]]
    shown: Doc = {
        "id": worker.id,
        "key": f"worker_{worker.company}_{worker.user}_{worker.id}",
        "company": {"id": worker.company, "name": state.companies[worker.company].name},
        "user": {"id": worker.user, "name": state.accounts[worker.user].name if worker.user in state.accounts else ""},
        "ip": worker.ip,
        "register_time": iso(worker.registered),
        "last_activity_time": iso(worker.active),
        "last_report_time": iso(worker.active),
        "queues": [{"id": q["id"], "name": q["name"], "num_tasks": len(_entries(q))} for q in queues],
        "tags": worker.tags,
        "system_tags": [],
    }
    if task:
        shown["task"] = {"id": task["id"], "name": task["name"], "running_time": 0}
    return shown


def get_workers(call: Call) -> Doc:
    return {"workers": [trim(_shown(call.state, worker), call.get("only_fields")) for worker in _seen(call)]}


def get_count(call: Call) -> Doc:
    return {"count": len(_seen(call))}


def get_resource_usages(call: Call) -> Doc:
    """Return capacity by category: the first part of the workers' ids, which are category:group:name."""
    categories: dict[str, Doc] = {}
    for report in call.state.live_reports(call.state.clusters, call.company):
        name = report.key.split(":")[0]
        maximum = float(report.body.get("max_gpus") or 0)
        cpus = float(report.body.get("max_cpus") or 0)
        seen = categories.setdefault(name, _category(name))
        for kind, amount in (("gpus", maximum), ("cpus", cpus)):
            for field in ("total", "idle", "max_allowed"):
                seen[kind][field] += amount
    for worker in call.state.live_workers(call.company):
        name = worker.id.split(":")[0]
        seen = categories.setdefault(name, _category(name))
        seen["workers"]["total"] += 1
        seen["workers"]["idle"] += not worker.task
    total = _category("total")
    for seen in categories.values():
        for kind in ("gpus", "cpus", "workers"):
            for field, amount in seen[kind].items():
                total[kind][field] += amount
    return {"total": total, "categories": list(categories.values()), "resource_groups": [], "events": {}}


def _category(name: str) -> Doc:
    capacity = {"total": 0.0, "idle": 0.0, "max_allowed": 0.0}
    return {"key": name, "gpus": dict(capacity), "cpus": dict(capacity), "workers": {"total": 0, "idle": 0}}


def _named(call: Call) -> str:
    return str(call.get("name") or call.get("queue") or "")


ENDPOINTS = {
    "queues.create": Endpoint(create, ("name",), types={"name": "text", "tags": "list"}, change=_named),
    "queues.get_all": Endpoint(get_all, types={"name": "text", "id": "list", "tags": "list"}),
    "queues.get_all_ex": Endpoint(get_all_ex, types={"name": "text", "id": "list", "tags": "list"}),
    "queues.get_by_id": Endpoint(get_by_id, ("queue",), types={"queue": "text"}),
    "queues.get_default": Endpoint(get_default),
    "queues.update": Endpoint(update, ("queue",), types={"name": "text"}, change=_named),
    "queues.delete": Endpoint(delete, ("queue",), change=_named),
    "queues.add_task": Endpoint(add_task, ("queue", "task")),
    "queues.remove_task": Endpoint(remove_task, ("queue", "task")),
    "queues.clear_queue": Endpoint(clear_queue, ("queue",), change=_named),
    "queues.get_next_task": Endpoint(get_next_task, ("queue",)),
    "queues.peek_task": Endpoint(peek_task, ("queue",)),
    "queues.get_num_entries": Endpoint(get_num_entries, ("queue",)),
    "workers.get_all": Endpoint(get_workers, types={"last_seen": "number"}),
    "workers.get_count": Endpoint(get_count),
    "workers.register": Endpoint(
        register, ("worker",), types={"worker": "text", "queues": "list", "timeout": "number"}
    ),
    "workers.unregister": Endpoint(unregister, ("worker",)),
    "workers.status_report": Endpoint(status_report, ("worker", "timestamp"), types={"queues": "list"}),
    "workers.cluster_report": Endpoint(cluster_report, ("key", "timestamp"), types={"properties": "object"}),
    "workers.get_resource_usages": Endpoint(get_resource_usages),
}
