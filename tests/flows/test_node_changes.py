"""Node changes from the site file alone, as an operator makes them: add, remove, replace, kill and continue.

One small cluster goes through all of it, test by test: each begins where the one before ended.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from stackwright.lab.layout import Layout
from stackwright.lab.rig import Rig
from stackwright.lab.server import PrefectServer
from tests.flows.ground import Document, Ended, Ground, told

SPEED = 60
JOIN_LIMIT_S = 20
pytestmark = pytest.mark.lab


class Nodes(Ground):
    """The cluster's nodes in the site file, moved about by name."""

    def begin(self) -> None:
        """Let the site file have short limits."""
        self.change(lambda document: document["rke2"].update({"join_timeout_s": JOIN_LIMIT_S, "poll_s": 0.1}))
        self.spare = json.loads((self.lab.folder / "spares.json").read_text())

    def add(self, name: str, *roles: str) -> None:
        """Add a spare machine."""
        entry = next(node for node in self.spare if node["name"] == name)
        self.change(lambda document: document["nodes"].append({**entry, "roles": list(roles)}))

    def remove(self, *names: str, **fields: Any) -> None:
        """Move entries to `removed`."""

        def edit(document: Document) -> None:
            gone = [node for node in document["nodes"] if node["name"] in names]
            document["nodes"] = [node for node in document["nodes"] if node["name"] not in names]
            document.setdefault("removed", []).extend({**node, **fields} for node in gone)

        self.change(edit)

    def keep(self, *names: str) -> None:
        """Move entries back to `nodes`."""

        def edit(document: Document) -> None:
            back = [node for node in document["removed"] if node["name"] in names]
            document["removed"] = [node for node in document["removed"] if node["name"] not in names]
            document["nodes"].extend({key: value for key, value in node.items() if key != "lost"} for node in back)

        self.change(edit)

    def set(self, name: str, **fields: Any) -> None:
        """Change fields of one node's entry."""

        def edit(document: Document) -> None:
            next(node for node in document["nodes"] if node["name"] == name).update(fields)

        self.change(edit)

    def plan(self) -> tuple[str, list[str]]:
        """Return the plan's hash and its steps, as `stackwright plan --json` prints them."""
        done = self.rig.run("plan", "lab", "--json")
        assert done.code == 0, done.output[-3000:]
        plan = json.loads(done.output.splitlines()[-1])["plan"]
        return plan["hash"], [step["id"] for step in plan["steps"]]

    def cluster(self) -> dict[str, Any]:
        """Return the Nodes of the cluster by name."""
        return {
            key.rpartition("/")[2]: one for key, one in self.lab.snapshot()["kube"].items() if "/Node/" in f"/{key}"
        }


