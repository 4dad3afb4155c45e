"""What the preflight has seen: each host's answers, and the controller's own look. Reading it is in tasks/preflight.py.

What was not read raises FactUnknownError where a check asks for it: unknown is not absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from stackwright.domain.node_facts import FactUnknownError, NodeFacts
from stackwright.domain.shell import Section
from stackwright.domain.spec import Node, StackSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """One host. `facts` is what every plan reads, `sections` the preflight's own answers; `lost` says what was not.

    A host that could not be reached has neither.
    """

    node: Node
    facts: NodeFacts | None = None
    sections: Mapping[str, Section] = field(default_factory=dict)
    lost: str = ""

    def known(self) -> NodeFacts:
        """Return the facts of every plan."""
        if self.facts is None:
            raise FactUnknownError("the host's facts could not be read", where=self.node.name, seen=self.lost)
        return self.facts

    def text(self, name: str, ok: tuple[int, ...] = (0,)) -> str:
        """Return one answer of the preflight's script."""
        section = self.sections.get(name)
        if section is None:
            seen = self.lost or f"`{name}` was not answered"
            raise FactUnknownError(f"`{name}` was not answered", where=self.node.name, seen=seen)
        if section.rc not in ok:
            missing = section.rc in (126, 127)
            seen = f"`{name}`: the command is not there" if missing else f"`{name}` ended with {section.rc}"
            raise FactUnknownError(f"`{name}` could not be read", where=self.node.name, seen=seen)
        return section.out

    def rows(self, name: str, ok: tuple[int, ...] = (0,)) -> list[list[str]]:
        """Return an answer's lines as words."""
        return [line.split() for line in self.text(name, ok).splitlines() if line.strip()]

    def number(self, name: str) -> float:
        """Return an answer that is one number."""
        text = self.text(name).strip()
        try:
            return float(text)
        except ValueError:
            raise FactUnknownError(f"`{name}` is no number", where=self.node.name, seen=f"`{text[:40]}`") from None


@dataclass(frozen=True)
class NameSeen:
    """How the controller resolved a name: addresses, or why it could not. Static names are those of dns.hosts."""

    addresses: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class PullSeen:
    """How a registry answered for one image or chart. `status` is HTTP's, 0 for none; `error` says what was wrong."""

    status: int = 0
    digest: str = ""
    blob: str = ""
    error: str = ""


@dataclass(frozen=True)
class BlockSeen:
    """A secret's block: its fields' lengths and flaws, never their text."""

    exists: bool
    empty: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairSeen:
    """A certificate with its key. `error` says why it could not be read; `now_s` is the controller's clock."""

    subject: str = ""
    names: tuple[str, ...] = ()
    is_ca: bool = False
    not_before_s: float = 0.0
    not_after_s: float = 0.0
    key_fits: bool = False
    chain_ok: bool = False
    error: str = ""

    def known(self) -> PairSeen:
        if self.error:
            raise FactUnknownError("the certificate could not be read", seen=self.error)
        return self


@dataclass(frozen=True)
class ClusterSeen:
    """What a running cluster says. `error` is why it did not answer; None stands for no cluster yet."""

    default_classes: tuple[str, ...] = ()
    ingress_classes: tuple[str, ...] = ()
    not_ready: tuple[str, ...] = ()
    nodes: int = 0
    pressures: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    error: str = ""

    def known(self) -> ClusterSeen:
        if self.error:
            raise FactUnknownError("the cluster could not be read", seen=self.error)
        return self


@dataclass(frozen=True)
class Controller:
    """The controller's own look. A part that was not looked at is missing, and unknown to the checks."""

    now_s: float = 0.0
    names: Mapping[str, NameSeen] = field(default_factory=dict)
    pulls: Mapping[str, PullSeen] = field(default_factory=dict)
    blocks: Mapping[str, BlockSeen] = field(default_factory=dict)
    pairs: Mapping[str, PairSeen] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    stores: Mapping[str, str] = field(default_factory=dict)
    cluster: ClusterSeen | None = None


@dataclass(frozen=True)
class Case:
    """Everything that the checks look at."""

    spec: StackSpec
    hosts: Mapping[str, Host]
    controller: Controller = field(default_factory=Controller)

    def host(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def facts(self) -> dict[str, NodeFacts]:
        """The facts of the hosts that could be read."""
        return {name: host.facts for name, host in self.hosts.items() if host.facts is not None}

    def all_hosts(self) -> Sequence[Host]:
        return tuple(self.hosts.values())

    def read_hosts(self) -> Sequence[Host]:
        """Return the hosts whose facts could be read. Raises FactUnknownError when there are none."""
        found = tuple(host for host in self.hosts.values() if host.facts is not None)
        if not found:
            raise FactUnknownError("no host could be read", seen="no host could be read")
        return found

    def pull(self, key: str) -> PullSeen:
        return _of(self.controller.pulls, key)

    def block(self, key: str) -> BlockSeen:
        return _of(self.controller.blocks, key)

    def pair(self, key: str) -> PairSeen:
        return _of(self.controller.pairs, key)

    def name(self, key: str) -> NameSeen:
        return _of(self.controller.names, key)


def _of(found: Mapping[str, T], key: str) -> T:
    if key not in found:
        raise FactUnknownError("not looked at", seen=f"{key} was not looked at")
    return found[key]
