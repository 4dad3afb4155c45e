"""Encryption of Secrets at rest: where the keys' rotation stands on each server, what is left to do, what forbids it.

Pure. Each server's Node carries `<stage>-<hash of its configuration>`: one that was not restarted since a rotation has
another hash, and no rotation may start while they differ. Upstream: RKE2 documentation, secrets encryption; k3s
pkg/server/handlers/secrets-encrypt.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.deploy import StackFacts
from stackwright.domain.errors import PlanRefusedError, Problem, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.rke2_program import with_program
from stackwright.domain.rotations import (
    check_all_ready,
    check_restarts,
    check_settled,
    is_joining,
    owed_starts,
    unit_of,
)
from stackwright.domain.shell import (
    STATE,
    Section,
    put_file,
    read_script,
    run_section,
    settled_section,
    shell_section,
    value_section,
)
from stackwright.domain.snapshots import save_step
from stackwright.domain.spec import Node, StackSpec

AREA = "encryption"
ANNOTATION = "rke2.io/encryption-config-hash"
ROTATING = f"{STATE}/encryption-rotating"
"""Marker on the server that rotates: name of the key that was active when this program asked for another."""
START, ACTIVE, FINISHED = "start", "reencrypt_active", "reencrypt_finished"
SNAPSHOT = "before-key-rotation"
ONE_COMMAND_SINCE = (1, 30, 1)  # before that a rotation takes three commands and three rounds of restarts
ROTATE_TIMEOUT_S = 300.0
DOCS = "Finish it by hand: RKE2 documentation, secrets encryption, key rotation."


@dataclass(frozen=True)
class ServerKeys:
    """What one server says. `config` is the hash of its configuration, empty when its Node carries none.

    `keys` are names, the active one first; a name ends in the time at which it was made, but for a cluster's first key.
    `rotating` is our marker.
    """

    stage: str
    enabled: bool
    matches: bool
    differs: str = ""
    keys: tuple[str, ...] = ()
    config: str = ""
    rotating: str = ""

    @property
    def active_key(self) -> str:
        return self.keys[0] if self.keys else ""


def status_script() -> str:
    """Return the reading script of one server."""
    return read_script(
        settled_section()
        + run_section("unit", "systemctl", "is-active", "rke2-server")
        + shell_section("status", with_program("sw_rke2 secrets-encrypt status -o json"))
        + value_section("rotating", ROTATING)
    )


def is_starting(seen: Mapping[str, Section]) -> bool:
    """Tell whether a server says nothing only because its process has just been started."""
    return seen["status"].rc != 0 and seen["unit"].out.strip() == "activating"


def parse_keys(seen: Mapping[str, Section], status: NodeStatus | None, where: str) -> ServerKeys:
    """Return what a server says. Raises StackError when it says nothing that can be read: unknown is not absent."""
    try:
        said = json.loads(seen["status"].out) if seen["status"].rc == 0 else None
    except ValueError:
        said = None
    if not isinstance(said, dict) or "stage" not in said:
        remedy = "Run `rke2 secrets-encrypt status -o json` on this server, and look at rke2-server's journal."
        raise StackError(
            "the encryption's status cannot be read", where=where, wanted="its JSON",
            seen=f"exit code {seen['status'].rc}", remedy=remedy,
        )  # fmt: skip
    names = [said.get("activekey") or "", *(said.get("inactivekeys") or ())]
    return ServerKeys(
        stage=said["stage"],
        enabled=said.get("enable") is True,
        matches=said.get("hashmatch") is True,
        differs=said.get("hasherror", ""),
        keys=tuple(name.rpartition(" ")[2] for name in names if name),
        config=(status.annotations.get(ANNOTATION, "") if status else "").partition("-")[2],
        rotating="" if seen["rotating"].absent else seen["rotating"].out.strip(),
    )


# --- deciding --------------------------------------------------------------------------------------------------------


def plan_encryption(
    spec: StackSpec, facts: StackFacts, keys: Mapping[str, ServerKeys], older_than_days: int, now_s: float
) -> Plan:
    """Return the steps of a rotation, or what is left of one; none for a key that is not old enough.

    Raises PlanRefusedError with every problem at once.
    """
    owed = owed_starts(spec, facts, [restart_id(node) for node in spec.servers])
    problems = [*check_settled(spec, facts, owed), *check_keys(spec, facts, keys)]
    under_way = _under_way(keys)
    left = [node for node in spec.servers if _must_restart(node, facts, keys)]
    if not (under_way or left):
        problems += [*check_all_ready(spec, facts.cluster.nodes.values()), *check_restarts(spec, facts)]
    if problems:
        raise PlanRefusedError("the encryption key cannot be rotated now", problems, where=spec.site)
    old = _retired(keys)
    if under_way:
        others = [node for node in spec.servers if node.name != under_way]
        return Plan(spec.site, (rotate_step(under_way, old), *(restart_step(node, old) for node in others)))
    if left:
        return Plan(spec.site, tuple(restart_step(node, old) for node in left))
    first, *others = spec.servers
    since = key_made_at(keys[first.name].active_key)
    if since is not None and now_s - since < older_than_days * 86400:
        note = f"The active key was made {(now_s - since) / 86400:.1f} day(s) ago, less than {older_than_days}."
        return Plan(spec.site, (), (note,))
    steps = [save_step(first.name, SNAPSHOT), rotate_step(first.name, keys[first.name].active_key)]
    steps += [restart_step(node, keys[first.name].active_key) for node in others]
    return Plan(spec.site, tuple(steps))


def rotate_step(server: str, old: str) -> Step:
    """Return the step that makes a new key, and encrypts every Secret with it."""
    summary = "make a new encryption key, encrypt every Secret with it, and drop the old key"
    verify = f"stage {FINISHED}, another active key, a Secret can be read"
    return Step(f"{AREA}/{server}/rotate", server, summary, Effect.DATA_AT_RISK, "5.2", verify, old)


def restart_step(node: Node, old: str) -> Step:
    """Return the step that lets a server read the new configuration."""
    summary = f"restart {unit_of(node)} to read the new encryption configuration"
    verify = "the node has joined again, and its hash is the others'"
    return Step(restart_id(node), node.name, summary, Effect.SERVICE_RESTART, "5.2", verify, old)


def restart_id(node: Node) -> str:
    """Return the id of a server's restart."""
    return f"{AREA}/{node.name}/restart"


