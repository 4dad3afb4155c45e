"""The references are what the code says now, and the whole documentation builds without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stackwright import handbook

ROOT = Path(__file__).parent.parent
PAGES = ("blocks", "commands", "errors", "evidence", "flows")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return handbook.pages()


def test_these_are_all_pages(pages: dict[str, str]) -> None:
    """A page that is made no more does not stay behind."""
    assert sorted(pages) == sorted(PAGES) == sorted(path.stem for path in (ROOT / handbook.FOLDER).glob("*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_is_fresh(name: str, pages: dict[str, str]) -> None:
    """`stackwright docs` writes it again."""
    assert (ROOT / handbook.FOLDER / f"{name}.md").read_text(encoding="utf-8") == pages[name]


def test_every_deployment_and_block_type_is_told(pages: dict[str, str]) -> None:
    from blocks.types import BLOCKS

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    assert all(f"## {entry['name']}\n" in pages["flows"] for entry in deployments)
    assert all(f"## {kind}\n" in pages["blocks"] for kind in BLOCKS)


def test_no_error_is_without_a_meaning(pages: dict[str, str]) -> None:
    rows = [line.split(" | ") for line in pages["errors"].splitlines() if line.startswith("| `")]
    assert len(rows) > 40 and all(len(row) == 4 and row[1].strip() and row[2].strip() for row in rows)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the navigation, and every link leads somewhere; nothing is loaded from outside."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page and 'rel="stylesheet" href="http' not in page and 'href="//' not in page
