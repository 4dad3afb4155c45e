"""The upgrade of a whole lab cluster, as an operator runs it: planned, approved by hash, refused, killed, continued."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackwright.clients.kube import Kube
from stackwright.lab.layout import Layout
from stackwright.lab.rig import UNREHEARSED, Rig
from stackwright.lab.server import PrefectServer

OLD, NEW, SKIPPING = "v1.33.10+rke2r1", "v1.34.10+rke2r1", "v1.35.3+rke2r1"
SPEED = 40.0
NODES = ["agt1", "agt2", "agt3", "srv1", "srv2", "srv3"]
PLAN_MOVED = 3
pytestmark = pytest.mark.lab


class Site:
    """One deployed lab at the old release, and the commands of an operator."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.path = rig.lab.sites / "lab.yaml"

    def want(self, **rke2: Any) -> None:
        """Change the site file's section rke2."""
        self.change(lambda document: document["rke2"].update(rke2))

    def change(self, edit) -> None:
        """Change the site file."""
        document = yaml.safe_load(self.path.read_text())
        edit(document)
        self.path.write_text(yaml.safe_dump(document, sort_keys=False))

    def plan(self) -> dict[str, Any]:
        """Return the upgrade's plan as the command prints it."""
        done = self.rig.run("upgrade", "plan", "lab", "--json")
        assert done.code == 0, done.output[-3000:]
        return json.loads(done.output.splitlines()[-1])["plan"]

    def refusal(self) -> str:
        """Return what the command says of an upgrade that it refuses to plan."""
        done = self.rig.run("upgrade", "plan", "lab")
        assert done.code == PLAN_MOVED, done.output[-3000:]
        return done.output

    def kube(self) -> Kube:
        """Return a client of the cluster, with the kubeconfig of a server."""
        folder = self.rig.lab.folder
        text = (folder / "nodes" / "srv1" / "root" / "etc" / "rancher" / "rke2" / "rke2.yaml").read_text()
        config = yaml.safe_load(text)
        document = yaml.safe_load(self.path.read_text())
        address = document["dns"]["hosts"][document["rke2"]["registration_address"]]
        config["clusters"][0]["cluster"] |= {"server": f"https://{address}:6443", "tls-server-name": "k8s.lab.test"}
        return Kube(config)

    def releases(self) -> dict[str, str]:
        """Return the release of each node's kubelet."""
        return {node.name: node.version for node in self.kube().nodes()}


