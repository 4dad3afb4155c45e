"""The fence of a drill: what must not answer from the spare host, how that is asked there, and how answers count. Pure.

A restored cluster holds production's controllers and credentials: it may not reach what production works with. An
address is closed when nothing comes back from it, or when a rule or a missing route says so at once. One that refuses
a connection is open: a refusal is an answer, so packets go there and back, and the next service that listens is
reached. What could not be asked is not closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from stackwright.domain.certificate_places import SUPERVISOR_PORT
from stackwright.domain.errors import Problem
from stackwright.domain.rke2_files import bracketed
from stackwright.domain.shell import Section, quote, read_script, shell_section
from stackwright.domain.spec import Node, StackSpec

ETCD_PORT, KUBELET_PORT, HTTPS_PORT = 2379, 10250, 443
CONNECT_S, WHOLE_S = 3, 6
WIDTH = 64  # addresses asked at once
UNRESOLVED = 6  # curl's exit code
_CLOSED_WORDS = ("No route to host", "Network is unreachable", "Permission denied", "Operation not permitted")
_REFUSED_WORDS = ("Connection refused", "Connection reset by peer")
TIMED_OUT, NOT_CONNECTED = 28, 7

Verdict = Literal["open", "closed", "unknown"]


@dataclass(frozen=True)
class Target:
    """One address that must not answer.

    `known` is False for a name that an operator wrote into the fence and that leads nowhere here: a slip of the pen
    fences nothing. A name of the site's own that leads nowhere, here and there, is simply not served yet.
    """

    host: str
    port: int
    what: str
    known: bool = True

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port} ({self.what})"


@dataclass(frozen=True)
class Answer:
    """How one address answered from the spare host."""

    target: Target
    verdict: Verdict
    seen: str


def platform_names(spec: StackSpec) -> dict[str, str]:
    """Return the host names of the platform with what they are, as far as the site's layers serve them."""
    layers, domain, clearml = spec.layers, spec.ingress.domain, spec.clearml.base_domain
    found = {
        f"rancher.{domain}": "Rancher" if layers.rancher.enabled else "",
        f"registry.{domain}": "registry" if layers.registry.enabled else "",
        f"observability.{domain}": "observability" if layers.observability.enabled else "",
        **{f"{name}.{clearml}": "ClearML" if layers.clearml.enabled else "" for name in ("api", "app", "files")},
    }
    return {name: what for name, what in found.items() if what}


def fence_targets(spec: StackSpec, addresses: Mapping[str, Sequence[str]]) -> tuple[Target, ...]:
    """Return every address that must not answer from the spare host, without repeats.

    `addresses` are those of host names as the controller knows them. A name is asked for by itself too: the spare host
    may have another name server.
    """
    found: list[Target] = []

    def name(host: str, ports: Iterable[int], what: str, *, known: bool = True) -> None:
        for one in dict.fromkeys((host, *addresses.get(host, ()))):
            found.extend(Target(one, port, what, known or _is_ip(one)) for port in ports)

    api = spec.rke2.api_port
    for node in (*spec.nodes, *spec.removed):
        ports = dict.fromkeys((node.port, 22, api, SUPERVISOR_PORT, ETCD_PORT, KUBELET_PORT))
        name(node.address, ports, f"node {node.name}")
    name(spec.rke2.registration_address, (SUPERVISOR_PORT, api), "registration address")
    for host, what in platform_names(spec).items():
        name(host, (spec.ingress.https_port,), what)
    for endpoint in _stores(spec):
        parts = urlsplit(endpoint)
        name(parts.hostname or "", (parts.port or HTTPS_PORT,), "bundle store")
    drill = spec.backup.drill if spec.backup else None
    for entry in drill.fence if drill else ():
        host, _, port = entry.rpartition(":")
        host = host.strip("[]")
        name(host, (int(port),), "backup.drill.fence", known=bool(addresses.get(host)))
    return tuple({(target.host, target.port): target for target in reversed(found)}.values())[::-1]


def fenced_names(spec: StackSpec) -> tuple[str, ...]:
    """Return the host names of the fence, for the controller to look up."""
    hosts = (target.host for target in fence_targets(spec, {}))
    return tuple(dict.fromkeys(host for host in hosts if not _is_ip(host)))


def _stores(spec: StackSpec) -> tuple[str, ...]:
    backup = spec.backup
    if backup is None:
        return ()
    return (backup.endpoint, *((backup.second.endpoint,) if backup.second else ()))


