"""Labels through the API, and the proof that a restart took effect: what is retried, and what is not believed."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from stackwright.domain.errors import ConflictError, GateTimeoutError, NotFoundError
from stackwright.domain.rke2_proof import NODE_ARGS
from stackwright.domain.shell import Section
from tasks.labels import PATCH_TRIES, ensure_labels
from tasks.rke2 import _wait_until_read
from tests.domain.nodes_seen import make_spec, member, node
from tests.fakes.kube import FakeKube
from tests.tasks.test_nodes import Held

CONFLICT = ConflictError("the object was changed", where="Node w1", status=409)


def node_object(name, args="[]", **labels):
    """Return a Node with what RKE2 noted of its arguments."""
    meta = {"name": name, "labels": labels, "annotations": {NODE_ARGS: args}, "resourceVersion": "1"}
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}, "status": status}


@dataclass
class Clock:
    """Time that passes when somebody waits."""

    at: float = 0.0

    def now(self):
        return self.at

    def wait(self, seconds):
        self.at += max(seconds, 1.0)


def site(kube, **changes):
    return SimpleNamespace(spec=make_spec(rke2__join_timeout_s=5, **changes), kube=lambda: kube, clock=Clock())


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_node_that_others_write_too_is_looked_at_again():
    """A conflict is no failure: the change is decided anew, and set once."""
    kube = FakeKube(node_object("w1", foreign="1"))
    kube.refuse["Node"] = [CONFLICT, CONFLICT]
    place = site(kube)
    ensure_labels(place, node(place.spec, "w1"), member(place.spec, "w1"), Held())
    labels = kube.get("v1", "Node", "w1")["metadata"]["labels"]
    assert labels == {"foreign": "1", "pool": "a"}
    before = list(kube.journal)
    ensure_labels(place, node(place.spec, "w1"), member(place.spec, "w1"), Held())
    assert kube.journal == before, "the second run changes nothing"


def test_a_conflict_that_does_not_end_is_told():
    kube = FakeKube(node_object("w1"))
    kube.refuse["Node"] = [CONFLICT] * PATCH_TRIES
    place = site(kube)
    with pytest.raises(ConflictError):
        ensure_labels(place, node(place.spec, "w1"), member(place.spec, "w1"), Held())


def test_a_node_that_is_not_in_the_cluster_is_named():
    place = site(FakeKube())
    with pytest.raises(NotFoundError, match="w1"):
        ensure_labels(place, node(place.spec, "w1"), member(place.spec, "w1"), Held())


# --- the proof of a restart ------------------------------------------------------------------------------------------


class Shell:
    """A server that answers the handshakes with these exit codes, one set a look."""

    def __init__(self, *codes):
        self.codes = list(codes)

    def read(self, script):
        assert "--connect-to" in script
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        return {"names": Section(0, f"k8s.example.com 9345 0\nk8s.example.com 6443 {code}\n")}


def test_a_kubelet_with_its_old_arguments_is_not_believed():
    """The service is active, but RKE2 noted no such argument when it started."""
    place = site(FakeKube(node_object("w1", '["agent"]')), rke2__kubelet_args=["max-pods=200"])
    with pytest.raises(GateTimeoutError) as caught:
        _wait_until_read(place, node(place.spec, "w1"), Shell(0))
    assert caught.value.where == "w1" and "kubelet-arg (none)" in caught.value.seen


def test_a_certificate_without_the_name_is_not_believed():
    place = site(FakeKube(node_object("s1")))
    with pytest.raises(GateTimeoutError) as caught:
        _wait_until_read(place, node(place.spec, "s1"), Shell(60))
    assert "k8s.example.com is not in the certificate of port 6443" in caught.value.seen


def test_a_certificate_that_comes_a_moment_later_is_waited_for():
    place = site(FakeKube(node_object("s1")))
    _wait_until_read(place, node(place.spec, "s1"), Shell(60, 7, 0))
    assert place.clock.at > 0
