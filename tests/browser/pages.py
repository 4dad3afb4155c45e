"""The Prefect UI as a person uses it: a page of it at two widths, its run form, its approval form, its lists."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = (1280, 768)
TRIES, SENT_S = 5, 90  # the server lets a writer wait a minute for SQLite
CUT = """() => {
  const wide = innerWidth + 1, cut = [];
  if (document.documentElement.scrollWidth > wide) cut.push('the page itself');
  for (const one of document.querySelectorAll('article *, table *, label, h1, h2, h3, .p-key-value, [role=dialog] *')) {
    const box = one.getBoundingClientRect();
    if (box.width && box.right > wide && one.innerText) cut.push(one.tagName + ': ' + one.innerText.slice(0, 60));
  }
  return cut.slice(0, 5);
}"""


class Browser:
    """One Chromium, one page. Whatever is shown to the test is kept as a picture at both widths."""

    def __init__(self, ui: str, pictures: Path) -> None:
        self.ui, self.pictures = ui, pictures
        pictures.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Browser:
        self._play = sync_playwright().start()
        self._chromium = self._play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        self.page: Page = self._chromium.new_page(viewport={"width": WIDTHS[0], "height": 1000})
        self.page.set_default_timeout(30_000)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.page.screenshot(path=self.pictures / "last.png")  # what a test that failed was looking at
        self._chromium.close()
        self._play.stop()

    def open(self, path: str) -> Page:
        """Go to a page of the UI and wait until it has stopped loading."""
        self.page.goto(f"{self.ui}/{path}")
        self.page.wait_for_load_state("networkidle")
        return self.page

    def keep(self, name: str, height: int = 1000) -> None:
        """Keep the page as a picture at each width. Nothing on it may be cut off at its side."""
        try:
            for width in WIDTHS:
                self.page.set_viewport_size({"width": width, "height": height})
                self.page.wait_for_timeout(600)  # the UI lays itself out anew, with a transition
                self.page.screenshot(path=self.pictures / f"{name}-{width}.png")
                cut = self.page.evaluate(CUT)
                assert cut == [], f"{name} at {width} px: {cut}"
        finally:
            self.page.set_viewport_size({"width": WIDTHS[0], "height": 1000})

    # --- forms -------------------------------------------------------------------------------------------------------

    def field(self, title: str) -> Locator:
        """Return a field of the form by its title."""
        label = self.page.locator(".schema-form-property__label", has_text=re.compile(f"^{re.escape(title)}"))
        return self.page.locator(".schema-form-property").filter(has=label).last

    def choose(self, title: str, choice: str) -> None:
        """Choose in a select until it shows the choice: a form that has just been drawn is drawn once more."""
        option = self.page.locator(".p-select-option").get_by_text(choice, exact=True)
        shown = self.field(title).locator(".p-select-button__value")
        for _ in range(20):
            if shown.count() and shown.last.inner_text() == choice:
                return
            if option.count():
                option.first.click()
            else:
                self.field(title).locator(".p-select-button__icon, .p-select-button__control").last.click()
            self.page.wait_for_timeout(500)
        expect(shown.last).to_have_text(choice)

    def write(self, title: str, text: str) -> None:
        """Write into a text field."""
        self.field(title).locator("textarea, input").last.fill(text)

    def switch(self, title: str) -> None:
        """Turn a switch over."""
        self.field(title).locator(".p-toggle__control, .p-toggle, input").first.click()

    def refused(self, count: int) -> list[str]:
        """Send the form, wait until so many of its fields say in red what is wrong, and return that by title."""
        self.page.get_by_role("button", name="Submit").click()
        told = self.page.locator(".schema-form-property:has(> .p-label__message)")
        expect(told).to_have_count(count, timeout=60_000)
        return [
            f"{field.locator('.schema-form-property__label').first.inner_text()}: {message}"
            for field in told.all()
            for message in [field.locator("> .p-label__message").inner_text()]
        ]

    def submit(self) -> None:
        """Send the form until it is taken: what the server answers with an error is sent again, as by hand.

        On SQLite it answers 503 when two write in the same moment: its clients then try again, the UI does not. It only
        says that something went wrong, in a note that lies over the button for good.
        """
        button = self.page.get_by_role("button", name="Submit")
        note = self.page.locator(".p-toast-container__toast").filter(has_text="Something went wrong")
        for _ in range(TRIES):
            if note.count():
                note.first.locator(".p-toast__close-btn").dispatch_event("click")  # a picture lies over it
            button.click()
            for _ in range(SENT_S * 2):
                self.page.wait_for_timeout(500)
                if not button.count():
                    return
                if note.count():
                    break
        raise AssertionError(f"the form was not taken: {self.page.locator('body').inner_text()[-1500:]}")

    def tab(self, name: str) -> None:
        """Open a tab of the page that is shown: the UI takes none from the address."""
        self.page.locator(".p-tab", has_text=re.compile(f"^{name}$")).click()
        self.page.wait_for_load_state("networkidle")

    # --- runs --------------------------------------------------------------------------------------------------------

    def runs_with_tags(self, *tags: str) -> Page:
        """Open the list of runs and filter it by tags, in the list's own field."""
        page = self.open("runs")
        for tag in tags:
            page.locator(".flow-run-tags-input .p-select-button__control").click()
            page.keyboard.type(tag)
            page.locator(".p-pop-over-content").get_by_text(tag, exact=True).click()
            page.keyboard.press("Escape")
        page.wait_for_load_state("networkidle")
        return page

    def open_run(self, state: str) -> None:
        """Open the newest run in a state from the list that is shown."""
        row = self.page.locator(".state-list-item").filter(has_text=state).first
        row.locator(".flow-run-bread-crumbs__flow-run-link").click()
        self.page.wait_for_url("**/runs/flow-run/**")
        self.page.wait_for_load_state("networkidle")

    def says(self, text: str | re.Pattern[str], limit_s: float = 60) -> Locator:
        """Wait until the page says something, and return where."""
        found = self.page.get_by_text(text).first
        expect(found).to_be_visible(timeout=limit_s * 1000)
        return found
