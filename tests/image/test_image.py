"""The image, built and run: no root, a read-only root, no network, no secret in it, and an SBOM of what is inside.

Built where an engine can be had (docs/lab.md) from a bootstrapped base; skipped by name otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from docker import from_env as docker_client

from deployments.image import build as building
from deployments.image.build import BUILD, commit, committed
from deployments.image.distributions import ROOT, needed, pins, select
from stackwright import __version__
from tests.flows.test_without_server import Dark
from tests.image import base
from tests.image.cyclonedx import SCHEMA
from tests.rung import engine
from tests.rung.engine import CannotRunError

MARKER = "planted-9c1f4e7b-in-image"
TAG = "stackwright-tested:latest"  # not that of `make image`: it may be in use
SEALED = (
    "--read-only", "--tmpfs", "/tmp:size=256m", "--tmpfs", "/home/stackwright:uid=10001,gid=10001,size=64m",
    "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
)  # fmt: skip
CAGE = (*SEALED, "--network", "none")
MOST_MIB = 740
START_S = 240.0
STATE = "{{.State.Status}} {{.State.Health.Status}}"
BUILT: dict[str, str] = {}
"""What was said of the checkout when the image was built."""
LOCK = ROOT / "requirements.lock"


def docker(*words: str, check: bool = True, timeout_s: float = 300) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"docker {words}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
    return done.stdout


def logs(name: str) -> str:
    """Return what a container said, on both of its streams."""
    argv = ["docker", "logs", name]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image of this checkout, built with a secret lying about: in a file unknown to git, and in a variable."""
    planted = ROOT / "deployments" / "planted.token"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(engine.running())
            name = base.ensure_base()
        except CannotRunError as error:
            pytest.skip(f"the image: {error}")
        before = docker("images", "--quiet", "--no-trunc", TAG).strip()
        planted.write_text(f"secret: {MARKER}\n")
        stack.callback(planted.unlink)
        os.environ["PLANTED_TOKEN"] = MARKER
        stack.callback(os.environ.pop, "PLANTED_TOKEN")
        BUILT.update(commit=commit(), created=committed())
        started = time.monotonic()
        building.build(name, TAG, from_environment=True)
        print(f"IMAGE size_mib={base.image_size(TAG)} build_s={time.monotonic() - started:.0f}")
        if before and before != docker("images", "--quiet", "--no-trunc", TAG).strip():
            docker("rmi", before, check=False)  # the last one of this name; its layers that still fit are kept
        yield TAG


def caged(image: str, *words: str) -> str:
    """Run a command in the image as a cluster would: no root, nothing writable but temporary folders, no network."""
    return docker("run", "--rm", *CAGE, "--entrypoint", words[0], image, *words[1:])


def wait_healthy(name: str) -> None:
    """Wait until the image's own health check is content, as the engine asks it."""

    def healthy() -> bool:
        state, health = docker("inspect", "--format", STATE, name).split()
        assert state == "running", logs(name)[-3000:]
        return health == "healthy"

    wait_for(healthy, lambda: logs(name))


def wait_for(true: Callable[[], bool], said: Callable[[], str]) -> None:
    """Wait until something is true; else show what was said meanwhile."""
    deadline = time.monotonic() + START_S
    while not true():
        assert time.monotonic() < deadline, said()[-3000:]
        threading.Event().wait(0.5)


def online(server: str, pool: str) -> int:
    """Return how many workers of a pool the server in a container knows to be there."""
    say = f"""
import json, urllib.request as u
url = "http://127.0.0.1:4200/api/work_pools/{pool}/workers/filter"
asked = u.Request(url, data=b"{{}}", headers={{"Content-Type": "application/json"}})
try:
    print(sum(one["status"] == "ONLINE" for one in json.load(u.urlopen(asked))))
except u.HTTPError as error:
    assert error.code == 404  # the worker makes its pool at its first word
    print(0)
"""
    return int(docker("exec", server, "python3", "-c", say))


@contextlib.contextmanager
def started(*words: str) -> Iterator[str]:
    """A container that is asked for its health every other second, and is gone afterwards."""
    name = docker("run", "--detach", *SEALED, "--health-interval", "2s", *words).strip()
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


