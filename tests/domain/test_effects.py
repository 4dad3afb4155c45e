"""What a restart touches: predicted from what differs, and read off what ran before and after."""

from __future__ import annotations

import pytest

from stackwright.domain.effects import (
    APISERVER_KEYS,
    ETCD_KEYS,
    SUPERVISOR_KEYS,
    Reach,
    Running,
    pod_hash,
    predict,
    reach_of_word,
    reach_seen,
    widest,
)
from stackwright.domain.plan import Effect
from stackwright.domain.rke2_facts import CONFIG, PSA, REGISTRIES, TOKEN, env_file

FRESH = 300
SEEN = {"kubelet-arg": ["a"], "tls-san": ["k8s.example.com"]}

PREDICTED = [
    ({}, (), Reach.SUPERVISOR),
    ({"kubelet-arg": ["b"]}, (CONFIG,), Reach.SUPERVISOR),
    ({"etcd-snapshot-retention": 9}, (CONFIG,), Reach.SUPERVISOR),
    ({"kube-scheduler-arg": ["v=2"]}, (CONFIG,), Reach.SUPERVISOR),
    ({}, (REGISTRIES, TOKEN), Reach.SUPERVISOR),
    ({"kube-apiserver-arg": ["v=2"]}, (CONFIG,), Reach.APISERVER),
    ({"audit-policy-file": "/etc/a.yaml"}, (CONFIG,), Reach.APISERVER),
    ({}, (PSA,), Reach.APISERVER),
    ({"etcd-arg": ["quota-backend-bytes=1"]}, (CONFIG,), Reach.ETCD),
    ({"etcd-expose-metrics": True}, (CONFIG,), Reach.ETCD),
    ({"profile": "cis"}, (CONFIG,), Reach.ETCD),
    ({"selinux": True}, (CONFIG,), Reach.ETCD),
    ({"system-default-registry": "mirror:5000"}, (CONFIG,), Reach.ETCD),
    ({"control-plane-resource-requests": ["etcd-cpu=1"]}, (CONFIG,), Reach.ETCD),
    ({"control-plane-probe-configuration": ["etcd-liveness-timeout-seconds=9"]}, (CONFIG,), Reach.ETCD),
    ({"data-dir": "/srv/rke2"}, (CONFIG,), Reach.ETCD),
    ({"node-ip": "192.0.2.9"}, (CONFIG,), Reach.ETCD),
    ({"tls-san": ["k8s.example.com", "other"]}, (CONFIG,), Reach.ETCD),
    ({"a-key-that-nobody-knows": 1}, (CONFIG,), Reach.ETCD),
    ({"kubelet-arg": ["b"], "etcd-arg": ["x"]}, (CONFIG,), Reach.ETCD),
    ({}, (env_file("server"),), Reach.ETCD),
    ({}, ("/etc/rancher/rke2/another-file",), Reach.ETCD),
]


@pytest.mark.parametrize(("change", "files", "reach"), PREDICTED)
def test_what_differs_says_how_far_a_restart_reaches(change, files, reach):
    """Unknown keys and files count as the worst."""
    assert predict(SEEN, SEEN | change, files, versions=("v1", "v1"), certificate_days=FRESH) is reach


def test_a_key_that_is_taken_away_counts_like_one_that_is_added():
    assert predict({"etcd-arg": ["x"]}, {}, (), certificate_days=FRESH) is Reach.ETCD


@pytest.mark.parametrize("days", [None, -1, 0, 119])
def test_a_certificate_that_is_renewed_at_the_start_replaces_etcd(days):
    assert predict(SEEN, SEEN, (), certificate_days=days) is Reach.ETCD


def test_another_version_replaces_etcd():
    """It has its image, and its command line, from the release."""
    assert predict(SEEN, SEEN, (), versions=("v1.34.9+rke2r1", "v1.34.10+rke2r1"), certificate_days=FRESH) is Reach.ETCD


def test_no_key_is_in_two_lists():
    assert not (ETCD_KEYS & APISERVER_KEYS or ETCD_KEYS & SUPERVISOR_KEYS or APISERVER_KEYS & SUPERVISOR_KEYS)


def test_effects_and_markers_stand_for_a_reach():
    assert [reach.effect for reach in Reach] == [
        Effect.FILE, Effect.SERVICE_RESTART, Effect.SERVICE_RESTART, Effect.ETCD_MEMBER_DOWN, Effect.REBOOT,
    ]  # fmt: skip
    assert all(widest(reach.effect) >= reach for reach in Reach)
    assert all(reach_of_word(reach.word) is reach for reach in Reach)
    assert reach_of_word("service") is Reach.ETCD  # a word of another release


BEFORE = Running("etcd-a", "api-a", "100.00", "boot-a")

HAPPENED = [
    (BEFORE, Reach.SUPERVISOR),
    (Running("etcd-a", "api-b", "100.00", "boot-a"), Reach.APISERVER),
    (Running("etcd-b", "api-a", "100.00", "boot-a"), Reach.ETCD),
    (Running("etcd-a", "api-a", "200.00", "boot-a"), Reach.ETCD),
    (Running("etcd-a", "api-a", "200.00", "boot-b"), Reach.NODE),
    (Running(None, None, "100.00", "boot-a"), Reach.SUPERVISOR),
    (Running(None, None, "200.00", "boot-a"), Reach.ETCD),
    (Running("etcd-a", "api-a", "", ""), Reach.SUPERVISOR),
]


@pytest.mark.parametrize(("after", "reach"), HAPPENED)
def test_what_ran_before_and_after_says_how_far_a_step_reached(after, reach):
    """etcd may be another process with the same manifest: it then has been down all the same."""
    assert reach_seen(BEFORE, after) is reach


def test_a_mirror_pod_names_the_manifest():
    """Its own UID changes when somebody deletes it; the hash is the manifest's."""
    pod = {"metadata": {"uid": "u", "annotations": {"kubernetes.io/config.hash": "h"}}}
    assert pod_hash(pod) == "h" and pod_hash({"metadata": {"uid": "u"}}) == "u" and pod_hash(None) is None
