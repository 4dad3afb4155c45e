"""Proof that a restart took effect: the arguments that RKE2 noted of itself, and the names in a server's certificate.

A service that is active has not proved that it read its new configuration. Pure; tasks/rke2.py looks and waits.
"""

from __future__ import annotations

import json
from itertools import pairwise

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.rke2_files import bracketed, config
from stackwright.domain.shell import quote, read_script, shell_section
from stackwright.domain.spec import Node, StackSpec

NODE_ARGS = "rke2.io/node-args"
"""Annotation with RKE2's arguments, those of its configuration files among them. Source: k3s pkg/nodeconfig."""
SERVER_CA = f"{DATA}/server/tls/server-ca.crt"
PORTS = (9345, 6443)  # supervisor and API server: each has a certificate of its own
CERTIFICATE_REFUSED = (51, 60)  # curl: the certificate does not have the name, or is not trusted


def unread_kubelet_args(spec: StackSpec, status: NodeStatus) -> str:
    """Say how the kubelet's arguments, as RKE2 noted them at its start, differ from the wanted ones; empty if not."""
    try:
        words = list(map(str, json.loads(status.annotations.get(NODE_ARGS) or "[]")))
    except ValueError:
        return f"annotation {NODE_ARGS} is not a list"
    seen = {value for flag, value in pairwise(words) if flag == "--kubelet-arg"}
    want = set(spec.rke2.kubelet_args)
    return "" if seen == want else f"kubelet-arg {', '.join(sorted(seen)) or '(none)'}"


def handshake_script(spec: StackSpec, node: Node) -> str:
    """Return the script that greets a server under each name of its certificate, at its own address."""
    address = bracketed(node.address)
    lines = []
    for name in config(spec, node)["tls-san"]:
        for port in PORTS:
            host = bracketed(name)
            lines.append(
                f"curl --silent --output /dev/null --max-time 10 --cacert {SERVER_CA}"
                f" --connect-to {quote(f'{host}:{port}:{address}:{port}')} {quote(f'https://{host}:{port}/ping')}\n"
                f"echo {quote(name)} {port} $?\n"
            )
    return read_script(shell_section("names", "".join(lines)))


def missing_names(text: str) -> str:
    """Say from the script's answer which names a certificate lacks, or which port did not answer; empty if all are."""
    rows = [line.rsplit(" ", 2) for line in text.splitlines()]
    bad = [(name, port, int(code)) for name, port, code in rows if code != "0"]
    return ", ".join(
        f"{name} is not in the certificate of port {port}" if code in CERTIFICATE_REFUSED
        else f"port {port} did not answer as {name} (curl: {code})"
        for name, port, code in bad
    )  # fmt: skip
