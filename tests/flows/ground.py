"""A small cluster on the lab to inject faults into: deploys run in this process, without the tasks' waits between tries."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from stackwright.domain.errors import ProblemsError, StackError
from stackwright.lab.rig import Rig
from stackwright.runs import start_here
from tasks.layers import ensure_layer
from tasks.nodes import ensure_node
from tasks.rke2 import ensure_agent, ensure_server
from tasks.stack import look_node
from tasks.tenants import ensure_tenant

RETRIED = (look_node, ensure_node, ensure_server, ensure_agent, ensure_layer, ensure_tenant)
LAYERS = (
    "cert_manager", "metallb", "rancher", "rancher_backup", "storage", "security", "registry", "observability",
    "gpu_operator", "suse_ai", "clearml",
)  # fmt: skip
JOIN_LIMIT_S = 10
Document = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How one deploy ended: its error (None when it ended well), and the changes that it sent."""

    error: StackError | None
    changes: tuple[Document, ...]

    def sent(self, wire: str, target: str = "", action: str = "") -> list[str]:
        """Return the changes over a wire whose target and action match, as `target action`."""
        return [
            f"{entry['target']} {entry['action']}"
            for entry in self.changes
            if entry["wire"] == wire and re.search(target, entry["target"]) and re.search(action, entry["action"])
        ]


class Ground:
    """One lab, and a site file that grows from test to test."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.lab = rig.lab

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

    def deploy(self) -> Ended:
        """Start the deployment as `stackwright apply` does, and return how it ended."""
        before = len(self.lab.journal())
        _, state = asyncio.run(start_here("deploy-stack", {"site": "lab"}))
        error = None if state.is_completed() else asyncio.run(state.aresult(raise_on_failure=False))
        assert error is None or isinstance(error, StackError), (error, state.message)
        return Ended(error, tuple(self.lab.journal(before)))

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


def told(error: StackError | None, *, what: str, where: str, wanted: str, seen: str, remedy: str) -> None:
    """Assert that an error says these things, each in its own part; a list of problems says them in one problem."""
    assert error is not None, "the deploy was to fail"
    parts = [error, *error.problems] if isinstance(error, ProblemsError) else [error]
    asked = {"what": what, "where": where, "wanted": wanted, "seen": seen, "remedy": remedy}
    missing = []
    for part in parts:
        given = {key: getattr(part, key, "") for key in ("what", "where", "wanted", "seen")}
        given["remedy"] = part.how_to_fix if isinstance(part, StackError) else part.remedy
        wrong = {key: given[key] for key, pattern in asked.items() if not re.search(pattern, given[key])}
        if not wrong:
            assert all(word in str(error) for word in (given["what"], given["seen"], given["remedy"]))
            return
        missing.append(wrong)
    raise AssertionError(f"{error}\nnot as asked: {missing}")


def wait_for_death(run: subprocess.Popen[bytes], limit_s: float = 60.0) -> int:
    """Wait until a process has ended and return its code: negative for the signal that ended it."""
    started = time.monotonic()
    code = run.wait(timeout=limit_s)
    assert time.monotonic() - started < limit_s
    return code
