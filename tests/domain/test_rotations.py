"""Where a rotation stands, told from facts: tables for tokens and keys, and what the rotations share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.encryption import ACTIVE, FINISHED, ServerKeys, is_ours, key_made_at, must_restart, parse_keys
from stackwright.domain.errors import StackError
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.rke2_facts import Rke2Facts
from stackwright.domain.rotations import check_all_ready, is_joining, last_step, picked, was_halted
from stackwright.domain.shell import ABSENT, Section
from stackwright.domain.token_facts import NodeToken, Setting, TokenFacts, parse_token
from stackwright.domain.token_rotation import check_tokens, curl_text, rotate_script, token_state
from tests.domain.nodes_seen import ON, make_spec, node, prepared

SPEC = make_spec()
NAMES = [one.name for one in SPEC.nodes]
SERVERS = [one.name for one in SPEC.servers]
OUR_FILE = "/etc/rancher/rke2/config.yaml.d/10-token.yaml"


def tokens(present="old", following="", archived=(), files="old", servers="old", rotated="", **one):
    nodes = {name: NodeToken((Setting(OUR_FILE, "token", one.get(name, files)),), rotated if name == "s1" else "")
             for name in NAMES}  # fmt: skip
    marks = {name: one.get(f"{name}_server", servers) for name in SERVERS}
    return TokenFacts(present, following, {mark: "2026-01-01T00:00:00+00:00" for mark in archived}, nodes, marks)


def hosts(**journals):
    units = {"rke2-server.service": ON, "rke2-agent.service": ON}
    return {name: replace(prepared(SPEC, name, units=units), journal=tuple(journals.get(name, ()))) for name in NAMES}


def status(name, ready=True, voter="True"):
    conditions = {"Ready": str(ready)} | ({"EtcdIsVoter": voter} if voter else {})
    return NodeStatus(name, ready, True, "", "", (), conditions=conditions)


UP = {name: status(name) for name in NAMES}


@pytest.mark.parametrize(
    ("facts", "state"),  # begun, archived, made, rotated, adopted, old
    [
        (tokens(), (False, False, False, False, False, "old")),
        (tokens(archived=["old"]), (True, True, False, False, False, "old")),
        (tokens(archived=["old"], following="new"), (True, True, True, False, False, "old")),
        (tokens(following="new"), (False, False, False, False, False, "old")),
        (tokens(archived=["old"], following="new", s1_server="new"), (True, True, True, False, False, "old")),
        (tokens(archived=["old"], following="new", rotated="new"), (True, True, True, True, False, "old")),
        (tokens("new", "new", ["old"], rotated="new"), (True, True, True, True, True, "old")),
        (tokens("new", "new", ["old"], "new", "old", "new"), (True, True, True, True, True, "old")),
        (tokens("new", "new", ["old"], "new", "new", "new", w1="old"), (True, True, True, True, True, "old")),
        (tokens("new", "new", ["old"], "new", "new", "new"), (False, False, False, False, False, "new")),
        (tokens("new", "new", ["old", "new"], "new", "new", "new"), (True, True, False, False, False, "new")),
        (tokens("new", "third", ["old", "new"], "new", "new", "new"), (True, True, True, False, False, "new")),
    ],
)
def test_where_a_token_rotation_stands(facts, state):
    """From the first block that is written to the last restart; a settled site begins anew with its present token."""
    seen = token_state(SPEC, facts, hosts(), UP)
    assert (seen.begun, seen.archived, seen.made, seen.rotated, seen.adopted, seen.old) == state


def test_a_restart_that_is_owed_keeps_a_rotation_open():
    """All hashes agree, but the last that was done on an agent was to write its file."""
    done = tokens("new", "new", ["old"], "new", "new", "new")
    wrote, restarted = ([f"begin token/w1/{what} a b", f"end token/w1/{what} 0"] for what in ("config", "restart"))
    fresh, stale = (
        Rke2Facts(config_sum="b", started_sum="b"),
        Rke2Facts(config_sum="b", started_sum="pending supervisor"),
    )

    def begun(lines, rke2, ready=True):
        seen = hosts(w1=lines)
        seen["w1"] = replace(seen["w1"], rke2=rke2)
        return token_state(SPEC, done, seen, {**UP, "w1": status("w1", ready=ready)}).begun

    assert begun(wrote, stale) and begun(restarted[:1], stale)
    assert begun(restarted, fresh, ready=False)
    assert not begun(restarted, fresh) and not begun(wrote, fresh)
    assert not begun(["begin rke2/w1/config a b"], stale), "that one is the deploy's"


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (tokens(w1="strange"), "none that a block keeps"),
        (tokens(w1=""), "has no token"),
        (tokens(s2_server="strange"), "server/token"),
        (tokens(s2_server=""), "server/token"),
    ],
)
def test_a_token_that_is_none_of_ours_is_refused(facts, says):
    problems = check_tokens(SPEC, facts, token_state(SPEC, facts, hosts(), UP))
    assert len(problems) == 1 and says in str(problems[0])


def test_settings_are_read_as_hashes_and_an_unreadable_node_raises():
    rows = (
        f"token 0123456789ab {OUR_FILE}\nagent-token fedcba987654 /etc/rancher/rke2/config.yaml\nRKE2_TOKEN - /etc/x\n"
    )
    seen = parse_token({"settings": Section(0, rows), "rotated": Section(ABSENT, "")}, "s1")
    assert seen.hash == "0123456789ab" and [one.key for one in seen.settings if not one.ours] == [
        "agent-token",
        "RKE2_TOKEN",
    ]
    with pytest.raises(StackError):
        parse_token({"settings": Section(1, ""), "rotated": Section(ABSENT, "")}, "s1")


def test_the_rotation_gives_curl_nothing_but_names_of_variables():
    """No token stands in the script, and what a token may hold cannot end its quotes."""
    script = rotate_script("0123456789ab")
    assert "--config -" in script and "newToken" in script and "--user" not in script
    assert curl_text('a"b\\c') == 'a\\"b\\\\c'


# --- encryption ------------------------------------------------------------------------------------------------------


def keys(stage=FINISHED, name="aescbckey-2026-02-01T00:00:00Z", config="one", *, matches=True, rotating="", more=()):
    return ServerKeys(stage, True, matches, keys=(name, *more), config=config, rotating=rotating)


@pytest.mark.parametrize(
    ("seen", "due"),
    [
        ({"s1": keys(), "s2": keys()}, []),
        ({"s1": keys(), "s2": keys("start", "aescbckey", "zero")}, ["s2"]),
        ({"s1": keys(name="aescbckey-2025-02-01T00:00:00Z", config="zero"), "s2": keys()}, ["s1"]),
        ({"s1": keys("start", "aescbckey", "a"), "s2": keys("start", "aescbckey", "b")}, []),
        ({"s1": keys(ACTIVE), "s2": keys("start", "aescbckey", "zero")}, []),
    ],
)
def test_who_must_still_read_the_new_configuration(seen, due):
    """Those without the newest key's configuration, once its rotation has finished."""
    assert [name for name in seen if must_restart(name, seen)] == due


