"""The proxy's recipe, a real nginx before a real Prefect server: who may look, who may approve, whose name it is."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from stackwright.approvals import APPROVER
from stackwright.lab.net import Authority
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer, free_port
from tasks.approval import Approval
from tests.flows.asks import PLAN
from tests.flows.test_approval import ANSWER, Asking

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
ROLES = {"vera": "viewer", "bob": "approver", "ann": "admin", "noll": ""}
RECIPE = ROOT / "deployments" / "proxy" / "nginx.conf"


@dataclass
class Proxy:
    """A running proxy."""

    url: str
    folder: Path
    trust: ssl.SSLContext
    approvals: Path

    def ask(
        self, who: str, method: str, path: str, body: Any = None, *, auth_password: str = "", **headers: str
    ) -> httpx.Response:
        auth = (who, auth_password or f"pass-{who}") if who else None
        with httpx.Client(verify=self.trust, auth=auth, trust_env=False, timeout=30) as client:
            return client.request(method, f"{self.url}{path}", json=body, headers=headers)

    def raw(self, who: str, method: str, path: str) -> int:
        """Ask for a path exactly as it stands: httpx would tidy it."""
        login = base64.b64encode(f"{who}:pass-{who}".encode()).decode()
        headers = {"authorization": f"Basic {login}", "content-type": "application/json"}
        there = http.client.HTTPSConnection(self.url.removeprefix("https://"), timeout=30, context=self.trust)
        with closing(there):
            there.request(method, path, "{}" if method == "POST" else None, headers)
            return there.getresponse().status

    def status(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> int:
        return self.ask(who, method, path, body, **headers).status_code


@pytest.fixture(scope="module")
def proxy(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The recipe, with the ports and folders of this test, and the approvals' process beside it."""
    folder, port, approvals = tmp_path_factory.mktemp("proxy"), free_port(), free_port()
    authority = Authority("proxy test")
    certificate, key = authority.issue("127.0.0.1", ["127.0.0.1"])
    files = {
        "tls.pem": certificate, "tls.key": key, "ca.pem": authority.certificate,
        "roles.map": "".join(f"{name} {role};\n" for name, role in ROLES.items() if role),
        "passwords": "".join(f"{name}:{{PLAIN}}pass-{name}\n" for name in ROLES),
        "upstream-login.conf": 'proxy_set_header Authorization "Basic c2hhcmVkOmxvZ2lu";\n',
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    text = RECIPE.read_text(encoding="utf-8")
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"), ("127.0.0.1:4200", f"127.0.0.1:{prefect_server.port}"),
        ("127.0.0.1:8471", f"127.0.0.1:{approvals}"), ("/etc/stackwright/proxy", str(folder)),
        ("/var/log/nginx", str(folder)), ("/opt/stackwright", str(ROOT)),
    ):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    main = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main.write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\ntypes {{ text/html html; application/json json; }}\n{places}{text}\n}}\n"
    )
    log = folder / "approvals.log"
    processes = []
    try:
        with log.open("wb") as out:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "stackwright.approvals", "--port", str(approvals)], cwd=ROOT, stdout=out,
                    stderr=out, env={**os.environ, **prefect_server.environment, "PYTHONPATH": str(ROOT)},
                )
            )  # fmt: skip
        assert NGINX is not None
        processes.append(subprocess.Popen([NGINX, "-p", str(folder), "-c", str(main)], stderr=subprocess.DEVNULL))
        trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        found = Proxy(f"https://127.0.0.1:{port}", folder, trust, log)
        deadline = time.monotonic() + 60
        while not _up(found, f"http://127.0.0.1:{approvals}/"):
            assert time.monotonic() < deadline, (folder / "error.log").read_text() + log.read_text()
            time.sleep(0.1)
        yield found
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)


def _up(proxy: Proxy, approvals: str) -> bool:
    try:
        return httpx.get(approvals, timeout=5).status_code == 404 and proxy.status("ann", "GET", "/api/health") == 200
    except httpx.TransportError:
        return False


