"""A site file's text -> StackSpec, or every problem at once: YAML, shape, typed secrets, the rules of spec_checks.py.

Where only optional leaves are wrong they are set aside, so that the rules still speak about the rest.
"""

from __future__ import annotations

import copy
import difflib
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stackwright.domain.errors import Problem, SiteFileError
from stackwright.domain.site_secrets import check_secrets, is_secret_key, looks_secret, masked
from stackwright.domain.site_shape import Part, bare, field_at, fields, known_prefix, model_at, path_text, type_text
from stackwright.domain.site_yaml import read_yaml
from stackwright.domain.spec import StackSpec
from stackwright.domain.spec_checks import check_spec

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
_STAND_IN = "stand-in-for-a-missing-text"
_KINDS = {
    "model_type": "should be a section of keys",
    "dict_type": "should be a map of keys",
    "tuple_type": "should be a list",
    "string_type": "should be text",
}
_MOST_ROUNDS = 12  # each round mends every leaf that pydantic names; sections can hide further ones


def parse_site(text: str, source: str) -> StackSpec:
    """Read a site file. `source` is its name for messages.

    Raises SiteFileError with all problems, each with its path, what was wanted and a remedy; never with a secret.
    """
    return _parse(text, source, lenient=False)[0]


def parse_shape(text: str, source: str) -> tuple[StackSpec, list[Problem]]:
    """Read a site file of a site that may be half destroyed: return it with the rules that it breaks.

    A restore must not wait for three workers. Raises SiteFileError for what is no site file at all, or holds a secret.
    """
    return _parse(text, source, lenient=True)


def _parse(text: str, source: str, *, lenient: bool) -> tuple[StackSpec, list[Problem]]:
    data, problems = read_yaml(text)
    hidden: frozenset[str] = frozenset()
    spec: StackSpec | None = None
    rules: list[Problem] = []
    if data is not None or not problems:
        secrets, hidden = check_secrets(data, text)
        spec, shape, rules = _shape_and_rules(data, {problem.where for problem in secrets})
        problems = [*problems, *secrets, *shape, *([] if lenient else rules)]
    if problems or spec is None:
        unique = dict.fromkeys(masked(problem, hidden) for problem in problems)
        # `from None`: pydantic's and PyYAML's own errors quote the file.
        raise SiteFileError("the site file was refused", list(unique), where=source) from None
    return spec, [masked(problem, hidden) for problem in rules]


def site_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a site file, for editors."""
    schema = StackSpec.model_json_schema()
    described = {
        "title": "Stackwright site file",
        "description": "One site: nodes, cluster, layers, tenants. No secrets.",
    }
    return {"$schema": SCHEMA_ID, **schema, **described}


def _shape_and_rules(data: Any, told: set[str]) -> tuple[StackSpec | None, list[Problem], list[Problem]]:
    """Validate; set wrong leaves aside until the rest holds; then apply the rules to the rest."""
    left = copy.deepcopy(data)
    problems: list[Problem] = []
    aside: set[str] = set()
    for _ in range(_MOST_ROUNDS):
        try:
            spec = StackSpec.model_validate(left)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=True)
        else:
            rules = check_spec(spec)
            if aside:
                rules = [problem for problem in rules if not _follows(problem, aside)]
            return spec, problems, rules
        mended = True
        for detail in found:
            loc = known_prefix(detail["loc"]) if detail["type"] != "extra_forbidden" else detail["loc"]
            path = path_text(loc)
            if not any(_inside(path, other) for other in aside):
                problems += [] if path in told else [_as_problem(detail, loc)]
                aside.add(path)
            mended = _mend(left, loc, detail) and mended
        if not mended:
            break
    return None, problems, []


def _as_problem(detail: ErrorDetails, loc: tuple[Part, ...]) -> Problem:
    """Turn one of pydantic's findings into ours."""
    path, kind = path_text(loc) or "file", detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, loc)
    info, about = field_at(loc), ""
    if info and info.description:
        about = " ".join(info.description.split())
    wanted = type_text(info.annotation) if info else _item_text(loc)
    if kind == "missing":
        return Problem(path, "is missing", f"Add `{loc[-1]}`{': ' + about if about else '.'}", wanted)
    if kind == "string_pattern_mismatch":
        remedy = "Write the block's document name: a-z, 0-9 and `-`. The secret itself stays in the block."
        return Problem(path, "this is not a block's name", remedy, "a-z, 0-9 and `-`")
    if kind == "literal_error":
        return _not_a_choice(path, loc, detail)
    what = _KINDS.get(kind) or detail["msg"].replace("Input should be", "should be")
    remedy = about or "Correct it."
    if kind == "string_type" and isinstance(detail["input"], int | float):
        remedy = "Put it in quotes: YAML reads it as a number or as true/false."
    return Problem(path, what, remedy, wanted, _shown(detail, loc))


