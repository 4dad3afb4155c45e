"""Where PostgreSQL's programs are: Debian keeps those of the server off the path, in a folder for each version."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")
NEEDED = ("initdb", "postgres", "pg_ctl", "pg_dump")


def postgres_programs(debian: Path = DEBIAN) -> Path | None:
    """Return the folder with the server's programs: the path's first, then the newest of Debian's; None without any."""
    on_path = shutil.which("initdb")
    first = [Path(on_path).resolve().parent] if on_path else []
    versions = sorted(debian.glob("*/bin"), key=lambda folder: _number(folder.parent.name), reverse=True)
    return next((one for one in (*first, *versions) if all((one / name).is_file() for name in NEEDED)), None)


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
