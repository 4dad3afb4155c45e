"""The process that is killed: one run of flow `tenant-request`, as a worker's child is. `python -m tests.saga.child`.

Words: a request as JSON, and `refused` for a saga that is refused for good once all is made. It prints the run's state.
"""

from __future__ import annotations

import asyncio
import sys

from tests.kill.controllers import serve

LOADED = ("blocks.site", "blocks.store", "flows.tenant_request")
CODES = {"Undone": 3, "Refused": 4, "ToBeCompleted": 5}


def carry_out(words: list[str]) -> None:
    """Carry out one request; the exit code says how it ended: 0 when it was carried out."""
    from flows.tenant_request import tenant_request
    from stackwright.domain.errors import ConflictError
    from stackwright.domain.tenant_request import TenantRequest
    from tasks import tenant_saga

    request = TenantRequest.model_validate_json(words[0])
    if "refused" in words:

        def refuse(*_: object) -> str:
            raise ConflictError("the smoke job was refused for good", where=f"tenant {request.tenant}")

        tenant_saga.run_smoke = refuse
    state = asyncio.run(tenant_request("lab", request, return_state=True))
    print(f"{state.name}: {state.message}")
    code = 0 if state.is_completed() else CODES.get(state.name or "", 1)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    serve(carry_out, LOADED)
