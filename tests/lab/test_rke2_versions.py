"""What the RKE2 stand-in promises about releases: what runs is not what is installed, and what refuses to go back."""

from __future__ import annotations

import json

import pytest

from stackwright.lab.rke2.versions import etcd_of, numbers

OLD, NOW, NEW = "v1.33.10+rke2r1", "v1.34.10+rke2r1", "v1.35.3+rke2r1"
SERVERS = ({"name": "s1"}, {"name": "s2"}, {"name": "s3"})
FIRST = "token: secret\ntls-san: [k8s.lab.test]\ncni: canal\n"
JOIN = FIRST + "server: https://k8s.lab.test:9345\n"
AGENT = "token: secret\nserver: https://k8s.lab.test:9345\n"


def install(lab, node, version, role="server"):
    base = f"https://{lab.net.address(2)}:8444/rke2"
    ca = lab.nodes[node].path("/etc/lab-ca.pem")
    ca.write_text(lab.net.ca_file.read_text())
    done = lab.sh(
        node,
        f"export CURL_CA_BUNDLE=/etc/lab-ca.pem; grep -q k8s.lab.test /etc/hosts || "
        f"echo '{lab.net.address(2)} k8s.lab.test' >> /etc/hosts\n"
        f"curl -fsS {base}/install.sh -o /root/install.sh || exit 9\n"
        f"INSTALL_RKE2_METHOD=tar INSTALL_RKE2_TYPE={role} INSTALL_RKE2_VERSION={version} "
        f"INSTALL_RKE2_ARTIFACT_URL={base} sh /root/install.sh",
    )
    assert done.code == 0, done.err


def start(lab, node, config, version, role="server"):
    install(lab, node, version, role)
    lab.sh(node, f"mkdir -p /etc/rancher/rke2 && cat > /etc/rancher/rke2/config.yaml <<'YAML'\n{config}YAML\n")
    lab.sh(node, f"systemctl enable rke2-{role} && systemctl start --no-block rke2-{role}")


def bring(lab, node, config, version, role="server"):
    start(lab, node, config, version, role)
    lab.wait(lambda: lab.nodes[node].systemd.is_active(f"rke2-{role}.service"), f"{node} active")
    if role == "server":
        lab.wait(lambda: condition(lab, node, "EtcdIsVoter") == "True", f"{node} voter")


def condition(lab, node, kind):
    found = lab.api.get("Node", "", node) or {"status": {}}
    return next((c["status"] for c in found["status"].get("conditions", []) if c["type"] == kind), None)


def kubelet(lab, node):
    return lab.api.get("Node", "", node)["status"]["nodeInfo"]["kubeletVersion"]


def api_version(lab, node):
    address = lab.nodes[node].spec.address
    return json.loads(lab.sh(node, f"curl -sk https://{address}:6443/version").out or '{"gitVersion": ""}')[
        "gitVersion"
    ]


def restart(lab, node, role="server"):
    assert lab.sh(node, f"systemctl --no-block restart rke2-{role}").code == 0
    lab.wait(lambda: lab.nodes[node].systemd.is_active(f"rke2-{role}.service"), f"{node} active again")


def up(lab, node):
    return node in lab.cluster.pods and lab.cluster.pods[node].answers("etcd")


def journal(lab, node, role="server"):
    return lab.sh(node, f"journalctl -u rke2-{role} -o cat --no-pager").out


@pytest.mark.parametrize(
    ("release", "etcd"),
    [
        ("v1.32.11+rke2r1", "3.5.21"),
        ("v1.32.11+rke2r3", "3.5.26"),
        ("v1.33.6+rke2r1", "3.5.21"),
        ("v1.33.7+rke2r1", "3.5.25"),
        ("v1.33.7+rke2r3", "3.5.26"),
        ("v1.33.10+rke2r1", "3.5.26"),
        ("v1.33.11+rke2r1", "3.6.7"),
        ("v1.34.8+rke2r1", "3.6.7"),
        ("v1.35.3+rke2r1", "3.6.7"),
    ],
)
def test_a_release_has_its_etcd(release, etcd):
    """As the release notes have it: a patch release of 1.33 changes etcd's minor."""
    assert etcd_of(release) == etcd


def test_a_word_that_is_no_release_is_refused():
    """Instead of an etcd for anything."""
    with pytest.raises(ValueError, match="latest"):
        numbers("latest")


