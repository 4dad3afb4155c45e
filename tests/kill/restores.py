"""A whole restore on hosts in folders, in a process of its own that is killed at one of the deeds that it consists of.

A deed is a program that a script starts on a host, a file that is sent there, a block that is written or an object that
is deleted. At the first one that matches SIGKILL ends the run and the script it waits for, before or after the
deed, which is the death of controller and host at once; or (`alone`) the run, while the script goes on and nobody hears
its answer. What hosts and blocks keep lies in files: the next process finds what the dead one has left.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from stackwright.domain.restore import plan_restore
from stackwright.domain.restore_checks import check_restore
from tasks import restore_end, restore_run
from tasks.restore import read_mark
from tests.domain.nodes_seen import make_spec, status
from tests.domain.test_restore import facts, working
from tests.tasks.test_nodes import Held
from tests.tasks.test_restore import Case, Kube, Still, StubShell

PROGRAMS = ("mv", "rm", "mkdir", "chmod", "sha256sum", "tail", "grep", "base64", "mktemp")
"""What the restore's scripts start beside the stubs."""
NOWHERE = "-"
NOT_COMPARED = re.compile(r"^state/(fence|lock|journal)$|^stackwright-out\.|^(resets|started|says|code)$")
"""Numbers, and what says how often something was done: the tests look at those themselves."""
RUN, MARKED = re.compile(r"(?<=db-before-restore)-\d+"), re.compile(r"(?<=-0a1b2c3d )\d+")

WRAPPER = """\
#!/bin/sh
what="{host} {name} $*"
echo "$what" >>{log}
case "$KILL_WHEN $what" in
"before "$KILL_AT) kill -9 0 ;;
"alone "$KILL_AT) kill -9 "$KILL_ALONE" ;;
esac
{program} "$@"; r=$?
case "$KILL_WHEN $what" in "after "$KILL_AT) kill -9 0 ;; esac
exit $r
"""


@contextmanager
def deed(shared: Path, what: str) -> Iterator[None]:
    """Note something that the run does itself, and die at it."""
    with (shared / "log").open("a") as log:
        log.write(f"{what}\n")
    is_it, when = fnmatch(what, os.environ["KILL_AT"]), os.environ["KILL_WHEN"]
    if is_it and when != "after":
        os.killpg(0, signal.SIGKILL)
    yield
    if is_it:
        os.killpg(0, signal.SIGKILL)


class KeptSecrets:
    """Blocks in a file, which outlives the process."""

    def __init__(self, shared: Path, first: Mapping[tuple[str, str], Mapping[str, SecretStr]]) -> None:
        self.shared, self.path = shared, shared.parent / "blocks.json"
        if not self.path.exists():
            blocks = {"/".join(key): {k: v.get_secret_value() for k, v in kept.items()} for key, kept in first.items()}
            self._save(blocks)

    def read(self, kind, name):
        found = json.loads(self.path.read_text()).get(f"{kind}/{name}")
        return None if found is None else {key: SecretStr(value) for key, value in found.items()}

    def write(self, kind, name, fields):
        kept = json.loads(self.path.read_text())
        with deed(self.shared, f"blocks write {kind}/{name}"):
            self._save({**kept, f"{kind}/{name}": {key: value.get_secret_value() for key, value in fields.items()}})

    def remove(self, kind, name):
        raise AssertionError("a restore removes no block")

    def _save(self, kept: dict[str, Any]) -> None:
        spare = self.shared / "blocks.new"
        spare.write_text(json.dumps(kept, sort_keys=True))
        spare.replace(self.path)


class NotedShell(StubShell):
    """A host whose programs are noted. One that is there already is taken as it is."""

    def __init__(self, name: str, folder: Path, shared: Path) -> None:
        self.shared = shared
        if folder.exists():
            super(StubShell, self).__init__(name, folder)
            self.dies_after, self._bin = "", folder / "opt/bin"
            return
        folder.mkdir()
        super().__init__(name, folder)
        inner = folder / "opt/inner"
        inner.mkdir()
        for stub in [*self._bin.iterdir()]:
            stub.rename(inner / stub.name)
        programs = {**{name: f"/usr/bin/env PATH=/usr/bin:/bin {name}" for name in PROGRAMS},
                    **{stub.name: str(stub) for stub in inner.iterdir()}}  # fmt: skip
        for program, path in programs.items():
            wrapper = self._bin / program
            wrapper.write_text(WRAPPER.format(log=shared / "log", host=name, name=program, program=path))
            wrapper.chmod(0o755)
        (folder / "data/server/db/etcd").write_text("old data")
        (folder / "active").write_text("active\n")

    def put(self, local, remote, mode=0o644):
        with deed(self.shared, f"{self.name} put {remote}"):
            return super().put(local, remote, mode)


