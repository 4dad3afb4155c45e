"""The saga against fakes: every refusal, every failure, what is undone and what is completed, killed at any change."""

from __future__ import annotations

import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from stackwright.domain.errors import (
    ApiError,
    ApiUnavailableError,
    ConflictError,
    FencedError,
    GateTimeoutError,
    StackError,
)
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Quota
from stackwright.domain.tenant_change import ChangeFacts
from stackwright.domain.tenant_saga import outcome_markdown
from tasks import tenant_change, tenant_saga
from tasks.tenant_change import change_tenant
from tasks.tenant_hands import Hands
from tasks.tenant_register import read_record, read_records, write_record
from tasks.tenant_saga import preview
from tests.tasks.layer_site import FakeLease
from tests.tasks.saga_site import SagaSite, request, wanted
from tests.tasks.test_tenants import Killed, _kill_at, _watch

BEFORE = ["company", "user", "credentials", "namespace", "quota", "limits", "network", "pull-secret"]
FORWARD = [*BEFORE, "agent", "gateway", "names", "queues"]
BEGUN = (*BEFORE, "queues", "agent", "gateway", "smoke")


@pytest.fixture
def place(tmp_path):
    return SagaSite(tmp_path)


def changes(place):
    return [*place.server.journal, *place.kube.journal, *place.helm.journal, *place.secrets.made]


def record(place, name="green"):
    return read_record(place.site, name)


# --- forward ---------------------------------------------------------------------------------------------------------


def test_a_tenant_is_onboarded_proved_and_handed_over(place):
    """Every step is noted before it is begun; the record ends ready, with names and addresses and no secret."""
    outcome = place.ask(request())
    assert outcome.sentence == "completed: tenant green is ready in namespace clearml-green"
    kept = record(place)
    assert (kept.state, kept.doing, kept.adopted) == ("ready", None, ())
    assert outcome.done == (*FORWARD, "smoke", "isolation") and kept.begun == BEGUN
    assert [done.outcome for done in kept.handled] == [outcome.sentence]
    hand = kept.hand_over
    assert (hand.credentials_block, hand.queues) == ("clearml-tenant-green", ("default",))
    assert hand.urls["router"].startswith("https://router-green.") and set(hand.urls) == {
        "app",
        "api",
        "files",
        "router",
    }
    task = place.server.tasks[place.server.companies[0].id][0]
    assert (task.id, task.status) == (hand.smoke_task, "completed")
    secrets = {value for fields in place.secrets.blocks.values() for value in fields.values() if "planted" in value}
    text = str(place.kube.objects[("v1", "ConfigMap", "stackwright", "tenant-green")]) + str(outcome)
    assert secrets and not [secret for secret in secrets if secret in text]


def test_a_handled_request_is_answered_and_changes_nothing(place):
    """The same request again is answered by its outcome, without a change."""
    first = place.ask(request())
    before = changes(place)
    again = place.ask(request())
    assert (again.verdict, again.text, again.done) == (first.verdict, first.text, ())
    assert changes(place) == before


def test_asking_for_what_is_there_changes_nothing_but_the_note(place):
    """Another request for the same tenant is answered as completed; the tenant is not touched."""
    place.ask(request())
    before = changes(place)
    outcome = place.ask(request(2))
    assert outcome.good and "already" in outcome.text and outcome.done == ()
    assert Counter(changes(place)) - Counter(before) == {"patch ConfigMap stackwright/tenant-green": 1}
    assert [done.id[-1] for done in record(place).handled] == ["2", "1"]


def test_what_went_missing_of_a_tenant_is_made_again(place):
    """Onboarding once more repairs a quota that was deleted."""
    place.ask(request())
    place.kube.delete("v1", "ResourceQuota", "tenant-quota", "clearml-green")
    outcome = place.ask(request(2))
    assert outcome.good and outcome.done == ("quota",)


