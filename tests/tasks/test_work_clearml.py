"""ClearML's work against fakes: a good tenant passes, each defect is found, and nothing of ours is left behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from stackwright.clients.clearml_types import LoginModes, QueueInfo
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiUnavailableError
from stackwright.domain.work_clearml import PAGE, PIPELINE, SLOT, TAG, TRAINING
from tasks import work_clearml, work_route
from tasks.work_clearml import look_own, look_web, run_training, run_work
from tasks.work_jobs import own_client, remove_leftovers
from tasks.work_route import look_route
from tasks.work_share import look_share
from tests.tasks.tenant_site import TenantSite

PAGE_TEXT = '<html><head><title>ClearML</title></head><body><script src="main.js"></script></body></html>'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A site with one tenant up, whose web app and gateway answer."""
    place = TenantSite(tmp_path)
    place.bring("red")
    place.asked, place.over = [], {}
    monkeypatch.setattr(work_clearml, "public_get", lambda *args: answer(place, *args))
    monkeypatch.setattr(work_route, "public_get", lambda *args: answer(place, *args))
    return place


def answer(place, site, url, headers=None):
    """The web app's page for any path but its script, the API behind it, and the gateway's job for a login."""
    place.asked.append((url, headers or {}))
    for part, outcome in place.over.items():
        if part in url:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
    if "/service/" in url:
        return gateway(place, url, headers or {})
    if url.endswith("main.js"):
        return HttpAnswer(200, {"Content-Type": "text/javascript"}, b"")
    return HttpAnswer(200, {"Content-Type": "text/html"}, PAGE_TEXT.encode())


def gateway(place, url, headers):
    task = url.rsplit("/", 1)[1]
    if "token-of-" not in headers.get("Cookie", ""):
        return HttpAnswer(401, {}, b"")
    alive = any(found.id == task for found in own(place).find_tasks(name=PAGE))
    return HttpAnswer(200, {}, f"page of {task}".encode()) if alive else HttpAnswer(404, {}, b"")


def own(place):
    return own_client(place.site, place.tenant())


def company(place):
    return place.server.companies[0].id


def verdicts(evidence):
    return {check.id.replace("/red", ""): check.verdict for check in evidence}


def bad(evidence):
    return {name for name, verdict in verdicts(evidence).items() if verdict not in ("pass", "skipped")}


def test_a_good_tenant_passes_and_only_its_newest_training_is_left(place):
    """All work is tried; afterwards one completed training with our tag is there, and nothing else of ours."""
    run_work(place.site, place.tenant())
    evidence = run_work(place.site, place.tenant())
    assert bad(evidence) == set()
    assert {name for name, verdict in verdicts(evidence).items() if verdict == "skipped"} == {
        "workload/spill-over",
        "workload/fine-tune-run",
    }
    left = own(place).find_tasks()
    assert [(task.name, task.status) for task in left] == [(TRAINING, "completed")]
    assert set(left[0].tags) == {TAG, "training-1"}
    assert all(check.seen and check.stand_in for check in evidence)


def test_secrets_of_the_login_stay_in_the_header(place):
    """The token is sent, and is in no evidence."""
    evidence = [*run_work(place.site, place.tenant()), *look_own(place.site, place.tenant(), False)]
    assert any("token-of-" in str(headers) for _, headers in place.asked)
    assert "token-of-" not in str(evidence) + str([url for url, _ in place.asked])


