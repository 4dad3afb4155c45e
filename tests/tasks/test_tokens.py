"""Token rotation on the lab: old snapshots stay restorable, a token is seen nowhere, any death is continued."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace

import pytest
from pydantic import SecretStr

from stackwright.domain.errors import NodeUnreachableError, PlanMovedError, PlanRefusedError, StackError
from stackwright.domain.plan import Effect
from stackwright.domain.rotations import picked
from stackwright.domain.token_archive import find_token, parse_archive, secret_part, token_hash
from stackwright.domain.token_rotation import judge_tokens, plan_token, token_state
from stackwright.domain.windows import WindowClosedError
from tasks.certificates import read_certificates
from tasks.snapshots import read_snapshots, take_snapshot, verify_snapshot
from tasks.tokens import adopt, prepare, read_tokens, restart, rotate, write_config
from tests.sampling import sampled
from tests.tasks.up_site import NO_LAYERS, Held, closed_now, cluster_up, etcd_starts, respec, stack_facts

pytestmark = pytest.mark.lab
TOKEN = "/etc/rancher/rke2/config.yaml.d/10-token.yaml"
SERVER_TOKEN = "/var/lib/rancher/rke2/server/token"


@pytest.fixture(scope="module")
def up(small_lab, tmp_path_factory):
    with cluster_up(small_lab, tmp_path_factory.mktemp("up"), **NO_LAYERS) as pair:
        yield pair


def plan_of(site, older_than_days=0):
    facts = stack_facts(site)
    tokens, certificates = read_tokens(site, facts.nodes), read_certificates(site, site.spec.nodes)
    return plan_token(site.spec, facts, tokens, certificates, older_than_days, site.clock.now())


def acts(site, plan, lease):
    """Return what the flow does for a plan, in its order, as (name, call)."""
    spec, found = site.spec, []
    if steps := picked(plan, "token", "archive", "make"):
        found.append(("prepare", lambda steps=steps: prepare(site, lease, steps)))
    for node in spec.servers:
        if steps := picked(plan, f"token/{node.name}", "rotate"):
            found.append((f"rotate {node.name}", lambda node=node, steps=steps: rotate(site, node, lease, steps)))
    if steps := picked(plan, "token", "adopt"):
        found.append(("adopt", lambda steps=steps: adopt(site, lease, steps)))
    for what, act in (("config", write_config), ("restart", restart)):
        for node in (*spec.servers, *spec.agents):
            if steps := picked(plan, f"token/{node.name}", what):
                call = lambda act=act, node=node, steps=steps: act(site, node, lease, steps)  # noqa: E731 - bound now
                found.append((f"{what} {node.name}", call))
    return found


def carry_out(site, plan, upto=None):
    """Carry a plan out, or only its first acts."""
    for _, act in acts(site, plan, Held())[:upto]:
        act()


def token_of(site, block="rke2-token"):
    return site.secrets.text("secret-text", block)


def settle(site):
    """Finish whatever a test has left in the middle."""
    facts = stack_facts(site)
    if token_state(site.spec, read_tokens(site, facts.nodes), facts.nodes, facts.cluster.nodes).begun:
        carry_out(site, plan_of(site))


def test_a_rotation_reaches_every_node_and_a_second_run_is_empty(up):
    """All files and blocks have the new token; a token of today is left alone; the cluster lost no member."""
    lab, site = up
    old, pods = token_of(site), etcd_starts(lab)
    plan = plan_of(site)
    assert [step.id for step in plan.steps] == [
        "token/cluster/archive", "token/cluster/make", "token/s1/rotate", "token/cluster/adopt",
        *(f"token/{name}/config" for name in ("s1", "s2", "s3", "a1")),
        *(f"token/{name}/restart" for name in ("s1", "s2", "s3", "a1")),
    ]  # fmt: skip
    assert plan.worst is Effect.SERVICE_RESTART
    carry_out(site, plan)
    new = token_of(site)
    assert secret_part(new) != secret_part(old) and new.rpartition(":")[0] == old.rpartition(":")[0]
    for name in ("s1", "s2", "s3"):
        assert lab.sh(name, f"cat {SERVER_TOKEN}").out.strip() == new
        assert secret_part(new) in lab.sh(name, f"cat {TOKEN}; stat -c %a {TOKEN}").out
    assert etcd_starts(lab) == pods and all(node.ready for node in site.kube().nodes())
    before = lab.journal.count
    assert plan_of(site, older_than_days=1).empty
    assert lab.journal.count == before
    assert not plan_of(site).empty


@pytest.mark.slow
def test_snapshots_of_before_stay_restorable(up):
    """The archive has the token of the earlier snapshot, found by the hash that RKE2 wrote beside it."""
    _, site = up
    node = site.spec.servers[0]
    earlier, old = take_snapshot(site, node, Held(), "earlier"), token_of(site)
    carry_out(site, plan_of(site))
    archive = parse_archive(token_of(site, "rke2-token-archive"))
    assert find_token(None, archive, earlier.token_hash).get_secret_value() == old
    assert verify_snapshot(site, node, earlier.name).ready
    later = take_snapshot(site, node, Held(), "later")
    assert later.token_hash == token_hash(token_of(site)) != earlier.token_hash
    tokens = read_tokens(site, stack_facts(site).nodes)
    checks = judge_tokens(site.spec, tokens, read_snapshots(site), site.clock.now())
    assert {check.verdict for check in checks} == {"pass"} and len(checks) == 8
    lost = judge_tokens(site.spec, tokens, [replace(later, token_hash="0" * 12)], site.clock.now())
    assert [check.id for check in lost if check.verdict == "fail"] == ["token/archive"]


def test_a_token_is_seen_in_no_log_argument_journal_or_error(up, caplog, capsys):
    """Planted: both tokens are looked for in logs, in curl's arguments, on the nodes beside their files, in errors."""
    lab, site = up
    lab.sh("s1", "printf '#!/bin/sh\\necho \"$@\" >> /run/argv\\nexec /usr/bin/curl \"$@\"\\n' > /usr/sbin/curl; "
                 "chmod 755 /usr/sbin/curl")  # fmt: skip
    old, said = secret_part(token_of(site)), []
    caplog.set_level(logging.DEBUG)
    plan = plan_of(site)
    for moment in ("rotate s1", "config s2", "restart s3"):
        lab.inject(kind="cut", when="after", match={"action": "token/{1}/{0}".format(*moment.split())})
        try:
            carry_out(site, plan_of(site))
        except StackError as error:
            said.append("".join(traceback.format_exception(error)))
        lab.inject()
    settle(site)
    new = secret_part(token_of(site))
    argv = lab.sh("s1", "cat /run/argv; rm -f /run/argv /usr/sbin/curl").out
    assert "v1-rke2/token" in argv and len(said) == 3 and new != old
    places = {"logs": caplog.text, "output": capsys.readouterr().out, "arguments": argv, "errors": "".join(said),
              "plan": repr(plan), "lab's journal": (lab.folder / "journal.jsonl").read_text()}  # fmt: skip
    for name in ("s1", "s2", "s3", "a1"):
        found = lab.sh(name, f"grep -rlI -e {old} -e {new} /etc /var /run /tmp /root /opt 2>/dev/null").out.split()
        allowed = {TOKEN, *(f"/var/lib/rancher/rke2/server/{file}" for file in ("token", "node-token", "agent-token"))}
        assert set(found) <= allowed
        places[f"journal of {name}"] = lab.sh(name, "cat /var/lib/stackwright/journal; journalctl --no-pager").out
    assert not [(place, which) for place, text in places.items() for which in (old, new) if which in text]


