"""Make chart archives out of the lab's chart table, the same bytes every time, and put them into a registry's folder.

Values files hold every key of the real chart, so that a value set under a wrong name stands out as an unknown key.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import stackwright.domain
from stackwright.lab.charts.shapes import ChartSpec, Piece
from stackwright.lab.registry import RegistryState, digest_of

KEYS_FOLDER = Path(stackwright.domain.__file__).parent / "chart_keys"
CONFIG_TYPE = "application/vnd.cncf.helm.config.v1+json"
LAYER_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
EMPTY: Mapping[str, Any] = {"string": "", "number": 0, "bool": False, "null": None}
JSON_TYPES: Mapping[str, list[str]] = {
    "string": ["string", "number", "boolean", "null"],  # a scalar is never refused for its type here, only for its name
    "number": ["number", "string", "null"],
    "bool": ["boolean", "string", "null"],
}
NO_ANNOTATIONS: Mapping[str, str] = {}
KEEP = {"helm.sh/resource-policy": "keep"}


class _Folded(yaml.SafeDumper):
    """A dumper without anchors: templates must stand alone."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Write a text of several lines as a block: what a template puts into it needs no quoting."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Folded.add_representer(str, _text)


@cache
def value_keys(name: str) -> Mapping[str, str]:
    """Return the real chart's value keys, dotted, with their types; documented optional ones included."""
    content = json.loads((KEYS_FOLDER / f"{name}.json").read_text())
    return {**content["keys"], **content.get("optional", {})}


def chart_files(chart: ChartSpec, version: str) -> dict[str, str]:
    """Return the files of one chart version by their path inside the chart's folder."""
    files = {"Chart.yaml": _dump(_meta(chart, version)), "values.yaml": _dump(values_of(chart))}
    annotations = KEEP if chart.keep_crds else NO_ANNOTATIONS
    for crd in chart.crds:
        text = _dump(crd.manifest(annotations))
        if chart.crds_in == "crds":
            files[f"crds/{crd.name}.yaml"] = text
        else:
            files[f"templates/crd-{crd.plural}.yaml"] = _guarded(text, chart.crds_when)
    for index, piece in enumerate(chart.pieces):
        files[f"templates/{index:02d}-{piece.body['kind'].lower()}.yaml"] = template_text(piece)
    checks = [
        f"{{{{- if {bad} }}}}{{{{ fail {json.dumps(message)} }}}}{{{{- end }}}}\n" for bad, message in chart.required
    ]
    if checks:
        files["templates/checks.yaml"] = "".join(checks)
    if chart.strict:
        files["values.schema.json"] = json.dumps(schema_of(chart, version), indent=1, sort_keys=True) + "\n"
    return files


def values_of(chart: ChartSpec) -> dict[str, Any]:
    """Return the default values: every key of the real chart, with real defaults where a template reads them."""
    values: dict[str, Any] = {}
    for dotted, kind in value_keys(chart.keys or chart.name).items():
        node = values
        *parents, last = split_key(dotted)
        for part in parents:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        if kind in {"map", "list"}:
            node.setdefault(last, {} if kind == "map" else [])
        else:
            node.setdefault(last, EMPTY[kind])
    return _merged(values, chart.defaults)


def schema_of(chart: ChartSpec, version: str) -> dict[str, Any]:
    """Return a schema that refuses every key the real chart of this version does not have."""
    gone = {key for prefix, keys in chart.removed.items() if _since(version, prefix) for key in keys}
    root: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
    listed = {
        **value_keys(chart.keys or chart.name),
        **{key: "string" for keys in chart.removed.values() for key in keys},
    }
    for dotted, kind in listed.items():
        if dotted in gone:
            continue
        node = root
        *parents, last = split_key(dotted)
        for part in parents:
            node = node["properties"].setdefault(
                part, {"type": "object", "additionalProperties": False, "properties": {}}
            )
        if kind in {"map", "list", "null"}:
            node["properties"].setdefault(last, {})
        else:
            node["properties"].setdefault(last, {"type": JSON_TYPES[kind]})
    root["properties"].setdefault("global", {"type": "object", "properties": {}})["additionalProperties"] = True
    return {"$schema": "http://json-schema.org/draft-07/schema#", **root}


def template_text(piece: Piece) -> str:
    """Return a template file: YAML whose marked texts lose their quotes."""
    text = _dump(piece.body)
    bare = re.sub(r"'@@((?:[^']|'')*)'|@@([^\n]*)", lambda m: (m.group(1) or m.group(2) or "").replace("''", "'"), text)
    return _guarded(bare, piece.when)


def archive(chart: ChartSpec, version: str) -> bytes:
    """Return the chart's .tgz. Equal content gives equal bytes: no clock, no user, sorted names."""
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, text in sorted(chart_files(chart, version).items()):
            data = text.encode()
            info = tarfile.TarInfo(f"{chart.name}/{path}")
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(tar_bytes.getvalue(), compresslevel=6, mtime=0)


def write_archives(charts: Iterable[ChartSpec], folder: Path) -> list[Path]:
    """Write every version of every chart as NAME-VERSION.tgz."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for chart in charts:
        for version in chart.versions:
            path = folder / f"{chart.name}-{version}.tgz"
            path.write_bytes(archive(chart, version))
            paths.append(path)
    return paths


def publish_charts(state: RegistryState, charts: Iterable[ChartSpec], prefix: str = "charts") -> list[str]:
    """Put every version of every chart into a registry's storage; return the references, `prefix/name:tag`.

    What is there already with the same content is left alone.
    """
    return [push_chart(state, chart, version, prefix) for chart in charts for version in chart.versions]


def push_chart(
    state: RegistryState,
    chart: ChartSpec,
    version: str,
    prefix: str = "charts",
    make: Callable[[ChartSpec, str], bytes] = archive,
) -> str:
    """Put one chart version into a registry's storage, as `helm push` would."""
    data = make(chart, version)
    config = json.dumps(_meta(chart, version), sort_keys=True, separators=(",", ":")).encode()
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": LAYER_TYPE, "digest": digest_of(data), "size": len(data)}],
        "annotations": {"org.opencontainers.image.title": chart.name, "org.opencontainers.image.version": version},
    }
    state.put_blob(config)
    state.put_blob(data)
    name, tag = f"{prefix}/{chart.name}", version.replace("+", "_")  # OCI tags allow no plus
    state.put_manifest(name, tag, json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode(), MANIFEST_TYPE)
    return f"{name}:{tag}"


def split_key(dotted: str) -> list[str]:
    """Split a dotted path; a dot inside a key is written with a backslash before it."""
    return [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", dotted)]


def _meta(chart: ChartSpec, version: str) -> dict[str, Any]:
    meta = {
        "apiVersion": "v2",
        "name": chart.name,
        "version": version,
        "appVersion": chart.versions[version],
        "description": f"Stand-in for {chart.name}, with its names and value keys; for the lab only",
        "type": "application",
    }
    wanted = chart.kube_version(version)
    return meta | ({"kubeVersion": wanted} if wanted else {})


def _since(version: str, prefix: str) -> bool:
    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

    return numbers(version) >= numbers(prefix)


def _dump(tree: Any) -> str:
    text: str = yaml.dump(tree, Dumper=_Folded, sort_keys=False, default_flow_style=False, width=100_000)
    return text


def _guarded(text: str, when: str) -> str:
    return f"{{{{- if {when} }}}}\n{text}{{{{- end }}}}\n" if when else text


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result
