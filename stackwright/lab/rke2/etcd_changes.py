"""What an etcd member of the stand-in lets be changed through its gateway: who leads, and who is a member.

Errors are etcd's own words, with the HTTP status that its gateway gives their gRPC codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from stackwright.lab.rke2.state import ClusterState, Member

if TYPE_CHECKING:
    from stackwright.lab.rke2.cluster import Rke2Cluster

FAILED_PRECONDITION, NOT_FOUND = (9, web.HTTPBadRequest), (5, web.HTTPNotFound)


def add_changes(
    app: web.Application, cluster: Rke2Cluster, state: ClusterState, node: Callable[[], str],
    number: Callable[[Member], str],
) -> None:  # fmt: skip
    """Add the changing requests to a member's gateway; `number` names members as etcd does."""

    def find(wanted: str) -> Member | None:
        return next((member for member in state.members.values() if number(member) == wanted), None)

    async def move_leader(request: web.Request) -> web.Response:
        target = find(str((await request.json()).get("targetID", "")))
        if cluster.leader(state) != node():
            raise _refusal("etcdserver: not leader", FAILED_PRECONDITION)
        if target is None or not target.voter or not cluster.member_runs(state, target.name):
            raise _refusal("etcdserver: bad leader transferee", FAILED_PRECONDITION)
        cluster.raft_of(state).look(target.name)
        return web.json_response({})

    async def remove_member(request: web.Request) -> web.Response:
        gone = find(str((await request.json()).get("ID", "")))
        if gone is None:
            raise _refusal("etcdserver: member not found", NOT_FOUND)
        left = [member for member in state.voters if member is not gone]
        running = sum(cluster.member_runs(state, member.name) for member in left)
        if running <= len(left) // 2:
            words = "etcdserver: re-configuration failed due to not enough started members"
            raise _refusal(words, FAILED_PRECONDITION)
        cluster.remove_member(state, gone.name)
        return web.json_response({"members": [{"ID": number(member)} for member in state.members.values()]})

    app.add_routes([
        web.post("/v3/maintenance/transfer-leadership", move_leader),
        web.post("/v3/cluster/member/remove", remove_member),
    ])  # fmt: skip


def _refusal(words: str, kind: tuple[int, type[web.HTTPException]]) -> web.HTTPException:
    code, status = kind
    return status(text=json.dumps({"error": words, "code": code, "message": words}), content_type="application/json")
