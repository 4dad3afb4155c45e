"""Rotating the server token: blocks first, then one server, then every node's file, then restarts one by one.

What is left to do is decided in stackwright/domain/token_rotation.py. A token is opened here and on the wire alone.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets as randomness
from collections.abc import Mapping
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import SecretStr

from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.errors import PlanMovedError, RemoteStepError, SecretMissingError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.node_plan import SecretRef
from stackwright.domain.plan import Step
from stackwright.domain.rke2_facts import TOKEN
from stackwright.domain.rke2_files import FileWant
from stackwright.domain.rotations import is_up, restart_script, unit_of
from stackwright.domain.spec import Node
from stackwright.domain.token_archive import (
    HASH_DIGITS,
    ArchivedToken,
    archive_block,
    parse_archive,
    render_archive,
    secret_part,
    token_hash,
    with_token,
)
from stackwright.domain.token_facts import NodeToken, TokenFacts, following_block, parse_token, token_script
from stackwright.domain.token_rotation import (
    ROTATE_TIMEOUT_S,
    TokenState,
    config_script,
    curl_text,
    must_restart,
    rotate_script,
    token_state,
)
from tasks.common import in_thread, only_transient
from tasks.nodes import read_node, read_nodes
from tasks.rolling import await_joined, carry_out, read_status, roll
from tasks.scripts import render

log = logging.getLogger(__name__)


# --- looking ---------------------------------------------------------------------------------------------------------


def read_tokens(site: Site, nodes: Mapping[str, NodeFacts]) -> TokenFacts:
    """Return what all blocks and all nodes hold, as hashes. Raises what the first unreachable node raises."""
    every = site.spec.nodes
    with RunThreads(max_workers=min(len(every), site.spec.ssh.width) or 1) as pool:
        found = dict(zip((node.name for node in every), pool.map(lambda one: _read(site, one), every), strict=True))
    return TokenFacts(
        present=_block_hash(site, site.spec.rke2.token_block),
        following=_block_hash(site, following_block(site.spec.rke2.token_block)),
        archived={entry.hash: entry.retired_at for entry in _archive(site)},
        nodes=found,
        servers={node.name: nodes[node.name].rke2.token_hash[:HASH_DIGITS] for node in site.spec.servers},
    )


def _read(site: Site, node: Node) -> NodeToken:
    with site.shells.open(node) as shell:
        return parse_token(shell.read(token_script()), node.name)


def _archive(site: Site) -> tuple[ArchivedToken, ...]:
    block = archive_block(site.spec.rke2.token_block)
    fields = site.secrets.read("secret-text", block)
    return parse_archive(fields["value"].get_secret_value() if fields else None, f"block secret-text/{block}")


def _block_hash(site: Site, block: str) -> str:
    fields = site.secrets.read("secret-text", block)
    return token_hash(fields["value"].get_secret_value()) if fields else ""


# --- changing --------------------------------------------------------------------------------------------------------


def prepare(site: Site, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Archive the present token and make the next one, as far as that is not done. Nothing on a node is changed."""
    block = site.spec.rke2.token_block
    state = _look(site)[1]
    _check_approved(approved, {"archive": not state.archived, "make": not state.made})
    lease.check()
    present = need(site.secrets, "secret-text", block)["value"]
    if not state.archived:
        at = datetime.fromtimestamp(site.clock.now(), UTC).isoformat(timespec="seconds")
        kept = render_archive(with_token(_archive(site), present, at))
        site.secrets.write("secret-text", archive_block(block), {"value": kept})
        log.info("block secret-text/%s written: the token that is retired is kept", archive_block(block))
    if not state.made:
        # In the full form: the cluster's authority stays, only the secret part is another one. RKE2 takes a token of
        # the shape of a bootstrap token for one (k3s#12982); hexadecimal digits are none.
        head = present.get_secret_value().strip().rpartition(":")[0]
        made = f"{head}:{randomness.token_hex(24)}" if head else randomness.token_hex(24)
        site.secrets.write("secret-text", following_block(block), {"value": SecretStr(made)})
        log.info("block secret-text/%s written: the next token", following_block(block))


