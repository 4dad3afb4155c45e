"""What this machine knows without asking anybody: versions, settings, the site file's shape, reports, databases."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import prefect
import yaml
from prefect.settings import get_current_settings
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from blocks.site import site_folders
from stackwright import __version__, spool
from stackwright.domain.errors import SiteFileError, StackError
from stackwright.domain.redaction import MASK
from stackwright.domain.site_secrets import is_secret_key
from stackwright.domain.sitefile import parse_site
from stackwright.domain.support import Limits, Member, member_name
from stackwright.reports.store import reports_folder
from stackwright.support.gathering import Basket, Work
from stackwright.support.known import OURS, is_secret_variable
from tasks.preflight_controller import tool_version

TOLD_PACKAGES = (
    "fastapi",
    "sqlalchemy",
    "pydantic",
    "paramiko",
    "kubernetes",
    "httpx",
    "clearml",
    "boto3",
    "prefect-redis",
    "prefect-kubernetes",
)


def local_parts(site: str, state: Path, limits: Limits) -> dict[str, Work]:
    """Return the parts that need neither server nor hosts."""
    return {
        "versions": read_versions,
        "settings": read_settings,
        "site file": lambda basket: read_site_file(basket, site),
        "reports": lambda basket: read_reports(basket, site, limits),
        "databases": lambda basket: read_databases(basket, state),
        "unsent runs": lambda basket: read_unsent(basket, site),
    }


def read_versions(basket: Basket) -> None:
    """Read what runs here, in which version."""
    found = {one.metadata["Name"].lower(): one.version for one in distributions() if one.metadata["Name"]}
    basket.put_json(
        {
            "stackwright": __version__,
            "prefect": prefect.__version__,
            "python": sys.version,
            "system": platform.platform(),
            "helm": tool_version("helm") or "not installed",
            "kubectl": tool_version("kubectl") or "not installed",
            "packages": {name: found.get(name, "not installed") for name in TOLD_PACKAGES},
        },
        "versions.json",
    )


def read_unsent(basket: Basket, site: str) -> None:
    """Read the records of runs that were made without the server and are not on it yet."""
    for path in spool.waiting():
        try:
            mine = spool.read(path).head["site"] == site
        except StackError as error:
            basket.miss(str(error))
            continue
        if mine:
            basket.put(Member(member_name("unsent-runs", path.name), path.read_text(encoding="utf-8")))


def read_settings(basket: Basket) -> None:
    """Read Prefect's settings and our variables; what may be secret is named without its value."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=False)
    variables = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    masked = {
        name: MASK if is_secret_variable(name) else value for name, value in sorted({**settings, **variables}.items())
    }
    basket.put_json({"variables": masked, "working_directory": str(Path.cwd())}, "settings.json")


def read_site_file(basket: Basket, site: str) -> None:
    """Read the site file's shape: every key, names of blocks, numbers and words, and no value under a telling key.

    A file that is refused is shown all the same, with why; what may be a secret in it is not.
    """
    path = next((one for folder in site_folders() if (one := folder / f"{site}.yaml").is_file()), None)
    if path is None:
        basket.miss(f"no site file {site}.yaml in {', '.join(str(folder) for folder in site_folders())}")
        return
    text = path.read_text(encoding="utf-8")
    try:
        parse_site(text, str(path))
    except SiteFileError as error:
        basket.miss(str(error))
    try:
        shape = shape_of(yaml.safe_load(text))
    except yaml.YAMLError:
        basket.miss("the site file is no YAML: its shape cannot be told")
        return
    basket.put(Member("site.yaml", yaml.safe_dump(shape, sort_keys=False, allow_unicode=True)))


def shape_of(tree: Any, key: str = "", parent: str = "") -> Any:
    """Return a tree with every literal masked that stands under a key whose name says that it is a secret."""
    if isinstance(tree, Mapping):
        if is_secret_key(str(tree.get("name", ""))) and "value" in tree:
            return {**tree, "value": MASK}
        return {name: shape_of(value, str(name), key) for name, value in tree.items()}
    if isinstance(tree, list):
        return [shape_of(value, key, parent) for value in tree]
    named = isinstance(tree, str) and tree.startswith("${")
    return (
        MASK
        if tree not in (None, "") and not isinstance(tree, bool) and not named and is_secret_key(key, parent)
        else tree
    )


def read_reports(basket: Basket, site: str, limits: Limits) -> None:
    """Read the newest reports that runs have left on this machine: what there is when the server is down."""
    folder = reports_folder() / site
    paths = sorted(folder.glob("*/report.json"), key=lambda path: (-path.stat().st_mtime, path.parent.name))
    if not paths:
        basket.miss(f"no report below {folder}")
    for number, path in enumerate(paths[: limits.runs]):
        name = member_name("reports", f"{number:02}-{path.parent.name[:8]}.json")
        basket.put(Member(name, path.read_text(encoding="utf-8", errors="replace")))


# --- databases -------------------------------------------------------------------------------------------------------


def read_databases(basket: Basket, state: Path) -> None:
    """Read how large the databases on this machine are, and how many rows their tables have. No row is read."""
    found = {}
    for name, path in database_files(state):
        try:
            found[name] = sizes_of(path)
        except (OSError, sqlite3.Error) as error:
            basket.miss(f"{name} ({path}): {error}")
    if not found:
        basket.miss("no database file on this machine: the server's is elsewhere, or PostgreSQL's own views tell")
    basket.put_json(found, "databases.json")


def database_files(state: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of the SQLite files that Prefect and the webhook receiver use here."""
    url = get_current_settings().server.database.connection_url
    try:
        database = make_url(url.get_secret_value()) if url else None
    except ArgumentError:
        database = None
    prefect_file = get_current_settings().home / "prefect.db"
    if database is not None:
        prefect_file = Path(database.database or "") if database.get_backend_name() == "sqlite" else Path()
    for name, path in (("prefect", prefect_file), ("webhooks", state.parent / "webhooks" / "requests.db")):
        if path.is_file():
            yield name, path


def sizes_of(path: Path) -> dict[str, Any]:
    """Return the bytes of a SQLite database with what lies beside it, and the rows of each table."""
    files = {one.name: one.stat().st_size for one in sorted(path.parent.glob(f"{path.name}*")) if one.is_file()}
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        tables = [
            row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        ]
        # Names come from the database itself; a quote in one is doubled.
        rows = {
            table: connection.execute('SELECT count(*) FROM "{}"'.format(table.replace('"', '""'))).fetchone()[0]  # noqa: S608
            for table in tables
        }
    finally:
        connection.close()
    return {"bytes": files, "rows": rows}
