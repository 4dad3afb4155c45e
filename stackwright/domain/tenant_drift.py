"""What a tenant should be against what it is: the findings of a nightly look, and which of them are repaired. Pure.

Repaired is what the platform alone sets and nobody means to differ: labels, quota, limits, network policies, pull
Secret, resource policy, releases. Only reported is what a person may have meant or must judge: accounts, roles, key
pairs, logins, queues, data. What nobody asked for is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from stackwright.domain.cluster import Obj
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_checks import RESERVED
from stackwright.domain.tenant_objects import SITE_LABEL, TENANT_LABEL
from stackwright.domain.tenant_policy import linked_queues
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenants import TenantChange, TenantFacts, credentials_label

Rule = Literal["repair", "report"]


@dataclass(frozen=True)
class Judgement:
    """What is done about one kind of finding, how much it weighs, and what a person does about it."""

    rule: Rule
    must: bool
    remedy: str


_BY_ITSELF = "It is repaired by the next run, if it is not by this one."
_ASK_AGAIN = "Ask for the tenant again: what is missing is then made."
_BY_HAND = "See who made it and whether it is meant; remove it by hand if not."
RULES: Mapping[str, Judgement] = {
    "namespace": Judgement("repair", True, _BY_ITSELF),
    "quota": Judgement("repair", True, _BY_ITSELF),
    "limits": Judgement("repair", True, _BY_ITSELF),
    "network": Judgement("repair", True, _BY_ITSELF),
    "pull-secret": Judgement("repair", True, _BY_ITSELF),
    "policy": Judgement("repair", True, _BY_ITSELF),
    "agent": Judgement("repair", True, _BY_ITSELF),
    "gateway": Judgement("repair", True, _BY_ITSELF),
    "workspace": Judgement("report", True, "Look for its data first: a claim that is made again is an empty one."),
    "company": Judgement("report", True, "See who removed it. " + _ASK_AGAIN),
    "user": Judgement("report", True, "See who removed or renamed it. " + _ASK_AGAIN),
    "credentials": Judgement("report", True, "See who revoked or exchanged the pair. " + _ASK_AGAIN),
    "identity": Judgement("report", True, "See who changed it; a change of the tenant sets it again."),
    "names": Judgement("report", True, "Correct the DNS record or the certificate."),
    "queues": Judgement("report", True, "Look at the agent's and the gateway's pods and their logs."),
    "owner": Judgement("report", True, "Read the finding: somebody else claims what is the tenant's."),
    "extra-admin": Judgement("report", False, _BY_HAND),
    "hand-made-key": Judgement("report", False, _BY_HAND),
    "second-key": Judgement("report", False, "Ask for a rotation: it leaves exactly one pair."),
    "extra-queue": Judgement("report", False, _BY_HAND),
}
"""What is done about each kind of finding; the first ones are the steps of onboarding, by their names."""
STRANGERS: Mapping[str, str] = {
    "company": "a company that nobody asked for",
    "namespace": "a namespace that is labelled as a tenant's, and nobody asked for",
    "block": "a block of a tenant that nobody asked for here; it may be another site's",
    "host": "a router's host name that nobody asked for",
}
ACCOUNT = frozenset({"company", "user", "credentials"})
RELEASES = frozenset({"agent", "gateway"})
AT_REST = frozenset({"ready", "suspended"})
"""States of a record in which a tenant is looked at: in the others a request is at work on it."""


@dataclass(frozen=True)
class Finding:
    """One difference. `repaired` is set where it was put right."""

    tenant: str
    kind: str
    what: str
    rule: Rule
    repaired: bool = False


@dataclass(frozen=True)
class TenantSeen:
    """One look at a tenant beyond what bringing it needs. `unread` says why it could not be looked at.

    `admins` and `keys` are those that its own administrator sees: addresses, and (label, access key) of its pairs.
    `queues` and `workers` (by queue), `used` and `hard` of the quota are for people.
    """

    tenant: Tenant
    facts: TenantFacts | None = None
    change: TenantChange | None = None
    admins: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    queues: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, str] = field(default_factory=dict)
    hard: Mapping[str, str] = field(default_factory=dict)
    unread: str = ""


def judge_tenant(spec: StackSpec, seen: TenantSeen) -> tuple[Finding, ...]:
    """Return how a tenant differs from what it should be, in the order of its steps."""
    if seen.facts is None or seen.change is None:
        return ()
    steps = {step.id.rsplit("/", 1)[1]: step.summary for step in seen.change.steps}
    # A release is written with the pair of the block: while that is in doubt, it is left as it is.
    doubtful = bool(ACCOUNT & steps.keys())
    found = [
        Finding(seen.tenant.name, kind, what, "report" if doubtful and kind in RELEASES else RULES[kind].rule)
        for kind, what in steps.items()
    ]
    found += [Finding(seen.tenant.name, "owner", str(problem), "report") for problem in seen.change.problems]
    return (*found, *_by_people(spec, seen, seen.facts))


def _by_people(spec: StackSpec, seen: TenantSeen, facts: TenantFacts) -> Iterator[Finding]:
    """Yield what people made inside the company."""
    tenant, ours = seen.tenant, credentials_label(spec, seen.tenant)
    for email in seen.admins:
        if email.casefold() != tenant.admin_email.casefold():
            yield Finding(tenant.name, "extra-admin", f"{email} is an administrator too", "report")
    for label, key in seen.keys:
        if label != ours:
            text = f"key {key} of the administrator, labelled {label[:60]!a}, was made by hand"
            yield Finding(tenant.name, "hand-made-key", text, "report")
    if sum(label == ours for label, _ in seen.keys) > 1:
        yield Finding(tenant.name, "second-key", "more than one pair of ours is valid", "report")
    known = {queue.name for queue in tenant.queues}
    if facts.policy:
        inner = {link.queue_id for profile in facts.policy.config.profiles for link in profile.links}
        known |= {*linked_queues(facts.policy), *(facts.policy.queues.get(ident, ident) for ident in inner)}
    for name, entries in seen.queues.items():
        if name not in known:
            text = f"queue {name} is not wanted, {entries} task(s) wait in it"
            yield Finding(tenant.name, "extra-queue", text, "report")


def to_repair(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return the tenants of which something is to be repaired, each once. One whose owner is in doubt is left alone."""
    found = list(findings)
    doubtful = {finding.tenant for finding in found if finding.kind == "owner"}
    names = dict.fromkeys(item.tenant for item in found if item.rule == "repair" and not item.repaired)
    return tuple(name for name in names if name not in doubtful)


