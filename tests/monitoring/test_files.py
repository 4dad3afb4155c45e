"""The dashboard and the alert rules: sound by themselves, and asking only for what the exporters print."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from stackwright.domain.metrics import COUNTED, SEEN, Metric
from stackwright.metrics import Exporter, Kept
from stackwright.webhooks.metrics import Metrics
from tests.monitoring.scraping import FOLDER, NAME, RULES, Scrape, alerts, asked, dashboard, panels

PROMTOOL = shutil.which("promtool")
promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
GIVEN = {"instance", "job", "le", "__name__"}  # labels that Prometheus itself puts on


def printed() -> Scrape:
    """Return what both exporters print before anything happened: every metric has its line of help and type."""
    return Scrape(Exporter(Kept(None)).text() + Metrics().text().decode())


def told(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROMTOOL), *map(str, argv)], capture_output=True, text=True, timeout=60, check=False)


def test_every_metric_that_is_asked_for_is_printed() -> None:
    there = printed().names()
    missing = {(where, name) for where, expression in asked() for name in NAME.findall(expression) if name not in there}
    assert not missing


def test_every_metric_that_is_printed_is_shown_or_watched() -> None:
    """What nobody looks at need not be measured; the release alone is for whoever asks."""
    used = {name for _, expression in asked() for name in NAME.findall(expression)}
    unused = {name for name in {**COUNTED, **SEEN} if not any(one.startswith(name) for one in used)}
    assert unused <= {"stackwright_build_info", "stackwright_schedule_period_seconds",
                      "stackwright_run_last_success_duration_seconds"}  # fmt: skip


def test_every_label_that_is_asked_for_is_one_of_the_metric() -> None:
    """A misspelt label would show an empty panel, or never raise an alarm."""
    known = {name: set(metric.labels) for name, metric in {**COUNTED, **SEEN}.items()}
    for where, expression in asked():
        for name, chosen in re.findall(r"(stackwright_[a-z_]+)\{([^}]*)\}", expression):
            if (base := re.sub(r"_(bucket|sum|count)$", "", name)) in known:
                assert set(re.findall(r"(\w+)[=!]", chosen)) <= known[base] | GIVEN, where
        named = {
            base for one in NAME.findall(expression) if (base := re.sub(r"_(bucket|sum|count)$", "", one)) in known
        }
        grouped = {label for words in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", words)}
        if named:
            assert grouped <= GIVEN.union(*(known[one] for one in named)), where


@pytest.mark.parametrize(("name", "metric"), sorted({**COUNTED, **SEEN}.items()))
def test_names_are_as_prometheus_wants_them(name: str, metric: Metric) -> None:
    """Prefix, base units, `_total` for what only grows and for nothing else, one sentence of help."""
    assert re.fullmatch(r"stackwright_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|minutes|hours|percent)", name)
    if metric.kind == "histogram":
        assert name.endswith("_seconds") and sorted(metric.buckets) == list(metric.buckets)
    assert metric.help.endswith(".") and len(metric.labels) <= 4


def test_the_dashboard_is_sound() -> None:
    """Ids and titles are its own, panels do not overlap, each says its source and has something to ask."""
    document = dashboard()
    assert {"title", "uid", "panels", "templating", "schemaVersion", "time"} <= document.keys()
    assert "id" not in document, "an id of one Grafana would collide with another's"
    every = document["panels"]
    assert max(Counter(one["id"] for one in every).values()) == 1
    assert max(Counter(one["title"] for one in every).values()) == 1
    taken: set[tuple[int, int]] = set()
    for one in every:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24, one["title"]
        taken |= cells
    variables = {one["name"] for one in document["templating"]["list"]}
    for one in panels():
        assert one["datasource"]["uid"] == "${datasource}" and one["targets"], one["title"]
        for target in one["targets"]:
            assert target["datasource"] == one["datasource"] and target["expr"], one["title"]
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables, one["title"]


def test_every_alert_says_what_it_is_and_how_bad() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]
    told_of = (FOLDER.parents[1] / "docs" / "watching.md").read_text(encoding="utf-8")
    assert all(f"`{rule['alert']}`" in told_of for rule in alerts())


@promtool
def test_prometheus_takes_the_rules_and_the_expressions(tmp_path: Path) -> None:
    """Prometheus' own tool reads the rules, the scrape file, and each panel's expression as a rule."""
    done = told("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    done = told("check", "config", FOLDER / "scrape.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = ["groups:", "- name: panels", "  rules:"]
    for at, one in enumerate(target["expr"] for panel in panels() for target in panel["targets"]):
        expression = one.replace("$__rate_interval", "5m").replace("$site", "berlin")
        lines += [f"  - record: panel:{at}", f"    expr: {expression!r}"]
    (tmp_path / "panels.yaml").write_text("\n".join(lines))
    done = told("check", "rules", tmp_path / "panels.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_prometheus_refuses_a_broken_rule(tmp_path: Path) -> None:
    broken = tmp_path / "rules.yaml"
    broken.write_text(RULES.read_text().replace("time() > stackwright", "time() >> stackwright", 1))
    assert told("check", "rules", broken).returncode != 0


@promtool
def test_alerts_fire_on_what_they_are_for_and_on_nothing_else(tmp_path: Path) -> None:
    """A late snapshot, a waiting onboarding, a bad link, a slow step, a lease held all day; and a quiet night."""
    here = Path(__file__).parent
    for name in ("rules_test.yaml", "rules_slow_test.yaml"):
        text = (here / name).read_text(encoding="utf-8").replace("RULES", str(RULES))
        (tmp_path / name).write_text(text)
        done = told("test", "rules", tmp_path / name)
        assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "wrong.yaml").write_text(text.replace("360000x40", "3600x40"))
    assert told("test", "rules", tmp_path / "wrong.yaml").returncode != 0, "a case that does not happen is seen"
