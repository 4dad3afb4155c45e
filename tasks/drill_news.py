"""What people are told of a drill: a page with the score and what it is made of, and an event."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger

from stackwright.clients.site import Site
from stackwright.domain.drill import Judgement
from stackwright.domain.evidence import passed
from tasks.common import in_thread, only_transient
from tasks.drill import drill

PASSED, FAILED = "stackwright.drill.passed", "stackwright.drill.failed"
TOO_SLOW = "rto-missed"
SHARES = {
    "opened": "the bundle opens: every file, length, sum, key and token is in order",
    "restored": "RKE2 restores it, and the cluster answers",
    "counts": "every kind has its objects, and Secrets can be read",
    "identity": "kube-system, the Nodes and the release are the bundle's",
    "content": "the known content is there, and etcd is not older than the snapshot",
    "rto": "the restore takes no longer than backup.drill.rto_s",
    "age": "the bundle is no older than backup.stale_after_h",
}


@task(
    task_run_name="drill",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=14400,
    retries=2,
    retry_delay_seconds=[30, 120],
    retry_condition_fn=only_transient,
)
async def hold_drill(site: Site, bundle: str = "") -> Judgement:
    """Restore a bundle on the fenced spare host, judge it and wipe the host. A retry begins by wiping."""
    return await in_thread(drill, site, bundle)


def reason_of(judged: Judgement) -> str:
    """Return why a drill failed, empty for one that did not: a bundle may be proven and its restore too slow."""
    return judged.reason or ("" if passed(judged.evidence) else TOO_SLOW)


def drill_markdown(site: str, judged: Judgement) -> str:
    """Return the page of a drill: the verdict, the times, what the score is made of, every fault."""
    reason = reason_of(judged)
    verdict = f"❌ failed: **{reason}**" if reason else "✅ proven"
    rows = [
        ("bundle", judged.bundle or "none found"),
        ("score", f"{judged.score} of 100"),
        ("time to restore (RTO)", f"{judged.rto_s:.1f} s" if judged.rto_s else "not reached"),
        ("data that would be lost (RPO)", _hours(judged.rpo_s, ": the snapshot's age when the drill began")),
        ("bundle's age", _hours(judged.age_s)),
        ("objects counted", str(judged.objects or "none")),
    ]
    facts = "".join(f"| {name} | {value} |\n" for name, value in rows)
    shares = "".join(
        f"| {name} | {earned} of {whole} | {SHARES[name]} |\n" for name, (whole, earned) in judged.parts.items()
    )
    faults = "".join(f"- `{one.reason}` {one.problem}\n" for one in judged.faults)
    page = (
        f"# Drill of {site}: {verdict}\n\n| | |\n|---|---|\n{facts}\n| part | earned | for |\n|---|---|---|\n{shares}"
    )
    return page + (f"\n## What was found\n\n{faults}" if faults else "")


def _hours(seconds: float, of_what: str = "") -> str:
    return f"{seconds / 3600:.1f} h{of_what}" if seconds else "not known"


async def publish_drill(site: Site, judged: Judgement) -> None:
    """Show the page `drill-<site>`, and tell the outcome as an event, with reason, times and score."""
    name, reason = site.spec.site, reason_of(judged)
    headline = f"{judged.bundle or 'no bundle'}: {reason or 'proven'}, score {judged.score}"
    await acreate_markdown_artifact(drill_markdown(name, judged), key=f"drill-{name}", description=headline)
    get_run_logger().info("drill: %s, restored in %.1f s", headline, judged.rto_s)
    emit_event(
        FAILED if reason else PASSED,
        resource={"prefect.resource.id": f"stackwright.site.{name}"},
        payload={
            "site": name, "bundle": judged.bundle, "reason": reason, "rto_s": round(judged.rto_s, 1),
            "rpo_s": round(judged.rpo_s, 1), "bundle_age_s": round(judged.age_s, 1), "score": judged.score,
        },
    )  # fmt: skip
