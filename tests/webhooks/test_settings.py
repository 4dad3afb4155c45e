"""The receiver's settings: every problem at once, no secret in them, a place that is known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stackwright.domain.errors import SiteFileError
from stackwright.webhooks.settings import read_settings, store_url

ROOT = Path(__file__).parent.parent.parent
GOOD = "callers: {portal: {sites: [lab], largest: {cpu: 1}}}\n"


def test_the_shipped_settings_are_good() -> None:
    assert read_settings(ROOT / "deployments" / "webhooks.yaml").callers["portal"].sites == ("lab",)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("callers: {portal: {sites: [], largest: {}}}", "callers.portal.sites"),
        ("callers: {Portal: {sites: [lab], largest: {}}}", "callers"),
        ("callers: {portal: {sites: [lab]}}", "callers.portal.largest"),
        (GOOD + "body_limit: 10000000", "body_limit"),
        (GOOD + "key: 5ec2e7", "key"),
        (GOOD + "store: not an address", "store"),
        (GOOD + "store: postgresql://user:hunter2@db/stack", "store"),
        ("callers: [", "cannot be read"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, text: str, names: str) -> None:
    """With the place of each problem; a password in the store's address is not repeated."""
    file = tmp_path / "webhooks.yaml"
    file.write_text(text)
    with pytest.raises(SiteFileError) as caught:
        read_settings(file)
    assert names in str(caught.value) and "hunter2" not in str(caught.value) and "5ec2e7" not in str(caught.value)


def test_the_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may hold a password: the file must not, the environment may."""
    file = tmp_path / "webhooks.yaml"
    file.write_text(GOOD)
    settings = read_settings(file)
    assert store_url(settings, tmp_path) == f"sqlite:///{tmp_path}/requests.db"
    monkeypatch.setenv("STACKWRIGHT_WEBHOOKS_STORE", "postgresql://user:pw@db/stack")
    assert store_url(settings, tmp_path) == "postgresql://user:pw@db/stack"


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ("sqlite:////proc/none/requests.db", "the store cannot be made"),
        ("postgresql://stack:hunter2@127.0.0.1:1/stack", "the store does not answer"),
        ("hunter2 is no address", "not a store's address"),
    ],
)
def test_a_receiver_whose_store_cannot_be_opened_says_so(tmp_path: Path, store: str, says: str) -> None:
    """In one line, with the exit code of our errors; no traceback, no password, and it does not listen."""
    file = tmp_path / "webhooks.yaml"
    file.write_text(GOOD)
    env = {
        **os.environ, "STACKWRIGHT_WEBHOOKS": str(file), "STACKWRIGHT_WEBHOOKS_STORE": store,
        "PREFECT_API_URL": "http://127.0.0.1:1/api", "STACKWRIGHT_STATE": str(tmp_path / "state"),
    }  # fmt: skip
    argv = [sys.executable, "-m", "stackwright.cli", "webhooks", "serve", "--port", "0"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "hunter2" not in done.stderr
