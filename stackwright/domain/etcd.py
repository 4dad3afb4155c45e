"""What one server's own etcd says of itself and of its cluster: the script that asks, and how the answers read. Pure.

Asked on the host by etcd's JSON gateway (etcd 3.4 to 3.6: POST /v3/..., numbers of 64 bits as text, zero and false left
out) and its metrics page. Whether a step may be done is judged in quorum.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

GIB = 1 << 30
DEFAULT_QUOTA = 2 * GIB
"""What etcd allows its database where nothing else is set. Source: etcd, server/storage/quota.go."""
GATEWAY_PORTS = "2382 2379"
"""Where the JSON gateway is: RKE2 keeps 2379 for gRPC alone and gives HTTP a port of its own on the loopback; releases
before that had both on 2379. Source: k3s, pkg/etcd/etcd.go, listenClientHTTPURLs."""
REFUSED = 7  # curl's exit code: nobody listens at the address
# The status tells of alarms too, from the member's own store: without a quorum that is all there is.
_ALARM_TEXT = re.compile(r"(?:memberID:(\d+) )?alarm:(\w+)")


@dataclass(frozen=True)
class EtcdMember:
    """One line of a member list. `name` is empty while a member was added but has never started."""

    id: str
    name: str
    learner: bool
    peers: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """The node's name: RKE2 calls its members `<node>-<8 hex digits>`. Source: k3s, pkg/etcd/etcd.go."""
        found = re.fullmatch(r"(.+)-[0-9a-f]{8}", self.name)
        return found.group(1) if found else self.name

    def __str__(self) -> str:
        return self.name or f"{self.id} at {', '.join(self.peers) or 'no address'}"


@dataclass(frozen=True)
class Alarm:
    """A raised alarm: NOSPACE or CORRUPT. `member` is an id."""

    member: str
    kind: str


