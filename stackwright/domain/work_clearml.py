"""Checks by which ClearML proves itself by work: web app, login, training, pipeline, quota, spill-over, gateway.

Pure; the workloads are started by tasks/work_clearml.py and its neighbours, and read back through the API. Guide: 6.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from stackwright.domain.check import AGENT, GATEWAY, GPUS, SERVER, Check, Outcome, judge
from stackwright.domain.spec import Policy, StackSpec, Tenant

PROJECT, TAG = "Stackwright", "stackwright-validation"
TRAINING, PIPELINE, SLOT, PAGE = "validation", "validation pipeline", "validation slot", "validation route"
FINE_TUNE = "validation fine-tune"
ACCURACY_FLOOR = 0.9
# The server adds series up from numbers of 32 bits. ClearML server: bll/event, events' index in Elasticsearch.
SAME_WITHIN = 1e-5
PIPELINE_TOTAL, PIPELINE_STEPS = 30, ("add_up", "make_numbers")
PLOT, MODEL = "confusion/test", "model"
LONG_WAIT_S = 86_400.0
REFUSED = (301, 302, 303, 307, 401, 403)  # turned away, or sent to the login

CHECKS: tuple[Check, ...] = (
    Check(
        "clearml/ui", "The web app loads: its page, and the files that it is made of", "6",
        "an HTML page of ClearML, every script and style sheet of it",
        "Look at the webserver's pod and at what an ingress or proxy answers in its place.", SERVER,
    ),
    Check(
        "clearml/login-modes", "The web app is told how people log in", "6",
        "an answer, and no error of the server's own",
        "Look at the apiserver's log and at its databases.", SERVER, must=False,
    ),
    Check(
        "tenant/token", "The tenant's key gives a token, good below the web app's name too", "6",
        "a token, and the tenant's administrator behind it",
        "Onboard the tenant again: the key pair is then renewed.", SERVER,
    ),
    Check(
        "tenant/waiting", "Jobs of the tenant's queues do not wait for days", "6", "none waits longer than 24 h",
        "Look at the tenant's quota and policy, and at what runs.", AGENT, must=False,
    ),
    Check(
        "tenant/last-work", "The last training of a validation completed not long ago", "6",
        "completed within validation.fresh_days",
        "Run validate-stack in its full form.", AGENT, must=False,
    ),
    Check(
        "workload/done", "A training task runs through the queue to its end", "6", "completed",
        "Read the task's log in the user interface.", AGENT, works=True,
    ),
    Check(
        "workload/loss", "The training's loss fell", "6", "the last loss below the first",
        "Read the task's scalars: metrics are missing or the training did not learn.", SERVER, works=True,
    ),
    Check(
        "workload/accuracy", "The training learnt what it was shown", "6",
        f"accuracy of {ACCURACY_FLOOR:g} to 1 on pictures held out",
        "Read the task's scalars.", SERVER, works=True,
    ),
    Check(
        "workload/metrics", "The API gives back the numbers that the training printed", "6",
        "every series as long as printed, each number the same",
        "Look at the apiserver's log and at Elasticsearch: numbers are lost or changed on the way.", SERVER, works=True,
    ),
    Check(
        "workload/plot", "The training's confusion matrix was stored", "6", f"plot {PLOT}",
        "Look at the apiserver's log and at Elasticsearch.", SERVER, works=True,
    ),
    Check(
        "workload/artifact", "The training's model was stored", "6", f"artifact {MODEL}",
        "Check the file server and its volume.", SERVER, works=True,
    ),
    Check(
        "workload/pipeline", "A pipeline's controller and steps run through the queue", "6",
        f"completed, every step too, and the value {PIPELINE_TOTAL} passed on",
        "Read the logs of the controller and of its steps.", AGENT, works=True,
    ),
    Check(
        "workload/quota", "Jobs beyond the tenant's share wait, and run when it is free again", "6",
        "never more at once than the share allows; the next one starts when one ends",
        "Compare the agent's maxPods and monitoredResources with the quota.", AGENT, works=True,
    ),
    Check(
        "workload/spill-over", "Jobs beyond the reservation run in the pools to spill over into", "6",
        "the tenant's own pool full, the rest in the next pools",
        "Compare the resource configuration in ClearML's settings with the site file's policy.", SERVER, works=True,
    ),
    Check(
        "workload/route", "A job's page is reached through the application gateway", "6",
        "listed with the router, HTTP 200 with the job's own text",
        "Read the logs of the gateway's router and of the job.", GATEWAY, works=True,
    ),
    Check(
        "workload/route-login", "Without a login the gateway leads nowhere", "5.9", "refused, or sent to the login",
        "Compare clearml.auth_cookie_name with the server's cookie.", GATEWAY, works=True,
    ),
    Check(
        "workload/route-removed", "The route goes with its job", "5.9", "no answer of the job any more",
        "Look at the gateway's routers in ClearML's settings.", GATEWAY, must=False, works=True,
    ),
    Check(
        "workload/fine-tune", "Fine-tuning of a language model is offered", "6",
        "an Enterprise feature set with data management, and a served queue with GPUs",
        "Look at the company's features, and at the agent of the GPU queue.", GPUS, must=False, works=True,
    ),
    Check(
        "workload/fine-tune-run", "A language model is fine-tuned on a GPU (LoRA)", "6",
        "completed on a GPU, the loss on the same texts lower than before, every number read back",
        "Read what was seen: what the image, model, data or GPU lacks is named. Settings: validation.fine_tune.",
        GPUS, works=True,
    ),
)  # fmt: skip


# --- looks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PageSeen:
    """The web app's page: its title, and how each file that it names was answered, as status and content type."""

    status: int
    title: str
    files: Mapping[str, tuple[int, str]]


