"""What one look at a site says of the guide's steps and looks, as evidence: what a plan still wants is not in place.

A plan is a measurement: each of its steps is a difference between what was seen and what the site file wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from stackwright.domain.check import KUBERNETES, SERVER, Outcome
from stackwright.domain.coverage import REQUIREMENTS
from stackwright.domain.deploy import StackFacts, plan_deploy
from stackwright.domain.errors import PlanRefusedError
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.guide.answers import Answer, Preflight, Step, Tenant
from stackwright.domain.layers import BY_NAME
from stackwright.domain.plan import Plan
from stackwright.domain.preflight import BY_ID
from stackwright.domain.preflight.model import judge
from stackwright.domain.preflight.seen import Case, Host
from stackwright.domain.spec import StackSpec
from stackwright.domain.validation import CATALOGUE, evidence_of

HOSTS = "SLES hosts"
SHOWN = 5
_UNREAD = "only the preflight reads this: run check-site"
_DEPLOY = "Run deploy-stack: it carries the step out."


def step_id(kind: str) -> str:
    """Return the id of the evidence about a kind of step, such as plan/node/*/swap."""
    return f"plan/{kind}"


def layer_id(name: str) -> str:
    """Return the id of the evidence that a layer's releases and objects are as wanted."""
    return f"plan/layer/{name}"


def tenant_id(step: str) -> str:
    """Return the id of the evidence about a step of every tenant's onboarding."""
    return f"plan/tenant/*/{step}"


def look_id(name: str) -> str:
    """Return the id of the evidence about a look at the hosts."""
    return f"look/{name}"


def look_evidence(spec: StackSpec, facts: StackFacts | None, why: str, at: datetime) -> list[Evidence]:
    """Return what a look says of every step, layer, tenant step and host check that answers the guide.

    Without facts, `why` says what stood in the way: all of it is unknown then, as is every step of a plan that the
    facts forbid. What the site file does not ask for is skipped, with the reason: its absence proves nothing.
    """
    plan = None
    if facts is not None:
        try:
            plan = plan_deploy(spec, facts)
        except PlanRefusedError as refused:
            why = f"no plan can be made: {len(refused.problems)} problem(s), first: {refused.problems[0].what}"
    look = _Look(spec, facts, plan, why, at)
    return [
        *(_step(look, kind) for kind in _named(Step, "kind")),
        *(_layer(look, name) for name in BY_NAME),
        *(_tenant(look, step) for step in _named(Tenant, "step")),
        *(_host_look(look, name) for name in _named(Preflight, "name")),
        *_checks_not_asked(look),
        *_flows_not_asked(look),
    ]


def _named(kind: type[Answer], field: str) -> list[str]:
    """Return every name that the guide's answers of a kind give, once."""
    answers = [answer for entry in REQUIREMENTS for answer in entry.answers]
    return list(dict.fromkeys(getattr(answer, field) for answer in answers if isinstance(answer, kind)))


@dataclass(frozen=True)
class _About:
    """What an evidence is about; `product` is what a lab imitates for it."""

    id: str
    title: str
    wanted: str
    product: str
    guide: str


@dataclass(frozen=True)
class _Look:
    """One look at a site: its plan and facts, None where there is none, and why."""

    spec: StackSpec
    facts: StackFacts | None
    plan: Plan | None
    why: str
    at: datetime

    def left(self, area: str, what: str) -> list[str]:
        """Return the targets of the plan's steps of one kind."""
        parts = [(step.id.split("/", 2), step.target) for step in (self.plan.steps if self.plan else ())]
        return [target for (first, _, last), target in parts if (first, last) == (area, what)]

    def judged(self, about: _About, known: bool, bad: bool, seen: str, skipped: str = "") -> Evidence:
        """Make the evidence: skipped before unknown before what was seen."""
        verdict: Verdict = "skipped" if skipped else "unknown" if not known else "fail" if bad else "pass"
        return Evidence(
            id=about.id,
            title=about.title,
            wanted=about.wanted,
            guide=about.guide,
            verdict=verdict,
            seen=skipped or (seen if known else self.why),
            at=self.at.isoformat(timespec="seconds"),
            remedy=_DEPLOY if verdict == "fail" else "",
            stand_in=about.product if self.spec.environment == "lab" else "",
        )


def _step(look: _Look, kind: str) -> Evidence:
    area, _, what = kind.split("/", 2)
    product, guide = (HOSTS, "5.1") if area == "node" else (KUBERNETES, "5.2")
    about = _About(
        step_id(kind), f"Nothing is left to do for {what} on any node", f"no step {kind} in the plan", product, guide
    )
    left = look.left(area, what)
    seen = _left(left, f"as wanted on {len(look.spec.nodes)} node(s)")
    return look.judged(about, look.plan is not None, bool(left), seen, not_asked(look.spec, kind))


def _layer(look: _Look, name: str) -> Evidence:
    layer = BY_NAME[name]
    wanted = "release, values and objects as the site file says"
    about = _About(layer_id(name), f"{layer.title} is installed as wanted", wanted, layer.title, layer.guide)
    left = [step.id for step in (look.plan.steps if look.plan else ()) if step.id.startswith(f"layer/{name}/")]
    skipped = "" if layer.enabled(look.spec) else f"layers.{name}.enabled is false"
    seen = _left(left, "deployed with the wanted values")
    return look.judged(about, look.plan is not None, bool(left), seen, skipped)