RUN = "00000000-0000-4000-8000-000000000000"
READS = [
    ("GET", "/"), ("GET", "/api/admin/version"), ("POST", "/api/flow_runs/filter"), ("POST", "/api/flow_runs/count"),
    ("POST", "/api/deployments/paginate"), ("POST", "/api/work_pools/filter"), ("POST", "/api/artifacts/latest/filter"),
    ("POST", "/api/logs/filter"), ("POST", "/api/events/filter"),
]  # fmt: skip
SECRETS = [
    ("POST", "/api/block_documents/filter"), ("GET", f"/api/block_documents/{RUN}?include_secrets=true"),
    ("GET", "/api/block_types/slug/stackwright-secret-text/block_documents/name/x?include_secrets=true"),
    ("GET", "/api/block_types/slug/stackwright-secret-text/block_documents"), ("GET", "/api/admin/settings"),
    ("GET", "/api/flows/x?include_secrets=true"), ("GET", "/api/flows/x?INCLUDE_SECRETS=1"),
    ("GET", "/api/flows/x?include%5Fsecrets=true"), ("GET", "/api/flows/x?%69nclude_secrets=1"),
]  # fmt: skip
CHANGES = [
    ("POST", f"/api/flow_runs/{RUN}/set_state"), ("POST", "/api/flow_runs/"), ("POST", "/api/flow_runs/bulk_delete"),
    ("POST", f"/api/deployments/{RUN}/create_flow_run"), ("DELETE", f"/api/deployments/{RUN}"), ("POST", "/api/events"),
    ("PATCH", "/api/work_pools/x"), ("POST", "/api/variables/"), ("POST", "/api/admin/database/clear"),
    ("POST", f"/api/flow_runs/{RUN}/input"), ("PUT", "/api/artifacts/x"), ("POST", "/api/flow_runs/filter/x"),
]  # fmt: skip
ODD = [
    "/api//block_documents/filter", "/api/flows/../block_documents/filter", "/api/%62lock_documents/../x",
    "/api/x/%2e%2e/block_documents/filter", "/api/flows%2f..%2fblock_documents", "/api/./block_documents/filter",
]  # fmt: skip


def test_a_viewer_reads_and_that_is_all(proxy: Proxy) -> None:
    """What the UI's pages ask is answered; secrets, changes and approvals are refused, whatever their spelling."""
    body = {"POST": {}, "PUT": {}, "PATCH": {}}
    assert {proxy.status("vera", method, path, body.get(method)) for method, path in READS} == {200}
    for method, path in [*SECRETS, *CHANGES, ("POST", f"/api/flow_runs/{RUN}/resume")]:
        assert proxy.status("vera", method, path, body.get(method)) == 403, path
    for path in ODD:
        assert {proxy.raw("vera", method, path) for method in ("GET", "POST")} <= {400, 403}, path


def test_an_approver_resumes_and_changes_nothing_else(proxy: Proxy) -> None:
    for method, path in [*SECRETS, *CHANGES]:
        assert proxy.status("bob", method, path, {}) == 403, path
    # Handed on: that there is no such run is Prefect's own answer.
    assert proxy.status("bob", "POST", f"/api/flow_runs/{RUN}/resume", {}) not in (401, 403)


def test_who_has_no_login_or_no_role_gets_nothing(proxy: Proxy) -> None:
    """A browser that brings no login is asked for one; one with another's name and a wrong password is nobody."""
    nobody = proxy.ask("", "POST", "/api/block_documents/filter", {})
    assert nobody.status_code == 401 and "basic" in nobody.headers["www-authenticate"].lower()
    assert proxy.status("nobody", "GET", "/api/health") == 403
    for name in ("ann", "bob", "vera"):
        assert proxy.ask(name, "GET", "/api/health", auth_password="wrong").status_code == 401
    for method, path in [*READS, *SECRETS]:
        assert proxy.status("noll", method, path, {} if method == "POST" else None) == 403, path


def test_an_admin_gets_through_and_another_sites_page_does_not(proxy: Proxy) -> None:
    """A browser sends the login along with another page's request, and names that page."""
    assert proxy.status("ann", "POST", "/api/block_documents/filter", {}) == 200
    assert proxy.status("ann", "POST", "/api/flows/filter", {}, origin="https://evil.example") == 403
    assert proxy.status("ann", "POST", "/api/flows/filter", {}, origin=proxy.url) == 200
    assert proxy.status("ann", "GET", "/api/events/in") == 403
    assert proxy.ask("vera", "GET", "/stackwright/icons/ssh-key.svg").headers["content-type"] == "image/svg+xml"
    assert "BASIC" not in proxy.ask("vera", "GET", "/ui-settings").text


def test_the_approval_says_who_was_logged_in(proxy: Proxy, prefect_server: PrefectServer) -> None:
    """The name that was typed, and a header that was sent, count for nothing: the login does, in run and log."""
    assert APPROVER in Approval.model_fields
    one = Asking(prefect_server)
    try:
        one.paused()
        path = f"/api/flow_runs/{one.run}/resume"
        given = {"run_input": {**ANSWER, "approver": "Mallory", "decision": "refuse", "reason": "not today"}}
        assert proxy.status("vera", "POST", path, given) == 403
        assert proxy.ask("bob", "POST", path, {"run_input": {}}).json()["status"] == "REJECT"
        said = proxy.ask("bob", "POST", path, given, **{"x-stackwright-user": "Mallory"})
        assert said.json()["status"] == "ACCEPT", said.text
        line = one.end()
        assert "bob: not today" in line and "Mallory" not in line and PLAN.hash
    finally:
        one.close()
    kept = [json.loads(row) for row in proxy.approvals.read_text().splitlines() if row.startswith("{")]
    assert {"approver": "bob", "run": one.run, "decision": "refuse", "outcome": "ACCEPT"}.items() <= kept[-1].items()
    access = [json.loads(row) for row in (proxy.folder / "stackwright.log").read_text().splitlines()]
    assert ("bob", "approver", path, 200) in {(row["who"], row["role"], row["path"], row["status"]) for row in access}