class KeptKube(Kube):
    """A cluster that still shows the Node of a host that is gone."""

    def __init__(self, shared: Path, *nodes: Any) -> None:
        super().__init__(*nodes)
        self.shared = shared
        self.gone = shared.parent / "deleted"

    def nodes(self):
        gone = self.gone.read_text() if self.gone.exists() else ""
        return [one for one in self.have if f"Node/{one.name}\n" not in gone]

    def delete(self, api_version, kind, name, ns=None):
        with deed(self.shared, f"kube delete {kind}/{name}"), self.gone.open("a") as file:
            file.write(f"{kind}/{name}\n")
        return True


class KeptCase(Case):
    """The case of tests/tasks/test_restore.py, whose hosts and blocks outlive the process."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.shared = folder / "shared"
        super().__init__(folder, patch)
        # One after the other, or the deeds have another order each time.
        self.spec = make_spec(rke2__agent_batch=1)
        self.kept = KeptSecrets(self.shared, self.kept.kept)
        self.kube = KeptKube(self.shared, *self.kube.have, status("lost", server=True, ready=False))
        self.plain = replace(self.plain, spec=self.spec, secrets=self.kept, clock=Still())
        self.site = self.inside()

    def host(self, name) -> StubShell:
        if name not in self.hosts:
            self.hosts[name] = NotedShell(name, self.folder / name, self.shared)
        return self.hosts[name]

    def marks(self) -> dict[str, Any]:
        seen = {node.name: read_mark(self.host(node.name)) for node in self.spec.nodes}
        return {name: mark for name, mark in seen.items() if mark.bundle}


def carry_out(folder: Path, kill_at: str, when: str, number: int) -> None:
    """Plan, and restore as `stackwright restore` does; leave the plan's steps in plan-<number>.json."""
    os.setsid()
    os.environ |= {"KILL_AT": kill_at, "KILL_WHEN": when, "KILL_ALONE": str(os.getpid())}
    with pytest.MonkeyPatch.context() as patch:
        case = KeptCase(folder, patch)

        def save(site, shell):
            site.secrets.write("secret-text", case.spec.rke2.token_block, {"value": case.bundle.state.token})
            site.secrets.write("cluster-access", case.spec.rke2.kubeconfig_block, {"kubeconfig": SecretStr("restored")})

        patch.setattr(restore_end, "save_access", save)
        patch.setattr(restore_run, "with_bundle", lambda site, state: case.inside())
        closed = (folder / "s1/state/restore-done").exists()
        works = {name: working(name) for name in ("s1", "s2", "s3")} if closed else {}
        seen = facts(works, marks=case.marks(), cluster_id="uid")
        problems = check_restore(case.spec, seen, case.bundle.manifest)
        plan = plan_restore(case.spec, seen, case.bundle.manifest, problems)
        steps = {step.id: step.fingerprint for step in plan.steps}
        (folder / f"plan-{number}.json").write_text(json.dumps(steps))
        restore_run.restore(case.plain, Held(number), case.bundle, plan, anyway=False, tell=lambda what: None)


class Restores:
    """Runs restores in processes that begin with everything loaded."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])

    def run(self, folder: Path, kill_at: str = NOWHERE, when: str = "before", number: int = 1) -> int:
        """Carry a restore out, or go on with the one in this folder; return the exit code, negative for a signal."""
        if not folder.exists():
            (folder / "shared").mkdir(parents=True)
        process = self._context.Process(target=carry_out, args=(folder, kill_at, when, number))
        process.start()
        process.join(120)
        assert process.exitcode is not None, "the restore does not end"
        return process.exitcode


def killed(code: int) -> bool:
    """Tell whether a run ended by the kill."""
    return code == -signal.SIGKILL


def deeds(folder: Path) -> list[str]:
    """Return what was done so far, in order: `host program arguments`, or what the run has done itself."""
    return (folder / "shared/log").read_text().splitlines()


def end_of(folder: Path) -> dict[str, str]:
    """Return all that hosts, blocks and cluster hold in the end. Restores are told apart by their number: it is one."""
    found = {"deleted": " ".join(sorted(set((folder / "deleted").read_text().split())))}
    found["blocks"] = (folder / "blocks.json").read_text()
    for host in sorted(path for path in folder.iterdir() if (path / "state").is_dir()):
        for path in sorted(host.rglob("*")):
            place = path.relative_to(host)
            if path.is_file() and place.parts[0] != "opt" and not NOT_COMPARED.search(str(place)):
                text = path.read_text(errors="replace")
                found[RUN.sub("-N", f"{host.name}/{place}")] = (
                    f"{path.stat().st_mode & 0o777:o} {MARKED.sub('N', text)}"
                )
    return found
