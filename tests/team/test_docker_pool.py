"""The Docker work pool's job template: resolved as Prefect's own worker does it, and held against the engine's client.

Only the worker that starts containers needs prefect-docker (extra `docker`); without it these are skipped, by name.
"""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from docker.models.containers import _create_container_args
from prefect.client.schemas.objects import FlowRun

from stackwright.lab.rig import ROOT
from stackwright.runs import catalogue
from stackwright.setup_kinds import read_server_file
from stackwright.worker import POOL, TYPE

POOLS = ROOT / "deployments" / "work-pools"
TEMPLATE = json.loads((POOLS / "docker.json").read_text(encoding="utf-8"))
worker = pytest.importorskip("prefect_docker.worker", reason="prefect-docker is not installed: pip install .[docker]")
Document = dict[str, Any]


def configured(template: Document = TEMPLATE, **variables: Any) -> Any:
    """Return what a Docker worker makes of the template for one run of the catalogue."""
    properties = template["variables"]["properties"]
    defaults = {key: row["default"] for key, row in properties.items() if "default" in row}
    values = {**defaults, **catalogue()["deploy-stack"]["work_pool"]["job_variables"], **variables}
    made = asyncio.run(
        worker.DockerWorkerJobConfiguration.from_template_and_values(template, values, client=SimpleNamespace())
    )
    made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="deploy-berlin"))
    return made


def container(made: Any) -> Document:
    """Return what the engine is asked for; its client refuses every word that it does not know."""
    engine = SimpleNamespace(version=lambda: {"Version": "20.10.24"})
    settings = worker.DockerWorker._build_container_settings(cast("Any", SimpleNamespace()), engine, made)
    return dict(_create_container_args({**settings, "version": "1.41"}))


def test_the_template_asks_for_what_prefects_own_asks_for_and_nothing_else() -> None:
    """Every field is one of the worker's, every variable of it is declared, and none is left to a form that is not."""
    own = worker.DockerWorker.get_default_base_job_template()
    assert TEMPLATE["job_configuration"].keys() < own["job_configuration"].keys()
    assert TEMPLATE["variables"]["properties"].keys() <= own["variables"]["properties"].keys()
    asked = set(re.findall(r"{{ (\w+) }}", json.dumps(TEMPLATE["job_configuration"])))
    assert asked == TEMPLATE["variables"]["properties"].keys()


def test_a_run_becomes_a_hardened_container() -> None:
    """No root, no rights and no way to them, a root that is read-only, limits, and only what a run must write."""
    made = container(configured())
    host = made["host_config"]
    assert made["user"] == "10001:10001" and host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]
    assert not host.get("Privileged") and "CapAdd" not in host
    assert host["Memory"] == host["MemorySwap"] == 2 << 30 and host["PidsLimit"] > 0
    assert set(host["Tmpfs"]) == {"/tmp", "/home/stackwright"} and "nosuid" in host["Tmpfs"]["/tmp"]
    assert "/etc/stackwright/sites:/etc/stackwright/sites:ro" in host["Binds"]
    assert host["Ulimits"] == [{"Name": "core", "Soft": 0, "Hard": 0}], "a core dump would hold every secret"
    assert not any("docker.sock" in bind for bind in host["Binds"])


def test_a_run_is_started_past_the_images_entry_point_with_its_settings() -> None:
    """The image's own entry point is `stackwright`; a run is Prefect's command."""
    made = configured()
    asked = container(made)
    assert asked["entrypoint"] == ["/usr/bin/env"] and asked["command"] == "prefect flow-run execute"
    assert made.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30" and made.env["PREFECT_HOME"].startswith("/home/")
    assert made.env["STACKWRIGHT_STATE"].startswith("/var/lib/stackwright/") and made.name == "deploy-berlin"
    assert made.stream_output is False


def test_the_form_can_name_image_network_and_memory() -> None:
    made = container(configured(image="registry.example.com/stackwright@sha256:0", networks=["stack"], mem_limit="4g"))
    assert made["image"].startswith("registry.example.com") and made["host_config"]["Memory"] == 4 << 30
    assert configured(network_mode="host").get_network_mode() == "host"


def test_a_word_that_the_engine_does_not_know_would_be_seen() -> None:
    wrong = json.loads(json.dumps(TEMPLATE))
    wrong["job_configuration"]["container_create_kwargs"]["read_onyl"] = True
    with pytest.raises(TypeError, match="read_onyl"):
        container(configured(wrong))


def test_its_file_declares_the_same_pools_as_the_teams() -> None:
    """Type, image and place of the program fit."""
    declared, folder = read_server_file(POOLS / "docker.yaml")
    team, _ = read_server_file(POOLS / "team.yaml")
    assert declared.work_pools.keys() == team.work_pools.keys() and declared.home == team.home
    pool = declared.work_pools["stackwright"]
    assert (
        pool.type == worker.DockerWorker.type and json.loads((folder / str(pool.job_template)).read_text()) == TEMPLATE
    )
    assert declared.work_pools[POOL].type == TYPE
    kubernetes = json.loads((POOLS / "kubernetes.json").read_text())
    images = {one["variables"]["properties"]["image"]["default"] for one in (TEMPLATE, kubernetes)}
    assert len(images) == 1
