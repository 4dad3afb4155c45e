"""What the helm client promises, with the real helm: on the stand-in always, on a live cluster when one is given.

A live cluster is named by STACKWRIGHT_LIVE_KUBECONFIG. The chart has a ConfigMap and a Secret, so no image is needed.
"""

from __future__ import annotations

import base64
import os
import socket
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from stackwright.clients.helm import Helm
from stackwright.clients.kube import Kube
from stackwright.domain.errors import ApiUnavailableError, ReleaseStateError, ToolError
from stackwright.domain.releases import LAYER_LABEL, Release, ReleaseWant, storage_secret
from stackwright.lab.tools import ensure_tools

LIVE_KUBECONFIG = os.environ.get("STACKWRIGHT_LIVE_KUBECONFIG", "")
PLANTED = "planted-s3cret-42"
WANT = ReleaseWant(
    "web",
    "",
    "",
    "1.2.3",
    {"text": "first", "password": SecretStr(PLANTED), "list": [1, 2]},
    labels={LAYER_LABEL: "test"},
    site="contract",
    create_namespace=True,
    timeout_s=60,
)

CHART = {
    "Chart.yaml": "{apiVersion: v2, name: tiny, version: 1.2.3, appVersion: '9'}",
    "values.yaml": "{text: '', more: '', password: '', list: [], broken: '', map: ''}",
    "templates/refusal.yaml": """
{{- if eq .Values.broken "template" }}{{ fail (printf "cannot go on with %s" .Values.password) }}{{ end }}
""",
    "templates/map.yaml": """
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Values.map | default .Release.Name }}
data:
  text: {{ .Values.text | quote }}
  more: {{ .Values.more | quote }}
  list: {{ .Values.list | toJson | quote }}
""",
    "templates/secret.yaml": """
apiVersion: v1
kind: Secret
metadata:
  name: {{ .Release.Name }}
  {{- if eq .Values.broken "server" }}
  annotations: {"not a key {{ .Values.password }}": "x"}
  {{- end }}
data:
  password: {{ .Values.password | b64enc }}
""",
}


@dataclass
class Bench:
    """A helm client, its cluster, and what it typed. `want` is the tiny chart in a namespace of the test's own."""

    helm: Helm
    kube: Kube
    want: ReleaseWant
    commands: list[list[str]]

    @property
    def space(self) -> str:
        return self.want.namespace

    def with_values(self, **values) -> ReleaseWant:
        return replace(self.want, values={**self.want.values, **values})

    def release(self) -> Release | None:
        return self.helm.release("web", self.space)

    def config_map(self, name="web"):
        return self.kube.get("v1", "ConfigMap", name, self.space)

    def password(self) -> str:
        return self.kube.secret_value("web", self.space, "password").get_secret_value()


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts") / "tiny"
    for name, text in CHART.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip())
    return folder


@pytest.fixture(params=["stand-in", *(["live"] if LIVE_KUBECONFIG else [])])
def bench(request, chart, tmp_path):
    """A bench whose namespace does not exist yet: the first release makes it."""
    live = request.param == "live"
    kubeconfig = Path(LIVE_KUBECONFIG) if live else request.getfixturevalue("stand_in_cluster").kubeconfig
    commands: list[list[str]] = []
    helm = Helm(str(ensure_tools().helm), kubeconfig, tmp_path, on_command=commands.append)
    space = f"stackwright-contract-{uuid.uuid4().hex[:8]}"
    kube = Kube(kubeconfig)
    yield Bench(helm, kube, replace(WANT, namespace=space, chart=str(chart)), commands)
    kube.delete("v1", "Namespace", space)
    kube.close()


def assert_no_secret(text):
    for form in (PLANTED, base64.b64encode(PLANTED.encode()).decode()):
        assert form not in text


def test_what_was_installed_is_read_back(bench):
    """Chart, version, revision, labels and the digest of the values: all that the next run decides by."""
    assert bench.release() is None and bench.helm.releases(bench.space) == ()
    made = bench.helm.upgrade_install(bench.want)
    seen = bench.release()
    assert (made.status, made.chart, made.version, made.revision) == ("deployed", "tiny", "1.2.3", 1)
    assert (seen.status, seen.chart, seen.version, seen.revision) == ("deployed", "tiny", "1.2.3", 1)
    assert seen.labels.items() >= bench.want.all_labels().items()
    assert seen.values_hash == bench.want.hash and seen.app_version == "9" and seen.updated is not None
    assert seen.updated.tzinfo is not None
    assert bench.config_map()["data"] == {"text": "first", "more": "", "list": "[1,2]"}
    assert bench.password() == PLANTED
    assert [row.name for row in bench.helm.releases(bench.space)] == ["web"]
    assert ("web", bench.space) in {(row.name, row.namespace) for row in bench.helm.releases()}
    assert bench.kube.get("v1", "Secret", storage_secret("web", 1), bench.space) is not None


def test_a_secret_is_in_no_command(bench):
    """Values go through standard input, whatever is done with the release."""
    bench.helm.upgrade_install(bench.want)
    bench.release()
    bench.helm.upgrade_install(bench.with_values(text="second"))
    bench.helm.template(bench.want)
    assert bench.password() == PLANTED
    assert {"upgrade", "list", "get", "template"} <= {argv[1] for argv in bench.commands}
    assert_no_secret(str(bench.commands))
    assert_no_secret(repr(bench.want))


