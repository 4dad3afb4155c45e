"""The rung's cluster: three servers and an agent on hosts of their own, brought up once by production's own tasks.

Where it cannot be had, every test is reported as skipped, by its name and with the reason. Tests marked slow run with
`make rung` (or `-m slow`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from stackwright.clients.site import Site
from stackwright.domain.errors import StackError
from stackwright.domain.etcd_cluster import Member
from stackwright.domain.quorum import check_back
from stackwright.domain.rke2 import etcd_members
from tasks.nodes import look_at_servers
from tests.rung import engine, image
from tests.rung.engine import CannotRunError
from tests.rung.hosts import Hosts, wait
from tests.rung.sites import bring, site_of, spec_of, with_spec

TLS = "/var/lib/rancher/rke2/server/tls/etcd"
ROLES = {"s1": ["server"], "s2": ["server"], "s3": ["server"], "a1": ["worker"]}
WHOLE_S = 180.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all tests here, and leave the slow ones out unless they are asked for."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.containers)
    if "slow" in (config.option.markexpr or ""):
        return
    slow = [item for item in here if item.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


@dataclass
class Rung:
    """The cluster on its hosts."""

    hosts: Hosts
    site: Site

    def etcdctl(self, name: str, *words: str, check: bool = True) -> str:
        """Run the real etcdctl on a server."""
        files = f"--cacert {TLS}/server-ca.crt --cert {TLS}/client.crt --key {TLS}/client.key"
        return self.hosts[name].sh(f"ETCDCTL_API=3 etcdctl {files} {' '.join(words)}", check=check)

    def voters(self, name: str) -> list[str]:
        """Return the nodes whose members vote, as the real member list on a server has it."""
        rows = json.loads(self.etcdctl(name, "member", "list", "-w", "json"))["members"]
        return sorted(row["name"].rpartition("-")[0] for row in rows if not row.get("isLearner"))

    def members(self) -> tuple[Member, ...]:
        """Return the members as the quorum guard sees them."""
        return etcd_members(self.site.spec, *look_at_servers(self.site))

    def wait_until_whole(self) -> None:
        """Wait until every server is a healthy voter under one leader, and Ready."""

        def whole() -> bool:
            members = self.members()
            return len(members) == len(self.site.spec.servers) and not any(
                check_back(members, node.name) for node in self.site.spec.servers
            )

        wait(whole, "all servers healthy voters", WHOLE_S, errors=(StackError,))

    def change(self, roles: dict[str, list[str]], **rke2) -> None:
        """Change the site file: its nodes and keys of its section rke2."""
        self.use(*(name for name, what in roles.items() if "server" in what))
        self.site = with_spec(self.site, spec_of(self.hosts, roles, **rke2))

    def use(self, *names: str) -> None:
        """Let the registration address lead to these servers alone, with clients that hold no older connection."""
        self.hosts.use(*names)
        self.site = with_spec(self.site, self.site.spec)


@pytest.fixture(scope="session")
def _hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts | str]:
    """Return the hosts' place, or why there is none."""
    with ExitStack() as stack:
        try:
            missing = engine.missing_programs()
            if missing:
                raise CannotRunError(f"not installed: {', '.join(missing)} (apt-get install)")
            stack.enter_context(engine.running())
            hosts = Hosts(image.ensure_image(), tmp_path_factory.mktemp("rung"))
        except CannotRunError as error:
            yield str(error)
            return
        stack.callback(hosts.stop)
        yield hosts


@pytest.fixture(scope="session")
def _cluster(_hosts: Hosts | str) -> Rung | str:
    if isinstance(_hosts, str):
        return _hosts
    _hosts.add(*ROLES)
    _hosts.use("s1", "s2", "s3")
    site = site_of(_hosts, spec_of(_hosts, ROLES), _hosts.folder / "work")
    bring(site)
    return Rung(_hosts, site)


@pytest.fixture
def hosts(request: pytest.FixtureRequest, _hosts: Hosts | str) -> Hosts:
    """Return a place for hosts of the test's own."""
    return _there(request, _hosts)


@pytest.fixture
def rung(request: pytest.FixtureRequest, _cluster: Rung | str) -> Rung:
    """Return the cluster, for tests that leave its servers alone."""
    return _there(request, _cluster)


@pytest.fixture
def shaken(request: pytest.FixtureRequest, _cluster: Rung | str) -> Iterator[Rung]:
    """Return the cluster, for tests that shake it; after them it must be whole again."""
    rung = _there(request, _cluster)
    rung.wait_until_whole()
    yield rung
    rung.wait_until_whole()


def _there(request, found):
    if isinstance(found, str):
        pytest.skip(f"{request.node.name}: {found}")
    return found
