"""Runs without the Prefect server: where their secrets come from, and the server of their own that records them.

Never chosen by itself: the operator names a file of references with `--without-server`. Two places from which a site
is changed are kept apart by the site's lease, as always. Why it is so: docs/decisions/017-without-the-server.md.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_UI_ENABLED,
    temporary_settings,
)
from pydantic import SecretStr

from blocks.site import read_shape, secrets_from, state_folder
from stackwright import spool
from stackwright.clients.connect import connect
from stackwright.clients.kept_secrets import KEPT, Fields, KeptSecrets, Place
from stackwright.clients.private_files import private_folder
from stackwright.domain.errors import ConflictError, Problem, ProblemsError, ToolError
from stackwright.domain.layers import enabled
from stackwright.domain.preflight.wants import blocks
from stackwright.domain.spec import StackSpec
from stackwright.recorder import take_over

HOME = Path(__file__).parent.parent
END_LIMIT_S = 120.0
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SUDO_USER", "XDG_STATE_HOME")
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
"""What the server of one command needs, and nothing besides."""

log = logging.getLogger(__name__)


# --- secrets ---------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """A site's secrets without blocks, and what is to be said about them."""

    spec: StackSpec
    secrets: KeptSecrets
    said: list[str] = field(default_factory=list)
    listeners: list[Any] = field(default_factory=list)


def kept_folder(site: str) -> Path:
    """Return where the blocks lie that runs without a server have written for a site."""
    return state_folder(site) / KEPT


def open_source(site: str, file: Path, given: Mapping[Place, Fields] | None = None, *, restore: bool = False) -> Source:
    """Open a site's secrets: the file of references, behind it the newest sealed export of the site's blocks.

    The export is opened where the file gives the key of the bundles. `given` go before both. For a restore, the site
    file may break rules, and only what a restore needs must be there: its own command checks that.
    Raises ProblemsError with everything that is missing or cannot be opened, at once.
    """
    from tasks.blocks_export import newest_blocks

    spec = read_shape(site)[0] if restore else _strict(site)
    opened = {**read_given(file), **(given or {})}
    source = Source(spec, KeptSecrets(opened, kept_folder(site)))
    source.said = [_kept_note(source)] if _kept_note(source) else []
    key = ("secret-text", spec.backup.key_block) if spec.backup else None
    if key is not None and source.secrets.read(*cast("Place", key)) is not None and not restore:
        check_wanted(spec, source.secrets, file, only=("ssh-key", "s3"))
        found, when = newest_blocks(connect(spec, source.secrets, state_folder(site)))
        source.said.append(f"{len(found)} block(s) of the sealed export of {when} stand behind {file}")
        source.secrets = KeptSecrets({**found, **opened}, kept_folder(site), lambda values: _tell(source, values))
    else:
        source.secrets = KeptSecrets(opened, kept_folder(site), lambda values: _tell(source, values))
    if not restore:
        check_wanted(spec, source.secrets, file)
        source.said += _unknown(spec, source.secrets)
    return source


def read_given(file: Path) -> dict[Place, Fields]:
    """Return what a file of references gives for sites. Raises ProblemsError with all that cannot be opened."""
    from stackwright.setup_blocks import read_blocks

    return _fields(read_blocks(file))


def _strict(site: str) -> StackSpec:
    from blocks.site import read_spec

    return read_spec(site)


def _tell(source: Source, values: Iterable[str]) -> None:
    for listener in source.listeners:
        listener(list(values))


def _fields(found: Any) -> dict[Place, Fields]:
    """Return what a file of references holds for sites; notification blocks are the server's alone."""
    from blocks.types import BLOCKS

    opened: dict[Place, Fields] = {}
    for row, block in found.opened():
        if row.kind in BLOCKS:
            opened[row.kind, row.name] = {name: getattr(block, name) for name in type(block).model_fields}
    return opened


def _kept_note(source: Source) -> str:
    written = [path.name.removesuffix(".json") for path in sorted(kept_folder(source.spec.site).glob("*.json"))]
    return f"kept by earlier runs without a server, and used before all else: {', '.join(written)}" if written else ""


def check_wanted(spec: StackSpec, secrets: KeptSecrets, file: Path, only: tuple[str, ...] = ()) -> None:
    """Raise ProblemsError with every block that a deploy reads and that is known from nowhere."""
    remedy = f"Give it in {file}: docs/without-server.md. With the bundles' key there, the sealed export is opened too."
    problems = [
        Problem(want.place, f"block {want.key} is not known without the server", remedy, "its reference", "none")
        for want in blocks(spec)
        if not want.made and (not only or want.kind in only) and secrets.read(want.kind, want.name) is None
    ]
    if problems:
        raise ProblemsError("secrets are missing", problems, where=str(file))


