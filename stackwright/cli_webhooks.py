"""`stackwright webhooks serve|key|sign`: the receiver, its callers' keys, and signing one request by hand."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

webhooks_app = typer.Typer(no_args_is_help=True, help="The receiver of signed requests about tenants.")
key_app = typer.Typer(no_args_is_help=True, help="Signing keys of the receiver's callers.")
webhooks_app.add_typer(key_app, name="key")

CallerArg = Annotated[str, typer.Argument(help="Name of the caller in the receiver's settings.")]
GRACE_S = 10
KEY_VARIABLE = "STACKWRIGHT_WEBHOOK_KEY"


@webhooks_app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on. Put a proxy with TLS before any other one.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8470,
) -> None:
    """Receive requests, keep them, and have them carried out. SIGTERM ends it after the answers that are under way."""
    import uvicorn

    from blocks.site import state_folder
    from stackwright.clients.tracing import start_tracing
    from stackwright.runs import server_url
    from stackwright.webhooks.app import create_app
    from stackwright.webhooks.settings import read_settings, settings_file, store_url

    server_url()
    start_tracing()
    settings = read_settings(settings_file())
    store = store_url(settings, state_folder("webhooks"))
    asyncio.run(_try_store(store))  # uvicorn would show what is wrong with it as a traceback
    app = create_app(settings, store)
    # Headers of proxies are not read: nothing here depends on a client's address. Uvicorn's own access log would show
    # queries as they were sent.
    uvicorn.run(
        app,
        host=host,
        port=port,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        log_config=_logs(),
    )


async def _try_store(address: str) -> None:
    """Open the store once and close it. Raises StoreUnavailableError, which the command line prints."""
    from stackwright.webhooks.store import open_store

    store = await open_store(address)
    await store.close()


@key_app.command("rotate")
def key_rotate(
    caller: CallerArg,
    drop_previous: Annotated[
        bool, typer.Option("--drop-previous", help="End a previous key that is still valid: its users are locked out.")
    ] = False,
) -> None:
    """Make a caller's first or next key, and print it once. The one before it stays valid until it is retired."""
    from blocks.store import BlockSecrets
    from stackwright.webhooks.keys import rotate

    key_id, key = rotate(BlockSecrets(), _block_of(caller), keep_previous=not drop_previous)
    sys.stderr.write(f"{caller}: key {key_id} is valid in a moment; it is printed this once, on standard output:\n")
    sys.stdout.write(f"{caller}:{key_id} {key.get_secret_value()}\n")


@key_app.command("retire")
def key_retire(caller: CallerArg) -> None:
    """End a caller's previous key: only the newest is valid then."""
    from blocks.store import BlockSecrets
    from stackwright.webhooks.keys import retire

    gone = retire(BlockSecrets(), _block_of(caller))
    sys.stdout.write(f"{caller}: key {gone} is retired\n" if gone else f"{caller}: there was no previous key\n")


@webhooks_app.command("sign")
def sign_request(
    caller_and_id: Annotated[str, typer.Argument(help="CALLER:KEY-ID, as `key rotate` printed it.")],
    method: Annotated[str, typer.Argument(help="POST, PATCH, DELETE or GET.")],
    target: Annotated[str, typer.Argument(help="Path with its query, such as /v1/tenants?site=berlin.")],
    body: Annotated[Path | None, typer.Option(help="File with the body.")] = None,
    idempotency_key: Annotated[str, typer.Option(help="Idempotency key of the request; none for GET.")] = "",
) -> None:
    """Print the headers of one signed request, for `curl --header @-`. The key comes from STACKWRIGHT_WEBHOOK_KEY."""
    from stackwright.webhooks.signing import signed_headers

    key = os.environ.get(KEY_VARIABLE, "")
    caller, _, key_id = caller_and_id.partition(":")
    if not key or not key_id:
        raise typer.BadParameter(f"give CALLER:KEY-ID, and the key in the variable {KEY_VARIABLE}")
    raw = body.read_bytes() if body else b""
    headers = signed_headers(caller, key_id, key, f"{time.time():.6f}", method, target, idempotency_key, raw)
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in headers.items()))


def _block_of(caller: str) -> str:
    """Return the block of a caller's keys. A caller that the settings do not know is a mistake."""
    from stackwright.webhooks.settings import read_settings, settings_file

    settings = read_settings(settings_file())
    if caller not in settings.callers:
        raise typer.BadParameter(f"the settings know no such caller; one of {', '.join(settings.callers)}")
    return settings.block_of(caller)


def _logs() -> dict[str, object]:
    """Return uvicorn's logging with our own loggers in it: one line an event, on standard error, with its time."""
    line = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    handler = {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}
    own = {name: {"handlers": ["all"], "level": "INFO", "propagate": False} for name in ("uvicorn", "stackwright")}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": line},
        "handlers": {"all": handler},
        "loggers": own,
    }