@pytest.mark.parametrize(
    ("defect", "failed"),
    [
        (lambda p: p.server.outcome.update(status="failed"), "all"),
        (lambda p: p.server.series.update({"train/loss": [0.69, 0.3]}), {"workload/metrics"}),
        (lambda p: p.server.series.clear(), {"workload/metrics"}),
        (lambda p: setattr(p.server, "printed", {"total": 30}), {"workload/metrics"}),
        (lambda p: setattr(p.server, "plots", ()), {"workload/plot"}),
        (lambda p: p.server.outcome.update(artifacts=()), {"workload/artifact"}),
        (lambda p: p.server.outcome.update(metrics=()), {"workload/loss", "workload/accuracy"}),
        (lambda p: p.server.printed.update(total=29), {"workload/pipeline"}),
        (lambda p: p.server.steps.update(add_up="failed"), {"workload/pipeline"}),
        (lambda p: p.server.steps.clear(), {"workload/pipeline"}),
        (lambda p: p.server.routers_of.clear(), {"workload/route", "workload/route-login", "workload/route-removed"}),
        (lambda p: p.server.room.update({f"{company(p)}-gpu": 3}), {"workload/quota"}),
        (lambda p: p.server.room.update({f"{company(p)}-gpu": 1}), {"workload/quota"}),
        (lambda p: setattr(p.server, "frees", False), {"workload/quota"}),
        (lambda p: p.server.queues[company(p)].pop(1),
         {"workload/quota", "workload/spill-over", "workload/fine-tune"}),
    ],
)  # fmt: skip
def test_each_defect_of_the_work_is_found(place, defect, failed):
    """A platform with one thing wrong does not pass the checks about it, and what was made is removed all the same."""
    defect(place)
    found = bad(run_work(place.site, place.tenant()))
    works = {f"workload/{name}" for name in ("done", "loss", "accuracy", "metrics", "plot", "artifact", "pipeline")}
    assert found == (works if failed == "all" else failed)
    assert {task.name for task in own(place).find_tasks(tag=TAG)} <= {TRAINING}


@pytest.mark.parametrize(
    ("part", "outcome", "failed"),
    [
        ("/service/", HttpAnswer(502, {}, b""), {"workload/route", "workload/route-login"}),
        ("/service/", HttpAnswer(200, {}, b"some other page"), {"workload/route", "workload/route-login"}),
        ("/service/", ApiUnavailableError("no answer", where="router"), {"workload/route", "workload/route-login"}),
    ],
)
def test_a_gateway_that_does_not_lead_to_the_job_is_found(place, part, outcome, failed):
    """Only the job's own text counts."""
    place.over[part] = outcome
    assert bad(look_route(place.site, place.tenant())) == failed


def test_a_gateway_without_a_lock_is_found(place, monkeypatch):
    """One that answers anybody fails, though everything else works."""
    monkeypatch.setattr(
        work_route, "public_get", lambda site, url, headers=None: gateway(place, url, {"Cookie": "token-of-x"})
    )
    assert verdicts(look_route(place.site, place.tenant())) == {
        "workload/route": "pass", "workload/route-login": "fail", "workload/route-removed": "pass",
    }  # fmt: skip


def test_an_address_on_another_host_is_not_dialled(place):
    """A job could write any address into its own runtime: the login goes to the tenant's router alone."""
    place.server.routers_of[company(place)] = "router.evil.example"
    found = verdicts(look_route(place.site, place.tenant()))
    assert found["workload/route"] == "fail" and not place.asked


def test_a_silent_server_leaves_all_unknown(place):
    """No answer is neither good nor bad."""
    place.server.down = True
    found = verdicts([*run_work(place.site, place.tenant()), *look_own(place.site, place.tenant(), True)])
    assert set(found.values()) == {"unknown"}


def test_the_share_is_left_to_the_tenants_own_jobs(place):
    """While the tenant works, nothing is sent; neither where the share is larger than may be tried."""
    theirs = own(place).create_task("their project", "their training", {})
    own(place)._update(theirs, {"status": "in_progress"})
    before = list(place.server.journal)
    found = look_share(place.site, place.tenant())
    assert {check.verdict for check in found} == {"skipped"} and "left to them" in found[0].seen
    own(place)._update(theirs, {"status": "completed"})
    small = place.spec.validation.model_copy(update={"share_jobs": 2})
    site = replace(place.site, spec=place.spec.model_copy(update={"validation": small}))
    assert "share_jobs allows 2" in look_share(site, place.tenant())[0].seen
    assert place.server.journal == before


@pytest.mark.parametrize("name", [TRAINING, PIPELINE, SLOT, PAGE])
@pytest.mark.parametrize("status", ["created", "queued", "in_progress", "failed", "stopped"])
def test_what_a_dead_run_left_is_removed_by_the_next(place, name, status):
    """Whatever state it was left in, with a pipeline's steps; tasks that are not ours stay, even of the same name."""
    client = own(place)
    left = client.create_task("project-Stackwright", name, {}, tags=(TAG, "x-1"))
    client._update(left, {"status": status})
    if name == PIPELINE:
        client._run_steps(left)
    theirs = [client.create_task("p", name, {}), client.create_task("p", "mine", {}, tags=(TAG,))]
    assert remove_leftovers(client) == (3 if name == PIPELINE else 1)
    assert {task.id for task in client.find_tasks()} == set(theirs)
    assert remove_leftovers(client) == 0