def judge_page(page: PageSeen) -> Outcome:
    """A web server for a one-page app answers any path with the page: a script that is HTML is not there."""
    if page.status != 200:
        return Outcome("fail", f"HTTP {page.status}")
    if "clearml" not in page.title.casefold():
        return Outcome("fail", f"a page titled {page.title or 'nothing'}")
    if not page.files:
        return Outcome("fail", f"{page.title}: a page that names no script")
    bad = [f"{name}: HTTP {status} {kind}" for name, (status, kind) in page.files.items() if not _file(status, kind)]
    return judge(not bad, "; ".join(bad) or f"{page.title}, {len(page.files)} file(s) of it")


def _file(status: int, kind: str) -> bool:
    return status == 200 and "html" not in kind


def judge_modes(password: bool, providers: Sequence[str], errors: Sequence[str]) -> Outcome:
    """A person's own password or provider cannot be tried by a machine: what is offered is told."""
    ways = (["password"] if password else []) + list(providers)
    text = f"offered: {', '.join(ways) or 'user names without a password'}"
    return judge(not errors, f"{text}; {', '.join(errors)}" if errors else text)


def judge_token(tenant: Tenant, company: str, user: str, web_status: int) -> Outcome:
    """`company` and `user` are who the token is, asked through the web app's name, as its page does."""
    if web_status != 200:
        return Outcome("fail", f"a token, but the web app's own way to the API answers HTTP {web_status}")
    return judge(company.casefold() == tenant.name.casefold(), f"{user} of company {company}, through app and api")


def judge_waiting(waiting: Mapping[str, Sequence[str]], now: datetime) -> Outcome:
    """`waiting` maps queue to the times since when its jobs wait. A time that cannot be read leaves it unknown."""
    text = ", ".join(f"{queue}: {len(times)} waiting" for queue, times in waiting.items()) or "no queue is listed"
    ages = [_age_s(stamp, now) for times in waiting.values() for stamp in times]
    known = [age for age in ages if age is not None]
    if len(known) < len(ages):
        return Outcome("unknown", f"{text}; since when cannot be read")
    longest = max(known, default=0.0)
    return judge(longest <= LONG_WAIT_S, f"{text}; the longest for {longest / 3600:.1f} h" if known else text)


