"""The helm client: what it types, what it keeps secret, and which of our errors each failure becomes."""

from __future__ import annotations

import base64
import gzip
import json
import os
import stat
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from pydantic import SecretStr

from stackwright.clients.helm import Helm
from stackwright.domain.errors import ApiUnavailableError, ReleaseStateError, ToolError
from stackwright.domain.releases import SITE_LABEL, VALUES_LABEL, ReleaseWant
from stackwright.lab.alone import alone

PLANTED = "planted-s3cret-42"
WANT = ReleaseWant(
    "web",
    "apps",
    "/charts/web",
    "1.2.3",
    {"password": SecretStr(PLANTED), "replicas": 2},
    site="one",
    create_namespace=True,
)

# Stands for helm where a failure or an old version must be provoked: does what $SCRIPT.json says, records what it got.
FAKE = """#!{python}
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
plan = json.loads((here / "plan.json").read_text())
if sys.argv[1] == "version":
    print(plan.get("version", "v4.1.4"), end=""); sys.exit(0)
stdin = sys.stdin.read()
with (here / "ran.jsonl").open("a") as out:
    out.write(json.dumps({{"argv": sys.argv[1:], "stdin": stdin, "env": dict(os.environ)}}) + "\\n")
if "sleep" in plan:
    if os.fork() == 0:
        (here / "child").write_text(str(os.getpid())); time.sleep(plan["sleep"]); sys.exit(0)
    time.sleep(plan["sleep"])
step = plan.get(" ".join(sys.argv[1:3]), plan.get(sys.argv[1], {{}}))
print(step.get("out", ""), end=""); print(step.get("err", "").replace("@STDIN@", stdin), file=sys.stderr, end="")
sys.exit(step.get("code", 0))
"""
DONE = json.dumps(
    {
        "name": "web",
        "namespace": "apps",
        "version": 3,
        "info": {
            "status": "deployed",
            "description": "Upgrade complete",
            "last_deployed": "2026-01-02T03:04:05.678901234Z",
        },
        "chart": {"metadata": {"name": "web", "version": "1.2.3", "appVersion": "9"}},
        "config": {"password": PLANTED},
    }
)


class Fake:
    def __init__(self, folder, plan, **settings):
        self.folder = folder
        binary = folder / "helm"
        binary.write_text(FAKE.format(python=sys.executable))
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        (folder / "plan.json").write_text(json.dumps(plan))
        self.commands = []
        settings = {"timeout_s": 20, **settings}
        self.helm = Helm(
            str(binary), folder / "kubeconfig", folder / "work", on_command=self.commands.append, **settings
        )

    @property
    def ran(self):
        path = self.folder / "ran.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("version", "there", "missing"),
    [("v3.17.2", [], ["--server-side=auto"]), ("v4.1.4", ["--server-side=auto", "--wait=hookOnly"], [])],
)
def test_each_major_gets_its_own_flags(tmp_path, version, there, missing):
    """The major is found at run time and its flags are used; values come in on stdin, labels carry hash and site."""
    fake = Fake(tmp_path, {"version": version, "upgrade": {"out": DONE}})
    release = fake.helm.upgrade_install(WANT)
    (ran,) = fake.ran
    argv = ran["argv"]
    assert all(flag in argv for flag in there) and not any(flag in argv for flag in missing)
    assert argv[:3] == ["upgrade", "web", "/charts/web"] and "--create-namespace" in argv and "--install" in argv
    assert argv[argv.index("--values") + 1] == "-" and "--set" not in argv
    labels = argv[argv.index("--labels") + 1]
    assert f"{VALUES_LABEL}={WANT.hash}" in labels and f"{SITE_LABEL}=one" in labels
    assert json.loads(ran["stdin"]) == {"password": PLANTED, "replicas": 2}
    assert (release.status, release.revision, release.values_hash) == ("deployed", 3, WANT.hash)
    assert release.updated == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def test_an_unknown_major_is_refused(tmp_path):
    """A helm that nobody knows is not tried."""
    with pytest.raises(ToolError, match="helm 3 or 4"):
        Fake(tmp_path, {"version": "v5.0.0"}).helm.releases()


def test_taking_fields_back_is_said_explicitly(tmp_path):
    """force_conflicts is typed only when the want says so."""
    fake = Fake(tmp_path, {"upgrade": {"out": DONE}})
    fake.helm.upgrade_install(WANT)
    fake.helm.upgrade_install(replace(WANT, force_conflicts=True))
    assert ["--force-conflicts" in ran["argv"] for ran in fake.ran] == [False, True]