@pytest.fixture(scope="module")
def site(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three servers and three agents at the old release, deployed once."""
    rig = Rig(Path(tmp_path_factory.mktemp("rig")), prefect_server, speed=SPEED)
    try:
        rig.set_up()
        layout = Layout(workers=0, gpus=0, agents=3, releases=(OLD, NEW, SKIPPING), bare=True)
        rig.start_lab(layout=layout)
        done = rig.run("apply", "lab", "--yes")
        assert done.code == 0, done.output[-3000:]
        yield Site(rig)
    finally:
        rig.close()


def test_a_skipped_minor_is_refused_with_the_way_that_is_right(site: Site) -> None:
    site.want(version=SKIPPING)
    assert "a minor release would be skipped" in site.refusal()
    assert f"Go to {NEW} first" in site.refusal()


def test_a_drain_that_cannot_end_is_refused_before_the_first_cordon(site: Site) -> None:
    """The budget that would hold the drain for ever is named, and no node was cordoned for it."""
    site.want(version=NEW)
    kube = site.kube()
    meta = {"name": "db", "namespace": "default", "labels": {"app": "db"}}
    pod = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "db", "image": "db:1"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "db"}}, "template": pod}
    kube.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"app": "db"}}}
    kube.create({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget})
    kube.wait(
        "apps/v1", "Deployment", lambda found: found[0].get("status", {}).get("readyReplicas") or None,
        ns="default", name="db", timeout_s=20, what="db ready",
    )  # fmt: skip
    before = len(site.rig.lab.journal())
    assert "default/db" in site.refusal()
    assert len(site.rig.lab.journal()) == before
    assert all(node.schedulable for node in kube.nodes())
    kube.delete("policy/v1", "PodDisruptionBudget", "db", "default")


@pytest.mark.slow
def test_repair_and_upgrade_never_mix(site: Site) -> None:
    """A site that is not as its site file says apart from the release is repaired first."""
    site.want(version=NEW)
    site.change(lambda document: document["dns"]["hosts"].update({"new.lab.test": "192.0.2.1"}))
    text = site.refusal()
    assert "the site is not as its site file says, apart from the release" in text and "deploy-stack" in text
    site.change(lambda document: document["dns"]["hosts"].pop("new.lab.test"))


@pytest.mark.slow
def test_outside_a_window_nothing_starts(site: Site) -> None:
    """The plan may be made and is refused when it would be carried out; nothing was changed."""
    site.want(version=NEW)  # this test also runs without those before it
    site.change(lambda document: document.update(maintenance=closed()))
    before = len(site.rig.lab.journal())
    done = site.rig.run("upgrade", "apply", "lab", "--plan", site.plan()["hash"], *UNREHEARSED)
    assert done.code == 1 and "outside a maintenance window" in done.output
    assert len(site.rig.lab.journal()) == before
    site.change(lambda document: document.pop("maintenance"))


def closed() -> dict[str, Any]:
    """Return windows that are shut whenever this test runs: one minute, twelve hours from now."""
    from datetime import UTC, datetime, timedelta

    start = datetime.now(UTC) + timedelta(hours=12)
    end = start + timedelta(minutes=1)
    return {"windows": [{"start": f"{start:%H:%M}", "end": f"{end:%H:%M}"}]}


@pytest.mark.slow
def test_another_plan_than_the_approved_one_is_not_carried_out(site: Site) -> None:
    site.want(version=NEW)
    before = len(site.rig.lab.journal())
    done = site.rig.run("upgrade", "apply", "lab", "--plan", "0123456789ab", *UNREHEARSED)
    assert done.code == PLAN_MOVED and "does not hold any more" in done.output
    assert len(site.rig.lab.journal()) == before


def test_an_upgrade_that_was_not_rehearsed_is_refused(site: Site) -> None:
    """The plan says so, and to carry it out is refused with what there is to do; nothing was changed."""
    printed = site.rig.run("upgrade", "plan", "lab").output
    assert "Not rehearsed, and refused so: backup.drill: the site cannot rehearse" in printed
    before = len(site.rig.lab.journal())
    done = site.rig.run("upgrade", "apply", "lab", "--plan", site.plan()["hash"])
    assert done.code == 2 and "the upgrade was not rehearsed" in done.output
    assert "--without-rehearsal 'NAME: reason'" in done.output
    assert len(site.rig.lab.journal()) == before


def test_the_upgrade_is_killed_continued_and_done(site: Site, tmp_path: Path) -> None:
    """Killed inside the second server's restart, it is continued under the same hash; then nothing is left to do.

    Who decided to go without a rehearsal is needed once: what was begun is let on.
    """
    plan = site.plan()
    assert {step["id"].split("/")[1] for step in plan["steps"]} == {*NODES, "cluster"}
    run = site.rig.spawn("upgrade", "apply", "lab", "--plan", plan["hash"], *UNREHEARSED, log=tmp_path / "run.log")
    site.rig.lab.fault(kind="kill", match={"action": "upgrade/srv2/restart"}, when="inside", pid=run.pid)
    assert run.wait(timeout=300) == -signal.SIGKILL, (tmp_path / "run.log").read_text()[-3000:]
    seen = site.releases()
    assert seen["srv1"] == NEW and seen["srv3"] == OLD and seen["agt1"] == OLD

    done = site.rig.run("upgrade", "apply", "lab", "--plan", plan["hash"])
    assert done.code == 0, done.output[-4000:]
    assert site.releases() == dict.fromkeys(NODES, NEW)
    assert all(node.schedulable and node.ready for node in site.kube().nodes())
    # The order in which the units were restarted is the safe one: servers one by one, agents after all of them.
    restarts = [entry["action"] for entry in site.rig.lab.journal() if entry["action"].endswith("/restart")]
    hosts = list(dict.fromkeys(action.split("/")[1] for action in restarts))
    assert hosts[:3] == ["srv1", "srv2", "srv3"] and sorted(hosts[3:]) == ["agt1", "agt2", "agt3"]


@pytest.mark.slow
def test_a_second_upgrade_and_a_deploy_have_nothing_to_do(site: Site) -> None:
    if OLD in site.releases().values():  # run without those before it
        site.want(version=NEW)
        assert site.rig.run("upgrade", "apply", "lab", "--plan", site.plan()["hash"], *UNREHEARSED).code == 0
    before = len(site.rig.lab.journal())
    assert site.plan()["steps"] == []
    assert site.rig.run("apply", "lab", "--yes").code == 0
    assert len(site.rig.lab.journal()) == before


def test_the_snapshot_from_before_is_there(site: Site) -> None:
    """One verified snapshot was taken for the whole upgrade, also across the kill."""
    found = site.kube().list("k3s.cattle.io/v1", "ETCDSnapshotFile")
    names = [item["spec"]["snapshotName"] for item in found]
    assert len([name for name in names if name.startswith("before-v1.34.10-rke2r1-")]) == 1
