"""The sites that a form offers: the server holds runs to them, and the shell adds one whose site file is new here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema

from flows.upgrade_cluster import upgrade_cluster
from stackwright.forms import offer_site, refusals
from stackwright.lab.server import PrefectServer
from tests.flows.server import on_server

SITE = {"type": "string", "title": "Site", "enum": ["north"]}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"site": SITE}, "required": ["site"]}


def test_the_shell_says_of_a_refused_parameter_what_the_form_says():
    """Every field at once: its name and title, the help that stands above it, and what was given."""
    asked = {"site": "north", "plan_hash": "xyz", "without_rehearsal": "because", "lifted": ["all"]}
    form = SimpleNamespace(parameter_openapi_schema=parameter_schema(upgrade_cluster).model_dump())
    form.parameter_openapi_schema["properties"]["site"]["enum"] = ["south"]
    found = {problem.where: problem for problem in refusals(form, asked)}
    assert {where.split(" ")[0] for where in found} == {"site", "plan_hash", "without_rehearsal", "lifted.0"}
    hash_said = found["plan_hash (Approval: hash of the plan)"]
    assert "12 digits of 0-9 and a-f" in hash_said.wanted and hash_said.seen == "'xyz'"
    assert "stackwright sites" in found["site (Site)"].remedy
    assert not refusals(form, {"site": "south"})
    (nothing,) = refusals(form, {})
    assert "'site' is a required property" in nothing.what


@pytest.fixture
def offered(prefect_server: PrefectServer):
    """Return what makes a deployment that offers the site north, offers another one, and says what is offered then."""

    def offer(site: str) -> list[str]:
        async def work(client):
            flow = await client.create_flow_from_name("offers-sites")
            made = await client.create_deployment(flow, "offers-sites", parameter_openapi_schema=SCHEMA)
            await offer_site(client, await client.read_deployment(made), site)
            return (await client.read_deployment(made)).parameter_openapi_schema["properties"]["site"]["enum"]

        return on_server(work)

    return offer


def test_a_site_whose_file_is_here_is_added_and_none_taken_away(offered, monkeypatch, tmp_path):
    (tmp_path / "south.yaml").touch()
    monkeypatch.setenv("STACKWRIGHT_SITES", str(tmp_path))
    assert offered("south") == ["north", "south"]


def test_a_site_without_a_file_is_not_added_and_its_run_refused(offered, monkeypatch, tmp_path):
    """The server says which sites there are: HTTP 409 with the reason, no run."""
    monkeypatch.setenv("STACKWRIGHT_SITES", str(tmp_path))
    assert offered("south") == ["north"]

    async def start(client):
        deployment = await client.read_deployment_by_name("offers-sites/offers-sites")
        await client.create_flow_run_from_deployment(deployment.id, parameters={"site": "south"})

    with pytest.raises(PrefectHTTPStatusError) as refused:
        on_server(start)
    assert refused.value.response.status_code == 409
    assert "'south' is not one of ['north']" in refused.value.response.text