def rotate(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Give the cluster the next token, through one server; do nothing when its datastore is known to have it.

    Raises RemoteStepError when the server did not take it; the old one is then put back in force.
    """
    tokens, state = _look(site)
    if state.rotated:
        return
    step = _check_approved(approved, {"rotate": True})["rotate"]
    old = next(entry.token for entry in _archive(site) if entry.hash == state.old)
    new = need(site.secrets, "secret-text", following_block(site.spec.rke2.token_block))["value"]
    secrets = {}
    for name, token in (("old", old), ("new", new)):
        text = secret_part(token.get_secret_value())
        secrets[f"{name}_user"] = SecretStr(curl_text(text))
        secrets[f"{name}_json"] = SecretStr(curl_text(json.dumps(text)[1:-1]))
    log.info("%s: %s", node.name, step.summary)
    with site.shells.open(node) as shell:
        script = rotate_script(tokens.following)
        carry_out(site, shell, lease, step, script, secrets=secrets, timeout_s=ROTATE_TIMEOUT_S)


def adopt(site: Site, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Write the new token into the token block; do nothing when it is there. The old one is in the archive."""
    state = _look(site)[1]
    if state.adopted:
        return
    _check_approved(approved, {"adopt": True})
    if not (state.rotated and state.archived):
        raise RemoteStepError(
            "the cluster is not known to have the new token", where=site.spec.site, wanted="the marker of a rotation",
            seen="none", remedy="Start the flow again: it asks the server again.",
        )  # fmt: skip
    lease.check()
    block = site.spec.rke2.token_block
    site.secrets.write("secret-text", block, dict(need(site.secrets, "secret-text", following_block(block))))
    log.info("block secret-text/%s written: the new token", block)


def write_config(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Write the new token into a node's file; do nothing when it is there."""
    following = _adopted(site)
    if _read(site, node).hash == following:
        return
    step = _check_approved(approved, {"config": True})["config"]
    facts = read_node(site, node)
    active = facts.unit(unit_of(node)).active
    # The same form as the deploy writes: the server that made the cluster has the secret part alone.
    key = "short" if node.name == site.spec.servers[0].name else "value"
    want = FileWant(TOKEN, 0o600, tree={"token": SecretRef("secret-text", site.spec.rke2.token_block, key)})
    text = SecretStr(base64.b64encode(render(site, want).encode()).decode())
    script = config_script(node, "token_file", runs=active == "active", activating=active == "activating")
    log.info("%s: %s", node.name, step.summary)
    with site.shells.open(node) as shell:
        carry_out(site, shell, lease, step, script, secrets={"token_file": text})


def restart(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Restart a node with the new token, through the guard; only wait for it when it was restarted already.

    Raises QuorumError, WindowClosedError, GateTimeoutError, and RemoteStepError for a server without the new token.
    """
    following = _adopted(site)
    facts = read_node(site, node)
    servers = {node.name: facts.rke2.token_hash[:HASH_DIGITS]}
    tokens = TokenFacts(following, following, nodes={}, servers=servers)
    step = _check_approved(approved, {"restart": True})["restart"]
    unit, up = facts.unit(unit_of(node)), is_up(node, read_status(site, node))
    # One that went round and round with the old token is restarted by hand: that begins its count anew.
    if must_restart(node, facts, tokens) or (unit.restarts and not up):
        roll(site, node, lease, step, restart_script(node), facts)
    elif not up:
        await_joined(site, node, facts)
    if node.is_server:
        seen = read_node(site, node).rke2.token_hash[:HASH_DIGITS]
        if seen != following:
            what = "the server runs, but its own token file is another one"
            raise RemoteStepError(what, where=node.name, wanted=f"hash {following}", seen=f"hash {seen or 'none'}")


def _look(site: Site) -> tuple[TokenFacts, TokenState]:
    nodes = read_nodes(site, site.spec.nodes)
    tokens = read_tokens(site, nodes)
    return tokens, token_state(site.spec, tokens, nodes, {status.name: status for status in site.kube().nodes()})


def _adopted(site: Site) -> str:
    """Return the hash of the token that both blocks hold: before that no node's file may be written."""
    block = site.spec.rke2.token_block
    present, following = _block_hash(site, block), _block_hash(site, following_block(block))
    if not present or present != following:
        raise SecretMissingError(
            "the token block does not hold the new token yet", where=f"block secret-text/{block}",
            wanted=f"hash {following or 'of a next token'}", seen=f"hash {present or 'none'}",
        )  # fmt: skip
    return present


def _check_approved(approved: tuple[Step, ...], needed: Mapping[str, bool]) -> dict[str, Step]:
    """Return the approved steps by what they do. Raises PlanMovedError when a needed one is not among them."""
    known = {step.id.rpartition("/")[2]: step for step in approved}
    for what, is_needed in needed.items():
        if is_needed and what not in known:
            raise PlanMovedError(
                f"step {what} is needed now but was not in the plan",
                where="token",
                wanted=", ".join(known) or "no step",
                seen=what,
            )
    return known


# --- tasks -----------------------------------------------------------------------------------------------------------


@task(task_run_name="token-blocks", cache_policy=NO_CACHE, timeout_seconds=600)
async def ensure_prepared(site: Site, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Archive the present token, and make and keep the next one."""
    await in_thread(prepare, site, lease, approved)


@task(task_run_name="token-rotate-{node.name}", cache_policy=NO_CACHE, timeout_seconds=1200)
async def ensure_token_rotated(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Give the cluster the next token, once. Guide: 5.2."""
    await in_thread(rotate, site, node, lease, approved)


@task(task_run_name="token-adopt", cache_policy=NO_CACHE, timeout_seconds=600)
async def ensure_adopted(site: Site, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Write the new token into the token block."""
    await in_thread(adopt, site, lease, approved)


@task(
    task_run_name="token-config-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=600,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_token_config(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Write the new token into one node's file."""
    await in_thread(write_config, site, node, lease, approved)


@task(
    task_run_name="token-restart-{node.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_token_restart(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Restart one node with the new token, through the guard."""
    await in_thread(restart, site, node, lease, approved)
