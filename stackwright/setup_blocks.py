"""Blocks from a file of references: `stackwright setup --blocks FILE`. Values go from their source into the block, and
nowhere else: the plan names fields that differ, compared in memory, and no digest of a value is shown or kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from prefect.blocks import notifications
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from pydantic import Secret, SecretStr, ValidationError

from blocks.types import BLOCKS
from stackwright.clients.references import References
from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.references import WAYS, WantedBlock, parse_references
from stackwright.domain.setup import Fields, Seen
from stackwright.domain.site_secrets import MASK


def block_kinds() -> dict[str, type[Block]]:
    """Return what a file of references may make: our own kinds, and Prefect's blocks that notify, by their slug."""
    kinds: dict[str, type[Block]] = {Webhook.get_block_type_slug(): Webhook}
    for _, block in inspect.getmembers(notifications, inspect.isclass):
        if issubclass(block, NotificationBlock) and not inspect.isabstract(block):
            kinds[block.get_block_type_slug()] = block
    kinds.update({str(kind): block for kind, block in BLOCKS.items()})
    return kinds


class BlocksOf:
    """The blocks of one file of references. Blocks that it does not name are nobody's business here."""

    kind = "block"
    noted = False

    def __init__(self, wanted: Mapping[str, tuple[WantedBlock, Block]]) -> None:
        self._wanted = wanted

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return the fields of each block, secrets masked."""
        return {name: _fields(block) for name, (_, block) in self._wanted.items()}

    def opened(self) -> tuple[tuple[WantedBlock, Block], ...]:
        """Return each block as the file asks for it, with its values."""
        return tuple(self._wanted.values())

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return the blocks of these names that are there, secrets masked."""
        found: dict[str, Seen] = {}
        for name, (want, block) in self._wanted.items():
            slug = type(block).get_block_type_slug()
            try:
                there = await client.read_block_document_by_name(want.name, slug, include_secrets=True)
            except ObjectNotFound:
                continue
            fields = {key: _masked(value) for key, value in there.data.items()}
            found[name] = Seen(str(there.id), fields, ours=False)
        return found

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Write the block, whole."""
        want, block = self._wanted[name]
        await block.asave(want.name, overwrite=True)

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Blocks are never removed: they hold what may be nowhere else."""

    async def hold(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Blocks are never held."""


def read_blocks(path: Path) -> BlocksOf:
    """Read a file of references and open each of them. Raises ProblemsError with every problem at once."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(str(path), "cannot be read", "name a file", seen=type(error).__name__)
        raise ProblemsError("the file of references was refused", [problem], where=str(path)) from None
    rows, access = parse_references(text, str(path))
    problems: list[Problem] = []
    opener, kinds = References(access), block_kinds()
    wanted: dict[str, tuple[WantedBlock, Block]] = {}
    for row in rows:
        block = _opened(row, kinds.get(row.kind), opener, problems)
        if block is not None:
            wanted[str(row)] = (row, block)
    if problems:
        unique = list(dict.fromkeys(problems))  # a Vault without a token is one problem
        raise ProblemsError("the file of references was refused", unique, where=str(path))
    return BlocksOf(wanted)


def _opened(row: WantedBlock, kind: type[Block] | None, opener: References, problems: list[Problem]) -> Block | None:
    where = f"blocks.{row}"
    if kind is None:
        problems.append(Problem(where, "no such kind", "see `stackwright block kinds`", ", ".join(block_kinds())))
        return None
    before = len(problems)
    fields = {**row.references, **row.plain}
    for name in fields:
        if name not in kind.model_fields:
            known = ", ".join(name for name in kind.model_fields)
            problems.append(Problem(f"{where}.{name}", "no such field", "correct the name", known))
        elif name in row.plain and _is_secret(kind.model_fields[name].annotation):
            remedy = f"Give where the value is: {WAYS}. If others have seen the file, exchange the secret."
            problems.append(Problem(f"{where}.{name}", "a secret is typed into the file", remedy, WAYS, MASK))
    for name, field in kind.model_fields.items():
        if field.is_required() and name not in fields:
            problems.append(Problem(f"{where}.{name}", "is missing", "give its reference", WAYS))
    values: dict[str, Any] = dict(row.plain)
    for name, reference in row.references.items():
        value = opener.open(reference, f"{where}.{name}")
        if isinstance(value, Problem):
            problems.append(value)
        else:
            values[name] = value if name in kind.model_fields and _is_secret(kind.model_fields[name].annotation) else (
                value.get_secret_value()
            )  # fmt: skip
    return _built(kind, values, where, problems) if len(problems) == before else None


def _built(kind: type[Block], values: Mapping[str, Any], where: str, problems: list[Problem]) -> Block | None:
    try:
        return kind(**values)
    except ValidationError as error:
        for one in error.errors(include_input=False, include_context=False, include_url=False):
            place = ".".join(map(str, one["loc"]))
            problems.append(Problem(f"{where}.{place}", f"was refused ({one['type']})", "correct the value"))
    return None


def _is_secret(annotation: Any) -> bool:
    parts = [annotation, *get_args(annotation)]
    return any(inspect.isclass(part) and issubclass(part, SecretStr | Secret) for part in parts)


def _fields(block: Block) -> Fields:
    data = block.model_dump(mode="json", context={"include_secrets": True}, include=set(type(block).model_fields))
    return {key: _masked(value) for key, value in data.items()}


def _masked(value: Any) -> Any:
    """Wrap a text, so that it compares and prints as a mask."""
    return SecretStr(value) if isinstance(value, str) else value
