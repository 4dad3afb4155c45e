"""What a pod's spec must hold: shared by every kind that makes pods. Source: the Pod API reference."""

from __future__ import annotations

import re
from typing import Any

from stackwright.lab.kube.errors import FieldFault
from stackwright.lab.kube.values import quantity

Obj = dict[str, Any]

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
NAME_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
    "start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def check_pod_spec(spec: Obj, path: str, faults: list[FieldFault]) -> None:
    """Collect what is wrong with a pod's spec."""
    volumes = _check_volumes(spec, path, faults)
    if not spec.get("containers"):
        faults.append(FieldFault(f"{path}.containers", "required"))
    seen: set[str] = set()
    for part in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(part) or ()):
            _check_container(container, f"{path}.{part}[{index}]", seen, volumes, faults)
    policy = spec.get("restartPolicy", "Always")
    if policy not in {"Always", "OnFailure", "Never"}:
        listed = 'supported values: "Always", "OnFailure", "Never"'
        faults.append(FieldFault(f"{path}.restartPolicy", "unsupported", policy, listed))
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        operator = toleration.get("operator", "Equal")
        if operator == "Exists" and toleration.get("value"):
            text = "value must be empty when `operator` is 'Exists'"
            faults.append(FieldFault(f"{path}.tolerations[{index}].operator", "invalid", toleration["value"], text))
        if not toleration.get("key") and operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            faults.append(FieldFault(f"{path}.tolerations[{index}].operator", "invalid", operator, text))


def _check_volumes(spec: Obj, path: str, faults: list[FieldFault]) -> set[str]:
    names: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        name = str(volume.get("name", ""))
        if not name:
            faults.append(FieldFault(f"{path}.volumes[{index}].name", "required"))
        elif not NAME.fullmatch(name):
            faults.append(FieldFault(f"{path}.volumes[{index}].name", "invalid", name, NAME_TEXT))
        elif name in names:
            faults.append(FieldFault(f"{path}.volumes[{index}].name", "duplicate", name))
        names.add(name)
    return names


def _check_container(container: Obj, path: str, seen: set[str], volumes: set[str], faults: list[FieldFault]) -> None:
    name = str(container.get("name", ""))
    if not name:
        faults.append(FieldFault(f"{path}.name", "required"))
    elif not NAME.fullmatch(name):
        faults.append(FieldFault(f"{path}.name", "invalid", name, NAME_TEXT))
    elif name in seen:
        faults.append(FieldFault(f"{path}.name", "duplicate", name))
    seen.add(name)
    image = str(container.get("image", ""))
    if not image:
        faults.append(FieldFault(f"{path}.image", "required"))
    elif image != image.strip():
        text = "must not have leading or trailing whitespace"
        faults.append(FieldFault(f"{path}.image", "invalid", image, text))
    _check_env(container, path, faults)
    _check_ports(container, path, faults)
    mounted: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            faults.append(FieldFault(f"{path}.volumeMounts[{index}].name", "notfound", mount.get("name")))
        where = str(mount.get("mountPath", ""))
        if where in mounted:
            faults.append(FieldFault(f"{path}.volumeMounts[{index}].mountPath", "invalid", where, "must be unique"))
        mounted.add(where)
    _check_resources(container, path, faults)


def _check_env(container: Obj, path: str, faults: list[FieldFault]) -> None:
    for index, env in enumerate(container.get("env") or ()):
        if not env.get("name"):
            faults.append(FieldFault(f"{path}.env[{index}].name", "required"))
        if env.get("value") and env.get("valueFrom"):
            text = "may not be specified when `value` is not empty"
            faults.append(FieldFault(f"{path}.env[{index}].valueFrom", "invalid", "", text))


def _check_ports(container: Obj, path: str, faults: list[FieldFault]) -> None:
    names: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        name = str(port.get("name", ""))
        where = f"{path}.ports[{index}]"
        if len(name) > 15:
            faults.append(FieldFault(f"{where}.name", "invalid", name, "must be no more than 15 characters"))
        if name and name in names:
            faults.append(FieldFault(f"{where}.name", "duplicate", name))
        names.add(name)
        number = port.get("containerPort")
        if not isinstance(number, int) or not 1 <= number <= 65535:
            text = "must be between 1 and 65535, inclusive"
            faults.append(FieldFault(f"{where}.containerPort", "invalid", number, text))


def _check_resources(container: Obj, path: str, faults: list[FieldFault]) -> None:
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in requests.items():
        limit = limits.get(name)
        if limit is not None and quantity(value) > quantity(limit):
            text = f"must be less than or equal to {name} limit of {limit}"
            faults.append(FieldFault(f"{path}.resources.requests", "invalid", str(value), text))
        elif _extended(name) and (limit is None or quantity(limit) != quantity(value)):
            text = f"must be equal to {name} limit" if limit else "Limit must be set for non overcommitable resources"
            faults.append(FieldFault(f"{path}.resources.limits", "required", detail=text))
    for part, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            if _extended(name) and quantity(value) != quantity(value).to_integral_value():
                faults.append(
                    FieldFault(f"{path}.resources.{part}[{name}]", "invalid", str(value), "must be an integer")
                )
            if (
                "/" not in name
                and name not in {"cpu", "memory", "ephemeral-storage"}
                and not name.startswith("hugepages-")
            ):
                text = "must be a standard resource type or fully qualified"
                faults.append(FieldFault(f"{path}.resources.{part}[{name}]", "invalid", name, text))


def _extended(name: str) -> bool:
    return "/" in name and "kubernetes.io/" not in name