def test_without_workloads_no_job_is_sent(tmp_path):
    """A site that wants no validation jobs gets none."""
    place = SagaSite(tmp_path, validation={"workload": False})
    assert place.ask(request()).good and place.server.tasks == {}
    assert record(place).hand_over.smoke_task == ""


def test_a_preview_changes_nothing(place):
    """It shows the steps and what refuses them."""
    steps, problems = preview(place.site, request())
    assert [step.id.rsplit("/", 1)[1] for step in steps] == FORWARD and problems == []
    _, problems = preview(place.site, request(wanted=wanted(quota=Quota(gpus=900))))
    assert problems and changes(place) == []


# --- refused before anything is made ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request(site="berlin"), "another site"),
        (request(name="red", wanted=wanted("red")), "owned by the site file"),
        (request(name="green", wanted=wanted("grey")), "another name"),
        (request(wanted=None), "does not say what is wanted"),
        (request(action="change"), "does not say what is wanted"),
        (request(name="gr.*n", wanted=wanted("gr.*n")), "regular expression"),
        (request(name="../up", wanted=wanted("../up")), "regular expression|Kubernetes would refuse"),
        (request(name="clearml", wanted=wanted("clearml")), "reserved"),
        (request(name="zz", wanted=wanted("zz")), "this short"),
        (request(name="x" * 56, wanted=wanted("x" * 56)), "longer than"),
        (request(wanted=wanted(admin_email="nobody")), "not an e-mail"),
        (request(wanted=wanted(admin_email="ADMIN@red.example")), "same address"),
        (request(wanted=wanted(quota=Quota(gpus=900))), "more GPUs than the site has"),
        (request(wanted=wanted(quota=Quota(cpu=1))), "too little"),
        (request(wanted=wanted(queues=({"name": "a"},))), "queue names this short"),
        (request(wanted=wanted(queues=())), "without a queue"),
        (request(action="change", changes={"admin_name": "X"}), "no such tenant"),
        (request(action="suspend"), "no such tenant"),
        (request(action="resume"), "no such tenant"),
        (request(action="rotate"), "no such tenant"),
        (request(action="archive"), "no such tenant"),
        (request(action="delete", confirm="green"), "no such tenant"),
    ],
)
def test_what_is_refused_changes_nothing(place, asked, why):
    """No record, no company, no object: the reason is the answer."""
    outcome = place.ask(asked)
    assert outcome.verdict == "refused" and re.search(why, outcome.text), outcome.text
    assert outcome.record is None and changes(place) == []


def test_gpus_are_not_promised_twice(place):
    """Tenants of records and of the site file share one total."""
    left = sum(node.gpu.count for node in place.spec.gpu_nodes) - sum(one.quota.gpus for one in place.spec.tenants)
    assert left > 0
    assert place.ask(request(wanted=wanted(quota=Quota(gpus=left)))).good
    outcome = place.ask(request(2, name="lime", wanted=wanted("lime", quota=Quota(gpus=1))))
    assert outcome.verdict == "refused" and "promised more GPUs" in outcome.text
    assert record(place, "lime") is None


def test_gpus_are_not_promised_twice_at_the_same_time(place, monkeypatch):
    """Another tenant's run takes them between this one's first look and its claim: then they are gone."""
    left = sum(node.gpu.count for node in place.spec.gpu_nodes) - sum(one.quota.gpus for one in place.spec.tenants)
    look, other = tenant_saga.look_for_bringing, request(2, name="lime", wanted=wanted("lime", quota=Quota(gpus=left)))
    outcomes = []

    def look_slowly(site, tenant, lease):
        if tenant.name == "green":
            outcomes.append(place.ask(other))
        return look(site, tenant, lease)

    monkeypatch.setattr(tenant_saga, "look_for_bringing", look_slowly)
    outcome = place.ask(request(wanted=wanted(quota=Quota(gpus=1))))
    assert outcomes[0].good
    assert outcome.verdict == "refused" and "promised more GPUs" in outcome.text and record(place) is None


