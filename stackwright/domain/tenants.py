"""One tenant's plan: company, user, credentials, namespace with its limits, agent, gateway, queues. Pure.

What the objects and values are is in tenant_objects.py, the rules of names in tenant_checks.py. Guide: 5.7.2, 5.8, 5.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import SecretStr

from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.layers.facts import SeenRelease, release_labels
from stackwright.domain.layers.model import ObjectKey, ObjectSpec, ReleaseSpec
from stackwright.domain.layers.planning import ReleaseChange, differs
from stackwright.domain.plan import Effect, Step, digest_of
from stackwright.domain.releases import LAYER_LABEL, ReleaseAction, ReleaseFacts, ReleaseWant, decide_release
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_checks import check_tenant_names as check_tenant_names
from stackwright.domain.tenant_gpus import cost
from stackwright.domain.tenant_identity import SeenIdentity, identity_gaps
from stackwright.domain.tenant_names import SeenName, judge_name
from stackwright.domain.tenant_objects import (
    GATEWAY_RELEASE,
    SITE_LABEL,
    TENANT_LABEL,
    agent,
    gateway,
    gateway_objects,
    limits,
    namespace,
    network,
    pull_secret,
    quota,
    router_host,
    workspace,
)
from stackwright.domain.tenant_policy import SeenPolicy, governed, pending, policy_gaps, pool_queues
from stackwright.domain.tenant_workspace import CLAIM, bound, claim_problems
from stackwright.domain.values import Marker, canonical, markers_in, resolve

ADMIN_ROLE = "admin"
ROUTER_FRESH_S = 600.0  # ClearML: a router that stops reporting leaves the list after its own time limit
RELEASE_TIMEOUT_S = 600

KeyState = Literal["absent", "refused", "works", "unknown"]


@dataclass(frozen=True)
class SeenKey:
    """What the server says of the key pair in the tenant's block. `unknown`: the server does not run yet."""

    state: KeyState
    user_id: str = ""
    role: str = ""
    company_id: str = ""


@dataclass(frozen=True)
class TenantFacts:
    """One look at a tenant. Keys that are not in `releases` and `objects` were looked for and are not there.

    `cluster` is False before there is a cluster, `platform` before its ClearML server answers: then nothing of it is
    known and all of it is to be made. `admin_id` is None where no such user was seen: without a working key of the
    tenant its users cannot be listed. `queues` are listed, `served` ones have a worker; `routers` maps name to the time
    of its last report. `opened` holds what stands behind each marker.
    """

    now: datetime
    cluster: bool = True
    platform: bool = True
    company_id: str | None = None
    company_active: bool = True
    admin_id: str | None = None
    admin_role: str = ADMIN_ROLE
    key: SeenKey = SeenKey("absent")
    objects: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    releases: Mapping[str, SeenRelease] = field(default_factory=dict)
    queues: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()
    routers: Mapping[str, str] = field(default_factory=dict)
    opened: Mapping[Marker, SecretStr] = field(default_factory=dict, repr=False)
    run_dead: bool = False
    policy: SeenPolicy | None = None
    """None where the tenant wants no policy, or nothing can be seen of it."""
    identity: SeenIdentity | None = None
    client_secret: SecretStr | None = None
    name: SeenName | None = None

    @property
    def key_good(self) -> bool:
        """True when the block's pair is the wanted administrator's own."""
        key = self.key
        right = key.company_id == self.company_id and key.user_id == self.admin_id and key.role == ADMIN_ROLE
        return key.state == "works" and right and self.admin_id is not None


@dataclass(frozen=True)
class TenantChange:
    """All that one tenant needs now. `objects` and `releases` hold, by step name, what that step applies."""

    steps: tuple[Step, ...]
    objects: Mapping[str, tuple[ObjectSpec, ...]]
    releases: Mapping[str, ReleaseChange]
    problems: tuple[Problem, ...] = ()

    def needs(self, what: str) -> bool:
        """Tell whether a step is needed: `company`, `user` ... `queues`."""
        return any(step.id.rsplit("/", 1)[1] == what for step in self.steps)


def plan_tenant(spec: StackSpec, tenant: Tenant, facts: TenantFacts) -> tuple[Step, ...]:
    """Return the steps that bring one tenant to what the site file wants; empty when it is there.

    Raises PlanRefusedError with every problem: a name, a namespace or a release that belongs to somebody else.
    """
    change = decide_tenant(spec, tenant, facts)
    if change.problems:
        raise PlanRefusedError("the tenant cannot be planned", list(change.problems), where=f"tenant {tenant.name}")
    return change.steps


