"""The parameters that flows share, with their titles and limits: the run form in the Prefect UI is made from them.

Their help is in each flow's docstring (`Args:`): Prefect takes descriptions from nowhere else. Titles go in as an
extra of the schema: Prefect overwrites a field's own. A title that begins with `Approval:` or `Exception:` says to
which part of the form it belongs; the flows have them in this order, below what every run is asked. What the UI needs
beyond that is in form_schema.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from stackwright.domain.security_life import Action
from stackwright.domain.tenant_request import TenantRequest, WantedTenant
from tasks.form_schema import AtField, InWords, OfferSites, OneField


def titled(title: str, *, empty: str | list[str] | None = None, **limits: Any) -> Any:
    """Return a field with a title for people, what the form shows where the default is None, and its limits."""
    shown: dict[str, Any] = {"title": title} | ({} if empty is None else {"default": empty})
    return Field(**limits, json_schema_extra=shown)


def _none_if_empty(given: Any) -> Any:
    return given or None


MayBeEmpty = (BeforeValidator(_none_if_empty), OneField(), AtField())
"""What the form leaves empty is None in the flow."""

_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_BUNDLE = r"^([0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})?$"

SiteName = Annotated[str, titled("Site", pattern=rf"^{_NAME}$", examples=["berlin"]), OfferSites()]
TenantName = Annotated[
    str, titled("Tenant", pattern=r"^[a-z0-9]([a-z0-9-]{0,53}[a-z0-9])?$", examples=["team-red"]), AtField()
]
DryRun = Annotated[bool, titled("Only show the plan, change nothing")]
Light = Annotated[bool, titled("Only look, without training work")]
Request = Annotated[TenantRequest, titled("Request"), InWords()]
Wanted = Annotated[WantedTenant | None, titled("What a new tenant shall be"), InWords()]
BundleName = Annotated[str, titled("Bundle", pattern=_BUNDLE, examples=["20270115T080000Z-0a1b2c3d"]), AtField()]
Days = Annotated[int, titled("Rotate what ends within so many days", ge=1, le=300), AtField()]
Age = Annotated[int, titled("Leave alone what is younger than so many days", ge=0, le=3650), AtField()]
Fresh = Annotated[int, titled("No new bundle within so many seconds", ge=0, le=604800), AtField()]
Patience = Annotated[int, titled("Wait for another run so many seconds", ge=0, le=604800), AtField()]

PlanHash = Annotated[
    str | None,
    titled("Approval: hash of the plan", empty="", pattern=r"^([0-9a-f]{12})?$", examples=["0123456789ab"]),
    *MayBeEmpty,
]
Unattended = Annotated[bool, titled("Approval: nobody can answer a form")]

ReplaceHealthy = Annotated[str, titled("Exception: replace a cluster that works", pattern=rf"^({_NAME})?$"), AtField()]
Lifted = Annotated[
    list[Annotated[str, Field(pattern=r"^(pdb|pod):[a-z0-9-]+/[a-z0-9.-]+$")]] | None,
    titled("Exception: vetoes that are lifted", empty=[], examples=[["pdb:shop/db"]]),
    *MayBeEmpty,
]
Override = Annotated[
    str | None,
    titled(
        "Exception: upgrade without a rehearsal",
        empty="",
        pattern=r"^([^:\n]{2,80}: [^\n]{3,400})?$",
        examples=["J. Doe: CVE-2026-1, no spare host"],
    ),
    *MayBeEmpty,
]
Namespaces = Annotated[
    list[Annotated[str, Field(pattern=rf"^{_NAME}$")]] | None,
    titled("Namespaces", empty=[], examples=[["team-red"]]),
    *MayBeEmpty,
]
Accepted = Annotated[
    list[Annotated[str, Field(min_length=3, max_length=300)]] | None,
    titled("Exception: traffic that may be blocked", empty=[], examples=[["web.team-red>db.team-red:5432"]]),
    *MayBeEmpty,
]
SecurityAction = Annotated[Action, titled("What to do")]
AdmissionToo = Annotated[bool, titled("Admission control instead of a namespace")]
Drift = Annotated[bool, titled("Fail when there is anything to change")]
Adopt = Annotated[bool, titled("Exception: take over what is there")]