def left(place) -> int:
    """GPUs that nobody was promised yet."""
    return sum(node.gpu.count for node in place.spec.gpu_nodes) - sum(one.quota.gpus for one in place.spec.tenants)


def with_changes(place, monkeypatch, meanwhile=lambda: None):
    """Let changes be carried out for real; `meanwhile` happens after a change's first look, once."""
    place.moves = {"change": change_tenant}
    waiting = [meanwhile]

    def look(*_):
        waiting.pop()() if waiting else None
        return ChangeFacts()

    monkeypatch.setattr(tenant_saga, "read_change_facts", look)


def more_gpus(place, number=3, count=None):
    changed = wanted().quota.model_dump() | {"gpus": left(place) if count is None else count}
    return request(number, "change", changes={"quota": changed})


def newcomer(place):
    return request(2, name="lime", wanted=wanted("lime", quota=Quota(gpus=left(place))))


def test_a_change_claims_its_gpus_before_it_acts(place, monkeypatch):
    """A tenant that is asked for while the change is carried out finds them taken."""
    outcomes = []
    settle = tenant_change.settle

    def settle_slowly(site, tenant, lease):
        outcomes.append(place.ask(newcomer(place)))
        settle(site, tenant, lease)

    with_changes(place, monkeypatch)
    place.ask(request())
    monkeypatch.setattr(tenant_change, "settle", settle_slowly)
    assert place.ask(more_gpus(place)).good
    assert outcomes[0].verdict == "refused" and "promised more GPUs" in outcomes[0].text
    assert record(place).wanted.quota.gpus == left(place) and record(place).changing_to is None


def test_a_change_says_what_it_changed_and_what_is_handed_over_now(place, monkeypatch):
    """The page shows the change; the hand-over names the queues that the tenant has from now on."""
    with_changes(place, monkeypatch)
    place.ask(request())
    outcome = place.ask(request(3, "change", changes={"queues": [{"name": "default"}, {"name": "other"}]}))
    assert outcome.text == "tenant green is ready; changed: queues"
    assert record(place).hand_over.queues == ("default", "other")
    again = place.ask(request(4, "change", changes={"queues": [{"name": "default"}, {"name": "other"}]}))
    assert again.text.endswith("changed: nothing")


def test_a_change_finds_what_an_onboarding_has_claimed(place, monkeypatch):
    """Between the change's first look and its claim another tenant took them: it is refused and changes nothing."""
    outcomes = []
    with_changes(place, monkeypatch, lambda: outcomes.append(place.ask(newcomer(place))))
    place.ask(request())
    before = record(place)
    outcome = place.ask(more_gpus(place))
    assert outcomes[0].good
    assert outcome.verdict == "refused" and "promised more GPUs" in outcome.text
    kept = record(place)
    assert (kept.state, kept.wanted, kept.changing_to, kept.doing) == ("ready", before.wanted, None, None)


def test_gpus_that_a_change_gives_away_are_free_once_it_has_ended(place, monkeypatch):
    """Until then it may still go back to what it was."""
    with_changes(place, monkeypatch)
    place.ask(request(wanted=wanted(quota=Quota(gpus=left(place)))))
    settle, outcomes = tenant_change.settle, []

    def fail_once(site, tenant, lease):
        if not outcomes:
            outcomes.append(place.ask(newcomer(place)))
            raise REFUSALS["conflict"]
        settle(site, tenant, lease)

    monkeypatch.setattr(tenant_change, "settle", fail_once)
    assert place.ask(more_gpus(place, count=0)).verdict == "refused"
    assert outcomes[0].verdict == "refused" and record(place).wanted.quota.gpus == left(place)
    assert place.ask(more_gpus(place, 4, count=0)).good
    assert place.ask(newcomer(place).model_copy(update={"id": "5" * 32})).good


