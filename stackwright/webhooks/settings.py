"""The receiver's settings: one YAML file without secrets. Where it lies says STACKWRIGHT_WEBHOOKS.

A store's address with a password in it does not belong into the file: give it by STACKWRIGHT_WEBHOOKS_STORE.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from stackwright.domain.errors import Problem, SiteFileError
from stackwright.domain.site_shape import path_text
from stackwright.domain.spec import Quota
from stackwright.webhooks.signing import CALLER_PATTERN

FILE_VARIABLE = "STACKWRIGHT_WEBHOOKS"
STORE_VARIABLE = "STACKWRIGHT_WEBHOOKS_STORE"
DEFAULT_FILE = Path("deployments/webhooks.yaml")
DEPLOYMENT = "tenant-request/tenant-request"

CallerName = Annotated[str, Field(pattern=f"^{CALLER_PATTERN}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Caller(_Model):
    """One program that may ask for tenants. Its keys are in the block `webhook-<name>`."""

    sites: tuple[str, ...] = Field(min_length=1)
    """Sites at which it may ask for tenants."""
    largest: Quota
    """The most that one tenant of this caller may get, figure by figure."""
    tenants: int = Field(100, ge=1)
    """So many tenants it may have at one site at a time."""
    manages: Literal["own", "all"] = "own"
    """`own`: it sees and changes only the tenants that it asked for. `all`: those of every caller at its sites."""
    identity_hosts: tuple[str, ...] = ()
    """Hosts of identity providers that its tenants may use, such as login.example.com. Empty: none."""
    per_minute: int = Field(600, ge=1)
    """So many requests a minute, in the long run."""
    burst: int = Field(200, ge=1)
    """So many requests at once."""


class Settings(_Model):
    """All settings. `callers` are by name."""

    callers: dict[CallerName, Caller]
    store: str = ""
    """SQLAlchemy address of the store. Empty: SQLite in the state folder (STACKWRIGHT_STATE)."""
    replay_window_s: int = Field(300, ge=5, le=3600)
    """A signature's time may differ so much from the receiver's clock."""
    body_limit: int = Field(65536, ge=1024, le=1048576)
    """Bytes of a body. Prefect takes 524288 of parameters."""
    body_timeout_s: float = Field(10, gt=0)
    """A body must have arrived by then."""
    keys_reload_s: float = Field(15, gt=0)
    """So often the callers' keys are read again; a key id that is not known is looked up at once."""
    keys_max_age_s: float = Field(3600, gt=0)
    """Keys older than this are not trusted when Prefect does not answer: a retired one might be among them."""
    poll_s: float = Field(1.0, gt=0)
    """So often the runs are looked at."""
    pending_limit_s: float = Field(300, gt=0)
    """A run that a worker took and did not start by then is given up, and made again."""
    attempts: int = Field(6, ge=1, le=50)
    """So many runs a request gets when each of them crashes or vanishes."""
    backoff_s: float = Field(2.0, gt=0)
    """Before the second run; five times as long before each further one, 300 s at most."""
    retention_days: float = Field(400, ge=1)
    """A request that has ended is forgotten after so long, with its idempotency key: sent again, it is a new one."""
    parallel: int = Field(4, ge=1, le=32)
    """So many runs are created at a time: more only makes a Prefect server on SQLite refuse."""

    def block_of(self, caller: str) -> str:
        """Return the name of the block that holds a caller's keys."""
        return f"webhook-{caller}"


def settings_file() -> Path:
    """Return where the settings lie."""
    return Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)


def read_settings(path: Path) -> Settings:
    """Read the settings. Raises SiteFileError with every problem, never with a value that may be a secret."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # `from None`: PyYAML's own error quotes the file.
        remedy = f"Write the settings there, or name them in {FILE_VARIABLE}; see docs/webhooks.md."
        problem = Problem(str(path), "the settings cannot be read", remedy, "a YAML file", type(error).__name__)
        raise SiteFileError("the webhook settings were refused", [problem], where=str(path)) from None
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_input=False, include_url=False)]
        raise SiteFileError("the webhook settings were refused", problems, where=str(path)) from None
    if problems := _store_problems(settings.store):
        raise SiteFileError("the webhook settings were refused", problems, where=str(path))
    return settings


def store_url(settings: Settings, folder: Path) -> str:
    """Return the store's address: the environment's, else the file's, else SQLite in `folder`."""
    given = os.environ.get(STORE_VARIABLE) or settings.store
    return given or f"sqlite:///{folder / 'requests.db'}"


def _problem(detail: Any) -> Problem:
    return Problem(path_text(detail["loc"]) or "file", detail["msg"], "Correct it; see docs/webhooks.md.")


def _store_problems(text: str) -> list[Problem]:
    if not text:
        return []
    remedy = f"Give the address by {STORE_VARIABLE}, or use a password file."
    try:
        secret = make_url(text).password is not None
    except ArgumentError:
        return [Problem("store", "not a database's address", "Correct it.", "such as sqlite:////var/lib/x/requests.db")]
    return [Problem("store", "the address holds a password", remedy, "an address without one")] if secret else []
