"""What the image is built from, without an engine: closure of the lock, files that git knows, the parts of the SBOM."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
from pathlib import Path

import pytest
import yaml

from deployments.image import build, distributions, sbom
from deployments.image.build import tracked
from deployments.image.distributions import ROOT, copy_installed, needed, pins, prune, select

LOCK = ROOT / "requirements.lock"


def test_what_is_installed_is_the_locks_closure_with_hashes() -> None:
    """Neither the lab nor the test tools, each entry pinned with its hashes; one that is not pinned is refused."""
    names = needed("3.11.9")
    assert needed("3.11.2") - names == {"async-timeout"}  # an older Python than this machine's may need more
    assert {"prefect", "prefect-redis", "prefect-kubernetes", "asyncpg"} <= names
    assert not names & {"pytest", "moto", "asyncssh", "stackwright", "pip"}
    text = select(LOCK.read_text(), names, "3.11.9")
    entries = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(entries) >= len(names) and all("--hash=sha256:" in entry for entry in entries)
    with pytest.raises(ValueError, match="pins no nobody"):
        select(LOCK.read_text(), {"nobody"}, "3.11.9")


def test_only_files_that_git_knows_get_into_the_image() -> None:
    files = tracked()
    assert "flows/deploy_stack.py" in files and "prefect.yaml" in files and "stackwright/health.py" in files
    assert not [path for path in files if path.startswith(("tests/", "stackwright/lab/", "build/"))]


def test_the_dockerfile_asks_no_network_and_no_root() -> None:
    """Nothing is fetched while it is built, and what runs is a number: a cluster can check it."""
    text = (ROOT / "deployments" / "image" / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.M) and re.search(r"^ARG BASE$", text, re.M)
    assert not re.search(r"\b(apt-get|zypper|curl|wget|pip)\b", "\n".join(
        line for line in text.splitlines() if not line.startswith("#")
    ))  # fmt: skip


def test_digest_of_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SBOM's own parts: a binary's digest, packages that were removed, an rpm line."""
    monkeypatch.setattr(sbom, "TOOLS", tmp_path)
    (tmp_path / "helm").write_bytes(b"binary")
    assert sbom.tool("helm", "v4.0.0")["hashes"][0]["content"] == hashlib.sha256(b"binary").hexdigest()
    status = (
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2\nDescription: x\n more: x\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    assert [part["name"] for part in sbom.debian(status, "debian-12")] == ["bash"]
    (part,) = sbom.suse(["bash\t5.2-1\tx86_64\tGPL-3.0"], "sles-15.7")
    assert part["purl"] == "pkg:rpm/suse/bash@5.2-1?arch=x86_64&distro=sles-15.7"


def test_of_two_pins_of_one_name_that_of_the_bases_python_is_taken() -> None:
    """A universal lock has several; taking the other one leaves the image without it."""
    lock = (
        "one==1 ; python_full_version < '3.12' \\\n    --hash=sha256:aa\n    # via x\n"
        "one==2 ; python_full_version >= '3.12' \\\n    --hash=sha256:bb\n    # via x\n"
    )
    assert select(lock, {"one"}, "3.11.2") == "one==1 \\\n    --hash=sha256:aa\n    # via x\n"
    assert select(lock, {"one"}, "3.12.0").startswith("one==2 \\\n    --hash=sha256:bb\n")


def installed(folder: Path, name: str, version: str, text: str) -> None:
    """Lay out a distribution of one module as pip does."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    rows = [f"{name}.py,{hashed(folder / f'{name}.py')},", f"{info.name}/METADATA,{hashed(info / 'METADATA')},"]
    rows += [f"{info.name}/RECORD,,", f"__pycache__/{name}.cpython-311.pyc,,", f"../../bin/{name},,"]
    (info / "RECORD").write_text("\n".join(rows) + "\n")


def hashed(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def test_what_the_environment_has_in_the_pinned_version_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules and what is said of them; no script, nothing compiled; another version and an unknown name are left."""
    here, lib = tmp_path / "here", tmp_path / "lib"
    installed(here, "planted_one", "1.0", "x = 1\n")
    installed(here, "planted_two", "2.0", "x = 2\n")
    monkeypatch.syspath_prepend(str(here))
    wanted = {"planted-one": "1.0", "planted-two": "2.1", "planted-three": "1"}
    assert copy_installed(wanted, lib) == {"planted-one"}
    files = sorted(str(path.relative_to(lib)) for path in lib.rglob("*") if path.is_file())
    assert files == [f"planted_one-1.0.dist-info/{name}" for name in ("METADATA", "RECORD")] + ["planted_one.py"]


def test_a_file_that_was_changed_since_it_was_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are named; one that is gone is changed too."""
    here = tmp_path / "here"
    installed(here, "planted_one", "1.0", "x = 1\n")
    installed(here, "planted_two", "2.0", "x = 2\n")
    (here / "planted_one.py").write_text("x = 3\n")
    (here / "planted_two.py").unlink()
    monkeypatch.syspath_prepend(str(here))
    with pytest.raises(ValueError, match=r"planted_one\.py, planted_two\.py"):
        copy_installed({"planted-one": "1.0", "planted-two": "2.0"}, tmp_path / "lib")


def test_only_what_the_environment_lacks_is_asked_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python than ours takes nothing from us: its wheels are others."""
    asked: list[str] = []
    monkeypatch.setattr(distributions, "_ask_pip", lambda text, lib, python: asked.append(text))
    here = tmp_path / "here"
    installed(here, "planted_one", "1.0", "x = 1\n")
    monkeypatch.syspath_prepend(str(here))
    lock = "planted-one==1.0 \\\n    --hash=sha256:aa\nplanted-two==2.0 \\\n    --hash=sha256:bb\n"
    ours = platform.python_version()
    distributions.install(lock, tmp_path / "lib", ours, from_environment=True)
    distributions.install(lock, tmp_path / "lib", "3.99.1", from_environment=True)
    distributions.install(lock, tmp_path / "lib", ours)
    assert [sorted(pins(text)) for text in asked] == [["planted-two"], *[["planted-one", "planted-two"]] * 2]


def test_what_nobody_runs_is_left_out(tmp_path: Path) -> None:
    """Tests, stubs, sources of C, descriptions of services that are never called; code in `testing` stays."""
    kept = (
        "one/a.py",
        "one/testing/b.py",
        "botocore/data/s3/x",
        "botocore/data/endpoints.json",
        "kubernetes/client/a.py",
    )
    gone = ("bin/x", "one/tests/a.py", "one/two/tests/c.py", "one/a.pyi", "one/a.pyx", "one/include/a.h", "README.md",
            "botocore/data/ec2/x", "kubernetes/aio/client/a.py")  # fmt: skip
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    prune(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_base_that_is_named_by_a_tag_alone_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Before anything is built; by digest it is taken, and the digest becomes a label."""
    built: list[str] = []
    monkeypatch.setattr(build, "build", lambda base, *_: built.append(base))
    pinned = f"registry.example.com/bci/python@sha256:{'a' * 64}"
    for base in ("registry.example.com/bci/python:3.11", "python", f"python@sha256:{'a' * 63}"):
        monkeypatch.setattr("sys.argv", ["build", "--base", base])
        with pytest.raises(SystemExit):
            build.main()
        assert "name it by digest" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["build", "--base", pinned])
    build.main()
    assert built == [pinned] and build.digest_of(pinned) == f"sha256:{'a' * 64}"


def test_signs_in_a_version_are_written_so_that_its_address_can_be_read_back() -> None:
    """Plus and blank mean something else in a package URL; a colon does not."""
    assert sbom.package_url("deb/debian", "libstdc++6", "1:12.2+deb12u1~x", arch="amd64", distro="debian-12") == (
        "pkg:deb/debian/libstdc%2B%2B6@1:12.2%2Bdeb12u1~x?arch=amd64&distro=debian-12"
    )


def test_image_manifests_and_job_templates_mean_the_same_user_and_folders() -> None:
    """One number everywhere, a root that is read-only, no rights, and the same folders to write to."""
    folder = ROOT / "deployments"
    dockerfile = (folder / "image" / "Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+):\1$", dockerfile, re.M)
    docker = json.loads((folder / "work-pools" / "docker.json").read_text())["job_configuration"]
    cage = docker["container_create_kwargs"]
    assert cage["user"] == f"{user}:{user}" and cage["read_only"] is True and cage["cap_drop"] == ["ALL"]
    job = json.loads((folder / "work-pools" / "kubernetes.json").read_text())["job_configuration"]["job_manifest"]
    pods = [job["spec"]["template"]["spec"]]
    pods.append(yaml.safe_load((folder / "kubernetes" / "hardening.yaml").read_text())["spec"]["template"]["spec"])
    temporary = set(cage["tmpfs"])
    for pod in pods:
        safe = pod["securityContext"]
        assert [str(safe[key]) for key in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3
        assert safe["runAsNonRoot"] is True
        (container,) = pod["containers"]
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True and rights["capabilities"] == {"drop": ["ALL"]}
        empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
        assert {one["mountPath"] for one in container["volumeMounts"] if one["name"] in empty} == temporary
    state = docker_volume(json.loads((folder / "work-pools" / "docker.json").read_text()))
    assert state in {one["mountPath"] for one in pods[0]["containers"][0]["volumeMounts"]}
    settings = re.findall(
        r"\b(?:HOME|PREFECT_HOME|\w+_DIRECTORY|MPLCONFIGDIR|HELM_CACHE_HOME|STACKWRIGHT_STATE|STACKWRIGHT_REPORTS)=(\S+)",
        dockerfile,
    )
    assert len(settings) == 7
    assert not [path for path in settings if not path.startswith((*temporary, state))]


def docker_volume(template: dict) -> str:
    """Where the state that all runs share lies in a run's container."""
    (state,) = [
        row.split(":")[1] for row in template["variables"]["properties"]["volumes"]["default"] if ":ro" not in row
    ]
    return state
