"""The tenants' worker as a process of its own for the tests: `python -m tests.flows.worker_child HOME POOL NAME GRACE`.

The same as `stackwright worker tenants`, with flows and a pool of the test's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stackwright.cli_settings import prefer
from stackwright.cli_worker import SETTINGS


def main(home: str, pool: str, name: str, grace_s: str) -> None:
    prefer(SETTINGS)
    from stackwright.domain.errors import StackError
    from stackwright.worker import TenantWorker
    from stackwright.worker_process import serve

    worker = TenantWorker(name, limit=4, home=Path(home), pool=pool)
    try:
        serve(worker, Path(home), grace_s=float(grace_s))
    except StackError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