def _tenant(look: _Look, step: str) -> Evidence:
    title = f"Nothing is left to do for {step} of any tenant"
    about = _About(tenant_id(step), title, f"no step tenant/*/{step} in the plan", SERVER, "5.8")
    tenants, left = look.spec.tenants, look.left("tenant", step)
    skipped = "" if look.spec.layers.clearml.enabled else "layers.clearml.enabled is false"
    skipped = skipped or ("" if tenants else "the site file names no tenant")
    seen = _left(left, f"as wanted for {len(tenants)} tenant(s)")
    return look.judged(about, look.plan is not None, bool(left), seen, skipped)


def _host_look(look: _Look, name: str) -> Evidence:
    """Judge a check of the preflight by what this look has read; what only the preflight itself reads stays unknown."""
    check = BY_ID[f"preflight/{name}"]
    about = _About(look_id(name), f"Preflight: {check.title}", check.wanted(look.spec), HOSTS, check.guide)
    if look.facts is None:
        return look.judged(about, False, False, "")
    nodes = look.facts.nodes
    hosts = {node.name: Host(node, nodes.get(node.name), lost=look.why or _UNREAD) for node in look.spec.nodes}
    found = judge(Case(look.spec, hosts), [check])
    bad = [one for one in found if one.outcome.verdict == "fail"]
    dark = [one for one in found if one.outcome.verdict == "unknown"]
    shown = bad or dark or found
    lines = "; ".join(f"{one.subject}: {one.outcome.seen}" for one in shown[:SHOWN])
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    skipped = found[0].outcome.seen if found and all(one.outcome.verdict == "skipped" for one in found) else ""
    if bad or not dark:
        return look.judged(about, True, bool(bad), lines + more, skipped)
    return replace(look.judged(about, False, False, ""), seen=lines + more)


def _checks_not_asked(look: _Look) -> Iterator[Evidence]:
    """Yield a skipped result for every check that validating this site never makes, with the reason."""
    spec, areas = look.spec, {"clearml": "", "tenant": "", "workload": ""}
    if not spec.layers.clearml.enabled:
        areas = dict.fromkeys(areas, "layers.clearml.enabled is false")
    elif not spec.tenants:
        areas |= dict.fromkeys(("tenant", "workload"), "the site file names no tenant")
    elif not spec.validation.workload:
        areas["workload"] = "validation.workload is false"
    if not spec.validation.platform:
        areas["platform"] = "validation.platform is false"
    for check in CATALOGUE:
        area = check.id.split("/")[0]
        why = areas.get(area, "")
        if area == "platform" and check.works and not spec.validation.workload:
            why = why or "validation.workload is false"
        if check.id == "workload/pipeline" and not spec.validation.pipeline:
            why = why or "validation.pipeline is false"
        if check.id == "platform/node-loss" and spec.validation.spare_node is None:
            why = why or "validation.spare_node is not set: no node is stopped"
        if check.id == "workload/fine-tune-run" and spec.validation.fine_tune is None:
            why = why or "validation.fine_tune is not set: nothing is trained on a GPU"
        if why:
            yield evidence_of(spec, check.id, Outcome("skipped", why), look.at)


def _flows_not_asked(look: _Look) -> Iterator[Evidence]:
    """Yield a skipped result for each scheduled proof that this site file has no section for."""
    backup = look.spec.backup
    missing = {"backup": backup is None, "drill": backup is None or backup.drill is None}
    missing["rehearsal"] = missing["drill"]
    for area, absent in missing.items():
        section = "backup" if area == "backup" else "backup.drill"
        about = _About(f"{area}/not-asked", f"{area}: not asked for", f"a section {section}", HOSTS, "5.2")
        if absent:
            yield look.judged(about, False, False, "", f"the site file has no section {section}")
    security = look.spec.layers.security
    if not security.enabled or security.life is None:
        place = "a section layers.security.life"
        about = _About("security/not-asked", "security: not asked for", place, BY_NAME["security"].title, "5.5")
        why = "the site file has no section layers.security.life"
        yield look.judged(about, False, False, "", why if security.enabled else "layers.security.enabled is false")


def _left(targets: Iterable[str], good: str) -> str:
    names = list(dict.fromkeys(targets))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"still to be done: {', '.join(names[:SHOWN])}{more}" if names else good


def not_asked(spec: StackSpec, kind: str) -> str:
    """Return why a site file asks for no step of a kind, empty where it does: then its absence is a result."""
    return next((why for kinds, why in _not_asked(spec) if kind in kinds), "")


def _not_asked(spec: StackSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    registration = spec.registration
    if registration.kind == "none":
        yield ("node/*/register", "node/*/products"), "registration.kind is none"
    if registration.kind == "multi-linux-manager" or not registration.products:
        yield ("node/*/products",), "the site file names no products to activate"
    if not spec.dns.servers:
        yield ("node/*/resolver",), "dns.servers is empty: the nodes keep their own"
    if not spec.dns.hosts:
        yield ("node/*/hosts",), "dns.hosts is empty"
    if not spec.time.servers:
        yield ("node/*/time",), "time.servers is empty: the nodes keep their own"
    if spec.rke2.profile == "none":
        yield ("node/*/cis-user",), "rke2.profile is none: no hardening is asked for"
    if not spec.layers.storage.enabled:
        yield ("node/*/iscsi", "node/*/multipath"), "layers.storage.enabled is false"
    if spec.firewall.mode == "unmanaged":
        yield ("node/*/firewall",), "firewall.mode is unmanaged"
    if not any(node.labels for node in spec.nodes):
        yield ("rke2/*/labels",), "the site file gives no node a label"