@pytest.mark.parametrize("at", range(1, 9))
def test_a_run_that_dies_anywhere_is_followed_by_one_that_passes(place, at):
    """Killed at its n-th change on the server, a run leaves what the next one removes; that one passes."""
    count = 0

    class Killed(BaseException):
        pass

    def die(action):
        nonlocal count
        count += 1
        if count == at:
            raise Killed

    place.server.on_change = die
    with pytest.raises(Killed):
        run_work(place.site, place.tenant())
        run_work(place.site, place.tenant())
    place.server.on_change = lambda action: None
    assert bad(run_work(place.site, place.tenant())) == set()
    assert [task.name for task in own(place).find_tasks()] == [TRAINING]


# --- looks -----------------------------------------------------------------------------------------------------------


def test_the_web_app_is_loaded_with_its_files(place):
    """Page and script, as a browser loads them."""
    assert verdicts(look_web(place.site)) == {"clearml/ui": "pass", "clearml/login-modes": "pass"}
    assert [url.rsplit("/", 1)[1] for url, _ in place.asked] == ["", "main.js"]


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (HttpAnswer(502, {}, b""), "fail"),
        (HttpAnswer(200, {"content-type": "text/html"}, PAGE_TEXT.encode()), "fail"),
        (ApiUnavailableError("no answer", where="app"), "unknown"),
    ],
)
def test_a_page_without_its_script_is_found(place, outcome, verdict):
    """A missing file that the server answers with the page is missing all the same."""
    place.over["main.js"] = outcome
    assert verdicts(look_web(place.site))["clearml/ui"] == verdict


def test_login_modes_are_told(place):
    """A server with errors fails, one without the call is unknown."""
    place.server.modes = LoginModes(True, ("keycloak",), ("es_connection_error",))
    assert verdicts(look_web(place.site))["clearml/login-modes"] == "fail"
    place.server.modes = None
    assert verdicts(look_web(place.site))["clearml/login-modes"] == "unknown"


def test_the_token_goes_through_the_web_apps_own_way_to_the_api(place):
    """The page reaches the API below its own name: where that is broken nobody can work."""
    assert bad(look_own(place.site, place.tenant(), False)) == set()
    place.over["/api/"] = HttpAnswer(502, {}, b"")
    assert bad(look_own(place.site, place.tenant(), False)) == {"tenant/token"}
    place.server.keys.clear()
    assert verdicts(look_own(place.site, place.tenant(), False))["tenant/token"] == "unknown"


def test_the_light_form_tells_the_last_training(place):
    """None, an old one, a failed one and a good one are told apart; nothing is made."""
    before = list(place.server.journal)

    def last():
        return verdicts(look_own(place.site, place.tenant(), True))["tenant/last-work"]

    assert last() == "fail" and place.server.journal == before
    run_training(place.site, place.tenant())
    task = own(place).find_tasks(name=TRAINING)[0].id
    now = place.clock.now()
    for status, age_s, verdict in (
        ("completed", 60, "pass"), ("completed", 30 * 86_400, "fail"), ("failed", 60, "fail"),
    ):  # fmt: skip
        own(place)._update(task, {"status": status, "changed": stamp(now - age_s)})
        assert last() == verdict
    own(place)._update(task, {"changed": "some day"})
    assert last() == "unknown"


def stamp(seconds):
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_jobs_that_wait_for_days_are_told(place):
    """By the queue, and since when."""
    queues = place.server.queues[company(place)]
    queues[0] = QueueInfo(queues[0].id, queues[0].name, 1, False, (stamp(place.clock.now() - 90_000),))
    found = {check.id: check for check in look_own(place.site, place.tenant(), True)}
    assert found["tenant/red/waiting"].verdict == "fail" and "default: 1 waiting" in found["tenant/red/waiting"].seen
