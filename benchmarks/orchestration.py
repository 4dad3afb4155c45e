"""What orchestration costs: a deploy of many nodes with Prefect, beside the same one without. Prints one JSON line.

`python -m benchmarks.orchestration [--nodes 50,200,500] [--db sqlite,postgres] [--what added,first] [--rounds 1]`. Each
deploy has a lab of its own. Two things are measured, and each row says which (`what`):

- `added`: three servers and three agents run already, and all other nodes are brought in: look at every host, prepare
  the hosts, join the agents, look at the evidence. The goal is held against this one. A site's preflight is not in it.
- `first`: what an operator starts on a bare site: look, preflight, prepare, three servers one by one, all agents,
  evidence. The preflight is half of the work on a bare host, and servers are waited for; neither starts task runs.

Three ways: with Prefect's server on SQLite, on PostgreSQL, and bare, where the flow and its tasks are called as plain
functions (benchmarks/orchestrated.py).

`share` is (wall - bare) / wall: everything that Prefect costs, its server's and its database's work too, as all share
this machine. It is the difference of two runs, so it is as uncertain as the two are: with one round about 0.05, more on
a machine that does other things. Beside it stands `cpu_share`, the same from processor time: server, database and what
the deploying process used beyond the bare one, as a share of all that was used, the lab's included. It varies less, and
knows nothing of waiting. The lab is `speed` times faster than life: on real hosts the same overhead stands beside
a longer deploy.

Exit code 1 when a state was lost or the server's log holds what it must not: every task run that the deploying process
started must have its final state on the server, no more and no fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import yaml

from benchmarks.guard import Guard
from benchmarks.orchestration_server import SERVERS, OnPostgres, OnSqlite, cpu_of
from stackwright.lab.control import LabHandle
from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT, Rig
from tests.postgres_programs import postgres_programs

FOLDER = ROOT / "build" / "bench" / "orchestration"
SPEED = 20.0
WIDTH = 24
"""Nodes at once. The lab's machines share this machine's processor: more of them only take turns."""
STANDING = 6  # nodes that run before others are added: three servers, and three agents, without which there is no site
WHAT = ("added", "first")
DEPLOY_LIMIT_S = 1800.0
SETTLE_LIMIT_S = 120.0
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}  # as in prefect.yaml
FINAL = ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]
GOAL = 0.10
Row = dict[str, Any]


class Case:
    """One lab, and how its site is deployed: bare, or through a server; all of it at once, or what is added to it."""

    def __init__(self, nodes: int, what: str, server: OnSqlite | None, guard: Guard) -> None:
        self.nodes, self.what, self.server, self.guard = nodes, what, server, guard
        self.folder = FOLDER / f"{nodes}-{what}-{server.name if server else 'bare'}"
        self.lab = LabHandle(self.folder / "lab")
        self.environment = {
            **os.environ,
            **(server.environment if server else {"PREFECT_HOME": str(self.folder / "prefect")}),
            **HEARTBEAT,
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "STACKWRIGHT_SITES": str(self.lab.sites),
            "STACKWRIGHT_STATE": str(self.folder / "state"),
            "STACKWRIGHT_REPORTS": str(self.folder / "reports"),
            "STACKWRIGHT_TOOLS": str(ROOT / "build" / "tools" / "bin"),
        }
        if server is None:
            self.environment.pop("PREFECT_API_URL", None)

    def measure(self) -> Row:
        """Start the lab, deploy the nodes that stand before, measure the deploy of all others, and stop the lab."""
        try:
            self._start()
            site = self.lab.sites / "lab.yaml"
            whole = yaml.safe_load(site.read_text(encoding="utf-8"))
            whole["ssh"]["width"] = whole["rke2"]["agent_batch"] = WIDTH
            if self.what == "added":
                standing = {**whole, "nodes": whole["nodes"][:STANDING]}
                site.write_text(yaml.safe_dump(standing, sort_keys=False), encoding="utf-8")
                self._settle(self._deploy())
            site.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
            return self._measured()
        finally:
            self.lab.stop()

    def _start(self) -> None:
        shutil.rmtree(self.folder / "lab", ignore_errors=True)
        layout = Layout(workers=0, gpus=0, agents=self.nodes - 3, bare=True)
        if self.server is None:
            self.lab.start(speed=SPEED, fresh=True, layout=layout)
        else:
            Rig(self.folder, self.server, SPEED).start_lab(layout=layout)
        self.guard.watch(self.lab.pid)

    def _measured(self) -> Row:
        before = self._database()
        if self.server is not None:
            self.server.trouble()  # what is there already was not this deploy's
        server, lab = self._server_cpu(), cpu_of(self.lab.pid or 0)
        told = self._deploy()
        ended = time.monotonic()
        lost = self._settle(told)
        row = {
            "wall_s": told["wall_s"], "client_cpu_s": told["cpu_s"], "lab_cpu_s": cpu_of(self.lab.pid or 0) - lab,
        }  # fmt: skip
        if self.server is None:
            return row
        after = self._database()
        return {
            **row,
            "task_runs": sum(told["tasks"].values()),
            "lost": lost,
            "calls": sum(told["routes"].values()),
            "refused": told["refused"],
            "lag_s": time.monotonic() - ended,
            "server_cpu_s": self._server_cpu() - server,
            "db_bytes_before": before,
            "db_bytes_after": after,
            "log": self.server.trouble(),
        }

    def _deploy(self) -> Row:
        """Deploy the site as it stands, in a process of its own; return what that told."""
        way = "prefect" if self.server else "bare"
        log = self.folder / "deploy.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.orchestrated", way, str(self.lab.folder)], env=self.environment,
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
            self.guard.watch(process.pid)
            try:
                out, _ = process.communicate(timeout=DEPLOY_LIMIT_S)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if process.returncode != 0:
            said = out.decode(errors="replace")[-3000:] + log.read_text(encoding="utf-8", errors="replace")[-3000:]
            sys.exit(f"the deploy of {self.nodes} nodes, {way}, ended with {process.returncode}:\n{said}")
        told: Row = json.loads(out.splitlines()[-1])
        return told

    def _settle(self, told: Row) -> int:
        """Wait until the server has a final state of every task run; return how many it lacks or has too many."""
        if self.server is None:
            return 0
        wanted, deadline = sum(told["tasks"].values()), time.monotonic() + SETTLE_LIMIT_S
        with httpx.Client(base_url=self.server.url, timeout=60) as client:
            while True:
                found = [self._count(client, told["run"], states) for states in (None, FINAL)]
                if found == [wanted, wanted] or time.monotonic() > deadline:
                    return max(abs(count - wanted) for count in found)
                time.sleep(0.2)

    @staticmethod
    def _count(client: httpx.Client, run: str, states: list[str] | None) -> int:
        asked: Row = {"flow_runs": {"id": {"any_": [run]}}}
        if states:
            asked["task_runs"] = {"state": {"type": {"any_": states}}}
        count: int = client.post("/task_runs/count", json=asked).raise_for_status().json()
        return count

    def _database(self) -> int:
        return asyncio.run(self.server.database_bytes()) if self.server else 0

    def _server_cpu(self) -> float:
        return self.server.cpu_s() if self.server else 0.0


@contextmanager
def serving(database: str, guard: Guard) -> Iterator[OnSqlite]:
    """Run a server with this database, set up with the catalogue; all sizes are measured on it."""
    folder = FOLDER / database
    shutil.rmtree(folder, ignore_errors=True)
    server = SERVERS[database](folder / "prefect")
    if isinstance(server, OnPostgres):
        guard.litter(server.data)
    try:
        server.launch()
        for pid in server.pids:
            guard.watch(pid)
        server.wait()
        Rig(folder, server, SPEED).set_up()
        yield server
    finally:
        server.stop()


def middle(rows: list[Row]) -> Row:
    """Return the run of the median wall time."""
    return sorted(rows, key=lambda row: float(row["wall_s"]))[len(rows) // 2]


def judge(nodes: int, what: str, database: str, row: Row, bare: Row) -> Row:
    """Put a run beside the bare one of the same size."""
    overhead = row["wall_s"] - bare["wall_s"]
    extra_cpu = row["server_cpu_s"] + row["client_cpu_s"] - bare["client_cpu_s"]
    all_cpu = row["server_cpu_s"] + row["client_cpu_s"] + row["lab_cpu_s"]
    count = nodes if what == "first" else nodes - STANDING
    growth = row["db_bytes_after"] - row["db_bytes_before"]
    shown = {
        "nodes": nodes, "what": what, "db": database, "task_runs": row["task_runs"], "api_calls": row["calls"],
        "wall_s": row["wall_s"], "bare_s": bare["wall_s"], "overhead_s": overhead, "share": overhead / row["wall_s"],
        "cpu_share": extra_cpu / all_cpu, "per_task_run_ms": 1000 * overhead / row["task_runs"],
        "cpu_per_task_run_ms": 1000 * extra_cpu / row["task_runs"], "cpu_per_node_ms": 1000 * extra_cpu / count,
        "client_cpu_s": row["client_cpu_s"],
        "bare_client_cpu_s": bare["client_cpu_s"], "server_cpu_s": row["server_cpu_s"], "lab_cpu_s": row["lab_cpu_s"],
        "lag_s": row["lag_s"], "db_bytes_before": row["db_bytes_before"], "db_bytes_after": row["db_bytes_after"],
        "db_growth": growth, "db_growth_per_task_run": growth // row["task_runs"], "lost_states": row["lost"],
        "refused": row["refused"], "server_log": row["log"],
    }  # fmt: skip
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in shown.items()}


def measure(sizes: list[int], whats: list[str], databases: list[str], rounds: int, guard: Guard) -> Row:
    """Measure all sizes, the bare runs first. Tells on the error output how far it is."""
    bare, rows = {}, []
    cases = [(nodes, what) for nodes in sizes for what in whats]
    for nodes, what in cases:
        bare[nodes, what] = middle([Case(nodes, what, None, guard).measure() for _ in range(rounds)])
        tell(f"{nodes} nodes, {what}, bare: {json.dumps(bare[nodes, what])}")
    for database in databases:
        with serving(database, guard) as server:
            for nodes, what in cases:
                row = middle([Case(nodes, what, server, guard).measure() for _ in range(rounds)])
                rows.append(judge(nodes, what, database, row, bare[nodes, what]))
                tell(json.dumps(rows[-1]))
    wrong = [row for row in rows if row["lost_states"] or row["refused"] or row["server_log"]]
    within = [row["share"] < GOAL for row in rows if row["nodes"] == 200 and row["what"] == "added"]
    return {
        "benchmark": "orchestration", "speed": SPEED, "width": WIDTH, "cores": os.cpu_count(), "rounds": rounds,
        "left_out": [name for name in SERVERS if name not in databases], "runs": rows,
        "whole": not wrong, "goal": GOAL, "within_at_200": all(within) if within else None,
    }  # fmt: skip


def tell(line: str) -> None:
    """Say on the error output what is under way."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="50,200,500", help="sizes, the nodes that stand before included")
    parser.add_argument("--what", default="added", help="of added, first")
    parser.add_argument("--db", default="sqlite,postgres", help="of sqlite, postgres")
    parser.add_argument("--rounds", type=int, default=1, help="the run of the median wall time counts")
    options = parser.parse_args()
    sizes, databases = [int(size) for size in options.nodes.split(",")], options.db.split(",")
    whats = options.what.split(",")
    if unknown := (set(databases) - set(SERVERS)) | (set(whats) - set(WHAT)):
        sys.exit(f"no such database, or nothing to measure: {', '.join(sorted(unknown))}")
    if "postgres" in databases and postgres_programs() is None:
        tell("PostgreSQL is not installed (apt-get install postgresql): left out")
        databases.remove("postgres")
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    guard = Guard()
    try:
        result = measure(sizes, whats, databases, options.rounds, guard)
    finally:
        guard.close()
    print(json.dumps(result))
    sys.exit(
        0 if result["whole"] else "states were lost, or the server had trouble: see lost_states, refused and server_log"
    )


if __name__ == "__main__":
    main()
