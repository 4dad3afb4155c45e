"""Vulnerabilities of running images: counts, order, age, and what is unknown instead of clean."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from stackwright.domain.image_scans import image_evidence, parse_images
from tests.domain.layers.sites import lab

AT = datetime(2026, 11, 26, tzinfo=UTC)
NOW = AT.timestamp()


def row(image, critical=0, high=0, medium=0, days=1.0, **more):
    counts = {"critical": critical, "high": high, "medium": medium}
    return {"image": image, **counts, "scanned_timestamp": int(NOW - days * 86400), "scanner_version": "4.1", **more}


def container(image, status="finished", name="k8s_main_x", **more):
    return {"brief": {"image": image, "name": name}, "security": {"scan_summary": {"status": status}}, **more}


def verdicts(images, why="", spec=None):
    found = image_evidence(spec or lab(), images, why, AT)
    assert not any(one.must for one in found)
    return {one.id.rpartition("/")[2]: one.verdict for one in found}, {
        one.id.rpartition("/")[2]: one.seen for one in found
    }


def test_the_worst_is_first_and_the_unknown_before_the_clean():
    running = {name: {"shop"} for name in ("a:1", "b:1", "c:1", "d:1", "e:1")}
    scanned = [row("a:1"), row("b:1", critical=2), row("c:1", high=9), row("d:1", critical=5, high=1)]
    found = parse_images(scanned, [], running)
    assert [one.image for one in found] == ["d:1", "b:1", "e:1", "c:1", "a:1"]
    assert found[2].why == "SUSE Security does not know it"


@pytest.mark.parametrize("status", ["scheduled", "scanning", "failed", "unsupported", ""])
def test_what_is_not_scanned_is_unknown_by_name(status):
    (one,) = parse_images([], [container("docker.io/library/a:1", status)], {"a:1": {"shop"}})
    assert one.why == f"not scanned: {status or 'waiting'}" and one.image == "a:1"
    words, seen = verdicts((one,))
    assert words == {"scan": "unknown", "critical": "unknown", "age": "unknown"} and "a:1" in seen["scan"]


def test_containers_below_a_sandbox_count_and_the_sandbox_does_not():
    pod = container("pause:3", "", "k8s_POD_x", children=[container("a:1", "failed")])
    (one,) = parse_images([], [pod], {"a:1": {"shop"}})
    assert one.why == "not scanned: failed"


@pytest.mark.parametrize("bad", [{"critical": None}, {"high": -1}, {"medium": "many"}])
def test_counts_that_cannot_be_read_are_no_noughts(bad):
    (one,) = parse_images([row("a:1", **bad)], [], {"a:1": {"shop"}})
    assert one.why


def test_a_name_in_two_spellings_is_one_image_and_the_product_is_left_out():
    running = {"docker.io/library/a:1": {"shop"}, "a:1": {"red"}, "nv:1": {"cattle-neuvector-system"}}
    (one,) = parse_images([row("a:1")], [], running)
    assert one.namespaces == ("red", "shop") and not one.why


def test_evidence_passes_fails_and_is_unknown():
    clean = parse_images([row("a:1", high=3)], [], {"a:1": {"shop"}})
    assert verdicts(clean)[0] == {"scan": "pass", "critical": "pass", "age": "pass"}
    bad = parse_images([row("a:1", critical=1, days=8)], [], {"a:1": {"shop"}})
    words, seen = verdicts(bad)
    assert words == {"scan": "pass", "critical": "fail", "age": "fail"}
    assert "a:1 (1)" in seen["critical"] and "a:1 (8 days)" in seen["age"]
    assert set(verdicts((), "no answer")[0].values()) == set(verdicts(())[0].values()) == {"unknown"}
    off = lab(layers={"security": {"enabled": False}})
    assert set(verdicts((), "", off)[0].values()) == {"skipped"}


def test_a_scan_without_a_time_is_old():
    assert verdicts(parse_images([row("a:1", scanned_timestamp=0)], [], {"a:1": {"shop"}}))[0]["age"] == "fail"
