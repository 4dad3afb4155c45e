"""Rotating the server token: what is left to do, told by hashes alone, and what forbids it. Pure.

The order keeps old snapshots restorable and any death continuable: the old token is archived and the new one kept in a
block before the cluster hears of it; then one server is asked, the token block and every node's file follow, and the
nodes are restarted one by one. Upstream: RKE2 documentation, token; k3s pkg/server/handlers/token.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from stackwright.domain.certificates import CertificateFacts, expired
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.deploy import StackFacts
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.evidence import Evidence
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.rke2 import note_started
from stackwright.domain.rke2_facts import STARTED, TOKEN
from stackwright.domain.rotations import (
    check_all_ready,
    check_restarts,
    check_settled,
    is_joining,
    last_step,
    unit_of,
)
from stackwright.domain.shell import put_file, put_secret
from stackwright.domain.snapshots import SnapshotFacts
from stackwright.domain.spec import Node, StackSpec
from stackwright.domain.token_archive import HASH_DIGITS, archive_block
from stackwright.domain.token_facts import ROTATED, Setting, TokenFacts, following_block

AREA = "token"
CA_FILE = "/var/lib/rancher/rke2/server/tls/server-ca.crt"
ROTATE_TIMEOUT_S = 400.0


@dataclass(frozen=True)
class TokenState:
    """Where a rotation stands. `old` names the token that is or was retired, `begun` that it is under way.

    `known` are the hashes that may be met on nodes meanwhile.
    """

    old: str
    begun: bool
    archived: bool
    made: bool
    rotated: bool
    adopted: bool
    known: frozenset[str]


def token_state(
    spec: StackSpec, facts: TokenFacts, nodes: Mapping[str, NodeFacts], statuses: Mapping[str, NodeStatus]
) -> TokenState:
    """Tell from hashes where a rotation stands, and from the nodes' journals which restarts it owes."""
    following, present = facts.following, facts.present
    latest = [*facts.archived][-1] if facts.archived else ""
    owes = any(_owes_restart(node, nodes[node.name], statuses.get(node.name)) for node in spec.nodes)
    settled = _all_have(spec, facts, present) and not owes
    unsettled = bool(latest) and following == present and not settled
    before = present in facts.archived  # the token block still holds the one that is retired
    begun = before or unsettled
    old = latest if unsettled and not before else present
    new = following if begun and following != old else ""
    return TokenState(
        old=old,
        begun=begun,
        archived=old in facts.archived,
        made=bool(new),
        rotated=bool(new) and any(one.rotated == new for one in facts.nodes.values()),
        adopted=bool(new) and present == new,
        known=frozenset({old, *([new] if new else [])}),
    )


def _owes_restart(node: Node, facts: NodeFacts, status: NodeStatus | None) -> bool:
    """Tell whether a node was last given the token and still runs without it, or is not back from its restart."""
    ours = last_step(facts) in (step_id(node, "config"), step_id(node, "restart"))
    stale = facts.rke2.started_sum != facts.rke2.config_sum
    return (ours and stale) or is_joining(node, facts, status, step_id(node, "restart"))


def _all_have(spec: StackSpec, facts: TokenFacts, mark: str) -> bool:
    files = all(facts.nodes[node.name].hash == mark for node in spec.nodes)
    return files and all(facts.servers.get(node.name) == mark for node in spec.servers)


def plan_token(
    spec: StackSpec,
    facts: StackFacts,
    tokens: TokenFacts,
    certificates: Iterable[CertificateFacts],
    older_than_days: int,
    now_s: float,
) -> Plan:
    """Return the steps of a rotation, or what is left of one that was begun; none for a token that is not old enough.

    Raises PlanRefusedError with every problem at once.
    """
    state = token_state(spec, tokens, facts.nodes, facts.cluster.nodes)
    owed = _owed(spec, facts, state)
    problems = [*check_settled(spec, _as_settled(spec, facts, tokens, state), owed), *check_tokens(spec, tokens, state)]
    if not state.begun:
        problems += [*check_all_ready(spec, facts.cluster.nodes.values()), *expired(certificates, now_s)]
        problems += check_restarts(spec, facts)
    if problems:
        raise PlanRefusedError("the token cannot be rotated now", problems, where=spec.site)
    if not state.begun and _age_days(tokens, now_s) < older_than_days:
        since = [*tokens.archived.values()][-1]
        return Plan(spec.site, (), (f"The token was made on {since}, less than {older_than_days} day(s) ago.",))
    steps = [*_cluster_steps(spec, tokens, state)]
    for node in (*spec.servers, *spec.agents):
        steps += [step for step in (config_step(spec, node, tokens, state),) if step]
    for node in (*spec.servers, *spec.agents):
        steps += [step for step in (restart_step(node, facts, tokens, state),) if step]
    return Plan(spec.site, tuple(steps))