@pytest.mark.containers
class TestImage:
    """All of these share one build."""

    def test_our_programs_run_in_a_cage(self, image: str) -> None:
        """As a fixed user, with a read-only root and without any network."""
        said = caged(image, "sh", "-ec", PROGRAMS)
        assert said.startswith("10001\n") and "no problem found" in said and "3.8.8" in said
        assert '"version":"v4.' in said.replace(" ", "") and '"gitVersion"' in said
        assert "worker" in docker("run", "--rm", *CAGE, image, "--help")

    def test_every_module_of_ours_is_compiled_and_can_be_imported(self, image: str) -> None:
        """What was left out is missed by none, and no start compiles anything: the root could not keep it."""
        said = json.loads(caged(image, "python3", "-c", MODULES).splitlines()[-1])
        assert said == {"broken": [], "uncompiled": [], "lacking": []}

    def test_server_and_worker_are_healthy_in_the_cage(self, image: str) -> None:
        """The same image is Prefect's server and a worker beside it; unhealthy before, healthy after; nobody misses
        a network, and the UI's files are there although the root is read-only."""
        url = "STACKWRIGHT_HEALTH_URL=http://127.0.0.1:4200/api/health"
        serve = ("server", "start", "--host", "127.0.0.1")
        with started("--network", "none", "--env", url, "--entrypoint", "prefect", image, *serve) as server:
            assert "refused" in docker("exec", server, "python3", "-m", "stackwright.health", check=False)
            wait_healthy(server)
            page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:4200/').read().decode())"
            assert "<html" in docker("exec", server, "python3", "-c", page).lower()
            beside = ("--network", f"container:{server}", "--env", "PREFECT_API_URL=http://127.0.0.1:4200/api")
            work = ("worker", "start", "--pool", "tried", "--type", "process", "--with-healthcheck")
            with started(*beside, "--entrypoint", "prefect", image, *work) as worker:
                wait_healthy(worker)
                wait_for(lambda: online(server, "tried") == 1, lambda: logs(worker))
                said = logs(worker)
            said += logs(server)
        assert "Check out the dashboard" in said
        assert not re.search(r"Traceback|Name or service not known|name resolution|Network is unreachable", said), said

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
                said = container.logs(stderr=False).decode()  # what it was refused is told on the other
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
        # The second is of our own code: the search would have seen the first.
        assert found_in_layers(image, MARKER.encode(), b"def ensure_work_pool") == [False, True]

    def test_nothing_is_inside_that_lends_rights_or_does_not_belong(self, image: str) -> None:
        """No set-user-id, no folder that all can write but temporary ones, no key, compiler, cache, test or list."""
        assert docker("run", "--rm", *CAGE, "--user", "0", "--entrypoint", "sh", image, "-c", LEFTOVERS) == ""
        assert base.image_size(image) < MOST_MIB

    def test_the_sbom_lists_what_is_inside(self, image: str) -> None:
        """Every distribution with the version of the lock, every package of the base, both tools with their digests."""
        document = json.loads((BUILD / "sbom.json").read_text())
        jsonschema.validate(document, SCHEMA, format_checker=jsonschema.FormatChecker())
        parts = {part["purl"]: part for part in document["components"]}
        assert len(parts) == len(document["components"])
        (own,) = document["dependencies"]
        assert own == {"ref": document["metadata"]["component"]["bom-ref"], "dependsOn": list(parts)}
        assert document["metadata"]["timestamp"] == BUILT["created"] and BUILT["commit"] in own["ref"]
        python = {part["name"]: part["version"] for purl, part in parts.items() if purl.startswith("pkg:pypi/")}
        base_python, there, loaded = json.loads(caged(image, "python3", "-c", DISTRIBUTIONS))
        assert there.pop("stackwright") == __version__ and "stackwright" in loaded
        assert python == there == pins(select(LOCK.read_text(), needed(base_python), base_python))
        base_has = caged(image, "dpkg-query", "-W", "-f", "${Package} ${Version}\\n").split("\n")[:-1]
        listed = {f"{part['name']} {part['version']}" for purl, part in parts.items() if purl.startswith("pkg:deb/")}
        assert listed == set(base_has)
        for tool in ("helm", "kubectl"):
            (part,) = [one for one in parts.values() if one["name"] == tool]
            assert part["hashes"][0]["content"] in caged(image, "sha256sum", f"/usr/local/bin/{tool}")

    def test_labels_say_version_and_commit(self, image: str) -> None:
        labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image))
        said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
        assert said["version"] == __version__ and said["title"] == "stackwright" and said["description"]
        assert said["revision"] == BUILT["commit"] and said["created"] == BUILT["created"]
        assert said["base.name"].startswith(base.REPOSITORY) and said["base.digest"] == ""
        config = json.loads(docker("inspect", "--format", "{{json .Config}}", image))
        assert config["User"] == "10001:10001" and "stackwright.health" in config["Healthcheck"]["Test"]


