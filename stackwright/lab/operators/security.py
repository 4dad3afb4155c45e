"""SUSE Security at work: NeuVector's REST API behind its Service. Sessions and inventory are here.

Groups, scans and logs are in security_groups.py, admission control in security_admission.py, benchmarks in
benchmarks.py.

Source: neuvector/neuvector, controller/rest.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from stackwright.lab.operators.benchmarks import Benchmarks
from stackwright.lab.operators.security_admission import Admission
from stackwright.lab.operators.security_groups import MODES, Groups
from stackwright.lab.operators.security_wire import (
    CONTROLLER,
    DENIED,
    INVALID,
    NAMESPACE,
    NOT_FOUND,
    UNAUTHORIZED,
    refusal,
)
from stackwright.lab.operators.world import Answer, World, answer_json, answer_text

SESSIONS = 32  # controller/rest/auth.go: MaxPerDomainLoginUsers
IDLE_S = 300.0  # a session that nobody uses ends
REVIEWS = ("/v1/assess/admission/rule",)  # a POST that only reads


async def security(world: World) -> None:
    """Serve NeuVector's REST API while a controller runs."""
    up = world.ready("Deployment", CONTROLLER, NAMESPACE)
    product = NeuVector(world) if up else None  # the init files are read when the first controller starts
    answer = product.answer if product else None
    world.serve(NAMESPACE, "neuvector-svc-controller-api", (10443, "controller-api"), answer)
    if product:
        await product.admission.settle()


