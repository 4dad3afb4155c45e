"""What onboarding costs without Stackwright: the same calls and helm commands, one after the other, in a bare script.

No lease, no record, no look before a change, no second look: it could not be started again. It is the measure of
benchmarks/tenant.py, which also takes from it how long the stand-ins make everybody wait.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import uuid4

from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.domain.spec import Tenant
from stackwright.domain.tenants import credentials_label, decide_tenant, unlisted
from tasks.layers import apply_objects
from tasks.tenant_smoke import run_smoke
from tasks.tenants import OBJECT_STEPS, read_tenant, system_client

POLL_S = 0.1


@dataclass(frozen=True)
class Bare:
    """Seconds of the whole, and of its waits: until agent and gateway are listed, and until the first job has ended."""

    whole_s: float
    listed_s: float
    job_s: float

    @property
    def waits_s(self) -> float:
        return self.listed_s + self.job_s


class Unasked:
    """No lease: a bare script asks nobody."""

    number = 0

    def check(self) -> None:
        """Say nothing."""


def onboard(site: Site, tenant: Tenant) -> Bare:
    """Make one tenant that is not there, and wait until it works."""
    started = time.monotonic()
    system, kube, helm = system_client(site), site.kube(), site.helm()
    company = system.create_company(tenant.name)
    admin = system.create_user(company.id, tenant.admin_name, tenant.admin_email, role="admin")
    pair = system.create_credentials(credentials_label(site.spec, tenant), user_id=admin.id)
    fields = {"access_key": SecretStr(pair.access_key), "secret_key": pair.secret_key}
    site.secrets.write("api-key", tenant.credentials_block, fields)
    change = decide_tenant(site.spec, tenant, read_tenant(site, tenant))  # manifests and values, and nothing else of it
    for what in OBJECT_STEPS:
        apply_objects(site, kube, change.objects[what], Unasked())
    for what, release in change.releases.items():
        apply_objects(site, kube, change.objects.get(what, ()), Unasked())
        helm.upgrade_install(release.want)
    installed = time.monotonic()
    while unlisted(tenant, read_tenant(site, tenant)):
        time.sleep(POLL_S)
    listed = time.monotonic()
    run_smoke(site, tenant, uuid4().hex)
    ended = time.monotonic()
    return Bare(ended - started, listed - installed, ended - listed)