def watched(spec: StackSpec, records: Iterable[TenantRecord]) -> tuple[Tenant, ...]:
    """Return the tenants that are looked at: the site file's, and those that were asked for and are at rest."""
    asked = {record.name: record for record in records}
    return tuple(one for one in spec.tenants if one.name not in asked or asked[one.name].state in AT_REST)


# --- what nobody asked for -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surroundings:
    """What there is beside the tenants that are known: companies by id, namespaces, names of blocks, Ingresses."""

    companies: Mapping[str, str] = field(default_factory=dict)
    namespaces: tuple[Obj, ...] = ()
    blocks: tuple[str, ...] = ()
    ingresses: tuple[Obj, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)


def strangers(spec: StackSpec, records: Iterable[TenantRecord], seen: Surroundings) -> tuple[Finding, ...]:
    """Return what looks like a tenant and nobody asked for; the platform's own names are not meant.

    A tenant that was deleted may leave its company where the server cannot delete one: the record knows it.
    """
    kept = list(records)
    gone = {record.name for record in kept if record.state in ("deleted", "undone")}
    known = {one.name for one in spec.tenants} | {record.name for record in kept if record.name not in gone}
    companies = {record.company_id for record in kept}
    found = [
        ("company", f"{name} ({ident})")
        for ident, name in seen.companies.items()
        if ident not in companies and name.casefold() not in known | RESERVED
    ]
    found += [("namespace", _whose(item)) for item in seen.namespaces if _is_strange(spec, item, known)]
    prefix = "clearml-tenant-"
    blocks = {f"{prefix}{name}{end}" for name in known for end in ("", "-sso")}
    found += [("block", name) for name in seen.blocks if name.startswith(prefix) and name not in blocks]
    found += [("host", text) for text in _hosts(spec, seen.ingresses, known)]
    return tuple(Finding("", kind, what, "report") for kind, what in found)


