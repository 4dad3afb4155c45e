"""events.*: what running tasks report. ClearML server: bll/event."""

from __future__ import annotations

import hashlib
from typing import Any

from stackwright.lab.clearml.calls import Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.state import Doc, iso

SINGLE_VALUE = -(2**31)
SCALAR = "training_stats_scalar"
KNOWN = frozenset({"log", SCALAR, "training_stats_vector", "training_debug_image", "plot"})


def add(call: Call) -> Doc:
    return _add(call, [call.params])


def add_batch(call: Call) -> Doc:
    if not call.batch:
        raise Refusal("batch_contains_no_items")
    return _add(call, call.batch)


def _add(call: Call, events: list[Doc]) -> Doc:
    added = 0
    refused: dict[str, int] = {}
    for event in events:
        reason = _store(call, event)
        if reason:
            refused[reason] = refused.get(reason, 0) + 1
        else:
            added += 1
    if not added:
        raise Refusal("events_not_added", reasons=refused)
    return {"added": added, "errors": sum(refused.values()), "errors_info": refused}


def _store(call: Call, event: Doc) -> str:
    """Keep one event; return why it was refused."""
    if event.get("type") not in KNOWN:
        return "Invalid event type"
    task = call.state.doc("tasks", call.company, str(event.get("task")))
    if task is None:
        return "Invalid task id"
    kept = {"timestamp": int(call.state.clock() * 1000), "iter": 0, **event}
    call.state.events.setdefault(task["id"], []).append(kept)
    task["last_update"] = iso(call.state.clock())
    if kept["iter"] != SINGLE_VALUE:
        task["last_iteration"] = max(int(task["last_iteration"]), int(kept["iter"] or 0))
    if kept["type"] == SCALAR and isinstance(kept.get("value"), int | float):
        _note_metric(task, kept)
    return ""


def _note_metric(task: Doc, event: Doc) -> None:
    metric, variant, value = str(event.get("metric", "")), str(event.get("variant", "")), float(event["value"])
    variants = task["last_metrics"].setdefault(_md5(metric), {})
    seen = variants.setdefault(
        _md5(variant),
        {
            "metric": metric,
            "variant": variant,
            "min_value": value,
            "max_value": value,
            "first_value": value,
            "mean_value": 0.0,
            "count": 0,
        },
    )
    count = seen["count"] + 1
    seen |= {
        "value": value,
        "min_value": min(seen["min_value"], value),
        "max_value": max(seen["max_value"], value),
        "mean_value": seen["mean_value"] + (value - seen["mean_value"]) / count,
        "count": count,
    }


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _events(call: Call, task_id: str, kind: str) -> list[Doc]:
    if call.state.doc("tasks", call.company, task_id) is None:
        raise Refusal("invalid_task_id", id=task_id, company=call.company)
    return [event for event in call.state.events.get(task_id, []) if event["type"] == kind]


def scalar_histogram(call: Call) -> Doc:
    return _histogram(_events(call, call.params["task"], SCALAR))


def _histogram(events: list[Doc]) -> Doc:
    found: Doc = {}
    for event in sorted(events, key=lambda event: event["iter"]):
        if event["iter"] == SINGLE_VALUE:
            continue
        variants = found.setdefault(event["metric"], {})
        series = variants.setdefault(event["variant"], {"name": event["variant"], "x": [], "y": []})
        series["x"].append(event["iter"])
        series["y"].append(event["value"])
    return found


def latest_values(call: Call) -> Doc:
    _events(call, call.params["task"], SCALAR)
    task = call.state.docs["tasks"][call.params["task"]]
    metrics = [
        {"name": next(iter(variants.values()))["metric"], "variants": [_latest(v) for v in variants.values()]}
        for variants in task["last_metrics"].values()
    ]
    return {"metrics": metrics, "last_iter": task["last_iteration"], "status": task["status"]}


def _latest(value: Doc) -> Doc:
    return {"name": value["variant"], "last_value": value["value"]}


def single_values(call: Call) -> Doc:
    tasks = []
    for task_id in call.params["tasks"]:
        events = [event for event in _events(call, task_id, SCALAR) if event["iter"] == SINGLE_VALUE]
        values: list[Doc] = [
            {key: event.get(key) for key in ("metric", "variant", "value", "timestamp")} for event in events
        ]
        tasks.append({"task": task_id, "task_name": call.state.docs["tasks"][task_id]["name"], "values": values})
    return {"tasks": tasks}


def task_log(call: Call) -> Doc:
    events = sorted(_events(call, call.params["task"], "log"), key=lambda event: event["timestamp"])
    size = int(call.get("batch_size", 500))
    page = events[-size:][::-1] if call.get("navigate_earlier", True) else events[:size]
    return {"events": page, "returned": len(page), "total": len(events)}


def plots(call: Call) -> Doc:
    found: list[Any] = _events(call, call.params["task"], "plot")
    return {"plots": found, "returned": len(found), "total": len(found)}


def delete_for_task(call: Call) -> Doc:
    _events(call, call.params["task"], "log")
    return {"deleted": len(call.state.events.pop(call.params["task"], []))}


ENDPOINTS = {
    "events.add": Endpoint(add, ("task", "type")),
    "events.add_batch": Endpoint(add_batch),
    "events.scalar_metrics_iter_histogram": Endpoint(scalar_histogram, ("task",)),
    "events.get_task_latest_scalar_values": Endpoint(latest_values, ("task",)),
    "events.get_task_single_value_metrics": Endpoint(single_values, ("tasks",), types={"tasks": "list"}),
    "events.get_task_log": Endpoint(task_log, ("task",)),
    "events.get_task_plots": Endpoint(plots, ("task",)),
    "events.delete_for_task": Endpoint(delete_for_task, ("task",)),
}
