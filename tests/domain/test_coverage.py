"""The guide's coverage: each requirement has an answer, each answer exists in the code, the document is fresh."""

from __future__ import annotations

import ast
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stackwright.domain.coverage import REQUIREMENTS
from stackwright.domain.errata import ERRATA
from stackwright.domain.guide.answers import (
    Answer,
    Check,
    Corrected,
    Field,
    Layer,
    Limit,
    Preflight,
    Requirement,
    Rule,
    Step,
    Tenant,
)
from stackwright.domain.layers import BY_NAME, releases_of
from stackwright.domain.preflight import BY_ID as LOOKS
from stackwright.domain.site_shape import fields
from stackwright.domain.tenant_objects import agent, gateway
from stackwright.domain.tenants import TenantFacts, decide_tenant
from stackwright.domain.validation import BY_ID
from stackwright.domain.values import dotted
from stackwright.reports.guide import coverage_markdown
from tests.domain.layers.sites import SITES
from tests.domain.test_spec_checks import RULES

ROOT = Path(__file__).parents[2]
SPEC = SITES["example-ha"]
SECTIONS = ("4.9", "5", "5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7.1", "5.7.2", "5.8", "5.9", "6")


def step_names(module: str, area: str) -> set[str]:
    """Return the kinds of steps that a planner makes: the first argument of its calls of `change` or `step`."""
    tree = ast.parse((ROOT / "stackwright/domain" / module).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    named = [node.args[0] for node in calls if getattr(node.func, "attr", "") in ("change", "step")]
    return {f"{area}/*/{item.value}" for item in named if isinstance(item, ast.Constant)}


STEPS = step_names("node_plan.py", "node") | step_names("rke2.py", "rke2")
TENANT_STEPS = {
    step.id.rsplit("/", 1)[1]
    for step in decide_tenant(SPEC, SPEC.tenants[0], TenantFacts(datetime(2026, 1, 1, tzinfo=UTC))).steps
}
RULE_NAMES = {row[0] for row in RULES}


def has_value(values: list[dict], path: str) -> bool:
    return any(key == path or key.startswith(f"{path}.") for tree in values for key, _ in dotted(tree))


def missing(answer: Answer) -> str:
    """Return what an answer names that does not exist; empty where it does."""
    match answer:
        case Step(kind):
            return "" if kind in STEPS else f"step {kind}"
        case Preflight(name):
            return "" if f"preflight/{name}" in LOOKS else f"look {name}"
        case Layer(name, value, gate):
            if name not in BY_NAME:
                return f"layer {name}"
            layer = BY_NAME[name]
            trees = [dict(r.values) for site in SITES.values() if layer.enabled(site) for r in releases_of(site, layer)]
            gates = [item.id for item in layer.gates(SPEC)]
            if value and not has_value(trees, value):
                return f"value {value} of {name}"
            return "" if not gate or any(item.startswith(gate) for item in gates) else f"gate {gate} of {name}"
        case Tenant(step, value):
            made = {"agent": agent, "gateway": gateway}
            if step not in TENANT_STEPS:
                return f"tenant step {step}"
            found = not value or has_value([dict(made[step](SPEC, SPEC.tenants[0]).values)], value)
            return "" if found else f"value {value} of the tenant's {step}"
        case Check(name):
            return "" if name in BY_ID else f"check {name}"
        case Rule(name):
            return "" if name in RULE_NAMES else f"rule {name}"
        case Field(path):
            return "" if path in fields() else f"field {path}"
        case Corrected(name):
            return "" if name in {erratum.id for erratum in ERRATA} else f"erratum {name}"
        case Limit(why, doc):
            return "" if why and (not doc or (ROOT / doc).is_file()) else f"document {doc}"


@pytest.mark.parametrize("entry", REQUIREMENTS, ids=lambda entry: entry.id)
def test_each_requirement_is_answered_by_what_exists(entry: Requirement):
    """At least one answer; each names a step, layer, check, rule, field or erratum of the code, or gives a reason."""
    assert entry.answers
    assert [text for text in map(missing, entry.answers) if text] == []


@pytest.mark.parametrize(
    "answer",
    [
        Step("node/*/nothing"),
        Preflight("nothing"),
        Layer("nothing"),
        Layer("clearml", value="no.such.key"),
        Layer("clearml", gate="no-gate"),
        Tenant("nothing"),
        Tenant("agent", value="no.such.key"),
        Check("no/check"),
        Rule("no rule"),
        Field("rke2.nothing"),
        Corrected("nothing"),
        Limit("", ""),
        Limit("because", "docs/no-such-file.md"),
    ],
)
def test_an_answer_that_names_nothing_is_found(answer):
    """The guard itself refuses each kind of answer that points nowhere."""
    assert missing(answer)


def test_every_section_is_covered_and_no_id_is_twice():
    """All of 4.9 and 5 to 6 has rows; ids, places and texts are there."""
    assert tuple(dict.fromkeys(entry.section for entry in REQUIREMENTS)) == SECTIONS
    assert max(Counter(entry.id for entry in REQUIREMENTS).values()) == 1
    assert all(entry.place and entry.text.endswith(".") for entry in REQUIREMENTS)
    assert len(REQUIREMENTS) >= 120


def test_a_field_alone_is_no_answer():
    """Where the operator only may say something, and nothing does or checks it, the reason is stated."""
    alone = [entry.id for entry in REQUIREMENTS if all(isinstance(answer, Field) for answer in entry.answers)]
    assert alone == []


def test_most_requirements_are_answered_in_code():
    """A limit alone is the exception: fewer than one in eight."""
    alone = [entry.id for entry in REQUIREMENTS if all(isinstance(answer, Limit) for answer in entry.answers)]
    assert len(alone) * 8 < len(REQUIREMENTS), alone


def test_every_step_layer_and_check_answers_something():
    """What the code does for no requirement of the guide would be here by mistake, or a requirement was forgotten."""
    answers = [answer for entry in REQUIREMENTS for answer in entry.answers]
    layers = {answer.name for answer in answers if isinstance(answer, Layer)}
    checks = {answer.id for answer in answers if isinstance(answer, Check)}
    tenants = {answer.step for answer in answers if isinstance(answer, Tenant)}
    steps = {answer.kind for answer in answers if isinstance(answer, Step)}
    # SUSE Private Registry is described in 4.7 and has no chapter under 5.
    assert BY_NAME.keys() - layers <= {"registry"}
    assert BY_ID.keys() - checks == set()
    assert TENANT_STEPS - tenants == set()
    # A reboot is how some steps take effect, never an end in itself.
    assert STEPS - steps <= {"node/*/reboot"}


def test_the_document_is_fresh():
    """docs/guide-coverage.md is what the rows say now; `python -m stackwright.reports.guide` writes it."""
    assert (ROOT / "docs/guide-coverage.md").read_text(encoding="utf-8") == coverage_markdown()
