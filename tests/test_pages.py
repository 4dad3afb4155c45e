"""What single pages say of the code: every unit, schedule and state of a run is told where a person looks for it."""

from __future__ import annotations

import re
from pathlib import Path

from blocks.site import read_spec
from stackwright.domain import node_wants
from stackwright.domain.layers import enabled
from stackwright.domain.tenant_objects import AGENT_CHART, GATEWAY_CHART
from stackwright.domain.versions import DEFAULTS
from stackwright.runs import catalogue
from stackwright.schedules import declared
from tasks.outcome import REFUSED, STOPPED
from tasks.tenant_request import ENDED, FAILED
from tests.systemd_units import SERVICES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAMED = re.compile(r"(?:Completed|Failed)\(name=\"(\w+)\"|_giving_way\(\"(\w+)\"")


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of a page's table that begins with this heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", text, re.M)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]


def test_one_machines_page_tells_of_every_unit() -> None:
    """Also how many there are."""
    assert {row[0] for row in rows("one-machine.md", "unit")} == {f"`{Path(name).stem}`" for name in SERVICES}
    words = {5: "five", 6: "six", 7: "seven", 8: "eight"}
    assert f"{words[len(SERVICES)]} systemd units" in (DOCS / "one-machine.md").read_text(encoding="utf-8")


def when(cron: str) -> str:
    """Say when a schedule runs, as the page does."""
    minute, hour, _, _, day = cron.split()
    if hour == "*/6":
        return f"every six hours at :{minute}"
    days = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
    return f"{days[int(day)] if day != '*' else 'daily'} {int(hour):02}:{int(minute):02}"


def test_the_schedules_page_tells_of_every_schedule_with_its_time() -> None:
    """In the order of the day; what the site file must have for it is told too."""
    told = {row[0].strip("`"): (row[1], row[2].strip("`")) for row in rows("schedules.md", "deployment")}
    watched = {row.flow: row for row in declared()}
    crons = {name: entry["schedules"][0]["cron"] for name, entry in catalogue().items() if entry.get("schedules")}
    assert told == {name: (when(cron), watched[name].needs or "") for name, cron in crons.items()}


def state_names() -> set[str]:
    """Return the names that our flows give to a run's last state."""
    sources = [path for room in ("flows", "tasks") for path in (ROOT / room).rglob("*.py")]
    found = {one for path in sources for pair in NAMED.findall(path.read_text(encoding="utf-8")) for one in pair if one}
    return found | {*ENDED.values(), *FAILED.values(), REFUSED, STOPPED}


def test_the_ui_page_says_what_every_state_of_ours_means() -> None:
    """And names none that no flow ends with, Prefect's own apart."""
    told = {name for row in rows("ui.md", "State") for name in row[0].split(", ")}
    assert {"Drifted", "Superseded", "ChecksFailed"} <= state_names()
    assert told - {"Completed", "Crashed", "Paused", "Cancelled", "AwaitingRetry"} == state_names()


def test_the_air_gaps_page_lists_every_chart_that_a_mirror_must_have() -> None:
    """Of the example site, whose charts come from one: name and version, the tenants' own too."""
    spec = read_spec("example-ha")
    wanted = {release.chart.name: release.version for layer in enabled(spec) for release in layer.releases(spec)}
    wanted |= {AGENT_CHART.name: DEFAULTS["clearml.agent"], GATEWAY_CHART.name: DEFAULTS["clearml.gateway"]}
    assert {row[0].strip("`"): row[1] for row in rows("air-gap.md", "chart")} == wanted


def test_the_uninstall_page_names_every_file_that_stays_on_a_host() -> None:
    text = (DOCS / "uninstall.md").read_text(encoding="utf-8")
    ours = {path for name, path in vars(node_wants).items() if name.isupper() and str(path).startswith("/etc/")}
    kept = {node_wants.RESOLV, node_wants.NETCONFIG, node_wants.ZRAM_FILE}  # the system's own, changed in place
    assert {path for path in ours - kept if path not in text} == set()
