"""`stackwright worker tenants` carries out tenants' requests in one process; `... worker watch` resumes lost runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from stackwright.cli_settings import NO_RUN, prefer

worker_app = typer.Typer(no_args_is_help=True, help="Workers that carry out what was asked for.")

SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",  # a request is taken within a second
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # automation crash-zombies counts on it
    **NO_RUN,
}
"""What this process needs of Prefect unless its environment says otherwise."""


@worker_app.callback()
def workers() -> None:
    """Carry out what was asked for."""


@worker_app.command()
def tenants(
    name: Annotated[
        str | None, typer.Option(help="Name of this worker, one process each. Default: tenants- and the host's name.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Runs at once.")] = 8,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that runs may still take after SIGTERM.")] = 120.0,
    health: Annotated[
        bool, typer.Option("--health", help="Answer /health on PREFECT_WORKER_WEBSERVER_PORT (8080).")
    ] = False,
) -> None:
    """Take tenants' requests from the Prefect server and carry them out, in this process, until SIGTERM."""
    prefer(SETTINGS)
    from blocks.site import state_folder
    from stackwright.runs import server_url
    from stackwright.worker import TenantWorker
    from stackwright.worker_process import default_name, serve

    server_url()
    logging.getLogger("stackwright").setLevel(logging.INFO)
    worker = TenantWorker(name or default_name(), limit=limit)
    serve(worker, Path(state_folder(".workers")), grace_s=grace, health=health)
    sys.stdout.write(f"worker {worker.name} has stopped\n")


@worker_app.command()
def watch(
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 5.0,
) -> None:
    """Start runs again whose process is gone, where that goes on with what was begun (docs/team.md), until SIGTERM."""
    prefer(NO_RUN)
    from blocks.site import state_folder
    from stackwright.resume import serve
    from stackwright.runs import server_url

    server_url()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("stackwright").setLevel(logging.INFO)
    serve(every, Path(state_folder(".workers")) / "watch.alive")
