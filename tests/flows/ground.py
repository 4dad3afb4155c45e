"""A small cluster on the lab to inject faults into, and the process that deploys on it again and again."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import yaml

from stackwright.clients.site import Site
from stackwright.domain.lease import LeaseState
from stackwright.lab.rig import ROOT, Rig
from tasks.lease_places import look_at_places

PARTS = ("where", "what", "wanted", "seen", "remedy")
LAYERS = (
    "cert_manager", "metallb", "rancher", "rancher_backup", "storage", "security", "registry", "observability",
    "gpu_operator", "suse_ai", "clearml",
)  # fmt: skip
JOIN_LIMIT_S = 10
LEASE = re.compile(r":Lease/kube-system/stackwright-| lease/")
Document = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How one deploy ended: its error (None when it ended well), and the changes that it sent."""

    error: Document | None
    changes: tuple[Document, ...]

    def sent(self, wire: str, target: str = "", action: str = "") -> list[str]:
        """Return the changes over a wire whose target and action match, as `target action`; not those of the lease."""
        return [
            f"{entry['target']} {entry['action']}"
            for entry in self.changes
            if entry["wire"] == wire
            and re.search(target, entry["target"])
            and re.search(action, entry["action"])
            and not LEASE.search(f"{entry['target']} {entry['action']}")
        ]


class Ground:
    """One lab, and a site file that grows from test to test."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.lab = rig.lab
        self.log = rig.folder / "deploys.log"
        self._runner: subprocess.Popen[str] | None = None

    def change(self, edit: Callable[[Document], None]) -> None:
        """Change the site file."""
        path = self.lab.sites / "lab.yaml"
        document = yaml.safe_load(path.read_text())
        edit(document)
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def enable(self, *layers: str, **settings: Any) -> None:
        """Switch layers on, with these settings."""

        def edit(document: Document) -> None:
            for layer in layers:
                document["layers"][layer] |= {"enabled": True, "timeout_s": 20, **settings}

        self.change(edit)

    def begin(self) -> None:
        """Cut the lab's site file down to three servers and three workers without layers, with short limits."""

        def edit(document: Document) -> None:
            document["nodes"] = document["nodes"][:6]
            document["tenants"] = []
            document["validation"] = {"workload": False}
            document["rke2"] |= {"join_timeout_s": JOIN_LIMIT_S, "poll_s": 0.1}
            del document["backup"]
            for layer in LAYERS:
                document["layers"][layer] = {**document["layers"].get(layer, {}), "enabled": False}

        self.spare = yaml.safe_load((self.lab.sites / "lab.yaml").read_text())["nodes"][6:]
        self.change(edit)

    def add_servers(self) -> None:
        """Make the lab's two other machines the fourth and fifth server."""
        keys = ("name", "address", "port", "host_key")
        more = [{**{key: node[key] for key in keys}, "roles": ["server"]} for node in self.spare]
        self.change(lambda document: document["nodes"].extend(more))

    def name_host(self, name: str) -> None:
        """Ask for one more name in every node's /etc/hosts: one small step a node."""
        self.change(lambda document: document["dns"]["hosts"].update({name: "192.0.2.1"}))

    def set_metallb(self, level: str) -> None:
        """Ask for an upgrade of MetalLB, with another log level."""
        self.enable("metallb", values={"controller": {"logLevel": level}})

    def add_tenant(self, name: str) -> None:
        """Ask for a tenant without GPUs."""
        tenant = {"name": name, "admin_email": f"admin@{name}.example", "quota": {"gpus": 0}}
        self.change(lambda document: document["tenants"].append(tenant))

    def wait_for_port(self, node: str, *, up: bool, limit_s: float = 120.0) -> None:
        """Wait until a machine's SSH port is open, or is not."""
        nodes = yaml.safe_load((self.lab.sites / "lab.yaml").read_text())["nodes"]
        place = next((item["address"], item["port"]) for item in nodes if item["name"] == node)
        deadline = time.monotonic() + limit_s
        while is_open(place) != up:
            assert time.monotonic() < deadline, f"{node} is not {'up' if up else 'down'}"
            time.sleep(0.05)

    def wait_for_change(self, since: int, what: str, run: subprocess.Popen[bytes], limit_s: float = 180.0) -> None:
        """Wait until a run has sent a change whose `target action` holds these words."""
        deadline = time.monotonic() + limit_s
        while not any(what in f"{entry['target']} {entry['action']}" for entry in self.lab.journal(since)):
            assert run.poll() is None and time.monotonic() < deadline, f"{what} was not seen"
            time.sleep(0.02)

    def settle(self, quiet_s: float = 1.0, limit_s: float = 180.0) -> None:
        """Wait until what was under way on the machines has ended: no change begins for a while."""
        deadline, last, seen = time.monotonic() + limit_s, time.monotonic(), -1
        while time.monotonic() - last < quiet_s:
            count = len(self.lab.journal())
            last, seen = (time.monotonic(), count) if count != seen else (last, seen)
            assert time.monotonic() < deadline, "changes go on"
            time.sleep(0.05)

    def deploy(self, plan_hash: str = "") -> Ended:
        """Start the deployment as `stackwright apply` does, and return how it ended."""
        before = len(self.lab.journal())
        runner = self._runner = self._runner or self._start_runner()
        assert runner.stdin and runner.stdout
        runner.stdin.write(f"deploy {plan_hash}\n")
        runner.stdin.flush()
        answer = runner.stdout.readline()
        assert answer, self.log.read_text()[-3000:]
        return Ended(json.loads(answer), tuple(self.lab.journal(before)))

    def _start_runner(self) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.flows.deploys"],
                env=self.rig.environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def close(self) -> None:
        """Stop the lab, and the process that deploys."""
        if self._runner is not None:
            self._runner.communicate()
        self.rig.close()

    def mend(self) -> Ended:
        """Take all faults back and start again: the run must end well, and leave nothing to do."""
        self.lab.clear_faults()
        again = self.deploy()
        assert again.error is None, again.error
        assert self.rig.report()["verdict"] == "ok"
        return again

    def nothing_left(self) -> None:
        """Assert that a further start has nothing to change."""
        assert self.deploy() == Ended(None, ())


def set_lease_back(site: Site, seconds: float) -> LeaseState:
    """Set the lease's times back in both places, as if so much time had passed there; return the lease of before."""
    with look_at_places(site) as looks:
        for answer in looks.answers:
            state = answer.copy.state
            assert state is not None and state.holder is not None
            assert answer.swap(replace(state, renewed_at=state.renewed_at - seconds), "set-back")
    return state


def is_open(place: tuple[str, int]) -> bool:
    """Tell whether something listens at an address and port."""
    try:
        socket.create_connection(place, timeout=1).close()
    except OSError:
        return False
    return True


def told(error: Document | None, **asked: str) -> None:
    """Assert that an error says all its parts, these among them (regular expressions).

    Of a list of problems one must say them all. What is printed of the error must hold each part.
    """
    assert error is not None, "the deploy was to fail"
    missing = []
    for part in (error, *error["problems"]):
        wrong = {key: part[key] for key in PARTS if not part[key] or not re.search(asked[key], part[key])}
        if not wrong:
            assert all(part[key] in error["text"] for key in PARTS), error["text"]
            return
        missing.append(wrong)
    raise AssertionError(f"{error['text']}\nnot as asked: {missing}")