def decide_tenant(spec: StackSpec, tenant: Tenant, facts: TenantFacts) -> TenantChange:
    """Decide one tenant. Refusals are in the result's `problems`; they are not raised here."""
    objects = objects_of(spec, tenant)
    differ = {
        what: tuple(item for item in wanted if differs(item, facts.objects, facts.opened))
        for what, wanted in objects.items()
    }
    account = _account_steps(spec, tenant, facts)
    renewed = any(step.id.endswith("/credentials") for step in account)
    releases = {
        what: _decide_release(spec, tenant, release, facts, renewed)
        for what, release in (
            ("agent", agent(spec, tenant, pool_queues(tenant, facts.policy))),
            ("gateway", gateway(spec, tenant)),
        )
    }
    steps = [*account]
    for what in ("namespace", "quota", "limits", "network", "pull-secret", "workspace"):
        if differ[what] or (what == "workspace" and unbound(spec, tenant, facts)):
            steps.append(_objects_step(tenant, what, objects[what], differ[what]))
    policy = _policy_steps(spec, tenant, facts)
    steps += [*policy, *_identity_steps(tenant, facts)]
    for what, release in releases.items():
        around = objects.get(what, ())
        if release.action.changes or differ.get(what):
            steps.append(_release_step(spec, tenant, what, release, around))
    # The policy replaces queues: what is listed now need not be listed afterwards.
    steps += _seen_steps(spec, tenant, facts, [f"queue {queue.name}" for queue in governed(tenant) if policy])
    refused = [release.action.problem for release in releases.values() if release.action.problem]
    claim = facts.objects.get(ObjectKey("v1", "PersistentVolumeClaim", tenant.namespace, CLAIM))
    problems = (*_owner_problems(spec, tenant, facts), *claim_problems(tenant, claim), *refused)
    return TenantChange(tuple(steps), differ, releases, problems)


def objects_of(spec: StackSpec, tenant: Tenant) -> dict[str, tuple[ObjectSpec, ...]]:
    """Return what is applied on the cluster beside the releases, by step name."""
    return {
        "namespace": (namespace(spec, tenant),),
        "quota": (quota(spec, tenant),),
        "limits": (limits(spec, tenant),),
        "network": network(spec, tenant),
        "pull-secret": (pull_secret(spec, tenant),),
        "workspace": workspace(spec, tenant),
        "gateway": () if tenant.suspended else gateway_objects(spec, tenant),
    }


def markers_of(spec: StackSpec, tenant: Tenant) -> frozenset[Marker]:
    """Return every marker that the tenant's objects and values hold."""
    wanted = [item.manifest for items in objects_of(spec, tenant).values() for item in items]
    return markers_in([*wanted, agent(spec, tenant).values, gateway(spec, tenant).values])


def credentials_label(spec: StackSpec, tenant: Tenant) -> str:
    """Return the label by which a key pair that was made but never kept is found again."""
    return f"stackwright {spec.site}/{tenant.name}"


def is_fresh(stamp: str, now: datetime) -> bool | None:
    """Tell whether a report is recent; None where its time cannot be read."""
    try:
        reported = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    except ValueError:
        return None
    if reported.tzinfo is None:
        reported = reported.replace(tzinfo=now.tzinfo)
    return (now - reported).total_seconds() <= ROUTER_FRESH_S


# --- steps -----------------------------------------------------------------------------------------------------------


def _account_steps(spec: StackSpec, tenant: Tenant, facts: TenantFacts) -> list[Step]:
    steps = []
    if facts.company_id is None:
        verify = "system.get_companies lists exactly one company of this name"
        steps.append(_step(tenant, "company", f"make the company {tenant.name}", "5.7.2", verify, tenant.name))
    if facts.admin_id is None:
        summary = f"make the administrator {tenant.admin_email}, or find the one that exists"
        verify = "the user belongs to the company, with role admin"
        steps.append(_step(tenant, "user", summary, "5.7.2", verify, tenant.admin_email, tenant.admin_name))
    if not facts.key_good:
        summary = f"make the administrator's key pair and keep it in block {tenant.credentials_block}"
        verify = "a login with the kept pair is the administrator's"
        label = credentials_label(spec, tenant)
        steps.append(_step(tenant, "credentials", summary, "5.7.2", verify, tenant.credentials_block, label))
    return steps


_OBJECT_TEXTS = {
    "namespace": ("5.8.2", "the namespace is active and has its labels"),
    "quota": ("5.8.2", "the quota reads back as applied"),
    "limits": ("5.8.2", "the limits read back as applied"),
    "network": ("5.8.2", "the policies read back as applied"),
    "pull-secret": ("5.8.3", "the Secret reads back as applied"),
    "workspace": ("5.7.1", "the claim is bound"),
}