def _whose(namespace: Obj) -> str:
    labels = namespace["metadata"].get("labels") or {}
    return f"{namespace['metadata']['name']} (tenant {labels[TENANT_LABEL]}, site {labels.get(SITE_LABEL, 'none')})"


def _is_strange(spec: StackSpec, namespace: Obj, known: set[str]) -> bool:
    labels = namespace["metadata"].get("labels") or {}
    name = labels.get(TENANT_LABEL)
    if name is None:
        return False
    ours = labels.get(SITE_LABEL, spec.site) == spec.site and namespace["metadata"]["name"] == f"clearml-{name}"
    return name not in known or not ours


def _hosts(spec: StackSpec, ingresses: Iterable[Obj], known: set[str]) -> Iterator[str]:
    pattern = re.compile(rf"(?:tcp-)?router-(.+)\.{re.escape(spec.clearml.base_domain)}")
    for item in ingresses:
        meta = item["metadata"]
        for rule in (item.get("spec") or {}).get("rules") or ():
            found = pattern.fullmatch(str(rule.get("host") or ""))
            if found and (found[1] not in known or meta.get("namespace") != f"clearml-{found[1]}"):
                yield f"{rule['host']} of Ingress {meta.get('namespace', '')}/{meta['name']}"


# --- evidence --------------------------------------------------------------------------------------------------------


def drift_evidence(
    seen: Iterable[TenantSeen], findings: Iterable[Finding], around: Surroundings, at: datetime
) -> list[Evidence]:
    """Return one piece of evidence for each tenant that is as it should be, for each finding, and for what nobody
    asked for. What was repaired passes, and says so."""
    stamp, found = at.isoformat(timespec="seconds"), list(findings)
    evidence = [_whole(one, stamp) for one in seen if not any(item.tenant == one.tenant.name for item in found)]
    evidence += [_of(item, stamp) for item in found if item.tenant]
    for kind, title in STRANGERS.items():
        strange = [item.what for item in found if not item.tenant and item.kind == kind]
        unread = around.unread.get(kind, "")
        verdict: Verdict = "unknown" if unread else "fail" if strange else "pass"
        evidence.append(
            Evidence(
                id=f"tenants/strangers-{kind}",
                title=f"There is no {title.removeprefix('a ')}",
                verdict=verdict,
                wanted="none",
                seen=unread or "; ".join(strange) or "none",
                guide="5.8",
                at=stamp,
                must=False,
                remedy=_BY_HAND if verdict != "pass" else "",
            )
        )
    return evidence


def _whole(seen: TenantSeen, stamp: str) -> Evidence:
    verdict: Verdict = "unknown" if seen.unread else "pass"
    name, text = seen.tenant.name, "suspended, as wanted" if seen.tenant.suspended else "as wanted"
    return Evidence(
        f"tenant/{name}/drift", "The tenant is as it should be", verdict, "no difference", seen.unread or text, "5.8",
        stamp, target=name, remedy="Read the reason, then start the run again." if seen.unread else "",
    )  # fmt: skip


def _of(item: Finding, stamp: str) -> Evidence:
    judged = RULES[item.kind]
    verdict: Verdict = "pass" if item.repaired else "fail"
    text = f"repaired: {item.what}" if item.repaired else item.what
    return Evidence(
        f"tenant/{item.tenant}/drift-{item.kind}", f"The tenant is as it should be: {item.kind}", verdict,
        "no difference", text, "5.8", stamp, target=item.tenant, must=judged.must,
        remedy="" if item.repaired else judged.remedy,
    )  # fmt: skip
