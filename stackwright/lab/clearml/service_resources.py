"""resources.* (pools, profiles, policies) and routers.* (application gateways): services of the Enterprise server."""

from __future__ import annotations

from stackwright.lab.clearml.calls import ADMIN, Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import need_name, select
from stackwright.lab.clearml.service_queues import make_queue, queue_doc
from stackwright.lab.clearml.state import Doc, Report, iso, new_id

ROUTER_TIMEOUT_S = 600.0


def _mine(call: Call, kind: str) -> list[Doc]:
    return list(call.state.of_company(kind, call.company))


def _one(call: Call, kind: str, field: str = "id") -> Doc:
    found = call.state.doc(kind, call.company, str(call.params[field]))
    if found is None:
        raise Refusal("invalid_id", **{field: call.params[field]})
    return found


def get_configuration(call: Call) -> Doc:
    answer: Doc = {"configuration": {"pools": _mine(call, "pools"), "profiles": _mine(call, "profiles")}}
    if call.get("edit", True) is False:
        answer["policy_manager"] = {"enabled": call.company in call.state.policy_manager}
    return answer


def set_configuration(call: Call) -> Doc:
    for kind in ("pools", "profiles"):
        for doc in _mine(call, kind):
            del call.state.docs[kind][doc["id"]]
        for item in call.get(kind, []):
            call.state.add_doc(kind, call.company, call.who.user, {**item, "id": item.get("id") or new_id()})
    return {}


def publish_configuration(call: Call) -> Doc:
    return {"created": 0, "updated": len(_mine(call, "pools")) + len(_mine(call, "profiles")), "deleted": 0}


def get_pools(call: Call) -> Doc:
    return {"pools": _mine(call, "pools")}


def get_profiles(call: Call) -> Doc:
    return {"profiles": _mine(call, "profiles")}


def enable_manager(call: Call) -> Doc:
    if call.get("enable", True):
        call.state.policy_manager.add(call.company)
    else:
        call.state.policy_manager.discard(call.company)
    return {}


def get_policies(call: Call) -> Doc:
    return {"policies": _mine(call, "policies")}


def get_policy(call: Call) -> Doc:
    policy = _one(call, "policies")
    return {"policy": policy, "profile_links": policy["profile_links"], "tasks": []}


def create_policy(call: Call) -> Doc:
    name, group = need_name(call, least=1), _one(call, "groups", "user_group")
    if any(policy["name"] == name for policy in _mine(call, "policies")):
        raise Refusal("expected_unique_data", name=name, company=call.company)
    fields = {
        "name": name,
        "user_group": group["id"],
        "user_group_name": group["name"],
        "reservation": call.get("reservation", 0),
        "limit": call.get("limit", 0),
        "usage": 0,
        "profile_links": [],
    }
    return {"id": call.state.add_doc("policies", call.company, call.who.user, fields)["id"]}


def update_policy(call: Call) -> Doc:
    policy = _one(call, "policies")
    fields = {
        key: call.params[key] for key in ("name", "reservation", "limit", "description") if call.get(key) is not None
    }
    policy.update(fields)
    return {"updated": int(bool(fields))}


def delete_policy(call: Call) -> Doc:
    policy = _one(call, "policies")
    queues = [link["queue"] for link in policy["profile_links"]]
    for queue in queues:
        call.state.docs["queues"].pop(queue, None)
    del call.state.docs["policies"][policy["id"]]
    return {"deleted": 1, "deleted_queues": len(queues)}


def connect(call: Call) -> Doc:
    policy, profile = _one(call, "policies", "policy"), _one(call, "profiles", "profile")
    queue = make_queue(call, need_name(call, "queue_name"), display_name=call.get("display_name", ""))
    policy["profile_links"].append({"profile": profile["id"], "queue": queue["id"]})
    return {"id": queue["id"]}


def disconnect(call: Call) -> Doc:
    queue = queue_doc(call)["id"]
    for policy in _mine(call, "policies"):
        policy["profile_links"] = [link for link in policy["profile_links"] if link["queue"] != queue]
    del call.state.docs["queues"][queue]
    return {"deleted": 1}


# routers.* -------------------------------------------------------------------------------------------------------


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
    return {"routes": select(call, _mine(call, "routes"), lists=("type",))}


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
    mine = {route["id"] for route in _mine(call, "routes")} & set(call.params["ids"])
    for route in mine:
        del call.state.docs["routes"][route]
    return {"deleted": len(mine)}


def _named(call: Call) -> str:
    return str(call.get("name") or call.get("id") or call.get("queue_name") or call.get("router") or "")


ENDPOINTS = {
    "resources.get_resource_configuration": Endpoint(get_configuration, roles=ADMIN),
    "resources.set_resource_configuration": Endpoint(
        set_configuration, (), ADMIN, {"pools": "list", "profiles": "list"}, _named
    ),
    "resources.publish_resource_configuration": Endpoint(publish_configuration, (), ADMIN, {}, _named),
    "resources.get_resource_pools": Endpoint(get_pools, roles=ADMIN),
    "resources.get_resource_profiles": Endpoint(get_profiles, roles=ADMIN),
    "resources.enable_policy_manager": Endpoint(enable_manager, (), ADMIN, {"enable": "yesno"}, _named),
    "resources.get_policies": Endpoint(get_policies),
    "resources.get_policy_data": Endpoint(get_policy, ("id",)),
    "resources.create_policy": Endpoint(create_policy, ("name", "user_group"), ADMIN, {"name": "text"}, _named),
    "resources.update_policy": Endpoint(update_policy, ("id",), ADMIN, {}, _named),
    "resources.delete_policy": Endpoint(delete_policy, ("id",), ADMIN, {}, _named),
    "resources.connect_policy_profile": Endpoint(connect, ("policy", "profile", "queue_name"), ADMIN, {}, _named),
    "resources.disconnect_policy_profile": Endpoint(disconnect, ("queue",), ADMIN, {}, _named),
    "routers.task_router_report": Endpoint(router_report, ("router",), ADMIN, {"router": "text", "status": "object"}),
    "routers.unregister": Endpoint(unregister, ("router",), ADMIN),
    "routers.get_task_routers": Endpoint(get_task_routers, roles=ADMIN),
    "routers.get_routes": Endpoint(get_routes),
    "routers.add_or_update_route": Endpoint(put_route, ("name", "type"), ADMIN, {"name": "text"}, _named),
    "routers.delete_routes": Endpoint(delete_routes, ("ids",), ADMIN, {"ids": "list"}, _named),
}
