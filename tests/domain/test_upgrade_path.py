"""Which release may follow which: every wrong way is refused, by name and with the way that is right."""

import pytest

from stackwright.domain.upgrade_path import check_charts, check_path, has_etcd36, is_safe_before_etcd36
from stackwright.domain.versions import parse_rke2

SERVERS = frozenset({"s1", "s2", "s3"})
NEW = "v1.34.10+rke2r1"


def running(version, **others):
    """Return three servers and an agent at a release, and what differs."""
    return {name: others.get(name, version) for name in ("s1", "s2", "s3", "w1")}


GOOD = {
    "a patch": (NEW, running("v1.34.8+rke2r1"), {}),
    "a revision": ("v1.34.10+rke2r2", running(NEW), {}),
    "a minor": ("v1.35.3+rke2r1", running(NEW), {}),
    "through etcd's door": (NEW, running("v1.33.10+rke2r1"), {}),
    "within etcd 3.5": ("v1.33.10+rke2r1", running("v1.33.6+rke2r1"), {}),
    "within etcd 3.6": (NEW, running("v1.33.12+rke2r1"), {}),
    "begun: two servers are there": (NEW, running("v1.34.8+rke2r1", s1=NEW, s2=NEW), {}),
    "begun: all servers are there": (NEW, running(NEW, w1="v1.34.8+rke2r1"), {}),
    "nothing to do": (NEW, running(NEW), {}),
    "the etcd that runs is new enough, whatever the table says": (
        NEW, running("v1.33.7+rke2r1"), dict.fromkeys(SERVERS, "3.5.26"),
    ),
}  # fmt: skip
BAD = {
    "a downgrade": ("v1.34.8+rke2r1", running(NEW), {}, "a downgrade of s1, s2, s3, w1", "restore a snapshot"),
    "a downgrade by a revision": (NEW, running("v1.34.10+rke2r2"), {}, "a downgrade", "v1.34.10+rke2r2"),
    "a downgrade of one node": (NEW, running(NEW, w1="v1.35.3+rke2r1"), {}, "a downgrade of w1", ""),
    "a skipped minor": ("v1.35.3+rke2r1", running("v1.33.12+rke2r1"), {}, "s1 runs v1.33.12", "v1.34.10+rke2r1 first"),
    "a skipped minor because of one lagging agent": (
        "v1.35.3+rke2r1", running(NEW, w1="v1.33.12+rke2r1"), {}, "w1 runs v1.33.12", "first",
    ),
    "two releases beside the target": (
        "v1.34.10+rke2r1", running("v1.34.8+rke2r1", s1="v1.34.9+rke2r1"), {}, "several releases", "v1.34.9+rke2r1",
    ),
    "agents ahead of servers": (NEW, running("v1.34.8+rke2r1", w1=NEW), {}, "ahead of servers: w1", "by hand"),
    "the etcd trap from 1.32": (NEW.replace("34.10", "33.12"), running("v1.32.10+rke2r1"), {}, "zombies", "3.5.26"),
    "the etcd trap within 1.33": ("v1.33.11+rke2r1", running("v1.33.7+rke2r1"), {}, "zombies", "v1.33.7+rke2r3"),
    "the etcd trap to 1.34": (NEW, running("v1.33.6+rke2r1"), {}, "zombies (s1, s2, s3)", "first"),
    "the etcd trap, by the etcd that was seen": (
        NEW, running("v1.33.10+rke2r1"), dict.fromkeys(SERVERS, "3.5.25"), "zombies", "3.5.26",
    ),
    "one server below the door": (NEW, running("v1.33.10+rke2r1", s2="v1.33.6+rke2r1"), {}, "zombies (s2)", "first"),
    "no release": ("1.34", running(NEW), {}, "not an RKE2 release", "v1.34.10+rke2r1"),
    "a node that says none": (NEW, running(NEW, s2=""), {}, "not an RKE2 release", "kubelet"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_right_ways_are_open(case):
    target, nodes, etcd = GOOD[case]
    assert check_path(target, nodes, SERVERS, etcd) == []


@pytest.mark.parametrize("case", BAD)
def test_wrong_ways_are_refused(case):
    """Each refusal says what is wrong, on which node, and the way that is right."""
    target, nodes, etcd, what, remedy = BAD[case]
    problems = check_path(target, nodes, SERVERS, etcd)
    assert any(what in problem.what and remedy in str(problem) for problem in problems), problems
    assert all(problem.remedy and problem.wanted and problem.seen for problem in problems)


@pytest.mark.parametrize(
    ("release", "carries", "safe"),
    [
        ("v1.32.11+rke2r2", False, False), ("v1.32.11+rke2r3", False, True), ("v1.32.12+rke2r1", False, True),
        ("v1.33.7+rke2r2", False, False), ("v1.33.7+rke2r3", False, True), ("v1.33.10+rke2r1", False, True),
        ("v1.33.11+rke2r1", True, True), ("v1.34.0+rke2r1", True, True), ("v1.31.14+rke2r1", False, False),
    ],
)  # fmt: skip
def test_which_release_carries_which_etcd(release, carries, safe):
    version = parse_rke2(release)
    assert (has_etcd36(version), is_safe_before_etcd36(version)) == (carries, safe)


def test_installed_charts_must_go_with_the_target():
    """A chart that runs but is not stated for the target's Kubernetes stops the upgrade, and is named."""
    problems = check_charts("v1.35.7+rke2r1", {"observability": "2.10.3", "cert_manager": "1.20.3"})
    assert [problem.where for problem in problems] == ["release of observability"]
    assert check_charts("v1.35.3+rke2r1", {"observability": "2.10.3"}) == []