def must_restart(server: str, keys: Mapping[str, ServerKeys]) -> bool:
    """Tell whether a server has another configuration than the one with the newest key."""
    newest = _newest(keys)
    return newest is not None and keys[server].config != newest.config


def _must_restart(node: Node, facts: StackFacts, keys: Mapping[str, ServerKeys]) -> bool:
    seen, status = facts.nodes[node.name], facts.cluster.nodes.get(node.name)
    return must_restart(node.name, keys) or is_joining(node, seen, status, restart_id(node))


def is_ours(seen: ServerKeys) -> bool:
    """Tell whether the rotation that is under way on a server was asked for by this program."""
    return bool(seen.rotating) and seen.rotating in seen.keys


def _under_way(keys: Mapping[str, ServerKeys]) -> str:
    return next((name for name, seen in keys.items() if seen.stage == ACTIVE), "")


def _retired(keys: Mapping[str, ServerKeys]) -> str:
    """Return the key that a rotation retires or has retired: what our marker names, if there is one."""
    return next((seen.rotating for seen in keys.values() if seen.rotating), "")


def key_made_at(name: str) -> float | None:
    """Return when a key was made, in seconds since the epoch; None for a first key, whose name does not say it."""
    found = re.search(r"-(\d{4}-\d{2}-\d{2}T.+)$", name)
    try:
        return datetime.fromisoformat(found[1].replace("Z", "+00:00")).timestamp() if found else None
    except ValueError:
        return None


# --- what forbids it -------------------------------------------------------------------------------------------------


