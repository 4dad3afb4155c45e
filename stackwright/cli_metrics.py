"""`stackwright metrics serve` answers Prometheus; `... show` prints once what it would answer."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from stackwright.cli_settings import NO_RUN, prefer

metrics_app = typer.Typer(no_args_is_help=True, help="Runs, steps and round trips in Prometheus' format.")

KEPT = "sums.json"


@metrics_app.callback()
def metrics() -> None:
    """Tell Prometheus of runs, steps and round trips."""


@metrics_app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at. It asks nobody who they are.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = 9488,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks at the Prefect server.")] = 30.0,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the sums in the state folder, so that a restart loses none.")
    ] = True,
) -> None:
    """Answer Prometheus at /metrics with what the Prefect server knows, until SIGTERM. One process for all sites."""
    prefer(NO_RUN)
    from blocks.site import state_folder
    from stackwright import metrics
    from stackwright.runs import server_url

    server_url()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("stackwright").setLevel(logging.INFO)
    path = Path(state_folder(".metrics")) / KEPT if keep else None
    metrics.serve(host, port, every, metrics.Kept(path))


@metrics_app.command()
def show(
    hours: Annotated[float, typer.Option(min=0, help="How far back ended runs are counted.")] = 24.0,
) -> None:
    """Look once, and print what Prometheus would be answered, had it counted for so many hours."""
    prefer(NO_RUN)
    from stackwright import metrics
    from stackwright.domain.errors import ApiUnavailableError
    from stackwright.runs import server_url

    url = server_url()
    text = metrics.show(hours)
    if text is None:
        raise ApiUnavailableError("the Prefect server does not answer", where=url)
    sys.stdout.write(text)
