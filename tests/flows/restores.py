"""The flow restore-cluster on hosts with stubs, in a process of its own: `python -m tests.flows.restores`.

Each line of standard input is one run as a JSON object: the flow's parameters, and beside them `folder`, `works` (an
etcd that works on s1) and `content` (the verdict of the comparison). What was done is answered in one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import flows.restore_cluster as module
from stackwright.domain.evidence import Evidence
from stackwright.domain.restore import plan_restore
from stackwright.domain.restore_checks import check_restore
from tasks import restore_flow
from tests.domain.test_restore import facts, working
from tests.tasks.test_restore import Case


def seen(part: str, verdict: str) -> Evidence:
    return Evidence(f"restore/{part}", part, verdict, "as the bundle says", verdict, "-", "2026-11-26T10:00:00+00:00")


def put_in(case: Case, patch: pytest.MonkeyPatch, content: str) -> None:
    """Put the case in the place of a site, a store and a look at the hosts."""

    def look(place, bundle, anyway):
        problems = check_restore(case.spec, case.facts, bundle.manifest, anyway)
        return plan_restore(case.spec, case.facts, bundle.manifest, problems), case.facts

    def save(site, shell):
        site.secrets.write("secret-text", case.spec.rke2.token_block, {"value": case.bundle.state.token})
        site.secrets.write("cluster-access", case.spec.rke2.kubeconfig_block, {"kubeconfig": SecretStr("restored")})

    patch.setattr(module, "load_site", lambda name: (case.spec, case.plain))
    patch.setattr(module, "choose_bundle", lambda place, bundle: case.bundle)
    patch.setattr(module, "look_and_plan", look)
    patch.setattr(module, "with_bundle", lambda place, state: case.inside())
    patch.setattr(restore_flow, "prove_content", lambda site, bundle: [seen("counts", content)])
    patch.setattr(restore_flow, "prove_end", lambda site, bundle, seconds: [seen("nodes", "pass")])
    patch.setattr("tasks.restore_end.save_access", save)


def run(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Run the flow; return what it has done."""
    os.environ["STACKWRIGHT_REPORTS"] = str(folder / "reports")
    (folder / "hosts").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        case = Case(folder / "hosts", patch)
        works = {"s1": working("s1")} if given.pop("works", False) else {}
        case.facts = facts(works, cluster_id="uid")
        case.rke2 |= works
        put_in(case, patch, given.pop("content", "pass"))
        if given.pop("approve", False):
            given["plan_hash"] = plan_restore(case.spec, case.facts, case.bundle.manifest, []).hash
        state = asyncio.run(module.restore_cluster(site="north", return_state=True, **given))
    kept = case.kept.read("cluster-access", case.spec.rke2.kubeconfig_block)
    return {
        "state": state.name, "message": state.message, "gates": case.gates,
        "resets": {name: host.resets for name, host in case.hosts.items()},
        "sent": [step for host in case.hosts.values() for batch in host.batches for step in batch],
        "kept": kept["kubeconfig"].get_secret_value() if kept else "",
    }  # fmt: skip


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(run(Path(asked.pop("folder")), asked)) + "\n")
        answers.flush()
