"""Certificates: what was seen of each, how long it has to live, and what that means. Pure; the clock is an argument.

Reading files, blocks and wires is in tasks/certificates.py, X.509 itself in clients/x509.py. Upstream: RKE2
documentation, certificates; k3s pkg/cli/cert.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from stackwright.domain.effects import RENEW_DAYS
from stackwright.domain.errors import Problem
from stackwright.domain.evidence import Evidence
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.rke2_program import with_program
from stackwright.domain.shell import read_script, run_section, settled_section, shell_section
from stackwright.domain.spec import Node

DAY_S = 86400.0
FAIL_DAYS = 14
WARN_DAYS = 30
CA_WARN_DAYS = 365  # nothing renews an authority, and its rotation by hand is a project

Kind = Literal["rke2", "ca", "kubeconfig", "ingress", "bundle", "served"]
Level = Literal["pass", "warning", "fail", "unknown"]

# What a node must have: RKE2's own check leaves a file out that it cannot read.
AGENT_FILES = ("client-kubelet.crt", "serving-kubelet.crt")
SERVER_FILES = (
    *AGENT_FILES,
    "client-admin.crt",
    "client-kube-apiserver.crt",
    "serving-kube-apiserver.crt",
    "peer-server-client.crt",
    "server-client.crt",
)

_ROTATE = (
    "Run `stackwright certificates rotate` for this site; a restart of RKE2 renews it too, when it is near its end."
)
_REMEDIES: Mapping[Kind, str] = {
    "rke2": _ROTATE,
    "ca": "Plan its rotation by hand: RKE2 documentation, certificates, `rke2 certificate rotate-ca`.",
    "kubeconfig": "Run `stackwright certificates rotate` for this site: it fetches the kubeconfig again.",
    "ingress": "Look at the cert-manager Certificate that makes this Secret, or put a new certificate into it.",
    "bundle": "Look at what fills this bundle in: cert-manager's CA injector, or the product's own controller.",
    "served": "Look which Secret or file this address serves from; RKE2's own is renewed by a restart.",
}


@dataclass(frozen=True)
class CertificateFacts:
    """One certificate. `owner` is a node, an object or a name; `place` where it lies there.

    Times are seconds since the epoch. One that could not be read has no `not_after_s`, and `unread` says why. `said` is
    the status that RKE2 itself gave it, by the node's clock.
    """

    owner: str
    place: str
    kind: Kind
    subject: str = ""
    not_before_s: float | None = None
    not_after_s: float | None = None
    unread: str = ""
    said: str = ""

    @property
    def name(self) -> str:
        return f"{self.owner}: {self.place}"


def days_left(seen: CertificateFacts, now_s: float) -> float | None:
    """Return how many days it is still valid, negative when it has expired, None when it could not be read."""
    return None if seen.not_after_s is None else (seen.not_after_s - now_s) / DAY_S


def level_of(seen: CertificateFacts, now_s: float) -> Level:
    """Judge one certificate by the named limits. What could not be read never passes."""
    left = days_left(seen, now_s)
    if left is None:
        return "unknown"
    if left < FAIL_DAYS or not _valid_yet(seen, now_s) or seen.said in ("EXPIRED", "NOT YET VALID"):
        return "fail"
    limits: Mapping[Kind, int] = {"rke2": RENEW_DAYS, "ca": CA_WARN_DAYS}
    return "warning" if left < limits.get(seen.kind, WARN_DAYS) else "pass"


def expired(facts: Iterable[CertificateFacts], now_s: float) -> list[Problem]:
    """Return a problem for each certificate that is not valid now, or of which that is not known."""
    problems = []
    for seen in facts:
        left, wanted = days_left(seen, now_s), "a valid certificate"
        if left is None:
            what = f"{seen.place} cannot be read: whether it is valid is not known"
            problems.append(Problem(seen.owner, what, "Mend what is said here, then look again.", wanted, seen.unread))
        elif left <= 0 or not _valid_yet(seen, now_s) or seen.said in ("EXPIRED", "NOT YET VALID"):
            problems.append(
                Problem(seen.owner, f"{seen.place} is not valid", _REMEDIES[seen.kind], wanted, _span(seen))
            )
    return problems


def judge_certificates(facts: Iterable[CertificateFacts], now_s: float) -> list[Evidence]:
    """Return one line of evidence for each certificate, worst first. A warning is a failure that is no must-have."""
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    return [_evidence(seen, now_s, at) for seen in worst_first(facts, now_s)]


def worst_first(facts: Iterable[CertificateFacts], now_s: float) -> list[CertificateFacts]:
    """Order: failed, unknown, warning, good; those with the least time first."""
    rank: Mapping[Level, int] = {"fail": 0, "unknown": 1, "warning": 2, "pass": 3}
    return sorted(facts, key=lambda one: (rank[level_of(one, now_s)], one.not_after_s or 0.0, one.name))


def expiring(facts: Iterable[CertificateFacts], now_s: float) -> list[CertificateFacts]:
    """Return what is under its limit, worst first."""
    return [seen for seen in worst_first(facts, now_s) if level_of(seen, now_s) in ("fail", "warning")]


def rows(facts: Iterable[CertificateFacts], now_s: float) -> list[dict[str, str]]:
    """Return the table that a person reads, worst first."""
    return [
        {
            "verdict": level_of(seen, now_s),
            "owner": seen.owner,
            "place": seen.place,
            "subject": seen.subject,
            "not after": _date(seen.not_after_s),
            "days left": "" if (left := days_left(seen, now_s)) is None else f"{left:.1f}",
        }
        for seen in worst_first(facts, now_s)
    ]


def _evidence(seen: CertificateFacts, now_s: float, at: str) -> Evidence:
    level, left = level_of(seen, now_s), days_left(seen, now_s)
    need = {"rke2": RENEW_DAYS, "ca": CA_WARN_DAYS}.get(seen.kind, WARN_DAYS)
    said = f", RKE2 says {seen.said}" if seen.said not in ("", "OK", "WARNING") else ""
    return Evidence(
        id=f"certificate/{seen.owner}/{seen.place}",
        title=f"{seen.kind} certificate {seen.subject}".rstrip(),
        verdict="fail" if level == "warning" else level,
        wanted=f"{need} days or more ({FAIL_DAYS} at the least)",
        seen=seen.unread or f"{left:.1f} days left, {_span(seen)}{said}",
        guide="5.2",
        at=at,
        target=seen.owner,
        must=level != "warning",
        remedy="" if level == "pass" else _REMEDIES[seen.kind],
    )


def _valid_yet(seen: CertificateFacts, now_s: float) -> bool:
    return seen.not_before_s is None or seen.not_before_s <= now_s


def _span(seen: CertificateFacts) -> str:
    since = f"from {_date(seen.not_before_s)} " if seen.not_before_s is not None else ""
    return f"valid {since}until {_date(seen.not_after_s)}"


def _date(at_s: float | None) -> str:
    return "" if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat(timespec="minutes")


# --- reading one node ------------------------------------------------------------------------------------------------

# Only what stands between the marks of a certificate leaves the node: a careless hand may have put a key beside it.
_FILES = f"""\
show() {{
for f in "$@"; do
[ -e "$f" ] || continue
printf '== %s\\n' "$f"
sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' "$f"
done
}}
s={DATA}/server/tls a={DATA}/agent
"""
_CHECK = """\
out=$(sw_rke2 certificate check --output json) && case $out in '{'*) printf '%s\\n' "$out"; exit 0 ;; esac
show $(ls "$s"/*.crt "$s"/etcd/*.crt "$a"/*.crt | grep -v -e '-ca[.]')
exit 3
"""
_AUTHORITIES = """\
show "$s"/*-ca.crt "$s"/etcd/*-ca.crt "$a"/*-ca.crt
"""
FROM_FILES = 3
STARTING = "activating"


def certificate_script() -> str:
    """Return the reading script of one node: RKE2's own check, or the files where it has no such output; authorities.

    `certificate check --output` is there since v1.31.5 and v1.32.0.
    """
    return read_script(
        settled_section()
        + run_section("unit", "systemctl", "is-active", "rke2-server", "rke2-agent")
        + shell_section("check", with_program(_FILES + _CHECK))
        + shell_section("authorities", _FILES + _AUTHORITIES)
    )


def parse_check(node: str, text: str, now_s: float) -> list[CertificateFacts]:
    """Read the JSON of `rke2 certificate check`. Its exit code says nothing; nor do authorities in it, see above."""
    try:
        found = [_checked(node, row, now_s) for row in json.loads(text)["Certificates"]]
    except (ValueError, KeyError, TypeError) as error:
        return [CertificateFacts(node, "rke2 certificate check", "rke2", unread=f"not as expected: {error!r}"[:200])]
    return [seen for seen in found if seen is not None]


def _checked(node: str, row: Mapping[str, Any], now_s: float) -> CertificateFacts | None:
    if "CertSign" in (row.get("Usages") or ()):
        return None  # each file carries its authority too; those are read from their own files
    status, moment = row["Status"], datetime.fromisoformat(row["ExpiryTime"]).timestamp()
    early = status == "NOT YET VALID"  # then the time is when it begins
    return CertificateFacts(
        node,
        row["Filename"],
        "rke2",
        row.get("Subject", ""),
        not_before_s=moment if early else None,
        not_after_s=now_s + row["ResidualTime"] / 1e9 if early else moment,
        said=status,
    )


def split_files(text: str) -> dict[str, str]:
    """Return the text of each file that a script showed, by its path."""
    found: dict[str, str] = {}
    for part in text.split("== ")[1:]:
        path, _, content = part.partition("\n")
        found[path] = content
    return found


def file_place(path: str) -> str:
    """Return how a file is called: RKE2's own check gives names without folders."""
    return path.removeprefix(f"{DATA}/").removeprefix("server/tls/").removeprefix("agent/")


def unique(found: Iterable[CertificateFacts]) -> list[CertificateFacts]:
    """Return one of each (owner, place): the one that ends first. A name can stand for files in two folders."""
    kept: dict[tuple[str, str], CertificateFacts] = {}
    for seen in found:
        held = kept.setdefault((seen.owner, seen.place), seen)
        if (seen.not_after_s or 0.0) < (held.not_after_s or 0.0):
            kept[seen.owner, seen.place] = seen
    return list(kept.values())


def missing_files(node: Node, found: Iterable[CertificateFacts]) -> list[CertificateFacts]:
    """Return what a node must have and nobody read, as unknown."""
    names = {seen.place.rpartition("/")[2] for seen in found}
    wanted = SERVER_FILES if node.is_server else AGENT_FILES
    why = "not among what was read: it does not exist or cannot be parsed"
    return [CertificateFacts(node.name, name, "rke2", unread=why) for name in wanted if name not in names]
