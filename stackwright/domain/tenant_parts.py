"""Rules of a tenant's further parts: GPU shares, shared volume, resource policy, identity. Pure.

Names, quotas and ports are checked in tenant_checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from stackwright.domain.checks.syntax import is_dns_name
from stackwright.domain.errors import Problem
from stackwright.domain.layers import gpu_operator
from stackwright.domain.spec import Queue, StackSpec, Tenant
from stackwright.domain.tenant_gpus import FRACTIONS, SIXTEENTH, cost, needs_limits, on_gpus

NAME_MIN = 3  # ClearML refuses shorter names of queues, and so of what is named like them


def check_parts(spec: StackSpec, path: str, tenant: Tenant) -> Iterator[Problem]:
    """Yield the problems of one tenant's further parts."""
    for number, queue in enumerate(tenant.queues):
        yield from _share(spec, f"{path}.queues[{number}]", queue)
    if tenant.workspace_gib > tenant.quota.storage_gib:
        what = "the shared volume does not fit into the tenant's storage"
        wanted = f"at most {tenant.quota.storage_gib}"
        remedy = "Raise quota.storage_gib, or make the volume smaller."
        yield Problem(f"{path}.workspace_gib", what, remedy, wanted, str(tenant.workspace_gib))
    yield from _policy(f"{path}.policy", tenant)
    yield from _identity(f"{path}.identity", tenant)


def _share(spec: StackSpec, path: str, queue: Queue) -> Iterator[Problem]:
    given = [name for name in ("gpus", "fraction", "mig") if getattr(queue, name)]
    if len(given) > 1:
        what = "a job takes whole GPUs, a fraction of one, or a MIG slice: one of them"
        yield Problem(path, what, "Keep one of the keys.", "one of gpus, fraction, mig", " and ".join(given))
    vendors = gpu_operator.vendors(spec)
    if (queue.fraction or queue.mig) and vendors and "nvidia" not in vendors:
        what = "only NVIDIA's GPUs are shared out in parts"
        yield Problem(path, what, "Use whole GPUs.", "a site with NVIDIA GPUs", ", ".join(vendors))
    if queue.fraction and queue.fraction not in FRACTIONS:
        what = "the injector does not know this fraction"
        wanted = ", ".join(f"{fraction:g}" for fraction in FRACTIONS)
        yield Problem(f"{path}.fraction", what, "Use one that it knows.", wanted, f"{queue.fraction:g}")
    elif queue.fraction == SIXTEENTH and needs_limits(spec):
        what = "this injector shares out eighths of a GPU, no smaller ones"
        remedy = "Use an eighth, or bring the injector to 1.3.0 and say so in clearml.injector_version."
        yield Problem(f"{path}.fraction", what, remedy, "0.125 or more", f"{queue.fraction:g}")


def _policy(path: str, tenant: Tenant) -> Iterator[Problem]:
    policy = tenant.policy
    if policy is None:
        return
    if policy.limit < policy.reservation:
        what = "a tenant may not be sure of more than it may use"
        yield Problem(f"{path}.limit", what, "Raise the limit.", f"{policy.reservation} or more", str(policy.limit))
    if policy.limit > tenant.quota.gpus:
        what = "the cluster would refuse what the policy allows"
        wanted = f"at most quota.gpus ({tenant.quota.gpus})"
        yield Problem(f"{path}.limit", what, "Lower the limit, or raise the quota.", wanted, str(policy.limit))
    most = max((cost(queue) for queue in tenant.queues if on_gpus(queue)), default=0.0)
    if not most and tenant.queues:
        what = "a resource policy governs queues whose jobs need GPUs, and there is none"
        yield Problem(path, what, "Add such a queue, or leave the policy out.", "a queue with GPUs", "none")
    if most > policy.limit:
        what = "one job would need more than the policy allows at all"
        yield Problem(f"{path}.limit", what, "Raise the limit.", f"{most:g} or more", str(policy.limit))
    if policy.pools and policy.limit == policy.reservation:
        what = "nothing is left to spill over: the reservation is the limit"
        yield Problem(f"{path}.pools", what, "Raise the limit, or name no pools.", "limit above reservation", "equal")
    known: set[str] = {tenant.name}
    for number, name in enumerate(policy.pools):
        where = f"{path}.pools[{number}]"
        if len(name.strip()) < NAME_MIN or not name.isascii() or not name.isprintable():
            yield Problem(
                where, "this cannot be a pool's name", "Use three or more letters.", "a name", ascii(name[:80])
            )
        elif name in known:
            what = "named twice, or the tenant's own pool, which comes first anyway"
            yield Problem(where, what, "Leave it out.", "each pool once", name[:80])
        known.add(name)


def _identity(path: str, tenant: Tenant) -> Iterator[Problem]:
    identity = tenant.identity
    if identity is None:
        return
    for number, domain in enumerate(identity.domains):
        if not is_dns_name(domain) or "." not in domain:
            what = "this is not a mail domain"
            yield Problem(
                f"{path}.domains[{number}]", what, "Write what follows the @.", "a domain", ascii(domain[:80])
            )
    for number, email in enumerate(identity.emails):
        user, at, domain = email.rpartition("@")
        if not (user and at and is_dns_name(domain.casefold())) or not email.isprintable() or " " in email:
            what = "this is not an e-mail address"
            yield Problem(f"{path}.emails[{number}]", what, "Correct it.", "user@domain", ascii(email[:80]))
    needs = ("client_id", "client_block", "base_url")
    missing = [name for name in needs if not getattr(identity, name)]
    if identity.provider and missing:
        what = "an identity provider cannot be set up without these"
        yield Problem(path, what, "Give them all.", ", ".join(needs), f"missing: {', '.join(missing)}")
    if identity.client_block not in (None, client_block(tenant)):
        what = "a tenant's provider takes its secret from the tenant's own block alone"
        remedy = "Keep the secret in that block: another one's would go wherever base_url leads."
        yield Problem(f"{path}.client_block", what, remedy, client_block(tenant), str(identity.client_block)[:80])
    given = [name for name in (*needs, "admin_groups") if getattr(identity, name)]
    if given and not identity.provider:
        what = "these belong to an identity provider, and none is named"
        yield Problem(f"{path}.provider", what, "Name the provider.", "a provider", f"given: {', '.join(given)}")
    if identity.base_url:
        parts = urlsplit(identity.base_url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
            what = "the provider's address must be an https:// one, without user or query"
            yield Problem(f"{path}.base_url", what, "Correct it.", "https://host/path", ascii(identity.base_url[:80]))
    if not (identity.domains or identity.emails or identity.provider):
        yield Problem(path, "nothing is said of who may log in", "Leave it out.", "domains, emails or a provider", "")


def client_block(tenant: Tenant) -> str:
    """Return the one block whose secret may go to the tenant's identity provider."""
    return f"{tenant.credentials_block}-sso"


def check_identities(spec: StackSpec) -> list[Problem]:
    """Return addresses and domains that two tenants claim: ClearML would lead such users anywhere."""
    first: dict[str, str] = {}
    problems = []
    for index, tenant in enumerate(spec.tenants):
        for kind in ("domains", "emails"):
            for number, text in enumerate(getattr(tenant.identity, kind, ())):
                path = f"tenants[{index}].identity.{kind}[{number}]"
                before = first.setdefault(text.casefold(), path)
                if before != path:
                    what = f"claimed before by {before}: ClearML would lead its users to either"
                    problems.append(Problem(path, what, "Leave it to one tenant.", "named once", text[:80]))
    return problems