def _objects_step(tenant: Tenant, what: str, wanted: tuple[ObjectSpec, ...], differ: tuple[ObjectSpec, ...]) -> Step:
    """Make the step of some objects. Its digest covers all of them, so that a run cut short continues under it."""
    guide, verify = _OBJECT_TEXTS[what]
    names = ", ".join(item.key.name for item in differ)
    summary = f"apply {differ[0].key.kind} {names}" if differ else f"wait for {wanted[0].key.kind} {wanted[0].key.name}"
    return _step(tenant, what, summary, guide, verify, *(canonical(item.manifest) for item in wanted))


def _policy_steps(spec: StackSpec, tenant: Tenant, facts: TenantFacts) -> list[Step]:
    if tenant.policy is None:
        return []
    gaps = policy_gaps(spec, tenant, facts.policy) if facts.policy else [f"policy {tenant.name}"]
    if not gaps:
        return []
    queues = (f"{queue.name}={cost(queue):g}" for queue in governed(tenant))
    digest = (canonical(tenant.policy.model_dump(mode="json")), *queues)
    verify = "reservation, limit, pools and queues read back as wanted"
    return [_step(tenant, "policy", f"set up the resource policy: {', '.join(gaps)}", "5.7.2", verify, *digest)]


def _identity_steps(tenant: Tenant, facts: TenantFacts) -> list[Step]:
    if tenant.identity is None:
        return []
    gaps = ["nothing seen yet"]
    if facts.identity is not None and facts.company_id:
        gaps = identity_gaps(tenant, facts.company_id, facts.identity, facts.client_secret)
    if not gaps:
        return []
    digest = canonical(tenant.identity.model_dump(mode="json"))
    verify = "domains, addresses and provider read back as wanted"
    return [_step(tenant, "identity", f"set up who may log in: {', '.join(gaps)}", "5.7.2", verify, digest)]


def _seen_steps(spec: StackSpec, tenant: Tenant, facts: TenantFacts, replaced: list[str]) -> list[Step]:
    """Return the steps that wait for what all others lead to; a suspended tenant has nothing that could be seen."""
    if tenant.suspended:
        return []
    steps, host = [], router_host(spec, tenant)
    if facts.name is None or not facts.name.good:
        problem = judge_name(facts.name) if facts.name else None
        why = f": {problem.what}" if problem else ""
        verify = "the name leads to the ingress controller, with a trusted certificate"
        steps.append(_step(tenant, "names", f"wait for {host}{why}", "5.9", verify, host))
    if missing := unlisted(tenant, facts) or replaced:
        steps.append(_queues_step(tenant, missing))
    return steps


def unbound(spec: StackSpec, tenant: Tenant, facts: TenantFacts) -> bool:
    """Tell whether the shared volume is still to be bound. Longhorn binds at once; of other classes it is not known."""
    if not tenant.workspace_gib or not spec.layers.storage.enabled:
        return False
    return not bound(facts.objects.get(ObjectKey("v1", "PersistentVolumeClaim", tenant.namespace, CLAIM)))


def _release_step(
    spec: StackSpec, tenant: Tenant, what: str, change: ReleaseChange, around: tuple[ObjectSpec, ...]
) -> Step:
    release, want, action = change.spec, change.want, change.action
    place, chart = f"{release.namespace}/{release.name}", f"{release.chart.name} {release.version}"
    summary = f"{action.kind} {place} with {chart} ({action.why})" if action.changes else f"certificate of {place}"
    guide = "5.8.3" if what == "agent" else "5.9"
    verify = "its queues have a worker" if what == "agent" else f"router {GATEWAY_RELEASE} is listed"
    verify = "there is no such release" if tenant.suspended else verify
    first = change.seen is None or (change.seen.deployed is None and change.seen.newest.revision == 1)
    effect = Effect.SERVICE_RESTART if action.changes and not first else Effect.NONE
    # Markers, not secrets: the digest is shown and kept. Ids that are made on the way do not count: queues of pools.
    shown = agent(spec, tenant, {queue.name: (pending(queue.name),) for queue in governed(tenant)})
    values = shown.values if what == "agent" else release.values
    parts = (want.chart, want.repo or "", want.version, canonical(values))
    digest = (*parts, *(canonical(item.manifest) for item in around), *(("suspended",) if tenant.suspended else ()))
    return _step(tenant, what, summary, guide, verify, *digest, effect=effect)


def _queues_step(tenant: Tenant, missing: list[str]) -> Step:
    names = tuple(sorted(queue.name for queue in tenant.queues))
    verify = "queues, their workers and the router are listed to the tenant's own key"
    return _step(tenant, "queues", f"wait until seen: {', '.join(missing)}", "5.8.3", verify, GATEWAY_RELEASE, *names)


def _step(
    tenant: Tenant, what: str, summary: str, guide: str, verify: str, *digest: str, effect: Effect = Effect.NONE
) -> Step:
    name = tenant.name
    text = f"Tenant {name}: {summary}"
    return Step(f"tenant/{name}/{what}", name, text, effect, guide, verify, digest_of(*digest))