def test_the_same_values_again_touch_no_object(bench):
    """A new revision is noted, with the same digest; the objects keep their versions."""
    bench.helm.upgrade_install(bench.want)
    before = bench.config_map()["metadata"]
    again = bench.helm.upgrade_install(bench.want)
    after = bench.config_map()["metadata"]
    assert again.revision == 2 and bench.release().values_hash == bench.want.hash
    assert (after["uid"], after["resourceVersion"]) == (before["uid"], before["resourceVersion"])


def test_changed_values_replace_the_old_ones(bench):
    """Revision 2 has its own digest, and nothing of revision 1 is merged in."""
    first, second = bench.with_values(more="only in the first"), bench.with_values(text="second")
    bench.helm.upgrade_install(first)
    assert bench.config_map()["data"]["more"] == "only in the first"
    bench.helm.upgrade_install(second)
    seen = bench.release()
    assert (seen.revision, seen.status) == (2, "deployed")
    assert seen.values_hash == second.hash != first.hash
    assert bench.config_map()["data"] == {"text": "second", "more": "", "list": "[1,2]"}
    rows = bench.helm.history("web", bench.space)
    assert [(row.revision, row.status, row.chart, row.version) for row in rows] == [
        (1, "superseded", "tiny", "1.2.3"),
        (2, "deployed", "tiny", "1.2.3"),
    ]


def test_a_rollback_brings_values_and_digest_back(bench):
    """It is a revision of its own. Revision 0 means the one before the newest."""
    second = bench.with_values(text="second", password=SecretStr("another-s3cret"))
    bench.helm.upgrade_install(bench.want)
    bench.helm.upgrade_install(second)
    bench.helm.rollback("web", bench.space, timeout_s=60)
    seen = bench.release()
    assert (seen.revision, seen.status, seen.values_hash) == (3, "deployed", bench.want.hash)
    assert bench.config_map()["data"]["text"] == "first" and bench.password() == PLANTED
    bench.helm.rollback("web", bench.space, 2, timeout_s=60)
    assert bench.release().values_hash == second.hash and bench.password() == "another-s3cret"


def test_uninstalling_twice_removes_once(bench):
    """Objects and history go; there is nothing to complain about the second time."""
    bench.helm.upgrade_install(bench.want)
    bench.helm.uninstall("web", bench.space, timeout_s=60)
    assert bench.release() is None and bench.config_map() is None
    assert bench.kube.get("v1", "Secret", storage_secret("web", 1), bench.space) is None
    bench.helm.uninstall("web", bench.space, timeout_s=60)
    with pytest.raises(ToolError):
        bench.helm.history("web", bench.space)


def test_a_template_that_fails_is_told_without_the_secret(bench):
    """The chart's own words are in the error, the value in them is not; nothing was made."""
    with pytest.raises(ToolError) as caught:
        bench.helm.upgrade_install(bench.with_values(broken="template"))
    assert "cannot go on with ***" in caught.value.seen and not caught.value.transient
    assert caught.value.where == f"release {bench.space}/web"
    assert_no_secret(f"{caught.value}{caught.value!r}{bench.commands}")
    assert bench.release() is None and bench.config_map() is None


def test_an_object_that_the_server_refuses_leaves_a_failed_release(bench):
    """The server's words reach the error and the release's description, both without the secret. A retry mends it."""
    with pytest.raises(ToolError) as caught:
        bench.helm.upgrade_install(bench.with_values(broken="server"))
    assert "metadata.annotations" in caught.value.seen and "***" in caught.value.seen
    seen = bench.release()
    assert (seen.status, seen.revision) == ("failed", 1) and seen.description
    assert_no_secret(f"{caught.value}{caught.value!r}{seen}{bench.commands}")
    bench.helm.upgrade_install(bench.want)
    assert (bench.release().status, bench.release().revision) == ("deployed", 2)


def test_an_object_of_another_release_is_not_taken(bench):
    """Helm marks what belongs to a release; the refusal names the other one as the thing to mend."""
    bench.helm.upgrade_install(bench.with_values(map="shared"))
    thief = replace(bench.with_values(map="shared", text="stolen"), name="other")
    with pytest.raises(ReleaseStateError) as caught:
        bench.helm.upgrade_install(thief)
    assert "invalid ownership metadata" in caught.value.seen and not caught.value.transient
    assert bench.config_map("shared")["data"]["text"] == "first"


def test_rendering_needs_no_cluster(chart, tmp_path):
    """Template and default values come from the chart alone."""
    helm = Helm(str(ensure_tools().helm), None, tmp_path)
    rendered = helm.template(replace(WANT, namespace="n", chart=str(chart)), kube_version="1.34.0")
    assert sorted(item["kind"] for item in rendered) == ["ConfigMap", "Secret"]
    assert helm.show_values(str(chart), "1.2.3")["list"] == []


def test_a_cluster_that_cannot_be_reached_is_worth_another_try(chart, tmp_path):
    """Looking and changing say the same; unknown is not absent."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{held.getsockname()[1]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": PLANTED}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        }
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(yaml.safe_dump(content))
        helm = Helm(str(ensure_tools().helm), kubeconfig, tmp_path / "work")
        want = replace(WANT, namespace="n", chart=str(chart))
        for ask in (lambda: helm.release("web", "n"), lambda: helm.upgrade_install(want)):
            with pytest.raises(ApiUnavailableError) as caught:
                ask()
            assert caught.value.transient
            assert_no_secret(str(caught.value))
