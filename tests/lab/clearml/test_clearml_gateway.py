"""The gateway stand-in: it leads to jobs that ask, for logins of its own company, while they run."""

import http.server
import threading
from contextlib import contextmanager

import pytest

from stackwright.clients.http import make_client
from stackwright.lab.clearml import GatewayStandin
from stackwright.lab.clearml.alone import DOMAIN, clearml_alone
from tests.lab.clearml.test_clearml_workers import connection, running, until

HOST = f"router-mine.{DOMAIN}"
COOKIE = "clearml-token-k8s"


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    with clearml_alone(tmp_path_factory.mktemp("gateway")) as served:
        yield served


@contextmanager
def page():
    """Serve one text on this machine."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"page {self.path}".encode())

        def log_message(self, *args):
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def get(trial, url, **headers):
    with make_client("", trial.ca_file, {HOST: ("127.0.0.1", trial.served.port)}, 10) as client:
        return client.get(url, headers=headers)


def test_a_job_that_asks_is_led_to_and_nobody_else_may_look(trial):
    """The address is written into the job; a login of the company passes, no other does; it ends with the job."""
    tenant, other = trial.tenant("mine"), trial.tenant("other")
    gateway = GatewayStandin(connection(trial, tenant), "gw", f"https://{HOST}", report_s=0.1, cookie=COOKIE)
    trial.gateways[HOST] = gateway
    task = tenant.create_task(tenant.ensure_project("any"), "a page", {})
    with page() as port, running(gateway):
        until(lambda: tenant.routers())
        runtime = {"_SERVICE": "EXTERNAL", "_ADDRESS": "127.0.0.1", "_PORT": port}
        call = tenant._call
        call("tasks.started", task=task)
        call("tasks.edit", task=task, force=True, runtime=runtime)
        assert not gateway.routes, "it has not asked yet"
        call("tasks.edit", task=task, force=True, system_tags=["external_service"])
        until(lambda: tenant.get_task(task).runtime.get("endpoint"))
        url = tenant.get_task(task).runtime["endpoint"]
        until(lambda: tenant.routers()[0].tasks == (task,))
        token = tenant.login().token.get_secret_value()
        for headers in ({"Cookie": f"{COOKIE}={token}"}, {"Authorization": f"Bearer {token}"}):
            answer = get(trial, f"{url}/below", **headers)
            assert (answer.status_code, answer.text) == (200, "page /below")
        strange = other.login().token.get_secret_value()
        for headers in ({}, {"Cookie": f"{COOKIE}={strange}"}, {"Cookie": f"other={token}"}):
            assert get(trial, url, **headers).status_code == 401
        tenant.stop_task(task, "test")
        until(lambda: get(trial, url, Cookie=f"{COOKIE}={token}").status_code == 404)
        assert tenant.routers()[0].tasks == ()
