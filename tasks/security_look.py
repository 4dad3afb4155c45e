"""Looking at SUSE Security's life: groups, logs, admission control, the workloads behind them. Nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site
from stackwright.domain.cluster import Obj, rollout_of
from stackwright.domain.errors import ApiError, ApiUnavailableError, NotFoundError
from stackwright.domain.layers.security import ADMISSION_RULE, API
from stackwright.domain.results import DAY_S
from stackwright.domain.security_facts import (
    ADMISSION,
    LOG_SIZE,
    AdmissionFacts,
    Event,
    Group,
    Kind,
    LifeFacts,
    LifeRecord,
    Refused,
    epoch,
    own_namespaces,
    parse_event,
    parse_groups,
    would_refuse,
)
from stackwright.domain.security_life import need_life, targets
from tasks.security import Call, admin_session, asked, body_of, pages
from tasks.security_record import read_life_record

LOGS: tuple[Kind, ...] = ("violation", "incident", "threat")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
ASSESSED_AT_ONCE = 50
CRD_KIND = "NvAdmissionControlSecurityRule"


def read_life(
    site: Site, *, admission: bool = False, passed_over: frozenset[str] = frozenset(), record: LifeRecord | None = None
) -> LifeFacts:
    """Look at everything that the life's plan needs. `admission`: have the running workloads assessed as well.

    `passed_over` are workloads whose dry run something else refuses, such as a quota: it was so before. With the
    `record` of a promotion under way the logs are read since it began; without, the cluster's record is read, and the
    logs of all days that count.
    """
    life = need_life(site.spec)
    kube, now = site.kube(), site.clock.now()
    began = record.intent.began if record and record.intent else None
    record = record or read_life_record(kube)
    admission = admission or bool(record.intent and record.intent.target == ADMISSION)
    with admin_session(site, kube) as call:
        workloads = list(pages(call, "/v2/workload", "workloads"))
        groups = parse_groups(pages(call, "/v1/group", "groups", with_cap="true"), workloads)
        bare = LifeFacts(now, groups, (), (), "", AdmissionFacts(False, "", None), record=record)
        spaces = targets(life, bare)
        own = own_namespaces(site.spec) | set(spaces)
        since = now - life.observe_days * DAY_S
        since = min(since, record.intent.began) if record.intent else since
        since = since if began is None else began
        events, full = _events(call, since, own)
        config = asked(call, "GET", "/v2/system/config").get("config") or {}
        watched = sorted(own) if admission else spaces
        work = {space: list(workloads_of(kube, space)) for space in watched}
        tried = [item for items in work.values() for item in items] if admission else []
        state = _admission(kube, call, record, tried, passed_over)
    return LifeFacts(
        now, groups, events, full, str((config.get("new_svc") or {}).get("new_service_policy_mode") or ""), state,
        unready={space: lines for space, items in work.items() if (lines := tuple(_unready(space, items)))},
        record=record,
    )  # fmt: skip


def read_group(call: Call, name: str) -> Group | None:
    """Return one group as it is now; None where it is gone."""
    answer = call("GET", f"/v1/group/{quote(name, safe='')}")
    if answer.status == 404:
        return None
    found = parse_groups([body_of(answer, "GET", f"/v1/group/{name}").get("group") or {}], ())
    return found[0] if found else None


def _events(call: Call, since: float, own: frozenset[str]) -> tuple[tuple[Event, ...], tuple[str, ...]]:
    """Return what the logs hold since then, and the names of logs that may have lost some of it."""
    found, full = [], []
    for kind in LOGS:
        query = {"f_reported_timestamp": f"gte,{int(since)}"}
        rows = {str(row["id"]): row for row in pages(call, f"/v1/log/{kind}", f"{kind}s", **query)}
        full += [kind] if len(rows) >= LOG_SIZE else []
        found += [parse_event(kind, row, own) for row in rows.values()]
    return tuple(found), tuple(full)


def _unready(namespace: str, items: Iterable[Obj]) -> Iterator[str]:
    for item in items:
        state = rollout_of(item)
        if not state.ready:
            yield f"{item['kind']} {namespace}/{item['metadata']['name']}: {state.detail}"


def workloads_of(kube: KubeClient, namespace: str) -> Iterator[Obj]:
    """Yield what runs in a namespace, each with its kind and version."""
    for kind in WORKLOADS:
        for item in kube.list("apps/v1", kind, namespace):
            yield {**item, "apiVersion": "apps/v1", "kind": kind}


# --- admission control -----------------------------------------------------------------------------------------------


def _admission(
    kube: KubeClient, call: Call, record: LifeRecord, found: list[Obj], passed_over: frozenset[str]
) -> AdmissionFacts:
    """Look at admission control; have the workloads that were found assessed, and tried as dry runs in Protect."""
    state = asked(call, "GET", "/v1/admission/state").get("state") or {}
    made = kube.get(API, CRD_KIND, ADMISSION_RULE)
    stand = record.groups.get(ADMISSION)
    mode = str(state.get("mode") or "")
    since = stand.at if stand and stand.mode == mode else None
    if stand is None:
        since = epoch(((made or {}).get("metadata") or {}).get("creationTimestamp"))
    plain = AdmissionFacts(
        bool(state.get("enable")), mode, since, state.get("cfg_type") == "ground" and made is not None
    )
    if not found:
        return plain
    rules = list(asked(call, "GET", "/v1/admission/rules").get("rules") or ())
    refused = list(_assessed(call, found))
    if mode == "protect":
        refused += [
            Refused(name, why) for name, why in dry_runs(kube, found).items() if why and name not in passed_over
        ]
    return AdmissionFacts(plain.enabled, mode, since, plain.by_resource, len(rules), len(found), tuple(refused))


def _assessed(call: Call, items: list[Obj]) -> Iterator[Refused]:
    """Have workloads assessed, some at once; an answer that leaves one out counts against it."""
    for start in range(0, len(items), ASSESSED_AT_ONCE):
        batch = items[start : start + ASSESSED_AT_ONCE]
        text = "\n---\n".join(json.dumps(_bare(item)) for item in batch)
        rows = asked(call, "POST", "/v1/assess/admission/rule", text=text).get("results") or []
        by_index = {int(row.get("index") or 0): row for row in rows}
        for index, item in enumerate(batch, start=1):
            row = by_index.get(index)
            why = would_refuse(row) if row else "it was not assessed"
            if why:
                yield Refused(_named(item), why)


def dry_runs(kube: KubeClient, items: Iterable[Obj]) -> dict[str, str]:
    """Try each workload's pod as a dry run; return name to the API server's words of refusal, empty where it passed."""
    told = {}
    for item in items:
        try:
            kube.create_dry_run(_pod(item))
            told[_named(item)] = ""
        except (ApiUnavailableError, NotFoundError):
            raise
        except ApiError as error:
            told[_named(item)] = error.seen or error.what
    return told


def _named(item: Obj) -> str:
    return f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _bare(item: Obj) -> dict[str, Any]:
    """Return a workload as somebody would apply it: nothing that the cluster added at run time."""
    meta: Mapping[str, Any] = item["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": kept, "spec": item.get("spec") or {}}


def _pod(item: Obj) -> dict[str, Any]:
    template = (item.get("spec") or {}).get("template") or {}
    meta = {
        "name": f"{item['metadata']['name'][:40]}-dry-run",
        "namespace": item["metadata"].get("namespace", "default"),
    }
    labels = (template.get("metadata") or {}).get("labels") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**meta, "labels": labels},
        "spec": template.get("spec") or {},
    }
