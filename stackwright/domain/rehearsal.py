"""What a rehearsed upgrade shows: APIs that go, conversions that cannot run, content that is lost, the way back. Pure.

What production itself says against the upgrade (path, charts, drains) is in upgrade.py; the ticket is in ticket.py.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from stackwright.domain.bundle import Manifest
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import Problem
from stackwright.domain.evidence import Evidence
from stackwright.domain.ticket import Ticket
from stackwright.domain.upgrade_path import has_etcd36
from stackwright.domain.versions import Version, parse_rke2

# Kubernetes documentation, Deprecated API Migration Guide (read 2026-08): since which minor a version of a kind is not
# served any more, and what to use instead. Nothing that was generally available has been removed after 1.32 so far.
REMOVED: Mapping[tuple[str, str], tuple[tuple[int, int], str]] = {
    ("batch/v1beta1", "CronJob"): ((1, 25), "batch/v1"),
    ("discovery.k8s.io/v1beta1", "EndpointSlice"): ((1, 25), "discovery.k8s.io/v1"),
    ("events.k8s.io/v1beta1", "Event"): ((1, 25), "events.k8s.io/v1"),
    ("autoscaling/v2beta1", "HorizontalPodAutoscaler"): ((1, 25), "autoscaling/v2"),
    ("policy/v1beta1", "PodDisruptionBudget"): ((1, 25), "policy/v1"),
    ("policy/v1beta1", "PodSecurityPolicy"): ((1, 25), "Pod Security Admission"),
    ("node.k8s.io/v1beta1", "RuntimeClass"): ((1, 25), "node.k8s.io/v1"),
    ("flowcontrol.apiserver.k8s.io/v1beta1", "FlowSchema"): ((1, 26), "flowcontrol.apiserver.k8s.io/v1"),
    ("flowcontrol.apiserver.k8s.io/v1beta1", "PriorityLevelConfiguration"): (
        (1, 26),
        "flowcontrol.apiserver.k8s.io/v1",
    ),
    ("autoscaling/v2beta2", "HorizontalPodAutoscaler"): ((1, 26), "autoscaling/v2"),
    ("storage.k8s.io/v1beta1", "CSIStorageCapacity"): ((1, 27), "storage.k8s.io/v1"),
    ("flowcontrol.apiserver.k8s.io/v1beta2", "FlowSchema"): ((1, 29), "flowcontrol.apiserver.k8s.io/v1"),
    ("flowcontrol.apiserver.k8s.io/v1beta2", "PriorityLevelConfiguration"): (
        (1, 29),
        "flowcontrol.apiserver.k8s.io/v1",
    ),
    ("flowcontrol.apiserver.k8s.io/v1beta3", "FlowSchema"): ((1, 32), "flowcontrol.apiserver.k8s.io/v1"),
    ("flowcontrol.apiserver.k8s.io/v1beta3", "PriorityLevelConfiguration"): (
        (1, 32),
        "flowcontrol.apiserver.k8s.io/v1",
    ),
}
CRD_API, CRD = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
GUIDE = "5.2"
RELEASE_LABELS = "owner=helm,status=deployed"
Use = tuple[str, str]
"""apiVersion and kind."""


@dataclass(frozen=True)
class Release:
    """A Helm release's manifest, cut down to what it uses. `unread` says why it could not be read."""

    name: str
    uses: frozenset[Use]
    unread: str = ""


@dataclass(frozen=True)
class Rehearsal:
    """What one rehearsal found: `problems` forbid the upgrade, `notes` are worth knowing. Times are in seconds."""

    bundle: str
    running: str
    target: str
    plan: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    way_back: str
    upgrade_s: float
    back_s: float
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.problems

    def ticket(self, site: str, charts: Mapping[str, str], at: str) -> Ticket:
        """Return the ticket of this rehearsal, without its tag."""
        findings = tuple(f"{problem.where}: {problem.what}" for problem in self.problems)
        return Ticket(
            self.bundle, at, site, self.running, self.target, dict(charts), self.plan, self.passed,
            (*findings, *self.notes), self.way_back, round(self.seconds, 1),
        )  # fmt: skip


