"""What a Kubernetes worker of the team size submits for a run: the login is planted, and is in no job."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from stackwright.runs import catalogue
from tests.team.test_manifests import FOLDER, TEMPLATE

LOGIN = "stackwright:planted-login-5ad1"
# One deployment for each set of variables that the catalogue gives to the pool: the rest of the job is the template's.
POOLED = sorted({
    json.dumps(entry["work_pool"].get("job_variables"), sort_keys=True): name
    for name, entry in catalogue().items() if entry["work_pool"]["name"] == "stackwright"
}.values())  # fmt: skip


class Submitted(Exception):
    """What reached the cluster's API."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest


class Api:
    """The cluster's API as far as the worker calls it to make a job."""

    def __init__(self, api_client: Any) -> None:
        pass

    async def create_namespaced_job(self, namespace: str, manifest: dict[str, Any]) -> None:
        raise Submitted(manifest)


def submitted(name: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> dict[str, Any]:
    """Return the job that a worker with these variables submits for a run of a deployment."""
    from prefect_kubernetes import worker

    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(worker, "BatchV1Api", Api)
    template = json.loads(TEMPLATE.read_text())
    defaults = {key: row["default"] for key, row in template["variables"]["properties"].items() if "default" in row}
    values = {**defaults, **(catalogue()[name]["work_pool"].get("job_variables") or {})}

    async def go() -> None:
        configuration = await worker.KubernetesWorkerJobConfiguration.from_template_and_values(
            template, values, client=SimpleNamespace()
        )
        configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name=f"{name}-berlin"))
        made = worker.KubernetesWorker(work_pool_name="stackwright")
        await made._create_job(configuration, SimpleNamespace())

    with (
        temporary_settings({PREFECT_API_URL: "http://prefect:4200/api", PREFECT_API_AUTH_STRING: LOGIN}),
        pytest.raises(Submitted) as caught,
    ):
        asyncio.run(go())
    return caught.value.manifest


def declared() -> dict[str, str]:
    """Return the variables that our manifest gives to the worker in clear."""
    for document in yaml.safe_load_all((FOLDER / "workers.yaml").read_text()):
        if document["kind"] == "Deployment" and document["metadata"]["name"] == "stackwright-worker":
            rows = document["spec"]["template"]["spec"]["containers"][0]["env"]
            return {row["name"]: row["value"] for row in rows if "value" in row}
    raise AssertionError("workers.yaml has no stackwright-worker")


@pytest.mark.parametrize("name", POOLED)
def test_the_login_is_referred_to_in_a_deployments_job(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has the login; the job that it makes names the Secret instead."""
    manifest = submitted(name, monkeypatch, declared())
    assert LOGIN not in json.dumps(manifest) and "planted" not in json.dumps(manifest)
    rows = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    (login,) = [row for row in rows if row["name"] == "PREFECT_API_AUTH_STRING"]
    assert login == {**login, "valueFrom": {"secretKeyRef": {"name": "prefect-client", "key": "auth"}}}
    assert "value" not in login


def test_without_our_two_variables_it_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search finds the login where the manifest's settings are left out: it is looked for in the right place."""
    assert LOGIN in json.dumps(submitted(POOLED[0], monkeypatch, {}))
