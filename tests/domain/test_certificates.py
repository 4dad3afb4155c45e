"""What a certificate's days mean, and what is read of one: tables of pure functions."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime

import pytest
import yaml

from stackwright.clients.x509 import CertificateUnreadableError, parse_pem
from stackwright.domain.certificate_places import (
    bundles,
    decode,
    ingress_hosts,
    ingress_secrets,
    kubeconfig_pems,
    served_addresses,
)
from stackwright.domain.certificates import (
    CertificateFacts,
    days_left,
    expired,
    expiring,
    judge_certificates,
    level_of,
    missing_files,
    parse_check,
    rows,
    split_files,
    unique,
)
from stackwright.domain.evidence import passed
from stackwright.lab.net import Authority
from tests.domain.nodes_seen import make_spec, node

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
DAY = 86400


def seen(days, kind="rke2", **fields):
    return CertificateFacts("s1", f"{kind}.crt", kind, "subject", not_after_s=NOW + days * DAY, **fields)


@pytest.mark.parametrize(
    ("fact", "level"),
    [
        (seen(13.9), "fail"),
        (seen(-1), "fail"),
        (seen(14.1), "warning"),
        (seen(119), "warning"),
        (seen(121), "pass"),
        (seen(29, "served"), "warning"),
        (seen(31, "served"), "pass"),
        (seen(31, "ingress"), "pass"),
        (seen(29, "kubeconfig"), "warning"),
        (seen(31, "bundle"), "pass"),
        (seen(364, "ca"), "warning"),
        (seen(13, "ca"), "fail"),
        (seen(400, "ca"), "pass"),
        (seen(300, not_before_s=NOW + 60), "fail"),
        (seen(300, said="EXPIRED"), "fail"),
        (seen(300, said="NOT YET VALID"), "fail"),
        (CertificateFacts("s1", "x", "rke2", unread="no such file"), "unknown"),
    ],
)
def test_the_limits(fact, level):
    assert level_of(fact, NOW) == level


def test_what_is_expired_is_a_problem_and_so_is_what_nobody_could_read():
    """For the upgrade: a certificate that is only near its end is none."""
    facts = [seen(1), seen(-1), seen(9, said="EXPIRED"), CertificateFacts("s2", "x", "ca", unread="broken")]
    problems = expired(facts, NOW)
    assert [problem.where for problem in problems] == ["s1", "s1", "s2"]
    assert "not known" in problems[2].what and problems[2].seen == "broken"
    assert all(problem.remedy for problem in problems)
    assert expired([seen(1)], NOW) == []


def test_evidence_is_worst_first_and_a_warning_does_not_fail_a_run():
    facts = [seen(400), seen(20, "served"), CertificateFacts("s2", "x", "ca", unread="broken"), seen(2, "ingress")]
    found = judge_certificates(facts, NOW)
    assert [(check.verdict, check.must) for check in found] == [
        ("fail", True), ("unknown", True), ("fail", False), ("pass", True),
    ]  # fmt: skip
    assert passed(judge_certificates([seen(20, "served"), seen(400)], NOW))
    assert not passed(judge_certificates([CertificateFacts("s2", "x", "ca", unread="broken")], NOW))
    assert [one.kind for one in expiring(facts, NOW)] == ["ingress", "served"]
    table = rows(facts, NOW)
    assert [row["verdict"] for row in table] == ["fail", "unknown", "warning", "pass"]
    assert table[0]["days left"] == "2.0" and table[1]["days left"] == ""


def checked(**fields):
    row = {
        "Filename": "client-admin.crt", "Subject": "system:admin", "Issuer": "ca", "Usages": ["ClientAuth"],
        "ExpiryTime": "2026-03-11T12:00:00Z", "ResidualTime": 10 * DAY * 10**9, "Status": "WARNING", **fields,
    }  # fmt: skip
    return json.dumps({"Certificates": [row]})


def test_the_check_of_rke2_is_read_with_its_status_and_without_the_authorities():
    [one] = parse_check("s1", checked(), NOW)
    assert days_left(one, NOW) == 10 and one.said == "WARNING"
    assert parse_check("s1", checked(Usages=["CertSign"]), NOW) == []
    [early] = parse_check("s1", checked(Status="NOT YET VALID"), NOW)
    assert days_left(early, NOW) == 10 and early.not_before_s == NOW + 10 * DAY and level_of(early, NOW) == "fail"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Certificates": [{}]}', "Incorrect Usage"])
def test_an_answer_that_is_none_is_unknown(text):
    [one] = parse_check("s1", text, NOW)
    assert level_of(one, NOW) == "unknown"


def test_of_one_name_in_two_folders_the_one_that_ends_first_counts():
    found = unique([seen(9), seen(5), seen(7), seen(3, "ca")])
    assert sorted(round(days_left(one, NOW)) for one in found) == [3, 5]


def test_what_a_node_must_have_and_nobody_read_is_unknown():
    spec = make_spec()
    names = {one.place for one in missing_files(node(spec, "s1"), [])}
    assert {"client-admin.crt", "server-client.crt", "client-kubelet.crt"} <= names
    agent = CertificateFacts("w1", "agent/client-kubelet.crt", "rke2", not_after_s=NOW)
    assert [one.place for one in missing_files(node(spec, "w1"), [agent])] == ["serving-kubelet.crt"]


def test_files_are_split_and_pem_is_parsed_without_its_key():
    authority = Authority("ca")
    pem, key = authority.issue("leaf", ["leaf"], days=30)
    files = split_files(f"== /a/x.crt\n{pem}== /a/y.crt\n")
    assert list(files) == ["/a/x.crt", "/a/y.crt"]
    leaf, ca = parse_pem(files["/a/x.crt"], "x")
    assert (leaf.subject, leaf.is_ca, ca.subject, ca.is_ca) == ("leaf", False, "ca", True)
    for bad in ("", files["/a/y.crt"], key, "-----BEGIN CERTIFICATE-----\nplanted\n-----END CERTIFICATE-----\n"):
        with pytest.raises(CertificateUnreadableError) as caught:
            parse_pem(bad, "y")
        assert "planted" not in str(caught.value) and "PRIVATE" not in str(caught.value)


def test_objects_name_their_certificates():
    ingress = {"metadata": {"namespace": "a", "name": "i"}, "spec": {
        "tls": [{"hosts": ["x.test", "*.y.test"], "secretName": "t"}, {"hosts": ["z.test"]}],
        "rules": [{"host": "x.test"}, {"host": "w.test"}, {}]}}  # fmt: skip
    assert ingress_secrets([ingress]) == {("a", "t"): ["x.test", "*.y.test"]}
    assert ingress_hosts([ingress]) == ["w.test", "x.test", "z.test"]
    hook = {"kind": "MutatingWebhookConfiguration", "metadata": {"name": "h"},
            "webhooks": [{"name": "a", "clientConfig": {"caBundle": "AA=="}}, {"name": "b"}]}  # fmt: skip
    service = {"kind": "APIService", "metadata": {"name": "v1.x"}, "spec": {"caBundle": "BB=="}}
    conversion = {"webhook": {"clientConfig": {"caBundle": "CC=="}}}
    crd = {"kind": "CustomResourceDefinition", "metadata": {"name": "c"}, "spec": {"conversion": conversion}}
    found = [
        pair
        for obj in (hook, service, crd, {"kind": "APIService", "metadata": {"name": "v1."}})
        for pair in bundles(obj)
    ]
    assert found == [("MutatingWebhookConfiguration/h a", "AA=="), ("APIService/v1.x", "BB=="),
                     ("CustomResourceDefinition/c", "CC==")]  # fmt: skip
    assert decode("!") is None and decode(b64encode(b"\xff").decode()) is None and decode("QQ==") == "A"


def test_a_kubeconfig_gives_its_certificates_and_never_its_key():
    def encode(text):
        return b64encode(text.encode()).decode()

    user = {"client-certificate-data": encode("CERT"), "client-key-data": encode("planted")}
    text = yaml.safe_dump(
        {"users": [{"user": user}], "clusters": [{"cluster": {"certificate-authority-data": encode("CA")}}]}
    )
    assert kubeconfig_pems(text) == {"client-certificate-data": "CERT", "certificate-authority-data": "CA"}
    assert kubeconfig_pems("users: []\nclusters: []") == {"client-certificate-data": None}
    for broken in ("{", "users: 3", "[]", "planted"):
        assert kubeconfig_pems(broken) == {"client-certificate-data": None}


def test_every_address_that_must_serve_is_asked_for():
    """The platform's names where the site file says they are, the API, and each server's supervisor."""
    spec = make_spec(ingress__https_port=8443)
    found = {one.place for one in served_addresses(spec, ["app.test"], {"app.test": "192.0.2.99"})}
    assert {"app.test:8443 at 192.0.2.99", "k8s.example.com:6443", "192.0.2.11:9345", "192.0.2.13:6443"} <= found
