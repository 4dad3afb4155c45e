"""The image, built and run: no root, a read-only root, no network, no secret in it, and an SBOM of what is inside.

Built where an engine can be had (docs/lab.md) from a bootstrapped base; skipped by name otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from docker import from_env as docker_client

from deployments.image import build as building
from deployments.image.build import BUILD, commit, tracked
from deployments.image.distributions import ROOT, needed, select
from stackwright import __version__
from tests.image import base
from tests.rung import engine
from tests.rung.engine import CannotRunError

MARKER = "planted-9c1f4e7b-in-image"
CAGE = (
    "--read-only", "--tmpfs", "/tmp:size=256m", "--tmpfs", "/home/stackwright:uid=10001,gid=10001,size=64m",
    "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none",
)  # fmt: skip
MOST_MIB = 850
BUILT: dict[str, str] = {}
"""What was said of the checkout when the image was built."""


def docker(*words: str, check: bool = True, timeout_s: float = 300) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"docker {words}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image of this checkout, built with a secret lying about: in a file unknown to git, and in a variable."""
    planted = ROOT / "deployments" / "sites" / "planted.yaml"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(engine.running())
            name = base.ensure_base()
        except CannotRunError as error:
            pytest.skip(f"the image: {error}")
        planted.write_text(f"secret: {MARKER}\n")
        stack.callback(planted.unlink)
        os.environ["PLANTED_TOKEN"] = MARKER
        stack.callback(os.environ.pop, "PLANTED_TOKEN")
        BUILT["commit"] = commit()
        started = time.monotonic()
        building.build(name, base.TAG, from_environment=True)
        print(f"IMAGE size_mib={base.image_size()} build_s={time.monotonic() - started:.0f}")
        yield base.TAG


def caged(image: str, *words: str) -> str:
    """Run a command in the image as a cluster would: no root, nothing writable but temporary folders, no network."""
    return docker("run", "--rm", *CAGE, "--entrypoint", words[0], image, *words[1:])


