"""`stackwright lease SITE`: whose the site's lease is, in both places, and every node's fencing number. Read only."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stackwright.cli_runs import WithoutServer
from stackwright.cli_runs import without_server as alone
from stackwright.domain.lease import LeaseState, clock

if TYPE_CHECKING:
    from tasks.lease_view import LeaseView, PlaceView

UNREAD = 1  # exit code when a place or a node could not be read: then nobody knows the whole


def lease(
    site: Annotated[str, typer.Argument(help="Name of the site: its file in deployments/sites, without .yaml.")],
    without_server: WithoutServer = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Show who may change a site now: both copies of its lease and each node's fencing number. Changes nothing."""
    from blocks.site import load_site
    from tasks.lease_view import read_lease

    with alone(site, without_server):
        _, place = load_site(site)
    seen = read_lease(place)
    if as_json:
        sys.stdout.write(json.dumps({"site": site, **_machine(seen)}) + "\n")
    else:
        _show(seen)
    if seen.problems:
        raise typer.Exit(UNREAD)


def _show(seen: LeaseView) -> None:
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    for view in seen.places:
        out.print(f"{view.place}: {told(view)}", markup=False, soft_wrap=True)
    table = Table("node", "fencing number", box=None, pad_edge=False, header_style="bold")
    for fence in seen.fences:
        table.add_row(fence.node, fence.problem or str(fence.number))
    out.print(table)


def told(view: PlaceView) -> str:
    """Return one place's copy in words."""
    state = view.state
    if view.problem:
        return f"could not be read: {view.problem}"
    if state is None:
        return "no lease was ever taken here"
    plan = f"; plan {state.plan} was begun and not finished" if state.plan else ""
    if state.holder is None:
        return f"free; last number {state.number}, given back {clock(state.renewed_at)}{plan}"
    left = state.until - view.now
    until = f"until {clock(state.until)} unless renewed" if left > 0 else f"time over since {clock(state.until)}"
    since = f" since {clock(state.taken_at)}" if state.taken_at else ""
    return f"held by {state.holder}{_link(state)}, number {state.number}{since}, {until}{plan}"


def _link(state: LeaseState) -> str:
    return f", {state.holder.url}" if state.holder and state.holder.url else ""


def _machine(seen: LeaseView) -> dict[str, Any]:
    return {
        "places": [
            {
                "place": view.place,
                "problem": view.problem,
                "now": view.now,
                # Fingerprints say nothing to a reader, and there may be thousands.
                "lease": None if view.state is None else {**asdict(view.state), "steps": len(view.state.steps)},
            }
            for view in seen.places
        ],
        "fences": [asdict(fence) for fence in seen.fences],
    }