@pytest.mark.parametrize("turn", range(4))
def test_a_change_and_an_onboarding_at_once_never_get_the_same_gpus(place, monkeypatch, turn):
    """In two threads of one process, whoever is first: one of them gets the GPUs, the other one is refused."""
    together = threading.Barrier(2, timeout=30)
    with_changes(place, monkeypatch, together.wait)
    place.ask(request())
    look = tenant_saga.look_for_bringing

    def look_together(site, tenant, lease):
        found = look(site, tenant, lease)
        if tenant.name == "lime":
            together.wait()
        return found

    monkeypatch.setattr(tenant_saga, "look_for_bringing", look_together)
    asked = [more_gpus(place), newcomer(place)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(place.ask, asked if turn % 2 else asked[::-1]))
    assert sorted(outcome.verdict for outcome in outcomes) == ["completed", "refused"], outcomes
    promised = sum(one.wanted.quota.gpus for one in read_records(place.site) if one.state == "ready")
    assert promised == left(place)


def test_an_archive_that_is_refused_finds_its_gpus_again(place):
    """Until a tenant is archived its share is its own: the archive may still be refused, and lead back."""
    place.ask(request(wanted=wanted(quota=Quota(gpus=left(place)))))
    outcomes = []

    def refuse(*_):
        outcomes.append(place.ask(newcomer(place)))
        raise REFUSALS["conflict"]

    place.moves = {"archive": refuse}
    assert place.ask(request(3, "archive")).verdict == "refused" and record(place).state == "ready"
    assert outcomes[0].verdict == "refused" and "promised more GPUs" in outcomes[0].text


def test_a_tenant_that_exists_is_not_made_otherwise(place):
    """Other wishes under a name that is taken are refused and noted; the tenant stays as it is."""
    place.ask(request())
    outcome = place.ask(request(2, wanted=wanted(quota=Quota(cpu=99))))
    assert outcome.verdict == "refused" and "asked for otherwise" in outcome.text
    kept = record(place)
    assert kept.state == "ready" and kept.wanted.quota.cpu != 99
    assert kept.handled[0].outcome == outcome.sentence


def test_a_company_that_nobody_asked_for_is_not_taken_over(place):
    """A company or a namespace of that name that no record knows refuses the tenant."""
    system(place).create_company("green")
    place.kube.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "clearml-green"}})
    before = changes(place)
    outcome = place.ask(request())
    assert outcome.verdict == "refused" and "a company of this name" in outcome.text and "namespace" in outcome.text
    assert record(place) is None and changes(place) == before


def test_an_operator_may_adopt_it_and_it_is_never_undone(place):
    """What was there before stays when the rest is undone."""
    system(place).create_company("green")
    place.kube.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "clearml-green"}})
    place.server.outcome = {}
    place.helm.fail = {"clearml-app-gateway": [ConflictError("taken", status=409)]}
    outcome = place.ask(request(), adopt=True)
    assert outcome.verdict == "undone"
    assert set(place.undone) == set(FORWARD) - {"company", "user", "namespace", "names"}
    assert [company.name for company in place.server.companies] == ["green"]
    assert ("v1", "Namespace", "", "clearml-green") in place.kube.objects
    assert place.server.keys == {} and ("api-key", "clearml-tenant-green") not in place.secrets.blocks
    place.undone.clear()
    assert place.ask(request(2), adopt=True).verdict != "refused"


def test_another_owners_namespace_refuses_even_an_operator(place):
    """A namespace with another site's label is never adopted."""
    labels = {"stackwright.io/site": "berlin"}
    place.kube.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "clearml-green", "labels": labels}})
    outcome = place.ask(request(), adopt=True)
    assert outcome.verdict == "refused" and "another owner" in outcome.text and place.server.journal == []


def system(place):
    return place.server.client("SYSTEMKEY", place.secrets.read("api-key", "clearml-supervisor")["secret_key"])


# --- apart from others, or not ready --------------------------------------------------------------------------------