def test_an_upgrade_takes_effect_at_the_restart(make_lab):
    """Installed is not running; the restart replaces the pods one member at a time; the last ends the way back."""
    lab = make_lab(*SERVERS, {"name": "a1"})
    bring(lab, "s1", FIRST, OLD)
    bring(lab, "s2", JOIN, OLD)
    bring(lab, "s3", JOIN, OLD)
    bring(lab, "a1", AGENT, OLD, "agent")

    # Files first: everything goes on as before.
    for node, role in (("s1", "server"), ("a1", "agent")):
        install(lab, node, NOW, role)
        assert NOW in lab.sh(node, "/opt/rke2/bin/rke2 --version").out
        assert kubelet(lab, node) == OLD
        exe = f'readlink "/proc/$(systemctl show -p MainPID --value rke2-{role})/exe"'
        assert lab.sh(node, exe).out.strip().endswith(" (deleted)"), "the program that runs was replaced"
    assert "deleted" not in lab.sh("s2", exe.replace("agent", "server")).out
    assert api_version(lab, "s1") == OLD

    # A plain restart of an unchanged release leaves etcd alone.
    before = len(lab.cluster.log.changes)
    restart(lab, "s2")
    assert len(lab.cluster.log.changes) == before

    # An agent before the servers does not get Ready, and says why.
    restart(lab, "a1", "agent")
    lab.wait(lambda: condition(lab, "a1", "Ready") == "False", "the agent is too new")
    assert "services have not yet been read at least once" in journal(lab, "a1", "agent")

    # The restart of the new release takes the member down and brings it back.
    lab.sh("s1", "systemctl --no-block restart rke2-server")
    lab.wait(lambda: up(lab, "s1") and kubelet(lab, "s1") == NOW, "s1 is at the new release")
    lab.wait(lambda: lab.nodes["s1"].systemd.is_active("rke2-server.service"), "s1 is active")
    down, again = lab.cluster.log.changes[before:]
    assert (down.healthy, down.cause) == ({"s2", "s3"}, "etcd replaced on s1") and again.healthy == {"s1", "s2", "s3"}
    assert (api_version(lab, "s1"), api_version(lab, "s2"), kubelet(lab, "s2")) == (NOW, OLD, OLD)
    state = next(iter(lab.cluster.clusters.values()))
    assert state.etcd == "3.5.26", "while one member runs the old etcd, the cluster can go back"

    # Back and forth works until the last member runs etcd 3.6.
    install(lab, "s1", OLD)
    restart(lab, "s1")
    lab.wait(lambda: kubelet(lab, "s1") == OLD, "s1 is back")
    for node in ("s1", "s2", "s3"):
        install(lab, node, NOW)
        restart(lab, node)
        lab.wait(lambda node=node: kubelet(lab, node) == NOW and up(lab, node), f"{node} upgraded")
    assert state.etcd == "3.6.7"
    lab.wait(lambda: condition(lab, "a1", "Ready") == "True", "the agent is Ready at last")
    install(lab, "s3", OLD)
    lab.sh("s3", "systemctl --no-block restart rke2-server")
    lab.wait(lambda: "Waiting for etcd server to become available" in journal(lab, "s3"), "etcd 3.5 refuses")
    assert not up(lab, "s3") and not lab.nodes["s3"].systemd.is_active("rke2-server.service")
    install(lab, "s3", NOW)
    restart(lab, "s3")
    assert up(lab, "s3")

    # Nothing stops a skipped or newer minor: the objects of the first release stay.
    kinds = {obj["metadata"]["name"] for obj in lab.api.objects("DaemonSet")}
    install(lab, "s1", NEW)
    restart(lab, "s1")
    assert {obj["metadata"]["name"] for obj in lab.api.objects("DaemonSet")} == kinds


def test_a_process_killed_while_it_starts_is_started_again(make_lab):
    """Restart=always holds in the middle of a start too; the pods outlive the process."""
    lab = make_lab({"name": "s1"}, speed=20.0)
    bring(lab, "s1", FIRST, OLD)
    install(lab, "s1", NOW)
    lab.sh("s1", "systemctl --no-block restart rke2-server")
    unit = lab.nodes["s1"].systemd.unit("rke2-server.service")
    lab.wait(lambda: unit.active == "activating" and unit.main_pid > 0, "it starts")
    lab.sh("s1", 'kill -9 "$(systemctl show -p MainPID --value rke2-server)"')
    lab.wait(lambda: "code=killed, status=9/KILL" in journal(lab, "s1"), "systemd saw it")
    lab.wait(lambda: lab.nodes["s1"].systemd.is_active("rke2-server.service"), "it is active")
    assert unit.restarts == 1 and kubelet(lab, "s1") == NOW
    lab.sh("s1", 'kill -9 "$(systemctl show -p MainPID --value rke2-server)"')
    lab.wait(lambda: unit.active == "activating", "killed once more")
    assert up(lab, "s1"), "KillMode=process: etcd goes on"
    lab.wait(lambda: lab.nodes["s1"].systemd.is_active("rke2-server.service"), "it is active again")
