"""What the RKE2 stand-in promises: install, join order, refusals, what survives a stop, and what removal leaves."""

from __future__ import annotations

import json

import pytest

VERSION = "v1.34.10+rke2r1"
SERVERS = ({"name": "s1"}, {"name": "s2"}, {"name": "s3"})
CIS = """
useradd -r -c "etcd user" -s /sbin/nologin -M etcd -U
cp /opt/rke2/share/rke2/rke2-cis-sysctl.conf /etc/sysctl.d/60-rke2-cis.conf
systemctl restart systemd-sysctl
"""


def install(lab, node, role="server"):
    base = f"https://{lab.net.address(2)}:8444/rke2"
    ca = lab.net.ca.certificate
    return lab.sh(
        node,
        f"cat > /etc/pki/trust/anchors/lab.pem <<'PEM'\n{ca}PEM\nupdate-ca-certificates\n"
        f"printf '%s\\n' '{lab.net.address(2)} k8s.lab.test' >> /etc/hosts\n"
        f"curl -fsS {base}/install.sh -o /root/install.sh || exit 9\n"
        f"INSTALL_RKE2_METHOD=tar INSTALL_RKE2_TYPE={role} INSTALL_RKE2_VERSION={VERSION} "
        f"INSTALL_RKE2_ARTIFACT_URL={base} sh /root/install.sh",
    )


def configure(lab, node, text, role="server"):
    done = lab.sh(
        node,
        f"mkdir -p /etc/rancher/rke2 && cat > /etc/rancher/rke2/config.yaml <<'YAML'\n{text}YAML\n"
        f"systemctl enable rke2-{role} && systemctl start --no-block rke2-{role}",
    )
    assert done.code == 0, done.err


def journal(lab, node, role="server"):
    return lab.sh(node, f"journalctl -u rke2-{role} -o cat --no-pager").out


def active(lab, node, role="server"):
    return lab.nodes[node].systemd.is_active(f"rke2-{role}.service")


def condition(lab, node, kind):
    found = lab.api.get("Node", "", node) or {"status": {}}
    return next((c["status"] for c in found["status"].get("conditions", []) if c["type"] == kind), None)


def bring(lab, node, text, role="server"):
    assert install(lab, node, role).code == 0
    configure(lab, node, text, role)
    lab.wait(lambda: active(lab, node, role), f"{node} active: {journal(lab, node, role)[-500:]}")
    if role == "server":
        lab.wait(lambda: condition(lab, node, "EtcdIsVoter") == "True", f"{node} voter")


FIRST = "token: secret\ntls-san: [k8s.lab.test]\ncni: canal\n"
JOIN = FIRST + "server: https://k8s.lab.test:9345\n"


def test_three_servers_and_an_agent_join_one_after_the_other(make_lab):
    """Each server becomes Ready and a voter; stop, killall and uninstall differ."""
    lab = make_lab(*SERVERS, {"name": "a1", "gpus": 2})
    bring(lab, "s1", FIRST)
    bring(lab, "s2", JOIN)
    bring(lab, "s3", JOIN)
    bring(lab, "a1", "token: secret\nserver: https://k8s.lab.test:9345\nnode-label: [pool=gpu]\n"
          "node-taint: ['nvidia.com/gpu=present:NoSchedule']\n", "agent")  # fmt: skip
    names = {node["metadata"]["name"] for node in lab.api.objects("Node")}
    assert names == {"s1", "s2", "s3", "a1"}
    assert lab.api.get("Node", "", "a1")["metadata"]["labels"]["pool"] == "gpu"
    assert lab.api.get("Node", "", "a1")["spec"]["taints"] == [
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    ]
    assert lab.cluster.snapshot() == {"cluster-0": {"s1": "voter", "s2": "voter", "s3": "voter"}}
    base = f"https://{lab.net.address(2)}"
    seen = lab.sh(
        "s1", f"curl -sk {base}:9345/ping; curl -sk {base}:6443/readyz; curl -sk {base}:9345/cacerts | sha256sum"
    )
    assert seen.out.startswith("pongok")
    token = lab.sh("s1", "cat /var/lib/rancher/rke2/server/token; stat -c %a /etc/rancher/rke2/rke2.yaml").out
    assert f"K10{seen.out.split()[0][6:]}::server:secret\n600" in token

    # A stopped unit leaves etcd and the API running; killall does not.
    lab.sh("s3", "systemctl stop rke2-server")
    health = f"curl -s http://{lab.nodes['s3'].spec.address}:2381/health"
    assert json.loads(lab.sh("s3", health).out)["health"] == "true"
    assert lab.sh("s3", "/opt/rke2/bin/rke2-killall.sh").code == 0
    assert lab.sh("s3", health).code != 0
    lab.wait(lambda: condition(lab, "s3", "Ready") == "Unknown", "s3 lost")
    lab.sh("s3", "systemctl start rke2-server")
    lab.wait(lambda: condition(lab, "s3", "Ready") == "True", "s3 back")

    # The real commands.
    saved = lab.sh(
        "s1", "/opt/rke2/bin/rke2 etcd-snapshot save --name before && ls /var/lib/rancher/rke2/server/db/snapshots"
    )
    assert "Snapshot before-s1-" in saved.out and saved.code == 0
    assert VERSION in lab.sh("s1", "/opt/rke2/bin/rke2 --version").out

    # Uninstall removes it all, and kubectl delete node drops the member.
    assert (
        lab.sh(
            "s3",
            "/opt/rke2/bin/rke2-uninstall.sh; ls -d /opt/rke2 /var/lib/rancher/rke2 /etc/rancher/rke2;"
            "systemctl cat rke2-server",
        ).code
        != 0
    )
    lab.api.delete("Node", "", "s3")
    lab.wait(lambda: "s3" not in lab.cluster.snapshot()["cluster-0"], "member dropped")


