"""Commands for a site's backups: `stackwright backup list|now|drill|state|key ...`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.table import Table

from stackwright.cli_runs import WithoutServer
from stackwright.cli_runs import without_server as alone

if TYPE_CHECKING:
    from stackwright.domain.backup_evidence import BackupView


class Run(Protocol):
    """Starts a run of the catalogue, with the server or without."""

    def __call__(
        self, name: str, parameters: dict[str, Any], as_json: bool, *, without: Path | None = None
    ) -> object: ...


Site = Annotated[str, typer.Argument(help="Name of the site: its file in deployments/sites, without .yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BROKEN = 1  # exit code when a bundle cannot be relied on, or when there is none


def add_backup_commands(app: typer.Typer, run: Run) -> None:
    """Add the command group; `run(deployment, parameters, as_json)` starts a run of the catalogue."""
    backup = typer.Typer(no_args_is_help=True, help="Backups of a site: bundles, drills, other state.")
    app.add_typer(backup, name="backup")

    @backup.command("list")
    def list_them(site: Site, without_server: WithoutServer = None, as_json: Json = False) -> None:
        """List the bundles in the site's stores: age, size, keys, which is proven. Changes nothing."""
        from blocks.site import load_site
        from tasks.backup import view_backups

        with alone(site, without_server):
            _, place = load_site(site)
        view = view_backups(place)
        if as_json:
            sys.stdout.write(json.dumps(_machine(site, view)) + "\n")
        else:
            _show(site, view)
        if view.broken or view.second_problem or not view.bundles:
            raise typer.Exit(BROKEN)

    @backup.command("now")
    def now(site: Site, without_server: WithoutServer = None, as_json: Json = False) -> None:
        """Make a bundle now, however fresh the newest one is."""
        run("snapshot-etcd", {"site": site, "fresh_s": 0}, as_json, without=without_server)

    @backup.command("drill")
    def drill(
        site: Site,
        bundle: Annotated[str, typer.Option(help="The bundle's name. Empty: the newest one.")] = "",
        as_json: Json = False,
    ) -> None:
        """Restore a bundle on the fenced spare host, compare it with what it says, and wipe the host."""
        run("drill-restore", {"site": site, "bundle": bundle}, as_json)

    @backup.command("state")
    def state(site: Site, as_json: Json = False) -> None:
        """Export what etcd does not hold, and judge the age of every copy that others make."""
        run("back-up-state", {"site": site}, as_json)

    @backup.command("key")
    def key(site: Site) -> None:
        """Make the key that opens the site's bundles, if there is none, and print its public half alone."""
        from blocks.site import load_site
        from tasks.bundles import ensure_identity

        _, place = load_site(site)
        recipient, made = ensure_identity(place)
        sys.stdout.write(recipient + "\n")
        block = f"secret-text/{place.spec.backup.key_block}" if place.spec.backup else ""
        said = f"made and kept in block {block}" if made else f"kept in block {block} already"
        text = f"{said}. Keep a copy of the block's value outside of Prefect: without it no bundle can be opened."
        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _show(site: str, view: BackupView) -> None:
    from stackwright.domain.backup_evidence import COLUMNS, backup_rows

    out = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    for row in backup_rows(view):
        table.add_row(*row)
    out.print(table if view.bundles or view.broken else f"{site}: no bundle")
    if view.second_problem:
        out.print(f"second store: {view.second_problem}", markup=False, soft_wrap=True)


def _machine(site: str, view: BackupView) -> dict[str, Any]:
    return {
        "site": site,
        "bundles": [asdict(one) for one in view.bundles],
        "broken": dict(view.broken),
        "proven": view.proven[0].id if view.proven else None,
        "second": list(view.second) if view.has_second else None,
        "second_problem": view.second_problem,
    }
