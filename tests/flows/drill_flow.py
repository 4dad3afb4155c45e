"""The flow drill-restore, in a process of its own: `python -m tests.flows.drill_flow FOLDER`.

One run whose store does not answer, as a whole; and what is published of a drill that passed. It says in JSON how both
ended. A passing drill as a whole is seen on the container rung.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from prefect import flow

from flows import drill_restore as module
from stackwright.clients.sealing import new_identity
from stackwright.clients.site import Site
from stackwright.domain.drill import Subject, Times, judge_drill
from tasks.drill_news import publish_drill
from tasks.publish import publish_report
from tests.domain.drill_samples import manifest, restored, spec
from tests.tasks.layer_site import DictSecrets


def main(folder: Path) -> None:
    identity = new_identity().get_secret_value()
    blocks = {
        ("s3", "backup-store"): {"access_key": "planted-access", "secret_key": "planted-secret"},
        ("secret-text", "backup-key"): {"value": identity},
    }
    own = spec(backup__endpoint="https://127.0.0.1:9")
    site = Site(own, DictSecrets(blocks), None, None, None, None, folder / "work")
    module.load_site = lambda name: (own, site)

    @flow(name="drill-restore")
    async def passed():
        began = manifest().created_s + 3600
        times = Times(began, began, began + 42)
        judged = judge_drill(Subject(manifest().id, manifest(), True), own.backup, own.backup.drill, times, restored())
        await publish_drill(site, judged)
        return await publish_report(site, None, judged.evidence)

    ends = [asyncio.run(module.drill_restore("north", return_state=True)), asyncio.run(passed(return_state=True))]
    told = [{"type": end.type.value, "message": end.message} for end in ends]
    sys.stdout.write("\n" + json.dumps({"runs": told}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
