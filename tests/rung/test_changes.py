"""Members that come and go, faults in the middle, and a full disk: against real etcd processes. Long: `make rung`."""

from __future__ import annotations

import threading

import pytest

from stackwright.domain.errors import ApiError, StackError
from stackwright.domain.plan import Effect
from stackwright.domain.quorum import check_join, check_quorum
from tasks.nodes import bring_node, look_at_servers
from tests.rung.conftest import ROLES
from tests.rung.hosts import wait
from tests.rung.sites import bring, entry, plan_of, remove
from tests.rung.test_cluster import SERVERS, keep, kept
from tests.tasks.test_nodes import Held

pytestmark = pytest.mark.slow
MIB = 1 << 20


def test_servers_are_added_and_one_is_taken_out(shaken):
    """From three voters to five, one learner at a time; then two leave: etcd, Kubernetes, their hosts."""
    rung = shaken
    rung.hosts.add("s4", "s5")
    rung.change({**ROLES, "s4": ["server"], "s5": ["server"]})
    bring(rung.site)
    assert [rung.voters(name) for name in (*SERVERS, "s4", "s5")] == [["s1", "s2", "s3", "s4", "s5"]] * 5
    gone = [entry(rung.hosts[name], ["server"]) for name in ("s4", "s5")]
    rung.change(ROLES, removed=gone)
    plan = remove(rung.site)
    assert [step.id for step in plan.steps if step.target == "s5"] == [
        f"remove/s5/{what}" for what in ("drain", "etcd", "node", "uninstall")
    ]
    assert rung.voters("s1") == [*SERVERS]
    assert rung.hosts["s5"].sh("ls /var/lib/rancher/rke2 /usr/local/bin/rke2 2>/dev/null || :") == ""
    assert rung.site.kube().get("v1", "Node", "s5") is None
    assert remove(rung.site).steps == ()
    rung.change(ROLES)
    for name in ("s4", "s5"):
        rung.hosts.drop(name)


def test_a_removed_member_is_refused_with_its_old_data(shaken):
    """RKE2 takes a member out when its Node asks; its server then neither serves nor rejoins with the old database."""
    rung = shaken
    # Its API server goes on to answer, with errors: whoever takes a member out takes it out of the balancer first.
    rung.use("s1", "s2")
    kube, host = rung.site.kube(), rung.hosts["s3"]
    kube.patch_merge("v1", "Node", "s3", {"metadata": {"annotations": {"etcd.rke2.cattle.io/remove": "true"}}})
    wait(lambda: rung.voters("s1") == ["s1", "s2"], "two voters")
    mark = "etcd.rke2.cattle.io/removed-node-name"
    wait(lambda: kube.get("v1", "Node", "s3")["metadata"]["annotations"].get(mark), "RKE2's answer")
    wait(lambda: "this server is a not a member of the etcd cluster. Found" in host.journal("rke2-server"), "a refusal")
    host.sh("systemctl stop rke2-server; /usr/local/bin/rke2-killall.sh; rm -rf /var/lib/rancher/rke2/server/db")
    kube.delete("v1", "Node", "s3")
    bring(rung.site)
    assert rung.voters("s1") == [*SERVERS]
    rung.use(*SERVERS)


def test_a_dead_server_is_replaced_by_a_new_machine_of_its_name(shaken):
    """The dead one's member, Node and password go first; then the new one joins: three, two, three voters."""
    rung = shaken
    rung.hosts["s2"].kill()
    rung.hosts.drop("s2")
    rung.hosts.add("s2")
    rung.change(ROLES, replaced=("s2",))
    plan = remove(rung.site)
    assert [step.id for step in plan.steps] == ["remove/s2/etcd", "remove/s2/node"]
    assert rung.voters("s1") == ["s1", "s3"]
    bring(rung.site)
    assert [rung.voters(name) for name in SERVERS] == [[*SERVERS]] * 3
    rung.change(ROLES)
    assert plan_of(rung.site).steps == ()


def test_a_reboot_goes_through_the_guard(shaken):
    """A host that asks for its reboot gets it while etcd bears it, and is seen back as a voter."""
    rung = shaken
    node = rung.site.spec.servers[2]
    before = rung.hosts["s3"].sh("cat /proc/sys/kernel/random/boot_id")
    rung.hosts["s3"].sh("touch /run/reboot-needed")
    plan = plan_of(rung.site)
    assert [(step.id, step.effect) for step in plan.steps] == [("node/s3/reboot-packages", Effect.REBOOT)]
    bring_node(rung.site, node, Held(), plan.steps)
    assert rung.hosts["s3"].sh("cat /proc/sys/kernel/random/boot_id") != before
    assert not any(check_quorum(rung.members(), name, Effect.ETCD_MEMBER_DOWN) for name in SERVERS)


def test_without_a_quorum_nothing_is_written_and_nothing_is_lost(shaken):
    """With one of three left, the API server fails writes and consistent reads; then all is there again."""
    rung = shaken
    keep(rung, "before", word="kept")
    for name in ("s2", "s3"):
        rung.hosts[name].kill()
    rung.use("s1")
    with pytest.raises(ApiError):
        keep(rung, "lost", word="no")
    with pytest.raises(ApiError):
        kept(rung, "before")
    for name in ("s2", "s3"):
        rung.hosts[name].start()
    rung.use(*SERVERS)
    rung.wait_until_whole()
    assert kept(rung, "before") == {"word": "kept"} and kept(rung, "lost") is None


