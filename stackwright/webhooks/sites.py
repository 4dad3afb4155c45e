"""The site files as the receiver reads them: for names, addresses and sizes of what is there. No secret is in them."""

from __future__ import annotations

import asyncio

from blocks.site import read_spec, site_folders
from stackwright.domain.errors import SiteFileError
from stackwright.domain.spec import StackSpec

Stamp = tuple[str, int, int]


class Sites:
    """Site files, read again when they have changed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Stamp, StackSpec]] = {}

    async def spec(self, name: str) -> StackSpec:
        """Return a site's spec. Raises SiteFileError."""
        return await asyncio.to_thread(self._spec, name)

    def _spec(self, name: str) -> StackSpec:
        stamp = _stamp(name)
        kept = self._kept.get(name)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        spec = read_spec(name)
        if stamp is not None:
            self._kept[name] = (stamp, spec)
        return spec

    async def broken(self, names: set[str]) -> list[str]:
        """Return those of these sites whose files are missing or refused."""
        bad = []
        for name in sorted(names):
            try:
                await self.spec(name)
            except SiteFileError:
                bad.append(name)
        return bad


def _stamp(name: str) -> Stamp | None:
    for folder in site_folders():
        path = folder / f"{name}.yaml"
        if path.is_file():
            seen = path.stat()
            return str(path), seen.st_mtime_ns, seen.st_size
    return None
