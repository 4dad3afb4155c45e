"""What the newcomer types is read out of the README: a change there is typed too."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stackwright.domain.sitefile import parse_site
from tests.newcomer.hosts import ROLES, Own, site_file
from tests.newcomer.readme import filled_in, to_the_demo, to_the_plan
from tests.newcomer.run import hidden

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_demo_is_one_command():
    """The suite is left out, by name; another command in that block would be typed."""
    assert to_the_demo(README) == ["make demo"]
    more = README.replace("$ make demo", "$ make fetch   # first\n$ make demo")
    assert to_the_demo(more) == ["make fetch", "make demo"]


def test_the_way_to_a_plan_has_all_steps_and_stops_before_a_change():
    found = to_the_plan(README)
    assert found[-1] == "stackwright plan NAME" and "stackwright check NAME" in found
    assert found.index("prefect server start") < found.index("stackwright setup")
    assert "stackwright lint NAME" in found and any(line.startswith("stackwright block set ssh-key") for line in found)
    assert not [line for line in found if line.startswith(("stackwright apply", "stackwright upgrade"))]
    more = README.replace("$ stackwright check NAME ", "$ stackwright report NAME\n   $ stackwright check NAME ")
    assert "stackwright report NAME" in to_the_plan(more)


def test_a_readme_without_them_is_refused():
    for text in (README.replace("## Your own hosts", "## Hosts"), README.replace("stackwright plan NAME", "plan NAME")):
        with pytest.raises(ValueError, match=r"README\.md"):
            to_the_plan(text)


def test_placeholders_are_filled_in_and_the_key_is_not_shown():
    line = filled_in("export PREFECT_SERVER_ENCRYPTION_KEY=...", {"=...": "=abc"})
    assert line == "export PREFECT_SERVER_ENCRYPTION_KEY=abc" and hidden(line).endswith("KEY=...")


def test_the_site_file_that_is_written_is_one():
    for kind, net in (("containers", "192.0.2"), ("openssh", "127.66.0")):
        own = Own(kind, {name: f"{net}.{at}" for at, name in enumerate(ROLES, 11)}, 22, "ops", "", f"{net}.1", "/x")
        spec = parse_site(yaml.safe_dump(site_file(own, {})), "newcomer.yaml")
        assert len(spec.nodes) == len(ROLES) and spec.ssh.key_block == "ssh"