def judge_last(spec: StackSpec, status: str, changed: str, now: datetime) -> Outcome:
    """Judge the newest training that a validation left; `status` empty: there is none."""
    if not spec.validation.workload:
        return Outcome("skipped", "validation.workload is false")
    if not status:
        return Outcome("fail", "no training of a validation is there")
    age = _age_s(changed, now)
    if age is None:
        return Outcome("unknown", f"{status}, when cannot be read")
    days = age / 86_400
    return judge(status == "completed" and days <= spec.validation.fresh_days, f"{status} {days:.1f} day(s) ago")


def _age_s(stamp: str, now: datetime) -> float | None:
    try:
        return (now - datetime.fromisoformat(stamp)).total_seconds()
    except (ValueError, TypeError):
        return None


# --- training and pipeline -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkloadSeen:
    """What was read back of a training task. A value that was not reported is None.

    `series` are the API's numbers by metric/variant; `printed` those of the script's own last line, None without one.
    """

    task_id: str
    status: str
    seconds: float
    first_loss: float | None
    last_loss: float | None
    accuracy: float | None
    artifacts: tuple[str, ...]
    version: str = ""
    samples: int = 0
    plots: tuple[str, ...] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    printed: Mapping[str, Sequence[float]] | None = None


def judge_workload(seen: WorkloadSeen) -> dict[str, Outcome]:
    """Return the outcome of each workload check by its id."""
    what = f" (training {seen.version}, {seen.samples} samples)" if seen.version else ""
    done = judge(
        seen.status == "completed",
        f"task {seen.task_id}{what} {seen.status} after {seen.seconds:.1f} s",
    )
    if seen.first_loss is None or seen.last_loss is None:
        loss = Outcome("fail", "no loss was reported")
    else:
        loss = judge(seen.last_loss < seen.first_loss, f"{seen.first_loss:.4g} -> {seen.last_loss:.4g}")
    if seen.accuracy is None:
        accuracy = Outcome("fail", "no accuracy was reported")
    else:
        accuracy = judge(ACCURACY_FLOOR <= seen.accuracy <= 1.0, f"{seen.accuracy:.4g}")
    return {
        "workload/done": done,
        "workload/loss": loss,
        "workload/accuracy": accuracy,
        "workload/metrics": judge_metrics(seen.printed, seen.series),
        "workload/plot": judge(PLOT in seen.plots, ", ".join(seen.plots) or "none"),
        "workload/artifact": judge(MODEL in seen.artifacts, ", ".join(seen.artifacts) or "none"),
    }


def judge_metrics(printed: Mapping[str, Sequence[float]] | None, read: Mapping[str, Sequence[float]]) -> Outcome:
    """Compare what the script printed with what the API gives back."""
    if not printed:
        return Outcome("unknown", "the script's own numbers are not in its log")
    wrong = [_difference(name, values, read.get(name)) for name, values in sorted(printed.items())]
    bad = [text for text in wrong if text]
    count = sum(map(len, printed.values()))
    return judge(not bad, "; ".join(bad) or f"{count} numbers of {len(printed)} series, all as printed")


def _difference(name: str, printed: Sequence[float], read: Sequence[float] | None) -> str:
    if read is None:
        return f"{name}: not there"
    if len(read) != len(printed):
        return f"{name}: {len(read)} numbers, {len(printed)} printed"
    pairs = zip(printed, read, strict=True)
    return next((f"{name}: {b:g}, printed {a:g}" for a, b in pairs if not math.isclose(a, b, rel_tol=SAME_WITHIN)), "")


