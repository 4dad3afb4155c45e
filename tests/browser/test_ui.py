"""A day at the Prefect UI: a deploy is started from its form and watched, a removal approved, a failure found.

In the order of the day: each step stands on the one before. `make browser-test`; pictures are kept in build/browser.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from stackwright.runs import catalogue

pytestmark = [pytest.mark.browser, pytest.mark.lab]


def started(browser: Any, ground: Any, name: str = "deploy-stack") -> str:
    """Send the form that is open, and return the run that came of it."""
    before = ground.newest(name).get("id", "")
    browser.submit()
    return str(ground.begun(name, before)["id"])


def form(browser: Any, ground: Any, name: str) -> None:
    """Open a deployment's run form."""
    browser.open(f"deployments/deployment/{ground.deployment(name)['id']}/run")
    browser.says("Site")


def test_what_is_cut_off_would_be_seen(browser: Any) -> None:
    """A table that reaches beyond the window fails the look at a page, also where its frame hides the rest."""
    wide = f"<table><tr><td style='white-space: nowrap'>{'wide ' * 400}</td></tr></table>"
    browser.page.set_content(f"<article style='overflow: hidden'>{wide}</article>")
    with pytest.raises(AssertionError, match="cut-off at 1280 px"):
        browser.keep("cut-off")


@pytest.mark.parametrize("name", catalogue())
def test_a_form_is_whole_at_both_widths(browser: Any, ground: Any, name: str) -> None:
    """Titles and help instead of names of variables; the sites to choose from."""
    form(browser, ground, name)
    browser.keep(f"form-{name}", height=1500)
    for title in (
        field["title"] for field in ground.deployment(name)["parameter_openapi_schema"]["properties"].values()
    ):
        assert browser.field(title).is_visible()
    if name != "tenant-request":  # its request names the site once more, below
        browser.choose("Site", "lab")
        assert browser.field("Site").locator(".p-select-button__value").inner_text() == "lab"


def test_wrong_values_are_refused_at_their_fields(browser: Any, ground: Any) -> None:
    """All of them at once, in red below each, before there is a run; an empty form says what is needed."""
    before = ground.newest("upgrade-cluster")
    form(browser, ground, "upgrade-cluster")
    assert browser.refused(1) == ["Site: 'site' is a required property"]
    browser.choose("Site", "lab")
    browser.write("Approval: hash of the plan", "xyz")
    browser.write("Exception: upgrade without a rehearsal", "because")
    said = browser.refused(2)
    assert [line.split(" does not match")[0] for line in said] == [
        "Approval: hash of the plan (Optional): 'xyz'",
        "Exception: upgrade without a rehearsal (Optional): 'because'",
    ]
    browser.keep("form-refused", height=1500)
    assert ground.newest("upgrade-cluster") == before


def test_a_form_that_the_server_had_no_time_for_is_sent_again(browser: Any, ground: Any) -> None:
    """The UI's note that something went wrong lies over the button: it is closed first. One run comes of it."""
    answered = []

    def busy(route: Any) -> None:
        answered.append(route)
        route.fulfill(status=503, body="{}") if len(answered) == 1 else route.continue_()

    form(browser, ground, "plan-stack")
    browser.choose("Site", "lab")
    browser.page.route("**/api/ui/schemas/validate", busy)
    run = started(browser, ground, "plan-stack")
    assert len(answered) == 2
    assert ground.state(run, "COMPLETED", "FAILED", "CRASHED")["state"]["type"] == "COMPLETED"


def test_a_deploy_is_started_from_the_form_and_watched(browser: Any, ground: Any) -> None:
    """Nothing but the site is asked; the run has the site's tag and name; its pages can be read."""
    form(browser, ground, "deploy-stack")
    browser.choose("Site", "lab")
    run = started(browser, ground)
    ground.state(run, "RUNNING")
    browser.open(f"runs/flow-run/{run}")
    browser.says("deploy-lab")
    browser.says(re.compile(r"\d+ of \d+ steps done"), limit_s=300)
    browser.keep("deploy-running")
    ended = ground.state(run, "COMPLETED", "FAILED", "CRASHED")
    assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
    assert {"site:lab", "action:deploy"} <= set(ended["tags"]) and ended["name"] == "deploy-lab"
    for key in ("plan-lab", "evidence-lab", "report-lab", "progress-lab"):
        browser.open(f"artifacts/artifact/{ground.artifact(run, key)['id']}")
        browser.says(key)
        browser.keep(key.removesuffix("-lab"), height=1400)


