"""What the lab's machines promise: SSH, private roots, stand-in commands, reboots, and every fault on the SSH wire."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress

import paramiko
import pytest

from stackwright.lab.secrets_made import ssh_key_pair

STEP = "# stackwright-step: swap.off\nmkdir -p /var/lib/stackwright\n"
STEP += "echo 'begin swap.off' >> /var/lib/stackwright/journal\n"
END = "echo 'end swap.off 0' >> /var/lib/stackwright/journal\n"


def test_ssh_takes_only_the_right_key_and_shows_the_pinned_host_key(make_lab):
    lab = make_lab({"name": "n1"})
    assert lab.sh("n1", "id -u; hostname").out == "0\nn1\n"
    with pytest.raises(paramiko.AuthenticationException), lab.ssh("n1", key=ssh_key_pair()[0]):
        pass
    with pytest.raises(paramiko.AuthenticationException), lab.ssh("n1", user="nobody"):
        pass
    lab.sh("n1", "rm /root/.ssh/authorized_keys")
    with pytest.raises(paramiko.AuthenticationException), lab.ssh("n1"):
        pass


def test_exec_carries_status_signals_big_output_and_parallel_sessions(make_lab):
    lab = make_lab({"name": "n1"}, {"name": "n2"})
    assert lab.sh("n1", "exit 7").code == 7
    assert lab.sh("n1", "kill -TERM $$").code == -1
    assert len(lab.sh("n1", "head -c 5000000 /dev/zero | tr '\\0' x").out) == 5_000_000
    with lab.ssh("n1") as client:
        streams = [client.exec_command(f"cat; echo {index} >&2") for index in range(5)]
        for index, (stdin, stdout, stderr) in enumerate(streams):
            stdin.write(f"hello {index}")
            stdin.channel.shutdown_write()
            assert (stdout.read(), stderr.read()) == (f"hello {index}".encode(), f"{index}\n".encode())
    results: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: lab.sh(n, "hostname").out})) for n in ("n1", "n2")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"n1": "n1\n", "n2": "n2\n"}


def test_a_machine_writes_to_its_own_disk_alone(make_lab, tmp_path):
    """Nothing that root does in a machine reaches the host or another machine."""
    lab = make_lab({"name": "n1"}, {"name": "n2"})
    probe = f"probe-{os.getpid()}"
    for folder in ("/etc", "/usr/bin", "/var", "/opt", "/root", "/tmp", "/usr/local/bin"):
        assert lab.sh("n1", f"echo x > {folder}/{probe}").code == 0
        assert lab.sh("n2", f"cat {folder}/{probe}").code != 0
        assert not os.path.exists(f"{folder}/{probe}")  # noqa: PTH110  # tmp_path may lie below /tmp: an absolute look
    assert lab.sh("n1", f"ls {tmp_path}").code != 0
    assert "SLES" in lab.sh("n1", "cat /etc/os-release").out


def test_ops_is_no_root_and_sudo_asks_unless_a_rule_says_otherwise(make_lab):
    lab = make_lab({"name": "n1"}, {"name": "n2", "sudo": "password"})
    assert lab.sh("n1", "id -u", user="ops").out == "1000\n"
    assert lab.sh("n1", "echo x > /etc/probe", user="ops").code != 0
    assert lab.sh("n1", "id -u; echo x > /etc/probe", user="ops", command="sudo -n -- sh -s").out == "0\n"
    assert lab.sh("n1", "", command="sudo -n id -u", user="ops").out == "0\n"
    refused = lab.sh("n2", "id -u", user="ops", command="sudo -n sh -s")
    assert (refused.code, refused.err) == (1, "sudo: a password is required\n")
    assert lab.sh("n2", "sudo -n id -u").out == "0\n"


def test_what_a_reboot_loses_and_keeps(make_lab):
    lab = make_lab({"name": "n1"})
    before = lab.sh("n1", "cat /proc/sys/kernel/random/boot_id; tail -n +2 /proc/swaps | wc -l").out.split()
    assert before[1] == "1"
    lab.sh("n1", "swapoff -a; modprobe br_netfilter; modprobe vxlan; sysctl -w vm.swappiness=10;"
           "touch /tmp/a /run/a /var/a;"
           "echo br_netfilter > /etc/modules-load.d/a.conf; echo kernel.panic=10 > /etc/sysctl.d/a.conf;"
           "systemctl disable firewalld; systemctl stop chronyd")  # fmt: skip
    lab.sh("n1", "reboot")
    lab.wait(
        lambda: lab.nodes["n1"].is_on and lab.nodes["n1"].read("/proc/sys/kernel/random/boot_id").strip() != before[0],
        "reboot",
    )
    lab.wait(lambda: _answers(lab, "n1"), "SSH after the reboot")
    seen = lab.sh("n1", "ls /tmp/a /run/a; ls /var/a; ls -d /sys/module/br_netfilter; ls -d /sys/module/vxlan; "
                  "sysctl -n vm.swappiness "
                  "kernel.panic; tail -n +2 /proc/swaps | wc -l; systemctl is-active firewalld chronyd")  # fmt: skip
    assert seen.out.split() == ["/var/a", "/sys/module/br_netfilter", "60", "10", "1", "inactive", "active"]


def _answers(lab, node):
    try:
        return lab.sh(node, "true").code == 0
    except (OSError, paramiko.SSHException):
        return False


def test_a_lab_started_again_has_its_machines_addresses_and_journal(make_lab, tmp_path):
    lab = make_lab({"name": "n1"})
    lab.sh("n1", STEP + "swapoff -a; sed -i /swap/d /etc/fstab\n" + END)
    prefix, keys, state = lab.net.prefix, lab.nodes.host_keys, lab.call(_snapshot(lab, "n1"))
    lab.stop()
    again = make_lab({"name": "n1"}, folder=tmp_path)
    assert (again.net.prefix, again.nodes.host_keys) == (prefix, keys)
    assert [entry.action for entry in again.journal.changed_since(0)] == ["swap.off"]
    assert again.call(_snapshot(again, "n1")) == state | {"sysctl": again.nodes.snapshot("n1")["sysctl"]}


async def _snapshot(lab, node):
    return lab.nodes.snapshot(node)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("systemctl start nothing", 5, "Unit nothing.service not found."),
        ("systemctl --frobnicate", 1, "unrecognized option '--frobnicate'"),
        ("systemctl frobnicate", 1, "Unknown command verb frobnicate."),
        ("systemctl mask firewalld && systemctl start firewalld", 1, "Unit firewalld.service is masked."),
        ("modprobe nonsense", 1, "Module nonsense not found"),
        ("sysctl net.bridge.bridge-nf-call-iptables", 255, "No such file or directory"),
        ("sysctl -w vm.swappiness=many", 255, "Invalid argument"),
        ("SUSEConnect -r WRONG", 67, "Unknown Registration Code"),
        ("SUSEConnect -r @/nowhere", 65, "no such file"),
        ("SUSEConnect -d", 69, "not registered"),
        ("zypper --non-interactive install open-iscsi", 104, "No provider of 'open-iscsi' found."),
        ("zypper --frobnicate", 2, "Unknown option"),
        ("rpm -q open-iscsi", 1, "package open-iscsi is not installed"),
        ("systemctl stop chronyd && chronyc tracking", 1, "506 Cannot talk to daemon"),
        ("firewall-cmd --add-port=x", 102, "INVALID_PORT"),
        ("useradd root", 9, "user 'root' already exists"),
        ("nvidia-smi -L", 127, "not found"),
        ("transactional-update pkg install x", 127, "not found"),
    ],
)
def test_stand_ins_refuse_what_the_real_ones_refuse(one_machine, script, code, words):
    done = one_machine.sh("n1", script)
    one_machine.sh("n1", "systemctl unmask firewalld; systemctl start chronyd")
    assert (done.code, words in done.out + done.err) == (code, True), done.out + done.err


@pytest.fixture(scope="module")
def one_machine(small_lab, tmp_path_factory):
    """One machine for the tests that change nothing of each other's."""
    with small_lab(tmp_path_factory.mktemp("lab"), [{"name": "n1"}], 200.0) as lab:
        yield lab