def unlisted(tenant: Tenant, facts: TenantFacts) -> list[str]:
    """Return what the tenant's own key does not list yet: queues, workers of queues, the router.

    Nothing is wanted of a suspended tenant.
    """
    if tenant.suspended:
        return []
    names = [queue.name for queue in tenant.queues]
    missing = [f"queue {name}" for name in names if name not in facts.queues]
    missing += [f"a worker of queue {name}" for name in names if name not in facts.served]
    stamp = facts.routers.get(GATEWAY_RELEASE)
    if stamp is None or is_fresh(stamp, facts.now) is False:
        missing.append(f"router {GATEWAY_RELEASE}")
    return missing


# --- releases and owners ---------------------------------------------------------------------------------------------


def _decide_release(
    spec: StackSpec, tenant: Tenant, release: ReleaseSpec, facts: TenantFacts, renewed: bool
) -> ReleaseChange:
    # A pair that is still to be made counts as an empty secret: no release can have been made with it.
    opened = {marker: SecretStr("") for marker in markers_in(release.values)}
    opened |= {
        marker: value for marker, value in facts.opened.items()
        if not (renewed and marker.block == tenant.credentials_block)
    }  # fmt: skip
    want = want_of(spec, tenant, release, opened)
    seen = facts.releases.get(release.name)
    action = decide_release(want, seen.newest if seen else None, ReleaseFacts(facts.now, facts.run_dead))
    if tenant.suspended:
        action = _suspended(action, seen)
    return ReleaseChange(release, want, action, seen)


def _suspended(action: ReleaseAction, seen: SeenRelease | None) -> ReleaseAction:
    """Take a release away: nothing starts any more, and what runs ends by itself. Another owner's stays."""
    if seen is None or seen.newest.status == "uninstalled":
        return ReleaseAction("nothing", "the tenant is suspended")
    if action.kind in ("refuse-foreign", "refuse-busy"):
        return action
    return ReleaseAction("uninstall", "the tenant is suspended", ("uninstall",))


def want_of(spec: StackSpec, tenant: Tenant, release: ReleaseSpec, opened: Mapping[Marker, SecretStr]) -> ReleaseWant:
    """Return a release as helm is asked for it, with its secrets in place."""
    chart, repo = release.chart.address(spec.charts.mirror)
    labels = release_labels("tenant", release.chart.name, release.version, LAYER_LABEL)
    return ReleaseWant(
        name=release.name,
        namespace=release.namespace,
        chart=chart,
        version=release.version,
        values=resolve(release.values, opened),
        repo=repo,
        labels={**labels, TENANT_LABEL: tenant.name},
        chart_name=release.chart.name,
        site=spec.site,
        timeout_s=RELEASE_TIMEOUT_S,
    )


def _owner_problems(spec: StackSpec, tenant: Tenant, facts: TenantFacts) -> list[Problem]:
    """Return what shows that the name is somebody else's, or on its way out."""
    where, problems = f"tenant {tenant.name}", []
    if facts.company_id and not facts.company_active:
        remedy = "Make the company active again in ClearML, or choose another name."
        problems.append(Problem(where, "the company is not active", remedy, "active", "inactive"))
    if facts.admin_role != ADMIN_ROLE:
        what = f"the user {tenant.admin_email} exists and is no administrator"
        remedy = "Give the user the role admin in ClearML, or name another address."
        problems.append(Problem(where, what, remedy, ADMIN_ROLE, facts.admin_role))
    key = facts.key
    if key.state == "works" and facts.company_id and key.company_id != facts.company_id:
        what = f"the key pair in block {tenant.credentials_block} belongs to another company"
        remedy = "Remove the block if it was filled by mistake: a new pair is then made."
        problems.append(Problem(where, what, remedy, facts.company_id, key.company_id))
    seen = facts.objects.get(namespace(spec, tenant).key) or {}
    labels = (seen.get("metadata") or {}).get("labels") or {}
    for label, own in ((SITE_LABEL, spec.site), (TENANT_LABEL, tenant.name)):
        if labels.get(label, own) != own:
            what = f"the namespace {tenant.namespace} belongs to another owner"
            remedy = f"Choose another tenant name, or remove the label {label} if that owner is gone."
            problems.append(Problem(where, what, remedy, f"{label}={own}", labels[label]))
    if (seen.get("status") or {}).get("phase") == "Terminating":
        remedy = "Wait until it is gone; if it stays, look for objects in it with finalizers."
        what = f"the namespace {tenant.namespace} is being removed"
        problems.append(Problem(where, what, remedy, "Active", "Terminating"))
    return problems