def test_no_secret_leaves_the_process(tmp_path):
    """Neither arguments, recorded commands, errors nor files below the work folder hold a value's secret."""
    fake = Fake(tmp_path, {"upgrade": {"code": 1, "err": "Error: bad values @STDIN@ and " + PLANTED}})
    with pytest.raises(ToolError) as failed:
        fake.helm.upgrade_install(WANT)
    assert PLANTED not in str(failed.value) and "***" in str(failed.value)
    assert PLANTED not in json.dumps(fake.commands) and PLANTED not in json.dumps(fake.ran[0]["argv"])
    assert PLANTED not in json.dumps(fake.ran[0]["env"])
    assert not any(PLANTED in path.read_text() for path in (tmp_path / "work").rglob("*") if path.is_file())


def test_the_login_password_goes_through_stdin_to_a_bare_host(tmp_path):
    """registry login gets the host without scheme or path, and the password on stdin."""
    fake = Fake(tmp_path, {"registry": {}})
    fake.helm.registry_login("oci://r.test:5000/charts", "me", SecretStr(PLANTED))
    (ran,) = fake.ran
    assert ran["argv"][:3] == ["registry", "login", "r.test:5000"] and "--password-stdin" in ran["argv"]
    assert ran["stdin"] == PLANTED and "--kubeconfig" not in ran["argv"]


def test_every_instance_has_its_own_home(tmp_path):
    """Nothing of the operator's own helm is read or written."""
    fake = Fake(tmp_path, {"list": {"out": "[]"}})
    fake.helm.releases()
    env = fake.ran[0]["env"]
    for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_REGISTRY_CONFIG", "HELM_REPOSITORY_CONFIG", "HOME"):
        assert env[name].startswith(str(tmp_path / "work"))
    assert "KUBECONFIG" not in env
    assert (tmp_path / "work/helm").stat().st_mode & 0o077 == 0 or os.umask(0o077) is not None


@pytest.mark.parametrize(
    ("said", "error", "transient"),
    [
        ("Error: Kubernetes cluster unreachable: dial tcp: connection refused", ApiUnavailableError, True),
        ('Error: Internal error occurred: failed calling webhook "x": no endpoints', ApiUnavailableError, True),
        ("Error: another operation (install/upgrade/rollback) is in progress", ReleaseStateError, False),
        ("Error: Unable to continue with install: invalid ownership metadata; label", ReleaseStateError, False),
        ('Error: UPGRADE FAILED: "web" has no deployed releases', ReleaseStateError, False),
        ("Error: values don't meet the specifications of the schema", ToolError, False),
    ],
)
def test_failures_become_our_errors(tmp_path, said, error, transient):
    """Each kind of failure has its class, carries helm's own words, and says whether trying again may help."""
    fake = Fake(tmp_path, {"upgrade": {"code": 1, "err": said}})
    with pytest.raises(error) as failed:
        fake.helm.upgrade_install(WANT)
    assert failed.value.transient is transient
    assert said.removeprefix("Error: ")[:20] in failed.value.seen and "apps/web" in failed.value.where


def test_a_missing_helm_says_how_to_get_one(tmp_path):
    """No binary is a ToolError with a remedy, not a traceback."""
    with pytest.raises(ToolError, match="Install helm"):
        Helm(str(tmp_path / "none"), None, tmp_path).version()


def test_a_hanging_helm_is_ended_with_its_children(tmp_path):
    """At the time limit the whole process group goes."""
    for limit_s in (1.5, 6.0, 24.0):  # on a busy machine it has no child so early
        fake = Fake(tmp_path, {"sleep": 60}, timeout_s=limit_s)
        with pytest.raises(ToolError, match="did not end"):
            fake.helm.uninstall("web", "apps", timeout_s=0)
        if (tmp_path / "child").exists():
            break
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_release_is_read_in_any_state(tmp_path):
    """Newest revision with chart, labels and, when it is not deployed, its description; None when there is none."""
    row = {"name": "web", "namespace": "apps", "revision": "4", "status": "failed", "chart": "web-app-1.2.3"}
    plan = {
        "list": {"out": json.dumps([row])},
        "get metadata": {
            "out": json.dumps(
                {
                    "name": "web",
                    "chart": "web-app",
                    "version": "1.2.3",
                    "revision": 4,
                    "labels": {VALUES_LABEL: "abc"},
                    "deployedAt": "2026-01-02T03:04:05Z",
                }
            )
        },
        "history": {
            "out": json.dumps(
                [{**row, "revision": 4, "description": "timed out", "updated": "2026-01-02 03:04:05.123 +0000 UTC"}]
            )
        },
    }
    release = Fake(tmp_path, plan).helm.release("web", "apps")
    assert (release.chart, release.version, release.status) == ("web-app", "1.2.3", "failed")
    assert (release.description, release.values_hash, release.revision) == ("timed out", "abc", 4)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert Fake(empty, {"list": {"out": "[]"}}).helm.release("web", "apps") is None


