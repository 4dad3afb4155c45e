"""The order of the layers comes from their declared needs; what cannot be ordered or is missing is refused."""

from __future__ import annotations

import dataclasses

import pytest

from stackwright.domain.errors import PlanRefusedError
from stackwright.domain.layers import (
    BY_NAME,
    LAYERS,
    chart_versions,
    check_layers,
    check_site_versions,
    enabled,
    order,
    sort_layers,
    waits_for,
)
from stackwright.domain.spec import Layers
from tests.domain.layers.sites import SITES, VENDOR_PLACES, lab, with_gpus

SITE_NAMES = sorted(SITES)
NEEDS = {
    "cert_manager": (),
    "metallb": (),
    "storage": (),
    "rancher": ("cert_manager",),
    "rancher_backup": ("rancher",),
    "security": ("storage", "rancher"),
    "registry": ("cert_manager", "storage"),
    "observability": ("storage", "cert_manager"),
    "gpu_operator": (),
    "suse_ai": ("cert_manager", "storage"),
    "clearml": ("storage", "cert_manager"),
}


def test_the_lab_waits_for_what_the_table_says():
    """Each layer of the lab waits for its declared needs and for nothing else."""
    spec = SITES["lab"]
    assert {layer.name: waits_for(spec, layer) for layer in enabled(spec)} == NEEDS


@pytest.mark.parametrize("site", SITE_NAMES)
def test_each_layer_comes_after_its_needs(site):
    """In the order of every example site, a layer stands behind all that it waits for."""
    spec = SITES[site]
    names = [layer.name for layer in order(spec)]
    assert sorted(names) == sorted(layer.name for layer in enabled(spec))
    for layer in order(spec):
        assert all(names.index(need) < names.index(layer.name) for need in waits_for(spec, layer))


@pytest.mark.parametrize("site", SITE_NAMES)
def test_example_sites_have_no_problem(site):
    """Every example site passes the layers' own checks and the support matrix."""
    assert check_layers(SITES[site]) == []
    assert check_site_versions(SITES[site]) == []


def test_every_section_of_the_site_file_has_its_layer():
    """LAYERS and the spec's sections name the same layers, and each need is one of them."""
    assert {layer.name for layer in LAYERS} == set(Layers.model_fields)
    assert all(need in BY_NAME for layer in LAYERS for need in (*layer.needs, *layer.after))


def test_circle_is_refused_with_its_members():
    """Layers that wait for each other have no order, and are named."""
    graph = {"a": (BY_NAME["storage"], ("b",)), "b": (BY_NAME["rancher"], ("a",)), "c": (BY_NAME["metallb"], ())}
    with pytest.raises(PlanRefusedError, match=r"wait for each other.*a, b"):
        sort_layers(graph)


DISABLED = [
    ("cert_manager", {"rancher", "registry", "observability", "suse_ai", "clearml"}),
    ("storage", {"registry", "observability", "suse_ai", "clearml"}),
    ("rancher", {"rancher_backup"}),
    ("metallb", set()),
    ("security", set()),
]


@pytest.mark.parametrize(("name", "dependants"), DISABLED)
def test_disabled_need_is_a_problem_of_each_dependant(name, dependants):
    """A disabled layer is a problem for all that need it, each with its own path and a remedy naming both ways out."""
    problems = check_layers(lab(layers={name: {"enabled": False}}))
    assert {problem.where for problem in problems} == {f"layers.{dependant}" for dependant in dependants}
    assert all(f"layers.{name}" in problem.remedy for problem in problems)


REFUSED = [
    ({"layers": {"metallb": {"addresses": []}}}, "layers.metallb.addresses"),
    ({"layers": {"observability": {"profile": "huge"}}}, "layers.observability.profile"),
    ({"layers": {"suse_ai": {"ollama_gpus": 3}}}, "layers.suse_ai.ollama_gpus"),
    ({"ingress": {"tls": "secret"}}, "ingress.certificate_block"),
    ({"ingress": {"ca_block": None}}, "ingress.ca_block"),
    ({"charts": {"mirror": None}}, "layers.storage"),
    ({"rke2": {"ingress_controller": "none"}}, "rke2.ingress_controller"),
    ({"backup": None, "layers": {"storage": {"enabled": False}}}, "layers.rancher_backup"),
]


@pytest.mark.parametrize(("over", "where"), REFUSED)
def test_what_a_layer_cannot_work_with_is_refused(over, where):
    """Each layer's own check refuses, at the path to be mended, with a remedy."""
    found = [problem for problem in check_layers(lab(**over)) if problem.where == where]
    assert found
    assert all(problem.remedy for problem in found)


def test_one_version_cannot_serve_two_gpu_vendors():
    """A version given for a site with several vendors is refused with the vendors."""
    problems = check_layers(with_gpus("nvidia", "amd", layers={"gpu_operator": {"version": "26.3.3"}}))
    assert [(problem.where, problem.seen) for problem in problems] == [("layers.gpu_operator.version", "nvidia, amd")]


def test_site_without_gpus_has_no_gpu_operator():
    """Where no node has a GPU the layer has nothing to do and is left out."""
    spec = with_gpus()
    assert "gpu_operator" not in {layer.name for layer in order(spec)}
    assert check_layers(spec) == []


def test_chart_versions_name_each_component_once():
    """The support matrix is asked about every chart of the site, at the path where its version may be set."""
    charts, paths = chart_versions(lab(**VENDOR_PLACES))
    assert charts["security"] == "2.11.2"
    assert charts["clearml.agent"] == "6.14.1"
    assert paths["gpu_operator.nvidia"] == "layers.gpu_operator.version"
    assert set(charts) == set(paths)


def test_mirror_takes_the_place_of_every_vendor():
    """With a mirror, every chart comes from below it; without, from its vendor's own place."""
    mirrored, direct = lab(), lab(**VENDOR_PLACES)
    for layer in enabled(mirrored):
        for release in layer.releases(mirrored):
            assert release.chart.address(mirrored.charts.mirror) == (
                f"oci://127.77.10.10:5000/charts/{release.chart.name}",
                None,
            )
    for layer in enabled(direct):
        for release in layer.releases(direct):
            chart, repo = release.chart.address(direct.charts.mirror)
            assert chart.startswith("oci://") if repo is None else repo.startswith("https://")


def test_layers_say_which_upgrades_may_not_be_rolled_back():
    """Rancher, storage, registry and observability are never rolled back automatically."""
    never = {layer.name for layer in LAYERS if not layer.rollback_ok}
    assert {"rancher", "storage", "registry", "observability"} <= never
    assert {layer.name for layer in LAYERS if layer.data_at_risk} >= {"rancher", "storage", "registry", "observability"}


@pytest.mark.parametrize("site", SITE_NAMES)
def test_gates_have_their_own_ids(site):
    """Within a layer no two gates share an id: evidence would be lost."""
    spec = SITES[site]
    for layer in enabled(spec):
        ids = [gate.id for gate in layer.gates(spec)]
        assert len(ids) == len(set(ids)), layer.name
        assert all(gate.wanted for gate in layer.gates(spec))


def test_layer_definitions_are_values():
    """A definition cannot be changed by whoever uses it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        LAYERS[0].title = "other"
