"""`stackwright schedules SITE`: turn the catalogue's schedules on for a site, with the automations that watch them."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer


def schedules(
    site: Annotated[str, typer.Argument(help="Name of the site: its file in deployments/sites, without .yaml.")],
    off: Annotated[bool, typer.Option("--off", help="Remove the site's schedules and automations.")] = False,
    notify: Annotated[
        str | None,
        typer.Option(
            help="Notification block to call for a failed or missing run, TYPE/NAME such as slack-webhook/oncall;"
            " `none` for none. Without it, what was named before stays."
        ),
    ] = None,
) -> None:
    """Turn a site's schedules on: snapshots, drills, rehearsals, scans. The second time nothing is changed."""
    from blocks.site import read_spec
    from stackwright.domain.schedules import wanted_on
    from stackwright.schedules import KEEP, declared, set_schedules

    wanted, lacking = ([], []) if off else wanted_on(read_spec(site), declared())
    block = KEEP if notify is None else None if notify == "none" else notify
    for line in asyncio.run(set_schedules(site, wanted, block)):
        sys.stdout.write(line + "\n")
    for row in lacking:
        sys.stdout.write(f"{row.name_for(site)}: not on, the site file has no `{row.needs}`\n")
