"""What an operator's run asks for when it names a tenant that is not in the site file."""

from __future__ import annotations

import pytest

from stackwright.domain.errors import ApiUnavailableError, PlanRefusedError
from stackwright.domain.tenant_request import WantedTenant
from tasks.tenant_request import artifact_key, operator_request
from tests.tasks.saga_site import SagaSite, request, wanted


def test_an_operator_goes_on_with_what_was_asked_for(tmp_path):
    """Without `wanted` the record says it: an unfinished request as it was sent, else what the tenant shall be."""
    place = SagaSite(tmp_path)
    with pytest.raises(PlanRefusedError, match="neither the site file nor a record"):
        operator_request(place.site, "green", None)
    place.helm.fail = {"clearml-enterprise-agent": [ApiUnavailableError("no answer", status=503)]}
    place.ask(request())
    assert operator_request(place.site, "green", None) == request()
    place.ask(request())
    asked = operator_request(place.site, "green", None)
    assert asked.id != request().id and asked.wanted == wanted()
    assert place.ask(asked).good
    given = WantedTenant(name="lime", admin_email="a@lime.example")
    assert operator_request(place.site, "lime", given).wanted == given


def test_a_name_that_cannot_be_a_key_gets_a_common_one():
    """Prefect refuses other signs in an artifact's key."""
    assert artifact_key(request()) == "tenant-green"
    assert artifact_key(request(name="Gr.*", wanted=wanted("Gr.*"))) == "tenant-refused"
