"""A tenant's public name: looked up, its certificate checked as a browser would, waited for. Changes nothing.

What is wrong with a name is decided in stackwright/domain/tenant_names.py. Guide: 5.7.1.5, 5.9.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from stackwright.clients.site import Site, wait_until
from stackwright.domain.check import Outcome
from stackwright.domain.errors import GateTimeoutError
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_names import SeenName, judge_name, static_address
from stackwright.domain.tenant_objects import router_host
from stackwright.domain.validation import evidence_of

log = logging.getLogger(__name__)

TIMEOUT_S = 300.0  # a certificate is made within a minute; a record that is missing is a person's to make


class NameNotReadyError(GateTimeoutError):
    """A tenant's public name does not lead to the platform, or not with a good certificate."""


def read_name(site: Site, tenant: Tenant) -> SeenName:
    """Look at the tenant's router name: where it leads, and what certificate is served for it there.

    Where it should lead is shown by the platform's own name: one ingress controller serves both.
    """
    spec = site.spec
    name = router_host(spec, tenant)
    found = _addresses(site, name)
    wanted = _addresses(site, f"app.{spec.clearml.base_domain}")
    meet = sorted(found & wanted)
    if not meet:
        return SeenName(name, found, wanted)
    refused, silent = site.names.refusal(name, meet[0], spec.ingress.https_port, spec.ingress.ca_file)
    return SeenName(name, found, wanted, refused, silent)


def _addresses(site: Site, name: str) -> frozenset[str]:
    known = static_address({**site.spec.dns.hosts, **site.resolve}, name)
    return frozenset({known}) if known else site.names.addresses(name)


def wait_name(site: Site, tenant: Tenant, timeout_s: float = TIMEOUT_S) -> SeenName:
    """Wait until the tenant's name is good. Raises NameNotReadyError, which says what is wrong and what mends it."""
    last: list[SeenName] = []

    def look() -> SeenName | None:
        last[:] = [read_name(site, tenant)]
        return last[0] if last[0].good else None

    where = f"tenant {tenant.name}"
    try:
        seen = wait_until(
            look, "the router's name", timeout_s=timeout_s, poll_s=site.spec.rke2.poll_s, clock=site.clock, where=where
        )
    except GateTimeoutError as error:
        problem = judge_name(last[0])
        if problem is None:
            raise
        raise NameNotReadyError(
            f"{last[0].name}: {problem.what}, for {timeout_s:.0f} s",
            where=where,
            wanted=problem.wanted,
            seen=problem.seen,
            remedy=problem.remedy,
        ) from error
    log.info("tenant %s: %s leads to the platform, with a good certificate", tenant.name, seen.name)
    return seen


def name_evidence(site: Site, tenant: Tenant, seen: SeenName | None) -> Evidence:
    """Return what was seen of the name, as evidence."""
    seen = seen or read_name(site, tenant)
    at = datetime.fromtimestamp(site.clock.now(), UTC)
    return evidence_of(site.spec, "tenant/name", judge(seen), at, target=tenant.name)


def judge(seen: SeenName) -> Outcome:
    problem = judge_name(seen)
    if problem is None:
        return Outcome("pass", f"{seen.name} -> {', '.join(sorted(seen.addresses))}, certificate trusted")
    return Outcome("fail", f"{seen.name}: {problem.what} ({problem.seen}). {problem.remedy}")
