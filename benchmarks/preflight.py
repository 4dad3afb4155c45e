"""The whole preflight of many hosts over real SSH with a slow network, against a bare read. Prints one JSON line.

`python -m benchmarks.preflight [--hosts 50] [--delay 20] [--rounds 3]`. Needs root: each host is a real sshd in
namespaces of its own (benchmarks/farm). Every SSH connection, and every request to the registry, goes through a relay
in a process of its own that hands bytes on after the delay, each way: a round trip is twice as long (benchmarks/farm/
relay.py). Probes between hosts are not delayed: they run at once, so a delay would be added to them only once.

Counted is everything that `stackwright check` does but for Prefect and the cluster: names, charts and images, blocks,
then each host's facts and probes over one connection, judging, and the report's HTML. Bare: connect with paramiko and
run the reading script of a plan, in as many threads. Hosts, relay and controller share this machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paramiko
from pydantic import SecretStr

from benchmarks.farm import relay
from benchmarks.farm.hosts import STUBS, Farm
from benchmarks.node_prep import floor, site_of
from stackwright.clients.site import Site
from stackwright.domain import node_wants as wants
from stackwright.domain.node_facts import node_script
from stackwright.domain.preflight import CHECKS, model
from stackwright.domain.spec import StackSpec
from stackwright.reports.html import report_html
from stackwright.reports.model import make_report
from tasks.preflight import read_case

ROOT = Path(__file__).parent.parent
VERSION = "v1.34.10+rke2r1"
LIMIT_S = 30.0


class Blocks:
    """The site's secrets, in memory."""

    def __init__(self, key: str) -> None:
        login = {"username": SecretStr(relay.LOGIN[0]), "password": SecretStr(relay.LOGIN[1])}
        self.kept = {("registry", "mirror"): login, ("ssh-key", "ssh"): {"private_key": SecretStr(key)}}

    def read(self, kind: str, name: str) -> Any:
        return self.kept.get((kind, name))


def spec_of(farm: Farm, ca_file: str) -> StackSpec:
    """Return a site with all layers, three servers, and a mirror that holds charts and images."""
    host_key = " ".join((farm.folder / "host_key.pub").read_text().split()[:2])
    nodes = [
        {
            "name": name, "address": relay.near(index), "port": relay.PORT, "host_key": host_key,
            "roles": ["server"] if index < 3 else ["worker", "storage"] if index < 6 else ["worker"],
        }
        for index, name in enumerate(farm.names)
    ]  # fmt: skip
    mirror = f"{relay.REGISTRY}:{relay.REGISTRY_PORT}"
    layers = {"metallb": {"enabled": True, "addresses": ["198.51.100.0/28"]}, "gpu_operator": {"enabled": False}}
    names = ("k8s", "rancher", "registry", "observability", "ai", "api.ml", "app.ml", "files.ml", "router-red.ml")
    return StackSpec.model_validate(
        {
            "site": "farm",
            "environment": "lab",
            "nodes": nodes,
            "dns": {"hosts": {f"{name}.bench.invalid": "127.67.251.1" for name in names}},
            "time": {"servers": ["ntp.example.com"]},
            "rke2": {
                "version": VERSION,
                "registration_address": "k8s.bench.invalid",
                "tls_san": ["k8s.bench.invalid"],
                "profile": "cis",
                "artifacts": {"source": "folder", "folder": "/srv"},
                "registries": {
                    "mirrors": {"docker.io": [f"https://{mirror}"]},
                    "credentials": {mirror: "mirror"},
                    "ca_file": ca_file,
                },
            },
            "charts": {"mirror": f"oci://{mirror}/charts", "credentials": {mirror: "mirror"}, "ca_file": ca_file},
            "ingress": {"domain": "bench.invalid"},
            "layers": layers,
            "clearml": {"base_domain": "ml.bench.invalid"},
            "tenants": [{"name": "red", "admin_email": "a@example.com"}],
        }
    )