@pytest.fixture(scope="module")
def ground(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three servers and four agents, deployed; two spare machines."""
    rig = Rig(tmp_path_factory.mktemp("rig"), prefect_server, speed=SPEED)
    ground = Nodes(rig)
    try:
        rig.set_up()
        rig.start_lab(layout=Layout(workers=0, gpus=0, agents=4, spares=2, bare=True))
        ground.begin()
        ended = ground.deploy()
        assert ended.error is None, ended.error
        yield ground
    finally:
        ground.close()


def test_servers_are_added_one_at_a_time(ground: Nodes) -> None:
    """From three to five, unattended: the second starts when the first has its vote."""
    ground.add("spr1", "server")
    ground.add("spr2", "server")
    ended = ground.deploy()
    assert ended.error is None, ended.error
    starts = ended.sent("ssh", action="rke2/spr[12]/start")
    assert starts == ["spr1 rke2/spr1/start", "spr2 rke2/spr2/start"]
    assert not ended.sent("ssh", "srv|agt", "rke2/"), "no other node is touched"


def test_labels_come_and_go_without_a_restart(ground: Nodes) -> None:
    """What left the site file leaves the Node; the service runs on."""
    ground.set("agt1", labels={"team": "red"}, taints=[{"key": "team", "value": "red"}])
    assert ground.deploy().error is None
    ground.set("agt1", labels={}, taints=[])
    ended = ground.deploy()
    assert ended.error is None, ended.error
    assert ended.sent("ssh") and not ended.sent("ssh", action="restart|start")
    ground.nothing_left()


def test_nodes_are_not_removed_by_an_unattended_run(ground: Nodes) -> None:
    """`apply --yes` refuses a plan that removes nodes, changes nothing, and says how it is approved."""
    ground.remove("srv1", "spr2", "agt4")
    before = len(ground.lab.journal())
    done = ground.rig.run("apply", "lab", "--yes")
    plan_hash, steps = ground.plan()
    assert done.code != 0 and f"stackwright apply lab --plan {plan_hash}" in done.output, done.output[-3000:]
    assert "srv1, spr2, agt4" in done.output and ground.lab.journal(before) == []
    assert [step for step in steps if step.startswith("remove/srv1/")] == [
        f"remove/srv1/{what}" for what in ("drain", "etcd", "node", "uninstall")
    ]


def test_a_removal_that_is_killed_is_continued(ground: Nodes) -> None:
    """Two of five servers and an agent leave; the run dies in the middle, and the same approval goes on."""
    plan_hash, _ = ground.plan()
    before = len(ground.lab.journal())
    run = ground.rig.spawn("apply", "lab", "--plan", plan_hash, log=ground.rig.folder / "killed.log")
    ground.lab.fault(
        kind="kill", match={"wire": "kube", "target": "nodes/srv1|Node.*srv1", "action": "delete"}, pid=run.pid
    )
    assert run.wait(timeout=120) == -signal.SIGKILL, (ground.rig.folder / "killed.log").read_text()[-3000:]
    ground.lab.clear_faults()
    killed = Ended(None, tuple(ground.lab.journal(before)))
    assert not killed.sent("ssh", action="uninstall")
    again = ground.rig.run("apply", "lab", "--plan", plan_hash)
    assert again.code == 0, again.output[-3000:]
    ended = Ended(None, tuple(ground.lab.journal(before)))
    assert ended.sent("ssh", action="uninstall") == [
        f"{name} remove/{name}/uninstall" for name in ("srv1", "spr2", "agt4")
    ]
    assert not [name for name in ground.cluster() if re.search("srv1|spr2|agt4", name)]


def test_a_second_run_finds_nothing_to_remove(ground: Nodes) -> None:
    """The entries may stay in `removed`: no approval is asked for what is gone."""
    ground.nothing_left()


def test_another_machine_under_a_name_is_refused_by_name(ground: Nodes) -> None:
    """A dead server's place was taken by a blank machine, and the site file does not say so."""
    ground.set("srv2", host_key=ground.lab.rebuild("srv2"))
    ended = ground.deploy()
    told(
        ended.error,
        what="knows another machine under this name",
        where="^srv2$",
        wanted="one machine",
        seen="in the cluster",
        remedy="replaced: true",
    )
    assert not ended.changes


def test_a_dead_server_is_replaced(ground: Nodes) -> None:
    """Said so and approved, the dead member leaves first, then the new machine joins; the flag may stay."""
    ground.set("srv2", replaced=True)
    plan_hash, steps = ground.plan()
    mine = [step for step in steps if "/srv2/" in step]
    assert mine[:2] == ["remove/srv2/etcd", "remove/srv2/node"] and mine[-1] == "rke2/srv2/start"
    ended = ground.deploy(plan_hash)
    assert ended.error is None, ended.error
    ground.nothing_left()


def test_a_lost_machine_that_answers_is_refused(ground: Nodes) -> None:
    """It would be uninstalled nowhere and come back: the refusal names it, and who could leave instead."""
    ground.add("spr2", "worker")
    ground.change(
        lambda document: document.update(removed=[node for node in document["removed"] if node["name"] != "spr2"])
    )
    assert ground.deploy().error is None
    ground.remove("spr2", lost=True)
    ended = ground.deploy()
    told(
        ended.error,
        what="called lost, but it answers",
        where="^spr2$",
        wanted="no answer",
        seen="SSH",
        remedy="Take lost: true away.*Safe to remove now: .*agt",
    )
    assert not ended.changes
