"""Reading what an exporter prints, and what dashboards and rules ask of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from stackwright.lab.rig import ROOT

FOLDER = ROOT / "deployments" / "monitoring"
RULES, DASHBOARD = FOLDER / "rules.yaml", FOLDER / "dashboard.json"
NAME = re.compile(r"\bstackwright_[a-z_]+\b")


class Scrape:
    """One answer of an exporter."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.rows = {
            (row.name, *sorted(row.labels.items())): row.value for one in self.families.values() for row in one.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels."""
        wanted = set(labels.items())
        return sum(value for (named, *row), value in self.rows.items() if named == name and wanted <= set(row))

    def labels(self, label: str, of: str = "") -> set[str]:
        """Return all values of a label, of all series or of those whose name begins so."""
        return {dict(row)[label] for named, *row in self.rows if label in dict(row) and named.startswith(of)}

    def names(self) -> set[str]:
        """Return every name that can be asked for, also of metrics that have no series now."""
        found: set[str] = set()
        for family in self.families.values():
            ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            found |= {family.name + end for end in ends}
        return found


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels() -> list[Any]:
    """Return the panels that show something."""
    return [one for one in dashboard()["panels"] if one["type"] != "row"]


def alerts() -> list[Any]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def asked() -> Iterator[tuple[str, str]]:
    """Return every expression of the dashboard and of the rules, with the place where it stands."""
    for one in panels():
        for target in one["targets"]:
            yield one["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        yield variable["name"], json.dumps(variable["query"])
    for rule in alerts():
        yield rule["alert"], rule["expr"]
