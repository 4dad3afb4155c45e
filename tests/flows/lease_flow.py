"""A flow run that holds a site's lease, in a process of its own: `python -m tests.flows.lease_flow FOLDER`.

It says in JSON how the run ended, and where the lease says that the run can be looked at.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from prefect import flow

from tasks.lease import hold_lease
from tests.tasks.lease_site import WHOLE, make_site, on_server


def main(folder: str) -> None:
    site = make_site(Path(folder))
    seen = {}

    @flow(name="change-something", flow_run_name="change-north")
    async def change() -> None:
        async with hold_lease(site, WHOLE) as lease:
            lease.check()
            seen["url"] = on_server(site).holder.url

    state = asyncio.run(change(return_state=True))
    told = {"type": state.type.value, "message": state.message, "run": str(state.state_details.flow_run_id)}
    sys.stdout.write(json.dumps({**told, **seen}))


if __name__ == "__main__":
    main(sys.argv[1])
