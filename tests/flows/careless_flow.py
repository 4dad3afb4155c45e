"""A flow that writes secrets wherever a run can, in a process of its own: `python -m tests.flows.careless_flow FOLDER`.

The key is read from `key` in the folder; the run's id is left in `run` there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from urllib.parse import quote

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.events import emit_event

WORD = "planted-e07b-in-a-block"
OTHER = 'planted-41aa "in\\a/block" ü'
FOREIGN = "planted-77c2-of-another-type"
GIVEN = "planted-9d04-variable"
END = "1f00d5eedbeef"
UNKNOWN = f"K10{'ab' * 32}::server:{END}"
LINES = 900


@flow(name="careless", flow_run_name="careless-{site}")
async def careless(site: str, note: str, key: str) -> None:
    """Write secrets into log, artifact, event and exception; the parameters hold some already."""
    log = get_run_logger()
    for number in range(LINES):
        log.info("line %d of a long log", number)
    log.info("log: %s and %s", WORD, base64.b64encode(f"robot:{OTHER}".encode()).decode())
    log.info("quoted: %s json: %s", quote(OTHER, safe=""), json.dumps({"a": OTHER}))
    log.info("key: %s", key)
    log.info("one line of it: %s; of no block: %s", key.splitlines()[1], UNKNOWN)
    await acreate_markdown_artifact(f"artifact {WORD} end", key=f"plan-{site}", description=FOREIGN)
    about = {"prefect.resource.id": f"stackwright.site.{site}"}
    emit_event("stackwright.planted", resource=about, payload={"why": f"event {WORD} end"})
    raise RuntimeError(f"exception: {WORD} and {GIVEN}")


def main(folder: Path) -> None:
    """Run it to its end, which is a failure."""
    key = (folder / "key").read_text()
    state = asyncio.run(careless("north", f"parameter {OTHER} end", key, return_state=True))  # type: ignore[call-overload]
    assert state.is_failed(), state
    (folder / "run").write_text(str(state.state_details.flow_run_id))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
