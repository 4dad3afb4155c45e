"""The team size's manifests and the work pool's template: rendered, held against Kubernetes' models, and hardened."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import typer.main
import yaml
from kubernetes import client
from prefect.client.schemas.objects import FlowRun

from stackwright import cli
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from stackwright.lab.tools import tools_in
from stackwright.resume import declared_rules
from stackwright.runs import catalogue
from stackwright.setup_kinds import read_server_file
from stackwright.worker import POOL, TYPE
from tests.test_docs import complaint

FOLDER = ROOT / "deployments" / "kubernetes"
TEMPLATE = ROOT / "deployments" / "work-pools" / "kubernetes.json"
TEAM = TEMPLATE.with_name("team.yaml")
MODELS = {
    "v1": "V1", "apps/v1": "V1", "batch/v1": "V1", "policy/v1": "V1", "networking.k8s.io/v1": "V1",
    "rbac.authorization.k8s.io/v1": "V1",
}  # fmt: skip
PODS = ("Deployment", "StatefulSet", "Job")
SECRETS = {("prefect-server", key) for key in ("database-url", "redis-url", "docket-url", "encryption-key", "auth")} | {
    ("prefect-client", "auth"),
    ("stackwright-receiver", "database-url"),
}
Document = dict[str, Any]


def check(value: Any, kind: str, path: str) -> list[str]:
    """List where a value is not of an OpenAPI type of the Kubernetes client."""
    if found := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{path}: a list is wanted"]
        return [line for at, one in enumerate(value) for line in check(one, found[1], f"{path}[{at}]")]
    if found := re.fullmatch(r"[dD]ict[\[(](\w+), (.+)[\])]", kind):
        if not isinstance(value, dict):
            return [f"{path}: a map is wanted"]
        return [line for key, one in value.items() for line in check(one, found[2], f"{path}.{key}")]
    plain: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    if kind in plain:
        wrong = not isinstance(value, plain[kind]) or (kind == "int" and isinstance(value, bool))
        return [f"{path}: {kind} is wanted, not {value!r}"] if wrong else []
    if kind == "object":  # a quantity or a port: number or text
        return [] if isinstance(value, str | int) else [f"{path}: text or a number is wanted"]
    return check_model(value, getattr(client, kind), path)


def check_model(value: Any, model: Any, path: str) -> list[str]:
    """List where a map is not of a model; what the model requires is asked of its own constructor."""
    if not isinstance(value, dict):
        return [f"{path}: a {model.__name__} is wanted"]
    names = {wire: name for name, wire in model.attribute_map.items()}
    wrong = [f"{path}: {model.__name__} has no {key}" for key in value if key not in names]
    known = {names[key]: one for key, one in value.items() if key in names}
    wrong += [
        line for name, one in known.items()
        for line in check(one, model.openapi_types[name], f"{path}.{model.attribute_map[name]}")
    ]  # fmt: skip
    try:
        model(**known)
    except ValueError as error:
        wrong.append(f"{path}: {error}")
    return wrong


def problems(document: Document) -> list[str]:
    """List what Kubernetes would refuse of one document."""
    name = f"{document['kind']}/{document['metadata'].get('name', document['metadata'].get('generateName'))}"
    return check_model(document, getattr(client, MODELS[document["apiVersion"]] + document["kind"]), name)


@pytest.fixture(scope="module")
def rendered() -> list[Document]:
    kubectl = tools_in().kubectl
    if not kubectl.exists():
        pytest.skip("kubectl is not there: make setup")
    done = subprocess.run([kubectl, "kustomize", FOLDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(documents: list[Document]) -> dict[str, Document]:
    return {one["metadata"]["name"]: one["spec"]["template"] for one in documents if one["kind"] in PODS}


def test_every_document_is_of_kubernetes_own_schema(rendered: list[Document]) -> None:
    assert len(rendered) > 25
    assert [line for one in rendered for line in problems(one)] == []


def test_the_check_refuses_what_kubernetes_would_refuse(rendered: list[Document]) -> None:
    """An unknown field, a wrong type and a missing field are each seen."""
    one = json.loads(
        json.dumps(
            next(doc for doc in rendered if (doc["kind"], doc["metadata"]["name"]) == ("Deployment", "prefect-api"))
        )
    )
    one["spec"]["replica"] = 2
    one["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "4200"
    del one["spec"]["selector"]
    found = " ".join(problems(one))
    assert "has no replica" in found and "int is wanted, not '4200'" in found and "selector" in found


def hardened(spec: Document) -> None:
    """Assert what every pod must have: no root, no rights, a read-only root, limits, and its temporary folders."""
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] and rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["allowPrivilegeEscalation"] is False and "privileged" not in rights
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys() and container["resources"]["limits"]["memory"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {"/tmp", "/home/stackwright"} <= mounts.keys()
    assert set(mounts.values()) <= {volume["name"] for volume in spec["volumes"]}


def test_every_pod_is_hardened_and_only_the_workers_know_this_cluster(rendered: list[Document]) -> None:
    templates = pods(rendered)
    for name, template in templates.items():
        hardened(template["spec"])
        assert template["spec"]["automountServiceAccountToken"] is (name == "stackwright-worker"), name
        assert template["spec"]["enableServiceLinks"] is False
        container = template["spec"]["containers"][0]
        long = name not in ("prefect-migrate", "prefect-services")
        assert not long or "livenessProbe" in container, name


def test_secrets_are_referred_to_and_never_written(rendered: list[Document]) -> None:
    """No Secret stands here, each variable that would hold one refers to a key that docs/team.md tells how to make."""
    assert not [one for one in rendered if one["kind"] == "Secret"]
    variables = [row for one in pods(rendered).values() for row in one["spec"]["containers"][0].get("env", [])]
    refs = [row["valueFrom"]["secretKeyRef"] for row in variables if "secretKeyRef" in row.get("valueFrom", {})]
    assert {(ref["name"], ref["key"]) for ref in refs} == SECRETS
    told = (ROOT / "docs" / "team.md").read_text()
    assert all(f"{name}" in told and f"--from-file={key}=" in told for name, key in SECRETS)
    suspicious = re.compile(r"(PASSWORD|TOKEN|AUTH_STRING|_KEY|CONNECTION_URL|_STORE)$")
    clear = [row["name"] for row in variables if suspicious.search(row["name"]) and "value" in row]
    settings = [key for one in rendered if one["kind"] == "ConfigMap" for key in one["data"] if suspicious.search(key)]
    assert clear == ["PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY"] and settings == []


def test_replicas_survive_a_drain_and_selectors_meet_their_pods(rendered: list[Document]) -> None:
    """Each thing with two replicas has a budget; services, budgets and policies select pods that exist."""
    labels = {name: template["metadata"]["labels"] for name, template in pods(rendered).items()}
    budgets = [one["spec"] for one in rendered if one["kind"] == "PodDisruptionBudget"]
    chosen = [budget["selector"]["matchLabels"]["app.kubernetes.io/name"] for budget in budgets]
    assert sorted(chosen) == sorted(
        one["metadata"]["name"] for one in rendered if one["kind"] in PODS and one["spec"].get("replicas", 1) > 1
    )
    spread = [
        name
        for name, template in pods(rendered).items()
        for row in template["spec"].get("topologySpreadConstraints", ())
        if row["topologyKey"] == "kubernetes.io/hostname"
        and row["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ]
    assert sorted(spread) == sorted(chosen), "both on one host would die with it"
    selectors = [one["spec"]["selector"] for one in rendered if one["kind"] == "Service"]
    selectors += [
        one["spec"]["podSelector"]["matchLabels"] for one in rendered
        if one["kind"] == "NetworkPolicy" and one["spec"]["podSelector"]
    ]  # fmt: skip
    for selector in selectors:
        assert any(selector.items() <= one.items() for one in labels.values()), selector


def test_browsers_ask_the_address_that_they_came_by(rendered: list[Document]) -> None:
    """Without the setting the server tells them to ask 127.0.0.1; links lead to the ingress."""
    maps = {one["metadata"]["name"]: one["data"] for one in rendered if one["kind"] == "ConfigMap"}
    (ingress,) = (one["spec"] for one in rendered if one["kind"] == "Ingress")
    assert maps["prefect-server"]["PREFECT_SERVER_UI_API_URL"] == "/api"
    assert maps["prefect-client"]["PREFECT_UI_URL"] == f"https://{ingress['rules'][0]['host']}"
    example = (ROOT / "deployments" / "systemd" / "prefect.env.example").read_text()
    assert "\nPREFECT_SERVER_UI_API_URL=/api\n" in example


def test_a_release_can_be_applied_over_another(rendered: list[Document]) -> None:
    """A job cannot be changed: those that are applied go by themselves, and the way there deletes them first."""
    jobs = {one["metadata"]["name"]: one["spec"] for one in rendered if one["kind"] == "Job"}
    assert all(spec["ttlSecondsAfterFinished"] <= 3600 for spec in jobs.values())
    told = (ROOT / "docs" / "team.md").read_text()
    assert jobs and all(f"kubectl delete job {name} " in told for name in jobs)


def test_the_settings_are_those_of_the_server_that_is_tested(rendered: list[Document]) -> None:
    """The chaos run reads the file that is rendered here; Prefect knows every name in it."""
    from prefect.settings import get_current_settings

    known = set(get_current_settings().to_environment_variables(exclude_unset=False))
    maps = {one["metadata"]["name"]: one["data"] for one in rendered if one["kind"] == "ConfigMap"}
    own = {"DO_NOT_TRACK", "PREFECT_WORKER_QUERY_SECONDS"}
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings

    names = set(_get_settings_fields(Settings)) | known | own
    assert {key for data in maps.values() for key in data} <= names


def job(**variables: Any) -> Document:
    """Return the job that a Kubernetes worker makes of the template for one run of the catalogue."""
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = json.loads(TEMPLATE.read_text())
    defaults = {key: row["default"] for key, row in template["variables"]["properties"].items() if "default" in row}
    values = {**defaults, **variables}
    configuration = asyncio.run(
        KubernetesWorkerJobConfiguration.from_template_and_values(template, values, client=SimpleNamespace())
    )
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="deploy-berlin")
    configuration.prepare_for_flow_run(run)
    return dict(configuration.job_manifest)


def test_every_command_of_ours_exists(rendered: list[Document]) -> None:
    """What a container of our own entry point is given is a command line that the program takes."""
    group = typer.main.get_command(cli.app)
    given = [one["spec"]["containers"][0].get("args") for one in pods(rendered).values()]
    assert sum(args is not None for args in given) == 4
    assert [complaint(args, group) for args in given if args] == [None] * 4


def test_a_run_becomes_a_job_that_kubernetes_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables that the catalogue gives to its pool; hardened, never tried again by Kubernetes itself."""
    variables = catalogue()["deploy-stack"]["work_pool"]["job_variables"]
    made = job(**variables)
    assert problems(made) == []
    hardened(made["spec"]["template"]["spec"])
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert made["spec"]["backoffLimit"] == 0
    assert container["command"] == ["/usr/bin/env"] and container["args"][0] == "prefect"
    assert {"name": "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "value": "30"} in container["env"]


def test_a_pod_that_is_still_starting_is_not_started_a_second_time() -> None:
    """The watch gives a pending run up later than the worker does."""
    starting = json.loads(TEMPLATE.read_text())["variables"]["properties"]["pod_watch_timeout_seconds"]["default"]
    assert declared_rules().pending_s > starting


def test_image_and_volumes_are_the_same_for_runs_and_workers(rendered: list[Document]) -> None:
    """A run of another version than its worker, or with another state folder, would be a fault that nobody sees."""
    template = json.loads(TEMPLATE.read_text())
    images = {one["spec"]["containers"][0]["image"] for one in pods(rendered).values()}
    assert images == {template["variables"]["properties"]["image"]["default"]}
    claims = {one["metadata"]["name"] for one in rendered if one["kind"] == "PersistentVolumeClaim"}
    assert (
        template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["volumes"][-1][
            "persistentVolumeClaim"
        ]["claimName"]
        in claims
    )


# --- the pools that setup makes -------------------------------------------------------------------------------------


def test_the_teams_file_declares_the_pools_of_the_catalogue_and_of_the_workers(rendered: list[Document]) -> None:
    """The type is that of the worker that serves it; the template is ours; each pool of the catalogue is there."""
    declared, folder = read_server_file(TEAM)
    pools = declared.work_pools
    assert {entry["work_pool"]["name"] for entry in catalogue().values()} == set(pools)
    assert folder / str(pools["stackwright"].job_template) == TEMPLATE
    command = pods(rendered)["stackwright-worker"]["spec"]["containers"][0]["command"]
    assert command[command.index("--type") + 1] == pools["stackwright"].type
    assert command[command.index("--pool") + 1] in pools
    assert (pools[POOL].type, pools[POOL].job_template) == (TYPE, None)
    dockerfile = (ROOT / "deployments" / "image" / "Dockerfile").read_text()
    assert f"WORKDIR {declared.home}\n" in dockerfile and f"STACKWRIGHT_HOME={declared.home} " in dockerfile


@pytest.mark.slow
def test_setup_makes_the_teams_pools_after_a_move_from_one_machine(tmp_path: Path) -> None:
    """As docs/team.md tells it: a pool that was moved is refused with the way out, and made anew once it is deleted.

    The second time nothing is to be done; without the file nothing is changed either, and it says what to give.
    """
    server = PrefectServer(tmp_path / "prefect")
    server.launch()
    environment = {**os.environ, **server.environment, "PYTHONPATH": str(ROOT), "STACKWRIGHT_SITES": str(tmp_path)}

    def said(*words: str, code: int = 0) -> str:
        argv = [sys.executable, "-m", *words]
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    team = ("stackwright.cli", "setup", "--server", "deployments/work-pools/team.yaml")
    try:
        server.wait()
        assert " created" in said("stackwright.cli", "setup")  # one machine
        refused = said(*team, code=2)
        assert "wanted: kubernetes | seen: process" in refused and "prefect work-pool delete stackwright" in refused
        said("prefect", "--no-prompt", "work-pool", "delete", "stackwright")
        assert "stackwright" in said(*team)
        assert "nothing to change" in said(*team)
        pool = httpx.get(f"{server.url}/work_pools/stackwright", timeout=30).json()
        assert pool["type"] == "kubernetes" and pool["base_job_template"] == json.loads(TEMPLATE.read_text())
        found = httpx.post(f"{server.url}/deployments/filter", json={}, timeout=30).json()
        assert {one["name"]: one["work_pool_name"] for one in found} == {
            name: entry["work_pool"]["name"] for name, entry in catalogue().items()
        }
        steps = {step["directory"] for one in found for row in one["pull_steps"] for step in row.values()}
        assert steps == {"/opt/stackwright/app"}
        assert "--server" in said("stackwright.cli", "setup", code=2)
    finally:
        server.stop()


def test_the_folder_holds_nothing_that_is_not_rendered() -> None:
    """A file that kustomization.yaml does not name is applied by nobody."""
    listed = (FOLDER / "kustomization.yaml").read_text()
    assert all(path.name in listed for path in Path(FOLDER).glob("*.yaml") if path.name != "kustomization.yaml")
