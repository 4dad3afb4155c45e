"""Node preparation of many hosts over real SSH: ours, a bare paramiko floor, Ansible and pyinfra. Prints one JSON line.

`python -m benchmarks.node_prep [--hosts 50] [--rounds 3] [--without ansible pyinfra]`. Needs root (namespaces with a
real sshd in each) and, for the other two tools, build/bench-venv, which is made at the first run.

Floor: connect with paramiko and run the very same script bytes, in as many threads. Ansible: forks=hosts, pipelining,
ControlPersist, no fact gathering, free strategy. All start from hosts in the same fresh state, which is restored in
between, and all must end with the same files and settings, which is checked. Nodes and controllers share this machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
from pydantic import SecretStr

from benchmarks.farm.hosts import PORT, Farm
from benchmarks.farm.others import VENV, ansible, make_venv, pyinfra
from stackwright.clients.site import Site
from stackwright.clients.ssh import SshNodeShell, SshShells
from stackwright.domain import node_wants as wants
from stackwright.domain.node_plan import plan_node
from stackwright.domain.plan import Step
from stackwright.domain.spec import Node, StackSpec
from tasks.nodes import bring_node, read_nodes

ROOT = Path(__file__).parent.parent
FILES = (wants.HOSTS, wants.FSTAB, wants.CHRONY, wants.MODULES_FILE, wants.SYSCTL_FILE, wants.NM_FILE, "/etc/hostname")


class Alone:
    """A lease for hosts that nobody else changes."""

    number = 1

    def check(self) -> None:
        return None


def spec_of(farm: Farm) -> StackSpec:
    """Return the site of the farm's hosts, with every part of the preparation that needs no SUSE server."""
    host_key = " ".join((farm.folder / "host_key.pub").read_text().split()[:2])
    nodes = [
        {"name": name, "address": farm.address(index), "port": PORT, "roles": ["server"], "host_key": host_key}
        for index, name in enumerate(farm.names)
    ]
    return StackSpec.model_validate(
        {
            "site": "farm",
            "environment": "lab",
            "nodes": nodes,
            "packages": {"repositories": [{"name": "extra", "url": "https://repo.example.com/extra"}]},
            "time": {"servers": ["ntp1.example.com", "ntp2.example.com"]},
            "dns": {"hosts": {"k8s.example.com": "192.0.2.10", "rancher.example.com": "192.0.2.10"}},
            "rke2": {"version": "v1.34.10+rke2r1", "registration_address": "k8s.example.com", "profile": "cis"},
            "ingress": {"domain": "example.com"},
            "clearml": {"base_domain": "ml.example.com"},
        }
    )


def site_of(farm: Farm, spec: StackSpec) -> Site:
    """Return the site with real SSH and nothing else."""

    def none(*_: Any) -> Any:
        raise AssertionError("only SSH is measured")

    shells = SshShells(spec.ssh, SecretStr(farm.key.read_text()), farm.folder / "known_hosts")
    return Site(spec, none, shells, none, none, none, farm.folder)  # type: ignore[arg-type]  # no secrets are read


@contextmanager
def recorded() -> Any:
    """Keep every script that is sent, by node, in the order in which they go."""
    sent: dict[str, list[str]] = {}
    original = SshNodeShell._script

    def record(self: SshNodeShell, script: str, timeout_s: float) -> Any:
        sent.setdefault(self._node.name, []).append(script)
        return original(self, script, timeout_s)

    SshNodeShell._script = record  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        SshNodeShell._script = original  # type: ignore[method-assign]


def approved_steps(site: Site) -> dict[str, tuple[Step, ...]]:
    """Look at all hosts and plan, as the flow does before its approval."""
    facts = read_nodes(site, site.spec.nodes)
    return {
        node.name: tuple(change.step for change in plan_node(site.spec, node, facts[node.name]))
        for node in site.spec.nodes
    }


def ours(site: Site, approved: dict[str, tuple[Step, ...]]) -> None:
    """Prepare every host: look, decide, change, look again, in the flow's thread width."""

    def one(node: Node) -> None:
        bring_node(site, node, Alone(), approved[node.name])

    with ThreadPoolExecutor(max_workers=site.spec.ssh.width) as pool:
        for _ in pool.map(one, site.spec.nodes):
            pass


