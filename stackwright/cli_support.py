"""`stackwright support-bundle SITE`: what whoever helps needs to see, in one archive without secrets."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stackwright.cli_runs import WithoutServer
from stackwright.cli_settings import NO_RUN, prefer

if TYPE_CHECKING:
    from stackwright.support.bundle import Made


def support_bundle(
    site: Annotated[str, typer.Argument(help="Name of the site: its file in deployments/sites, without .yaml.")],
    listed: Annotated[
        bool, typer.Option("--list", help="Gather and search as always, list what would go in, and write nothing.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder for the archive; made at need.")] = Path(),
    runs: Annotated[int, typer.Option(min=0, max=200, help="So many of the site's newest runs, with their logs.")] = 10,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds for each part; all are read at once.")] = 90.0,
    without_server: WithoutServer = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Gather what whoever helps needs to see into one archive, without secrets. Changes nothing, sends nothing.

    What cannot be read is said in its index and stops nothing: a server, a cluster or a node may be down. Ends with 2,
    and writes nothing, where a known secret would be in it.
    """
    prefer(NO_RUN)
    from stackwright.domain.support import Limits
    from stackwright.support.bundle import make, save

    given = None
    if without_server is not None:
        from stackwright.without_server import read_given

        given = read_given(without_server)
    made = make(site, Limits(runs=runs, part_s=deadline), given=given)
    path, digest = (None, "") if listed else save(made, output)
    if as_json:
        found = {"path": str(path) if path else None, "sha256": digest, "redaction": made.redaction, **_machine(made)}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    _show(made, listed)
    if path is not None:
        sys.stdout.write(f"{path} (sha256 {digest}): read it before you send it\n")


def _show(made: Made, listed: bool) -> None:
    out = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 400)
    if listed:
        table = Table("file", "bytes", "masked", "left out", box=None, pad_edge=False, header_style="bold")
        for one in made.packed:
            table.add_row(one.name, str(len(one.data)), str(one.masked or ""), str(one.cut_bytes or ""))
        out.print(table)
    for part in _machine(made)["parts"]:
        out.print(f"{part['part']}: {part['outcome']}{': ' if part['why'] else ''}{'; '.join(part['why'])}")
    if made.redaction["not_read"]:
        out.print("The blocks could not be read: only what looks like a secret was taken out. Look through it first.")


def _machine(made: Made) -> dict[str, Any]:
    index = json.loads(made.packed[0].data)  # its reasons are cleaned; those of the parts are as they came
    files = [
        {**{k: v for k, v in asdict(one).items() if k != "data"}, "bytes": len(one.data), "sha256": one.sha256}
        for one in made.packed
    ]
    return {"parts": index["parts"], "files": files}
