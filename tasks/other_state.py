"""Saving what etcd's snapshots do not hold, as far as it is ours to save, and looking at what others save.

What is to be saved, and when a copy is late, is in stackwright/domain/other_state.py.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast, get_args

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.settings import get_current_settings
from sqlalchemy.engine import make_url

from stackwright.clients.sealing import opened, sealed
from stackwright.clients.site import Site
from stackwright.clients.store import Store
from stackwright.domain.bundle import site_prefix
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import NotFoundError, StackError
from stackwright.domain.kinds import Kind
from stackwright.domain.layers import rancher_backup, security, storage
from stackwright.domain.other_state import KEPT, Export, StateFacts
from stackwright.domain.site_blocks import block_names
from tasks.bundles import backup_identity, backup_of, recipients_of, stores
from tasks.common import in_thread, only_transient
from tasks.prefect_key import check_key
from tasks.security import admin_session
from tasks.streams import Summed, drain

log = logging.getLogger(__name__)

KEY_VARIABLE = "PREFECT_SERVER_ENCRYPTION_KEY"
SUM = ".sha256"


def exports_prefix(site: Site, what: Export) -> str:
    """Return where a site's exports of one kind lie in its store."""
    return site_prefix(backup_of(site).folder, site.spec.site, f"state/{what}")


# --- looking ---------------------------------------------------------------------------------------------------------


def read_state(site: Site) -> StateFacts:
    """Look at all copies of the other state. Changes nothing. Raises what cannot be read: unknown is not absent."""
    kube = site.kube()

    def some(api: str, kind: str, namespace: str = "") -> list[Obj]:
        try:
            return list(kube.list(api, kind, namespace))
        except NotFoundError:
            return []

    def named(found: list[Obj], name: str) -> Obj | None:
        return next((one for one in found if one["metadata"]["name"] == name), None)

    space = storage.NAMESPACE
    return StateFacts(
        rancher=named(some(rancher_backup.API, "Backup"), rancher_backup.SCHEDULED),
        target=named(some(storage.API, "BackupTarget", space), "default"),
        jobs={str(one["metadata"]["name"]): one for one in some(storage.API, "RecurringJob", space)},
        volumes=some(storage.API, "Volume", space),
        snapshots=some(storage.API, "Snapshot", space),
        systems=some(storage.API, "SystemBackup", space),
        exports=read_exports(site) if site.spec.backup else {},
        local_prefect=prefect_database() is not None,
    )


def read_exports(site: Site) -> dict[str, float]:
    """Return the time of the newest export of each kind in the store, for those that have one."""
    store, found = stores(site)[0], {}
    for what in get_args(Export):
        times = [one.modified_s for one in store.list(exports_prefix(site, what)) if one.key.endswith(SUM)]
        if times:
            found[what] = max(times)
    return found


def prefect_database() -> Path | None:
    """Return the file of the Prefect server's database where it is SQLite on this machine, else None.

    A worker that is told another server's address knows nothing of that one's database.
    """
    settings = get_current_settings()
    url = settings.api.url
    if url and not any(host in url for host in ("127.0.0.1", "localhost", "[::1]")):
        return None
    given = settings.server.database.connection_url
    if given is None:
        return None
    address = make_url(given.get_secret_value())
    path = Path(address.database or "")
    return path if address.get_backend_name() == "sqlite" and path.is_file() else None


# --- saving ----------------------------------------------------------------------------------------------------------


