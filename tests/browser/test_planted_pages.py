"""No page of the UI shows a secret, nor loads one: after a deploy each kind of page is opened and its answers read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planted import found_in

pytestmark = [pytest.mark.browser, pytest.mark.lab]
LISTS = (
    "dashboard", "runs", "flows", "deployments", "work-pools", "blocks", "variables", "automations", "events",
    "artifacts", "concurrency-limits", "settings",
)  # fmt: skip
TABS = ("Logs", "Task Runs", "Subflow Runs", "Artifacts", "Details", "Parameters", "Job Variables")
PUBLIC = (".username", ".certificate")


def blocks_of(ground: Any) -> list[dict[str, Any]]:
    """Return all blocks, opened."""
    return list(ground.ask("block_documents/filter", include_secrets=True))


def secrets_in(blocks: list[dict[str, Any]]) -> dict[str, str]:
    """Return the secret values of blocks by name."""
    named = {
        f"{one['block_type']['slug']}/{one['name']}.{field}": value
        for one in blocks
        for field, value in one["data"].items()
    }
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, str) and len(value) >= 8 and not name.endswith(PUBLIC)
    }


class Listener:
    """Keeps what the browser has fetched as text."""

    def __init__(self, page: Any) -> None:
        self.answers: list[Any] = []
        page.on(
            "response", lambda answer: self.answers.append(answer)
        )  # the driver marks its handlers: no built-in one

    def texts(self) -> list[tuple[str, str]]:
        """Return the bodies of the API's answers to the page that is open, and forget them."""
        found = []
        for one in self.answers:
            if "/api/" in one.url and one.request.method in ("GET", "POST"):
                try:
                    found.append((one.url, one.text()))
                except Exception as error:  # the driver's own kind: a body that the browser did not keep
                    assert "No resource" in str(error) or "No data found" in str(error) or "evicted" in str(error), (
                        error
                    )
        self.answers.clear()
        return found


def pages_of(ground: Any, run: dict[str, Any], blocks: list[dict[str, Any]]) -> list[str]:
    """Return the addresses of one page of each kind."""
    tasks = ground.ask("task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, limit=3)
    artifacts = ground.ask("artifacts/latest/filter", limit=50)
    return [
        *LISTS,
        f"runs/flow-run/{run['id']}",
        *(f"runs/task-run/{one['id']}" for one in tasks),
        *(f"artifacts/artifact/{one['latest_id']}" for one in artifacts),
        f"deployments/deployment/{run['deployment_id']}",
        f"deployments/deployment/{run['deployment_id']}/run",
        *(f"blocks/block/{one['id']}" for one in blocks),
    ]


def test_no_page_shows_or_loads_a_secret(browser: Any, ground: Any) -> None:
    """A deploy has used the site's secrets; its pages, the lists, each block's page and what they got are searched."""
    done = ground.rig.run("apply", "lab", "--yes")
    assert done.code == 0, done.output[-3000:]
    run, blocks = ground.newest("deploy-stack"), blocks_of(ground)
    secrets = secrets_in(blocks)
    assert len(secrets) >= 3
    listener = Listener(browser.page)
    said: list[tuple[str, str]] = []
    for path in pages_of(ground, run, blocks):
        page = browser.open(path)
        for tab in TABS if "flow-run" in path else ("",):
            if tab:
                browser.tab(tab)
            said += [(f"{path} {tab}", page.content()), (f"{path} {tab}", page.locator("body").inner_text())]
            said += listener.texts()
    assert any("/logs/filter" in place for place, _ in said) and any("deploy-lab" in text for _, text in said)
    assert any(place.endswith("Artifacts") and "report-lab" in text for place, text in said)  # the tabs did open
    assert not found_in(secrets, said)


def test_a_secret_on_a_page_would_be_seen(browser: Any, ground: Any) -> None:
    """The same search finds one that a page does show."""
    secrets = secrets_in(blocks_of(ground))
    name, value = min(secrets.items(), key=lambda one: len(one[1]))
    browser.page.set_content(f"<p>{value}</p>")
    assert found_in({name: value}, [("page", browser.page.content())]) == [f"{name} in page"]
