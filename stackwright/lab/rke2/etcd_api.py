"""What one etcd member of the stand-in answers: the JSON gateway on port 2379 (mutual TLS), health and metrics on 2381.

Forms are a real etcd's: numbers of 64 bits as text, zero and false left out. Membership is decided in cluster.py.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stackwright.lab.net import context_of
from stackwright.lab.rke2.etcd_changes import add_changes
from stackwright.lab.rke2.state import ClusterState, Member

if TYPE_CHECKING:
    from stackwright.lab.rke2.cluster import Rke2Cluster

CLIENT_PORT, HEALTH_PORT = 2379, 2381
QUOTA, DB_SIZE = 2 << 30, 20 << 20
SAMPLES, USUAL_FSYNC_S = 1000, 0.002
BOUNDS = tuple(0.001 * 2**step for step in range(14))
ALARM = "NOSPACE"  # what the fault `etcd-alarm` raises unless its `match` has another kind as `action`


@dataclass
class Raft:
    """What the members of one cluster agree on. The term grows with each new leader."""

    leader: str | None = None
    term: int = 1
    index: int = 1000

    def look(self, leader: str | None) -> None:
        """Note who leads now."""
        self.index += 1
        if leader is not None and leader != self.leader:
            self.term += 1
            self.leader = leader


def member_id(member: Member) -> str:
    """Return a member's number of 64 bits, as text."""
    return str(int.from_bytes(hashlib.sha256(member.id.encode()).digest()[:8]))


def gateway_context(state: ClusterState, certificate: str, key: str) -> ssl.SSLContext:
    """Return the TLS of etcd's client port: without a certificate of etcd's own authority nobody gets in."""
    context = context_of(certificate, key)
    context.load_verify_locations(cadata=state.authority("etcd-ca").certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def create_gateway_app(cluster: Rke2Cluster, state: ClusterState, node: Callable[[], str]) -> web.Application:
    """Make one member's gateway; `node` names the member, which may be removed while it still runs."""

    def header(member: Member) -> dict[str, str]:
        raft = cluster.raft_of(state)
        number = str(int(state.id[:15], 16))
        return {"cluster_id": number, "member_id": member_id(member), "revision": "1", "raft_term": str(raft.term)}

    def own() -> Member:
        member = state.members.get(node())
        if member is None or not cluster.member_runs(state, member.name):
            raise web.HTTPServiceUnavailable(text='{"error":"etcdserver: server stopped","code":14}')
        return member

    async def status(request: web.Request) -> web.Response:
        member, raft = own(), cluster.raft_of(state)
        leader = cluster.leader(state)
        raft.look(leader)
        answer: dict[str, Any] = {
            "header": header(member), "version": cluster.etcd_version(member.name), "dbSize": str(DB_SIZE),
            "raftIndex": str(raft.index),
            "raftTerm": str(raft.term), "raftAppliedIndex": str(raft.index), "dbSizeInUse": str(DB_SIZE // 2),
        }  # fmt: skip
        if leader is not None:
            answer["leader"] = member_id(state.members[leader])
        errors = ["etcdserver: no leader"] if leader is None else []
        errors += [f"memberID:{alarm['memberID']} alarm:{alarm['alarm']} " for alarm in alarms()]
        if errors:
            answer["errors"] = errors
        if not member.voter:
            answer["isLearner"] = True
        return web.json_response(answer, dumps=_compact)

    async def members(request: web.Request) -> web.Response:
        listed = [
            {"ID": member_id(one), "name": f"{one.name}-{one.id}", "peerURLs": [f"https://{one.address}:2380"],
             "clientURLs": [f"https://{one.address}:2379"]} | ({} if one.voter else {"isLearner": True})
            for one in state.members.values()
        ]  # fmt: skip
        return web.json_response({"header": header(own()), "members": listed}, dumps=_compact)

    def alarms() -> list[dict[str, str]]:
        return raised_alarms(cluster, state)

    async def alarm(request: web.Request) -> web.Response:
        if (await request.json()).get("action", "GET") != "GET":
            raise web.HTTPNotImplemented(text='{"error":"the lab raises alarms by its faults"}')
        if not cluster.has_quorum(state):  # the real one asks the quorum, and gives up after some seconds
            raise web.HTTPServiceUnavailable(text='{"error":"etcdserver: request timed out","code":14}')
        raised = alarms()
        return web.json_response({"header": header(own())} | ({"alarms": raised} if raised else {}), dumps=_compact)

    app = web.Application()
    app.add_routes([
        web.post("/v3/maintenance/status", status),
        web.post("/v3/cluster/member/list", members),
        web.post("/v3/maintenance/alarm", alarm),
    ])  # fmt: skip
    add_changes(app, cluster, state, node, member_id)
    return app


def raised_alarms(cluster: Rke2Cluster, state: ClusterState) -> list[dict[str, str]]:
    """Return the alarms that the fault `etcd-alarm` has raised, one a member."""
    found = []
    for member in state.members.values():
        fault = cluster.nodes.faults.standing("etcd-alarm", member.name)
        if fault is not None:
            found.append({"memberID": member_id(member), "alarm": str(fault.match.get("action") or ALARM)})
    return found


def create_health_app(cluster: Rke2Cluster, state: ClusterState, node: Callable[[], str]) -> web.Application:
    """Make etcd's health page (with `serializable=true` this member alone, else the quorum) and its metrics."""

    async def health(request: web.Request) -> web.Response:
        raised = raised_alarms(cluster, state)
        runs = cluster.member_runs(state, node())
        reason = "RAFT NO LEADER" if not (runs and cluster.has_quorum(state)) else ""
        reason = f"ALARM {raised[0]['alarm']}" if raised and not reason else reason
        well = not reason or (runs and request.query.get("serializable") == "true")
        answer = {"health": "true", "reason": ""} if well else {"health": "false", "reason": reason}
        return web.json_response(answer, status=200 if well else 503, dumps=_compact)

    async def metrics(request: web.Request) -> web.Response:
        name, leader = node(), cluster.leader(state)
        slow = cluster.nodes.faults.standing("slow-disk", name)
        values = {
            "etcd_server_has_leader": int(leader is not None),
            "etcd_server_is_leader": int(leader == name),
            "etcd_server_quota_backend_bytes": QUOTA,
            "process_start_time_seconds": round(cluster.etcd_started(name), 2),
        }
        lines = [f"{key} {value}" for key, value in values.items()]
        return web.Response(text="\n".join([*lines, *_fsync(slow.seconds if slow else USUAL_FSYNC_S)]) + "\n")

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    return app


def _compact(answer: object) -> str:
    """Write JSON without blanks, as etcd does."""
    return json.dumps(answer, separators=(",", ":"))


def _fsync(seconds: float) -> list[str]:
    name = "etcd_disk_wal_fsync_duration_seconds"
    counts = [f'{name}_bucket{{le="{bound:g}"}} {SAMPLES if seconds <= bound else 0}' for bound in BOUNDS]
    return [
        *counts,
        f'{name}_bucket{{le="+Inf"}} {SAMPLES}',
        f"{name}_sum {seconds * SAMPLES:g}",
        f"{name}_count {SAMPLES}",
    ]
