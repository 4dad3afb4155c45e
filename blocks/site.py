"""`load_site`: reads a site file and bundles how to reach the site. Blocks are opened, nothing is connected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from blocks.store import BlockSecrets
from stackwright.clients.connect import connect
from stackwright.clients.secrets import Secrets
from stackwright.clients.site import Site
from stackwright.domain.errors import Problem, SiteFileError, ToolError
from stackwright.domain.sitefile import parse_shape, parse_site
from stackwright.domain.spec import StackSpec

_SECRETS: ContextVar[Secrets | None] = ContextVar("secrets", default=None)


def site_folders() -> list[Path]:
    """Return the folders that hold site files: STACKWRIGHT_SITES (separated by `:`), else deployments/sites."""
    given = os.environ.get("STACKWRIGHT_SITES")
    if given:
        return [Path(folder) for folder in given.split(os.pathsep)]
    homes = (Path.cwd(), Path(__file__).parent.parent)
    return list(dict.fromkeys(home / "deployments" / "sites" for home in homes))


def site_names() -> list[str]:
    """Return the names of the sites that exist here, sorted."""
    return sorted({path.stem for folder in site_folders() for path in folder.glob("*.yaml")})


def read_spec(name: str) -> StackSpec:
    """Read and check a site file. Raises SiteFileError with every problem at once."""
    text, path = _site_text(name)
    return _named(parse_site(text, path), name, path)


def read_shape(name: str) -> tuple[StackSpec, list[Problem]]:
    """Read a site file for a restore, with the rules that it breaks: they stop a deploy, not this."""
    text, path = _site_text(name)
    spec, broken = parse_shape(text, path)
    return _named(spec, name, path), broken


def _site_text(name: str) -> tuple[str, str]:
    """Return a site file's text and path. Raises SiteFileError where there is none."""
    for folder in site_folders():
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path.read_text(encoding="utf-8"), str(path)
    problem = Problem(name, "no such site file", f"choose one of {', '.join(site_names()) or '(none)'}")
    raise SiteFileError("the site is not known", [problem], where=", ".join(str(folder) for folder in site_folders()))


def _named(spec: StackSpec, name: str, path: str) -> StackSpec:
    if spec.site != name:
        problem = Problem("site", "is another name than the file's", "rename one of them", name, spec.site)
        raise SiteFileError("the site file was refused", [problem], where=path)
    return spec


def state_folder(site: str) -> Path:
    """Return the controller's own folder for a site (known host keys, helm caches), mode 0700. It holds no truth.

    Raises ToolError where it cannot be made.
    """
    base = (
        os.environ.get("STACKWRIGHT_STATE") or os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    )
    folder = Path(base) / "stackwright" / site
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(
            "the folder for this controller's own state cannot be made",
            where=str(folder),
            wanted="a folder that this user may write to",
            seen=error.strerror or type(error).__name__,
            remedy="Name one in STACKWRIGHT_STATE; in the image, mount a volume at /var/lib/stackwright.",
        ) from error
    return folder


@contextmanager
def secrets_from(secrets: Secrets) -> Iterator[None]:
    """Have `load_site` take secrets from elsewhere than blocks, for as long as the context lasts."""
    before = _SECRETS.set(secrets)
    try:
        yield
    finally:
        _SECRETS.reset(before)


def load_site(name: str) -> tuple[StackSpec, Site]:
    """Read a site and bundle its clients. Raises SiteFileError or SecretMissingError; connects to nothing.

    Call it in a thread: blocks are read from the Prefect server.
    """
    spec = read_spec(name)
    return spec, connect(spec, _SECRETS.get() or BlockSecrets(), state_folder(name))