@pytest.mark.slow
@pytest.mark.containers
def test_a_plan_made_in_the_image_is_the_plan_of_the_checkout(image: str, tmp_path: Path) -> None:
    """Against a lab on this host, with all that a plan needs: SSH, HTTPS, secrets from files, a server of its own.

    Prefect's server is not there (docs/without-server.md), so its own processes have to find their modules too.
    """
    dark = Dark(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(dark.lab.stop)
        dark.start()
        wanted = dark.run("plan", "lab")
        safe, inside = dark.file.parent, tmp_path / "inside"
        shutil.copytree(safe, inside)
        for path in (inside, *inside.iterdir()):
            os.chown(path, 10001, 10001)
        mounts = {dark.lab.sites: "/etc/stackwright/sites", dark.lab.folder / "ca.pem": None, inside: safe}
        words = [word for here, there in mounts.items() for word in ("--volume", f"{here}:{there or here}:ro")]
        words += ["--tmpfs", "/var/lib/stackwright:uid=10001,gid=10001,size=64m", "--network", "host"]
        words += ["--env", "STACKWRIGHT_SITES=/etc/stackwright/sites", image, "plan", "lab"]
        seen = docker("run", "--rm", *SEALED, *words, "--without-server", str(dark.file))
    line = re.compile(r"^plan [0-9a-f]{12}: [1-9]\d* step\(s\).*$", re.M)
    assert wanted.code == 0 and line.findall(seen) == line.findall(wanted.output) != []


PROGRAMS = """
id -u
stackwright lint example-ha
prefect --version
helm version --template '{"version":"{{.Version}}"}'
kubectl version --client -o json
"""
MODULES = """
import importlib, importlib.util, json, pathlib, sys, warnings
from importlib.metadata import distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
warnings.simplefilter("ignore")
app = pathlib.Path("/opt/stackwright/app")
names = [str(path.relative_to(app).with_suffix("")).replace("/", ".").removesuffix(".__init__")
         for room in ("stackwright", "tasks", "blocks", "flows") for path in app.glob(room + "/**/*.py")]
broken = []
for name in [*names, "prefect_redis.messaging", "prefect_kubernetes.worker", "matplotlib.pyplot", "boto3",
             "opentelemetry.exporter.otlp.proto.http.trace_exporter"]:
    try:
        importlib.import_module(name)
    except Exception as error:
        broken.append(f"{name}: {error!r}")
uncompiled = [path for path in map(str, pathlib.Path("/opt/stackwright").rglob("*.py"))
              if not pathlib.Path(importlib.util.cache_from_source(path)).exists()]
there = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions()}
asked = [Requirement(line) for one in distributions() for line in one.requires or []]
asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
lacking = [str(one) for one in asked if not one.specifier.contains(there.get(canonicalize_name(one.name), "0"), True)]
assert len(names) > 300 and len(asked) > 200
print(json.dumps({"broken": broken, "uncompiled": uncompiled, "lacking": lacking}))
"""
"""The last of them is what pip check does: all that a distribution asks for under the image's own Python is there."""
DISTRIBUTIONS = """
import json, platform
from importlib.metadata import distributions
from packaging.utils import canonicalize_name
from prefect.plugins import load_prefect_collections
there = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions()}
print(json.dumps([platform.python_version(), there, sorted(load_prefect_collections())]))
"""
"""What pip list says, on all of Python's path and not only in our folder; and what Prefect's server loads."""
LEFTOVERS = """
for program in gcc cc make pip pip3 git curl wget; do command -v $program; done
find / -xdev -type f -perm /6000
find / -xdev -perm -0002 ! -type l ! -path /tmp ! -path /var/tmp ! -path /run/lock
find /opt /usr/local /home /var/lib/stackwright -xdev ! -user 0 ! -path /home/stackwright ! -path /var/lib/stackwright
find /var/cache /root/.cache /var/lib/apt/lists /home /var/log -type f
find / -xdev \\( -name .git -o -name .env -o -path '*private*' -name '*.pem' \\)
find /opt/stackwright -type d \\( -name tests -o -name test \\)
find /usr/local /opt -name helm -type f ! -path /usr/local/bin/helm
find /usr/local /opt -name kubectl -type f ! -path /usr/local/bin/kubectl
true
"""


def found_in_layers(image: str, *needles: bytes) -> list[bool]:
    """Tell of each of these whether the saved image, with all of its layers and settings, holds it."""
    found = [False] * len(needles)
    tail = b""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        while block := saving.stdout.read(1 << 22):
            found = [seen or needle in tail + block for seen, needle in zip(found, needles, strict=True)]
            tail = block[-100:]
    assert saving.returncode == 0
    return found
