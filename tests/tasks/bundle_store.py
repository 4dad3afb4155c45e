"""Bundles made by hand in a store, for the tests that need no cluster: whole, sealed, with an arbitrary snapshot."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

from pydantic import SecretStr

from stackwright.domain.bundle import (
    MANIFEST,
    SNAPSHOT,
    STATE,
    bundle_id,
    bundle_key,
    render_manifest,
    render_state,
    sealed,
)
from stackwright.domain.token_archive import token_hash
from tasks.bundle_files import put_sealed
from tasks.bundles import recipients_of
from tests.domain.bundle_made import KEYS, manifest_of, state_of
from tests.tasks.bundle_site import TOKEN


@cache
def _content() -> bytes:
    return b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(8000))


CONTENT = _content()


def bundle_in(world, store, hours: float = 1.0, content: bytes = CONTENT) -> str:
    """Put a whole bundle, made so long ago, into a store; return its name."""
    made_s = world.clock.now() - hours * 3600
    name = bundle_id(made_s, os.urandom(4).hex())
    state = state_of(seal=SecretStr(os.urandom(32).hex()), token=SecretStr(TOKEN))
    files = {
        file: put_sealed(
            store, bundle_key(store.folder, "north", name, file), io.BytesIO(data), recipients_of(world.site)
        )
        for file, data in ((SNAPSHOT, content), (STATE, render_state(state)))
    }
    manifest = manifest_of(
        id=name, created_at=datetime.fromtimestamp(int(made_s), UTC).isoformat(), token_hash=token_hash(TOKEN),
        encryption_sha256=hashlib.sha256(KEYS).hexdigest(), files=files,
    )  # fmt: skip
    text = render_manifest(sealed(replace(manifest, tag=""), state.seal))
    store.write(bundle_key(store.folder, "north", name, MANIFEST), text.encode())
    return name
