"""The callers' signing keys: from Prefect blocks, kept in memory alone, read again: rotation needs no restart."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from stackwright.clients.secrets import Secrets
from stackwright.domain.errors import NotFoundError, SecretMissingError, SecretsUnavailableError, StackError
from stackwright.domain.kinds import Kind
from stackwright.webhooks.settings import Settings

log = logging.getLogger(__name__)
LOOK_AGAIN_S = 1.0  # an unknown key id makes the receiver ask Prefect at most so often

KIND: Kind = "webhook-keys"


@dataclass
class _Kept:
    keys: dict[str, SecretStr] = field(default_factory=dict, repr=False)
    read_at: float | None = None
    tried_at: float | None = None


class KeyRing:
    """The keys of every caller in the settings. `secrets` makes a reader of blocks that remembers nothing."""

    def __init__(self, settings: Settings, secrets: Callable[[], Secrets], now: Callable[[], float]) -> None:
        self._settings = settings
        self._secrets = secrets
        self._now = now
        self._kept = {caller: _Kept() for caller in settings.callers}
        self._locks = {caller: asyncio.Lock() for caller in settings.callers}

    async def find(self, caller: str, key_id: str) -> SecretStr | None:
        """Return a caller's key; None for an unknown caller or key.

        Raises SecretsUnavailableError where Prefect does not answer and nothing fresh enough is known.
        """
        kept = self._kept.get(caller)
        if kept is None:
            return None
        if (key_id not in kept.keys and self._older(kept.tried_at, LOOK_AGAIN_S)) or self._too_old(kept):
            await self._read(caller)
        if self._too_old(kept):
            raise SecretsUnavailableError(
                "the callers' keys are not known, or too old to be trusted", where=f"caller {caller}"
            )
        return kept.keys.get(key_id)

    async def refresh(self) -> None:
        """Read every caller's keys again; what cannot be read stays as it was."""
        for caller in self._kept:
            await self._read(caller)

    def unread(self) -> list[str]:
        """Return the callers whose keys are not known, or too old to be trusted."""
        return [caller for caller, kept in self._kept.items() if self._too_old(kept)]

    def without_keys(self) -> list[str]:
        """Return the callers that have no key at all."""
        return [caller for caller, kept in self._kept.items() if kept.read_at is not None and not kept.keys]

    async def _read(self, caller: str) -> None:
        kept = self._kept[caller]
        async with self._locks[caller]:
            kept.tried_at = self._now()
            try:
                fields = await asyncio.to_thread(self._secrets().read, KIND, self._settings.block_of(caller))
            except StackError as error:
                log.warning("caller %s: its keys could not be read: %s", caller, type(error).__name__)
                return
            kept.keys = active_keys(fields or {})
            kept.read_at = self._now()

    def _older(self, then: float | None, seconds: float) -> bool:
        return then is None or self._now() - then > seconds

    def _too_old(self, kept: _Kept) -> bool:
        return self._older(kept.read_at, self._settings.keys_max_age_s)


def active_keys(given: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    """Return the keys of a block by their ids."""
    pairs = ((given.get("key_id"), given.get("key")), (given.get("previous_id"), given.get("previous_key")))
    return {
        name.get_secret_value(): key
        for name, key in pairs
        if name and key and name.get_secret_value() and key.get_secret_value()
    }


def rotate(secrets_: Secrets, block: str, *, keep_previous: bool = True) -> tuple[str, SecretStr]:
    """Make a caller a new key and keep the one before it beside it; return its id and the key.

    Raises SecretMissingError while a previous key is still there, unless it may go: its users would be locked out.
    """
    before = secrets_.read(KIND, block) or {}
    if keep_previous and before and before["previous_id"].get_secret_value():
        raise SecretMissingError(
            "the previous key is still valid, and there is room for two",
            where=f"block {KIND}/{block}",
            remedy="Retire it first: `stackwright webhooks key retire CALLER`.",
        )
    new_id, key = secrets.token_hex(4), SecretStr(secrets.token_hex(32))
    fields = {"key_id": SecretStr(new_id), "key": key, "previous_id": SecretStr(""), "previous_key": SecretStr("")}
    if before:
        fields |= {"previous_id": before["key_id"], "previous_key": before["key"]}
    secrets_.write(KIND, block, fields)
    return new_id, key


def retire(secrets_: Secrets, block: str) -> str:
    """End the previous key and return its id; empty where there was none. Raises NotFoundError without a block."""
    before = secrets_.read(KIND, block)
    if before is None:
        raise NotFoundError("this caller has no keys", where=f"block {KIND}/{block}")
    gone = before["previous_id"].get_secret_value()
    if gone:
        secrets_.write(KIND, block, {**before, "previous_id": SecretStr(""), "previous_key": SecretStr("")})
    return gone