def _unknown(spec: StackSpec, secrets: KeptSecrets) -> list[str]:
    """Say which blocks are known from nowhere that a deploy makes anew, which changes what is there."""
    made: set[Place] = {("secret-text", spec.rke2.token_block), ("cluster-access", spec.rke2.kubeconfig_block)}
    made |= {(secret.kind, secret.block) for layer in enabled(spec) for secret in layer.secrets(spec)}
    made |= {("api-key", tenant.credentials_block) for tenant in spec.tenants}
    lacking = sorted(f"{kind}/{name}" for kind, name in made if secrets.read(kind, name) is None)
    return [f"not known here, a deploy would make them: {', '.join(lacking)}"] if lacking else []


# --- the server of one command ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnServer:
    """The process that serves and records one command."""

    process: subprocess.Popen[str]
    folder: Path

    def hide(self, values: list[str]) -> None:
        """Keep values out of the record."""
        assert self.process.stdin is not None  # noqa: S101 - it was started with a pipe
        try:
            self.process.stdin.write(json.dumps(values) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise ToolError("the run's own server is gone", where=str(self.folder), seen=self.tail(),
                            remedy="Start the same command again: it continues.") from error  # fmt: skip

    def end(self) -> None:
        """Tell it that the run is over, and wait until the record is written."""
        try:
            self.process.communicate(timeout=END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        if self.process.returncode != 0:
            log.warning(
                "the run's record is not written yet, the next command without a server does it: %s", self.tail()
            )

    def discard(self) -> None:
        """End it before anything has begun, and leave nothing."""
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder)

    def tail(self) -> str:
        path = self.folder / "server.log"
        return path.read_text(errors="replace")[-800:] if path.exists() else ""


def servers() -> Path:
    """Return the folder of the servers of single commands."""
    return private_folder(spool.home() / "servers")


def launch(folder: Path) -> OwnServer:
    """Start the server of one command in a folder. Nothing of this process's environment goes along but its paths."""
    env = {key: value for key, value in os.environ.items() if key in PASSED_ON or key.startswith("STACKWRIGHT_STATE")}
    modules = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))  # the image has no other path
    env |= {**SETTINGS, "PREFECT_HOME": str(folder), "PYTHONPATH": modules}
    argv = [sys.executable, "-m", "stackwright.own_server", str(folder), str(spool.spool())]
    with (folder / "server.log").open("ab") as sink:
        process = subprocess.Popen(
            argv, env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True,
            start_new_session=True,
        )  # fmt: skip
    return OwnServer(process, folder)


def recover() -> int:
    """Record what commands have left whose server died with them, and return how many folders there were."""
    count = len(take_over())
    for folder in sorted(path for path in servers().iterdir() if path.is_dir()):
        if not _is_served(folder):
            log.warning("a run without a server was cut off: its record is written now")
            launch(folder).end()
            count += 1
    return count


def _is_served(folder: Path) -> bool:
    try:
        with spool.locked(folder / "lock"):
            return False
    except ConflictError:
        return True


@contextmanager
def own_server(find: Callable[[], Source]) -> Iterator[None]:
    """Run what is inside with a server of its own and the secrets that `find` opens; leave its record in the spool.

    The server starts while the secrets are opened. Where they cannot be, nothing has begun and nothing is recorded.
    """
    recover()
    server = launch(private_folder(servers() / uuid4().hex[:12]))
    try:
        source = find()
    except BaseException:
        server.discard()
        raise
    try:
        server.hide(source.secrets.values())
        source.listeners.append(server.hide)
        with temporary_settings(_settings(server)), secrets_from(source.secrets):
            yield
    finally:
        source.listeners.clear()
        server.end()


def _settings(server: OwnServer) -> dict[Any, Any]:
    """Return this process's settings for the server, once it answers. Raises ToolError where it did not start."""
    said = server.process.stdout.readline() if server.process.stdout else ""
    if not said:
        raise ToolError("the run's own server did not start", where=str(server.folder), seen=server.tail())
    found = json.loads(said)
    # A proxy of the environment must not be asked for this machine's own loopback.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name, ""), "127.0.0.1")))
    return {
        PREFECT_API_URL: found["url"], PREFECT_API_AUTH_STRING: SecretStr(found["login"]), PREFECT_API_KEY: None,
        PREFECT_HOME: server.folder, PREFECT_SERVER_UI_ENABLED: False,
    }  # fmt: skip


def real_server_answers() -> str:
    """Return the address of the Prefect server that is set here, where it answers; else nothing."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        return ""
    try:
        return url if httpx.get(f"{url.rstrip('/')}/health", timeout=3).is_success else ""
    except (httpx.TransportError, httpx.InvalidURL):
        return ""
