"""Label and field selectors as they come in a request's query. Source: the API concepts page "Labels and Selectors"."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from stackwright.lab.kube.errors import bad_request
from stackwright.lab.kube.kinds import Resource

Match = Callable[[Mapping[str, Any]], bool]
Test = Callable[[Mapping[str, str]], bool]

_TERM = re.compile(
    r"\s*(?:(?P<not>!)\s*(?P<absent>[^\s!=,()]+)"
    r"|(?P<key>[^\s!=,()]+)\s*(?:(?P<op>==|=|!=|>|<)\s*(?P<value>[^\s,()]*)"
    r"|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)"
)

# Field selectors that kinds know besides metadata.name and metadata.namespace, with the value of an unset field.
FIELDS: dict[str, dict[str, str]] = {
    "pods": {
        "spec.nodeName": "", "spec.restartPolicy": "Always", "spec.schedulerName": "", "spec.serviceAccountName": "",
        "spec.hostNetwork": "false", "status.phase": "", "status.podIP": "", "status.nominatedNodeName": "",
    },
    "events": {
        "involvedObject.kind": "", "involvedObject.namespace": "", "involvedObject.name": "", "involvedObject.uid": "",
        "involvedObject.apiVersion": "", "involvedObject.resourceVersion": "", "involvedObject.fieldPath": "",
        "reason": "", "reportingComponent": "", "source": "", "type": "",
    },
    "secrets": {"type": ""},
    "namespaces": {"status.phase": ""},
    "nodes": {"spec.unschedulable": "false"},
    "replicasets": {"status.replicas": "0"},
    "replicationcontrollers": {"status.replicas": "0"},
    "jobs": {"status.successful": "0"},
    "certificatesigningrequests": {"spec.signerName": ""},
}  # fmt: skip


def parse_labels(text: str) -> Test | None:
    """Read a label selector; None where it is empty. Raises the API's 400 for one that cannot be read."""
    tests: list[Test] = []
    at = 0
    while at < len(text.rstrip()):
        found = _TERM.match(text, at)
        if not found or found.end() == at:
            raise bad_request(f"unable to parse requirement: found '{text[at:]}', expected: identifier")
        tests.append(_label_test(found))
        at = found.end()
    return (lambda labels: all(test(labels) for test in tests)) if tests else None


def _label_test(found: re.Match[str]) -> Test:
    if found["not"]:
        absent = found["absent"]
        return lambda labels: absent not in labels
    key, operator, value = found["key"], found["op"], found["value"]
    if found["set"]:
        values = {part.strip() for part in found["values"].split(",")}
        return (
            (lambda labels: labels.get(key) in values)
            if found["set"] == "in"
            else (lambda labels: labels.get(key) not in values)
        )
    if operator in {"=", "=="}:
        return lambda labels: labels.get(key) == value
    if operator == "!=":
        return lambda labels: labels.get(key) != value
    if operator == ">":
        return lambda labels: key in labels and int(labels[key]) > int(value)
    if operator == "<":
        return lambda labels: key in labels and int(labels[key]) < int(value)
    return lambda labels: key in labels


def parse_fields(text: str, resource: Resource) -> Match | None:
    """Read a field selector; None where it is empty. Raises 400 for a field that the kind does not offer."""
    known = {
        "metadata.name": "",
        "metadata.namespace": "",
        **FIELDS.get(resource.plural if not resource.crd else "", {}),
    }
    for version in (resource.crd or {}).get("versions") or ():
        known |= {item["jsonPath"].lstrip("."): "" for item in version.get("selectableFields") or ()}
    tests: list[tuple[str, bool, str]] = []
    for part in filter(None, text.split(",")):
        key, equal, value = re.split(r"(==|!=|=)", part, maxsplit=1) if "=" in part else (part, "?", "")
        if equal == "?":
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        if key not in known:
            raise bad_request(f'Unable to find "{resource.version_name(resource.versions[0])}, Resource='
                              f'{resource.plural}" that match label selector "", field selector "{text}": '
                              f"field label not supported: {key}")  # fmt: skip
        tests.append((key, equal != "!=", value))
    if not tests:
        return None
    return lambda obj: all((_value(obj, key, known[key]) == value) == wanted for key, wanted, value in tests)


def exact_name(text: str) -> str:
    """Return the name of a selector that asks for one object, else an empty text."""
    found = re.fullmatch(r"metadata\.name==?([^,!=]+)", text)
    return found[1] if found else ""


def _value(obj: Mapping[str, Any], key: str, unset: str) -> str:
    value: Any = obj
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if key == "source" and isinstance(value, Mapping):
        value = value.get("component")
    if value is None:
        return unset
    return str(value).lower() if isinstance(value, bool) else str(value)
