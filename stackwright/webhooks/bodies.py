"""The bodies that callers send: strict shapes, read so that one text has one meaning. Findings become problems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from stackwright.domain.errors import Problem
from stackwright.domain.site_secrets import MASK, is_secret_key, looks_secret
from stackwright.domain.site_shape import path_text
from stackwright.domain.spec import Identity, Policy, Queue, Quota
from stackwright.domain.tenant_request import TenantChanges, WantedTenant
from stackwright.webhooks.answers import RefusedError

SITE_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
TENANT_PATTERN = r"^[a-z0-9]([a-z0-9-]{1,53}[a-z0-9])$"
EMAIL_PATTERN = r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+$"
DEPTH_MAX = 12

SiteText = Annotated[str, Field(pattern=SITE_PATTERN, examples=["berlin"])]
TenantText = Annotated[str, Field(pattern=TENANT_PATTERN, examples=["team-red"])]
EmailText = Annotated[str, Field(pattern=EMAIL_PATTERN, max_length=253, examples=["ops@team-red.example"])]
NameText = Annotated[str, Field(min_length=1, max_length=100, examples=["Ada Byron"])]
Queues = Annotated[tuple[Queue, ...], Field(min_length=1, max_length=32)]
Gib = Annotated[int, Field(ge=0, le=1_000_000)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TenantBody(WantedTenant):
    """The tenant that is wanted."""

    name: TenantText
    """Company name in ClearML and, after `clearml-`, the namespace."""
    admin_name: NameText = "Tenant Admin"
    admin_email: EmailText
    queues: Queues = (Queue(name="default"),)
    workspace_gib: Gib = 0
    """Size of a volume that all jobs of the tenant share. 0: none."""


class WholeQuota(Quota):
    """A tenant's quota from now on, every figure: one left out would fall back to its default."""

    cpu: int = Field(ge=1)
    memory_gib: int = Field(ge=1)
    gpus: int = Field(ge=0)
    storage_gib: int = Field(ge=1)
    pods: int = Field(ge=1)


class WholePolicy(Policy):
    """A tenant's resource policy from now on, every figure."""

    reservation: int = Field(ge=0)
    limit: int = Field(ge=0)
    pools: tuple[str, ...]


class ChangesBody(_Body):
    """What shall be different; what is not named stays. A list or section replaces the whole of it."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    admin_name: NameText = "Tenant Admin"
    quota: WholeQuota = WholeQuota(**Quota().model_dump())
    queues: Queues = (Queue(name="default"),)
    workspace_gib: Gib = 0
    policy: WholePolicy = WholePolicy(**Policy().model_dump())
    identity: Identity = Identity()

    @model_validator(mode="after")
    def _not_empty(self) -> ChangesBody:
        if not self.model_fields_set:
            raise ValueError("nothing is asked for")
        return self

    def to_changes(self) -> TenantChanges:
        """Return what was named, and nothing else: the defaults above are never used."""
        return TenantChanges.model_validate(self.model_dump(include=self.model_fields_set))


class OnboardBody(_Body):
    """Ask for a new tenant."""

    site: SiteText
    tenant: TenantBody


class ChangeBody(_Body):
    """Ask for a tenant to be changed."""

    action: Literal["change"]
    changes: ChangesBody


class ActBody(_Body):
    """Ask for a tenant to be suspended or resumed, or for new credentials."""

    action: Literal["suspend", "resume", "rotate"]


PatchBody = Annotated[ChangeBody | ActBody, Field(discriminator="action")]
ONBOARD: TypeAdapter[OnboardBody] = TypeAdapter(OnboardBody)
PATCH: TypeAdapter[ChangeBody | ActBody] = TypeAdapter(PatchBody)
_TAGS = frozenset({"change", "suspend", "resume", "rotate"})
_BodyT = TypeVar("_BodyT")


def read_body(shape: TypeAdapter[_BodyT], raw: bytes) -> _BodyT:
    """Read a body. Raises RefusedError: 400 for what is no JSON of one meaning, 422 with every wrong field."""
    _check_json(raw)
    try:
        return shape.validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    raise RefusedError(422, "the request has wrong fields", [problem_of(detail) for detail in found])


def problem_of(detail: Mapping[str, Any], prefix: str = "") -> Problem:
    """Turn one of pydantic's findings into ours. What was sent is shown only where it is short and no secret."""
    loc = [part for index, part in enumerate(detail["loc"]) if index or part not in _TAGS]
    where = _plain(path_text((*((prefix,) if prefix else ()), *loc))) or "body"
    kind, what = detail["type"], detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if kind == "extra_forbidden":
        return Problem(where, "unknown key", "Remove it; the OpenAPI document at /openapi.json lists the known ones.")
    if kind == "missing":
        return Problem(where, "is missing", "Add it.")
    if kind == "union_tag_invalid" or kind == "union_tag_not_found":
        return Problem(
            f"{where}.action" if loc else "action", "no such action", "Correct it.", " or ".join(sorted(_TAGS))
        )
    if kind == "json_invalid":
        return Problem(where, "not JSON of UTF-8 text", "Correct it.", "JSON")
    return Problem(where, what, "Correct it.", "", _shown(detail.get("input"), loc))


def _shown(value: Any, loc: Iterable[Any]) -> str:
    if isinstance(value, Mapping | list | tuple) or value is None:
        return {"NoneType": "nothing"}.get(
            type(value).__name__, "an object" if isinstance(value, Mapping) else "a list"
        )
    text = str(value)
    # Where a block's name belongs, people write the secret itself.
    if any(is_secret_key(str(part)) or str(part).endswith("_block") for part in loc) or looks_secret(text):
        return MASK
    return ascii(text[:60]) if isinstance(value, str) else text[:60]


def _plain(path: str) -> str:
    """Return a path whose keys may come from a stranger: short, printable, no secret."""
    shown = path if path.isascii() and path.isprintable() else ascii(path)
    return MASK if looks_secret(path) else shown[:120]


def _check_json(raw: bytes) -> None:
    """Refuse what is no JSON, and what two readers may read in two ways: keys given twice, NaN, endless nesting."""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return dict(pairs)

    def no_constant(text: str) -> Any:
        raise ValueError(text)

    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors; both quote the body
        problem = Problem("body", "not JSON of UTF-8 text", "Correct it.", "one JSON object")
        raise RefusedError(400, "the body cannot be read", [problem]) from None
    problems = [Problem(_plain(key), "the key is given twice", "Give it once.", "one") for key in twice]
    if _depth(data) > DEPTH_MAX:
        problems.append(Problem("body", "nested too deeply", "Correct it.", f"at most {DEPTH_MAX} levels"))
    if problems:
        raise RefusedError(400, "the body can be read in two ways", problems)


def _depth(data: Any) -> int:
    """Count levels without calling itself: the nesting is a stranger's."""
    level, here = 0, [data]
    while here:
        here = [
            item
            for value in here
            for item in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]
        level += 1
    return level
