"""Tenants and validation against the ClearML stand-in over TLS, with working agents and gateways and the real SDK."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from stackwright.clients.site import SystemClock
from stackwright.domain.errors import ConflictError, NotFoundError
from stackwright.domain.releases import plain_values
from stackwright.domain.spec import StackSpec
from stackwright.domain.tenants import credentials_label
from stackwright.lab.clearml import AgentStandin, GatewayStandin
from stackwright.lab.clearml.alone import DOMAIN, SYSTEM_KEY, SYSTEM_SECRET, clearml_alone
from stackwright.lab.clearml.local_run import run_workload, workload_env
from stackwright.lab.clearml.workers import limits_of
from tasks.validation import look_isolation, look_server, look_tenant
from tasks.work_clearml import run_training, run_work
from tests.domain.layers.sites import lab_document
from tests.tasks.tenant_site import TenantSite

VIOLET = {
    "name": "violet",
    "admin_email": "admin@violet.example",
    "quota": {"gpus": 1},
    "queues": [{"name": "gpu", "gpus": 1, "max_pods": 1}],
    "workspace_gib": 10,
    "policy": {"reservation": 0, "limit": 1, "pools": ["shared"]},
    "identity": {
        "domains": ["violet.example"],
        "emails": ["guest@other.example"],
        "provider": "keycloak",
        "client_id": "ml-violet",
        "client_block": "clearml-tenant-violet-sso",
        "base_url": "https://id.example.com/realms/violet",
    },
}
"""A tenant with every part: its queue is the policy's, and spills over."""


class StandinSite(TenantSite):
    """A site whose ClearML is the stand-in; cluster and helm stay fakes, whose releases start workers."""

    def __init__(self, folder, trial) -> None:
        hosts = {f"{name}.{DOMAIN}": "127.0.0.1" for name in ("api", "app", "files", "*")}
        more = StackSpec.model_validate(lab_document()).model_dump(mode="json")["tenants"]
        over = {
            "tenants": [*more, VIOLET],
            "clearml": {"base_domain": DOMAIN},
            "dns": {"hosts": hosts},
            "ingress": {"https_port": trial.served.port, "ca_file": str(trial.ca_file)},
            "layers": {"clearml": {"timeout_s": 20}},
            "rke2": {"poll_s": 0.1},
            "validation": {"workload_timeout_s": 90, "samples": 3000, "share_watch_s": 1},
        }
        super().__init__(folder, **over)
        self.trial, self.running = trial, {}
        self.secrets.blocks[("secret-text", "clearml-tenant-violet-sso")] = {"value": "planted-sso"}
        self.secrets.blocks[("api-key", "clearml-supervisor")] = {"access_key": SYSTEM_KEY, "secret_key": SYSTEM_SECRET}
        self.site = replace(self.site, clearml=trial.client, clock=SystemClock())

    def bring_up(self, want) -> None:
        values = plain_values(want.values)
        pair = values["clearml"]
        if "agentk8sglue" in values:
            connection = self.trial.connection(pair["agentk8sglueKey"], _Text(pair["agentk8sglueSecret"]))
            queues, gpus = values["agentk8sglue"]["queues"], values["agentk8sglue"]["orchestrationDashboard"]["gpu"]
            limits = limits_of(queues)
            worker = AgentStandin(
                connection,
                want.name,
                tuple(queues),
                max_gpus=gpus["reportMax"],
                limits=limits,
                report_s=0.5,
                poll_s=0.1,
            )
        else:
            connection = self.trial.connection(pair["apiKey"], _Text(pair["apiSecret"]))
            host = values["ingress"]["hostName"]
            cookie = values["clearml"]["authCookieName"]
            worker = GatewayStandin(connection, want.name, f"https://{host}", report_s=0.5, cookie=cookie)
            self.trial.gateways[host] = worker
        self.trial.served.call(self._replace((want.namespace, want.name), worker))

    async def _replace(self, key, worker) -> None:
        if key in self.running:
            self.running[key].cancel()
        self.running[key] = asyncio.get_running_loop().create_task(worker.run())


