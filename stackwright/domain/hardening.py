"""The CIS profile as RKE2 has it in force, and SUSE Security's own scan of it, as evidence. Pure. Guide: 5.2, 5.5.

What the profile does: RKE2 documentation, hardening guide; pkg/rke2/np.go for the network policies. The scan's answers:
neuvector/neuvector, controller/api/apis.go (RESTHost, RESTBenchReport).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

from stackwright.domain.check import KUBERNETES
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.layers import BY_NAME
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.node_wants import CIS_SYSCTLS
from stackwright.domain.rke2_facts import PSA
from stackwright.domain.rke2_files import pod_security
from stackwright.domain.spec import Node, StackSpec

POLICY = "default-network-policy"
DNS_POLICY = "default-network-dns-policy"
# (namespace, policy) that RKE2 makes under the profile.
POLICIES = (
    ("kube-system", POLICY),
    ("kube-system", DNS_POLICY),
    ("kube-public", POLICY),
    ("default", POLICY),
)
NO_PROFILE = "rke2.profile is none: no hardening is asked for"
BAD = ("WARN", "HIGH", "ERROR")
BY_HAND = "MANUAL"
_DEPLOY = "Run deploy-stack; look which file on the node says otherwise."
_MAKES = "A starting server makes them anew in a namespace that lacks the annotation np.rke2.io (DNS: np.rke2.io/dns)."


@dataclass(frozen=True)
class Finding:
    """One item of a scan that did not pass. `number` is that of the CIS benchmark."""

    number: str
    level: str
    text: str


@dataclass(frozen=True)
class NodeScan:
    """SUSE Security's Kubernetes benchmark of one node. `why` says why there is none, empty where there is one."""

    node: str
    benchmark: str = ""
    ran_at: str = ""
    levels: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    why: str = ""


# --- RKE2's own state ------------------------------------------------------------------------------------------------


def hardening_evidence(
    spec: StackSpec,
    nodes: Mapping[str, NodeFacts] | None,
    policies: frozenset[tuple[str, str]] | None,
    why: str,
    at: datetime,
) -> list[Evidence]:
    """Return what was seen of the profile on each node, and of its network policies. None is what could not be read."""
    make = _Maker(spec, at, why)
    for node in spec.nodes:
        make.node = node
        facts = nodes.get(node.name) if nodes is not None else None
        if node.is_server or spec.rke2.profile != "etcd":  # that one is of servers only
            make.add("profile", "RKE2 runs with the profile", *_profile(spec, facts))
        make.add("kernel", "The kernel settings hold", *_kernel(facts), asked="cis")
        if node.is_server:
            make.add("etcd-user", "User and group etcd exist", *_etcd_user(facts), asked="any")
            make.add("pod-security", "Pods are restricted by default", *_pod_security(facts), asked="cis")
    make.node = None
    make.add("network-policies", "RKE2's default network policies exist", *_policies(policies), asked="cis")
    return make.found


class _Maker:
    """Collects evidence; `None` for good means that it could not be read."""

    def __init__(self, spec: StackSpec, at: datetime, why: str) -> None:
        self.spec, self.at, self.why = spec, at, why
        self.node: Node | None = None
        self.found: list[Evidence] = []

    def add(self, what: str, title: str, good: bool | None, wanted: str, seen: str, *, asked: str = "any") -> None:
        """Add one result. `asked` is the profile under which it is wanted, any of them or this one."""
        profile, target = self.spec.rke2.profile, self.node.name if self.node else ""
        skipped = NO_PROFILE if profile == "none" else ""
        if not skipped and asked not in ("any", profile):
            skipped = f"rke2.profile is {profile}: only {asked} asks for it"
        verdict: Verdict = "skipped" if skipped else "unknown" if good is None else "pass" if good else "fail"
        self.found.append(
            Evidence(
                id="/".join(part for part in ("cis", target, what) if part),
                title=title,
                verdict=verdict,
                wanted=wanted,
                seen=skipped or (self.why or "not read" if good is None else seen),
                guide="5.2",
                at=self.at.isoformat(timespec="seconds"),
                target=target,
                remedy=(_DEPLOY if self.node else _MAKES) if verdict == "fail" else "",
                stand_in=KUBERNETES if self.spec.environment == "lab" else "",
            )
        )


def _profile(spec: StackSpec, facts: NodeFacts | None) -> tuple[bool | None, str, str]:
    want = spec.rke2.profile
    if facts is None:
        return None, f"profile: {want}", ""
    seen, active = facts.rke2.config.get("profile"), facts.rke2_runs
    # A profile in the file alone is none: RKE2 reads it when it starts.
    started = facts.rke2.started_sum is not None and facts.rke2.started_sum == facts.rke2.config_sum
    text = f"profile: {seen}, service {'runs' if active else 'does not run'}"
    text += ", started with this configuration" if started else ", not known to have been started with it"
    return seen == want and active and started, f"profile: {want}, in force", text


def _kernel(facts: NodeFacts | None) -> tuple[bool | None, str, str]:
    wanted = ", ".join(f"{key}={value}" for key, value in CIS_SYSCTLS.items())
    if facts is None or any(key not in facts.sysctls for key in CIS_SYSCTLS):
        return None, wanted, ""
    seen = {key: facts.sysctls[key] for key in CIS_SYSCTLS}
    return seen == CIS_SYSCTLS, wanted, ", ".join(f"{key}={value}" for key, value in seen.items())


