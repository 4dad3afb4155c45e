"""Rules of what is asked for from outside: the values between the bad ones, which are a table in tests/webhooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackwright.domain.sitefile import parse_site
from stackwright.domain.spec import Identity, Policy, Queue, Quota, Tenant
from stackwright.domain.tenant_request import TenantChanges, WantedTenant
from stackwright.domain.tenant_request_checks import check_others, check_request, check_texts, over_quota, with_changes

LAB = Path(__file__).parent.parent.parent / "deployments" / "sites" / "lab.yaml"
SPEC = parse_site(LAB.read_text(encoding="utf-8"), "lab.yaml")
GREEN = WantedTenant(name="green", admin_email="ops+ml@green.example", admin_name="Zoë Müller")


def test_a_good_tenant_has_no_problem() -> None:
    whole = GREEN.model_copy(
        update={
            "identity": Identity(domains=("green.example",), emails=("a.b@x.example",)),
            "quota": Quota(gpus=1),
            "queues": (Queue(name="gpu", gpus=1, max_pods=1),),
            "policy": Policy(reservation=0, limit=1, pools=("shared gpus",)),
            "workspace_gib": 200,
        }
    )
    assert check_texts(whole, "tenant") == []
    assert check_request(SPEC, whole.to_tenant(), "tenant") == []
    assert check_others(SPEC, (), whole.to_tenant(), "tenant") == []


def test_every_problem_is_told_at_once_with_its_place() -> None:
    bad = Tenant(
        name=".*",
        admin_email="nobody",
        quota=Quota(gpus=64, pods=4),
        queues=(Queue(name="q", gpus=3),),
        workspace_gib=999,
    )
    found = {problem.where for problem in check_request(SPEC, bad, "tenant")}
    assert found >= {
        "tenant.name", "tenant.admin_email", "tenant.quota.gpus", "tenant.quota.pods", "tenant.queues[0].name",
        "tenant.queues[0].gpus", "tenant.workspace_gib",
    }  # fmt: skip


def test_clashes_name_this_tenant_and_not_the_other() -> None:
    """A caller learns which of its own fields clashes; whose tenant it clashes with is not told by number or name."""
    taken = GREEN.model_copy(update={"admin_email": "Admin@Red.example", "name": "blue"}).to_tenant()
    problems = check_others(SPEC, (), taken, "tenant")
    assert [problem.where for problem in problems] == ["tenant.name", "tenant.admin_email"]
    assert not any("tenants[" in str(problem) for problem in problems)


def test_tenants_that_were_asked_for_count_like_those_of_the_site_file() -> None:
    other = Tenant(name="amber", admin_email="ops@amber.example", quota=Quota(gpus=1))
    wanted = GREEN.model_copy(update={"quota": Quota(gpus=1)}).to_tenant()
    assert check_others(SPEC, (), wanted, "tenant") == []
    (problem,) = check_others(SPEC, (other,), wanted, "tenant")
    assert (problem.where, problem.seen) == ("tenant.quota.gpus", "5")


@pytest.mark.parametrize(
    "text", ["\x00", "a\u202eb", "a\u200bb", "e\u0301", "\ue000", "a\u2028b", "${x", "{{ x", "{% x", "$ref", "a" * 254]
)
def test_a_text_that_no_part_should_see(text: str) -> None:
    assert check_texts(WantedTenant(name="green", admin_email="a@b.example", admin_name=text), "tenant")


def test_a_secret_in_a_text_is_not_repeated() -> None:
    secret = "ghp_" + "a1B2" * 10
    (problem,) = check_texts(TenantChanges(admin_name=secret), "changes")
    assert problem.where == "changes.admin_name" and secret not in str(problem)


def test_each_figure_beyond_the_largest_is_told() -> None:
    found = over_quota(Quota(cpu=65, gpus=2), Quota(cpu=64, gpus=2), "tenant.quota")
    assert [(problem.where, problem.wanted, problem.seen) for problem in found] == [
        ("tenant.quota.cpu", "at most 64", "65")
    ]


def test_changes_replace_what_they_name() -> None:
    after = with_changes(GREEN, TenantChanges(queues=(Queue(name="gpu"),), workspace_gib=0))
    assert after.queues == (Queue(name="gpu"),) and after.workspace_gib == 0
    assert (after.name, after.quota, after.admin_name) == (GREEN.name, GREEN.quota, GREEN.admin_name)
