"""What lines of RKE2's journal mean: the cause, what to do, and whether waiting can help. Source: k3s, rke2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A known line. `fatal`: no waiting mends it."""

    text: str
    cause: str
    remedy: str
    fatal: bool


# The more telling line comes first.
CAUSES = (
    Cause(
        "bootstrap data already found and encrypted with different token",
        "the token is not the cluster's, or data of an older try lies here",
        "Compare the token block with the cluster's token; data is never wiped for you.",
        fatal=True,
    ),
    Cause(
        "token CA hash does not match the Cluster CA certificate hash",
        "the token belongs to another cluster, or the registration address leads to one",
        "Compare /cacerts of every server behind the address.",
        fatal=True,
    ),
    Cause(
        "duplicate node name found",
        "another node has this name",
        "Give each node its own name.",
        fatal=True,
    ),
    Cause(
        "Node password rejected",
        "the cluster remembers another host under this name",
        "Delete the Node and its Secret <node>.node-password.rke2 (kube-system), "
        "or restore /etc/rancher/node/password.",
        fatal=True,
    ),
    Cause(
        "critical configuration value mismatch",
        "settings that must be equal on all servers differ",
        "Compare /etc/rancher/rke2/config.yaml on the servers.",
        fatal=True,
    ),
    Cause(
        "invalid value provided for --profile flag",
        "the CIS profile's name is wrong",
        "Use `cis`.",
        fatal=True,
    ),
    Cause(
        "missing required: user",
        "the hardening profile needs user and group etcd",
        "Run the node's preparation.",
        fatal=True,
    ),
    Cause(
        "missing required: group",
        "the hardening profile needs user and group etcd",
        "Run the node's preparation.",
        fatal=True,
    ),
    Cause(
        "invalid kernel parameter value",
        "the hardening profile's kernel settings do not hold",
        "Run the node's preparation; look which file in /etc/sysctl.d overrides them.",
        fatal=True,
    ),
    Cause(
        "this server is a not a member of the etcd cluster",
        "the server was removed from the cluster, its data was not",
        "Remove server/db on this node by hand, after a look at it, then start again.",
        fatal=True,
    ),
    Cause(
        "is running!",
        "the other role's service runs on this host",
        "Correct the roles, or uninstall the other.",
        fatal=True,
    ),
    Cause(
        "x509: certificate has expired or is not yet valid",
        "clocks differ, or certificates are old",
        "Compare the clocks; run `rke2 certificate check`.",
        fatal=False,
    ),
    Cause(
        "x509: certificate is valid for",
        "the certificate lacks the address",
        "Add it to rke2.tls_san.",
        fatal=False,
    ),
    Cause(
        "too many learner members in cluster",
        "another server is joining",
        "It passes when that one votes.",
        fatal=False,
    ),
    Cause(
        "has not yet been promoted from learner to voting member",
        "the member still copies data",
        "Wait; a slow disk or network can be the cause.",
        fatal=False,
    ),
    Cause(
        "failed to get CA certs",
        "the registration address does not lead to a running server",
        "Check the load balancer: TCP 9345 and 6443 to every server.",
        fatal=False,
    ),
    Cause(
        "failed to pull images",
        "an image cannot be had",
        "Check registry, mirror and image archives.",
        fatal=False,
    ),
    Cause(
        "failed to get runtime image",
        "an image cannot be had",
        "Check registry, mirror and image archives.",
        fatal=False,
    ),
    Cause(
        "no space left on device",
        "the disk is full",
        "Make room, then start again.",
        fatal=False,
    ),
)


def recognise(lines: Iterable[str]) -> Cause | None:
    """Return the known cause of the latest line that has one."""
    for line in reversed(list(lines)):
        for cause in CAUSES:
            if cause.text in line:
                return cause
    return None