def _etcd_user(facts: NodeFacts | None) -> tuple[bool | None, str, str]:
    if facts is None:
        return None, "user and group etcd", ""
    user, group = "etcd" in facts.users, "etcd" in facts.groups
    seen = " and ".join(word for word, there in (("user", user), ("group", group)) if there)
    return user and group, "user and group etcd", f"{seen} etcd" if seen else "neither"


def _pod_security(facts: NodeFacts | None) -> tuple[bool | None, str, str]:
    wanted = f"{PSA} as rendered (restricted, the platform's namespaces exempt), mode 600, named in config.yaml"
    if facts is None:
        return None, wanted, ""
    digest = hashlib.sha256(str(yaml.safe_dump(pod_security(), sort_keys=False)).encode()).hexdigest()
    seen, mode = facts.rke2.files.get(PSA, ("", ""))
    named = facts.rke2.config.get("pod-security-admission-config-file") == PSA
    text = "the file is not there" if not seen else f"{'as rendered' if seen == digest else 'other text'}, mode {mode}"
    return (seen, mode, named) == (digest, "600", True), wanted, text + ("" if named else ", not named in config.yaml")


def _policies(seen: frozenset[tuple[str, str]] | None) -> tuple[bool | None, str, str]:
    wanted = ", ".join(f"{ns}/{name}" for ns, name in POLICIES)
    if seen is None:
        return None, wanted, ""
    missing = [f"{ns}/{name}" for ns, name in POLICIES if (ns, name) not in seen]
    return not missing, wanted, f"missing: {', '.join(missing)}" if missing else "all there"


# --- SUSE Security's scan --------------------------------------------------------------------------------------------


def parse_bench(node: str, body: Any) -> NodeScan:
    """Read the answer of GET /v1/bench/host/{id}/kubernetes. Messages are left out: they quote files of the node."""
    if not isinstance(body, Mapping) or not isinstance(body.get("items"), list):
        return NodeScan(node, why="the answer is no report")
    items = [item for item in body["items"] if isinstance(item, Mapping)]
    stamp = body.get("run_timestamp")
    ran = datetime.fromtimestamp(stamp, UTC).isoformat() if isinstance(stamp, int | float) and stamp > 0 else ""
    if not items or not ran:
        return NodeScan(node, why="the report is empty: the benchmark has not run")
    levels = Counter(str(item.get("level", "")).upper() for item in items)
    findings = [
        Finding(str(item.get("test_number", "")), str(item.get("level", "")).upper(), _plain(item))
        for item in items
        if str(item.get("level", "")).upper() in (*BAD, BY_HAND)
    ]
    return NodeScan(node, str(body.get("cis_version", "")), ran, dict(levels), tuple(findings))


def _plain(item: Mapping[str, Any]) -> str:
    """Return an item's description without the messages that the product appends to it."""
    text, messages = str(item.get("description", "")), item.get("message") or ()
    joined = ", ".join(str(message) for message in messages)
    return text.removesuffix(f" - {joined}") if joined else text


def bench_error(status: int, body: Any) -> str:
    """Say why there is no report, in the product's own words."""
    message = body.get("message") or body.get("error") if isinstance(body, Mapping) else ""
    return f"answers {status}: {message or 'without a reason'}"


def scan_evidence(spec: StackSpec, scans: Iterable[NodeScan], why: str, at: datetime) -> list[Evidence]:
    """Return two results a node: that the scan has run, and what it found.

    Findings are no must: what of the benchmark an organization follows is its own policy. Items that the benchmark
    leaves to a person's eyes are counted, and never taken for passed.
    """
    layer = BY_NAME["security"]
    skipped = "" if layer.enabled(spec) else "layers.security.enabled is false"
    by_node = {scan.node: scan for scan in scans}
    found = []
    for node in spec.nodes:
        scan = by_node.get(node.name) or NodeScan(node.name, why=why or "SUSE Security does not know this node")
        for what, title, wanted, must, judged in (
            ("scan", "SUSE Security has scanned the node", "a finished Kubernetes CIS benchmark", True, _ran(scan)),
            ("findings", "The Kubernetes CIS benchmark finds nothing", "no WARN, HIGH or ERROR", False, _bad(scan)),
        ):
            verdict, seen = _skipped(skipped) if skipped else judged
            found.append(
                Evidence(
                    id=f"scan/{node.name}/{what}",
                    title=title,
                    verdict=verdict,
                    wanted=wanted,
                    seen=seen,
                    guide="5.5",
                    at=scan.ran_at or at.isoformat(timespec="seconds"),
                    target=node.name,
                    must=must,
                    remedy=_SCAN if verdict == "unknown" else _FINDINGS if verdict == "fail" else "",
                    stand_in=layer.title if spec.environment == "lab" else "",
                )
            )
    return found


_SCAN = "Look at the enforcer on that node, and at SUSE Security's own page for it."
_FINDINGS = "Read the items below: harden the node, or note why the organization accepts them."


def _ran(scan: NodeScan) -> tuple[Verdict, str]:
    if scan.why:
        return "unknown", scan.why
    return "pass", f"{scan.benchmark or 'benchmark'}: {sum(scan.levels.values())} items"


def _bad(scan: NodeScan) -> tuple[Verdict, str]:
    if scan.why:
        return "unknown", scan.why
    text = ", ".join(f"{count} {level}" for level, count in sorted(scan.levels.items()))
    bad = sum(scan.levels.get(level, 0) for level in BAD)
    if not bad and not scan.levels.get("PASS"):
        return "unknown", f"{text}: nothing passed either"
    return ("fail" if bad else "pass"), text


def _skipped(why: str) -> tuple[Verdict, str]:
    return "skipped", why