def _cluster_steps(spec: StackSpec, tokens: TokenFacts, state: TokenState) -> Iterator[Step]:
    block = spec.rke2.token_block
    if not state.archived:
        summary = f"keep the present token in block {archive_block(block)}: snapshots of until now need it"
        yield _step("cluster", "archive", summary, Effect.FILE, "the archive names its hash", state)
    if not state.made:
        summary = f"make a new token and keep it in block {following_block(block)}, before anything uses it"
        yield _step("cluster", "make", summary, Effect.FILE, "the block is there", state)
    if not state.rotated:
        node = rotator(spec, tokens, state)
        summary = "give the cluster the new token: from now on no server starts with the old one"
        yield _step(node.name, "rotate", summary, Effect.SERVICE_RESTART, "the datastore has taken it", state)
    if not state.adopted:
        yield _step("cluster", "adopt", f"write the new token into block {block}", Effect.FILE, "its hash", state)


def rotator(spec: StackSpec, tokens: TokenFacts, state: TokenState) -> Node:
    """Return the server that is asked: the one that was asked before, if its file tells, else the first."""
    asked = [node for node in spec.servers if state.made and tokens.servers.get(node.name) == tokens.following]
    return (*asked, *spec.servers)[0]


def config_step(spec: StackSpec, node: Node, tokens: TokenFacts, state: TokenState) -> Step | None:
    """Return the step that writes the new token into a node's file; None when it is there."""
    if state.begun and state.made and tokens.nodes[node.name].hash == tokens.following:
        return None
    return _step(node.name, "config", f"write the new token to {TOKEN}", Effect.FILE, "its hash and mode 600", state)


def restart_step(node: Node, facts: StackFacts, tokens: TokenFacts, state: TokenState) -> Step | None:
    """Return the step that restarts a node with the new token; None when it runs with it."""
    seen, status = facts.nodes[node.name], facts.cluster.nodes.get(node.name)
    done = state.begun and state.made and tokens.nodes[node.name].hash == tokens.following
    if done and not must_restart(node, seen, tokens) and not is_joining(node, seen, status, step_id(node, "restart")):
        return None
    summary = f"restart {unit_of(node)} with the new token"
    verify = "the node is Ready again" + (
        ", its etcd member votes, its own file has the token" if node.is_server else ""
    )
    return _step(node.name, "restart", summary, Effect.SERVICE_RESTART, verify, state)


def must_restart(node: Node, facts: NodeFacts, tokens: TokenFacts) -> bool:
    """Tell whether a node that has the new token in its file still runs without it."""
    rke2 = facts.rke2
    stale = rke2.started_sum != rke2.config_sum
    return stale or (node.is_server and tokens.servers.get(node.name) != tokens.following)


def step_id(node: Node, what: str) -> str:
    """Return the id of a node's step."""
    return f"{AREA}/{node.name}/{what}"


def _step(target: str, what: str, summary: str, effect: Effect, verify: str, state: TokenState) -> Step:
    # The retired token's hash makes each rotation another plan: an approval holds for one only.
    return Step(f"{AREA}/{target}/{what}", target, summary, effect, "5.2", verify, state.old)


# --- what forbids it -------------------------------------------------------------------------------------------------


def check_tokens(spec: StackSpec, tokens: TokenFacts, state: TokenState) -> list[Problem]:
    """Return each setting that would keep another token on a node, and each token that is none of ours."""
    problems = []
    for node in spec.nodes:
        seen = tokens.nodes[node.name]
        problems += [_foreign(node, one) for one in seen.settings if not one.ours]
        if not seen.hash:
            remedy = "Run deploy-stack first: it writes the file."
            problems.append(Problem(node.name, f"{TOKEN} has no token", remedy, "the token", "none"))
        elif seen.hash not in state.known:
            problems.append(_strange(spec, node, TOKEN, seen.hash))
        mark = tokens.servers.get(node.name, "")
        if node.is_server and mark not in state.known:
            problems.append(_strange(spec, node, "server/token", mark))
    return problems


def _foreign(node: Node, one: Setting) -> Problem:
    what = f"{one.path} sets `{one.key}`, and would keep it"
    remedy = f"Take it out: the token stands in {TOKEN} alone. A separate agent token is not rotated here (rke2#5785)."
    return Problem(node.name, what, remedy, f"a token in {TOKEN} alone", one.key)


def _strange(spec: StackSpec, node: Node, place: str, mark: str) -> Problem:
    what = f"the token of {place} is none that a block keeps"
    remedy = f"Compare it with block {spec.rke2.token_block}; run deploy-stack when the block is right."
    return Problem(node.name, what, remedy, "the token block's, or the next one", mark or "none")


