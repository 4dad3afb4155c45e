"""What a rehearsal finds: APIs that go, conversions that cannot run, a bundle of another release, the way back."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace

import pytest

from stackwright.domain.errors import Problem
from stackwright.domain.rehearsal import (
    Rehearsal,
    Release,
    check_bundle,
    check_conversions,
    check_lost,
    check_removed,
    judge_rehearsal,
    read_release,
    rehearsal_markdown,
    way_back,
)
from stackwright.domain.ticket import parse_ticket, render_ticket
from stackwright.domain.versions import Version
from tests.domain.bundle_made import manifest_of

FLOW = ("flowcontrol.apiserver.k8s.io/v1beta3", "FlowSchema")
HPA = ("autoscaling/v2beta2", "HorizontalPodAutoscaler")
DEPLOYMENT = ("apps/v1", "Deployment")
MANIFEST = """---
apiVersion: flowcontrol.apiserver.k8s.io/v1beta3
kind: FlowSchema
metadata: {name: own}
---
# nothing but a comment
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {password: planted-in-a-release}
"""


def release_of(manifest: str = MANIFEST, *, zipped: bool = True) -> dict:
    """Return the Secret in which Helm keeps a release."""
    text = json.dumps({"name": "web", "manifest": manifest}).encode()
    inner = base64.b64encode(gzip.compress(text) if zipped else text)
    meta = {"name": "sh.helm.release.v1.web.v3", "namespace": "shop", "labels": {"name": "web", "owner": "helm"}}
    return {"metadata": meta, "data": {"release": base64.b64encode(inner).decode()}}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_release_is_read_for_its_kinds_alone(zipped: bool) -> None:
    read = read_release(release_of(zipped=zipped))
    assert read == Release("shop/web", frozenset({FLOW, DEPLOYMENT, ("v1", "Secret")}))
    assert "planted" not in repr(read)


@pytest.mark.parametrize(
    "secret",
    [
        {"metadata": {"name": "x"}},
        {"metadata": {"name": "x"}, "data": {"release": "!"}},
        {"metadata": {"name": "x"}, "data": {"release": base64.b64encode(base64.b64encode(b"\x1f\x8bno")).decode()}},
        release_of("a: [1"),
    ],
)
def test_a_release_that_cannot_be_read_is_said_and_not_taken_for_clean(secret: dict) -> None:
    read = read_release(secret)
    assert read.unread and not read.uses
    problems, notes = check_removed([read], Version(1, 31, 1), Version(1, 32, 1))
    assert not problems and "could not be read" in notes[0]


@pytest.mark.parametrize(
    ("running", "target", "problems", "notes"),
    [
        ((1, 31, 9), (1, 32, 11), 1, 0),  # it goes with this upgrade
        ((1, 32, 1), (1, 32, 11), 0, 1),  # it is gone already: this upgrade changes nothing
        ((1, 30, 1), (1, 31, 9), 0, 0),  # it is still there
        ((1, 29, 1), (1, 36, 0), 1, 0),
    ],
)
def test_an_api_that_goes_forbids_the_upgrade(running, target, problems: int, notes: int) -> None:
    found, said = check_removed(
        [Release("shop/web", frozenset({FLOW, DEPLOYMENT}))], Version(*running), Version(*target)
    )
    assert (len(found), len(said)) == (problems, notes)
    assert all("flowcontrol.apiserver.k8s.io/v1beta3 FlowSchema" in problem.what for problem in found)
    assert all("flowcontrol.apiserver.k8s.io/v1" in problem.remedy for problem in found)


def test_an_api_that_was_served_before_and_is_not_after_forbids_it_whatever_the_table_says() -> None:
    one = Release("shop/web", frozenset({("alpha.example.com/v1", "Thing"), DEPLOYMENT}))
    both = {("alpha.example.com/v1", "Thing"), DEPLOYMENT}
    assert check_lost([one], both, both) == []
    (problem,) = check_lost([one], both, {DEPLOYMENT})
    assert problem.where == "shop/web" and "alpha.example.com/v1 Thing" in problem.what
    assert check_lost([one], {DEPLOYMENT}, {DEPLOYMENT}) == []  # it was not served before either


def crd(*, strategy="None", service=None, served=("v1",), stored=("v1",)) -> dict:
    webhook = {"clientConfig": {"service": service}} if service else {"clientConfig": {"url": "https://x.test"}}
    return {
        "metadata": {"name": "things.example.com"},
        "spec": {
            "conversion": {"strategy": strategy, **({"webhook": webhook} if strategy == "Webhook" else {})},
            "versions": [{"name": name, "served": name in served} for name in ("v1alpha1", "v1")],
        },
        "status": {"storedVersions": list(stored)},
    }


SERVICE = {"namespace": "op", "name": "converter"}


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (crd(), []),
        (crd(strategy="Webhook", service=SERVICE), ["its conversion webhook's service does not exist"]),
        (crd(strategy="Webhook"), []),  # by URL: outside of the cluster, not to be seen from here
        (crd(stored=("v1alpha1", "v1")), ["objects may be stored in versions that are not served"]),
        (crd(stored=("v1alpha1", "v1"), served=("v1alpha1", "v1")), []),
    ],
)
def test_a_crd_whose_objects_could_not_be_read_is_named(one: dict, found: list[str]) -> None:
    problems = check_conversions([one], set())
    assert [problem.where for problem in problems] == ["things.example.com"] * len(found)
    assert all(problem.what.startswith(what) for problem, what in zip(problems, found, strict=True))


def test_a_converter_whose_service_exists_is_no_problem() -> None:
    assert check_conversions([crd(strategy="Webhook", service=SERVICE)], {("op", "converter")}) == []


def test_a_bundle_of_another_release_is_no_copy_of_what_runs() -> None:
    assert check_bundle(manifest_of(), "v1.34.10+rke2r1") == []
    (problem,) = check_bundle(manifest_of(), "v1.34.11+rke2r1")
    assert (problem.wanted, problem.seen) == ("v1.34.11+rke2r1", "v1.34.10+rke2r1")


@pytest.mark.parametrize(
    ("running", "target", "begin"),
    [
        ("v1.34.10+rke2r1", "v1.34.11+rke2r1", "at any time by installing v1.34.10+rke2r1 again"),
        ("v1.33.8+rke2r1", "v1.33.10+rke2r1", "at any time by installing v1.33.8+rke2r1 again"),
        ("v1.33.10+rke2r1", "v1.33.11+rke2r1", "only this, from etcd 3.6 to 3.5"),
        ("v1.34.10+rke2r1", "v1.35.3+rke2r1", "only this, over a minor release"),
    ],
)
def test_the_way_back_says_how_and_until_when(running: str, target: str, begin: str) -> None:
    said = way_back(running, target, manifest_of())
    assert (
        said.startswith(begin) and manifest_of().id in said and "everything written after 2026-11-26T10:00:01" in said
    )


def test_the_ticket_holds_the_verdict_and_the_page_says_all_of_it() -> None:
    problem = Problem("shop/web", "it goes", "mend it", "a", "b")
    found = Rehearsal(
        "b1", "v1.33.10+rke2r1", "v1.34.10+rke2r1", "0123456789ab", (problem,), ("a note",), "so", 60, 30, 120
    )
    assert not found.passed
    ticket = found.ticket("north", {"rancher": "2.13.1"}, "2026-05-04T03:02:01+00:00")
    assert not ticket.passed and ticket.findings == ("shop/web: it goes", "a note") and ticket.plan == "0123456789ab"
    assert parse_ticket(render_ticket(ticket)) == ticket
    (fail,) = judge_rehearsal(found, "now")
    assert (fail.verdict, fail.target, fail.title, fail.remedy) == ("fail", "shop/web", "it goes", "mend it")
    passed = judge_rehearsal(replace(found, problems=()), "now")
    assert [(one.verdict, one.seen) for one in passed] == [("pass", "60 s"), ("pass", "30 s")]
    page = rehearsal_markdown(found, "north")
    assert page.splitlines()[0] == "# Rehearsal of north: ❌ 1 problem(s) forbid the upgrade"
    for part in ("- shop/web: it goes", "- a note", "## The way back\n\nso\n", "0123456789ab"):
        assert part in page
    good = rehearsal_markdown(replace(found, problems=(), notes=()), "north")
    assert good.splitlines()[0] == "# Rehearsal of north: ✅ passed"
    assert "forbids" not in good and "## Notes" not in good
