"""NeuVector's groups, what it makes of traffic and processes by their mode, its logs, its containers and their scans.

A group is learned for each workload outside the product's own namespace. In Discover whatever is seen becomes a rule;
in Monitor what no rule allows is reported; in Protect it is stopped as well.
Shapes: controller/api/apis.go, log_apis.go.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from stackwright.domain.cluster import image_of
from stackwright.lab.kube.values import seconds_of, timestamp
from stackwright.lab.operators.security_wire import (
    INVALID,
    NAMESPACE,
    NO_OBJECT,
    NOT_ALLOWED,
    page,
    refusal,
)
from stackwright.lab.operators.world import Answer, Obj, World, answer_json

MODES = ("Discover", "Monitor", "Protect")
BASELINES = {"basic": "basic", "default": "zero-drift", "shield": "zero-drift", "zero-drift": "zero-drift"}
LOG_SIZE = 4096  # controller/cache/log.go: logCacheSize
KINDS = ("Deployment", "StatefulSet", "DaemonSet")


class Groups:
    """Answers for /v1/group, /v1/service, /v1/log, /v2/workload and /v1/scan/image."""

    def __init__(self, world: World, memory: dict[str, Any], now: Callable[[], float]) -> None:
        self.world, self.now = world, now
        self.modes: dict[str, dict[str, str]] = memory.setdefault("modes", {})
        """Group to its settings; one that was never seen gets those of new services."""
        self.rules: list[list[str]] = memory.setdefault("rules", [])
        """Learned: group of the client, group of the server, application; or group, process path, empty."""
        self.logs: dict[str, list[Obj]] = memory.setdefault("logs", {"violation": [], "incident": [], "threat": []})
        self.crd_managed: list[str] = memory.setdefault("crd_managed", [])
        self.cves: dict[str, list[int]] = memory.setdefault("cves", {})
        """Image to its critical, high and medium counts; an image that is not named has none."""
        self.unscanned: list[str] = memory.setdefault("unscanned", [])
        self.config: dict[str, Any] = memory.setdefault("new_svc", {})

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: Mapping[str, str], sent: Mapping[str, Any]) -> Answer | None:
        """Answer a request, or None where the path is somebody else's."""
        if (method, path) == ("PATCH", "/v1/service/config"):
            return self._configure(sent.get("config"))
        if method != "GET":
            return None
        if path == "/v1/group":
            groups = [self._group(name, capabilities=query.get("with_cap") == "true") for name in sorted(self.names())]
            return answer_json(200, {"groups": page(groups, query)})
        if found := re.fullmatch(r"/v1/group/([^/]+)", path):
            return answer_json(200, {"group": self._group(found[1])}) if found[1] in self.names() else _missing()
        if found := re.fullmatch(r"/v1/log/(violation|incident|threat)", path):
            newest_first = sorted(self.logs[found[1]], key=lambda one: -int(one["reported_timestamp"]))
            return answer_json(200, {f"{found[1]}s": page(newest_first, query, log=True)})
        if path == "/v2/workload":
            return answer_json(200, {"workloads": page(self._workloads(), query)})
        if path == "/v1/scan/image":
            return answer_json(200, {"images": page(self._images(), query)})
        return None

    def _configure(self, config: Any) -> Answer:
        """Set groups; names that are unknown are passed over, and refused only where nothing else is left."""
        if not isinstance(config, Mapping) or not config.get("services"):
            return refusal(400, INVALID)
        for what in ("policy", "profile"):
            mode = config.get(f"{what}_mode")
            if mode is not None and mode not in MODES:
                return refusal(400, INVALID, f"Invalid {what} mode {mode}")
        baseline = config.get("baseline_profile")
        if baseline is not None and str(baseline).lower() not in BASELINES:
            return refusal(400, INVALID)
        names = [f"nv.{service}" for service in config["services"]]
        known = [name for name in names if name in self.names()]
        free = [name for name in known if name not in self.crd_managed]
        if not free:
            return refusal(400, NOT_ALLOWED) if known else _missing()
        for name in free:
            settings = self.mode_of(name)
            settings |= {key: str(config[key]) for key in ("policy_mode", "profile_mode") if config.get(key)}
            if baseline:
                settings["baseline_profile"] = BASELINES[str(baseline).lower()]
            self.modes[name] = settings
        return answer_json(200, {})

    # --- groups ------------------------------------------------------------------------------------------------------

    def names(self) -> dict[str, Obj]:
        """Return the learned groups: one for each workload, save those of the product itself."""
        found = {}
        for kind in KINDS:
            for item in self.world.objects(kind):
                meta = item["metadata"]
                if meta.get("namespace") != NAMESPACE:
                    found[f"nv.{meta['name']}.{meta['namespace']}"] = item
        return found

    def mode_of(self, name: str) -> dict[str, str]:
        """Return a group's settings; from its first look on they stay what new services had then."""
        if name not in self.modes:
            policy = self.config.get("new_service_policy_mode", "Discover")
            self.modes[name] = {
                "policy_mode": policy,
                "profile_mode": self.config.get("new_service_profile_mode", policy),
                "baseline_profile": self.config.get("new_service_profile_baseline", "zero-drift"),
            }
        return dict(self.modes[name])

    def _group(self, name: str, *, capabilities: bool = False) -> Obj:
        meta = self.names()[name]["metadata"]
        members = [
            {"id": one["brief"]["id"], "name": one["brief"]["name"], "domain": meta["namespace"]}
            for one in self._workloads()
            if one["brief"]["service_group"] == name
        ]
        able = {"cap_change_mode": True, "cap_scorable": True} if capabilities else {}
        crd = name in self.crd_managed
        return {
            "name": name, "comment": "", "learned": not crd, "reserved": False, "domain": meta["namespace"],
            "kind": "container", "platform_role": "system" if meta["namespace"].startswith("kube-") else "",
            "cfg_type": "ground" if crd else "learned", "criteria": [], "members": members, "policy_rules": [],
            "response_rules": [], **self.mode_of(name), **able,
        }  # fmt: skip

    # --- what happens ------------------------------------------------------------------------------------------------

    def talk(self, client: str, server: str, port: int, application: str = "HTTP") -> bool:
        """Let a workload talk to another; an end that is no group is outside. Return whether it got through."""
        ends = [one for one in (client, server) if one in self.names()]
        modes = [self.mode_of(one)["policy_mode"] for one in ends]
        rule = [client, server, application]
        if rule in self.rules:
            return True
        if "Protect" not in modes and "Discover" in modes:
            self.rules.append(rule)
            return True
        stopped = "Protect" in modes
        entry = {"policy_action": "deny" if stopped else "violate", "policy_id": 0, "sessions": 1,
                 "server_port": port, "ip_proto": 6, "applications": [application], "servers": [],
                 "client_ip": "10.42.0.8", "server_ip": "10.42.0.9", "fqdn": "", "xff": False,
                 "nbe": False}  # fmt: skip
        self._log(
            "violation", "Network.Violation", {**entry, **self._end("client", client), **self._end("server", server)}
        )
        return not stopped

    def run(self, group: str, path: str, name: str = "Process.Profile.Violation") -> bool:
        """Let a workload start a process; return whether it ran."""
        mode = self.mode_of(group)["profile_mode"]
        rule = [group, path, ""]
        suspicious = name != "Process.Profile.Violation"
        if not suspicious and (rule in self.rules or mode == "Discover"):
            self.rules += [] if rule in self.rules else [rule]
            return True
        stopped = mode == "Protect"
        workload = {
            f"workload_{key.removeprefix('client_')}": value for key, value in self._end("client", group).items()
        }
        entry = {"proc_path": path, "proc_name": path.rpartition("/")[2], "group": group, "rule_id": "",
                 "action": "Denied" if stopped else "Alert", "message": name, "count": 1}  # fmt: skip
        self._log("incident", name, {**entry, **workload})
        return not stopped

    def threaten(self, client: str, server: str, name: str, severity: str = "High") -> None:
        """Let an attack be seen."""
        ends = {**self._end("client_workload", client), **self._end("server_workload", server)}
        blocked = "Protect" in [self.mode_of(one)["policy_mode"] for one in (client, server) if one in self.names()]
        action = "deny" if blocked else "monitor"
        self._log("threat", name, {**ends, "severity": severity, "action": action, "count": 1, "application": "HTTP"})

    def _end(self, side: str, group: str) -> Obj:
        item = self.names().get(group)
        if item is None:
            return {f"{side}_id": group, f"{side}_name": group}
        space, name = item["metadata"]["namespace"], item["metadata"]["name"]
        return {f"{side}_id": f"w-{group}", f"{side}_name": f"{name}-pod", f"{side}_domain": space,
                f"{side}_service": f"{name}.{space}", f"{side}_image": image_of(item)}  # fmt: skip

    def _log(self, kind: str, name: str, entry: Obj) -> None:
        at = self.now()
        log = self.logs[kind]
        log.append({
            "name": name, "level": "Warning", "reported_timestamp": int(at), "reported_at": timestamp(at),
            "cluster_name": "cluster.local", "host_id": "", "host_name": "", "enforcer_id": "", "enforcer_name": "",
            "id": uuid.uuid4().hex, **entry,
        })  # fmt: skip
        del log[:-LOG_SIZE]

    # --- containers and their scans ----------------------------------------------------------------------------------

    def _workloads(self) -> list[Obj]:
        """Return the running pods outside the product, with the group of the workload that owns each."""
        owners = sorted(self.names(), key=len, reverse=True)
        found = []
        for pod in self.world.objects("Pod"):
            meta = pod["metadata"]
            space = meta.get("namespace", "")
            if space == NAMESPACE or (pod.get("status") or {}).get("phase") != "Running":
                continue
            group = next((one for one in owners if one.endswith(f".{space}")
                          and meta["name"].startswith(f"{one[3:-len(space) - 1]}-")), "")  # fmt: skip
            created = meta.get("creationTimestamp")
            started = seconds_of(created) if created else self.now()
            for container in (pod.get("spec") or {}).get("containers") or ():
                found.append(self._workload(meta["name"], space, group, container, started))
        return sorted(found, key=lambda one: str(one["brief"]["name"]))

    def _workload(self, pod: str, space: str, group: str, container: Obj, started: float) -> Obj:
        image = str(container.get("image", ""))
        name = f"k8s_{container.get('name', 'main')}_{pod}_{space}"
        return {
            "brief": {"id": hashlib.sha256(name.encode()).hexdigest(), "name": name, "display_name": pod,
                      "domain": space, "image": image, "image_id": _image_id(image), "state": "monitor",
                      "service": group[3:], "service_group": group},
            "security": {"cap_change_mode": True, **self.mode_of(group), "scan_summary": self._scan(image, started)}
            if group
            else {"scan_summary": self._scan(image, started)},
            "rt_attributes": {"pod_name": pod}, "platform_role": "", "running": True,
            "started_at": timestamp(started), "secured_at": timestamp(started), "children": [],
        }  # fmt: skip

    def _scan(self, image: str, started: float) -> Obj:
        if image in self.unscanned or not self.world.ready("Deployment", "neuvector-scanner-pod", NAMESPACE):
            return {"status": "", "critical": 0, "high": 0, "medium": 0, "result": "", "scanned_timestamp": 0,
                    "scanned_at": "", "base_os": "", "scanner_version": ""}  # fmt: skip
        critical, high, medium = self.cves.get(image, [0, 0, 0])
        return {"status": "finished", "critical": critical, "high": high, "medium": medium, "result": "succeeded",
                "scanned_timestamp": int(started), "scanned_at": timestamp(started), "base_os": "sles:15.6",
                "scanner_version": "4.001", "cvedb_create_time": timestamp(started)}  # fmt: skip

    def _images(self) -> list[Obj]:
        """Return one line an image, of those alone whose scan is done, by name."""
        found: dict[str, Obj] = {}
        for one in self._workloads():
            brief, scan = one["brief"], one["security"]["scan_summary"]
            if scan["status"] == "finished":
                found[brief["image_id"]] = {"image": brief["image"], "image_id": brief["image_id"], "author": "",
                                            "created_at": "", **scan}  # fmt: skip
        return sorted(found.values(), key=lambda one: str(one["image"]))


def _image_id(image: str) -> str:
    return "sha256:" + hashlib.sha256(image.encode()).hexdigest()


def _missing() -> Answer:
    return refusal(404, NO_OBJECT)
