"""`stackwright runs list|send`: runs that were made with `--without-server`, and putting them onto the server."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackwright.domain.run_record import RecordError

if TYPE_CHECKING:
    from stackwright.without_server import Source

runs_app = typer.Typer(no_args_is_help=True, help="Runs that were made without the Prefect server.")
HELD = 2  # exit code when a kept block or a record was not put onto the server

WithoutServer = Annotated[
    Path | None,
    typer.Option(
        "--without-server",
        metavar="FILE",
        help="Work without the Prefect server: FILE says where secrets are, as for `setup --blocks`.",
    ),
]


@contextmanager
def without_server(site: str, file: Path | None) -> Iterator[None]:
    """Have secrets come from a file of references where one is given; nothing else is asked of a server then."""
    if file is None:
        yield
        return
    from blocks.site import secrets_from

    with secrets_from(opened(site, file).secrets):
        yield


def opened(site: str, file: Path) -> Source:
    """Open a site's secrets from a file of references, and say what is to be known about them."""
    from stackwright.without_server import open_source, real_server_answers

    quiet()
    if url := real_server_answers():
        say(f"the Prefect server {url} answers: this run will not be seen on it until it is sent")
    source = open_source(site, file)
    for line in source.said:
        say(line)
    return source


def quiet() -> None:
    """Have lines outside of a run go to the console alone. Call it before Prefect reads its settings."""
    os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"


def say(line: str) -> None:
    """Tell the operator; standard output is the command's own."""
    sys.stderr.write(f"without server: {line}\n")


def run_alone(site: str, file: Path, work: Callable[[], Any]) -> Any:
    """Do work on a server of its own, and say where the record lies."""
    from stackwright import spool
    from stackwright.without_server import own_server

    before = set(spool.waiting())
    try:
        with own_server(lambda: opened(site, file)):
            return work()
    finally:
        for path in sorted(set(spool.waiting()) - before):
            say(f"recorded as {path}; `stackwright runs send` puts it onto the Prefect server")


def remind() -> None:
    """Say on a run with the server that others wait to be sent to it."""
    from stackwright import spool

    count = len(spool.waiting())
    if count:
        sys.stderr.write(f"{count} run(s) made without the server wait here: `stackwright runs send`\n")


@runs_app.command("list")
def list_runs() -> None:
    """List the runs that were not sent yet: when, what, how it ended."""
    from stackwright import spool

    for path in spool.waiting():
        try:
            record = spool.read(path)
        except RecordError as error:
            sys.stderr.write(f"{error}\n")
            continue
        end = record.end
        sys.stdout.write(f"{record.head['began'][:19]}  {record.head['name']}  {end['name']}: {end['message']}\n")


@runs_app.command()
def send() -> None:
    """Put such runs, and the blocks that they wrote, onto the Prefect server. The second time nothing is changed.

    Ends with 2 where a block was held back because the server's was changed since, or a record is not what was written:
    that one stays, and the others are sent.
    """
    from blocks.site import site_names
    from stackwright import spool
    from stackwright.return_blocks import return_blocks
    from stackwright.runs import server_url
    from stackwright.send_runs import send_file
    from stackwright.without_server import kept_folder, recover

    url = server_url()
    spoilt = 0
    with spool.locked(spool.home() / "send.lock"):
        recover()
        for path in spool.waiting():
            try:
                record, outcome, run_id = asyncio.run(send_file(path))
            except RecordError as error:
                sys.stderr.write(f"{error}\n")
                spoilt += 1
                continue
            sys.stdout.write(f"{record.head['name']}: {outcome}, {url.removesuffix('/api')}/runs/flow-run/{run_id}\n")
        done = [(site, *one) for site in site_names() for one in return_blocks(kept_folder(site))]
    for site, block, what in done:
        sys.stdout.write(f"{site}: block {block}: {what}\n")
    sys.stdout.write(f"{spoilt} record(s) cannot be sent\n" if spoilt else "all runs are on the server\n")
    if spoilt or any(what.startswith("held") for _, _, what in done):
        raise typer.Exit(HELD)
