"""How the schema of a run form is made one that Prefect's UI shows well: sites to choose, words, refusals at the field.

The UI hands a form's schema back to the server when it asks whether the values are good, but only what it knows of each
field: `pattern`, `minimum` and the like are lost on the way, what stands within `allOf` is not.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from blocks.site import site_names

LIMITS = ("pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
SPELLED = {"cpu": "CPU", "gpus": "GPUs", "gib": "(GiB)", "mig": "MIG", "id": "ID", "url": "URL"}


class OfferSites:
    """Makes a select of the sites that have a site file, where and when the form is made; without any, a text field."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = site_names()
        return {**handler(core), **({"enum": names} if names else {})}


class OneField:
    """Makes one plain field of what may be None: the form would show two tabs, one of them `None`."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        (only,) = (one for one in schema.pop("anyOf") if one.get("type") != "null")
        return {**schema, **only}


class AtField:
    """Has a value beyond the field's limits refused at the field, all of them at once, before a run exists."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return limits_kept(handler(core))


class InWords:
    """Gives the fields of a model within a form, and of all models below it, titles in words and limits that hold."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        _reword(schema, handler, set())
        return schema


def limits_kept(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema with its limits where the UI leaves them alone."""
    limits = {name: schema[name] for name in LIMITS if name in schema}
    rest = {name: value for name, value in schema.items() if name not in limits}
    return rest | {"allOf": [{"type": rest.pop("type"), **limits}]} if limits and "type" in rest else schema


def in_words(name: str) -> str:
    """Return the title of a field or model by its name: `memory_gib` is `Memory (GiB)`, `MaxPods` is `Max pods`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
    title = " ".join(SPELLED.get(word, word) for word in words)
    return title[0].upper() + title[1:]


def _reword(schema: dict[str, Any], handler: GetJsonSchemaHandler, seen: set[str]) -> None:
    """Change a schema and what it refers to, in place: pydantic has made them for this form alone."""
    for inner in [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]:
        _reword(inner, handler, seen)
        if "anyOf" in schema and "$ref" not in inner:
            inner["title"] = "None" if inner["type"] == "null" else "Value"  # else the tab is called `str`
    if schema.get("$ref") in seen:
        return
    seen.add(schema.get("$ref", ""))
    model = handler.resolve_ref_schema(schema) if "$ref" in schema else schema
    if "properties" in model:
        model["title"] = in_words(model["title"])
    for name, field in model.get("properties", {}).items():
        _reword(field, handler, seen)
        model["properties"][name] = {**limits_kept(field), "title": in_words(name)}
