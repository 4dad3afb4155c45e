"""The stand-in's certificates: real X.509 files in RKE2's places, renewed when a unit starts, and `rke2 certificate`.

Tests age them: `/usr/lib/stackwright-lab/rke2 - lab-certificates DAYS` in a machine gives all its leaf certificates
that many days to live (negative: they have expired).
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stackwright.lab.machines.hand import Answer
from stackwright.lab.rke2.state import DATA, SERVER, ClusterState

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine

AGENT = f"{DATA}/agent"
RENEW_DAYS = 120
OUTPUT_SINCE = ((1, 31, 5), (1, 32, 0))  # `check --output`: from these patches of their minors on


@dataclass(frozen=True)
class Leaf:
    """One leaf certificate: its file without ending, the authority that signs it, and its subject."""

    path: str
    authority: str
    name: str
    organization: str = ""
    serves: bool = False


SERVER_LEAVES = (
    Leaf(f"{SERVER}/tls/client-admin", "client-ca", "system:admin", "system:masters"),
    Leaf(f"{SERVER}/tls/client-kube-apiserver", "client-ca", "system:apiserver", "system:masters"),
    Leaf(f"{SERVER}/tls/serving-kube-apiserver", "server-ca", "kube-apiserver", serves=True),
    Leaf(f"{SERVER}/tls/client-controller", "client-ca", "system:kube-controller-manager"),
    Leaf(f"{SERVER}/tls/client-scheduler", "client-ca", "system:kube-scheduler"),
    Leaf(f"{SERVER}/tls/client-supervisor", "client-ca", "system:rke2-supervisor", "system:masters"),
    Leaf(f"{SERVER}/tls/client-rke2-cloud-controller", "client-ca", "rke2-cloud-controller-manager"),
    Leaf(f"{SERVER}/tls/client-auth-proxy", "request-header-ca", "system:auth-proxy"),
    Leaf(f"{SERVER}/tls/etcd/client", "etcd-ca", "etcd-client"),
    Leaf(f"{SERVER}/tls/etcd/server-client", "etcd-ca", "etcd-server", serves=True),
    Leaf(f"{SERVER}/tls/etcd/peer-server-client", "etcd-peer-ca", "etcd-peer", serves=True),
)
AGENT_LEAVES = (
    Leaf(f"{AGENT}/client-kubelet", "client-ca", "system:node:{node}", "system:nodes"),
    Leaf(f"{AGENT}/serving-kubelet", "server-ca", "{node}", serves=True),
    Leaf(f"{AGENT}/client-kube-proxy", "client-ca", "system:kube-proxy"),
    Leaf(f"{AGENT}/client-rke2-controller", "client-ca", "system:rke2-controller"),
)
AUTHORITY_FILES = {
    f"{SERVER}/tls/server-ca": "server-ca",
    f"{SERVER}/tls/client-ca": "client-ca",
    f"{SERVER}/tls/request-header-ca": "request-header-ca",
    f"{SERVER}/tls/etcd/server-ca": "etcd-ca",
    f"{SERVER}/tls/etcd/peer-ca": "etcd-peer-ca",
}
AGENT_AUTHORITY_FILES = {f"{AGENT}/server-ca": "server-ca", f"{AGENT}/client-ca": "client-ca"}


def leaves_of(machine: Machine) -> tuple[Leaf, ...]:
    """Return the leaf certificates that belong on a machine; it is an agent while it has no server folder."""
    return (*SERVER_LEAVES, *AGENT_LEAVES) if machine.path(SERVER).exists() else AGENT_LEAVES


def ensure_certificates(machine: Machine, state: ClusterState, node: str, names: list[str], *, server: bool) -> None:
    """Write the authorities, and every leaf that is missing, near its end or for other names, as a start does."""
    for path, name in (AUTHORITY_FILES if server else {}).items():
        certificate, key = state.authorities[name]
        machine.write(f"{path}.crt", certificate)
        machine.write(f"{path}.key", key, 0o600)
    for path, name in AGENT_AUTHORITY_FILES.items():
        machine.write(f"{path}.crt", state.authorities[name][0])
    for leaf in (*SERVER_LEAVES, *AGENT_LEAVES) if server else AGENT_LEAVES:
        held = machine.read(f"{leaf.path}.crt")
        fits = not leaf.serves or (bool(held) and set(_alternatives(held)) == set(names))
        if held and fits and days_left(held) >= RENEW_DAYS and machine.path(f"{leaf.path}.key").exists():
            continue
        _issue(machine, state, leaf, node, names, 365)


def age_certificates(machine: Machine, state: ClusterState, days: float) -> None:
    """Give every leaf certificate of a machine `days` to live. Its pods go on with what they have read."""
    for leaf in leaves_of(machine):
        names = _alternatives(machine.read(f"{leaf.path}.crt"))
        _issue(machine, state, leaf, machine.name, names, days)


def _alternatives(pem: str) -> list[str]:
    """Return the names and addresses that a file's first certificate is for."""
    try:
        extensions = x509.load_pem_x509_certificates(pem.encode())[0].extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in found]


