"""Runs of requests for tenants on a site of fakes, in a process of their own.

`python -m tests.flows.request_runs FOLDER` writes told.json: for each case how its runs ended, the events that they
sent, and the secrets that they told.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from flows import onboard_tenant as flow_module
from stackwright.domain import releases
from stackwright.domain.errors import ApiUnavailableError, ConflictError
from stackwright.domain.evidence import Evidence
from tasks import tenant_request as module
from tasks import tenant_saga
from tasks.tenants import system_client
from tests.tasks.saga_site import SagaSite, request, wanted

DOWN = ApiUnavailableError("no answer", status=503)


class Case:
    """One site, its runs, and what they told."""

    def __init__(self, folder: Path) -> None:
        self.place = SagaSite(folder)
        self.states: list[dict[str, str]] = []
        self.events: list[dict[str, Any]] = []
        self.held: list[str] = []
        self.runs: list[str] = []
        module.emit_event = lambda event, **more: self.events.append({"event": event, **more})
        module.carry_out = self._carry_out

    def _carry_out(self, *args, **more):
        return tenant_saga.carry_out(*args, hands=self.place.hands, **more)

    def run(self, asked) -> None:
        """Carry out a request in a run, as flow `tenant-request` does once it holds the lease."""

        @flow(name="test-tenant-request")
        async def carry_out():
            outcome = await module.carry_out_request(self.place.site, asked, self.place.lease)
            return await module.publish_outcome(self.place.site, outcome)

        self._note(carry_out)

    def preview(self, asked) -> None:
        @flow(name="test-preview")
        async def show():
            return await module.publish_preview(self.place.site, asked, adopt=False)

        self._note(show)

    def onboard(self, tenant: str, **parameters: Any) -> None:
        """Run the flow `onboard-tenant` itself; only its site and the site's lease are of fakes."""

        @asynccontextmanager
        async def hold(site, *, tenant):
            self.held.append(tenant)
            yield self.place.lease

        flow_module.load_site = lambda name: (self.place.site.spec, self.place.site)
        flow_module.hold_tenant_lease = hold
        self._note(partial(flow_module.onboard_tenant, "lab", tenant, **parameters))

    def _note(self, work) -> None:
        state = asyncio.run(work(return_state=True))
        self.runs.append(str(state.state_details.flow_run_id))
        self.states.append({"type": state.type.value, "name": state.name, "message": state.message})

    def told(self) -> dict[str, Any]:
        blocks = self.place.secrets.blocks.values()
        secrets = {value for fields in blocks for value in fields.values() if "planted" in value}
        text = f"{self.states}{self.events}"
        journals = [*self.place.kube.journal, *self.place.server.journal]
        found = {
            "states": self.states,
            "runs": self.runs,
            "held": self.held,
            "events": self.events,
            "changes": journals,
            "made": len(secrets),
        }
        return {**found, "secrets": [secret for secret in secrets if secret in text], "planted": sorted(secrets)}


def carried_out(case: Case) -> None:
    case.run(request())


def refused(case: Case) -> None:
    case.run(request(name="Gr.*", wanted=wanted("Gr.*")))


def undone(case: Case) -> None:
    case.place.helm.fail = {"clearml-app-gateway": [ConflictError("it is taken", status=409)]}
    case.run(request(name="grey"))


def short_outage(case: Case) -> None:
    case.place.helm.fail = {"clearml-enterprise-agent": [DOWN]}
    case.run(request(name="lime"))


def long_outage(case: Case) -> None:
    case.place.helm.fail = {"clearml-enterprise-agent": [DOWN] * 3}
    case.run(request(name="pink"))
    case.run(request(name="pink"))


def record_unread(case: Case) -> None:
    read = tenant_saga.read_record

    def down(*_):
        raise DOWN

    tenant_saga.read_record = down
    try:
        case.run(request(name="cyan"))
    finally:
        tenant_saga.read_record = read


def previews(case: Case) -> None:
    case.preview(request(name="teal"))
    case.preview(request(name="teal", wanted=wanted("teal", admin_email="nobody")))


def held(case: Case) -> None:
    case.place.proofs = [Evidence("tenant/x/isolation-network", "Reached", "fail", "silence", "open", "5.8.2", "now")]
    case.run(request(name="pale"))


def operator(case: Case) -> None:
    """Look, ask, ask again with nothing said, take over what is there, and name what nobody knows."""
    case.onboard("mint", wanted=wanted("mint"), dry_run=True)
    case.onboard("mint", wanted=wanted("mint"))
    case.onboard("mint")
    system_client(case.place.site).create_company("sand")
    case.onboard("sand", wanted=wanted("sand"))
    case.onboard("sand", wanted=wanted("sand"), adopt=True)
    case.onboard("nobody")


CASES: tuple[Callable[[Case], None], ...] = (
    carried_out, refused, undone, short_outage, long_outage, record_unread, previews, held, operator,
)  # fmt: skip


def main(folder: Path) -> None:
    """Run every case."""
    releases.SECRET_DIGEST_ROUNDS = 1
    module.carry_out_task.retry_delay_seconds = [0.0, 0.0]
    told = {}
    for play in CASES:
        place = folder / play.__name__
        place.mkdir()
        case = Case(place)
        play(case)
        told[play.__name__] = case.told()
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