@pytest.mark.slow
@pytest.mark.containers
class TestImage:
    """All of these share one build."""

    def test_our_programs_run_in_a_cage(self, image: str) -> None:
        """As a fixed user, with a read-only root and without any network."""
        assert caged(image, "id", "-u") == "10001\n"
        assert "no problem found" in caged(image, "stackwright", "lint", "example-ha")
        assert "worker" in docker("run", "--rm", *CAGE, image, "--help")
        assert "3.8.8" in caged(image, "prefect", "--version")
        assert "v4." in caged(image, "helm", "version", "--short")
        assert "gitVersion" in caged(image, "kubectl", "version", "--client", "-o", "json")
        caged(image, "python3", "-c", "import prefect_redis.messaging, prefect_kubernetes.worker, matplotlib.pyplot")
        assert caged(image, "python3", "-c", WHOLE) == "[]\n"

    def test_a_server_and_its_health_check_work_in_the_cage(self, image: str) -> None:
        """The same image is Prefect's server; unhealthy before, healthy after."""
        url = "STACKWRIGHT_HEALTH_URL=http://127.0.0.1:4200/api/health"
        words = ("--entrypoint", "prefect", image, "server", "start", "--host", "127.0.0.1")
        name = docker("run", "--detach", "--rm", *CAGE, "--env", url, *words).strip()
        try:
            asked = ("exec", name, "python3", "-m", "stackwright.health")
            assert "refused" in docker(*asked, check=False)
            deadline = time.monotonic() + 180
            while ": 200" not in (seen := docker(*asked, check=False)):
                assert time.monotonic() < deadline, seen + docker("logs", name)
                threading.Event().wait(1)
            assert "python3" in docker("inspect", "--format", "{{.Config.Healthcheck.Test}}", image)
        finally:
            docker("kill", name)

    def test_a_run_of_the_docker_pool_starts_in_its_container(self, image: str, tmp_path: Path) -> None:
        """As Prefect's Docker worker would make it: past the entry point, sealed, with state and sites to hand."""
        from prefect_docker.worker import DockerWorker  # the extra `docker`

        from tests.team.test_docker_pool import configured

        (tmp_path / "here.yaml").write_text("site: here\n")
        tmp_path.chmod(0o755)
        script = (
            "id -u; ls /etc/stackwright/sites; echo >/var/lib/stackwright/x && echo kept; echo >/opt/x || echo sealed"
        )
        made = configured(
            image=image, command=f"sh -c '{script}; prefect --version'", network_mode="none",
            volumes=[f"{tmp_path}:/etc/stackwright/sites:ro", "stackwright-tried:/var/lib/stackwright"],
        )  # fmt: skip
        with contextlib.closing(docker_client()) as client:
            settings = DockerWorker._build_container_settings(SimpleNamespace(), client, made)  # type: ignore[arg-type]
            container = client.containers.create(**settings)
            try:
                container.start()
                assert container.wait(timeout=120)["StatusCode"] == 0
                said = container.logs().decode()
            finally:
                container.remove(force=True, v=True)
                client.volumes.get("stackwright-tried").remove()
        assert said.split()[:3] == ["10001", "here.yaml", "kept"] and "sealed" in said and "3.8.8" in said

    def test_the_root_cannot_be_written(self, image: str) -> None:
        script = "for at in /opt/stackwright/app /usr/local/bin /etc; do echo x >$at/x && echo wrote; done; true"
        assert "wrote" not in caged(image, "sh", "-c", f"{{ {script}; }} 2>&1")

    def test_no_secret_is_in_layers_history_or_settings(self, image: str) -> None:
        """The planted one is in none of them, although it lay in the project's folder; it would be found."""
        assert MARKER not in docker("history", "--no-trunc", image) + docker("inspect", image)
        saved = BUILD / "saved.tar"
        try:
            docker("save", "--output", str(saved), image)
            assert not holds(saved, MARKER.encode())
            assert holds(saved, b"def ensure_work_pool")  # our own code is found: the search would have seen it
        finally:
            saved.unlink(missing_ok=True)
        listing = caged(
            image,
            "sh",
            "-c",
            "find / -xdev -name '*.pem' -path '*private*' -o -xdev -name '.git' -o -name .env 2>/dev/null; true",
        )
        assert listing == ""

    def test_no_compiler_package_tool_of_python_or_cache_is_inside(self, image: str) -> None:
        for program in ("gcc", "cc", "make", "pip", "pip3", "git"):
            found = docker("run", "--rm", *CAGE, "--entrypoint", "sh", image, "-c", f"command -v {program} || true")
            assert found == "", program
        assert (
            caged(image, "sh", "-c", "find /var/cache /root/.cache /var/lib/apt/lists -type f 2>/dev/null; true") == ""
        )
        assert base.image_size() < MOST_MIB

    def test_the_sbom_lists_what_is_inside(self, image: str) -> None:
        """Every distribution with the version of the lock, every package of the base, both tools with their digests."""
        document = json.loads((BUILD / "sbom.json").read_text())
        assert document["bomFormat"] == "CycloneDX" and document["specVersion"] == "1.5"
        parts = {part["purl"]: part for part in document["components"]}
        assert len(parts) == len(document["components"])
        names = {re.sub(r"[-_.]+", "-", part["name"]): part["version"] for part in parts.values()}
        python = caged(image, "python3", "-c", "import platform; print(platform.python_version())").strip()
        lock = dict(
            re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", select(LOCK.read_text(), needed(python), python), re.M)
        )
        assert {name: names.get(name) for name in lock} == lock
        base_has = caged(image, "dpkg-query", "-W", "-f", "${Package} ${Version}\\n").split("\n")[:-1]
        listed = {f"{part['name']} {part['version']}" for purl, part in parts.items() if purl.startswith("pkg:deb/")}
        assert listed == set(base_has)
        for tool in ("helm", "kubectl"):
            (part,) = [one for one in parts.values() if one["name"] == tool]
            assert part["hashes"][0]["content"] in caged(image, "sha256sum", f"/usr/local/bin/{tool}")

    def test_labels_say_version_and_commit(self, image: str) -> None:
        labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image))
        assert labels["org.opencontainers.image.version"] == __version__
        assert labels["org.opencontainers.image.revision"] == BUILT["commit"]


WHOLE = """
from importlib.metadata import distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
there = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions()}
asked = [Requirement(line) for one in distributions() for line in one.requires or []]
asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
print([str(one) for one in asked if not one.specifier.contains(there.get(canonicalize_name(one.name), "0"), True)])
"""
"""What pip check does: everything that a distribution asks for under the image's own Python is there."""
LOCK = ROOT / "requirements.lock"


def holds(path: Path, needle: bytes) -> bool:
    """Tell whether a large file holds these bytes."""
    tail = b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if needle in tail + block:
                return True
            tail = block[-len(needle) :]
    return False


# --- without an engine ------------------------------------------------------------------------------------------------


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
    from deployments.image import sbom

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