@pytest.mark.parametrize("count", sampled(range(1, 11)))
def test_a_run_that_died_between_two_steps_is_continued_under_its_approval(up, count):
    """After any number of steps: the rest is a part of the same plan, and ends in one token everywhere."""
    lab, site = up
    settle(site)
    old, plan = token_of(site), plan_of(site)
    carry_out(site, plan, count)
    left = plan_of(site, older_than_days=30)
    assert left.steps and {step.fingerprint for step in left.steps} < {step.fingerprint for step in plan.steps}
    carry_out(site, left)
    assert token_of(site) != old and plan_of(site, older_than_days=1).empty
    assert {lab.sh(name, f"cat {SERVER_TOKEN}").out.strip() for name in ("s1", "s2", "s3")} == {token_of(site)}


@pytest.mark.parametrize("when", ["before", "inside", "after"])
@pytest.mark.parametrize("act", sampled(["token/s1/rotate", "token/s2/config", "token/s2/restart", "token/a1/restart"]))
def test_a_step_that_was_cut_is_continued(up, act, when):
    """The link is lost at three moments of a step: the next run looks, and completes what is left."""
    lab, site = up
    settle(site)
    plan = plan_of(site)
    lab.inject(kind="cut", when=when, match={"action": act})
    with pytest.raises(NodeUnreachableError):
        carry_out(site, plan)
    lab.inject()
    left = plan_of(site, older_than_days=30)
    assert {step.fingerprint for step in left.steps} <= {step.fingerprint for step in plan.steps}
    carry_out(site, left)
    assert plan_of(site, older_than_days=1).empty


