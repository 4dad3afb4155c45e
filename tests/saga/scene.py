"""What is killed: one request on a tenant of its own, its points, and what must be the same at its end.

The tenant wants all that a tenant may want, so that every step of a saga acts. Its name stands as TENANT in points and
states, so that one undisturbed run is the measure of many others.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from blocks.site import load_site
from blocks.store import BlockSecrets
from stackwright.domain.tenant_parts import client_block
from stackwright.domain.tenant_record import NAMESPACE, PREFIX
from stackwright.domain.tenant_request import Action, TenantChanges, TenantRequest, WantedTenant
from stackwright.domain.tenant_saga import LOOKS
from stackwright.lab.rig import Rig
from tasks.tenant_register import read_record
from tasks.tenants import ACTS, system_client
from tests.kill.chains import Outcome
from tests.kill.compare import differences, plain
from tests.kill.controllers import Controllers
from tests.kill.points import Point, points_of

NAME = "TENANT"
IDS = re.compile(
    r"\b[0-9a-f]{32}\b|\b[A-Z0-9]{30}\b|(?<=stackwright-lookup-)[0-9a-f]{12}\b|(?<=stackwright-isolation-)[0-9a-f]{6}\b"
    r"|(?<=-r-)[0-9a-f]{8}\b"
)
"""Ids, access keys, the users that are made for a look, the pods that try the network, and copies of a volume."""
LEASES = re.compile(r"Lease/kube-system/|^lease/")
SETTLE_S, SETTLE_LIMIT_S = 0.3, 30.0


@dataclass(frozen=True)
class Scenario:
    """One request that is killed, after others that are not. `ends` is the exit code of a run that reaches its end."""

    name: str
    action: Action
    before: tuple[Action, ...] = ()
    refused: bool = False

    @property
    def ends(self) -> int:
        return 3 if self.refused else 0


SCENARIOS = (
    Scenario("onboard", "onboard"),
    Scenario("undo", "onboard", refused=True),
    Scenario("change", "change", ("onboard",)),
    Scenario("suspend", "suspend", ("onboard",)),
    Scenario("resume", "resume", ("onboard", "suspend")),
    Scenario("rotate", "rotate", ("onboard",)),
    Scenario("archive", "archive", ("onboard",)),
    Scenario("delete", "delete", ("onboard", "archive")),
)


class Stage:
    """One deployed lab, the controllers on it, and a count of the tenants that were used up."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.lab = rig, rig.lab
        self.controllers = Controllers(rig, "tests.saga.child")
        self.logs = rig.folder / "runs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._runs = self._tenants = 0

    def next_tenant(self) -> str:
        self._tenants += 1
        return f"saga{self._tenants:04}"

    def close(self) -> None:
        self.controllers.close()

    def use_up(self, tenant: str) -> None:
        """Forget a tenant's record: it is looked at no more, and its GPUs are to be had for the next one."""
        _, site = load_site("lab")
        site.kube().delete("v1", "ConfigMap", f"{PREFIX}{tenant}", NAMESPACE)

    def start(self, scenario: Scenario, action: Action, tenant: str) -> Path:
        """Make the process of one run, which waits; return its log."""
        self._runs += 1
        log = self.logs / f"{self._runs:04}-{scenario.name}-{action}.log"
        words = [request(action, tenant).model_dump_json(), *(["refused"] if scenario.refused else [])]
        self.pid = self.controllers.start(*words, log=log)
        return log

    def must(self, scenario: Scenario, action: Action, tenant: str, code: int = 0) -> None:
        """Carry out one request undisturbed."""
        log = self.start(scenario, action, tenant)
        ended = self.controllers.go()
        assert ended == code, f"{scenario.name} {action} {tenant} ended with {ended}:\n{log.read_text()[-3000:]}"

    def prepare(self, scenario: Scenario) -> str:
        """Bring a new tenant to where the scenario begins; return its name. Its provider's secret is kept before."""
        tenant = self.next_tenant()
        block = client_block(full_tenant(tenant).to_tenant())
        BlockSecrets().write("secret-text", block, {"value": SecretStr("planted-provider-secret")})
        for action in scenario.before:
            self.must(scenario, action, tenant)
        return tenant