@dataclass(frozen=True)
class EtcdView:
    """One server's etcd as it sees itself. Sizes are bytes; ids are decimal text, empty for none.

    `readable` is False where an etcd should run but gave no whole answer; `problem` says why, and nothing else is known
    then but the disk. `healthy`, `fsync_p99_s` and `certificate_days` are None where they could not be read. The fsync
    time is over the whole life of the process, which `started` (seconds, as text) tells from another one.
    """

    readable: bool
    problem: str = ""
    cluster: str = ""
    id: str = ""
    version: str = ""
    leader: str = ""
    term: int = 0
    index: int = 0
    applied: int = 0
    db_size: int = 0
    quota: int = DEFAULT_QUOTA
    errors: tuple[str, ...] = ()
    members: tuple[EtcdMember, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    healthy: bool | None = None
    fsync_p99_s: float | None = None
    disk_size: int | None = None
    disk_free: int | None = None
    started: str = ""
    certificate_days: int | None = field(default=None, compare=False)

    @property
    def leads(self) -> bool:
        return bool(self.id) and self.leader == self.id

    @property
    def db_used_pct(self) -> float:
        """How much of its quota the database takes."""
        return 100.0 * self.db_size / self.quota if self.quota else math.inf


UNSEEN = EtcdView(False, "its server was not looked at")


def unreadable(problem: str, disk: tuple[int, int] | None = None) -> EtcdView:
    """Return the view of an etcd that should answer and does not: unknown is not absent."""
    size, free = disk or (None, None)
    return EtcdView(False, problem, disk_size=size, disk_free=free)


def etcd_script(data: str, address: str) -> str:
    """Return the shell lines that ask a server's etcd; `data` is RKE2's data folder, `address` the server's own.

    Its unit's state is in the shell variable `u`.

    One connection carries all three questions. The member list is the member's own (not linearizable): without a quorum
    it still answers, and two members that differ are seen to. The question for alarms goes through the quorum.
    """
    return _SCRIPT.replace("@DATA@", data).replace("@ADDRESS@", address).replace("@PORTS@", GATEWAY_PORTS)


def parse_etcd(text: str) -> EtcdView | None:
    """Return the view of the script's answer; None where it was looked for and no etcd runs."""
    lines = text.splitlines()
    words = dict(line.partition(" ")[::2] for line in lines if not line.startswith(("{", "metric ")))
    disk = _disk(words.get("disk", ""))
    alive = words.get("unit", "") in ("active", "activating", "reloading", "deactivating")
    code = words.get("rc", "")
    if code in ("", str(REFUSED)):
        if not alive:
            return None
        return unreadable("rke2-server runs, but nobody listens at etcd's client port", disk)
    answers = [line for line in lines if line.startswith("{")]
    if code != "0" and len(answers) < 2:
        return unreadable(f"its client port gives no answer (curl ends with {code})", disk)
    try:
        status, members, alarms = (json.loads(line) for line in [*answers, "{}"][:3])
        return _view(status, members, alarms, _metrics(lines), words, disk)
    except (ValueError, TypeError, AttributeError, KeyError):
        return unreadable("its answers are not those of an etcd", disk)


def _view(
    status: Mapping[str, Any],
    members: Mapping[str, Any],
    alarms: Mapping[str, Any],
    metrics: Mapping[str, float],
    words: Mapping[str, str],
    disk: tuple[int, int] | None,
) -> EtcdView:
    seen = _Fields(status)
    header = _Fields(seen.get("header", {}))
    listed = tuple(sorted((_member(item) for item in _Fields(members).get("members", [])), key=lambda one: one.id))
    if not listed or not seen.number("raftTerm"):
        return unreadable("its answers name no member or no term", disk)
    errors = tuple(str(error).strip() for error in seen.get("errors", []))
    raised = {_alarm(item) for item in _Fields(alarms).get("alarms", [])}
    raised |= {Alarm(*found.groups("")) for error in errors for found in _ALARM_TEXT.finditer(error)}
    quota = seen.number("dbSizeQuota") or int(metrics.get("etcd_server_quota_backend_bytes", 0)) or DEFAULT_QUOTA
    started = metrics.get("process_start_time_seconds")
    days = words.get("certificate", "")
    return EtcdView(
        True,
        cluster=header.id("cluster_id"),
        id=header.id("member_id"),
        version=str(seen.get("version", "")),
        leader=seen.id("leader"),
        term=seen.number("raftTerm"),
        index=seen.number("raftIndex"),
        applied=seen.number("raftAppliedIndex"),
        db_size=seen.number("dbSize"),
        quota=quota,
        errors=tuple(error for error in errors if not _ALARM_TEXT.search(error)),
        members=listed,
        alarms=tuple(sorted(raised, key=str)),
        healthy={"true": True, "false": False}.get(words.get("health", "")),
        fsync_p99_s=fsync_p99(metrics),
        disk_size=disk[0] if disk else None,
        disk_free=disk[1] if disk else None,
        started="" if started is None else f"{started:.2f}",
        certificate_days=int(days) if re.fullmatch(r"-?\d+", days) else None,
    )


class _Fields:
    """A JSON object whose keys may be written with or without underscores, as gateways of different ages do."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = {key.replace("_", "").lower(): value for key, value in data.items()}

    def get(self, name: str, default: Any) -> Any:
        return self._data.get(name.replace("_", "").lower(), default)

    def number(self, name: str) -> int:
        return int(self.get(name, 0))

    def id(self, name: str) -> str:
        value = self.number(name)
        return str(value) if value else ""


def _member(item: Mapping[str, Any]) -> EtcdMember:
    one = _Fields(item)
    return EtcdMember(
        one.id("ID"),
        str(one.get("name", "")),
        bool(one.get("isLearner", False)),
        tuple(sorted(one.get("peerURLs", []))),
    )


def _alarm(item: Mapping[str, Any]) -> Alarm:
    one = _Fields(item)
    return Alarm(one.id("memberID"), str(one.get("alarm", "NONE")))


def _disk(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+) (\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def _metrics(lines: Iterable[str]) -> dict[str, float]:
    found = {}
    for line in lines:
        if line.startswith("metric "):
            name, _, value = line.removeprefix("metric ").rpartition(" ")
            found[name] = float(value)
    return found


def fsync_p99(metrics: Mapping[str, float]) -> float | None:
    """Return the 99th percentile of the write-ahead log's fsync times in seconds; None without a histogram.

    Between two bounds it is interpolated, as Prometheus' histogram_quantile does.
    """
    buckets = sorted(
        (float(found.group(1)), count)
        for name, count in metrics.items()
        if (found := re.fullmatch(r'etcd_disk_wal_fsync_duration_seconds_bucket\{le="([^"]+)"\}', name))
    )
    if not buckets or buckets[-1][0] != math.inf or not buckets[-1][1]:
        return None
    rank = 0.99 * buckets[-1][1]
    low_bound, low_count = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == math.inf:
                return low_bound
            return low_bound + (bound - low_bound) * (rank - low_count) / (count - low_count)
        low_bound, low_count = bound, count
    return None


# Times out before the reading script does. What is verbose is asked only for the day the serving certificate ends:
# RKE2 renews it at a start within its last months, and that replaces etcd's pod.
_SCRIPT = """\
echo "unit $u"
t=@DATA@/server/tls/etcd
if [ -d @DATA@/server/db ]; then
df -B1 --output=size,avail @DATA@/server/db | { read -r _; read -r s a; echo "disk $s $a"; }
fi
[ -e $t/server-client.key ] || exit 0
set -- --noproxy '*' --max-time 5 --fail --write-out '\\n' \\
--cacert $t/server-ca.crt --cert $t/server-client.crt --key $t/server-client.key
for p in @PORTS@; do
g=https://127.0.0.1:$p/v3
{ v=$(
curl --silent --verbose --fail-early "$@" --data '{}' $g/maintenance/status \\
--next "$@" --data '{}' $g/cluster/member/list \\
--next "$@" --data '{"action":"GET"}' $g/maintenance/alarm 2>&1 1>&3
); rc=$?; } 3>&1
[ $rc -eq 7 ] || break
done
echo "rc $rc"
[ $rc -ne 7 ] || exit 0
case $v in
*'expire date: '*)
e=${v#*expire date: }; e=$(date -d "${e%%GMT*}UTC" +%s) && echo "certificate $(( (e - $(date +%s)) / 86400 ))" ;;
esac
set -- --noproxy '*' --max-time 5 --write-out '\\n'
for a in 127.0.0.1 @ADDRESS@; do
m=$(curl --silent "$@" http://$a:2381/health --next "$@" http://$a:2381/metrics) && break
done
case ${m%%,*} in
*'"health":"true"'*) echo "health true" ;;
*'"health":"false"'*) echo "health false" ;;
esac
printf '%s\\n' "$m" | grep -E \\
'^(etcd_server_quota_backend_bytes|etcd_disk_wal_fsync_duration_seconds_bucket|process_start_time_seconds)[ {]' |
sed 's/^/metric /'
:
"""