# --- APIs ------------------------------------------------------------------------------------------------------------


def read_release(secret: Obj) -> Release:
    """Return what the manifest of a Helm release uses. Values and Secrets in it go no further than this function."""
    meta = secret.get("metadata", {})
    name = f"{meta.get('namespace', '')}/{meta.get('labels', {}).get('name') or meta.get('name', '')}"
    try:
        raw = base64.b64decode(base64.b64decode(secret["data"]["release"]))
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        documents = list(yaml.safe_load_all(json.loads(text)["manifest"]))
    except (KeyError, TypeError, ValueError, OSError, EOFError, zlib.error, yaml.YAMLError) as error:
        return Release(name, frozenset(), type(error).__name__)
    return Release(name, frozenset(_uses(documents)))


def _uses(documents: Iterable[Any]) -> Iterator[Use]:
    for document in documents:
        if isinstance(document, dict) and document.get("apiVersion") and document.get("kind"):
            yield str(document["apiVersion"]), str(document["kind"])


def check_removed(releases: Iterable[Release], running: Version, target: Version) -> tuple[list[Problem], list[str]]:
    """Return the uses of APIs that the target does not serve, and what could not be read or is no news.

    Helm cannot upgrade a release whose last manifest names an API that is gone.
    """
    problems, notes = [], []
    for release in releases:
        if release.unread:
            notes.append(f"The Helm release {release.name} could not be read ({release.unread}): look at it yourself.")
        for api, kind in sorted(release.uses):
            since, instead = REMOVED.get((api, kind), ((99, 0), ""))
            if since > target.line:
                continue
            what = f"its manifest uses {api} {kind}, not served since {since[0]}.{since[1]}"
            if since <= running.line:
                notes.append(f"Helm release {release.name}: {what}; that is so already.")
                continue
            remedy = f"Upgrade the chart to one that uses {instead}, or map the release's API with Helm's mapkubeapis."
            problems.append(Problem(release.name, what, remedy, instead, api))
    return problems, notes


def check_lost(releases: Iterable[Release], before: Collection[Use], after: Collection[Use]) -> list[Problem]:
    """Return the APIs that releases use and that were served before the upgrade in the fence, but not after it."""
    lost = set(before) - set(after)
    remedy = "Upgrade the chart to one that does without, before the cluster."
    return [
        Problem(release.name, f"{api} {kind} is not served any more after the upgrade", remedy, "served", "gone")
        for release in releases
        for api, kind in sorted(release.uses & lost)
    ]


def check_conversions(crds: Iterable[Obj], services: Collection[tuple[str, str]]) -> list[Problem]:
    """Return the CRDs whose stored objects could not be read: no converter, or a stored version that is not served.

    `services` are namespace and name of those that exist. Whether a converter answers cannot be seen in the fence,
    where no workload runs.
    """
    return [problem for crd in crds for problem in _conversion(crd, services)]


def _conversion(crd: Obj, services: Collection[tuple[str, str]]) -> Iterator[Problem]:
    name, spec = str(crd["metadata"]["name"]), crd.get("spec", {})
    conversion = spec.get("conversion") or {}
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if conversion.get("strategy") == "Webhook" and service is not None:
        place = (str(service.get("namespace", "")), str(service.get("name", "")))
        if place not in services:
            what = "its conversion webhook's service does not exist: its objects cannot be read in another version"
            remedy = "Install the operator that converts them again, or remove the CRD's old versions."
            yield Problem(name, what, remedy, "/".join(place), "no such service")
    served = {version["name"] for version in spec.get("versions", []) if version.get("served")}
    stale = sorted(set((crd.get("status") or {}).get("storedVersions") or []) - served)
    if stale:
        what = "objects may be stored in versions that are not served"
        remedy = "Write all its objects anew in a served version, then take the old ones out of status.storedVersions."
        yield Problem(name, what, remedy, ", ".join(sorted(served)), ", ".join(stale))


