"""Which blocks belong to a site: all names that its site file gives, and those that are made for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stackwright.domain.layers import order, releases_of
from stackwright.domain.spec import StackSpec
from stackwright.domain.token_archive import archive_block
from stackwright.domain.values import markers_in


def block_names(spec: StackSpec) -> tuple[str, ...]:
    """Return the names of all blocks that the site may use, sorted. Not each of them need exist."""
    names = {name for name in _fields(spec.model_dump(mode="json")) if name}
    names.add(archive_block(spec.rke2.token_block))
    for layer in order(spec):
        objects = [item.manifest for item in (*layer.before_objects(spec), *layer.after_objects(spec))]
        trees = [*objects, *(release.values for release in releases_of(spec, layer))]
        names |= {marker.block for marker in markers_in(trees) if marker.kind in ("secret", "pull")}
        names |= {made.block for made in layer.secrets(spec)}
    return tuple(sorted(names | {tenant.credentials_block for tenant in spec.tenants}))


def _fields(tree: Any, key: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            # `credentials` of registries and charts maps hosts to blocks.
            yield from _fields(value, "registry_block" if key == "credentials" else str(name))
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for value in tree:
            yield from _fields(value, key)
    elif key.endswith("_block") and isinstance(tree, str):
        yield tree