def check(verdict, what="network"):
    return Evidence(f"tenant/isolation-{what}", f"Title of {what}", verdict, "wanted", "as seen", "5.8.2", "now")


def test_what_was_proved_and_what_could_not_be_tried_is_handed_over(place):
    """Ready says what it stands on."""
    place.proofs = [check("pass"), check("skipped", "tasks")]
    outcome = place.ask(request())
    hand = record(place).hand_over
    assert hand.proved == ("Title of network: as seen",) and hand.not_proved == ("Title of tasks: as seen",)
    page = outcome_markdown(outcome)
    assert "- Title of network: as seen" in page and "- not tried: Title of tasks" in page


def test_where_no_pod_may_be_started_the_network_is_said_to_be_unproved(tmp_path):
    place = SagaSite(tmp_path, validation={"workload": False})
    assert place.ask(request()).good
    assert any("no pod may be started" in line for line in record(place).hand_over.not_proved)


def test_a_tenant_that_is_not_apart_is_held_and_nothing_of_it_runs(place):
    """Not ready, no hand-over, no agent, no gateway; account, namespace and key pair stay, and nothing is undone."""
    place.proofs = [check("fail"), check("pass", "queues")]
    outcome = place.ask(request())
    assert outcome.verdict == "held" and "Title of network: as seen" in outcome.text and "queues" not in outcome.text
    assert outcome.event == "stackwright.tenant.failed"
    kept = record(place)
    assert (kept.state, kept.doing, kept.hand_over, kept.begun) == ("held", None, None, BEGUN)
    assert {"uninstall clearml-green/clearml-app-gateway", "uninstall clearml-green/clearml-enterprise-agent"} <= set(
        place.helm.journal
    )
    assert place.undone == [] and [company.name for company in place.server.companies] == ["green"]
    assert place.ask(request()).sentence == outcome.sentence  # answered, not tried again


def test_a_held_tenant_becomes_ready_once_it_is_proved(place):
    """Asked for again as it was, it goes on; what was begun before it was held can still be undone."""
    place.proofs = [check("fail")]
    place.ask(request())
    assert place.ask(request(2)).verdict == "held"
    place.proofs = [check("pass")]
    outcome = place.ask(request(3))
    assert outcome.good and {"agent", "gateway"} <= set(outcome.done)
    assert (record(place).state, record(place).begun) == ("ready", BEGUN)
    assert place.server.journal.count("create_company green") == 1


def test_a_held_tenant_is_not_made_otherwise_and_may_leave(place):
    """Other wishes are refused; an archive that is refused leads back to held; and its GPUs are still its own."""
    place.proofs = [check("fail")]
    place.ask(request(wanted=wanted(quota=Quota(gpus=left(place)))))
    place.proofs = []
    assert "asked for otherwise" in place.ask(request(2)).text
    assert "promised more GPUs" in place.ask(newcomer(place)).text
    told = moves(place, [REFUSALS["conflict"]])
    assert place.ask(request(3, "resume")).verdict == "refused"
    assert place.ask(request(4, "archive")).verdict == "refused" and record(place).state == "held"
    told.clear()
    moves(place)
    assert place.ask(request(5, "archive")).good and record(place).state == "archived"


@pytest.mark.parametrize(("most", "order"), [(1, ["job", "proof"]), (2, ["proof", "job"])])
def test_the_proof_waits_for_the_job_where_the_quota_has_no_room_for_both(place, monkeypatch, most, order):
    """A job that takes the whole quota would be refused while the pod that tries the network runs."""
    told, tried = [], threading.Event()

    def job(*_):
        assert most == 1 or tried.wait(60)
        told.append("job")
        return "task"

    def prove(*_):
        told.append("proof")
        tried.set()
        return []

    monkeypatch.setattr(tenant_saga, "run_smoke", job)
    monkeypatch.setattr(SagaSite, "hands", property(lambda self: Hands(self.take_back, prove, self.moves)))
    assert place.ask(request(wanted=wanted(queues=({"name": "default", "max_pods": most},)))).good
    assert told == order


