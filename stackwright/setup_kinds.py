"""The kinds of objects that `stackwright setup` keeps for the whole server: block types, work pools, queues, limits.
The catalogue's deployments are in setup_deployments.py, a site's schedules in schedules.py, blocks in setup_blocks.py.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import BlockType, WorkQueue
from prefect.exceptions import ObjectNotFound

from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.server_file import DEFAULT_QUEUE, Pool, ServerFile, parse_server_file
from stackwright.domain.setup import Fields, Seen, owned
from stackwright.paging import every
from stackwright.runs import HOME, ensure_work_pool
from stackwright.setup_deployments import pool_loss

SERVER_FILE = HOME / "deployments" / "server.yaml"
SLUGS = "stackwright-"


class _Kind:
    """What most kinds have in common."""

    noted = True

    async def hold(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Leave it: nothing that is held of these kinds does anything by itself."""


# --- block types -----------------------------------------------------------------------------------------------------


class BlockTypes(_Kind):
    """The block types of our own kinds of secrets; ours are known by their slug. One that keeps blocks never goes."""

    kind = "block type"
    noted = False

    def __init__(self, blocks: Iterable[type[Block]]) -> None:
        self._blocks = {block.get_block_type_slug(): block for block in blocks}

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return what the UI shows of each type, and that its form is known."""
        return {slug: _shown(block._to_block_type()) | {"form": True} for slug, block in self._blocks.items()}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return every type of ours."""
        found: dict[str, Seen] = {}
        for type_ in await client.read_block_types():
            block = self._blocks.get(type_.slug)
            if not type_.slug.startswith(SLUGS):
                continue
            kept = 0 if block else len(await client.read_block_documents_by_type(type_.slug, include_secrets=False))
            loss = f"it keeps {kept} block(s): remove those first" if kept else ""
            form = {"form": block is not None and await _has_form(client, block)}
            found[type_.slug] = Seen(str(type_.id), _shown(type_) | form, loss=loss)
        return found

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Register the type with its form."""
        await self._blocks[name].aregister_type_and_schema(client=client)

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove a type. Refused while it keeps blocks, however often it is asked: they would go with it."""
        if found.loss:
            raise ProblemsError(
                "a block type cannot be removed", [Problem(name, found.loss, "remove its blocks in the Prefect UI")]
            )
        await client.delete_block_type(UUID(found.id))


def _shown(type_: BlockType) -> dict[str, Any]:
    return {
        "description": html.unescape(type_.description or ""),
        "code_example": html.unescape(type_.code_example or ""),
        "logo_url": str(type_.logo_url or ""),
        "documentation_url": str(type_.documentation_url or ""),
    }


async def _has_form(client: PrefectClient, block: type[Block]) -> bool:
    try:
        await client.read_block_schema_by_checksum(block._calculate_schema_checksum(), block.get_block_schema_version())
    except ObjectNotFound:
        return False
    return True


# --- work pools and queues -------------------------------------------------------------------------------------------


def read_server_file(path: Path | None) -> tuple[ServerFile, Path]:
    """Read the declared work pools and say where they stand. Raises ProblemsError."""
    path = path or SERVER_FILE
    try:
        return parse_server_file(path.read_text(encoding="utf-8"), str(path)), path.parent
    except OSError as error:
        problem = Problem(str(path), "cannot be read", "name a file", seen=error.strerror or "")
        raise ProblemsError("the file was refused", [problem], where=str(path)) from error