@contextmanager
def network(folder: Path, hosts: int, delay_ms: float) -> Iterator[None]:
    """Run the relay for as long as the context lasts."""
    words = [sys.executable, "-m", "benchmarks.farm.relay", str(folder), str(hosts), str(delay_ms), VERSION]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                raise RuntimeError("the relay did not start")
            yield
        finally:
            process.kill()


def whole(site: Site) -> tuple[model.Finding, ...]:
    """Do what check-site does: look, judge, write the page."""
    case = read_case(site, cluster=False)
    findings = model.judge(case, CHECKS)
    now = datetime.now(UTC)
    lines = model.evidence(case, findings, now.isoformat(timespec="seconds"))
    report_html(make_report(site.spec, "check-site", now, now, evidence=lines))
    return tuple(findings)


def measure(farm: Farm, rounds: int, delay_ms: float) -> dict[str, Any]:
    """Measure both, in turns, and return the line. Raises RuntimeError when a host was not read whole."""
    spec = spec_of(farm, str(farm.folder / "ca.pem"))
    site = replace(site_of(farm, spec), secrets=Blocks(farm.key.read_text()), resolve=spec.dns.hosts)  # type: ignore[arg-type]
    key = paramiko.Ed25519Key.from_private_key_file(str(farm.key))
    scripts = {node.name: [node_script(spec, node)] for node in spec.nodes}
    wall_s, bare_s, cpu_s = [], [], []
    for _ in range(rounds):
        started, cpu = time.perf_counter(), time.process_time()
        findings = whole(site)
        wall_s.append(time.perf_counter() - started)
        cpu_s.append(time.process_time() - cpu)
        check_read(findings)
        started = time.perf_counter()
        floor(site, key, scripts)
        bare_s.append(time.perf_counter() - started)
    wall, bare = statistics.median(wall_s), statistics.median(bare_s)
    return {
        "benchmark": "preflight", "nodes": farm.count, "checks": len(CHECKS), "answers": len(findings),
        "delay_ms": delay_ms, "round_trip_ms": 2 * delay_ms, "wall_s": round(wall, 2), "limit_s": LIMIT_S,
        "bare_read_s": round(bare, 2), "ratio": round(wall / bare, 2),
        "controller_cpu_s": round(statistics.median(cpu_s), 2), "cores": os.cpu_count(), "rounds": rounds,
    }  # fmt: skip


def check_read(findings: tuple[model.Finding, ...]) -> None:
    """Raise RuntimeError unless every host answered and the image's bytes came through on each."""
    wanted = ("preflight/host/reachable", "preflight/registries/pull", "preflight/registries/charts",
              "preflight/network/supervisor-port", "preflight/network/mtu-path")  # fmt: skip
    wrong = [one for one in findings if one.check.id in wanted and one.outcome.verdict != "pass"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} not read, first: {wrong[0].check.id} {wrong[0].subject}: {wrong[0].outcome}")


def main() -> None:
    """Run the benchmark and print its line; exit status 1 when it took longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds each way")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks.preflight needs root: each host is a real sshd in namespaces of its own")
    logging.disable(logging.INFO)
    sysctls = (*wants.sysctls(_shape()), "kernel.random.entropy_avail")
    folder = ROOT / "build" / "bench" / "preflight-farm"
    farm = Farm(folder, options.hosts, sysctls, sh="/usr/bin/bash", stubs=(*STUBS, "ping"))
    with farm, network(folder, options.hosts, options.delay):
        line = measure(farm, options.rounds, options.delay)
    print(json.dumps(line))
    sys.exit(line["wall_s"] > LIMIT_S)


def _shape() -> StackSpec:
    """Return a spec that says which kernel settings are wanted, before there are hosts."""
    return StackSpec.model_validate(
        {
            "site": "farm",
            "nodes": [],
            "rke2": {"version": VERSION, "registration_address": "k8s.bench.invalid", "profile": "cis"},
            "ingress": {"domain": "bench.invalid"},
            "clearml": {"base_domain": "ml.bench.invalid"},
        }
    )


if __name__ == "__main__":
    main()
