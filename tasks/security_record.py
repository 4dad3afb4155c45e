"""The record of SUSE Security's life, a ConfigMap of the namespace `stackwright`: read, and kept."""

from __future__ import annotations

from pydantic import ValidationError

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import LeaseHandle
from stackwright.domain.errors import ConflictError, NotFoundError, StackError
from stackwright.domain.layers.shared import MANAGED_BY
from stackwright.domain.security_facts import LifeRecord
from stackwright.domain.tenant_record import NAMESPACE
from tasks.kept import keep, version_of

NAME = "security-life"
KEY = "record"


class LifeRecordError(StackError):
    """The record of SUSE Security's life cannot be read, or was changed by somebody else."""

    remedy = "Look at ConfigMap stackwright/security-life. Without it, time is counted anew and nothing else is lost."


def read_life_record(kube: KubeClient) -> LifeRecord:
    """Return the record, an empty one where there is none. Raises LifeRecordError."""
    found = kube.get("v1", "ConfigMap", NAME, NAMESPACE)
    if found is None:
        return LifeRecord()
    try:
        record = LifeRecord.model_validate_json((found.get("data") or {}).get(KEY) or "")
    except ValidationError as error:
        raise LifeRecordError(
            "this is no record of SUSE Security's life", where=f"ConfigMap {NAMESPACE}/{NAME}", seen=str(error)[:300]
        ) from error
    return record.model_copy(update={"version": version_of(found)})


def write_life_record(kube: KubeClient, record: LifeRecord, lease: LeaseHandle) -> LifeRecord:
    """Keep the record, if the cluster's is still the one that was read; return it as it is there now."""
    text = record.model_copy(update={"version": ""}).model_dump_json(indent=1)
    lease.check()
    try:
        version = keep(kube, NAME, dict(MANAGED_BY), {KEY: text}, record.version)
    except (ConflictError, NotFoundError) as error:
        raise LifeRecordError(
            "the record is not what was read any more", where=f"ConfigMap {NAMESPACE}/{NAME}",
            wanted=f"version {record.version or 'none'}",
        ) from error  # fmt: skip
    return record.model_copy(update={"version": version})
