"""What must be true at the end: each tenant once and whole, none lost, nothing of a forged request, no secret told."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.tenant_record import TenantRecord
from stackwright.lab.rig import Rig
from tasks.tenant_register import read_records
from tasks.tenants import system_client
from tests.load.asking import FORGED, SITE, Ask
from tests.load.crew import Crew, Row

PAGE = 200
RELEASES = 2  # agent and gateway


@dataclass
class Findings:
    """What is wrong, a sentence each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """All that there is, asked once."""

    companies: Counter[str]
    users: list[dict[str, Any]]
    routers: dict[str, list[str]]
    workers: dict[str, list[str]]
    namespaces: set[str]
    releases: Counter[str]
    records: dict[str, TenantRecord]
    runs: list[FlowRun]
    rows: list[Row]


async def look(rig: Rig, crew: Crew, site: Site) -> Seen:
    """Look at ClearML, Kubernetes, Prefect and the receiver's store."""
    clearml, kube = rig.lab.snapshot()["clearml"], site.kube()
    releases = kube.list("v1", "Secret", label_selector="owner=helm,status=deployed")
    return Seen(
        Counter(company.name for company in system_client(site).companies()),
        clearml["users"],
        clearml["routers"],
        clearml["workers"],
        {found["metadata"]["name"] for found in kube.list("v1", "Namespace")},
        Counter(found["metadata"]["namespace"] for found in releases),
        {record.name: record for record in read_records(site)},
        await _runs(),
        crew.rows(),
    )


async def _runs() -> list[FlowRun]:
    found: list[FlowRun] = []
    async with get_client() as client:
        chosen = FlowRunFilter(tags=FlowRunFilterTags(all_=["tenant", f"site:{SITE}"]))
        while page := await client.read_flow_runs(flow_run_filter=chosen, limit=PAGE, offset=len(found)):
            found += page
    return found


def check_tenant(name: str, seen: Seen, view: Any, key_works: bool, findings: Findings) -> None:
    """Find what is wrong with one tenant that was asked for."""
    rows = [row for row in seen.rows if row.tenant == name]
    mine = [user for user in seen.users if user["company"] == name and user["email"] == f"admin@{name}.example"]
    keys = [key for user in mine for key in user["keys"]]
    done = [run for run in seen.runs if f"tenant:{name}" in run.tags and run.state and run.state.is_completed()]
    record = seen.records.get(name)
    there = {
        "request in the receiver's store": len(rows),
        "company": seen.companies[name],
        "administrator": len(mine),
        "key pair": len(keys),
        "run that completed": len(done),
        "router": len(seen.routers.get(name, [])),
    }
    findings.lost += [f"{name}: no {what}" for what, count in there.items() if not count]
    findings.doubled += [f"{name}: {count} times: {what}" for what, count in there.items() if count > 1]
    whole = {
        "its kept key works": key_works,
        "it is served by an agent": bool(seen.workers.get(name)),
        "its namespace is there": f"clearml-{name}" in seen.namespaces,
        "its releases are deployed": seen.releases[f"clearml-{name}"] == RELEASES,
        "its record says ready": record is not None and record.state == "ready",
        "its request was carried out": [row.outcome for row in rows] == ["completed"],
        "the receiver shows it as ready": bool(view) and view["state"] == "ready" and bool(view["hand_over"]),
    }
    findings.lost += [f"{name}: not true: {what}" for what, good in whole.items() if not good]


def check_forged(asks: Iterable[Ask], seen: Seen, findings: Findings) -> None:
    """Find what a request with a bad signature has made."""
    findings.wrong += [
        f"{ask.tenant}: forged, and answered {ask.status}" for ask in asks if ask.forged and ask.status != 401
    ]
    everywhere = {
        "ClearML": [*seen.companies, *(user["company"] for user in seen.users)],
        "Kubernetes": [*seen.namespaces, *seen.records],
        "Prefect": [tag for run in seen.runs for tag in run.tags],
        "the store": [row.tenant for row in seen.rows],
    }
    findings.wrong += [
        f"{name}: made in {where}" for where, names in everywhere.items() for name in names if FORGED in name
    ]


def check_answers(asks: Iterable[Ask], findings: Findings) -> None:
    """Each ask was accepted, and one that was sent again got the same answer."""
    ids: dict[str, set[str]] = {}
    for ask in asks:
        if not ask.forged:
            ids.setdefault(ask.tenant, set()).add(ask.request_id)
            if ask.status != 202:
                findings.wrong.append(f"{ask.tenant}: answered {ask.status}")
    findings.doubled += [f"{name}: accepted as {len(found)} requests" for name, found in ids.items() if len(found) > 1]


def secrets_of(rig: Rig, site: Site, tenants: Iterable[str], key: str) -> set[str]:
    """Return every secret that was in use: the lab's own, the platform's, the caller's, and each tenant's."""
    planted = json.loads((rig.lab.folder / "secrets.json").read_text())
    public = {"username", "certificate", "passphrase", "access_key"}
    found = {
        max(text.splitlines(), key=len)
        for blocks in planted.values()
        for fields in blocks.values()
        for name, text in fields.items()
        if text and name not in public
    }
    blocks = [*(f"clearml-tenant-{name}" for name in tenants), site.spec.clearml.supervisor_block]
    for block in blocks:
        fields = site.secrets.read("api-key", block)
        if fields is not None:
            found.add(fields["secret_key"].get_secret_value())
    return {*found, key}


def find_leaks(secrets: set[str], files: Iterable[Path]) -> list[str]:
    """Return the files in which a secret stands, and how many lines of them. The secrets are named nowhere."""
    words = "\n".join(sorted(secrets)) + "\n"
    found = []
    for path in files:
        argv = ["grep", "--text", "--count", "--fixed-strings", "--file=-", "--", str(path)]
        done = subprocess.run(argv, input=words, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        if done.returncode == 0:
            found.append(f"{path}: {done.stdout.strip()} line(s) hold a secret")
    return found


def told(rig: Rig, crew: Crew, answers: Path) -> list[Path]:
    """Return every file in which people, callers or databases keep what they were told."""
    places = [rig.server.home, crew.store.parent, crew.logs, rig.folder / "reports"]
    inside = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [answers, *inside]


async def check_all(rig: Rig, crew: Crew, asks: list[Ask], views: dict[str, Any], key: str, answers: Path) -> Findings:
    """Look at everything, and return all that is wrong."""
    findings = Findings()
    _, site = load_site(SITE)
    tenants = sorted({ask.tenant for ask in asks if not ask.forged})
    seen = await look(rig, crew, site)
    for name in tenants:
        block = site.secrets.read("api-key", f"clearml-tenant-{name}")
        works = (
            block is not None and site.clearml(block["access_key"].get_secret_value(), block["secret_key"]).login_ok()
        )
        check_tenant(name, seen, views.get(name), works, findings)
    check_answers(asks, findings)
    check_forged(asks, seen, findings)
    secrets = secrets_of(rig, site, tenants, key)
    assert len(secrets) > len(tenants), "too few secrets to look for: the search would prove nothing"
    findings.leaked += find_leaks(secrets, told(rig, crew, answers))
    return findings
