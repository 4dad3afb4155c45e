"""routers.*: the application gateways that report, and their static routes. A service of the Enterprise server."""

from __future__ import annotations

from stackwright.lab.clearml.calls import ADMIN, Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import need_name, select
from stackwright.lab.clearml.state import Doc, Report, iso

ROUTER_TIMEOUT_S = 600.0


def router_report(call: Call) -> Doc:
    key = (call.company, str(call.params["router"]))
    timeout = float(call.get("timeout", ROUTER_TIMEOUT_S))
    call.state.routers[key] = Report(key[1], call.company, call.state.clock(), timeout, dict(call.params))
    return {}


def unregister(call: Call) -> Doc:
    call.state.routers.pop((call.company, str(call.params["router"])), None)
    return {}


def get_task_routers(call: Call) -> Doc:
    shown = []
    for report in call.state.live_reports(call.state.routers, call.company):
        status = report.body.get("status") or {}
        shown.append(
            {
                "router": report.key,
                "url": report.body.get("url", ""),
                "version": report.body.get("version", ""),
                "uptime": status.get("uptime", 0),
                "last_update_timestamp": iso(report.at),
                "tasks": status.get("tasks", []),
                "routes": status.get("routes", []),
            }
        )
    return {"routers": shown}


def get_routes(call: Call) -> Doc:
    return {"routes": select(call, call.state.of_company("routes", call.company), lists=("type",))}


def put_route(call: Call) -> Doc:
    kind = call.params["type"]
    if kind not in ("path", "subdomain") or not call.get(kind):
        raise Refusal("validation_error", "type must be path or subdomain, with the field of that name")
    fields = {"name": need_name(call), "type": kind, kind: call.params[kind], "enabled": True, "status": "available"}
    route = call.state.doc("routes", call.company, str(call.get("id", "")))
    if route is None:
        route = call.state.add_doc("routes", call.company, call.who.user, {"urls": [], "tasks": []})
    route.update(fields)
    return {"id": route["id"]}


def delete_routes(call: Call) -> Doc:
    mine = {route["id"] for route in call.state.of_company("routes", call.company)} & set(call.params["ids"])
    for route in mine:
        del call.state.docs["routes"][route]
    return {"deleted": len(mine)}


def _named(call: Call) -> str:
    return str(call.get("name") or call.get("id") or call.get("router") or "")


ENDPOINTS = {
    "routers.task_router_report": Endpoint(router_report, ("router",), ADMIN, {"router": "text", "status": "object"}),
    "routers.unregister": Endpoint(unregister, ("router",), ADMIN),
    "routers.get_task_routers": Endpoint(get_task_routers, roles=ADMIN),
    "routers.get_routes": Endpoint(get_routes),
    "routers.add_or_update_route": Endpoint(put_route, ("name", "type"), ADMIN, {"name": "text"}, _named),
    "routers.delete_routes": Endpoint(delete_routes, ("ids",), ADMIN, {"ids": "list"}, _named),
}
