"""What node and RKE2 tasks share: secrets opened for a script, changes sent in batches, and the one guard for etcd."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pydantic import SecretStr

from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.ssh import NodeShell
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.node_plan import NodeChange, SecretRef
from stackwright.domain.plan import Effect
from stackwright.domain.quorum import QuorumError, check_quorum
from stackwright.domain.rke2 import Rke2Change, etcd_members
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.rke2_files import FileWant
from stackwright.domain.shell import Batch, Command, StepOutcome
from stackwright.domain.spec import Node

Servers = tuple[ClusterFacts, Mapping[str, NodeFacts]]

# Only one node of a run may be taken down at a time. Runs are kept apart by the lease, workers by the fencing number.
_one_down = threading.Lock()


def open_secret(site: Site, ref: SecretRef) -> SecretStr:
    """Return a secret's value. `short` is the secret part of a cluster token in its full form."""
    fields = need(site.secrets, ref.kind, ref.block)
    if ref.key == "short":
        return SecretStr(fields["value"].get_secret_value().rpartition(":")[2])
    return fields[ref.key]


def render(site: Site, want: FileWant) -> str:
    """Return a file's text with its secrets in it: for the wire, and for nothing else."""
    return want.render(lambda ref: open_secret(site, ref).get_secret_value())


def command_of(site: Site, change: NodeChange | Rke2Change) -> Command:
    """Return a change as the command that carries it out, with its secrets opened."""
    if isinstance(change, NodeChange):
        secrets = {name: open_secret(site, ref) for name, ref in change.secrets.items()}
    else:
        secrets = {
            name: SecretStr(base64.b64encode(render(site, want).encode()).decode())
            for name, want in change.files.items()
        }
    step = change.step
    return Command(step.id, step.fingerprint[:16], change.script, secrets, change.timeout_s)


def send(
    site: Site, shell: NodeShell, lease: LeaseHandle, changes: Sequence[NodeChange | Rke2Change]
) -> list[StepOutcome]:
    """Carry changes out as one script, under the lease's number. Raises FencedError, RemoteStepError."""
    lease.check()
    commands = tuple(command_of(site, change) for change in changes)
    return shell.apply(Batch(commands, lease.number, f"lease-{lease.number}"))


@contextmanager
def guarded(site: Site, node: Node, effect: Effect, look: Callable[[], Servers]) -> Iterator[None]:
    """Let a step of this effect be done on a server only while etcd bears it, and only on one node at a time.

    `look` reads the cluster and all servers; it is called when no other node is down any more.
    Raises QuorumError with all reasons.
    """
    with _one_down:
        if node.is_server:
            cluster, facts = look()
            members = etcd_members(site.spec, cluster, facts)
            problems = check_quorum(members, node.name, effect, allow_single=site.spec.rke2.allow_single_server)
            if problems:
                raise QuorumError(f"etcd does not bear the step ({effect.label})", problems, where=node.name)
        yield
