"""The ClearML stand-in on its own, over TLS with its own CA and under its three names: for tests, or to try by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from pydantic import SecretStr

from stackwright.clients.clearml import ClearmlClient
from stackwright.lab.alone import Alone, alone
from stackwright.lab.clearml.gateway import GatewayStandin
from stackwright.lab.clearml.server import Gate, create_clearml_apps
from stackwright.lab.clearml.state import ClearmlState
from stackwright.lab.clearml.wire import Connection
from stackwright.lab.net import Authority

DOMAIN = "ml.test"
SYSTEM_KEY, SYSTEM_SECRET = "SYSTEMKEY", "system-secret-of-the-stand-in"


@dataclass(frozen=True)
class Trial:
    """A served stand-in. The names exist in `resolve` only; `gateways` are those behind the names router-*."""

    state: ClearmlState
    served: Alone
    ca_file: Path
    resolve: Mapping[str, tuple[str, int]]
    api_url: str = f"https://api.{DOMAIN}"
    web_url: str = f"https://app.{DOMAIN}"
    files_url: str = f"https://files.{DOMAIN}"
    gateways: dict[str, GatewayStandin] = field(default_factory=dict)

    def client(self, access_key: str = SYSTEM_KEY, secret_key: SecretStr | str = SYSTEM_SECRET) -> ClearmlClient:
        """Return a client; without a key, one of the role system."""
        secret = secret_key if isinstance(secret_key, SecretStr) else SecretStr(secret_key)
        return ClearmlClient(self.api_url, access_key, secret, self.ca_file, self.resolve, timeout_s=10)

    def connection(self, access_key: str, secret_key: SecretStr) -> Connection:
        """Return what a release is given."""
        secret = secret_key.get_secret_value()
        return Connection(self.api_url, self.files_url, self.web_url, access_key, secret, self.resolve, self.ca_file)

    def tenant(self, name: str) -> ClearmlClient:
        """Make a company with an administrator and return a client with a key of that user."""
        system = self.client()
        company = system.create_company(name)
        user = system.create_user(company.id, "Admin", f"admin@{name}.example")
        key = system.create_credentials("test", user_id=user.id)
        return self.client(key.access_key, key.secret_key)


@contextmanager
def clearml_alone(
    folder: Path, state: ClearmlState | None = None, env: Mapping[str, str] | None = None, gate: Gate | None = None
) -> Iterator[Trial]:
    """Serve a stand-in for the time of the block; `env` is the API server's environment, the CA goes to `folder`."""
    state = state or ClearmlState()
    state.configure(env or {}, SYSTEM_KEY, SYSTEM_SECRET)
    names = [f"{part}.{DOMAIN}" for part in ("api", "app", "files")]
    authority = Authority("ClearML trial CA")
    ca_file = folder / "clearml-ca.pem"
    ca_file.write_text(authority.certificate)

    def make() -> web.Application:
        apps = create_clearml_apps(state, gate)
        front = web.Application(client_max_size=1 << 30)
        for name, app in zip(names, (apps.api, apps.web, apps.files), strict=True):
            front.add_domain(name, app)
        front.add_domain(f"router-*.{DOMAIN}", _gateways(gateways))
        return front

    gateways: dict[str, GatewayStandin] = {}
    with alone(make, tls=authority.server_context(DOMAIN, [*names, f"*.{DOMAIN}"])) as served:
        known = dict.fromkeys(names, ("127.0.0.1", served.port))
        yield Trial(state, served, ca_file, known, gateways=gateways)


def _gateways(known: Mapping[str, GatewayStandin]) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        gateway = known.get(request.host.split(":")[0])
        return await gateway.answer(request) if gateway else web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app
