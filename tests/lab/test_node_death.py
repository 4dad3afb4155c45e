"""The scripts that stop a spare node and bring it back, over SSH on a machine with RKE2's stand-in."""

from __future__ import annotations

import pytest

from stackwright.domain.shell import Batch, Command, change_script
from stackwright.domain.work_node import BACK_UNIT, down_script, up_script
from tests.domain.layers.sites import lab as lab_spec
from tests.lab.test_rke2 import FIRST, bring, condition

AGENT = "token: secret\nserver: https://k8s.lab.test:9345\n"


@pytest.fixture(scope="module")
def pair(small_lab, tmp_path_factory):
    """A server and an agent."""
    with small_lab(tmp_path_factory.mktemp("lab"), [{"name": "s1"}, {"name": "a1"}], 200.0) as lab:
        bring(lab, "s1", FIRST)
        bring(lab, "a1", AGENT, "agent")
        yield lab


def send(lab, node, body):
    """Send a step's script as production does, and return what it said."""
    text = change_script(Batch((Command("proof/x", "0" * 16, body),), 1, "lease-1"))
    return lab.sh(node, text, timeout_s=60.0)


def active(lab, unit):
    return lab.sh("a1", f"systemctl is-active {unit}").out.strip()


def spec_with(seconds):
    """A site whose stopped node starts itself again after three waits of so many seconds, and the margin."""
    spec = lab_spec()
    return spec.model_copy(update={"validation": spec.validation.model_copy(update={"platform_timeout_s": seconds})})


def test_the_node_dies_and_comes_back(pair):
    """NotReady after its time, with the way back armed; started again, the timer gone; the second time nothing."""
    assert '"rc":0' in send(pair, "a1", down_script(spec_with(600))).out
    assert active(pair, "rke2-agent.service") == "inactive" and active(pair, f"{BACK_UNIT}.timer") == "active"
    pair.wait(lambda: condition(pair, "a1", "Ready") == "Unknown", "a1 lost")
    for _ in range(2):
        assert '"rc":0' in send(pair, "a1", up_script()).out
        pair.wait(lambda: active(pair, "rke2-agent.service") == "active", "a1 started")
        assert active(pair, f"{BACK_UNIT}.timer") == "inactive"
    pair.wait(lambda: condition(pair, "a1", "Ready") == "True", "a1 back")


def test_a_node_whose_run_has_died_starts_itself_again(pair):
    """Nobody sends anything any more: the timer on the node starts the agent."""
    script = down_script(spec_with(600)).replace("--on-active=2100s", "--on-active=1s")
    assert '"rc":0' in send(pair, "a1", script).out
    assert active(pair, "rke2-agent.service") == "inactive"
    pair.wait(lambda: active(pair, "rke2-agent.service") == "active", "a1 started by its timer")
    pair.wait(lambda: condition(pair, "a1", "Ready") == "True", "a1 back")


def test_stopping_twice_keeps_the_way_back(pair):
    """A second run of the script finds the node dead already, and arms the timer anew."""
    for _ in range(2):
        assert '"rc":0' in send(pair, "a1", down_script(spec_with(600))).out
        assert active(pair, f"{BACK_UNIT}.timer") == "active"
    send(pair, "a1", up_script())
    pair.wait(lambda: condition(pair, "a1", "Ready") == "True", "a1 back")


def test_a_server_is_never_stopped(pair):
    """Refused on the node itself, whatever the site file said."""
    said = send(pair, "s1", down_script(spec_with(600)))
    assert '"rc":1' in said.out
    assert pair.sh("s1", "systemctl is-active rke2-server").out.strip() == "active"


def test_a_node_that_would_not_start_by_itself_is_not_stopped(pair):
    """Its unit is disabled: after a power cut in the middle it would stay away."""
    pair.sh("a1", "systemctl disable rke2-agent")
    try:
        assert '"rc":1' in send(pair, "a1", down_script(spec_with(600))).out
        assert active(pair, "rke2-agent.service") == "active"
    finally:
        pair.sh("a1", "systemctl enable rke2-agent")


def test_without_a_timer_nothing_is_stopped(pair):
    """The way back could not be armed."""
    script = down_script(spec_with(600)).replace("systemd-run ", "false ")
    assert '"rc":1' in send(pair, "a1", script).out
    assert active(pair, "rke2-agent.service") == "active"
