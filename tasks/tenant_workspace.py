"""A tenant's shared volume: waited for until it is bound, and removed when that is asked for. Guide: 5.7.1.5."""

from __future__ import annotations

import logging

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_workspace import CLAIM, bound

log = logging.getLogger(__name__)

TIMEOUT_S = 300.0


def wait_bound(site: Site, tenant: Tenant) -> None:
    """Wait until the claim is bound. Raises GateTimeoutError with what the cluster says of it."""
    last: list[str] = ["no claim"]

    def look() -> bool | None:
        seen = site.kube().get("v1", "PersistentVolumeClaim", CLAIM, tenant.namespace)
        last[0] = str(((seen or {}).get("status") or {}).get("phase", "no phase")) if seen else "no claim"
        return True if bound(seen) else None

    wait_until(
        look,
        f"volume claim {CLAIM} bound",
        timeout_s=TIMEOUT_S,
        poll_s=site.spec.rke2.poll_s,
        clock=site.clock,
        where=f"tenant {tenant.name}",
        last=lambda: f"{last[0]}; see Longhorn's share manager and its class, and nfs-client on the nodes",
    )


def remove_workspace(site: Site, tenant: Tenant, lease: LeaseHandle) -> bool:
    """Remove the claim and with it the data on it; False when it was gone. Whoever calls has asked twice."""
    lease.check()
    gone = site.kube().delete("v1", "PersistentVolumeClaim", CLAIM, tenant.namespace)
    if gone:
        log.info("tenant %s: volume claim %s removed", tenant.name, CLAIM)
    return gone