def test_what_cannot_be_read_is_not_called_ready(place):
    """Unknown is not proved: it is to be completed, and the next start tries it again."""
    place.proofs = [check("unknown")]
    outcome = place.ask(request())
    assert outcome.verdict == "to be completed" and outcome.later.transient and "as seen" in outcome.text
    assert record(place).state == "onboarding" and record(place).hand_over is None
    place.proofs = [check("pass")]
    assert place.ask(request()).good and len(place.server.tasks[place.server.companies[0].id]) == 1


# --- refused half-way: undone ----------------------------------------------------------------------------------------

REFUSALS = {
    "conflict": ConflictError("taken", status=409),
    "invalid": ApiError("the API server refused it", status=422),
    "bad": ApiError("ClearML refused it", status=400, code=12),
}


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
def test_what_is_refused_half_way_is_undone(place, error):
    """Every begun step is taken back, newest first, and nothing of the tenant is left but the record's word."""
    before = place.everything()
    place.helm.fail = {"clearml-app-gateway": [error]}
    outcome = place.ask(request())
    assert outcome.verdict == "undone" and error.what in outcome.text
    assert place.undone == list(reversed(BEGUN[:-1]))
    kept = record(place)
    assert (kept.state, kept.begun, kept.doing) == ("undone", (), None) and error.what in kept.reason
    after = place.everything()
    after["objects"] = [key for key in after["objects"] if key[1] != "ConfigMap"]
    assert after == before
    assert place.ask(request()).verdict == "undone"  # answered, not begun again
    assert place.ask(request(2)).good  # another request begins anew
    assert [done.outcome.split(":")[0] for done in record(place).handled] == ["completed", "undone"]


def test_an_address_of_another_company_undoes_the_company(place):
    """The company was made first; when its administrator's address is taken, it goes."""
    other = system(place).create_company("other")
    system(place).create_user(other.id, "X", "admin@green.example")
    outcome = place.ask(request())
    assert outcome.verdict == "undone" and "belongs to a user of another company" in outcome.text
    assert place.undone == ["user", "company"]
    assert [company.name for company in place.server.companies] == ["other"]


def test_a_company_that_the_server_cannot_delete_is_known_again(place):
    """It was made here: the next onboarding takes it, and it counts as made by it."""
    place.keeps_companies = True
    place.helm.fail = {"clearml-app-gateway": [REFUSALS["conflict"]] * 2}
    for number in (1, 2):
        assert place.ask(request(number)).verdict == "undone"
        assert place.undone.pop() == "company"
        assert [company.name for company in place.server.companies] == ["green"]
    assert place.ask(request(3)).good and record(place).begun == BEGUN
    assert place.server.journal.count("create_company green") == 1


def test_an_undoing_that_is_cut_short_goes_on(place):
    """What could not be taken back is taken back by the next start, for the first reason."""
    place.helm.fail = {"clearml-app-gateway": [REFUSALS["conflict"]]}
    place.undo_fails = {"credentials": [ApiUnavailableError("ClearML does not answer", status=503)]}
    outcome = place.ask(request())
    assert outcome.verdict == "to be completed" and "not undone yet" in outcome.text and outcome.later.transient
    assert record(place).state == "undoing" and record(place).begun == ("company", "user", "credentials")
    again = place.ask(request())
    assert again.verdict == "undone" and "taken" in again.text and "does not answer" not in again.text
    assert record(place).state == "undone" and place.server.companies == []


def test_another_request_first_finishes_an_undoing(place):
    """A tenant asked for again while its undoing was cut short: that is finished, then the new one is carried out."""
    place.helm.fail = {"clearml-app-gateway": [REFUSALS["conflict"]]}
    place.undo_fails = {"user": [ApiUnavailableError("down", status=503)] * 2}
    place.ask(request())
    held = place.ask(request(2))
    assert held.verdict == "to be completed" and "an earlier request comes first" in held.text
    assert held.request.id == request(2).id
    assert place.ask(request(2)).good
    assert [(done.id[-1], done.outcome.split(":")[0]) for done in record(place).handled] == [
        ("2", "completed"), ("1", "undone"),
    ]  # fmt: skip