class _Text:
    """What `Trial.connection` asks of a secret."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_secret_value(self) -> str:
        return self.text


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standin")
    with clearml_alone(folder) as trial:
        place = StandinSite(folder, trial)
        place.bring("red")
        place.bring("blue")
        place.bring("violet")
        yield place


def test_tenants_come_up_and_a_second_run_changes_nothing(place):
    """All tenants list their queues, workers and routers, and nothing is left to do."""
    users = [user.email for user in place.trial.state.accounts.values() if user.email.endswith(".example")]
    assert sorted(users) == ["admin@blue.example", "admin@red.example", "admin@violet.example"]
    assert place.plan("red") == place.plan("blue") == place.plan("violet") == ()
    assert {check.verdict for check in place.bring("red")} == {"pass"}


def test_an_interrupted_onboarding_finds_its_user_again(place):
    """A company and a user without a kept key pair, as a killed run leaves them, are completed and not made twice."""
    block = place.secrets.blocks.pop(("api-key", "clearml-tenant-blue"))
    place.bring("blue")
    system = place.trial.client()
    company = system.find_company("blue")
    own = place.site.clearml(*_pair(place, "blue"))
    assert [user.email for user in own.users()] == ["admin@blue.example"]
    assert own.whoami().company_id == company.id
    keys = system.list_credentials(user_id=own.whoami().user_id)
    assert [key.label for key in keys] == [credentials_label(place.spec, place.tenant("blue"))]
    assert not place.site.clearml(block["access_key"], _Text(block["secret_key"]).get_secret_value()).login_ok()
    with pytest.raises(ConflictError):
        system.create_user(company.id, "Twin", "admin@blue.example")


def _pair(place, name):
    fields = place.secrets.read("api-key", f"clearml-tenant-{name}")
    return fields["access_key"].get_secret_value(), fields["secret_key"]


def test_a_training_runs_through_each_tenants_queue_and_tenants_stay_apart(place):
    """The real SDK trains in the agent; its metrics are read back; no tenant sees the other's queues or task."""
    for name in ("red", "blue", "violet"):
        evidence = run_training(place.site, place.tenant(name))
        assert {check.verdict for check in evidence} == {"pass"}, evidence
    for name in ("red", "blue", "violet"):
        found = [*look_tenant(place.site, place.tenant(name)), *look_isolation(place.site, place.tenant(name))]
        bad = [check for check in found if check.verdict != "pass"]
        assert not bad


def test_a_tenant_works_within_its_share_and_spills_over(place):
    """Gateway, quota and spill-over of a tenant with a policy, by real jobs; one slot is too few for a pipeline."""
    found = {check.id: check for check in run_work(place.site, place.tenant("violet"))}
    skipped = {name for name, check in found.items() if check.verdict == "skipped"}
    assert {check.verdict for check in found.values()} == {"pass", "skipped"}, found
    assert skipped == {"workload/violet/pipeline", "workload/violet/fine-tune-run"}
    assert "shared 1" in found["workload/violet/spill-over"].seen
    own = place.site.clearml(*_pair(place, "violet"))
    assert [(task.name, task.status) for task in own.find_tasks(name="validation")] == [("validation", "completed")]
    assert not own.working_tasks()


@pytest.mark.slow
def test_a_tenant_runs_a_pipeline_through_its_queue(place):
    """Controller and steps, each in a pod of its own; nothing of them is left."""
    found = {check.id: check for check in run_work(place.site, place.tenant("red"))}
    assert found["workload/red/pipeline"].verdict == "pass", found["workload/red/pipeline"]
    own = place.site.clearml(*_pair(place, "red"))
    assert {task.name for task in own.find_tasks()} == {"validation"}


def test_the_sdk_runs_with_the_pair_that_onboarding_kept(place):
    """Task.init, scalars, artifact and close, as the tenant: all is its company's own."""
    trial, (key, secret) = place.trial, _pair(place, "violet")
    env = workload_env(
        trial.api_url, trial.web_url, trial.files_url, key, secret,
        ca_file=trial.ca_file, resolve=trial.resolve, task="as violet",
    )  # fmt: skip
    result = run_workload("training", env, timeout_s=120)
    task = trial.client(key, secret).get_task(result.task_id)
    assert task.status == "completed"
    with pytest.raises(NotFoundError):
        trial.client(*_pair(place, "red")).get_task(result.task_id)


def test_the_server_answers_over_its_public_names(place):
    """User interface, API and file server are reached by name and over the site's CA."""
    assert {check.verdict for check in look_server(place.site)} == {"pass"}
