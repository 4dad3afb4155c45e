"""What node and RKE2 tasks share: secrets opened for a script, changes sent in batches, and the one guard for etcd."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

from pydantic import SecretStr

from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.clients.ssh import NodeShell
from stackwright.domain.effects import FartherThanPlannedError, Reach, Running, pod_hash, reach_seen, widest
from stackwright.domain.errors import ApiError, ApiUnavailableError, Problem, StackError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.node_plan import NodeChange, SecretRef
from stackwright.domain.plan import Effect, Step
from stackwright.domain.quorum import Member, QuorumError, check_back, check_join, check_quorum, check_voters
from stackwright.domain.rke2 import Rke2Change, etcd_members
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.rke2_files import FileWant
from stackwright.domain.shell import Batch, Command, StepOutcome
from stackwright.domain.spec import Node

log = logging.getLogger(__name__)

Servers = tuple[ClusterFacts, Mapping[str, NodeFacts]]
Look = Callable[[], Servers]

# Only one node of a run may be taken down at a time. Runs are kept apart by the lease, workers by the fencing number.
_one_down = threading.RLock()  # one thread may guard a step within a guarded one (a restart within a drain)
# Site -> the server that a guarded step left and that was not seen back: nothing else is taken down before it is.
_not_back: dict[str, str] = {}
# The server on which this thread may now carry out steps that take it out of the quorum.
_permitted: ContextVar[str] = ContextVar("permitted", default="")
SETTLE_S = 60.0  # for what passes by itself after a server has joined: an election, a list that is not everywhere yet


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
    """Carry changes out as one script, under the lease's number. Raises FencedError, RemoteStepError.

    Raises QuorumError for a step that takes a server out of the quorum and is not done under `guarded`.
    """
    check_permitted(site, [change.step for change in changes])
    lease.check()
    commands = tuple(command_of(site, change) for change in changes)
    return shell.apply(Batch(commands, lease.number, f"lease-{lease.number}"))


def check_permitted(site: Site, steps: Sequence[Step]) -> None:
    """Raise QuorumError for a step on a server, with effect etcd member down or worse, that no guard has let in."""
    servers = {node.name for node in site.spec.servers}
    for step in steps:
        if step.effect >= Effect.ETCD_MEMBER_DOWN and step.target in servers and _permitted.get() != step.target:
            remedy = "This is a mistake in the flow: it must go through the quorum guard. Nothing was changed."
            problem = Problem(step.id, "it was not let in by the quorum guard", remedy, "guarded", step.effect.label)
            raise QuorumError("etcd is not asked whether it bears a step", [problem], where=step.target)


@contextmanager
def guarded(
    site: Site, node: Node, effect: Effect, look: Look, *, reach: Reach | None = None, gone: bool = False
) -> Iterator[None]:
    """Let a step of this effect be done on a server only while etcd bears it, and only on one node at a time.

    `look` reads the cluster and all servers: before the step, when no other node is down any more, and after it until
    the server is seen back as a healthy voter, or with `gone` as no member any more. `reach` is how far the step is
    predicted to reach, where that is known closer than by its effect. On an agent there is no quorum to guard: those
    that are taken down are so one by one, the others are not held up.
    Raises QuorumError with all reasons, GateTimeoutError for a server that does not come back, and
    FartherThanPlannedError when more of it was touched than predicted.
    """
    if not node.is_server:
        with _one_down if effect >= Effect.ETCD_MEMBER_DOWN else nullcontext():
            yield
        return
    with _one_down:
        before = _let_in(site, node, effect, look)
        _not_back[site.spec.site] = node.name
        with _permit(node):
            yield
        after = _wait_until_back(site, node, look, gone=gone)
        _not_back.pop(site.spec.site, None)
        if not gone:
            _check_reach(node, reach if reach is not None else widest(effect), before, after)


@contextmanager
def outside_cluster(node: Node, facts: NodeFacts) -> Iterator[None]:
    """Let any step be done on a host that is in no cluster: there is no quorum to ask. Raises QuorumError if it is."""
    if node.is_server and (facts.rke2_runs or facts.rke2.has_data or facts.rke2.etcd is not None):
        remedy = "This is a mistake in the flow: it must go through the quorum guard. Nothing was changed."
        problem = Problem(node.name, "it holds a member of etcd", remedy, "no RKE2 and no etcd data", "either")
        raise QuorumError("the host is not outside the cluster", [problem], where=node.name)
    with _permit(node):
        yield


@contextmanager
def replacing(node: Node, problems: Sequence[Problem]) -> Iterator[None]:
    """Let any step be done on a server whose cluster a restore replaces: it has no quorum left to ask, or its loss was
    asked for by name. `problems` is what the restore's own check found on this server a moment ago.

    Raises QuorumError with all of them.
    """
    if problems:
        raise QuorumError("the server's cluster may not be replaced", list(problems), where=node.name)
    with _one_down, _permit(node):
        yield


@contextmanager
def joining(site: Site, node: Node, look: Look) -> Iterator[None]:
    """Let a server join once every other one votes, is Ready and well: etcd takes one learner at a time.

    At the end it is a healthy voter under the leader that all follow. Raises GateTimeoutError when the others, or it,
    do not become so, QuorumError for faults that do not pass by themselves.
    """
    with _one_down:
        if site.secrets.read("cluster-access", site.spec.rke2.kubeconfig_block) is not None:
            _wait_for_voters(site, node)
            _wait_for_calm(site, node, look)
        yield
        _wait_until_back(site, node, look, gone=False)


@contextmanager
def _permit(node: Node) -> Iterator[None]:
    token = _permitted.set(node.name)
    try:
        yield
    finally:
        _permitted.reset(token)


def _let_in(site: Site, node: Node, effect: Effect, look: Look) -> Running:
    """Return what runs on the server now. Raises QuorumError with every reason against the step."""
    cluster, facts = look()
    members = etcd_members(site.spec, cluster, facts)
    before = _running(site, node, facts)
    judged = effect
    if effect is Effect.SERVICE_RESTART and not before.pods_seen:
        log.warning("%s: its static pods cannot be seen: the restart is judged as taking its etcd down", node.name)
        judged = Effect.ETCD_MEMBER_DOWN
    problems = check_quorum(members, node.name, judged, allow_single=site.spec.rke2.allow_single_server)
    if judged >= Effect.ETCD_MEMBER_DOWN:
        problems += _still_away(site, node, members)
    if problems:
        raise QuorumError(f"etcd does not bear the step ({judged.label})", problems, where=node.name)
    return before


def _still_away(site: Site, node: Node, members: tuple[Member, ...]) -> list[Problem]:
    """Return the server that an earlier step of this process took down, if it is a member and still is not back."""
    name = _not_back.get(site.spec.site, "")
    if name == node.name or not any(member.name == name and not member.healthy for member in members):
        return []
    remedy = f"Bring {name} back first: look at rke2-server's journal there."
    return [Problem(name, "it was taken down by this run and is not back", remedy, "a healthy voter", "not healthy")]


def _wait_until_back(site: Site, node: Node, look: Look, *, gone: bool) -> Running:
    last = "it was not looked at"

    def back() -> Running | None:
        nonlocal last
        try:
            cluster, facts = look()
        except StackError as error:
            if not error.transient:
                raise
            last = str(error)
            return None
        problems = check_back(etcd_members(site.spec, cluster, facts), node.name, gone=gone)
        last = _say(problems)
        return None if problems else _running(site, node, facts)

    what = "the server gone from etcd" if gone else "the server back as a healthy voter under one leader"
    return wait_until(
        back, what, timeout_s=site.spec.rke2.join_timeout_s, poll_s=site.spec.rke2.poll_s, clock=site.clock,
        where=node.name, last=lambda: last,
    )  # fmt: skip


def _check_reach(node: Node, predicted: Reach, before: Running, after: Running) -> None:
    seen = reach_seen(before, after)
    if seen > predicted:
        log.warning(
            "%s: the step was to touch %s and has touched %s: no other server is touched before this is looked at",
            node.name, predicted.label, seen.label,
        )  # fmt: skip
        what = "a step touched more of the server than was predicted"
        raise FartherThanPlannedError(what, seen, where=node.name, wanted=predicted.label)


def _running(site: Site, node: Node, facts: Mapping[str, NodeFacts]) -> Running:
    """Return what tells the present processes of a server from later ones."""
    own = facts.get(node.name)
    etcd = own.rke2.etcd if own is not None else None
    hashes: list[str | None] = [None, None]
    try:
        kube = site.kube()
        names = (f"etcd-{node.name}", f"kube-apiserver-{node.name}")
        hashes = [pod_hash(kube.get("v1", "Pod", name, "kube-system")) for name in names]
    except ApiError as error:
        log.debug("%s: its static pods cannot be read: %s", node.name, error)
    boot = own.boot_id if own is not None else ""
    return Running(hashes[0], hashes[1], etcd.started if etcd is not None else "", boot)


def _wait_for_voters(site: Site, node: Node) -> None:
    """Wait until every other server votes and is Ready by its Node."""
    last = ""

    def settled() -> bool | None:
        nonlocal last
        try:
            nodes = {status.name: status for status in site.kube().nodes()}
        except ApiUnavailableError as error:
            last = str(error)
            return None
        members = etcd_members(site.spec, ClusterFacts(True, nodes))
        problems = check_voters(member for member in members if member.name != node.name)
        last = _say(problems)
        return None if problems else True

    wait_until(
        settled, "every other server voting and Ready", timeout_s=site.spec.rke2.join_timeout_s,
        poll_s=site.spec.rke2.poll_s, clock=site.clock, where=node.name, last=lambda: last,
    )  # fmt: skip


def _wait_for_calm(site: Site, node: Node, look: Look) -> None:
    """Look at etcd on all servers until nothing is against another member. Raises QuorumError with what stays."""
    deadline = site.clock.now() + min(SETTLE_S, site.spec.rke2.join_timeout_s)
    while True:
        cluster, facts = look()
        problems = check_join(etcd_members(site.spec, cluster, facts), node.name, address=node.address)
        if not problems:
            return
        if site.clock.now() >= deadline:
            raise QuorumError("etcd does not bear another server", problems, where=node.name)
        site.clock.wait(site.spec.rke2.poll_s)


def _say(problems: Sequence[Problem]) -> str:
    return "; ".join(f"{problem.where}: {problem.what}" for problem in problems)