def export(site: Site, what: Export, source: BinaryIO) -> str:
    """Seal a stream, put it into the store, read it back whole, and drop the oldest copies. Returns the key.

    A copy counts once the sum of what was read back lies beside it (`sha256sum -c`); without that it is no copy.
    Raises StackError when what is read back is not what was sent.
    """
    store, identity = stores(site)[0], backup_identity(site)
    key = f"{exports_prefix(site, what)}{datetime.fromtimestamp(site.clock.now(), UTC):%Y%m%dT%H%M%SZ}.age"
    sent = Summed(source)
    with sealed(sent.stream, recipients_of(site)) as stream:
        store.put(key, stream)
    with store.open(key) as stored:
        kept = Summed(stored)
        with opened(kept.stream, identity) as plain:
            back = Summed(plain)
            drain(back.stream)
    if (back.bytes, back.sha256) != (sent.bytes, sent.sha256):
        raise StackError(
            f"the export of {what} cannot be read back", where=store.where, wanted=f"{sent.bytes} bytes as sent",
            seen=f"{back.bytes} other bytes", remedy="Look at the store, then start again.",
        )  # fmt: skip
    store.write(f"{key}{SUM}", f"{kept.sha256}  {key.rpartition('/')[2]}\n".encode())
    _drop_old(store, exports_prefix(site, what))
    log.info("%s: %s exported and read back: %d bytes", site.spec.site, what, back.bytes)
    return key


def _drop_old(store: Store, prefix: str) -> None:
    """Keep the newest whole copies, and nothing that is older."""
    keys = [one.key for one in store.list(prefix)]
    whole = sorted((key for key in keys if key.endswith(SUM)), reverse=True)
    if len(whole) > KEPT:
        store.delete([key for key in keys if key < whole[KEPT - 1].removesuffix(SUM)])


def blocks_document(site: Site) -> bytes:
    """Return all blocks of the site as JSON: what a restore needs when Prefect's own server is gone."""
    rows = []
    for name in block_names(site.spec):
        for kind in get_args(Kind):
            fields = site.secrets.read(kind, name)
            if fields is not None:
                values = {field: value.get_secret_value() for field, value in fields.items()}
                rows.append({"kind": kind, "name": name, "fields": values})
    return json.dumps({"site": site.spec.site, "blocks": rows}).encode()


def security_document(site: Site) -> bytes:
    """Return SUSE Security's configuration as it exports it, with the Secret that opens its sealed fields."""
    kube = site.kube()
    with admin_session(site, kube) as call:
        answer = call("GET", "/v1/file/config")
    if not answer.ok or not answer.body:
        raise StackError(
            "SUSE Security gives no export", where=security.NAMESPACE, wanted="GET /v1/file/config: a file",
            seen=f"status {answer.status}, {len(answer.body)} bytes", remedy="Look at the controllers' logs.",
        )  # fmt: skip
    key = kube.get("v1", "Secret", "neuvector-store-secret", security.NAMESPACE)
    return json.dumps({"config": answer.body.decode("latin-1"), "store_secret": (key or {}).get("data", {})}).encode()


def save_prefect(site: Site) -> str | None:
    """Export a consistent copy of Prefect's database with its encryption key; None where it is not on this machine.

    The copy is made in a folder that only this user can enter, and has no name while it is sent. Raises StackError
    when the key at hand does not open the blocks in it.
    """
    path = prefect_database()
    if path is None:
        return None
    with tempfile.TemporaryDirectory(dir=site.workdir) as folder:  # mode 0700
        copy = Path(folder) / "prefect.db"
        with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as target:
            live.backup(target)
            key = os.environ.get(KEY_VARIABLE, "")
            check_key(target, key, str(path))
        with copy.open("rb") as database:
            copy.unlink()
            head = json.dumps({"encryption_key": key, "bytes": os.fstat(database.fileno()).st_size}).encode() + b"\n"
            return export(site, "prefect", cast(BinaryIO, _Chained(head, database)))


class _Chained(io.RawIOBase):
    """A line, and after it a file."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            part, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
            return part
        return self._rest.read(size)


def _saved(site: Site, what: Export) -> str | None:
    documents: dict[Export, Callable[[Site], bytes]] = {"blocks": blocks_document, "security": security_document}
    if what == "prefect":
        return save_prefect(site)
    return export(site, what, io.BytesIO(documents[what](site)))


@task(
    task_run_name="save-{what}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=1800,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=only_transient,
)
async def save_export(site: Site, what: Export) -> str | None:
    """Export one kind of state to the store; None where it is not ours to save."""
    return await in_thread(_saved, site, what)
