"""What the RKE2 stand-in promises of certificates, tokens and encryption keys."""

from __future__ import annotations

import json

import pytest

from tests.lab.test_rke2 import FIRST, JOIN, active, bring, journal

pytestmark = pytest.mark.lab
RKE2 = "/opt/rke2/bin/rke2"
AGE = "/usr/lib/stackwright-lab/rke2 - lab-certificates"


def rows(lab, node):
    return json.loads(lab.sh(node, f"{RKE2} certificate check --output json").out)["Certificates"]


def leaf(lab, node, file="client-kubelet.crt"):
    return next(row for row in rows(lab, node) if row["Filename"] == file and "CertSign" not in row["Usages"])


@pytest.fixture
def two(make_lab):
    lab = make_lab({"name": "s1"}, {"name": "s2"}, {"name": "a1"})
    bring(lab, "s1", FIRST)
    bring(lab, "s2", JOIN)
    bring(lab, "a1", "token: secret\nserver: https://k8s.lab.test:9345\n", "agent")
    return lab


def test_certificates_are_real_files_and_renewed_at_a_start_near_their_end(two):
    """The check reads the files; a start renews those with less than 120 days, and only those; pods read new ones."""
    lab = two
    names = {row["Filename"] for row in rows(lab, "s1")}
    assert {"client-admin.crt", "serving-kube-apiserver.crt", "peer-server-client.crt", "client-kubelet.crt"} <= names
    assert {row["Filename"] for row in rows(lab, "a1")} == {
        "client-kubelet.crt", "serving-kubelet.crt", "client-kube-proxy.crt", "client-rke2-controller.crt"}  # fmt: skip
    assert {row["Status"] for row in rows(lab, "s1")} == {"OK"}
    subject = lab.sh("s1", "openssl x509 -noout -subject -in /var/lib/rancher/rke2/agent/client-kubelet.crt").out
    assert "system:node:s1" in subject
    lab.sh("s1", f"{AGE} 130")
    before = leaf(lab, "s1")["ExpiryTime"]
    lab.sh("s1", "systemctl restart rke2-server")
    assert leaf(lab, "s1")["ExpiryTime"] == before
    etcd = lab.cluster.pods["s1"].started["etcd"]
    lab.sh("s1", f"{AGE} 100")
    assert leaf(lab, "s1")["Status"] == "WARNING"
    lab.sh("s1", "systemctl restart rke2-server")
    assert leaf(lab, "s1")["Status"] == "OK" and lab.cluster.pods["s1"].started["etcd"] > etcd
    lab.sh("a1", f"{AGE} -3")
    assert leaf(lab, "a1")["Status"] == "EXPIRED"
    lab.sh("a1", "systemctl restart rke2-agent")
    assert leaf(lab, "a1")["Status"] == "OK"


def test_rotate_wants_a_stopped_unit_keeps_the_old_ones_and_a_start_makes_new_ones(two):
    lab = two
    assert lab.sh("s1", f"{RKE2} certificate rotate").code == 1
    before = lab.sh("s1", "cat /var/lib/rancher/rke2/agent/client-kubelet.crt").out
    done = lab.sh(
        "s1", f"systemctl stop rke2-server && {RKE2} certificate rotate && ls -d /var/lib/rancher/rke2/server/tls-*"
    )
    assert done.code == 0 and "Successfully backed up certificates" in done.err
    kept = done.out.strip()
    assert lab.sh("s1", f"ls {kept}/client-admin.crt {kept}/etcd/server-client.crt {kept}/client-kubelet.crt").code == 0
    assert lab.sh("s1", "ls /var/lib/rancher/rke2/server/tls/client-admin.crt").code != 0
    assert [row for row in rows(lab, "s1") if row["Filename"] == "client-admin.crt"] == []
    lab.sh("s1", "systemctl start rke2-server")
    assert lab.sh("s1", "cat /var/lib/rancher/rke2/agent/client-kubelet.crt").out not in ("", before)
    assert active(lab, "s1")


def test_an_old_program_does_not_know_the_output_option(two):
    lab = two
    lab.sh("s1", f"sed -i s/^VERSION=.*/VERSION=v1.31.4+rke2r1/ {RKE2}")
    refused = lab.sh("s1", f"{RKE2} certificate check --output json")
    assert refused.code == 1 and "flag provided but not defined" in refused.err
    assert "client-admin.crt" in lab.sh("s1", f"{RKE2} certificate check").out


def test_a_token_is_rotated_on_one_server_and_asked_of_all_at_their_next_start(two):
    """A wrong old token is refused; a server that keeps the old one in its configuration does not come up."""
    lab = two
    refused = lab.sh("s1", f"{RKE2} token rotate --token wrong --new-token later")
    assert refused.code == 1 and "401" in refused.err
    done = lab.sh("s1", f"{RKE2} token rotate --token secret --new-token later")
    assert done.out == "Token rotated, restart rke2 nodes with new token\n"
    assert lab.sh("s1", "cat /var/lib/rancher/rke2/server/token").out.strip().endswith("::server:later")
    assert lab.sh("s2", "cat /var/lib/rancher/rke2/server/token").out.strip().endswith("::server:secret")
    lab.sh("s2", "systemctl restart --no-block rke2-server")
    text = "bootstrap data already found and encrypted with different token"
    lab.wait(lambda: text in journal(lab, "s2"), "refusal")
    lab.sh("s2", "sed -i s/secret/later/ /etc/rancher/rke2/config.yaml")
    lab.wait(lambda: active(lab, "s2"), "s2 is up")
    assert lab.sh("s2", "cat /var/lib/rancher/rke2/server/token").out.strip().endswith("::server:later")


def test_a_process_takes_the_token_it_was_started_with(two):
    """After a rotation the endpoint still wants the old token, until the server is restarted."""
    lab = two
    url = f"https://{lab.nodes['s1'].spec.address}:9345/v1-rke2/token"
    put = "curl -sk -o /dev/null -w '%{http_code}' -X PUT -u server:@ -d '{\"newToken\": \"later\"}' " + url
    assert lab.sh("s1", put.replace("@", "wrong")).out == "401"
    assert lab.sh("s1", put.replace("@", "secret")).out == "200"
    assert lab.sh("s1", put.replace("@", "secret")).out == "200"
    lab.sh("s1", "sed -i s/secret/later/ /etc/rancher/rke2/config.yaml; systemctl restart rke2-server")
    assert lab.sh("s1", put.replace("@", "secret")).out == "401"


def status(lab, node):
    return json.loads(lab.sh(node, f"{RKE2} secrets-encrypt status -o json").out)


def test_keys_are_rotated_by_stages_and_hashes_match_again_after_restarts(two):
    lab = two
    start = status(lab, "s1")
    assert (start["stage"], start["hashmatch"], start["activekey"]) == ("start", True, "AES-CBC aescbckey")
    assert "reencryption started" in lab.sh("s1", f"{RKE2} secrets-encrypt rotate-keys").out
    assert "hash does not match" in lab.sh("s2", f"{RKE2} secrets-encrypt rotate-keys").err
    lab.wait(lambda: status(lab, "s1")["stage"] == "reencrypt_finished", "re-encryption")
    half = status(lab, "s2")
    assert half["stage"] == "start" and "hashmatch" not in half and "hash does not match" in half["hasherror"]
    assert lab.sh("s1", f"{RKE2} secrets-encrypt rotate-keys").code == 1
    lab.sh("s2", "systemctl restart rke2-server")
    for node in ("s1", "s2"):
        seen = status(lab, node)
        assert seen["hashmatch"] and seen["stage"] == "reencrypt_finished" and seen["activekey"] != start["activekey"]
