"""`stackwright setup`: bring the Prefect server to what the repository declares."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from stackwright.domain.setup import Change

HELD = 2  # exit code when something that is no longer declared was not removed


def setup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    blocks: Annotated[
        Path | None, typer.Option(help="File of references from which blocks are made; it holds no value.")
    ] = None,
    server: Annotated[
        Path | None,
        typer.Option(help="File that declares the work pools, for a team's size; else deployments/server.yaml."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is no longer declared also where runs have not ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Bring the Prefect server to what is declared: block types, work pools, deployments, schedules, automations.

    Shows what it does; the second time there is nothing to change. Removes what setup made and nobody declares any
    more; ends with 2 where it held something back because runs would be lost with it. Sites whose files are on another
    machine are named, and left at work.
    """
    from stackwright.domain.setup import summary
    from stackwright.setup_server import Asked, GoneSites, set_up

    def show(changes: list[Change]) -> None:
        if not as_json:
            _show(changes)

    changes = set_up(Asked(blocks, server, remove, dry_run), show)
    if as_json:
        rows = [asdict(change) for change in changes if not change.empty]
        found = {"applied": not dry_run, "changes": rows, "kept": len(changes) - len(rows)}
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(f"{'dry run: ' if dry_run else 'done: '}{summary(changes, done=not dry_run)}\n")
    if any(change.act == "hold" and change.kind != GoneSites.kind for change in changes):
        raise typer.Exit(HELD)


def _show(changes: list[Change]) -> None:
    rows = [change for change in changes if not change.empty]
    if not rows:
        return
    table = Table("what", "kind", "name", "why", box=None, pad_edge=False, header_style="bold")
    for change in rows:
        table.add_row(change.act, change.kind, change.name, change.why)
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 400).print(table)
