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
pytestmark = [pytest.mark.lab, pytest.mark.slow]  # minutes: `make test-long`


class Nodes(Ground):
    """The cluster's nodes in the site file, moved about by name."""

    approved = ""

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


def approval(ended: Ended) -> str:
    """Return the hash under which a refused plan would be carried out, from the words of the refusal."""
    assert ended.error is not None and not ended.changes
    found = re.search(r"stackwright apply lab --plan ([0-9a-f]{12})", ended.error["remedy"])
    assert found, ended.error["text"]
    return found.group(1)


def test_servers_are_added_one_at_a_time(ground: Nodes) -> None:
    """From three to five, unattended: the second starts when the first has its vote; a label needs no restart."""
    ground.add("spr1", "server")
    ground.add("spr2", "server")
    ground.set("agt1", labels={"team": "red"}, taints=[{"key": "team", "value": "red"}])
    ended = ground.deploy()
    assert ended.error is None, ended.error
    starts = ended.sent("ssh", action="rke2/.*/start")
    assert starts == ["spr1 rke2/spr1/start", "spr2 rke2/spr2/start"]
    assert not ended.sent("ssh", "srv|agt[2-4]", "rke2/"), "no other node is touched"


def test_a_lost_machine_that_answers_is_refused(ground: Nodes) -> None:
    """It would be uninstalled nowhere and come back: the refusal names it, and who could leave instead."""
    ground.remove("agt4", lost=True)
    ended = ground.deploy()
    told(
        ended.error,
        what="called lost, but it answers",
        where="^agt4$",
        wanted="no answer",
        seen="SSH",
        remedy=r"Take lost: true away.* Safe to remove now: (srv|spr|agt)",
    )
    assert not ended.changes
    ground.keep("agt4")


def test_nodes_are_not_removed_by_an_unattended_run(ground: Nodes) -> None:
    """It is refused with the nodes' names and the command that approves; a label that left the file waits with it."""
    ground.remove("srv1", "spr2", "agt4")
    ground.set("agt1", labels={}, taints=[])
    ended = ground.deploy()
    told(
        ended.error,
        what="nobody has approved it",
        where="^lab$",
        wanted="an approval of plan",
        seen="srv1, spr2, agt4",
        remedy="stackwright apply lab --plan",
    )
    ground.approved = approval(ended)


def test_a_removal_that_is_killed_is_continued(ground: Nodes) -> None:
    """Two of five servers and an agent leave; the run dies in the middle, and the same approval goes on."""
    before = len(ground.lab.journal())
    log = ground.rig.folder / "killed.log"
    run = ground.rig.spawn("apply", "lab", "--plan", ground.approved, log=log)
    match = {"wire": "kube", "target": "srv1", "action": "delete"}
    ground.lab.fault(kind="kill", match=match, pid=run.pid)
    assert run.wait(timeout=200) == -signal.SIGKILL, log.read_text()[-3000:]
    ground.lab.clear_faults()
    killed = Ended(None, tuple(ground.lab.journal(before)))
    assert killed.sent("ssh", action="remove/srv1/etcd"), "leadership was handed over"
    assert not killed.sent("ssh", action="uninstall")
    again = ground.deploy(ground.approved)
    assert again.error is None, again.error
    gone = ("srv1", "spr2", "agt4")
    assert again.sent("ssh", action="uninstall") == [f"{name} remove/{name}/uninstall" for name in gone]
    assert not again.sent("ssh", action="rke2/.*/(restart|start)"), "the label left without a restart"
    assert not [name for name in ground.cluster() if name in gone]


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
    ended = ground.deploy(approval(ground.deploy()))
    assert ended.error is None, ended.error
    mine = ended.sent("ssh", "srv2", "rke2/")
    assert mine[-1] == "srv2 rke2/srv2/start", mine
    ground.nothing_left()