def days_left(pem: str) -> float:
    """Return how long the first certificate of a file is still valid, in days."""
    found = x509.load_pem_x509_certificates(pem.encode())[0]
    return (found.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def _issue(machine: Machine, state: ClusterState, leaf: Leaf, node: str, names: list[str], days: float) -> None:
    certificate, key = state.authority(leaf.authority).issue(
        leaf.name.format(node=node), names if leaf.serves else (), leaf.organization, days
    )
    machine.write(f"{leaf.path}.crt", certificate)
    machine.write(f"{leaf.path}.key", key, 0o600)


# --- the command -----------------------------------------------------------------------------------------------------


def certificate_command(machine: Machine, version: str, words: list[str]) -> Answer:
    """Answer `rke2 certificate check|rotate`: from the files alone, with or without a running server."""
    verb = words[0] if words else ""
    if verb == "check":
        return _check(machine, version, words[1:])
    if verb == "rotate":
        return _rotate(machine)
    return Answer(1, err=f"No help topic for '{verb}'\n")


def _check(machine: Machine, version: str, words: list[str]) -> Answer:
    output = next((word.partition("=")[2] for word in words if word.startswith(("--output=", "-o="))), "")
    for index, word in enumerate(words[:-1]):
        output = words[index + 1] if word in ("--output", "-o") else output
    release = tuple(int(part) for part in version.lstrip("v").partition("+")[0].split(".")[:3])
    if output and not (release >= OUTPUT_SINCE[1] or (release[:2] == (1, 31) and release >= OUTPUT_SINCE[0])):
        return Answer(1, err="Incorrect Usage: flag provided but not defined: -output\n")
    kind = "Server" if machine.path(SERVER).exists() else "Agent"
    said = f'time="{_stamp(datetime.now(UTC))}" level=info msg="{kind} detected, checking certificates"\n'
    rows = [row for leaf in leaves_of(machine) for row in _rows(machine, leaf)]
    if output == "json":
        return Answer(0, json.dumps({"Certificates": rows}) + "\n", said)
    lines = [f"{row['Filename']}: certificate {row['Subject']} is {row['Status']}, expires at {row['ExpiryTime']}\n"
             for row in rows]  # fmt: skip
    return Answer(0, "".join(lines), said)


def _rows(machine: Machine, leaf: Leaf) -> list[dict[str, Any]]:
    """Return one row for each certificate in a file: the leaf and its authority. A missing file has none."""
    pem = machine.read(f"{leaf.path}.crt")
    found = x509.load_pem_x509_certificates(pem.encode()) if pem.strip() else []
    return [_row(Path(leaf.path).name, certificate) for certificate in found]


def _row(file: str, certificate: x509.Certificate) -> dict[str, Any]:
    now, since, until = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    status = "OK"
    if now < since:
        status = "NOT YET VALID"
    elif now > until:
        status = "EXPIRED"
    elif until - now < timedelta(days=RENEW_DAYS):
        status = "WARNING"
    return {
        "Filename": f"{file}.crt",
        "Subject": _common_name(certificate.subject),
        "Issuer": _common_name(certificate.issuer),
        "Usages": _usages(certificate),
        "ExpiryTime": _stamp(since if status == "NOT YET VALID" else until),
        "ResidualTime": int((until - now) / timedelta(microseconds=1)) * 1000,  # a Go duration: nanoseconds
        "Status": status,
    }


def _usages(certificate: x509.Certificate) -> list[str]:
    found = []
    try:
        if certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            found.append("CertSign")
    except x509.ExtensionNotFound:
        pass  # a leaf of this lab says nothing about it
    try:
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        found += ["ServerAuth"] if ExtendedKeyUsageOID.SERVER_AUTH in extended else []
        found += ["ClientAuth"] if ExtendedKeyUsageOID.CLIENT_AUTH in extended else []
    except x509.ExtensionNotFound:
        pass  # an authority
    return found or ["Unknown"]


def _common_name(name: x509.Name) -> str:
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _rotate(machine: Machine) -> Answer:
    """Keep the old ones in tls-<seconds> and remove them; the next start of the unit makes new ones."""
    role = "server" if machine.path(SERVER).exists() else "agent"
    if machine.systemd.unit(f"rke2-{role}.service").active in ("active", "activating"):
        # The real one does not look; its documentation asks for a stopped unit, and a script that forgets it is wrong.
        return Answer(1, err=f'level=fatal msg="rke2-{role} must be stopped before certificates are rotated"\n')
    backup = f"{SERVER if role == 'server' else AGENT}/tls-{int(time.time())}"
    if role == "server":
        shutil.copytree(machine.path(f"{SERVER}/tls"), machine.path(backup), dirs_exist_ok=True)
        machine.write(f"{SERVER}/tls/dynamic-cert-regenerate", "", 0o600)
    machine.path(backup).mkdir(parents=True, exist_ok=True)
    for leaf in leaves_of(machine):
        for ending in ("crt", "key"):
            path = machine.path(f"{leaf.path}.{ending}")
            if path.exists() and leaf in AGENT_LEAVES:
                shutil.copy2(path, machine.path(backup) / path.name)
            path.unlink(missing_ok=True)
    text = (
        f"Successfully backed up certificates to {backup}, please restart rke2 server or agent to rotate certificates"
    )
    return Answer(0, err=f'time="{_stamp(datetime.now(UTC))}" level=info msg="{text}"\n')


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