class NeuVector:
    """NeuVector's REST API: sessions, inventory, the settings of new services; the rest is asked of its parts."""

    def __init__(self, world: World, now: Callable[[], float] = time.time) -> None:
        self.world, self.now = world, now
        self.memory: dict[str, Any] = world.memory.setdefault("neuvector", {})
        self.sessions: dict[str, list[Any]] = self.memory.setdefault("sessions", {})
        """Token to its user, the time of its last use, and the user's role."""
        if "new_svc" not in self.memory:
            self.memory["new_svc"] = self._first_settings()
        self.new_services: dict[str, Any] = self.memory["new_svc"]
        self.groups = Groups(world, self.memory, now)
        self.admission = Admission(world, self.memory)
        self.benchmarks = Benchmarks(world, NAMESPACE, self.memory)

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> Answer:
        path = path.rstrip("/")
        if path in REVIEWS:
            sent: Any = {}  # YAML, read by whom it concerns
        else:
            try:
                sent = json.loads(body) if body else {}
            except ValueError:
                return refusal(400, INVALID)
        if (method, path) == ("POST", "/v1/auth"):
            return self._login(sent)
        token = next((value for key, value in headers.items() if key.lower() == "x-auth-token"), "")
        role = self._role(token)
        if not role:
            return refusal(401, UNAUTHORIZED)
        if (method, path) == ("DELETE", "/v1/auth"):
            del self.sessions[token]
            return answer_json(200, {})
        if (method, path) == ("PATCH", "/v1/auth"):
            return answer_json(200, {})
        if method != "GET" and path not in REVIEWS and role != "admin":
            return refusal(403, DENIED)
        return (
            self.benchmarks.answer(method, path)
            or self.groups.answer(method, path, query, sent)
            or self.admission.answer(method, path, query, sent, body)
            or self._inside(method, path, sent)
        )

    # --- sessions ----------------------------------------------------------------------------------------------------

    def _login(self, sent: Mapping[str, Any]) -> Answer:
        given = sent.get("password")
        if not isinstance(given, Mapping):
            return refusal(400, INVALID)
        user = next((one for one in self._users() if one["fullname"] == given.get("username")), None)
        if user is None or not given.get("password") or given["password"] != user["password"]:
            return refusal(401, UNAUTHORIZED)
        self._end_idle()
        if sum(name == user["fullname"] for name, _, _ in self.sessions.values()) >= SESSIONS:
            return refusal(401, UNAUTHORIZED)
        token = secrets.token_hex(16)
        self.sessions[token] = [user["fullname"], self.now(), user["role"]]
        told = {"token": token, "fullname": user["fullname"], "username": user["fullname"], "role": user["role"],
                "timeout": int(IDLE_S)}  # fmt: skip
        return answer_json(200, {"token": told, "need_to_reset_password": False})

    def _role(self, token: str) -> str:
        """Return the role of a session's user, empty where there is no such session; it is used now."""
        self._end_idle()
        session = self.sessions.get(token)
        if session is None:
            return ""
        session[1] = self.now()
        return str(session[2])

    def _end_idle(self) -> None:
        for token in [one for one, (_, used, _) in self.sessions.items() if self.now() - used > IDLE_S]:
            del self.sessions[token]

    def _users(self) -> list[dict[str, str]]:
        """Return the users of the init file; else the administrator with the password of the bootstrap Secret."""
        listed = (_init(self.world, "userinitcfg.yaml").get("users")) or ()
        users = [{key.lower(): str(value) for key, value in user.items()} for user in listed]
        found = [{"role": "admin", "password": "", **user} for user in users if user.get("fullname")]
        if any(user["fullname"] == "admin" for user in found):
            return found
        password = self.world.secret("neuvector-bootstrap-secret", NAMESPACE).get("bootstrapPassword", "admin")
        return [*found, {"fullname": "admin", "role": "admin", "password": password}]

    # --- inventory and settings --------------------------------------------------------------------------------------

    def _inside(self, method: str, path: str, sent: Mapping[str, Any]) -> Answer:
        scanners = self._count("Deployment", "neuvector-scanner-pod", "readyReplicas")
        version = "4.001" if scanners else ""
        controllers = self._count("Deployment", CONTROLLER, "readyReplicas")
        enforcers = self._count("DaemonSet", "neuvector-enforcer-pod", "numberReady")
        known: dict[str, Any] = {
            "/v1/controller": {"controllers": [{"id": f"c{n}", "leader": n == 0, "connection_state": "connected"}
                                               for n in range(controllers)]},
            "/v1/enforcer": {"enforcers": [{"id": f"e{n}", "connection_state": "connected"} for n in range(enforcers)]},
            "/v1/scan/scanner": {"scanners": [{"id": f"s{n}", "cvedb_version": "4.001"} for n in range(scanners)]},
            "/v1/scan/status": {"status": {"scanned": 0, "scheduled": 0, "scanning": 0, "failed": 0,
                                           "cvedb_version": version}},
            "/v1/eula": {"eula": {"accepted": True}},
        }  # fmt: skip
        if method == "GET" and path in known:
            return answer_json(200, known[path])
        if path == "/v2/system/config":
            return self._config(method, sent)
        if (method, path) == ("GET", "/v1/file/config"):
            kept = {"new_svc": self.new_services, "modes": self.groups.modes}
            return answer_text(200, json.dumps(kept), "application/octet-stream")
        return refusal(404, NOT_FOUND)

    def _config(self, method: str, sent: Mapping[str, Any]) -> Answer:
        if method != "PATCH":
            return answer_json(200, {"config": {"new_svc": self.new_services}})
        change = sent.get("config_v2")
        if not isinstance(change, Mapping):
            return refusal(400, INVALID)
        wanted = change.get("svc_cfg") or {}
        for key in ("new_service_policy_mode", "new_service_profile_mode"):
            if key in wanted and wanted[key] not in MODES:
                return refusal(400, INVALID)
        self.new_services.update(wanted)
        return answer_json(200, {})

    def _first_settings(self) -> dict[str, Any]:
        """Return what the init file says of new services: it is read once, at the first start."""
        said = {key.lower(): value for key, value in _init(self.world, "sysinitcfg.yaml").items()}
        policy = said.get("new_service_policy_mode", "Discover")
        return {
            "new_service_policy_mode": policy,
            "new_service_profile_mode": said.get("new_service_profile_mode", policy),
            "new_service_profile_baseline": said.get("new_service_profile_baseline", "zero-drift"),
        }

    def _count(self, kind: str, name: str, field: str) -> int:
        found = self.world.find(kind, name, NAMESPACE) or {}
        return int((found.get("status") or {}).get(field, 0))


def _init(world: World, name: str) -> dict[str, Any]:
    text = world.secret("neuvector-init", NAMESPACE).get(name, "")
    found = yaml.safe_load(text) if text else None
    return found if isinstance(found, dict) else {}
