"""Every HTML report as people open it: nothing from outside, plots with sources; and in Chromium, where that is there.

In the browser, at 1280 and 390 pixels, light and dark: nothing is wider than the page, and every text stands out
from what is behind it by 4.5 to 1.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stackwright.reports.capacity_plots import PLOTS, SOURCES
from tests.reports.browser import CHROMIUM, chromium
from tests.reports.pages import PAGES

LOADS = re.compile(r"<script|<link|<iframe|<object|<embed|@import|url\(|\bsrcset=|<form|\bon[a-z]+=", re.I)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_from_outside(name):
    """No script, style, font, picture or frame of another place; pictures are part of the page."""
    text = PAGES[name]()
    assert LOADS.search(re.sub(r">[^<]*<", "><", text)) is None
    assert all(found.startswith("data:image/") for found in re.findall(r'\bsrc="([^"]*)', text))
    assert '<meta name="viewport"' in text and 'lang="en"' in text and "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("name", PAGES)
def test_every_mark_has_a_word(name):
    """No badge and no picture speaks by its colour alone."""
    text = PAGES[name]()
    assert all(word.strip() for word in re.findall(r'class="badge[^"]*">([^<]*)<', text))
    assert all(label.strip() for label in re.findall(r'role="img" aria-label="([^"]*)"', text))
    assert all(alt.strip() for alt in re.findall(r'<img alt="([^"]*)"', text))


def test_every_plot_has_its_source():
    assert SOURCES.keys() == PLOTS.keys() and all(text.startswith("Source: ") for text in SOURCES.values())
    text = PAGES["capacity"]()
    assert text.count("<figure>") == text.count('class="source">Source: ') > 1


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} (apt-get install chromium)")
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_can_be_read(tab, tmp_path, name, width, scheme):
    page = tmp_path / f"{name}.html"
    page.write_text(PAGES[name](), encoding="utf-8")
    seen = tab.show(page, width, scheme)
    assert seen["dark"] == (scheme == "dark")
    assert (seen["page"], seen["wide"]) == (width, [])
    assert seen["faint"] == [] and seen["loaded"] == []


@pytest.mark.slow
def test_what_is_too_wide_or_too_faint_is_found(tab, tmp_path):
    """The measure itself: a page with both faults does not pass."""
    bad = Path(tmp_path / "bad.html")
    bad.write_text('<body style="color:#999;background:#fff"><div style="width:700px">faint and wide</div>')
    seen = tab.show(bad, 390, "light")
    assert seen["page"] > 390 and seen["wide"] and "faint and wide" in seen["faint"][0]
