"""CycloneDX 1.5 as far as our SBOM uses it, and nothing beside: a misspelt key of ours is refused.

Written after https://cyclonedx.org/docs/1.5/json/; the whole schema has been held against a document of ours by hand.
"""

from __future__ import annotations

from typing import Any


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


TEXT = {"type": "string", "minLength": 1}
LICENCE = {
    "oneOf": [
        closed(["license"], license=closed(["name"], name=TEXT)),
        closed(["expression"], expression=TEXT),
    ]
}
PURL = {
    "type": "string",
    "pattern": r"^pkg:[a-z]+/([a-z]+/)?[A-Za-z0-9._%-]+@[A-Za-z0-9.:_~%-]+(\?[a-z_]+=[^&#? ]+(&[a-z_]+=[^&#? ]+)*)?$",
}
COMPONENT = closed(
    ["type", "name", "version", "bom-ref", "purl"],
    type={"enum": ["application", "library"]},
    name=TEXT,
    version=TEXT,
    purl=PURL,
    licenses={"type": "array", "items": LICENCE, "minItems": 1},
    hashes={
        "type": "array",
        "items": closed(
            ["alg", "content"], alg={"const": "SHA-256"}, content={"type": "string", "pattern": "^[0-9a-f]{64}$"}
        ),
    },
    **{"bom-ref": TEXT},
)
SCHEMA = closed(
    ["bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies"],
    bomFormat={"const": "CycloneDX"},
    specVersion={"const": "1.5"},
    serialNumber={"type": "string", "pattern": "^urn:uuid:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"},
    version={"const": 1},
    metadata=closed(
        ["timestamp", "component"],
        timestamp={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        component=COMPONENT,
    ),
    components={"type": "array", "items": COMPONENT, "minItems": 1, "uniqueItems": True},
    dependencies={
        "type": "array",
        "items": closed(
            ["ref", "dependsOn"], ref=TEXT, dependsOn={"type": "array", "items": TEXT, "uniqueItems": True}
        ),
    },
    **{"$schema": {"const": "http://cyclonedx.org/schema/bom-1.5.schema.json"}},
)