# --- the bundle and the way back -------------------------------------------------------------------------------------


def check_bundle(manifest: Manifest, running: str) -> list[Problem]:
    """Return why a bundle is no copy of what is to be upgraded."""
    if manifest.rke2_version == running:
        return []
    what = "the newest proven bundle is of another release than the one that runs"
    remedy = "Make a new bundle (snapshot-etcd) and prove it (drill-restore), then rehearse again."
    return [Problem(f"bundle {manifest.id}", what, remedy, running, manifest.rke2_version)]


def by_binary(running: Version, target: Version) -> bool:
    """Tell whether the old release may simply be installed again: within a minor, and with the same minor of etcd."""
    return running.line == target.line and has_etcd36(running) == has_etcd36(target)


def way_back(running: str, target: str, manifest: Manifest) -> str:
    """Return until when and how one can return from the upgrade. Source: RKE2 documentation, roll-back."""
    old, new = parse_rke2(running), parse_rke2(target)
    lost = (
        f"restore bundle {manifest.id} with {running} (`stackwright restore`); everything written after "
        f"{manifest.snapshot.taken_at} is lost, so until the first write after that which must not be"
    )
    if old is not None and new is not None and by_binary(old, new):
        return (
            f"at any time by installing {running} again, server by server, as etcd's minor stays the same; else {lost}"
        )
    why = "over a minor release" if old is None or new is None or old.line != new.line else "from etcd 3.6 to 3.5"
    return f"only this, {why}: {lost}. A newer bundle of {running}, made right before the upgrade, loses less"


def judge_rehearsal(found: Rehearsal, at: str) -> list[Evidence]:
    """Return the evidence of a rehearsal: what was carried out in the fence, and each problem as a failure."""

    def one(name: str, title: str, wanted: str, seen: str, *, target: str = "", remedy: str = "") -> Evidence:
        return Evidence(f"rehearsal/{name}", title, "fail", wanted, seen, GUIDE, at, target, remedy=remedy)

    bad = [
        one(
            f"problem-{number}", problem.what, problem.wanted, problem.seen, target=problem.where, remedy=problem.remedy
        )
        for number, problem in enumerate(found.problems, 1)
    ]
    if bad:
        return bad
    done = (
        ("upgrade", f"the copy was upgraded to {found.target}", f"{found.upgrade_s:.0f} s"),
        ("way-back", f"the way back: {found.way_back}", f"{found.back_s:.0f} s"),
    )
    return [
        Evidence(
            f"rehearsal/{name}", title, "pass", "done, the content as in the bundle", seen, GUIDE, at, found.bundle
        )
        for name, title, seen in done
    ]


def rehearsal_markdown(found: Rehearsal, site: str) -> str:
    """Return the report of a rehearsal as a page."""
    verdict = "✅ passed" if found.passed else f"❌ {len(found.problems)} problem(s) forbid the upgrade"
    rows: Sequence[tuple[str, str]] = (
        ("from, to", f"{found.running} to {found.target}"),
        ("bundle", found.bundle),
        ("plan", found.plan or "none: production refuses it"),
        ("upgrade in the fence", f"{found.upgrade_s:.0f} s"),
        ("way back in the fence", f"{found.back_s:.0f} s"),
    )
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    problems = "".join(f"- {problem}\n" for problem in found.problems)
    notes = "".join(f"- {note}\n" for note in found.notes)
    parts = (("What forbids it", problems), ("The way back", f"{found.way_back}\n"), ("Notes", notes))
    sections = "".join(f"\n## {title}\n\n{text}" for title, text in parts if text)
    return f"# Rehearsal of {site}: {verdict}\n\n| | |\n| --- | --- |\n{table}{sections}"