def _age_days(tokens: TokenFacts, now_s: float) -> float:
    if not tokens.archived:
        return float("inf")
    since = datetime.fromisoformat([*tokens.archived.values()][-1]).timestamp()
    return (now_s - since) / 86400


def _owed(spec: StackSpec, facts: StackFacts, state: TokenState) -> set[str]:
    """Return the deploy's steps that this rotation does itself: it restarts every node, and waits for it."""
    if not state.begun:
        return set()
    return {f"rke2/{node.name}/{what}" for node in spec.nodes for what in ("restart", "start")}


def _as_settled(spec: StackSpec, facts: StackFacts, tokens: TokenFacts, state: TokenState) -> StackFacts:
    """Return the facts as if all places had one token, where they differ only by this rotation's two."""
    if not state.begun:
        return facts
    nodes = dict(facts.nodes)
    for node in spec.servers:
        seen = nodes[node.name]
        if seen.rke2.token_hash[:HASH_DIGITS] in state.known:
            nodes[node.name] = replace(seen, rke2=replace(seen.rke2, token_hash=facts.cluster.token_hash))
    current = {(node.name, TOKEN) for node in spec.nodes if tokens.nodes[node.name].hash in state.known}
    cluster = replace(facts.cluster, secret_files=facts.cluster.secret_files | current)
    return replace(facts, nodes=nodes, cluster=cluster)


# --- proof -----------------------------------------------------------------------------------------------------------


def judge_tokens(
    spec: StackSpec, tokens: TokenFacts, snapshots: Iterable[SnapshotFacts], now_s: float
) -> list[Evidence]:
    """Return the proof: every place has the token block's token, and every snapshot's token is kept."""
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    places = {f"{node.name}/config": (node, tokens.nodes[node.name].hash) for node in spec.nodes}
    places |= {f"{node.name}/server": (node, tokens.servers.get(node.name, "")) for node in spec.servers}
    found = [
        Evidence(
            f"token/{place}", "the token is the kept one", "pass" if mark == tokens.present else "fail",
            f"hash {tokens.present}", f"hash {mark or 'none'}", "5.2", at, node.name,
        )
        for place, (node, mark) in places.items()
    ]  # fmt: skip
    kept = {tokens.present, tokens.following, *tokens.archived}
    every = tuple(snapshots)
    lost = sorted({one.name for one in every if one.token_hash and one.token_hash not in kept})
    seen = f"{len(lost)} without: {', '.join(lost[:5])}" if lost else f"{len(every)} snapshot(s), {len(kept)} token(s)"
    found.append(
        Evidence(
            "token/archive",
            "every snapshot's token is kept",
            "fail" if lost else "pass",
            "a token for each",
            seen,
            "5.2",
            at,
            "cluster",
            remedy="Put the lost token into the archive, or delete these snapshots.",
        )
    )
    return found


# --- scripts ---------------------------------------------------------------------------------------------------------

# Arguments can be read by every user of a host, so all goes through standard input. The old login is taken until a
# server is restarted. The endpoint answers 200 only when the datastore has the token: asked again, it is the proof. It
# writes its own file even when the datastore refuses, so that a failure is followed by putting the old token back.
_ROTATE = """\
put() {
for u in "$old_user" "$new_user"; do
c=$(printf 'user = "server:%s"\\ndata = "{\\\\"newToken\\\\": \\\\"%s\\\\"}"\\n' "$u" "$1" | curl --config - \\
--silent --show-error --noproxy '*' --output /dev/null --write-out '%{http_code}' --max-time 90 --request PUT \\
--header 'Content-Type: application/json' --cacert @CA@ https://127.0.0.1:9345/v1-rke2/token) || c=failed
[ "$c" = 401 ] || break
done
[ "$c" = 200 ]
}
if put "$new_json" && put "$new_json"; then
@MARK@echo "Token rotated, restart rke2 nodes with new token"
else
echo "the server did not take the new token: $c"
if put "$old_json"; then echo "the old token is in force"; else echo "the old token could not be put back: $c"; fi
exit 1
fi
"""


def rotate_script(new_hash: str) -> str:
    """Return the lines that give the cluster another token. Secrets: old_user, new_user, old_json, new_json."""
    return _ROTATE.replace("@CA@", CA_FILE).replace("@MARK@", put_file(ROTATED, new_hash + "\n", 0o600))


def curl_text(text: str) -> str:
    """Return a text as it stands between double quotes in a configuration of curl."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def config_script(node: Node, variable: str, *, runs: bool, activating: bool) -> str:
    """Return the lines that write the token's file; a running process is noted as owing a restart before that."""
    role = "server" if node.is_server else "agent"
    noted = put_file(STARTED, "pending supervisor\n", 0o600) if runs else ""
    # One that starts over and over, as with the old token it does, reads the new file by itself.
    return noted + put_secret(TOKEN, variable, 0o600) + (note_started(role) if activating else "")