def test_a_link_lost_during_a_join_is_made_good_by_the_next_run(shaken):
    """The joining host drops off the network: the run fails or waits, and the next one makes it a voter."""
    rung = shaken
    rung.hosts.add("s6")
    rung.change({**ROLES, "s6": ["server"]}, join_timeout_s=25)
    failed: list[BaseException] = []

    def run():
        try:
            bring(rung.site)
        except StackError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    started = ("active", "activating")
    wait(lambda: rung.hosts["s6"].sh("systemctl is-active rke2-server", check=False).strip() in started, "a start", 600)
    rung.hosts.unplug("s6")
    thread.join(600)
    assert failed, "a host without a network joined"
    assert [name for name in rung.voters("s1") if name != "s6"] == [*SERVERS]
    rung.hosts.plug("s6")
    rung.change({**ROLES, "s6": ["server"]})
    bring(rung.site)
    assert "s6" in rung.voters("s1")
    rung.change(ROLES, removed=[entry(rung.hosts["s6"], ["server"])])
    remove(rung.site)
    rung.change(ROLES)
    rung.hosts.drop("s6")


def test_a_learner_that_never_comes_blocks_the_next_join_and_is_removed(shaken):
    """A member that was added and never started: the join gate names it; RKE2 removes it after its time."""
    rung = shaken
    ghost = f"https://{rung.hosts.prefix}.250:2380"
    rung.etcdctl("s1", "member", "add", "ghost", "--learner", f"--peer-urls={ghost}")
    problems = check_join(rung.members(), "s9")
    assert any(ghost in str(problem) for problem in problems), problems
    wait(lambda: ghost not in rung.etcdctl("s1", "member", "list"), "the learner's removal", 90)
    assert check_join(rung.members(), "s9") == []


def test_a_full_database_is_refused_until_it_is_mended(shaken):
    """A small quota, by the site file: each member restarts through the guard; at the alarm nothing goes down."""
    rung = shaken
    rung.change(ROLES, etcd_args=[f"quota-backend-bytes={24 * MIB}"])
    plan = bring(rung.site)
    assert [step.effect for step in plan.steps if step.id.endswith("/restart")] == [Effect.ETCD_MEMBER_DOWN] * 3
    assert {member.etcd.quota for member in rung.members()} == {24 * MIB}
    with pytest.raises(ApiError, match="database space exceeded"):
        for index in range(60):
            keep(rung, f"fill-{index}", text="x" * (900 * 1024))
    members = rung.members()
    assert {alarm.kind for member in members for alarm in member.etcd.alarms} == {"NOSPACE"}
    text = "\n".join(map(str, check_quorum(members, "s1", Effect.ETCD_MEMBER_DOWN)))
    assert "NOSPACE" in text and "quota" in text
    for name in SERVERS:
        rung.hosts[name].sh("systemctl is-active rke2-server")
    _empty(rung)
    rung.change(ROLES)
    bring(rung.site)
    assert not any(check_quorum(rung.members(), name, Effect.ETCD_MEMBER_DOWN) for name in SERVERS)


def _empty(rung) -> None:
    """Mend the database as an operator would: delete, compact, defragment each member, take the alarm back."""
    rung.etcdctl("s1", "del", "--prefix", "/registry/-/configmaps/default/fill-")
    revision = rung.etcdctl("s1", "get", "/none", "-w", "json").partition('"revision":')[2].partition(",")[0]
    rung.etcdctl("s1", "compact", revision)
    for name in SERVERS:
        rung.etcdctl(name, "defrag")
    rung.etcdctl("s1", "alarm", "disarm")


def test_a_full_disk_keeps_a_server_out_and_the_others_whole(shaken):
    """The joining host's disk has no room for etcd's log: the run says so; with room, the next one succeeds."""
    rung = shaken
    rung.hosts.add("s7")
    place = "/var/lib/rancher/rke2/server/db"
    rung.hosts["s7"].sh(f"mkdir -p {place} && mount -t tmpfs -o size=1m tmpfs {place}")
    rung.change({**ROLES, "s7": ["server"]}, join_timeout_s=25)
    with pytest.raises(StackError, match="s7"):
        bring(rung.site)
    assert [name for name in rung.voters("s1") if name != "s7"] == [*SERVERS]
    rung.hosts["s7"].sh(f"mount -o remount,size=400m {place}")
    rung.change({**ROLES, "s7": ["server"]})
    bring(rung.site)
    assert "s7" in rung.voters("s1")
    look_at_servers(rung.site)
    rung.hosts["s7"].sh(f"umount -l {place} || :")
    rung.change(ROLES, removed=[{**entry(rung.hosts["s7"], ["server"]), "lost": True}])
    rung.hosts["s7"].kill()
    remove(rung.site)
    rung.change(ROLES)
    rung.hosts.drop("s7")
