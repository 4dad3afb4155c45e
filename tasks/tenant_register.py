"""The records of tenants that were asked for, in the cluster: read, and written only over what was read.

What a record says is in stackwright/domain/tenant_record.py. A record is one ConfigMap of the namespace `stackwright`.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from pydantic import ValidationError

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import ConflictError, NotFoundError, StackError
from stackwright.domain.layers.shared import MANAGED_BY
from stackwright.domain.tenant_objects import SITE_LABEL
from stackwright.domain.tenant_record import NAMESPACE, PREFIX, TenantRecord, clipped, with_records
from stackwright.domain.tenant_record import answer_of as answer_of
from stackwright.domain.tenant_record import note as note
from tasks.kept import keep, version_of

log = logging.getLogger(__name__)

RECORD_LABEL, STATE_LABEL = "stackwright.io/record", "stackwright.io/tenant-state"
KEY = "record"
SIZE_MAX = 256 * 1024  # a quarter of what etcd takes


class RecordBrokenError(StackError):
    """A tenant's record cannot be read, or cannot be kept."""

    remedy = "Look at the ConfigMap; bring it back from a snapshot, or mend the key `record` by hand."


class RecordMovedError(StackError):
    """A tenant's record was changed by somebody else since it was read."""

    remedy = "Start the run again: it reads the record of now and goes on from there."
    transient = True


def read_record(site: Site, name: str) -> TenantRecord | None:
    """Return the record of one tenant, or None where there is none. Raises RecordBrokenError."""
    found = site.kube().get("v1", "ConfigMap", f"{PREFIX}{name}", NAMESPACE)
    return None if found is None else _record_of(found)


def read_records(site: Site) -> tuple[TenantRecord, ...]:
    """Return every record of the site, by name, whatever its state."""
    found = site.kube().list("v1", "ConfigMap", NAMESPACE, label_selector=f"{RECORD_LABEL}=tenant")
    return tuple(sorted(map(_record_of, found), key=lambda record: record.name))


def with_tenants(site: Site) -> Site:
    """Return the site with a spec that holds all its tenants: the site file's and those that were asked for."""
    return replace(site, spec=with_records(site.spec, read_records(site)))


def write_record(site: Site, record: TenantRecord, lease: LeaseHandle) -> TenantRecord:
    """Keep a record, if the cluster's is still the one that was read; return it as it is there now.

    Go on with what is returned: another write of the old value would raise RecordMovedError.
    """
    record = record.model_copy(update={"reason": clipped(record.reason)})
    labels = {**MANAGED_BY, RECORD_LABEL: "tenant", STATE_LABEL: record.state, SITE_LABEL: record.site}
    data = {KEY: _text_of(record)}
    lease.check()
    try:
        version = keep(site.kube(), f"{PREFIX}{record.name}", labels, data, record.version)
    except (ConflictError, NotFoundError) as error:
        raise RecordMovedError(
            "the record is not what was read any more", where=f"tenant {record.name}", wanted=record.version or "none"
        ) from error
    log.debug("tenant %s: record: %s", record.name, record.state)
    return record.model_copy(update={"version": version})


def remove_record(site: Site, name: str, lease: LeaseHandle) -> bool:
    """Forget a tenant; False where there was no record."""
    lease.check()
    return site.kube().delete("v1", "ConfigMap", f"{PREFIX}{name}", NAMESPACE)


def _text_of(record: TenantRecord) -> str:
    text = record.model_dump_json(indent=1)
    if len(text.encode()) > SIZE_MAX:
        raise RecordBrokenError(
            "the tenant's record is too large to be kept",
            where=f"tenant {record.name}",
            wanted=f"at most {SIZE_MAX} bytes",
            seen=str(len(text.encode())),
            remedy="Ask for fewer queues.",
        )
    return text


def _record_of(obj: Obj) -> TenantRecord:
    try:
        record = TenantRecord.model_validate_json((obj.get("data") or {}).get(KEY) or "")
    except ValidationError as error:
        where = f"ConfigMap {NAMESPACE}/{obj['metadata']['name']}"
        raise RecordBrokenError("this is no tenant's record", where=where, seen=str(error)[:300]) from error
    return record.model_copy(update={"version": version_of(obj)})
