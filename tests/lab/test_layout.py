"""What a lab of another size promises: its machines, its releases, the site file that fits, and what it refuses."""

from __future__ import annotations

import json

import pytest
import yaml

from stackwright.domain.errors import ToolError
from stackwright.domain.spec import StackSpec
from stackwright.lab import sitefile
from stackwright.lab.control import LabHandle
from stackwright.lab.layout import Layout, read_layout

RELEASES = ("v1.33.10+rke2r1", "v1.34.8+rke2r1")


def filled(layout: Layout):
    addresses = {name: f"127.77.99.{11 + index}" for index, name in enumerate(layout.names)}
    keys = dict.fromkeys(layout.names, "ssh-ed25519 AAAA")
    return yaml.safe_load(sitefile.fill(layout, "127.77.99", "/ca.pem", addresses, keys))


def test_the_default_lab_is_the_template():
    """Without options, only network, CA file and host keys differ from deployments/sites/lab.yaml."""
    text = sitefile.TEMPLATE.read_text().replace("127.77.10.", "127.77.99.").replace(sitefile.TEMPLATE_CA, "/ca.pem")
    want = yaml.safe_load(text)
    want["ssh"]["host_keys"] = "pinned"
    for node in want["nodes"]:
        node["host_key"] = "ssh-ed25519 AAAA"
    assert filled(Layout()) == want


def test_a_larger_lab_has_a_valid_site_file():
    """Agents are plain workers, spares stand outside, the first release is the wanted one."""
    layout = Layout(servers=5, workers=4, agents=50, spares=3, releases=RELEASES)
    data = filled(layout)
    spec = StackSpec.model_validate(data)
    assert len(spec.nodes) == 5 + 4 + 2 + 50
    assert [node["roles"] for node in data["nodes"] if node["name"] == "agt50"] == [["worker"]]
    assert data["nodes"][8]["name"] == "wrk4" and "storage" in data["nodes"][8]["roles"]
    assert spec.rke2.version == RELEASES[0]
    assert layout.names[-3:] == ("spr1", "spr2", "spr3")


def test_a_bare_lab_has_nodes_alone():
    """Layers and tenants are off."""
    spec = StackSpec.model_validate(filled(Layout(workers=0, gpus=0, agents=5, bare=True)))
    assert [node.name for node in spec.nodes] == ["srv1", "srv2", "srv3", *(f"agt{n}" for n in range(1, 6))]
    assert not spec.tenants and not [name for name, layer in spec.layers if getattr(layer, "enabled", False)]


@pytest.mark.parametrize(
    "wrong", [{"agents": 600}, {"servers": -1}, {"servers": 0, "workers": 0, "gpus": 0}, {"releases": ()},
              {"releases": ("1.34",)}]
)  # fmt: skip
def test_an_impossible_lab_is_refused(wrong):
    """Too many machines, none, or no releases: said before anything is made."""
    with pytest.raises(ToolError):
        Layout(**wrong)


def test_a_lab_of_a_layout_starts_and_refuses_another(tmp_path):
    """All machines answer, spares are listed apart, edits of the site file stay, and a second layout is refused."""
    layout = Layout(servers=1, workers=0, gpus=0, agents=1, spares=1, releases=RELEASES, bare=True)
    lab = LabHandle(tmp_path / "lab")
    lab.start(speed=200, layout=layout)
    try:
        assert set(lab.snapshot()["nodes"]) == {"srv1", "agt1", "spr1"}
        assert [spare["name"] for spare in json.loads((lab.folder / "spares.json").read_text())] == ["spr1"]
        assert {path.name for path in (lab.folder / "artifacts").iterdir() if path.is_dir()} == set(RELEASES)
        site = lab.sites / "lab.yaml"
        site.write_text(site.read_text() + "# kept\n")
    finally:
        lab.stop()
    with pytest.raises(ToolError, match="another layout"):
        lab.start(layout=Layout())
    assert read_layout(lab.folder) == layout
    lab.start(speed=200)
    lab.stop()
    assert (lab.sites / "lab.yaml").read_text().endswith("# kept\n")
