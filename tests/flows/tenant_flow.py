"""A flow with the name and the parameters of `tenant-request`, for tests of what starts it: it does nothing.

As a program it does a worker's part: `python -m tests.flows.tenant_flow RUN-ID` carries out a run that is there.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from stackwright.domain.tenant_request import TenantRequest
from tasks.parameters import SiteName


@flow(name="tenant-request")
async def tenant_request(site: SiteName, request: TenantRequest) -> str:
    """Return what was asked for."""
    return f"{request.action} {request.tenant} {site}"


async def carry_out(run_id: str) -> None:
    """Run the flow of a run that the receiver created, with the parameters that it has on the server."""
    async with get_client() as client:
        run = await client.read_flow_run(UUID(run_id))
    await run_flow(tenant_request, flow_run=run, parameters=run.parameters, return_type="state")


if __name__ == "__main__":
    asyncio.run(carry_out(sys.argv[1]))