def full_tenant(tenant: str) -> WantedTenant:
    """Return a tenant that wants everything: GPUs whole and shared, a volume, a policy that spills over, logins."""
    return WantedTenant.model_validate(
        {
            "name": tenant,
            "admin_email": f"admin@{tenant}.example",
            "quota": {"cpu": 8, "memory_gib": 32, "gpus": 2, "storage_gib": 100, "pods": 20},
            "queues": [
                {"name": "default"},
                {"name": "whole", "gpus": 1, "max_pods": 1},
                {"name": "part", "fraction": 0.25},
            ],
            "workspace_gib": 10,
            "policy": {"reservation": 1, "limit": 2, "pools": ["common"]},
            "identity": {
                "domains": [f"{tenant}.example"],
                "emails": [f"guest@{tenant}.test"],
                "provider": "keycloak",
                "client_id": "clearml",
                "client_block": f"clearml-tenant-{tenant}-sso",
                "base_url": "https://login.lab.test/realms/clearml",
                "admin_groups": ["ml-admins"],
            },
        }
    )


def changes_of(tenant: str) -> TenantChanges:
    """Return a change that touches every part which can be changed: one queue goes, one comes, all shares grow."""
    before = full_tenant(tenant)
    identity = before.identity
    assert identity is not None
    return TenantChanges.model_validate(
        {
            "quota": {**before.quota.model_dump(), "cpu": 12, "gpus": 3},
            "queues": [
                {"name": "default"},
                {"name": "whole", "gpus": 2, "max_pods": 1},
                {"name": "half", "fraction": 0.5},
            ],
            "workspace_gib": 20,
            "policy": {"reservation": 2, "limit": 3, "pools": ["common"]},
            "identity": {**identity.model_dump(), "emails": [f"other@{tenant}.test"]},
        }
    )


ACTIONS: tuple[Action, ...] = ("onboard", "archive", "delete", "change", "suspend", "resume", "rotate")


def request(action: Action, tenant: str) -> TenantRequest:
    """Return the request of an action; the same one each time."""
    return TenantRequest(
        id=f"{ACTIONS.index(action) + 1:016x}{int(tenant.removeprefix('saga')):016x}",
        site="lab",
        tenant=tenant,
        action=action,
        caller="test",
        wanted=full_tenant(tenant) if action == "onboard" else None,
        changes=changes_of(tenant) if action == "change" else None,
        confirm=tenant if action == "delete" else "",
    )


# --- points ----------------------------------------------------------------------------------------------------------


def steps_of(changes: Iterable[Mapping[str, Any]], tenant: str) -> list[list[Point]]:
    """Return the points of each change that a run took, but for the lease's own; tenant and ids stand as words."""
    mine = [
        {**change, **{part: _plain_text(change[part], tenant) for part in ("target", "action")}}
        for change in changes
        if not LEASES.search(change["target"]) and not LEASES.search(change["action"])
    ]
    return points_of(mine, every_object=False)


def _plain_text(text: str, tenant: str) -> str:
    return IDS.sub("*", text.replace(tenant, NAME))


def fault_of(point: Point, tenant: str) -> dict[str, Any]:
    """Return the fault that kills a run here, for one tenant."""
    parts = {"target": point.target, "action": point.action}
    match = {
        key: "^" + re.escape(text.replace(NAME, tenant)).replace(re.escape("*"), "[A-Za-z0-9]+") + "$"
        for key, text in parts.items()
    }
    return {"kind": "kill", "when": point.when, "match": {"wire": f"^{point.wire}$", **match}}


# --- end states ------------------------------------------------------------------------------------------------------