def test_a_rotation_is_ours_by_its_marker():
    assert is_ours(keys(ACTIVE, more=("aescbckey",), rotating="aescbckey"))
    assert not is_ours(keys(ACTIVE, more=("aescbckey",), rotating="older"))
    assert not is_ours(keys(ACTIVE, more=("aescbckey",)))


@pytest.mark.parametrize(
    ("name", "made"),
    [("aescbckey-2026-02-01T00:00:00Z", 1769904000), ("aescbckey", None), ("aescbckey-2026-99-01T", None)],
)
def test_a_keys_name_says_when_it_was_made(name, made):
    assert key_made_at(name) == made


def test_the_status_is_read_as_rke2_prints_it():
    """False and empty fields are left out of its JSON; without a stage it is no answer."""
    text = '{"stage": "start", "activekey": "AES-CBC aescbckey", "enable": true, "hasherror": "differ"}'
    status = NodeStatus("s1", True, True, "", "", (), annotations={"rke2.io/encryption-config-hash": "start-abc"})
    seen = parse_keys({"status": Section(0, text), "rotating": Section(0, "aescbckey\n")}, status, "s1")
    assert (seen.stage, seen.enabled, seen.matches, seen.differs) == ("start", True, False, "differ")
    assert (seen.keys, seen.config, seen.rotating) == (("aescbckey",), "abc", "aescbckey")
    for rc, bad in ((1, ""), (0, "Encryption Status: Enabled"), (0, "{}"), (0, "[]")):
        with pytest.raises(StackError):
            parse_keys({"status": Section(rc, bad), "rotating": Section(ABSENT, "")}, status, "s1")


# --- what they share -------------------------------------------------------------------------------------------------


def test_every_node_must_be_there_ready_and_a_server_must_vote():
    good = [status(name, voter="True" if name in SERVERS else "") for name in NAMES]
    assert check_all_ready(SPEC, good) == []
    bad = [status("s1"), status("s2", voter="False"), status("w1", ready=False, voter=""), status("g1", voter="")]
    assert [(one.where, one.what) for one in check_all_ready(SPEC, bad)] == [
        ("s2", "its etcd member does not vote"),
        ("s3", "the node is not in the cluster"),
        ("w1", "the node is not Ready"),
    ]


def test_a_nodes_journal_tells_what_was_done_last_leases_left_out():
    lines = (
        "begin a/s1/x 0 r",
        "end a/s1/x 0",
        "begin b/s1/y 0 r",
        "begin lease/north/renew 1 r",
        "end lease/north/renew 0",
    )
    facts = replace(prepared(SPEC, "s1", units={"rke2-server.service": ON}), journal=lines)
    assert last_step(facts) == "b/s1/y" and was_halted(facts, "b/s1/y") and not was_halted(facts, "a/s1/x")
    server = node(SPEC, "s1")
    assert is_joining(server, facts, status("s1", ready=False), "b/s1/y")
    assert is_joining(server, facts, None, "b/s1/y")
    assert not is_joining(server, facts, status("s1"), "b/s1/y")
    assert not is_joining(server, facts, None, "a/s1/x")
    stopped = replace(facts, units={**facts.units, "rke2-server.service": replace(ON, active="inactive")})
    assert is_joining(server, stopped, status("s1"), "b/s1/y")
    assert last_step(replace(facts, journal=(), rke2=Rke2Facts())) == ""


def test_steps_are_picked_by_area_and_by_what_they_do():
    steps = tuple(
        Step(name, "x", "", Effect.FILE, "5.2", "") for name in ("token/s1/config", "token/s1/restart", "tok/s1/config")
    )
    assert picked(Plan("north", steps), "token", "config") == steps[:1]
    assert picked(Plan("north", steps), "token/s1", "config", "restart") == steps[:2]