def test_a_second_learner_is_refused_until_the_first_votes(make_lab):
    lab = make_lab(*SERVERS)
    bring(lab, "s1", FIRST)
    lab.inject(kind="learner-stuck", match={"target": "s2"})
    for node in ("s2", "s3"):
        assert install(lab, node).code == 0
    configure(lab, "s2", JOIN)
    lab.wait(lambda: active(lab, "s2"), "s2 active though it is no voter")
    assert condition(lab, "s2", "EtcdIsVoter") == "False"
    configure(lab, "s3", JOIN)
    lab.wait(lambda: "too many learner members" in journal(lab, "s3"), "refusal in the journal")
    assert not active(lab, "s3")
    lab.inject()
    lab.wait(lambda: condition(lab, "s3", "EtcdIsVoter") == "True", "s3 joins once s2 votes")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (JOIN.replace("secret", "wrong"), "401 Unauthorized"),
        (
            JOIN.replace("secret", "K10" + "0" * 64 + "::server:secret"),
            "token CA hash does not match the Cluster CA certificate hash",
        ),
        (JOIN + "cluster-cidr: 10.99.0.0/16\n", "critical configuration value mismatch"),
        (JOIN + "node-name: s1\n", "duplicate node name found"),
        (JOIN.replace("9345", "9399"), "failed to get CA certs"),
        (FIRST + "profile: cis-1.23\n", "invalid value provided for --profile flag"),
        (FIRST + "profile: cis\n", "invalid kernel parameter value vm.overcommit_memory=0 - expected 1"),
        (FIRST + "profile: etcd\n", "missing required: user: unknown user etcd"),
        ("token: [\n", "yaml:"),
    ],
)
def test_fatal_configurations_loop_for_ever_and_say_why(pair, text, words):
    """The unit never gets ready, its restart counter grows, and the journal has the real words."""
    configure(pair, "s2", text)
    pair.wait(lambda: pair.nodes["s2"].systemd.unit("rke2-server.service").restarts >= 2, "restarts")
    assert words in journal(pair, "s2")
    assert pair.sh("s2", "systemctl is-active rke2-server").out == "activating\n"
    stopped = "systemctl stop rke2-server; systemctl is-active rke2-server; rm /var/log/lab-journal.jsonl"
    assert pair.sh("s2", stopped).out == "inactive\n"


@pytest.fixture(scope="module")
def pair(small_lab, tmp_path_factory):
    """A first server that runs, and a second machine with RKE2 installed."""
    with small_lab(tmp_path_factory.mktemp("pair"), [{"name": "s1"}, {"name": "s2"}], 1000.0) as lab:
        bring(lab, "s1", FIRST)
        assert install(lab, "s2").code == 0
        yield lab


def test_cis_profile_starts_once_the_host_is_prepared_and_unknown_keys_only_warn(make_lab):
    lab = make_lab({"name": "s1"})
    assert install(lab, "s1").code == 0
    assert lab.sh("s1", CIS).code == 0
    configure(lab, "s1", FIRST + "profile: cis\ndisabled: [x]\n")
    lab.wait(lambda: active(lab, "s1"), "s1 active")
    assert "Unknown flag --disabled found in config.yaml, skipping" in journal(lab, "s1")


def test_a_reboot_resumes_the_member_and_a_wrong_token_does_not(make_lab):
    lab = make_lab({"name": "s1"})
    bring(lab, "s1", FIRST)
    lab.call(lab.nodes.reboot("s1"))
    lab.wait(lambda: active(lab, "s1"), "s1 active after its reboot")
    lab.sh("s1", "sed -i s/secret/other/ /etc/rancher/rke2/config.yaml; systemctl restart --no-block rke2-server")
    lab.wait(lambda: "bootstrap data already found and encrypted with different token" in journal(lab, "s1"), "refusal")


def test_a_tampered_tarball_is_refused(make_lab):
    lab = make_lab({"name": "s1", "usr_local_mount": False})
    (lab.folder / "artifacts" / VERSION / "rke2.linux-amd64.tar.gz").write_bytes(b"x")
    done = install(lab, "s1")
    assert done.code == 1
    assert "[ERROR]  download sha256 does not match" in done.err
    assert lab.sh("s1", "ls /usr/local/bin/rke2").code != 0


def test_install_goes_to_usr_local_where_that_is_no_mount_point(make_lab):
    lab = make_lab({"name": "s1", "usr_local_mount": False})
    assert install(lab, "s1").code == 0
    assert VERSION in lab.sh("s1", "rke2 --version").out
    assert (
        "/usr/local/lib/systemd/system/rke2-server.service"
        in lab.sh("s1", "systemctl show -p FragmentPath rke2-server").out
    )


def test_slow_join_and_a_rebuilt_node_with_another_password(make_lab):
    """A slow join takes longer than asked; an agent that lost its password file is rejected."""
    lab = make_lab({"name": "s1"}, {"name": "a1"})
    bring(lab, "s1", FIRST)
    lab.inject(kind="slow-join", match={"target": "a1"}, seconds=0.5)
    text = "token: secret\nserver: https://k8s.lab.test:9345\n"
    bring(lab, "a1", text, "agent")
    assert lab.faults.struck
    lab.sh("a1", "systemctl stop rke2-agent; rm /etc/rancher/node/password; systemctl start --no-block rke2-agent")
    lab.wait(lambda: "Node password rejected" in journal(lab, "a1", "agent"), "rejected")