def _unknown_key(path: str, loc: tuple[Part, ...]) -> Problem:
    owner = model_at(loc[:-1])
    known = list(owner.model_fields) if owner else []
    near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.6)
    if near:
        return Problem(path, f"unknown key; did you mean `{near[0]}`?", f"Write `{near[0]}`, or remove it.", near[0])
    elsewhere = [field.path for field in fields().values() if field.path.rsplit(".", 1)[-1] == loc[-1]]
    remedy = f"It belongs to {elsewhere[0]}." if elsewhere else "Remove it."
    return Problem(path, "unknown key", remedy, f"one of {', '.join(known)}")


def _not_a_choice(path: str, loc: tuple[Part, ...], detail: ErrorDetails) -> Problem:
    owner = loc if field_at(loc) else loc[:-1]
    info = field_at(owner)
    where = path_text(tuple("[]" if isinstance(part, int) else part for part in owner)).replace("[[]]", "[]")
    choices = fields()[where].choices if info and where in fields() else ()
    seen = _shown(detail, loc)
    near = difflib.get_close_matches(seen, choices, n=1, cutoff=0.6) if seen else []
    what = f"not one of the choices; did you mean `{near[0]}`?" if near else "not one of the choices"
    return Problem(path, what, f"Write {', '.join(choices)}.", " or ".join(choices), seen)


def _item_text(loc: tuple[Part, ...]) -> str:
    """Say what an item of a list or map should be."""
    info = field_at(loc[:-1]) if loc else None
    return type_text(info.annotation) if info else "section"


def _shown(detail: ErrorDetails, loc: tuple[Part, ...]) -> str:
    """Return a short scalar that cannot be a secret; a section or list is only named by its kind."""
    value = detail["input"]
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    text = "nothing" if value is None else str(value)
    names = [str(part) for part in loc]
    if any(name.endswith("_block") or name == "credentials" or is_secret_key(name) for name in names):
        return ""
    return "" if looks_secret(text) or len(text) > 60 else text


def _mend(data: Any, loc: tuple[Part, ...], detail: ErrorDetails) -> bool:
    """Set one wrong place aside: drop what is optional, stand in for a required text. False where neither can be."""
    if detail["type"] == "extra_forbidden":
        return _drop(data, loc)
    info = field_at(loc)
    if info is not None and info.is_required() and bare(info.annotation) is str:
        owner = _at(data, loc[:-1])
        if isinstance(owner, dict):
            owner[str(loc[-1])] = f"{_STAND_IN}-{abs(hash(loc))}"
            return True
    if len(loc) >= 2 and loc[-2] == "roles":
        roles = _at(data, loc[:-1])
        if isinstance(roles, list):
            roles[:] = [role for role in roles if role in ("server", "worker", "storage", "gpu")] or ["worker"]
            return True
    for length in range(len(loc), 0, -1):
        info = field_at(loc[:length])
        if info is not None and not info.is_required():
            return _drop(data, loc[:length])
    return False


def _at(data: Any, loc: tuple[Part, ...]) -> Any:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _drop(data: Any, loc: tuple[Part, ...]) -> bool:
    owner = _at(data, loc[:-1])
    if not isinstance(owner, dict) or loc[-1] not in owner:
        return owner is not None  # dropped before, with another finding of the same place
    del owner[loc[-1]]
    return True


def _inside(path: str, other: str) -> bool:
    return path == other or path.startswith((f"{other}.", f"{other}["))


def _follows(problem: Problem, aside: set[str]) -> bool:
    """Tell whether a rule's finding only follows from what was set aside."""
    texts = (problem.what, problem.wanted, problem.seen, problem.remedy)
    if any(_STAND_IN in text for text in texts):
        return True
    if problem.where == "nodes" and any(path.startswith("nodes[") for path in aside):
        return any(".roles" in path for path in aside)
    return any(
        _inside(problem.where, path) or (_inside(path, problem.where) and problem.where != "nodes") for path in aside
    )