def test_registration_packages_and_units_work_together(make_lab):
    lab = make_lab({"name": "n1"}, {"name": "m1", "profile": "slmicro"}, {"name": "g1", "gpus": 2})
    lab.nodes["n1"].provoked["zypper"] = [7]
    done = lab.sh("n1", "echo LAB-CODE | SUSEConnect -r - && SUSEConnect --status;"
                  "zypper --non-interactive install open-iscsi; echo $?;"
                  "zypper --non-interactive install open-iscsi && systemctl enable --now iscsid &&"
                  "systemctl is-active iscsid;"
                  "journalctl -u iscsid -o cat --no-pager")  # fmt: skip
    assert '"status": "Registered"' in done.out
    assert "\n7\n" in done.out and "active\nStarting iscsid.service...\nStarted iscsid.service.\n" in done.out
    assert lab.sh("m1", "transactional-update -n pkg install open-iscsi; rpm -q open-iscsi").code == 1
    lab.call(lab.nodes.reboot("m1"))
    assert lab.sh("m1", "rpm -q open-iscsi && systemctl start iscsid").code == 0
    assert lab.sh("g1", "nvidia-smi -L | wc -l; lsmod | grep -c ^nvidia").out == "2\n3\n"


def test_only_announced_steps_are_journalled(make_lab):
    lab = make_lab({"name": "n1"})
    lab.sh("n1", "# stackwright-read\nsystemctl is-active sshd\n")
    assert lab.journal.changed_since(0) == []
    lab.sh("n1", "# stackwright-step: swap.off, sysctl.set\ntrue\n")
    assert [(e.wire, e.target, e.action) for e in lab.journal.changed_since(0)] == [
        ("ssh", "n1", "swap.off,sysctl.set")
    ]


