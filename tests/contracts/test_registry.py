"""What the flows need of an OCI registry: held by the lab's stand-in, by Debian's registry where installed, and by
a live one given as STACKWRIGHT_LIVE_REGISTRY=https://user:password@host/path (its CA in STACKWRIGHT_LIVE_REGISTRY_CA).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import ssl
import subprocess
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import httpx
import pytest
from pydantic import SecretStr

from stackwright.clients.helm import Helm
from stackwright.domain.errors import ToolError
from stackwright.lab.alone import alone
from stackwright.lab.charts import CHARTS, archive
from stackwright.lab.charts.build import push_chart
from stackwright.lab.net import Authority
from stackwright.lab.registry import RegistryState, registry_app
from stackwright.lab.server import free_port

USER, PASSWORD = "pusher", "s3cr3t-of-the-registry"
HELM = os.environ.get("STACKWRIGHT_HELM", str(Path(__file__).parents[2] / "build/tools/bin/helm"))
needs_helm = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not fetched yet: make setup")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Place:
    """A registry under test. `path` is what every repository name starts with."""

    url: str
    user: str
    password: str
    ca: str | None
    path: str
    kept: Path

    @property
    def host(self):
        return urlsplit(self.url).netloc

    def client(self, *, login=True):
        context = ssl.create_default_context(cafile=self.ca)
        return httpx.Client(base_url=self.url, auth=(self.user, self.password) if login else None, verify=context)


@contextmanager
def stand_in(folder):
    authority = Authority("registry test")
    ca = folder / "ca.pem"
    ca.write_text(authority.certificate)
    state = RegistryState(folder / "data", {USER: PASSWORD})
    with alone(lambda: registry_app(state), tls=authority.server_context("registry", ["127.0.0.1"])) as served:
        yield Place(served.url, USER, PASSWORD, str(ca), "contract", folder)


@contextmanager
def debians(folder):
    authority = Authority("registry test")
    certificate, key = authority.issue("registry", ["127.0.0.1"])
    for name, text in (("ca.pem", authority.certificate), ("crt.pem", certificate), ("key.pem", key)):
        (folder / name).write_text(text)
    (folder / "htpasswd").write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "secret": "x",
            "tls": {"certificate": str(folder / "crt.pem"), "key": str(folder / "key.pem")},
        },
        "auth": {"htpasswd": {"realm": "Registry Realm", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    place = Place(f"https://127.0.0.1:{port}", USER, PASSWORD, str(folder / "ca.pem"), "contract", folder)
    try:
        deadline = time.monotonic() + 60
        while not answers(place):
            assert time.monotonic() < deadline and process.poll() is None
        yield place
    finally:
        process.terminate()
        process.wait(10)


def answers(place):
    try:
        with place.client() as client:
            return client.get("/v2/").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def live(folder):
    url = urlsplit(os.environ["STACKWRIGHT_LIVE_REGISTRY"])
    ca = os.environ.get("STACKWRIGHT_LIVE_REGISTRY_CA")
    host = url.hostname + (f":{url.port}" if url.port else "")
    prefix = url.path.strip("/") or "stackwright-contract"
    yield Place(f"{url.scheme}://{host}", url.username or "", url.password or "", ca, prefix, folder)


KINDS = {
    "stand-in": (stand_in, True),
    "debian": (debians, shutil.which("docker-registry") is not None),
    "live": (live, "STACKWRIGHT_LIVE_REGISTRY" in os.environ),
}


@pytest.fixture(scope="module", params=KINDS)
def place(request, tmp_path_factory):
    make, there = KINDS[request.param]
    if not there:
        pytest.skip(f"no {request.param} registry here")
    with make(tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture
def repository(place):
    return f"{place.path}/t{uuid.uuid4().hex[:12]}"


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def upload(client, repository, data, *, claimed=None):
    start = client.post(f"/v2/{repository}/blobs/uploads/")
    assert start.status_code == 202
    return client.put(start.headers["Location"], params=with_digest(start, claimed or digest(data)), content=data)


def with_digest(answer, value):
    """Locations may carry their own query; httpx replaces it when params are given."""
    return {**dict(httpx.URL(answer.headers["Location"]).params), "digest": value}


def put_image(client, repository, tag, payload=b"layer"):
    config = b"{}"
    for blob in (config, payload):
        assert upload(client, repository, blob).status_code == 201
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(payload), "size": len(payload)}
        ],
    }
    data = json.dumps(manifest).encode()
    answer = client.put(f"/v2/{repository}/manifests/{tag}", content=data, headers={"Content-Type": MANIFEST})
    return answer, data


def code(answer):
    return answer.json()["errors"][0]["code"]


def test_without_login_the_challenge_comes(place):
    """No login and a wrong password get 401 with a challenge and an UNAUTHORIZED error body."""
    with place.client(login=False) as client:
        none = client.get("/v2/")
    with place.client() as client:
        wrong = client.get("/v2/", auth=(place.user, "wrong"))
    for answer in (none, wrong):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].split()[0].lower() in {"basic", "bearer"}
        assert code(answer) == "UNAUTHORIZED"


def test_the_version_endpoint_says_what_it_is(place):
    """A login is answered with the distribution API's version."""
    with place.client() as client:
        answer = client.get("/v2/")
    assert answer.status_code == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_an_image_comes_back_as_it_was_pushed(place, repository):
    """Push in one piece; pull by tag and by digest give the same bytes, type and digest header; HEAD gives no body."""
    with place.client() as client:
        pushed, data = put_image(client, repository, "1.0")
        assert pushed.status_code == 201 and pushed.headers["Docker-Content-Digest"] == digest(data)
        for reference in ("1.0", digest(data)):
            pulled = client.get(f"/v2/{repository}/manifests/{reference}", headers={"Accept": MANIFEST})
            assert (pulled.content, pulled.headers["Content-Type"]) == (data, MANIFEST)
            assert pulled.headers["Docker-Content-Digest"] == digest(data)
        head = client.head(f"/v2/{repository}/manifests/1.0", headers={"Accept": MANIFEST})
        assert head.status_code == 200 and int(head.headers["Content-Length"]) == len(data) and not head.content
        blob = client.get(f"/v2/{repository}/blobs/{digest(b'layer')}", follow_redirects=True)
        assert blob.content == b"layer"
        assert client.head(f"/v2/{repository}/blobs/{digest(b'layer')}", follow_redirects=True).status_code == 200


