"""etcd's wire: its JSON gateway over HTTPS with a client certificate. Source: etcd 3.4, the API's gateway page.

Calls block; a caller in an event loop uses a thread. What is stored where is not decided here.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

ALL_KEYS = b"\0"
CALL_LIMIT_S = 10.0


class EtcdError(Exception):
    """etcd refused or did not answer; the text is etcd's own where it said something."""


class StaleError(Exception):
    """What was to be changed has been changed by somebody else meanwhile."""


@dataclass(frozen=True)
class EtcdMember:
    """One member as the cluster lists it. `name` is empty until it has started for the first time."""

    id: int
    name: str
    peer_url: str
    client_url: str
    learner: bool

    @property
    def host(self) -> str:
        """The address of its peer URL."""
        return httpx.URL(self.peer_url).host


@dataclass(frozen=True)
class EtcdStatus:
    """One member's own view. `leader` is 0 while it knows none."""

    id: int
    leader: int
    learner: bool
    applied: int
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One change of a key: `value` is None for a deletion. `revision` is the whole store's after it."""

    key: str
    value: str | None
    revision: int


class Etcd:
    """A client of one member."""

    def __init__(self, url: str, ca: str, certificate: str, key: str) -> None:
        """`ca`, `certificate` and `key` are files."""
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(certificate, key)
        self.url = url
        self._client = httpx.Client(base_url=url, verify=context, timeout=CALL_LIMIT_S, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, path: str, body: dict[str, Any], timeout_s: float = CALL_LIMIT_S) -> dict[str, Any]:
        """Call a method. Raises EtcdError."""
        try:
            answer = self._client.post(f"/v3/{path}", json=body, timeout=timeout_s)
            content: dict[str, Any] = answer.json()
        except httpx.TimeoutException as error:
            raise EtcdError("context deadline exceeded") from error
        except (httpx.HTTPError, ValueError) as error:
            raise EtcdError(f"connection error: desc = {error}") from error
        if answer.status_code != 200 or "error" in content:
            raise EtcdError(str(content.get("error") or content.get("message") or answer.status_code))
        return content

    # Keys

    def get(self, key: str) -> str | None:
        """Return a key's value as all agree on it, or None."""
        found = self.call("kv/range", {"key": _encode(key)}).get("kvs")
        return base64.b64decode(found[0].get("value", "")).decode() if found else None

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a prefix."""
        body = {"key": _encode(prefix), "range_end": _encode(_after(prefix)), "keys_only": True}
        return [base64.b64decode(row["key"]).decode() for row in self.call("kv/range", body).get("kvs", ())]

    def read(self, prefix: str) -> tuple[list[Change], int]:
        """Return all below a prefix, each with the revision of its last change, and the store's revision."""
        answer = self.call("kv/range", {"key": _encode(prefix), "range_end": _encode(_after(prefix))})
        rows = [_change(row, deleted=False) for row in answer.get("kvs", ())]
        return rows, int(answer["header"]["revision"])

    def revision(self) -> int:
        """Return the store's revision as the quorum has it."""
        return int(self.call("kv/range", {"key": _encode("-"), "count_only": True})["header"]["revision"])

    def put_if(self, key: str, value: str, revision: int, lease: str = "") -> int:
        """Write a key if its last change has this revision (0: it must not exist). Return the new revision.

        Raises StaleError.
        """
        put = {"key": _encode(key), "value": _encode(value)} | ({"lease": lease} if lease else {})
        return self._txn(key, revision, {"request_put": put})

    def delete_if(self, key: str, revision: int) -> int:
        """Delete a key if its last change has this revision. Return the new revision. Raises StaleError."""
        return self._txn(key, revision, {"request_delete_range": {"key": _encode(key)}})

    def _txn(self, key: str, revision: int, request: dict[str, Any]) -> int:
        target = {"target": "MOD", "mod_revision": str(revision)}
        body = {"compare": [{"key": _encode(key), "result": "EQUAL", **target}], "success": [request]}
        answer = self.call("kv/txn", body)
        if not answer.get("succeeded"):
            raise StaleError(key)
        return int(answer["header"]["revision"])

    def watch(self, revision: int) -> Iterator[list[Change]]:
        """Yield the changes of all keys from this revision on, those of one answer together. Raises EtcdError."""
        create = {"key": _encode(ALL_KEYS), "range_end": _encode(ALL_KEYS), "start_revision": str(revision)}
        limit = httpx.Timeout(CALL_LIMIT_S, read=None)
        try:
            with self._client.stream("POST", "/v3/watch", json={"create_request": create}, timeout=limit) as answer:
                for line in answer.iter_lines():
                    content = json.loads(line)
                    if "error" in content:
                        raise EtcdError(str(content["error"]))
                    events = content["result"].get("events", ())
                    yield [_change(event["kv"], deleted=event.get("type") == "DELETE") for event in events]
        except (httpx.HTTPError, ValueError) as error:
            raise EtcdError(f"watch ended: {error}") from error

    # Leases

    def grant(self, ttl_s: int) -> str:
        """Make a lease; return its id."""
        return str(self.call("lease/grant", {"TTL": str(ttl_s)})["ID"])

    def keep_alive(self, lease: str) -> bool:
        """Renew a lease; say whether it still lived."""
        return int(self.call("lease/keepalive", {"ID": lease}, 3.0)["result"].get("TTL", 0)) > 0

    def revoke(self, lease: str) -> None:
        """End a lease and what hangs on it."""
        self.call("lease/revoke", {"ID": lease})

    # Members

    def members(self) -> list[EtcdMember]:
        """Return the members as this one knows them."""
        rows = self.call("cluster/member/list", {}).get("members", ())
        return [
            EtcdMember(
                int(row["ID"]), row.get("name", ""), row["peerURLs"][0], next(iter(row.get("clientURLs", ())), ""),
                bool(row.get("isLearner")),
            )
            for row in rows
        ]  # fmt: skip

    def add_learner(self, peer_url: str) -> None:
        """Add a member without a vote."""
        self.call("cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})

    def promote(self, member: int) -> None:
        """Give a learner its vote; etcd refuses while it has not caught up."""
        self.call("cluster/member/promote", {"ID": str(member)})

    def remove(self, member: int) -> None:
        """Take a member out."""
        self.call("cluster/member/remove", {"ID": str(member)})

    def status(self, timeout_s: float = CALL_LIMIT_S) -> EtcdStatus:
        """Return this member's own view."""
        row = self.call("maintenance/status", {}, timeout_s)
        return EtcdStatus(
            int(row["header"]["member_id"]), int(row.get("leader", 0)), bool(row.get("isLearner")),
            int(row.get("raftAppliedIndex", 0)), tuple(row.get("errors", ())),
        )  # fmt: skip

    def disarm(self) -> list[str]:
        """Take all alarms back, as RKE2 does as it starts; return what they were."""
        rows = self.call("maintenance/alarm", {"action": "GET"}).get("alarms", ())
        for row in rows:
            self.call("maintenance/alarm", {"action": "DEACTIVATE", **row})
        return [f"{row.get('memberID')}: {row.get('alarm')}" for row in rows]

    def defragment(self) -> None:
        """Give unused room of this member's file back."""
        self.call("maintenance/defragment", {}, 60.0)


def _encode(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _after(prefix: str) -> bytes:
    """Return the first key after all that begin with a prefix."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


def _change(row: dict[str, Any], *, deleted: bool) -> Change:
    value = None if deleted else base64.b64decode(row.get("value", "")).decode()
    return Change(base64.b64decode(row["key"]).decode(), value, int(row["mod_revision"]))