def test_chart_and_version_are_split_at_the_number(tmp_path):
    """helm list joins chart and version; names with dashes and versions with a v or a plus are told apart."""
    rows = [
        {"name": str(index), "namespace": "x", "revision": "1", "status": "deployed", "chart": chart}
        for index, chart in enumerate(["cert-manager-v1.20.3", "neuvector-108.0.9+up2.11.2", "k8s-1-tool-0.1.0-rc.1"])
    ]
    found = Fake(tmp_path, {"list": {"out": json.dumps(rows)}}).helm.releases()
    assert [(row.chart, row.version) for row in found] == [
        ("cert-manager", "v1.20.3"),
        ("neuvector", "108.0.9+up2.11.2"),
        ("k8s-1-tool", "0.1.0-rc.1"),
    ]


def test_a_damaged_cache_is_not_used(tmp_path):
    """An archive whose bytes no longer match its digest is pulled again."""
    fake = Fake(tmp_path, {})
    binary = tmp_path / "helm"
    binary.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "argv = sys.argv\n"
        "pathlib.Path(argv[argv.index('--destination') + 1], 'web-1.2.3.tgz').write_bytes(b'chart')\n"
    )
    first = fake.helm.pull("oci://r.test/web", "1.2.3")
    assert fake.helm.pull("oci://r.test/web", "1.2.3") == first and len(fake.commands) == 1
    Path(first).write_bytes(b"chartX")
    again = fake.helm.pull("oci://r.test/web", "1.2.3")
    assert again.read_bytes() == b"chart" and len(fake.commands) == 2


BINARIES = {
    "helm4": Path(__file__).parents[2] / "build/tools/bin/helm",
    "helm3": Path(__file__).parents[2] / "build/tools/helm3/helm",
}


def stored(revision, state, **labels):
    """Return a revision as helm keeps it: gzip in base64 in a Secret, its labels on the Secret."""
    info = {"first_deployed": "2026-01-02T03:04:05Z", "last_deployed": "2026-01-02T03:04:05Z", "status": state}
    release = {
        "name": "web",
        "namespace": "apps",
        "version": revision,
        "info": {**info, "description": "why it is so"},
        "chart": {"metadata": {"name": "web-app", "version": "1.2.3", "apiVersion": "v2", "appVersion": "9"}},
        "manifest": "",
    }
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
    marks = {"owner": "helm", "name": "web", "status": state, "version": str(revision), **labels}
    meta = {"name": f"sh.helm.release.v1.web.v{revision}", "namespace": "apps", "labels": marks}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "helm.sh/release.v1"}
    return {**secret, "data": {"release": packed}}


def storage_app(secrets):
    """Serve Secrets by label selector, all that helm reads for its listings."""

    async def listing(request):
        wanted = dict(part.split("=") for part in request.query.get("labelSelector", "").split(",") if part)
        found = [s for s in secrets if all(s["metadata"]["labels"].get(k) == v for k, v in wanted.items())]
        return web.json_response({"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": found})

    async def one(request):
        name = request.match_info["name"]
        return web.json_response(next(s for s in secrets if s["metadata"]["name"] == name))

    async def version(_):
        return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.10"})

    app = web.Application()

    async def core(_):
        return web.json_response({"resources": [{"name": "secrets", "kind": "Secret", "namespaced": True}]})

    app.router.add_get("/api/v1", core)
    app.router.add_get("/version", version)
    app.router.add_get("/api/v1/namespaces/apps/secrets", listing)
    app.router.add_get("/api/v1/secrets", listing)
    app.router.add_get("/api/v1/namespaces/apps/secrets/{name}", one)
    return app


@pytest.mark.parametrize("major", BINARIES)
def test_the_real_helm_reads_what_is_stored(tmp_path, major):
    """Both majors: newest revision in any state with our labels and its description; history; listing; absence."""
    if not BINARIES[major].exists():
        pytest.skip(f"{major} is not fetched yet: make setup")
    ours = {VALUES_LABEL: "abc", SITE_LABEL: "one"}
    kept = [stored(1, "deployed", **ours), stored(2, "pending-upgrade", **ours)]
    with alone(lambda: storage_app(kept)) as served:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": served.url}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        helm = Helm(str(BINARIES[major]), tmp_path / "kubeconfig", tmp_path)
        release = helm.release("web", "apps")
        assert (release.status, release.revision, release.chart, release.version) == (
            "pending-upgrade",
            2,
            "web-app",
            "1.2.3",
        )
        assert (release.values_hash, release.labels[SITE_LABEL]) == ("abc", "one")
        assert release.description == "why it is so"
        assert release.updated == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert [row.status for row in helm.history("web", "apps")] == ["deployed", "pending-upgrade"]
        assert [(row.name, row.status) for row in helm.releases()] == [("web", "pending-upgrade")]
        assert helm.release("other", "apps") is None
    with pytest.raises(ApiUnavailableError):
        helm.release("web", "apps")