def floor(site: Site, key: paramiko.PKey, sent: dict[str, list[str]]) -> None:
    """Connect with the bare library and run the same bytes, in the same width."""

    def one(node: Node) -> None:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507 - the floor spares itself the check
        client.connect(
            node.address, node.port, "root", pkey=key, allow_agent=False, look_for_keys=False, timeout=30,
            banner_timeout=60, auth_timeout=60,
        )  # fmt: skip
        for script in sent[node.name]:
            stdin, stdout, _ = client.exec_command("sh -s")
            stdin.write(script)
            stdin.channel.shutdown_write()
            stdout.read()
            if stdout.channel.recv_exit_status():
                raise RuntimeError(f"{node.name}: the script failed")
        client.close()

    with ThreadPoolExecutor(max_workers=site.spec.ssh.width) as pool:
        for _ in pool.map(one, site.spec.nodes):
            pass


def timed(work: Callable[[], None]) -> float:
    """Return the wall seconds of some work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(farm: Farm, rounds: int, without: list[str]) -> dict[str, Any]:
    """Measure all and return the result's fields. Raises RuntimeError when the tools' outcomes differ."""
    spec = spec_of(farm)
    site = site_of(farm, spec)
    approved = approved_steps(site)
    key = paramiko.Ed25519Key.from_private_key_file(str(farm.key))
    ours_s, floor_s, cpu_s = [], [], []
    with recorded() as sent:
        ours(site, approved)  # not counted: it records the scripts for the floor
    wanted = farm.outcome(FILES)
    for _ in range(rounds):
        farm.reset()
        cpu = time.process_time()
        ours_s.append(timed(lambda: ours(site, approved)))
        cpu_s.append(time.process_time() - cpu)
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        check_same(wanted, farm.outcome(FILES), "ours")
        farm.reset()
        floor_s.append(timed(lambda: floor(site, key, sent)))
        check_same(wanted, farm.outcome(FILES), "floor")
    others = {}
    for name, tool in (("ansible", ansible), ("pyinfra", pyinfra)):
        if name not in without:
            farm.reset()
            seconds, note = tool(farm, spec)
            others[name] = seconds
            check_same(wanted, farm.outcome(FILES), f"{name} {note}")
    best = statistics.median(ours_s)
    result: dict[str, Any] = {
        "benchmark": "node_prep",
        "hosts": farm.count,
        "steps": max(len(steps) for steps in approved.values()),
        "round_trips_per_host": max(len(scripts) for scripts in sent.values()),
        "ours_s": round(best, 2),
        "floor_s": round(statistics.median(floor_s), 2),
        "ansible_s": round(others["ansible"], 2) if "ansible" in others else None,
        "pyinfra_s": round(others["pyinfra"], 2) if "pyinfra" in others else None,
        "ratio_floor": round(best / statistics.median(floor_s), 2),
        "ratio_ansible": round(others["ansible"] / best, 1) if "ansible" in others else None,
        "ratio_pyinfra": round(others["pyinfra"] / best, 1) if "pyinfra" in others else None,
        "controller_cpu_s": round(statistics.median(cpu_s), 2),
        "peak_rss_mib": round(peak_mib),
        "cores": os.cpu_count(),
        "rounds": rounds,
    }
    return result


def check_same(wanted: dict[str, dict[str, str]], seen: dict[str, dict[str, str]], who: str) -> None:
    """Raise RuntimeError with the first differences when a tool left hosts otherwise than the first run did."""
    wrong = [
        f"{host}: {what}: wanted {value!r}, {who} left {seen[host].get(what)!r}"
        for host, values in wanted.items()
        for what, value in values.items()
        if seen[host].get(what) != value
    ]
    if wrong:
        raise RuntimeError(f"{len(wrong)} difference(s), first: {wrong[0]}")


def main() -> None:
    """Run the benchmark and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=[], choices=["ansible", "pyinfra"])
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks.node_prep needs root: each host is a real sshd in namespaces of its own")
    logging.disable(logging.INFO)
    if len(options.without) < 2 and not (VENV / "bin" / "pyinfra").exists():
        make_venv()
    farm = Farm(ROOT / "build" / "bench" / "farm", options.hosts, tuple(wants.sysctls(_shape())))
    with farm:
        print(json.dumps(measure(farm, options.rounds, options.without)))


def _shape() -> StackSpec:
    """Return a spec that says which kernel settings are wanted, before there are hosts."""
    return StackSpec.model_validate(
        {
            "site": "farm",
            "nodes": [],
            "rke2": {"version": "v1.34.10+rke2r1", "registration_address": "k8s.example.com", "profile": "cis"},
            "ingress": {"domain": "example.com"},
            "clearml": {"base_domain": "example.com"},
        }
    )


if __name__ == "__main__":
    main()
