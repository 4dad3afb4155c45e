"""Made-up results for the compliance report: all good, or all that can be wrong, on a lab or on products."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from stackwright.domain.check import Outcome
from stackwright.domain.compliance_looks import look_evidence
from stackwright.domain.evidence import Evidence
from stackwright.domain.hardening import hardening_evidence, parse_bench, scan_evidence
from stackwright.domain.image_scans import ImageScan, image_evidence, parse_images
from stackwright.domain.layers import enabled
from stackwright.domain.results import FOREIGN, Result, latest
from stackwright.domain.spec import StackSpec
from stackwright.domain.validation import CATALOGUE, evidence_of
from stackwright.reports.compliance import ComplianceReport
from tests.domain.layers.sites import lab
from tests.domain.nodes_seen import member

AT = datetime(2026, 11, 26, 4, 43, tzinfo=UTC)
LAB = lab(rke2={"registries": {"ca_file": None}, "artifacts": {"ca_file": None}})
REAL = LAB.model_copy(update={"site": "berlin", "environment": "production"})
PLANTED = "planted-in-a-file-of-the-node"


def bench(node: str, *, bad: bool) -> dict:
    """Return a benchmark's answer as the product gives it: descriptions quote the messages."""
    text = "Ensure that the --audit-log-path argument is set"
    items = [
        {"test_number": "K.1.1.1", "level": "PASS", "description": "Ensure file permissions", "message": []},
        {"test_number": "K.5.1.1", "level": "MANUAL", "description": "Ensure that roles are few", "message": []},
        {
            "test_number": "K.1.2.16", "level": "WARN" if bad else "PASS", "message": [PLANTED],
            "description": f"{text} - {PLANTED}",
        },
    ]  # fmt: skip
    return {"run_timestamp": int(AT.timestamp()) - 7200, "cis_version": "cis-rke2-1.8.0", "items": items}


def checks(spec: StackSpec, *, bad: bool) -> list[Evidence]:
    """Return what a light validation sees; with `bad` some of it failed or could not be read."""
    found = []
    for check in CATALOGUE:
        if check.works:
            continue
        targets = [tenant.name for tenant in spec.tenants] if check.id.startswith("tenant/") else [""]
        verdict = {"tenant/login": "fail", "clearml/health": "unknown"}.get(check.id, "pass") if bad else "pass"
        seen = {"fail": "the server refuses the key pair", "unknown": "no answer in time"}.get(verdict, "as wanted")
        found += [evidence_of(spec, check.id, Outcome(verdict, seen), AT, target=target) for target in targets]
    for layer in enabled(spec):
        for gate in layer.gates(spec):
            product = layer.title if spec.environment == "lab" else ""
            found.append(
                Evidence(f"layer/{layer.name}/{gate.id}", f"{layer.title}: {gate.id}", "pass", gate.wanted, "all there",
                         layer.guide, AT.isoformat(), layer.name, stand_in=product)
            )  # fmt: skip
    return found


def works(spec: StackSpec, days: float) -> list[Result]:
    """Return the kept results of a full validation some days ago."""
    at = AT - timedelta(days=days)
    found = [
        evidence_of(spec, check.id, Outcome("pass", "completed"), at, target=tenant.name)
        for check in CATALOGUE
        if check.works
        for tenant in spec.tenants
    ]
    beside = [
        Evidence(name, title, "pass", wanted, seen, "5.2", AT.isoformat(), target, stand_in=FOREIGN if lab else "")
        for name, title, wanted, seen, target in (
            ("backup/age", "The newest bundle's age", "12 h or less", "2.1 h: 20261126T023000Z-0a1b2c3d", ""),
            (
                "certificate/srv1/server/tls/client-admin.crt",
                "rke2 certificate",
                "120 days or more",
                "301 days",
                "srv1",
            ),
        )
        for lab in (spec.environment == "lab",)
    ]
    return [
        *(Result(one, f"validate-stack of {at:%Y-%m-%d %H:%M}") for one in found),
        *(Result(one, "a scheduled flow") for one in beside),
    ]


def sample_images(*, bad: bool) -> tuple[ImageScan, ...]:
    """Return running images: all scanned, or with `bad` also critical findings, an old scan and unscanned ones."""
    now = int(AT.timestamp())
    scanned = [
        {"image": f"registry.example.com/{name}", "critical": critical if bad else 0, "high": high, "medium": 14,
         "scanned_timestamp": now - 86400 * (days if bad else 0.2), "scanner_version": "4.001"}
        for name, critical, high, days in (("clearml/server:3.29", 3, 11, 1), ("team-red/train:7", 0, 2, 21),
                                           ("rancher/rancher:v2.14.4", 0, 0, 1))
    ]  # fmt: skip
    waiting = {
        "brief": {"image": "docker.io/library/busybox:1.37"},
        "security": {"scan_summary": {"status": "scheduled"}},
    }
    running = {row["image"]: {"clearml", "team-red"} for row in scanned}
    running |= {"busybox:1.37": {"team-red"}, "registry.example.com/strange:latest": {"default"}} if bad else {}
    return parse_images(scanned, [waiting], running)


def made_report(spec: StackSpec = REAL, *, bad: bool = False, days: float = 3) -> ComplianceReport:
    """Return a report: all good, or with failures, unread parts, stale and missing results."""
    looks = look_evidence(spec, None, "", AT)
    looks = [one if one.verdict == "skipped" else replace(one, verdict="pass", seen="as wanted") for one in looks]
    nodes = {node.name: member(spec, node.name) for node in spec.nodes}
    policies = frozenset({("kube-system", "default-network-policy")})
    hardening = hardening_evidence(spec, nodes, policies, "", AT)
    scans = [parse_bench(node.name, bench(node.name, bad=bad)) for node in spec.nodes]
    if bad:
        scans[0] = replace(scans[0], why="the report of the node answers 500: Benchmark is running", levels={})
    else:
        hardening = [one if one.verdict == "skipped" else replace(one, verdict="pass") for one in hardening]
    images = sample_images(bad=bad)
    fresh = [*checks(spec, bad=bad), *looks, *hardening, *scan_evidence(spec, scans, "", AT),
             *image_evidence(spec, images, "", AT)]  # fmt: skip
    kept = works(spec, days if not bad else 60)
    if bad:  # what was never run
        kept = [one for one in kept if not one.evidence.id.endswith("/pipeline")]
    return ComplianceReport(
        site=spec.site, environment=spec.environment, at=AT, profile=spec.rke2.profile,
        results=tuple(latest(spec, fresh, kept)), scans=tuple(scans), images=images, kept="https://store.example/bundles/berlin/results/",
        unread=("the results beside the bundles: 1 result(s) cannot be read and are left out",) if bad else (),
    )  # fmt: skip