@dataclass(frozen=True)
class PipelineSeen:
    """A pipeline's controller, its steps' states by name, the value that it ended with, and the queue of all."""

    status: str
    steps: Mapping[str, str]
    total: float | None
    queue: str
    seconds: float
    message: str = ""


def judge_pipeline(seen: PipelineSeen) -> Outcome:
    """Every step of the pipeline completed, in the queue, and the value went through both."""
    steps = ", ".join(f"{name} {status}" for name, status in sorted(seen.steps.items())) or "no step"
    text = f"controller {seen.status} after {seen.seconds:.1f} s through queue {seen.queue}: {steps}"
    text += f"; {seen.message}" if seen.message else ""
    whole = tuple(sorted(seen.steps)) == PIPELINE_STEPS and set(seen.steps.values()) == {"completed"}
    if seen.total is None:
        return Outcome("fail" if seen.status != "completed" or not whole else "unknown", f"{text}; no value in its log")
    good = seen.status == "completed" and whole and seen.total == PIPELINE_TOTAL
    return judge(good, f"{text}; value {seen.total:g}")


# --- quota and spill-over: see work_share.py; the gateway's route ----------------------------------------------------


@dataclass(frozen=True)
class RouteSeen:
    """What came of a job that asked for a route. Statuses are 0 where nothing answered; `served` is the job's text."""

    url: str = ""
    listed: bool = False
    status: int = 0
    served: bool = False
    bare_status: int = 0
    bare_served: bool = False
    gone_status: int | None = None
    gone_served: bool = False
    message: str = ""


def judge_route(seen: RouteSeen) -> dict[str, Outcome]:
    """Return the outcome of each check of the route by its id."""
    if not seen.url:
        blind = Outcome("unknown", "there was no route to try")
        failed = Outcome("fail", seen.message or "the gateway gave the job no address")
        return {"workload/route": failed, "workload/route-login": blind, "workload/route-removed": blind}
    listed = "listed with the router" if seen.listed else "not listed with the router"
    text = f"{seen.url}: HTTP {seen.status}, {'the job' if seen.served else 'not the job'} answered; {listed}"
    route = judge(seen.served and seen.status == 200 and seen.listed, text)
    login = judge(not seen.bare_served and seen.bare_status in REFUSED, f"HTTP {seen.bare_status} without a login")
    if seen.gone_status is None:
        removed = Outcome("unknown", "not looked at")
    else:
        removed = judge(not seen.gone_served, f"HTTP {seen.gone_status} after the job's end")
    return {"workload/route": route, "workload/route-login": login, "workload/route-removed": removed}


# --- fine-tuning -----------------------------------------------------------------------------------------------------


def judge_fine_tune(
    spec: StackSpec, gpu_queues: Collection[str], served: Collection[str], feature_set: str, features: Collection[str]
) -> Outcome:
    """The guide's example needs CUDA and Enterprise data sets: what it stands on is looked at. What is run instead is
    decided in work_tune.py."""
    if not any(node.gpu for node in spec.nodes):
        return Outcome("skipped", "no GPU here")
    if not gpu_queues:
        return Outcome("skipped", "no queue of the tenant has GPUs")
    if feature_set == "basic":
        return Outcome("skipped", "the server's feature set is basic: it offers no data sets to fine-tune with")
    missing = [] if not features or "data_management" in features else ["feature data_management is off"]
    missing += [f"no worker serves {queue}" for queue in sorted(set(gpu_queues) - set(served))]
    if not feature_set:
        return Outcome("unknown", "the token does not tell the feature set")
    text = f"feature set {feature_set}, queue(s) {', '.join(sorted(gpu_queues))}; offered, nothing is run here"
    return judge(not missing, "; ".join(missing) or text)


def spills(policy: Policy | None) -> bool:
    """Tell whether a policy lets jobs run beyond its reservation in pools of their own."""
    return policy is not None and bool(policy.pools) and policy.limit > policy.reservation