class WorkPools(_Kind):
    """Work pools. A pool with runs that have not ended is held."""

    kind = "work pool"

    def __init__(self, declared: ServerFile, folder: Path) -> None:
        self._pools, self._folder = declared.work_pools, folder

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return the declared pools. A type cannot be changed: see `check`."""
        return {name: self._fields(pool) for name, pool in self._pools.items()}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return the pools that are declared or ours."""
        found: dict[str, Seen] = {}
        for pool in await every(client.read_work_pools):
            ours, why = owned(made, pool.name, str(pool.id))
            if pool.name in self._pools or ours:
                loss = why or ("" if pool.name in self._pools else await pool_loss(client, pool.name))
                fields = pool.model_dump(include={"description", "concurrency_limit", "base_job_template"})
                found[pool.name] = Seen(str(pool.id), {**fields, "description": pool.description or ""}, ours, loss)
        return found

    async def check(self, client: PrefectClient) -> list[Problem]:
        """Return a problem for each pool that is there with another type."""
        return [
            Problem(
                f"work_pools.{pool.name}.type", "a pool's type cannot be changed",
                "name the file that declares it so with --server, as a team does (docs/team.md); or, to replace it, "
                f"drain it and `prefect work-pool delete {pool.name}`, then start again",
                self._pools[pool.name].type, pool.type,
            )
            for pool in await every(client.read_work_pools)
            if pool.name in self._pools and pool.type != self._pools[pool.name].type
        ]  # fmt: skip

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create a pool with its worker's form, or change what is declared of it."""
        pool = self._pools[name]
        fields = dict(self._fields(pool))
        if found is None:
            await ensure_work_pool(name, pool.type, fields.pop("base_job_template", None))
        await client.update_work_pool(name, WorkPoolUpdate(**fields))

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove a pool with its queues."""
        await client.delete_work_pool(name)

    def _fields(self, pool: Pool) -> Fields:
        fields: dict[str, Any] = {"description": pool.description, "concurrency_limit": pool.concurrency_limit}
        template = _read_template(self._folder, pool) if pool.job_template else _template(pool.type)
        return fields | ({"base_job_template": template} if template else {})


def _template(type_: str) -> dict[str, Any] | None:
    """Return our own worker's form; None for other types, whose workers bring theirs at their first start."""
    from stackwright.worker import TYPE, TenantWorker

    return TenantWorker.get_default_base_job_template() if type_ == TYPE else None


def _read_template(folder: Path, pool: Pool) -> dict[str, Any]:
    path = folder / str(pool.job_template)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(str(path), "is no readable JSON", "name a file beside this one", seen=type(error).__name__)
        raise ProblemsError("the job template was refused", [problem], where=str(path)) from error
    return dict(found)


class WorkQueues(_Kind):
    """Queues of the declared pools, by `pool/queue`. The queue `default` is the pool's own."""

    kind = "work queue"

    def __init__(self, declared: ServerFile) -> None:
        self._queues = {
            f"{pool}/{name}": queue for pool, row in declared.work_pools.items() for name, queue in row.queues.items()
        }
        self._pools = list(declared.work_pools)

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return the declared queues."""
        return {name: queue.model_dump() for name, queue in self._queues.items()}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return the queues that are declared or ours."""
        found: dict[str, Seen] = {}
        for pool in self._pools:
            for queue in await _queues(client, pool):
                name = f"{pool}/{queue.name}"
                ours, why = owned(made, name, str(queue.id))
                if name in self._queues or (ours and queue.name != DEFAULT_QUEUE):
                    fields = queue.model_dump(include={"priority", "concurrency_limit"})
                    loss = why or ("" if name in self._queues else await pool_loss(client, pool, queue.name))
                    found[name] = Seen(str(queue.id), fields, ours, loss)
        return found

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create a queue, or change it."""
        pool, _, queue = name.partition("/")
        fields = self._queues[name].model_dump()
        if found is None:
            await client.create_work_queue(queue, work_pool_name=pool, **fields)
        else:
            await client.update_work_queue(UUID(found.id), **fields)

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove a queue."""
        await client.delete_work_queue_by_id(UUID(found.id))


async def _queues(client: PrefectClient, pool: str) -> list[WorkQueue]:
    try:
        return await every(client.read_work_queues, work_pool_name=pool)
    except ObjectNotFound:  # the pool is only planned
        return []


# --- concurrency limits ----------------------------------------------------------------------------------------------


class Limits(_Kind):
    """The concurrency limit of each site's ClearML server, before the first run asks for it."""

    kind = "limit"

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return each limit's size."""
        return {name: {"limit": size, "active": True} for name, size in self._sizes.items()}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return the limits that are declared or ours. One that runs hold slots of is held."""
        found: dict[str, Seen] = {}
        for limit in await every(client.read_global_concurrency_limits):
            ours, why = owned(made, limit.name, str(limit.id))
            if limit.name in self._sizes or ours:
                held = f"{limit.active_slots} of its slots are taken" if limit.active_slots else ""
                fields = {"limit": limit.limit, "active": limit.active}
                found[limit.name] = Seen(str(limit.id), fields, ours, why or held)
        return found

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create a limit, or bring it to its size."""
        await client.upsert_global_concurrency_limit_by_name(name, self._sizes[name])
        if found is not None and not found.fields["active"]:
            await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=True))

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove a limit."""
        await client.delete_global_concurrency_limit_by_name(name)