@pytest.mark.parametrize(
    ("when", "began", "ended"), [("before", False, False), ("inside", True, None), ("after", True, True)]
)
def test_a_cut_link_leaves_the_step_where_the_fault_says(make_lab, when, began, ended):
    lab = make_lab({"name": "n1"})
    lab.inject(kind="cut", match={"target": "n1"}, when=when)
    with pytest.raises((paramiko.SSHException, OSError, EOFError, AssertionError)):
        done = lab.sh("n1", STEP + ("sleep 1\n" if when == "inside" else "") + END)
        assert done.code == 0  # paramiko answers -1 for a status that never came
    journal = lab.nodes["n1"].read("/var/lib/stackwright/journal")
    assert ("begin" in journal) is began
    assert ended is None or ("end" in journal) is ended
    assert lab.sh("n1", "echo well").out == "well\n"


@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_a_kill_ends_the_controller_at_that_change(make_lab, when):
    """The process group given dies by SIGKILL; a change with another number does not touch it."""
    lab = make_lab({"name": "n1"})
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as controller:
        lab.inject(kind="kill", match={"number": 2}, when=when, pid=controller.pid)
        assert lab.sh("n1", STEP + END).code == 0
        assert controller.poll() is None
        with suppress(paramiko.SSHException, OSError, EOFError):  # the link goes with the controller
            lab.sh("n1", STEP + ("sleep 1\n" if when == "inside" else "") + END)
        assert controller.wait(60) == -signal.SIGKILL


def test_a_full_disk_gives_the_real_message_until_cleared(make_lab):
    lab = make_lab({"name": "n1"})
    lab.sh("n1", "mkdir -p /var/lib/rancher; echo old > /var/lib/rancher/kept")
    lab.inject(kind="disk-full", match={"action": "rke2"}, path="/var")
    done = lab.sh(
        "n1", "# stackwright-step: rke2\nhead -c 200000 /dev/zero > /var/lib/rancher/new; cat /var/lib/rancher/kept\n"
    )
    assert "No space left on device" in done.err
    assert done.out == "old\n"
    lab.inject()
    lab.wait(lambda: lab.sh("n1", "head -c 200000 /dev/zero > /var/lib/rancher/new").code == 0, "space again")


def test_a_dead_node_answers_nothing_and_comes_back_rebooted(make_lab):
    lab = make_lab({"name": "n1"}, {"name": "n2"})
    lab.inject(kind="node-dead", match={"target": "n1"})
    lab.wait(lambda: not lab.nodes["n1"].is_on, "n1 off")
    lab.wait(lambda: not _answers(lab, "n1"), "n1 silent")
    assert lab.sh("n2", "true").code == 0
    lab.inject()
    lab.wait(lambda: _answers(lab, "n1"), "n1 back")


def test_a_fault_that_could_never_strike_is_refused(make_lab):
    from stackwright.lab.faults import Faults

    faults = Faults()
    for wrong in (
        {"kind": "fire"},
        {"kind": "cut", "when": "later"},
        {"kind": "cut", "match": {"node": "n1"}},
        {"kind": "kill", "pid": 1},
    ):
        with pytest.raises(ValueError):
            faults.add(wrong)
