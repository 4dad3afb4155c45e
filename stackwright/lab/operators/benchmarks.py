"""NeuVector's CIS benchmarks behind its REST API: nodes, the reports of each, and the errors that stand for none.

Shapes and errors: neuvector/neuvector, controller/rest/{bench,host}.go and controller/api/apis.go.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from stackwright.lab.kube.values import timestamp
from stackwright.lab.operators.world import Answer, Obj, World, answer_json

ENFORCER = "neuvector-enforcer-pod"
VERSION = "cis-rke2-1.8.0"
NOT_FOUND, READ_FAILED, IN_USE, BENCH_FAILED = 7, 9, 16, 23
_ERRORS = {
    NOT_FOUND: "Object not found",
    READ_FAILED: "Read from cluster failed",
    IN_USE: "Object in use",
    BENCH_FAILED: "CIS benchmark error",
}
# (number, on servers only, level under the CIS profile, level without it, what is asked)
_ITEMS = (
    ("K.1.1.1", True, "PASS", "PASS", "The API server's manifest has mode 600 or stricter"),
    ("K.1.1.12", True, "PASS", "WARN", "etcd's data belongs to etcd:etcd"),
    ("K.1.2.1", True, "PASS", "PASS", "Anonymous requests to the API server are refused"),
    ("K.1.2.16", True, "PASS", "WARN", "The API server writes an audit log"),
    ("K.3.2.2", True, "MANUAL", "MANUAL", "The audit policy covers key security concerns"),
    ("K.4.1.1", False, "PASS", "PASS", "The kubelet's service file has mode 600 or stricter"),
    ("K.4.2.6", False, "PASS", "WARN", "The kubelet protects kernel defaults"),
    ("K.4.2.12", False, "INFO", "INFO", "The kubelet takes strong ciphers only"),
)


class Benchmarks:
    """Answers for /v1/host and /v1/bench. An enforcer runs the benchmark by itself when it starts."""

    def __init__(self, world: World, namespace: str, memory: dict[str, Any]) -> None:
        self.world, self.namespace = world, namespace
        self.reports: dict[str, Any] = memory.setdefault("reports", {})
        """Node to the time of its report; None while one is running."""

    def answer(self, method: str, path: str) -> Answer | None:
        """Answer a request, or None where the path is somebody else's."""
        if (method, path) == ("GET", "/v1/host"):
            return answer_json(200, {"hosts": [self._host(node) for node in self._nodes()]})
        found = re.fullmatch(r"/v1/bench/host/([^/]+)/(kubernetes|docker)", path)
        if not found or method not in ("GET", "POST"):
            return None
        node = next((one for one in self._nodes() if _host_id(one) == found[1]), None)
        if node is None:
            return _error(404, NOT_FOUND, "Object not found")
        name = node["metadata"]["name"]
        if method == "POST" and name not in self._enforced():
            return _error(404, NOT_FOUND, "Enforcer not found")
        if found[2] == "docker":  # there is no Docker under RKE2
            return _error(500, BENCH_FAILED, "Running benchmark is not supported by the OS")
        return self._run(name) if method == "POST" else self._report(node, name)

    def _nodes(self) -> list[Obj]:
        """Return the nodes that an enforcer has ever told of, by name."""
        known = set(self._enforced()) | self.reports.keys()
        nodes = [node for node in self.world.objects("Node") if node["metadata"]["name"] in known]
        return sorted(nodes, key=lambda node: str(node["metadata"]["name"]))

    def _enforced(self) -> list[str]:
        names = self.world.pods_nodes(self.namespace, app=ENFORCER)
        for name in names:
            self.reports.setdefault(name, time.time())
        return names

    def _host(self, node: Obj) -> dict[str, Any]:
        name = node["metadata"]["name"]
        running = self.reports.get(name) is None
        return {
            "name": name, "id": _host_id(node), "platform": "Kubernetes", "runtime": "containerd", "state": "connected",
            "cap_docker_bench": False, "cap_kube_bench": True, "policy_mode": "Monitor",
            "kube_bench_status": "Benchmark is running" if running else "finished",
        }  # fmt: skip

    def _run(self, name: str) -> Answer:
        self.reports[name] = None
        return answer_json(200, {})

    def _report(self, node: Obj, name: str) -> Answer:
        ran = self.reports.get(name)
        if ran is None:  # asked for: running for one look, then done
            self.reports[name] = time.time()
            return _error(500, IN_USE, "Benchmark is running")
        annotations = node["metadata"].get("annotations") or {}
        words = json.loads(annotations.get("rke2.io/node-args") or "[]")
        hardened = "--profile" in words and words[words.index("--profile") + 1] == "cis"
        server = bool(words) and words[0] == "server"
        items = [_item(row, hardened) for row in _ITEMS if server or not row[1]]
        found = {"run_timestamp": int(ran), "run_at": timestamp(ran), "cis_version": VERSION, "items": items}
        return answer_json(200, found)


def _host_id(node: Obj) -> str:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return f"{node['metadata']['name']}:{info.get('machineID', '')}"


def _item(row: tuple[str, bool, str, str, str], hardened: bool) -> dict[str, Any]:
    number, _, good, bare, text = row
    level = good if hardened else bare
    return {
        "test_number": number, "category": "kubernetes", "type": "master" if row[1] else "worker", "profile": "Level 1",
        "scored": True, "automated": level != "MANUAL", "description": text, "remediation": "", "level": level,
        "message": [],
    }  # fmt: skip


def _error(status: int, code: int, message: str) -> Answer:
    return answer_json(status, {"code": code, "error": _ERRORS[code], "message": message})
