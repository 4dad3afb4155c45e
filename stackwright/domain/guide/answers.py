"""What can answer a requirement of the guide. Each names something in the code that a test looks up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step of the plan carries it out: `<area>/*/<what>`, such as node/*/swap."""

    kind: str


@dataclass(frozen=True)
class Preflight:
    """The preflight finds it before anything is changed; the name is that of a check, without `preflight/`."""

    name: str


@dataclass(frozen=True)
class Layer:
    """A layer carries it out. `value` is a dotted key of its rendered values, `gate` the id of one of its gates."""

    name: str
    value: str = ""
    gate: str = ""


@dataclass(frozen=True)
class Tenant:
    """A step of a tenant's plan carries it out. `value` is a dotted key of the values of its release."""

    step: str
    value: str = ""


@dataclass(frozen=True)
class Check:
    """A check of the validation's catalogue proves it."""

    id: str


@dataclass(frozen=True)
class Rule:
    """A site file that breaks it is refused; the name is that of the rule's row in tests/domain/test_spec_checks.py."""

    name: str


@dataclass(frozen=True)
class Field:
    """The operator says it in the site file."""

    path: str


@dataclass(frozen=True)
class Corrected:
    """The guide's print is wrong here; the erratum says what is done."""

    erratum: str


@dataclass(frozen=True)
class Limit:
    """Not automated, with the reason. `doc` is the file that tells the operator what to do, if there is one."""

    why: str
    doc: str = ""


Answer = Step | Preflight | Layer | Tenant | Check | Rule | Field | Corrected | Limit


@dataclass(frozen=True)
class Requirement:
    """One thing that the guide asks for: `section` and `place` say where, `text` what, in our own words."""

    id: str
    section: str
    place: str
    text: str
    answers: tuple[Answer, ...]


def rows(section: str, *entries: tuple[str, str, str, tuple[Answer, ...]]) -> tuple[Requirement, ...]:
    """Make the requirements of one section from (id, place, text, answers)."""
    return tuple(Requirement(name, section, place, text, answers) for name, place, text, answers in entries)
