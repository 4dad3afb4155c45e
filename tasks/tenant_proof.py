"""Proving that a new tenant is apart from the others, before it is called ready.

The looks are those of validation; what their outcomes mean for the tenant is in stackwright/domain/tenant_isolation.py.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_change import with_tenant
from stackwright.domain.tenant_drift import AT_REST
from stackwright.domain.tenant_record import with_records
from tasks.isolation import look_access, look_network, remove_probes
from tasks.tenant_register import read_records
from tasks.validation import look_isolation

log = logging.getLogger(__name__)


def prove_apart(site: Site, tenant: Tenant, lease: LeaseHandle) -> list[Evidence]:
    """Try what a tenant must not be able to: beyond its quota, outside its namespace, with another tenant's things.

    A pod that tries the network is only started where the site lets validation run workloads. What a run that died
    has left of such a pod is removed first.
    """
    records = tuple(record for record in read_records(site) if record.state in AT_REST)
    whole = replace(site, spec=with_tenant(with_records(site.spec, records), tenant))
    looks = [look_access, look_isolation]
    if site.spec.validation.workload:
        lease.check()
        remove_probes(whole, tenant)
        looks.append(look_network)
    with RunThreads(len(looks)) as pool:  # at once: somebody waits for this tenant
        found = [check for done in pool.map(lambda look: look(whole, tenant), looks) for check in done]
    log.info("tenant %s: %s", tenant.name, ", ".join(f"{check.id}: {check.verdict}" for check in found))
    return found