@pytest.mark.slow
def test_a_server_that_restarted_too_early_is_brought_back(up):
    """Between the rotation and its new file a server starts anew: it loops with the old token, until it is written."""
    lab, site = up
    settle(site)
    plan = plan_of(site)
    carry_out(site, plan, 2)
    lab.sh("s2", "systemctl restart --no-block rke2-server")
    text = "bootstrap data already found and encrypted with different token"
    lab.wait(lambda: text in lab.sh("s2", "journalctl -u rke2-server -n 20 -o cat --no-pager").out, "the loop")
    carry_out(site, plan_of(site))
    assert plan_of(site, older_than_days=1).empty
    assert lab.sh("s2", f"cat {SERVER_TOKEN}").out.strip() == token_of(site)


@pytest.mark.slow
def test_a_datastore_that_refuses_leaves_the_old_token_in_force(up):
    """The endpoint writes its file and fails, as k3s#12982: the old token is put back, and the next run goes on."""
    lab, site = up
    settle(site)
    plan, old = plan_of(site), token_of(site)
    lab.sh("s1", ": > /run/lab/token-refused")
    with pytest.raises(StackError) as caught:
        carry_out(site, plan)
    assert "the old token is in force" in str(caught.value)
    assert token_of(site) == old and lab.sh("s1", f"cat {SERVER_TOKEN}").out.strip() == old
    lab.sh("s1", "systemctl restart rke2-server")
    assert lab.nodes["s1"].systemd.is_active("rke2-server.service")
    carry_out(site, plan_of(site))
    assert plan_of(site, older_than_days=1).empty


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("/etc/rancher/rke2/config.yaml.d/90-old.yaml", "token: abc", "sets `token`"),
        ("/etc/rancher/rke2/config.yaml.d/90-old.yaml", "agent-token: abc", "sets `agent-token`"),
        ("/etc/rancher/rke2/config.yaml.d/90-old.yaml", '"token-file": /root/t', "sets `token-file`"),
        ("/etc/sysconfig/rke2-agent", "RKE2_TOKEN=abc", "sets `RKE2_TOKEN`"),
    ],
)
def test_a_setting_that_would_keep_the_old_token_is_refused(up, file, text, says):
    lab, site = up
    settle(site)
    lab.sh("a1", f"mkdir -p $(dirname {file}); printf '%s\\n' '{text}' > {file}")
    try:
        with pytest.raises(PlanRefusedError) as caught:
            plan_of(site)
    finally:
        lab.sh("a1", f"rm {file}")
    assert says in str(caught.value) and "a1" in str(caught.value) and "abc" not in str(caught.value)


def test_an_unreachable_node_a_strange_token_and_bad_certificates_are_refused(up):
    lab, site = up
    settle(site)
    lab.call(lab.nodes.power_off("a1"))
    try:
        with pytest.raises(NodeUnreachableError):
            plan_of(site)
    finally:
        lab.call(lab.nodes.power_on("a1"))
        lab.wait(lambda: all(node.ready for node in site.kube().nodes()), "a1 back")
    kept = site.secrets.kept["secret-text", "rke2-token"]
    site.secrets.write("secret-text", "rke2-token", {"value": SecretStr("K10abc::server:another")})
    try:
        with pytest.raises(PlanRefusedError, match="none that a block keeps"):
            plan_of(site)
    finally:
        site.secrets.write("secret-text", "rke2-token", kept)
    lab.sh("a1", "/usr/lib/stackwright-lab/rke2 - lab-certificates -1")
    with pytest.raises(PlanRefusedError, match=r"client-kubelet\.crt is not valid"):
        plan_of(site)
    lab.sh("a1", "systemctl restart rke2-agent")
    with pytest.raises(PlanRefusedError, match="deploy-stack first"):
        plan_of(respec(site, kubelet_args=("max-pods=200",)))


@pytest.mark.slow
def test_nothing_is_done_unapproved_or_outside_a_window(up):
    lab, site = up
    settle(site)
    plan, before = plan_of(site), lab.journal.count
    with pytest.raises(PlanMovedError):
        prepare(site, Held(), ())
    with pytest.raises(PlanMovedError):
        rotate(site, site.spec.servers[0], Held(), ())
    closed = respec(site, maintenance=closed_now(site))
    with pytest.raises(WindowClosedError):
        carry_out(closed, plan)
    assert lab.journal.count == before
    carry_out(site, plan_of(site))