# --- unavailable or late: to be completed ----------------------------------------------------------------------------

FAILURES = {
    "unavailable": ApiUnavailableError("no answer", status=503),
    "late": GateTimeoutError("not in time"),
    "forbidden": ApiError("the platform's key may not", status=403),
    "own": StackError("helm could not"),
}


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_what_may_yet_come_is_completed_by_the_next_start(place, error):
    """Nothing is undone; the next start carries on, and makes nothing twice."""
    place.helm.fail = {"clearml-enterprise-agent": [error]}
    outcome = place.ask(request())
    assert outcome.verdict == "to be completed" and outcome.later is error and place.undone == []
    kept = record(place)
    assert (kept.state, kept.doing, kept.handled) == ("onboarding", request(), ())
    assert place.ask(request()).good
    assert len(place.server.companies) == len(place.server.keys) == 1


def test_a_server_that_is_down_is_waited_for_with_a_record(place):
    """Nothing could be made; the record says what is to come, and a company found then is still not taken over."""
    place.server.down = True
    outcome = place.ask(request())
    assert outcome.verdict == "to be completed" and record(place).state == "onboarding" and record(place).begun == ()
    place.server.down = False
    system(place).create_company("green")
    assert place.ask(request()).verdict == "undone"
    assert [company.name for company in place.server.companies] == ["green"] and place.undone == []


def test_a_job_that_fails_leaves_the_tenant_to_be_completed(place):
    """The platform did not prove itself: it is kept for a look, and proved by another job."""
    place.server.outcome = {"status": "failed", "status_reason": "no image"}
    outcome = place.ask(request())
    assert outcome.verdict == "to be completed" and "no image" in outcome.text
    place.server.outcome = {"status": "completed"}
    assert place.ask(request()).good


def test_a_job_that_was_sent_is_not_sent_again(place):
    """A job that is still on its way when the time is up is looked at again by the next start."""
    place.server.outcome = {"status": "in_progress"}
    outcome = place.ask(request())
    assert outcome.verdict == "to be completed" and isinstance(outcome.later, GateTimeoutError)
    tasks = place.server.tasks[place.server.companies[0].id]
    tasks[:] = [replace(task, status="completed") for task in tasks]
    assert place.ask(request()).good and len(tasks) == 1


def test_an_earlier_request_is_completed_first(place):
    """Another request for a tenant that is being onboarded finishes that one, then is judged by what is there."""
    place.helm.fail = {"clearml-enterprise-agent": [FAILURES["late"]]}
    place.ask(request())
    assert place.ask(request(2)).text.endswith("already")
    assert [done.id[-1] for done in record(place).handled] == ["2", "1"]


def test_a_lost_lease_ends_the_run_at_once(place):
    """A run that was fenced off neither undoes nor notes anything."""
    for lives in (0, 1, 2, 5, 9):
        place.lease = FakeLease(lives)
        with pytest.raises(FencedError):
            place.ask(request())
    assert place.undone == []


# --- the other actions -----------------------------------------------------------------------------------------------


def moves(place, fail=None):
    """Let every move be told, and change what the action says."""
    told = []

    def move(site, kept, asked, lease):
        told.append((asked.action, kept.state))
        if fail:
            raise fail.pop(0)
        values = {"suspend": {"suspended": True}, "resume": {"suspended": False}}.get(asked.action, {})
        changed = kept.model_copy(update={"wanted": kept.wanted.model_copy(update=values)})
        return write_record(site, changed, lease)

    place.moves = dict.fromkeys(("change", "suspend", "resume", "rotate", "archive", "delete"), move)
    return told


