"""A capacity report of a large cluster over the wire, against fetching and parsing the same lists. One JSON line.

`python -m benchmarks.capacity [--nodes 500] [--pods 20000]`. A process of its own serves the API's lists in pages, pods
as a real API server writes them (about 6 KiB each, managed fields included). Ours reads, judges, draws and writes page,
CSV and artifact; plain fetches the same pages and parses them. Each is a process of its own; peak memory is its whole
resident set. Targets: 10 s and 300 MiB.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from pydantic import SecretStr

PAGE = 500
LIMIT_S, LIMIT_MIB = 10.0, 300.0
LISTS = {
    "/api/v1/nodes": "nodes", "/api/v1/pods": "pods", "/api/v1/namespaces": "namespaces",
    "/api/v1/resourcequotas": "quotas", "/api/v1/persistentvolumes": "volumes",
}  # fmt: skip
CORE = [("nodes", "Node", False), ("pods", "Pod", True), ("namespaces", "Namespace", False),
        ("resourcequotas", "ResourceQuota", True), ("persistentvolumes", "PersistentVolume", False)]  # fmt: skip


# --- the API --------------------------------------------------------------------------------------------------------


def pod(number: int, nodes: int) -> dict[str, Any]:
    """Return a pod as the API server gives it."""
    labels = {"app.kubernetes.io/name": f"app-{number % 200}", "pod-template-hash": f"{number % 977:010x}"}
    env = [{"name": f"SETTING_{n}", "value": f"value-of-setting-{n}-{number}"} for n in range(18)]
    mounts = [{"name": f"v{n}", "mountPath": f"/mnt/v{n}"} for n in range(4)]
    requests = {"cpu": f"{100 + number % 7 * 150}m", "memory": f"{256 + number % 5 * 512}Mi"}
    if number % 25 == 0:
        requests["nvidia.com/gpu"] = "1"
    box = {"name": "main", "image": f"registry.example.com/team/app-{number % 200}:1.{number % 40}", "env": env,
           "volumeMounts": mounts, "resources": {"requests": requests, "limits": requests}}  # fmt: skip
    fields = {f"f:key-{n}": {".": {}, "f:name": {}, "f:value": {}} for n in range(30)}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": f"{number % 999}", "controller": True}
    managed = {"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:spec": fields, "f:status": fields}}
    meta = {
        "name": f"app-{number}", "namespace": f"clearml-team-{number % 40}", "uid": f"{number:032x}", "labels": labels,
        "ownerReferences": [owner], "managedFields": [managed],
    }  # fmt: skip
    spec = {
        "nodeName": f"node-{number % nodes}",
        "containers": [box],
        "tolerations": [{"operator": "Exists", "key": "node.kubernetes.io/not-ready"}],
    }
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-11-26T05:00:00Z"}
        for kind in ("Ready", "Initialized", "PodScheduled")
    ]
    return {"metadata": meta, "spec": spec, "status": {"phase": "Running", "conditions": conditions}}


def node(number: int) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": "8"} if number % 5 == 0 else {}
    have = {"cpu": "64", "memory": "512Gi", "pods": "110", **gpus}
    status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": have}
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100"} if gpus else {}
    return {"metadata": {"name": f"node-{number}", "labels": labels}, "spec": {}, "status": status}


def everything(nodes: int, pods: int) -> dict[str, list[dict[str, Any]]]:
    spaces = [f"clearml-team-{n}" for n in range(40)]
    hard = {"requests.cpu": "500", "requests.memory": "4Ti", "requests.nvidia.com/gpu": "16"}
    return {
        "nodes": [node(n) for n in range(nodes)],
        "pods": [pod(n, nodes) for n in range(pods)],
        "namespaces": [{"metadata": {"name": ns, "labels": {"stackwright.io/tenant": ns[8:]}}} for ns in spaces],
        "quotas": [{"metadata": {"name": "q", "namespace": ns}, "spec": {"hard": hard}} for ns in spaces],
        "volumes": [],
    }  # fmt: skip


def serve(nodes: int, pods: int) -> None:
    """Serve the lists until standard input ends; print the port first."""
    pages: dict[str, list[bytes]] = {}
    for name, items in everything(nodes, pods).items():
        parts = [items[at : at + PAGE] for at in range(0, len(items), PAGE)] or [[]]
        pages[name] = [
            json.dumps({"metadata": {"continue": str(n + 1) if n + 1 < len(parts) else ""}, "items": part}).encode()
            for n, part in enumerate(parts)
        ]

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = urlparse(self.path)
            if asked.path == "/api/v1":
                found = [{"name": plural, "kind": kind, "namespaced": inside} for plural, kind, inside in CORE]
                return self.answer(200, json.dumps({"resources": found}).encode())
            if asked.path not in LISTS:
                return self.answer(404, b'{"kind":"Status","apiVersion":"v1","code":404,"reason":"NotFound"}')
            return self.answer(200, pages[LISTS[asked.path]][int(parse_qs(asked.query).get("continue", ["0"])[0])])

        def answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


# --- the two ways ---------------------------------------------------------------------------------------------------


def plain(port: int) -> None:
    """Fetch every page and parse it."""
    for path in LISTS:
        token = ""
        while True:
            query = f"?limit={PAGE}" + (f"&continue={token}" if token else "")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}{query}") as answer:
                page = json.load(answer)
            token = page["metadata"]["continue"]
            if not token:
                break


def ours(port: int) -> dict[str, Any]:
    """Make the whole report, files and artifact text included."""
    from blocks.site import read_spec
    from stackwright.clients.kube import Kube
    from stackwright.clients.site import Site
    from stackwright.reports.capacity import capacity_csv
    from stackwright.reports.capacity_page import capacity_html, capacity_markdown
    from tasks.capacity import make_capacity_report
    from tasks.capacity_history import FolderHistory

    class NoSecrets:
        def read(self, kind: str, name: str) -> None:
            return None

        def write(self, kind: str, name: str, fields: dict[str, SecretStr]) -> None:
            raise AssertionError("nothing is written")

        def remove(self, kind: str, name: str) -> None:
            raise AssertionError("nothing is removed")

    access = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip

    def none(*_: Any) -> Any:
        raise AssertionError("not part of this")

    with tempfile.TemporaryDirectory() as folder:
        kube = Kube(access)
        site = Site(read_spec("example-ha"), NoSecrets(), none, lambda: kube, none, none, Path(folder))
        report = make_capacity_report(site, FolderHistory(Path(folder)))
        size = len(capacity_html(report)) + len(capacity_csv(report)) + len(capacity_markdown(report))
        return {"nodes": len(report.judged.nodes), "pods": len(report.facts.pods), "bytes": size}


def measure(way: str, port: int) -> dict[str, Any]:
    """Run one way in this process: seconds after imports, and the peak of the whole resident set."""
    import tasks.capacity  # noqa: F401  imported before the clock starts, as in a worker
    from stackwright.reports import capacity_page  # noqa: F401

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    more = plain(port) if way == "plain" else ours(port)
    seconds = time.perf_counter() - started
    peak = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmHWM:"
    )
    return {"seconds": seconds, "peak_mib": peak / 1024, **(more or {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--pods", type=int, default=20000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.nodes, given.pods)
    if given.way:
        print(json.dumps(measure(given.way, given.port)))
        return None
    me = [sys.executable, "-m", "benchmarks.capacity"]
    with subprocess.Popen(
        [*me, "--serve", "--nodes", str(given.nodes), "--pods", str(given.pods)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout and server.stdin
        port = server.stdout.readline().strip()
        found = {}
        for way in ("plain", "ours"):
            done = subprocess.run([*me, "--way", way, "--port", port], capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout.splitlines()[-1])
        server.stdin.close()
    ours_, plain_ = found["ours"], found["plain"]
    good = ours_["seconds"] < LIMIT_S and ours_["peak_mib"] < LIMIT_MIB and ours_["pods"] == given.pods
    print(
        json.dumps(
            {
                "name": "capacity", "nodes": ours_["nodes"], "pods": ours_["pods"],
                "wall_s": round(ours_["seconds"], 2),
                "plain_s": round(plain_["seconds"], 2), "ratio": round(ours_["seconds"] / plain_["seconds"], 2),
                "peak_rss_mib": round(ours_["peak_mib"], 1), "limit_s": LIMIT_S, "limit_mib": LIMIT_MIB, "ok": good,
            }
        )
    )  # fmt: skip
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