def test_a_blob_may_come_in_chunks(place, repository):
    """PATCH adds chunks, the range is reported, PUT with the digest of the whole finishes."""
    whole = b"a" * 1000 + b"b" * 500
    with place.client() as client:
        at = client.post(f"/v2/{repository}/blobs/uploads/")
        for start, piece in ((0, whole[:1000]), (1000, whole[1000:])):
            at = client.patch(
                at.headers["Location"],
                content=piece,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{start}-{start + len(piece) - 1}",
                },
            )
            assert at.status_code == 202
            assert at.headers["Range"] == f"0-{start + len(piece) - 1}"
        done = client.put(at.headers["Location"], params=with_digest(at, digest(whole)))
        assert done.status_code == 201
        assert client.get(f"/v2/{repository}/blobs/{digest(whole)}", follow_redirects=True).content == whole


def test_a_wrong_digest_is_refused(place, repository):
    """A blob whose content does not match its digest is not kept."""
    with place.client() as client:
        answer = upload(client, repository, b"content", claimed=digest(b"other"))
        assert answer.status_code == 400 and code(answer) == "DIGEST_INVALID"
        assert client.head(f"/v2/{repository}/blobs/{digest(b'other')}").status_code == 404


def test_a_manifest_of_missing_blobs_is_refused(place, repository):
    """A manifest whose blobs were never pushed is an error, and its tag does not appear."""
    lost = digest(uuid.uuid4().bytes)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": lost, "size": 16},
        "layers": [],
    }
    with place.client() as client:
        answer = client.put(
            f"/v2/{repository}/manifests/1.0", content=json.dumps(manifest), headers={"Content-Type": MANIFEST}
        )
        assert answer.status_code in {400, 404} and code(answer) in {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"}
        assert client.get(f"/v2/{repository}/manifests/1.0").status_code == 404


def test_what_is_not_there_is_named(place, repository):
    """Unknown repositories, tags and blobs get 404 with their own codes."""
    with place.client() as client:
        tags = client.get(f"/v2/{repository}/tags/list")
        manifest = client.get(f"/v2/{repository}/manifests/none")
        blob = client.get(f"/v2/{repository}/blobs/{digest(uuid.uuid4().bytes)}")
    assert [tags.status_code, manifest.status_code, blob.status_code] == [404, 404, 404]
    assert code(tags) in {"NAME_UNKNOWN", "NOT_FOUND"}
    assert code(manifest) in {"MANIFEST_UNKNOWN", "NOT_FOUND"}
    assert code(blob) in {"BLOB_UNKNOWN", "NOT_FOUND"}


def test_tags_are_listed(place, repository):
    """Every pushed tag is in the list (not every registry sorts it)."""
    with place.client() as client:
        for tag in ("1.1", "1.0", "2.0"):
            put_image(client, repository, tag)
        found = client.get(f"/v2/{repository}/tags/list").json()
        assert (found["name"], set(found["tags"])) == (repository, {"1.0", "1.1", "2.0"})


@needs_helm
def test_helm_logs_in_pushes_and_pulls(place, repository, tmp_path):
    """The real helm, over TLS with a private CA: login, push, pull of the same bytes; a wrong password is refused."""
    chart = next(chart for chart in CHARTS if chart.name == "metallb")
    data = archive(chart, "0.16.1")
    local = tmp_path / "metallb-0.16.1.tgz"
    local.write_bytes(data)
    ran = []
    helm = Helm(HELM, None, tmp_path, Path(place.ca) if place.ca else None, on_command=ran.append)
    with pytest.raises(ToolError) as refused:
        helm.registry_login(place.host, place.user, SecretStr("wrong-password"))
    assert "wrong-password" not in str(refused.value)
    helm.registry_login(place.host, place.user, SecretStr(place.password))
    address = f"oci://{place.host}/{repository}"
    environment = helm._environment()
    command = [HELM, "push", str(local), address, *helm._tls()]
    pushed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert pushed.returncode == 0, pushed.stderr
    pulled = helm.pull(f"{address}/metallb", "0.16.1")
    assert pulled.read_bytes() == data
    before = len(ran)
    assert helm.pull(f"{address}/metallb", "0.16.1") == pulled and len(ran) == before
    assert all(place.password not in word for argv in ran for word in argv)
    assert (tmp_path / "helm/config/registry.json").stat().st_mode & 0o077 == 0


@needs_helm
def test_published_charts_are_what_helm_pulls(tmp_path):
    """A chart written straight into the stand-in's storage is served as one that helm pushed, plus sign included."""
    chart = next(chart for chart in CHARTS if chart.name == "neuvector")
    with stand_in(tmp_path) as place:
        push_chart(RegistryState(tmp_path / "data"), chart, "108.0.9+up2.11.2")
        helm = Helm(HELM, None, tmp_path, Path(place.ca))
        helm.registry_login(f"oci://{place.host}/charts", USER, SecretStr(PASSWORD))
        pulled = helm.pull(f"oci://{place.host}/charts/neuvector", "108.0.9+up2.11.2")
    assert pulled.read_bytes() == archive(chart, "108.0.9+up2.11.2")


def test_changes_are_recorded_and_reads_are_not(tmp_path):
    """The stand-in tells its journal of every new blob and manifest, and of nothing else."""
    seen = []
    state = RegistryState(tmp_path, record=lambda *entry: seen.append(entry))
    with alone(lambda: registry_app(state)) as served, httpx.Client(base_url=served.url) as client:
        put_image(client, "a/b", "1.0")
        changes = list(seen)
        client.get("/v2/a/b/manifests/1.0")
        client.get("/v2/a/b/tags/list")
    assert [entry[0] for entry in changes] == ["registry"] * 3 and seen == changes
    assert changes[-1][1:] == ("a/b:1.0", "put manifest")
