"""What people are told of a lease that was taken over: whose it was and why, as an artifact and as an event."""

from __future__ import annotations

from prefect.artifacts import acreate_markdown_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event

from stackwright.domain.lease import Takeover, clock


def takeover_facts(taken: Takeover) -> dict[str, str]:
    """Return what is told, by name. Raises ValueError for a lease that nobody held."""
    before = taken.before
    if before is None or before.holder is None:
        raise ValueError("nobody held this lease")
    return {
        "holder": before.holder.run,
        "link": before.holder.url,
        "host": before.holder.host,
        "process": str(before.holder.pid),
        "held since": clock(before.taken_at) if before.taken_at else "unknown",
        "last renewed": clock(before.renewed_at),
        "old number": str(before.number),
        "why": taken.reason,
        "new number": str(taken.state.number),
        "unfinished plan": before.plan or "none",
    }


def takeover_markdown(site: str, taken: Takeover) -> str:
    """Return the facts as a page: whose the lease was comes first."""
    facts = takeover_facts(taken)
    holder = f"[{facts['holder']}]({facts['link']})" if facts["link"] else f"`{facts['holder']}`"
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items() if value)
    return f"The lease of site `{site}` was held by run {holder} and was taken over.\n\n| | |\n|---|---|\n{rows}"


async def tell_takeover(site: str, taken: Takeover) -> None:
    """Publish artifact `lease-<site>` and event `stackwright.lease.taken-over`. Outside a flow run nobody looks."""
    if FlowRunContext.get() is None:
        return
    facts = takeover_facts(taken)
    await acreate_markdown_artifact(
        takeover_markdown(site, taken),
        key=f"lease-{site}",
        description=f"taken over from {facts['holder']} as number {facts['new number']}",
    )
    emit_event(
        "stackwright.lease.taken-over",
        resource={"prefect.resource.id": f"stackwright.site.{site}"},
        payload={name.replace(" ", "_"): value for name, value in facts.items()},
    )