def check_keys(spec: StackSpec, facts: StackFacts, keys: Mapping[str, ServerKeys]) -> list[Problem]:
    """Return what forbids a rotation and its continuation: encryption off, an old release, somebody else at it."""
    problems = []
    for name, seen in keys.items():
        if not seen.enabled:
            remedy = (
                "Look at `rke2 secrets-encrypt status` on this server; RKE2 has it on unless somebody turned it off."
            )
            problems.append(Problem(name, "encryption of Secrets is not enabled", remedy, "enabled", "not enabled"))
        if seen.stage == ACTIVE and not is_ours(seen):
            remedy = "Wait until it ends, or talk to whoever started it; then start again."
            what = "a rotation that this program did not start is under way"
            problems.append(Problem(name, what, remedy, f"{START} or {FINISHED}", seen.stage))
        elif seen.stage not in (START, FINISHED, ACTIVE):
            what = "a rotation by single commands was begun"
            problems.append(Problem(name, what, DOCS, f"{START} or {FINISHED}", seen.stage))
        elif seen.stage != ACTIVE and len(seen.keys) > 1:
            what = "a rotation broke off: an old key is still there, and nobody re-encrypts"
            problems.append(Problem(name, what, DOCS, "one key", ", ".join(seen.keys)))
    if len([one for one in keys.values() if one.stage == ACTIVE]) > 1:
        what = "two servers re-encrypt at once"
        problems.append(Problem(spec.site, what, DOCS, "one", "two or more"))
    if not all(one.matches for one in keys.values()) and not _explained(keys):
        told = "; ".join(sorted({one.differs for one in keys.values() if one.differs})) or "they differ"
        what = "the servers' encryption configurations differ, and no finished rotation explains it"
        problems.append(Problem(spec.site, what, DOCS, "all hashes match", told))
    for node in spec.servers:
        release = facts.nodes[node.name].rke2.version
        if _numbers(release) < ONE_COMMAND_SINCE:
            wanted = f"v{'.'.join(map(str, ONE_COMMAND_SINCE))} or later"
            problems.append(Problem(node.name, "its RKE2 rotates keys by single commands only", DOCS, wanted, release))
    return problems


def _explained(keys: Mapping[str, ServerKeys]) -> bool:
    """Tell whether one rotation explains why configurations differ: one is under way, or one has finished."""
    return bool(_under_way(keys)) or _newest(keys) is not None


def _newest(keys: Mapping[str, ServerKeys]) -> ServerKeys | None:
    """Return the server with the newest key, if a rotation made that and has finished there."""
    made = {name: key_made_at(seen.active_key) or 0.0 for name, seen in keys.items()}
    name = max(made, key=lambda one: made[one])
    return keys[name] if made[name] and keys[name].stage == FINISHED and keys[name].config else None


def _numbers(release: str) -> tuple[int, ...]:
    found = re.match(r"v(\d+)\.(\d+)\.(\d+)", release)
    return tuple(int(part) for part in found.groups()) if found else (0,)


# --- script and proof ------------------------------------------------------------------------------------------------


def rotate_script(old: str) -> str:
    """Return the lines that ask for another key. The marker comes first: a run that dies knows its own rotation."""
    return put_file(ROTATING, old + "\n", 0o600) + with_program("sw_rke2 secrets-encrypt rotate-keys\n")


def judge_keys(keys: Mapping[str, ServerKeys], now_s: float) -> list[Evidence]:
    """Return the state as evidence, one line a server: stage, hashes, and the active key."""
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    found = []
    for name, seen in keys.items():
        good = seen.enabled and seen.matches and seen.stage in (START, FINISHED)
        made = key_made_at(seen.active_key)
        age = f", {(now_s - made) / 86400:.0f} day(s) old" if made is not None else ""
        hashes = "all hashes match" if seen.matches else seen.differs or "hashes differ"
        told = f"stage {seen.stage}, {hashes}, active key {seen.active_key or 'none'}{age}"
        found.append(
            Evidence(
                f"encryption/{name}", "Secrets are encrypted, and all servers agree how", "pass" if good else "fail",
                f"enabled, {START} or {FINISHED}, all hashes match", told, "5.2", at, name,
                remedy="" if good else "Run `stackwright encryption rotate`: it continues what was begun.",
            )
        )  # fmt: skip
    return found