def state_of(stage: Stage, tenant: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that there is of one tenant, and whatever else came since `before` that names no tenant."""
    snapshot = stage.lab.snapshot()
    clearml, kube = snapshot["clearml"], snapshot["kube"]
    mine = {
        "kube": {key: value for key, value in kube.items() if tenant in key},
        "clearml": {
            part: clearml[part].get(tenant)
            for part in ("companies", "queues", "policies", "resources", "projects", "workers", "routers")
        },
        "policy manager": tenant in clearml["policy managers"],
        "users": [user for user in clearml["users"] if tenant in str(user)],
        "strange": sorted(key for key in kube.keys() - before["kube"].keys() if "saga" not in key),
        "strange users": len([user for user in clearml["users"] if "saga" not in str(user)]),
    }
    found = _named({**mine, **_asked(tenant)}, tenant)
    return plain(found)


def _asked(tenant: str) -> dict[str, Any]:
    """Return what a snapshot does not show: twins of a company, and blocks; asked as the platform does."""
    _, site = load_site("lab")
    twins = [company.name for company in system_client(site).companies() if company.name == tenant]
    block = site.secrets.read("api-key", f"clearml-tenant-{tenant}")
    works = block and site.clearml(block["access_key"].get_secret_value(), block["secret_key"]).login_ok()
    sso = site.secrets.read("secret-text", f"clearml-tenant-{tenant}-sso")
    return {"twins": twins, "block": sorted(block or ()), "the kept key works": works, "sso": sorted(sso or ())}


def _named(tree: Any, tenant: str) -> Any:
    if isinstance(tree, dict):
        return {_named(key, tenant): _named(value, tenant) for key, value in tree.items()}
    if isinstance(tree, list):
        named = [_named(item, tenant) for item in tree]
        return sorted(named, key=repr) if "*" in named else named  # the lab sorts such lists by what the ids were
    return _unordered(_plain_text(tree, tenant)) if isinstance(tree, str) else tree


def _unordered(text: str) -> Any:
    """Return a text that lists names as a sorted one: ids have no order that two runs share. JSON goes as its pairs."""
    if text.startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_sorted_pairs)
        except ValueError:  # no JSON: a template, or a text that only begins like it
            return text
    return ",".join(sorted(text.split(","))) if "*" in text and "," in text else text


def _sorted_pairs(pairs: list[tuple[str, Any]]) -> list[list[Any]]:
    """Sort an object's pairs. What a tenant's isolation was proved against depends on who else was there just then."""
    return sorted(([key, len(value) if key == "proved" else value] for key, value in pairs), key=repr)


def settled(stage: Stage, tenant: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tenant's state once the lab's products have stopped changing it by themselves."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    last: dict[str, Any] = {}
    while last != (now := state_of(stage, tenant, before)):
        assert time.monotonic() < deadline, f"the lab does not come to rest: {differences(last, now)[:5]}"
        last = now
        time.sleep(SETTLE_S)
    return last


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass
class Undisturbed:
    """The changes of a run that nobody kills, where it ends, and how long it takes.

    `lead` is a point to die at first, where the changes before the steps are another scenario's: whoever dies there
    does not come to them again.
    """

    steps: list[list[Point]]
    end: dict[str, Any]
    seconds: float
    lead: Point | None = None


def undisturbed(stage: Stage, scenario: Scenario, known: Sequence[Point] = ()) -> Undisturbed:
    """Carry a scenario out in peace. With points that are `known` its steps begin at the first that is not."""
    tenant = stage.prepare(scenario)
    before, since = stage.lab.snapshot(), len(stage.lab.journal())
    started = time.monotonic()
    stage.must(scenario, scenario.action, tenant, scenario.ends)
    seconds = time.monotonic() - started
    changes = stage.lab.journal(since)
    if known:
        changes = changes[next(n for n, one in enumerate(changes) if _is_new(one, tenant, known)) :]
    steps = steps_of(changes, tenant)
    if scenario.name == "onboard":
        missing = [what for what in ACTS if what not in (*begun(tenant), *LOOKS)]
        assert not missing, f"steps of onboarding that this tenant has no need of are not killed: {missing}"
    end = settled(stage, tenant, before)
    stage.use_up(tenant)
    return Undisturbed(steps, end, seconds, steps[0][0] if known else None)


def _is_new(change: Mapping[str, Any], tenant: str, known: Sequence[Point]) -> bool:
    return any(points[0] not in known for points in steps_of([change], tenant))


def begun(tenant: str) -> tuple[str, ...]:
    """Return the steps that the tenant's record names as begun."""
    _, site = load_site("lab")
    record = read_record(site, tenant)
    return record.begun if record else ()


def run_chain(stage: Stage, scenario: Scenario, points: Sequence[Point], want: Undisturbed) -> Outcome:
    """Kill a scenario at one point after the other, starting it again after each, and compare where it ends."""
    tenant = stage.prepare(scenario)
    before = stage.lab.snapshot()
    struck, problems, code = [], [], 0
    lead = [want.lead] if want.lead is not None and want.lead not in points else []
    for point in (*lead, *points, None):
        stage.lab.clear_faults()
        if point is not None:
            stage.lab.fault(**fault_of(point, tenant))
        log = stage.start(scenario, scenario.action, tenant)
        stage.lab.watch_controller(stage.pid)
        code = stage.controllers.go()
        if code == -signal.SIGKILL and point is not None:
            struck += [point] if point in points else []
        elif code != scenario.ends:
            problems.append(f"started again, it ended with {code}: {log.read_text(errors='replace')[-1500:]}")
            break
    stage.lab.clear_faults()
    if not problems:
        deadline = time.monotonic() + SETTLE_LIMIT_S
        while (problems := differences(want.end, state_of(stage, tenant, before))) and time.monotonic() < deadline:
            time.sleep(SETTLE_S)
    stage.use_up(tenant)
    return Outcome(struck, problems)
