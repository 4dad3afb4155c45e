"""resources.*: pools, profiles and policies of a company. A service of the Enterprise server.

The pages give requests and answers; what is refused, and with which code, is our guess: a draft that cannot be
published, a profile that costs more than the policy's limit, a name that is taken, a company without the feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackwright.lab.clearml.calls import ADMIN, Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import need_name
from stackwright.lab.clearml.scheduling import live, schedule, used
from stackwright.lab.clearml.service_queues import drop, make_queue, queue_doc
from stackwright.lab.clearml.state import Doc, new_id

FEATURE = "resource_policy"


def _need_feature(call: Call) -> None:
    if FEATURE not in call.state.features(call.company):
        raise Refusal("role_not_allowed", "the company has not the feature", feature=FEATURE)


def _policies(call: Call) -> list[Doc]:
    return list(call.state.of_company("policies", call.company))


def _one(call: Call, kind: str, field: str = "id") -> Doc:
    found = call.state.doc(kind, call.company, str(call.params[field]))
    if found is None:
        raise Refusal("invalid_id", **{field: call.params[field]})
    return found


# pools and profiles ----------------------------------------------------------------------------------------------


def _store(call: Call) -> Doc:
    _need_feature(call)
    return call.state.resources.setdefault(call.company, {"draft": None, "live": {"pools": [], "profiles": []}})


def get_configuration(call: Call) -> Doc:
    store = _store(call)
    if call.get("edit", True):
        return {"configuration": store["draft"] or store["live"]}
    pools = [
        {**pool, "usage": used(call.state, pool=pool["id"]), "links": _links_of(call, pool)}
        for pool in _live(call, "pools")
    ]
    profiles = [{**profile, "policy_connections": _connected(call, profile)} for profile in _live(call, "profiles")]
    enabled = call.company in call.state.policy_manager
    return {"configuration": {"pools": pools, "profiles": profiles}, "policy_manager": {"enabled": enabled}}


def _live(call: Call, kind: str) -> list[Doc]:
    return live(call.state, call.company, kind)


def _links_of(call: Call, pool: Doc) -> list[Doc]:
    return [
        {"profile": profile["id"], "name": link["name"], "queue": link.get("queue")}
        for profile in _live(call, "profiles")
        for link in profile["pool_links"]
        if link["pool"] == pool["id"]
    ]


def _connected(call: Call, profile: Doc) -> list[Doc]:
    return [
        {"policy": policy["id"], "queue": link["queue"]}
        for policy in _policies(call)
        for link in policy["profile_links"]
        if link["profile"] == profile["id"]
    ]


def set_configuration(call: Call) -> Doc:
    store = _store(call)
    known = {
        item["id"]
        for side in ("draft", "live")
        for kind in ("pools", "profiles")
        for item in (store[side] or {}).get(kind, [])
    }
    pools = [_pool(item, known) for item in call.get("pools", [])]
    ids = {pool["id"] for pool in pools}
    profiles = [_profile(item, known, ids) for item in call.get("profiles", [])]
    for items in (pools, profiles):
        names = [item["name"] for item in items]
        if len(set(names)) < len(names):
            raise Refusal("expected_unique_data", name=names)
    store["draft"] = {"pools": pools, "profiles": profiles}
    return {}


def _named_item(item: Any, known: set[str]) -> Doc:
    if not isinstance(item, Mapping) or not str(item.get("name") or "").strip():
        raise Refusal("validation_error", "every pool and profile has a name")
    if item.get("id") and item["id"] not in known:
        raise Refusal("invalid_id", id=item["id"])
    return {
        "id": item.get("id") or new_id(),
        "name": str(item["name"]),
        "description": str(item.get("description") or ""),
    }


def _pool(item: Any, known: set[str]) -> Doc:
    pool = _named_item(item, known)
    return pool | {"resources": _amount(item, "resources")}


def _profile(item: Any, known: set[str], pools: set[str]) -> Doc:
    profile = _named_item(item, known)
    links = []
    for link in item.get("pool_links") or ():
        if link.get("pool") not in pools:
            raise Refusal("invalid_id", "unknown pool", pool=link.get("pool"))
        links.append({"pool": link["pool"], "name": str(link.get("name") or ""), "queue": link.get("queue")})
    cost = _amount(item, "profile_cost")
    return profile | {"profile_cost": cost, "cost_field": item.get("cost_field") or "", "pool_links": links}


def _amount(item: Mapping[str, Any], name: str) -> float:
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise Refusal("validation_error", f"data.{name} must be a number of 0 or more")
    return float(value)


def test_publishing(call: Call) -> Doc:
    store = _store(call)
    draft = store["draft"] or store["live"]
    kept = {profile["id"] for profile in draft["profiles"]}
    lost = [p["id"] for p in _policies(call) if any(link["profile"] not in kept for link in p["profile_links"])]
    loose = [profile["id"] for profile in draft["profiles"] if not profile["pool_links"]]
    return {"affected_policies": lost, "not_linked_profiles": loose}


def publish_configuration(call: Call) -> Doc:
    """Bring the draft into force: each link gets its queue, those of links that are gone go with their queues."""
    store = _store(call)
    if store["draft"] is None:
        return {"created": 0, "updated": 0, "deleted": 0}
    if loose := test_publishing(call)["not_linked_profiles"]:
        raise Refusal("validation_error", "profiles without a pool", profiles=loose)
    before, after = store["live"], store["draft"]
    queues = {(p["id"], link["pool"]): link["queue"] for p in before["profiles"] for link in p["pool_links"]}
    for profile in after["profiles"]:
        for link in profile["pool_links"]:
            queue = queues.pop((profile["id"], link["pool"]), None)
            link["queue"] = queue or make_queue(call, link["name"] or f"{profile['name']}-{link['pool'][:6]}")["id"]
    for queue in queues.values():
        _delete_queue(call, queue)
    kept = {profile["id"] for profile in after["profiles"]}
    for policy in _policies(call):
        for link in [link for link in policy["profile_links"] if link["profile"] not in kept]:
            _unlink(call, policy, link["queue"])
    store["live"], store["draft"] = after, None
    return _counts(before, after)


def _counts(before: Doc, after: Doc) -> Doc:
    old, new = ({item["id"] for kind in side.values() for item in kind} for side in (before, after))
    return {"created": len(new - old), "updated": len(new & old), "deleted": len(old - new)}


def reset_configuration(call: Call) -> Doc:
    _store(call)["draft"] = None
    return {}


def check_edit(call: Call) -> Doc:
    return {"exists": _store(call)["draft"] is not None}


def get_pools(call: Call) -> Doc:
    _need_feature(call)
    return {"pools": _live(call, "pools")}


def get_profiles(call: Call) -> Doc:
    _need_feature(call)
    return {"profiles": _live(call, "profiles")}


def enable_manager(call: Call) -> Doc:
    _need_feature(call)
    if call.get("enable", True):
        call.state.policy_manager.add(call.company)
        schedule(call.state, call.company)
    else:
        call.state.policy_manager.discard(call.company)
    return {}


# policies --------------------------------------------------------------------------------------------------------


def get_policies(call: Call) -> Doc:
    _need_feature(call)
    return {"policies": [_shown(call, policy) for policy in _policies(call)]}


def _shown(call: Call, policy: Doc) -> Doc:
    shown = {name: value for name, value in policy.items() if name != "profile_links"}
    return shown | {"usage": used(call.state, policy=policy["id"]), "missing_profile_connections": False}


def get_policy(call: Call) -> Doc:
    """Return a policy with its links as objects. Terraform provider for ClearML, fixtures of server 3.28."""
    policy = _one(call, "policies")
    profiles = {profile["id"]: profile for profile in _live(call, "profiles")}
    links = [
        {
            "profile": {"id": link["profile"], "name": profiles.get(link["profile"], {}).get("name", "")},
            "queue": {"id": link["queue"], "name": call.state.docs["queues"].get(link["queue"], {}).get("name", "")},
        }
        for link in policy["profile_links"]
    ]
    tasks = [{"id": task} for task, held in call.state.allocations.items() if held.policy == policy["id"]]
    return _shown(call, policy) | {"profile_links": links, "tasks": tasks}


def _limits(call: Call, before: Mapping[str, Any]) -> dict[str, float]:
    both = {
        name: _amount(call.params, name) if call.get(name) is not None else float(before.get(name, 0))
        for name in ("reservation", "limit")
    }
    if both["limit"] < both["reservation"]:
        raise Refusal("fields_value_error", "the limit is below the reservation", limit=both["limit"])
    return both


def create_policy(call: Call) -> Doc:
    _need_feature(call)
    name, group = need_name(call, least=1), _one(call, "groups", "user_group")
    if any(policy["name"] == name for policy in _policies(call)):
        raise Refusal("expected_unique_data", name=name)
    fields = {
        "name": name,
        "description": str(call.get("description", "")),
        "user_group": group["id"],
        "user_group_name": group["name"],
        **_limits(call, {}),
        "profile_links": [],
    }
    return {"id": call.state.add_doc("policies", call.company, call.who.user, fields)["id"]}


def update_policy(call: Call) -> Doc:
    policy = _one(call, "policies")
    fields = {key: call.params[key] for key in ("name", "description") if call.get(key) is not None}
    fields |= _limits(call, policy)
    changed = any(policy.get(name) != value for name, value in fields.items())
    policy.update(fields)
    schedule(call.state, call.company)
    return {"updated": int(changed)}


def move_policy(call: Call) -> Doc:
    policy, group = _one(call, "policies"), _one(call, "groups", "user_group")
    policy.update({"user_group": group["id"], "user_group_name": group["name"]})
    return {"dequeued_tasks": 0}


def validate_move(call: Call) -> Doc:
    _one(call, "policies"), _one(call, "groups", "user_group")
    return {"tasks_to_dequeue": 0}


def delete_policy(call: Call) -> Doc:
    policy = _one(call, "policies")
    queues = [link["queue"] for link in policy["profile_links"]]
    for queue in queues:
        _delete_queue(call, queue)
    del call.state.docs["policies"][policy["id"]]
    return {"deleted": 1, "deleted_queues": len(queues)}


def _delete_queue(call: Call, queue_id: str) -> None:
    """Delete a queue; what waits in it becomes a draft."""
    queue = call.state.docs["queues"].pop(queue_id, None) or {}
    for entry in queue.get("entries") or ():
        task = call.state.docs["tasks"].get(entry["task"])
        if task is not None:
            drop(call.state, call.company, task["id"])
            task["status"] = "created"


def _unlink(call: Call, policy: Doc, queue: str) -> None:
    policy["profile_links"] = [link for link in policy["profile_links"] if link["queue"] != queue]
    _delete_queue(call, queue)


def connect(call: Call) -> Doc:
    policy, wanted = _one(call, "policies", "policy"), call.params["profile"]
    profile = next((item for item in _live(call, "profiles") if item["id"] == wanted), None)
    if profile is None:
        raise Refusal("invalid_id", "no profile in force", profile=wanted)
    if any(link["profile"] == wanted for link in policy["profile_links"]):
        raise Refusal("expected_unique_data", profile=wanted)
    if float(profile["profile_cost"]) > float(policy["limit"]):
        raise Refusal("fields_value_error", "the profile costs more than the limit", limit=policy["limit"])
    queue = make_queue(call, need_name(call, "queue_name"), display_name=call.get("display_name", ""))
    policy["profile_links"].append({"profile": profile["id"], "queue": queue["id"]})
    return {"id": queue["id"]}


def disconnect(call: Call) -> Doc:
    queue = queue_doc(call)["id"]
    for policy in _policies(call):
        if any(link["queue"] == queue for link in policy["profile_links"]):
            _unlink(call, policy, queue)
            return {"deleted": 1}
    raise Refusal("invalid_queue_id", "no policy has it", id=queue, company=call.company)


def _named(call: Call) -> str:
    return str(call.get("name") or call.get("id") or call.get("queue_name") or call.get("queue") or "")


ENDPOINTS = {
    "resources.get_resource_configuration": Endpoint(get_configuration, roles=ADMIN, types={"edit": "yesno"}),
    "resources.set_resource_configuration": Endpoint(
        set_configuration, (), ADMIN, {"pools": "list", "profiles": "list"}, _named
    ),
    "resources.test_configuration_publishing": Endpoint(test_publishing, roles=ADMIN),
    "resources.publish_resource_configuration": Endpoint(publish_configuration, (), ADMIN, {}, _named),
    "resources.reset_resource_configuration": Endpoint(reset_configuration, (), ADMIN, {}, _named),
    "resources.check_edit_configuration": Endpoint(check_edit, roles=ADMIN),
    "resources.get_resource_pools": Endpoint(get_pools, roles=ADMIN),
    "resources.get_resource_profiles": Endpoint(get_profiles, roles=ADMIN),
    "resources.enable_policy_manager": Endpoint(enable_manager, (), ADMIN, {"enable": "yesno"}, _named),
    "resources.get_policies": Endpoint(get_policies),
    "resources.get_policy_data": Endpoint(get_policy, ("id",)),
    "resources.create_policy": Endpoint(create_policy, ("name", "user_group"), ADMIN, {"name": "text"}, _named),
    "resources.update_policy": Endpoint(update_policy, ("id",), ADMIN, {}, _named),
    "resources.validate_move_policy": Endpoint(validate_move, ("id", "user_group"), ADMIN),
    "resources.move_policy": Endpoint(move_policy, ("id", "user_group"), ADMIN, {}, _named),
    "resources.delete_policy": Endpoint(delete_policy, ("id",), ADMIN, {}, _named),
    "resources.connect_policy_profile": Endpoint(
        connect, ("policy", "profile", "queue_name"), ADMIN, {"queue_name": "text"}, _named
    ),
    "resources.disconnect_policy_profile": Endpoint(disconnect, ("queue",), ADMIN, {}, _named),
}