def test_a_tenants_life_from_state_to_state(place):
    """Each action is carried out in its state, once, and leaves the next one."""
    told = moves(place)
    place.ask(request())
    life = [("suspend", "suspended"), ("rotate", "suspended"), ("resume", "ready")]
    life += [("archive", "archived"), ("delete", "deleted")]
    for number, (action, state) in enumerate(life, 2):
        assert place.ask(request(number, action)).good
        assert (record(place).state, record(place).doing) == (state, None)
        assert place.ask(request(number, action)).good  # answered
    assert [action for action, _ in told] == [action for action, _ in life]
    assert {state for _, state in told} == {"changing", "archiving", "deleting"}
    assert place.ask(request(20, "delete")).text == "the tenant is deleted already"


@pytest.mark.parametrize(
    ("state", "action", "why"),
    [
        ("ready", "delete", "only an archived tenant"),
        ("archived", "onboard", "the tenant is archived"),
        ("archived", "rotate", "the tenant is archived"),
        ("archived", "suspend", "the tenant is archived"),
        ("undone", "change", "no such tenant"),
        ("deleted", "resume", "no such tenant"),
    ],
)
def test_an_action_is_refused_in_a_state_that_forbids_it(place, state, action, why):
    """The state stays, and the refusal is noted."""
    told = moves(place)
    place.ask(request())
    write_record(place.site, record(place).model_copy(update={"state": state}), place.lease)
    more = {"changes": {"admin_name": "X"}} if action == "change" else {}
    outcome = place.ask(request(2, action, **more))
    assert outcome.verdict == "refused" and why in outcome.text
    assert (record(place).state, told) == (state, [])


def test_a_refused_action_leaves_the_state_and_a_late_one_goes_on(place):
    """Refused: back to the state of before. Unavailable: the next start, of whichever request, goes on first."""
    told = moves(place, [REFUSALS["conflict"], FAILURES["unavailable"], FAILURES["unavailable"]])
    place.ask(request())
    assert place.ask(request(2, "archive")).verdict == "refused" and record(place).state == "ready"
    assert place.ask(request(3, "archive")).verdict == "to be completed" and record(place).state == "archiving"
    assert "comes first" in place.ask(request(4, "delete", confirm="green")).text
    told.clear()
    assert place.ask(request(4, "delete", confirm="green")).good
    assert told == [("archive", "archiving"), ("delete", "deleting")]


# --- killed at any change --------------------------------------------------------------------------------------------


def run_to_its_end(place, asked):
    """Start it again until it ends, as the dispatcher does."""
    for _ in range(3):
        outcome = place.ask(asked)
        if outcome.later is None:
            return outcome
    raise AssertionError(outcome.text)


@pytest.mark.parametrize("refused", [False, True], ids=["onboarding", "undoing"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_saga_killed_at_any_change_ends_as_an_undisturbed_one(tmp_path, moment, refused):
    """Whatever change a run dies at, the next ends in the same state: no twin, no orphan, no key pair left over."""

    def make():
        place = SagaSite(tmp_path)
        place.helm.fail = {"clearml-app-gateway": [REFUSALS["conflict"]] * 9} if refused else {}
        return place

    undisturbed = make()
    seen = []
    _watch(undisturbed, seen.append)
    undisturbed.ask(request())
    end, state = undisturbed.everything(), record(undisturbed).state
    assert state == ("undone" if refused else "ready") and len(seen) >= 25
    for number, change in enumerate(seen):
        place = make()
        _kill_at(place, number, moment)
        killed = False
        try:
            place.ask(request())
        except Killed:
            killed = True
        assert killed or number >= len(seen) - 1, change
        _watch(place, lambda action: None)
        outcome = run_to_its_end(place, request())
        assert outcome.verdict == ("undone" if refused else "completed"), change
        assert place.everything() == end and record(place).state == state, change
        assert record(place).begun == record(undisturbed).begun, change