def _is_ip(host: str) -> bool:
    return ":" in host or re.fullmatch(r"[0-9.]+", host) is not None


# --- asking ----------------------------------------------------------------------------------------------------------


def fence_script(host: Node, targets: Sequence[Target]) -> str:
    """Return the script that asks all addresses from the spare host, many at once.

    The host's own SSH port is asked first, in the same way: a check that cannot see an open port sees no open fence.
    """
    lines = [_TRY.format(connect=CONNECT_S, whole=WHOLE_S)]
    for index, target in enumerate([Target(host.address, host.port, "the spare host itself"), *targets]):
        lines.append(f"sw_try {index} {quote(f'http://{bracketed(target.host)}:{target.port}/')} &\n")
        if (index + 1) % WIDTH == 0:
            lines.append("wait\n")
    return read_script(shell_section("fence", "".join([*lines, "wait\n"])))


def fence_timeout_s(targets: Sequence[Target]) -> float:
    """Return how long the script may take."""
    return 60.0 + WHOLE_S * (len(targets) // WIDTH + 1)


def parse_fence(targets: Sequence[Target], seen: Mapping[str, Section]) -> tuple[Answer, ...]:
    """Return what each address answered. All are unknown where the check could not see the host's own SSH port."""
    rows: dict[int, tuple[int, float, str]] = {}
    for line in seen["fence"].out.splitlines():
        found = re.fullmatch(r"(\d+) (\d+) ([\d.]+) ?(.*)", line)
        if found:
            rows[int(found[1])] = (int(found[2]), float(found[3]), found[4])
    control = rows.get(0)
    if control is None or not control[1]:
        why = "the check does not even see the spare host's own SSH port" + (f": {_say(*control)}" if control else "")
        return tuple(Answer(target, "unknown", why) for target in targets)
    return tuple(_answer(target, rows.get(index)) for index, target in enumerate(targets, start=1))


def _answer(target: Target, row: tuple[int, float, str] | None) -> Answer:
    if row is None:
        return Answer(target, "unknown", "no answer of the check")
    code, connected_s, words = row
    if connected_s:
        return Answer(target, "open", "it answers")
    if any(word in words for word in _REFUSED_WORDS):
        return Answer(target, "open", "it refuses the connection: packets go there and back")
    if code == TIMED_OUT or (code == NOT_CONNECTED and any(word in words for word in _CLOSED_WORDS)):
        return Answer(target, "closed", _say(*row))
    if code == UNRESOLVED and target.known:
        return Answer(target, "closed", "its name is not known there")
    return Answer(target, "unknown", _say(*row))


def _say(code: int, _connected_s: float, words: str) -> str:
    return words or {TIMED_OUT: "silence", UNRESOLVED: "the name is not known"}.get(code, f"curl ends with {code}")


def check_fence(host: Node, answers: Sequence[Answer]) -> list[Problem]:
    """Return what keeps the fence from being closed, what answers first."""
    problems = []
    for answer in sorted(answers, key=lambda answer: answer.verdict != "open"):
        if answer.verdict == "open":
            remedy = "Drop packets from the spare host to it (a refusal is an answer too), then start the drill again."
            problems.append(Problem(str(answer.target), f"answers from {host.name}", remedy, "silence", answer.seen))
        elif answer.verdict == "unknown":
            remedy = f"Try it on {host.name} with curl; an address that cannot be asked for is not fenced off."
            what = f"it is not known whether it answers from {host.name}"
            problems.append(Problem(str(answer.target), what, remedy, "silence", answer.seen))
    return problems


# Plain HTTP whatever serves there: curl notes the time of a TLS connection only after the handshake, and a port that
# takes connections is open however it goes on. A line of each: number, curl's exit code, seconds until connected
# (0: never), what the kernel said. Short enough that lines of several processes never mix in the pipe.
_TRY = """\
sw_try() {{
r=$(curl --verbose --silent --noproxy '*' --connect-timeout {connect} --max-time {whole} \\
--output /dev/null --write-out '\\nsw-connected %{{time_connect}}\\n' "$2" 2>&1)
c=$?
t=$(printf '%s\\n' "$r" | sed -n 's/^sw-connected //p' | tr ',' '.')
w=$(printf '%s\\n' "$r" | sed -n -e 's/^\\* connect to .* failed: //p' -e 's/^\\* *Immediate connect fail for .*: //p' |
sort -u | tr '\\n' ' ' | cut -c 1-200)
printf '%s %s %s %s\\n' "$1" "$c" "${{t:-0}}" "$w"
}}
"""
