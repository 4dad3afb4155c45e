"""Sample reports for the tests and for looking at: a deploy of the lab that went well, and one that did not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stackwright.domain.check import Outcome
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import enabled
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.tenants import TenantFacts, plan_tenant
from stackwright.domain.validation import evidence_of
from stackwright.reports.model import DeployReport, Group, make_report
from tests.domain.layers.sites import lab

BEGAN = datetime(2026, 3, 17, 9, 30, tzinfo=UTC)
SPEC = lab()


def plan() -> Plan:
    """Return a plan of the lab's shape, with every kind of effect."""
    steps = []
    for node in SPEC.nodes:
        name = node.name
        steps.append(Step(f"node/{name}/sysctl", name, f"{name}: write 4 sysctls", Effect.FILE, "5.1", "sysctl -n"))
        steps.append(Step(f"node/{name}/swap", name, f"{name}: switch swap off", Effect.NONE, "5.1", "/proc/swaps"))
    for node in SPEC.nodes:
        effect = Effect.ETCD_MEMBER_DOWN if node.is_server else Effect.SERVICE_RESTART
        name = node.name
        steps.append(Step(f"rke2/{name}/start", name, f"{name}: start rke2", effect, "5.2", "Ready and a voter"))
    for layer in enabled(SPEC):
        text = f"{layer.title}: install {layer.name}"
        steps.append(Step(f"layer/{layer.name}/release", layer.name, text, Effect.NONE, layer.guide, "its gates"))
    nothing = TenantFacts(BEGAN, cluster=False, platform=False)
    steps += [step for tenant in SPEC.tenants for step in plan_tenant(SPEC, tenant, nothing)]
    return Plan("lab", tuple(steps), notes=("No section `time`: chrony is only checked.",))


def groups(*, failed: str = "") -> tuple[Group, ...]:
    """Return times as a deploy has them: nodes at once, servers one by one, layers by their needs."""
    made = [Group("node", node.name, 2, 0.3 + index / 20, 2.1, True) for index, node in enumerate(SPEC.nodes)]
    at = 3.0
    for server in SPEC.servers:
        made.append(Group("rke2", server.name, 1, at, 5.5, True))
        at += 5.6
    made += [Group("rke2", node.name, 1, at, 4.2, True) for node in SPEC.agents]
    for index, layer in enumerate(enabled(SPEC)):
        made.append(Group("layer", layer.name, 2, at + 4.5 + index * 2.0, 6.5 + index % 3, layer.name != failed))
    made += [Group("tenant", tenant.name, 11, at + 36, 9.4, True) for tenant in SPEC.tenants]
    return tuple(made)


def evidence(*, bad: bool = False) -> tuple[Evidence, ...]:
    """Return checks of all areas; with `bad` one that failed and one that could not be read."""
    found = [
        evidence_of(SPEC, "cluster/nodes", Outcome("pass", "8 of 8 Ready"), BEGAN),
        evidence_of(SPEC, "cluster/versions", Outcome("pass", SPEC.rke2.version), BEGAN),
        evidence_of(SPEC, "cluster/voters", Outcome("pass", "3 voter(s)"), BEGAN),
        evidence_of(SPEC, "clearml/api", Outcome("pass", "HTTP 200 in 14 ms"), BEGAN),
    ]
    for layer in enabled(SPEC):
        for gate in layer.gates(SPEC):
            title, check = f"{layer.title}: {gate.id}", f"layer/{layer.name}/{gate.id}"
            done = ("pass", gate.wanted, "as wanted", layer.guide, BEGAN.isoformat(), layer.name)
            found.append(Evidence(check, title, *done, stand_in=layer.title))
    for tenant in SPEC.tenants:
        found.append(evidence_of(SPEC, "tenant/login", Outcome("pass", "role admin"), BEGAN, target=tenant.name))
        router = Outcome("fail", "listed: none") if bad and tenant.name == "blue" else Outcome("pass", "listed")
        found.append(evidence_of(SPEC, "tenant/router", router, BEGAN, target=tenant.name))
        found.append(evidence_of(SPEC, "workload/loss", Outcome("pass", "2.301 -> 0.184"), BEGAN, target=tenant.name))
    if bad:
        unread = Outcome("unknown", "the API server does not answer: 127.0.0.1:6443")
        found.append(evidence_of(SPEC, "cluster/gpus", unread, BEGAN))
    return tuple(found)


def good() -> DeployReport:
    ended = BEGAN + timedelta(seconds=71.4)
    return make_report(SPEC, "deploy-stack", BEGAN, ended, plan=plan(), groups=groups(), evidence=evidence())


def bad() -> DeployReport:
    error = "layer observability: 1 of 3 gate(s) stayed closed for 2400 s | wanted: <ready>"
    ended, times, checks = BEGAN + timedelta(seconds=95), groups(failed="observability"), evidence(bad=True)
    return make_report(SPEC, "deploy-stack", BEGAN, ended, plan=plan(), groups=times, evidence=checks, error=error)


def planned() -> DeployReport:
    return make_report(SPEC, "plan-stack", BEGAN, BEGAN + timedelta(seconds=3.2), plan=plan())
