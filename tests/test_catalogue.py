"""prefect.yaml names every flow, each entrypoint loads, and its form is typed and described."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from blocks.site import site_names
from stackwright.reports.model import FLOW_TEXTS
from stackwright.runs import HOME, catalogue
from tasks.form_schema import LIMITS, in_words

ENTRIES = catalogue()


@pytest.mark.parametrize("name", ENTRIES)
def test_the_entrypoint_loads_and_its_form_is_described(name: str) -> None:
    """Each deployment's flow can be loaded and every parameter has a type, a description and no secret."""
    flow = load_flow_from_entrypoint(str(HOME / ENTRIES[name]["entrypoint"]), use_placeholder_flow=False)
    assert flow.name == name
    assert ENTRIES[name]["description"]
    properties = parameter_schema(flow).properties
    assert properties, "a flow without parameters cannot be told for which site it runs"
    for parameter, form in properties.items():
        assert form.get("description"), f"{name}.{parameter} has no help"
        assert {"type", "anyOf", "allOf", "$ref"} & form.keys(), f"{name}.{parameter} has no type"


@pytest.mark.parametrize("name", ENTRIES)
def test_the_form_is_for_people(name: str) -> None:
    """Titles instead of variables' names, one plain field instead of tabs, sites to choose, exceptions last."""
    flow = load_flow_from_entrypoint(str(HOME / ENTRIES[name]["entrypoint"]), use_placeholder_flow=False)
    properties = parameter_schema(flow).properties
    assert properties["site"]["enum"] == site_names()
    titles = [form["title"] for form in properties.values()]
    assert not [title for title in titles if "_" in title or title[0].islower()]
    kinds = ["Approval:", "Exception:"]
    order = [next((place for place, kind in enumerate(kinds, 1) if title.startswith(kind)), 0) for title in titles]
    assert order == sorted(order)
    assert {parameter for parameter, form in properties.items() if "anyOf" in form} <= {"wanted"}


def fields_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return every field of a form that a person fills in, also those within others."""
    flow = load_flow_from_entrypoint(str(HOME / ENTRIES[name]["entrypoint"]), use_placeholder_flow=False)
    schema = parameter_schema(flow).model_dump()
    for model in (schema, *(schema.get("definitions") or {}).values()):
        for place, field in model.get("properties", {}).items():
            yield f"{model['title']}.{place}", field


@pytest.mark.parametrize("name", ENTRIES)
def test_fields_within_fields_are_for_people_too(name: str) -> None:
    """Each has help and a title in words; its limits stand where the UI hands them back."""
    for place, field in fields_of(name):
        assert field.get("description"), f"{place} has no help"
        assert field["title"] != place.split(".")[1].replace("_", " ").title() or "_" not in place, place
        assert field.get("enum") or not set(LIMITS) & field.keys(), f"{place} would be refused after the form is sent"
        assert all("title" in one or "$ref" in one for one in field.get("anyOf", ())), f"a tab of {place} has no name"


def test_titles_are_words() -> None:
    """Units and abbreviations as people write them."""
    names = ("memory_gib", "admin_name", "max_pods", "WantedTenant", "client_id", "mig")
    words = ["Memory (GiB)", "Admin name", "Max pods", "Wanted tenant", "Client ID", "MIG"]
    assert [in_words(name) for name in names] == words


def test_every_deployment_says_what_it_does_in_one_tag() -> None:
    """Runs of one action are found by it: of all rotations, of one site's upgrades."""
    for name, entry in ENTRIES.items():
        assert len([tag for tag in entry["tags"] if tag.startswith("action:")]) == 1, name


def test_every_flow_tags_and_explains_its_run() -> None:
    """A flow without `explained` would end with a traceback and could not be found by its site."""
    for path in (HOME / "flows").glob("*.py"):
        assert path.name == "__init__.py" or re.search(
            r"\n@explained(_request)?\nasync def ", path.read_text("utf-8")
        ), path


def test_every_flow_file_is_in_the_catalogue() -> None:
    """A flow that is not in prefect.yaml cannot be started by an operator."""
    named = {Path(entry["entrypoint"].split(":")[0]).name for entry in ENTRIES.values()}
    assert {path.name for path in (HOME / "flows").glob("*.py") if path.name != "__init__.py"} == named


def test_parameters_in_the_catalogue_hold_no_template_of_a_secret() -> None:
    """`{{ prefect.blocks... }}` in parameters is resolved at deploy time and stored in clear: it must not be used."""
    assert "prefect.blocks" not in (HOME / "prefect.yaml").read_text(encoding="utf-8")


def test_verdicts_are_worded_for_flows_that_exist() -> None:
    """A flow that was renamed would say of its own verdict that the platform works."""
    assert set(FLOW_TEXTS) <= set(ENTRIES)