def test_a_wrong_hash_is_refused_in_words(browser: Any, ground: Any) -> None:
    """The run is Refused; what was wanted, seen and what is to be done stand in its log and on a page, no traceback."""
    leave(ground, "agt4")
    form(browser, ground, "deploy-stack")
    browser.choose("Site", "lab")
    browser.write("Approval: hash of the plan", "0123456789ab")
    run = started(browser, ground)
    ended = ground.state(run, "COMPLETED", "FAILED", "CRASHED")
    assert ended["state"]["name"] == "Refused" and "remedy: Read the new plan" in ended["state"]["message"]
    browser.open(f"runs/flow-run/{run}")
    browser.says(re.compile("the approved plan does not hold any more"))
    assert browser.page.get_by_text("Traceback").count() == 0
    browser.keep("refused-run")
    browser.open(f"artifacts/artifact/{ground.artifact(run, 'stopped-lab')['id']}")
    browser.says("Remedy")
    browser.says("Nothing was changed.")
    browser.keep("refused")


def leave(ground: Any, name: str) -> None:
    """Let a node leave the cluster."""

    def edit(document: dict[str, Any]) -> None:
        document.setdefault("removed", []).extend(node for node in document["nodes"] if node["name"] == name)
        document["nodes"] = [node for node in document["nodes"] if node["name"] != name]

    ground.change(edit)


def test_a_removal_is_approved_in_the_form(browser: Any, ground: Any) -> None:
    """The run waits; its form shows hash and effects; who decided and when is kept and stands in the report."""
    form(browser, ground, "deploy-stack")
    browser.choose("Site", "lab")
    browser.write("Approval: hash of the plan", "0123456789ab")
    browser.write("Approval: hash of the plan", "")  # what was cleared again is not asked for
    run = started(browser, ground)
    ground.state(run, "PAUSED")
    browser.open(f"runs/flow-run/{run}")
    browser.page.get_by_role("button", name="Resume").first.click()
    plan = ground.artifact(run, "plan-lab")["description"].split()[1]
    browser.says(plan)
    browser.says(re.compile("the plan is refused"))
    browser.keep("approval", height=1300)
    browser.choose("Decision", "carry out")
    browser.write("Your name", "A")
    browser.write("Reason", " ")
    assert [line.split(" (")[0].split(":")[0] for line in browser.refused(2)] == ["Your name", "Reason"]
    browser.write("Your name", "Ada")
    browser.write("Reason", "its lease ends")
    browser.submit()
    ended = ground.state(run, "COMPLETED", "FAILED", "CRASHED")
    assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
    kept = ground.artifact(run, "approval-lab")
    assert all(part in kept["data"] for part in (plan, "carry out", "Ada", "its lease ends", "UTC"))
    browser.open(f"artifacts/artifact/{kept['id']}")
    browser.says("its lease ends")
    browser.keep("decision")


def test_which_node_failed_and_why_is_two_clicks_away(browser: Any, ground: Any) -> None:
    """One click filters the list by the site's tag, one opens the run that stopped: its log names node and reason."""
    ground.change(lambda document: document["dns"]["hosts"].update({"new.lab.test": "192.0.2.1"}))
    ground.rig.lab.fault(kind="disk-full", match={"target": "^agt2$", "action": "node/"}, path="/var")
    form(browser, ground, "deploy-stack")
    browser.choose("Site", "lab")
    run = started(browser, ground)
    ended = ground.state(run, "COMPLETED", "FAILED", "CRASHED")
    ground.rig.lab.clear_faults()
    assert ended["state"]["name"] == "Stopped", ended["state"]
    page = browser.runs_with_tags("site:lab")
    browser.says("Stopped")
    browser.keep("runs", height=1300)
    browser.open_run("Stopped")
    assert "agt2" in browser.says(re.compile("failed: agt2")).inner_text()
    assert "space" in page.locator("body").inner_text()
    browser.keep("stopped-run", height=1300)
    browser.open(f"artifacts/artifact/{ground.artifact(run, 'stopped-lab')['id']}")
    browser.says("How far it came")
    browser.keep("stopped", height=1300)


def test_a_run_is_found_by_its_name(browser: Any, ground: Any) -> None:
    """One click into the list's search, one on the run: `deploy-lab`, as `upgrade-berlin`, with its day in the row."""
    from playwright.sync_api import expect  # where it is installed

    browser.open("runs")
    # Another one of the same name is hidden on the page's other tab.
    browser.page.get_by_placeholder("Search by flow run name").locator("visible=true").fill("deploy-la")
    rows = browser.page.locator(".state-list-item")
    expect(rows.filter(has_not_text="deploy-lab")).to_have_count(0, timeout=60_000)
    browser.says("deploy-lab")
    assert all("deploy-lab" in row and re.search(r"\d{4}/\d\d/\d\d", row) for row in rows.all_inner_texts())
    browser.open_run("Stopped")
    browser.says(re.compile("failed: agt2"))
