"""The flow report-capacity, in a process of its own: `python -m tests.flows.capacity_flow FOLDER`, on a made-up site.

It says in JSON how two runs ended: one whose cluster answers, and one whose cluster does not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from flows import report_capacity as module
from stackwright.domain.errors import ApiUnavailableError
from tasks import capacity as tasks
from tasks.capacity_history import FolderHistory, keep_sample
from tests.reports.capacity_samples import made_facts, made_history
from tests.tasks.tenant_site import TenantSite


def main(folder: Path) -> None:
    place = TenantSite(folder)
    site = replace(place.site, spec=place.spec.model_copy(update={"backup": None}))
    facts = made_facts()
    kept = FolderHistory(folder)
    for sample in made_history(facts)[:-1]:
        keep_sample(kept, sample)
    module.load_site = lambda name: (site.spec, site)
    tasks.read_capacity = lambda asked: facts
    good = asyncio.run(module.report_capacity("lab", return_state=True))

    def down(asked):
        raise ApiUnavailableError("the API server does not answer", where="https://192.0.2.1:6443")

    tasks.read_capacity = down
    module.look_at_capacity = tasks.look_at_capacity.with_options(retries=0)
    bad = asyncio.run(module.report_capacity("lab", return_state=True))
    told = [{"type": end.type.value, "message": end.message} for end in (good, bad)]
    sys.stdout.write("\n" + json.dumps({"runs": told}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
