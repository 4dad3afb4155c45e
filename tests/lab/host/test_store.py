"""The objects in a real etcd: one order for all API servers, no write over another, one set of controllers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestClient, TestServer

from stackwright.lab.host.apiserver import create_api
from stackwright.lab.host.etcd import Etcd, StaleError
from stackwright.lab.host.store import EtcdState
from stackwright.lab.kube.access import User
from tests.domain.real_etcd import INSTALLED, RealEtcd

pytestmark = pytest.mark.skipif(INSTALLED is None, reason="etcd is not installed")
LIMIT_S = 30.0


@pytest.fixture
def etcd(tmp_path):
    with RealEtcd(tmp_path).running() as running:
        yield running


def client(etcd) -> Etcd:
    tls = etcd.data / "server/tls/etcd"
    files = [str(tls / name) for name in ("server-ca.crt", "server-client.crt", "server-client.key")]
    return Etcd(f"https://127.0.0.1:{etcd.client}", *files)


@asynccontextmanager
async def servers(etcd, *names):
    """Run so many API servers' states on one etcd; give them and the names of those that began to lead, in order."""
    led: list[str] = []
    states, clients = [], []
    try:
        for name in names:
            clients.append(client(etcd))
            states.append(EtcdState(clients[-1], name, "v1.34.10+rke2r1", 50.0, lambda name=name: led.append(name)))
            await states[-1].start()
        yield states, led
    finally:
        for state in states:
            await state.stop()
        for one in clients:
            one.close()


async def until(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), LIMIT_S)


def config_map(name, **data):
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


@pytest.mark.asyncio
async def test_what_one_server_writes_the_other_reads_after_catching_up(etcd):
    async with servers(etcd, "a", "b") as ((a, b), led):
        await until(lambda: led)
        made = a.put(config_map("shared", word="one"))
        await b.catch_up()
        assert b.get("ConfigMap", "default", "shared") == made
        b.delete("ConfigMap", "default", "shared")
        await a.catch_up()
        assert a.get("ConfigMap", "default", "shared") is None
        assert a.version == b.version


@pytest.mark.asyncio
async def test_a_write_over_an_unseen_one_is_refused_and_changes_nothing(etcd):
    """b has not seen a's write yet: its own fails, whatever it holds."""
    async with servers(etcd, "a", "b") as ((a, b), led):
        await until(lambda: led)
        a.put(config_map("contested", word="first"))
        await b.catch_up()
        kept = b.kept(("", "configmaps"), "default", "contested")
        a.put(config_map("contested", word="second"))
        resource = b.resources[("", "configmaps")]
        with pytest.raises(StaleError):
            b.commit(resource, config_map("contested", word="third"), kept)
        await b.catch_up()
        assert b.get("ConfigMap", "default", "contested")["data"] == {"word": "second"}


@pytest.mark.asyncio
async def test_watchers_hear_every_change_once_in_etcds_order(etcd):
    async with servers(etcd, "a", "b") as ((a, b), led):
        await until(lambda: led)
        heard: asyncio.Queue = asyncio.Queue()
        b.watchers.setdefault(("", "configmaps"), set()).add(heard)
        for index in range(20):
            (a if index % 2 else b).put(config_map(f"made-{index}"))
            await (b if index % 2 else a).catch_up()
        events = [heard.get_nowait() for _ in range(heard.qsize())]
        made = [event.name for event in events if event.name.startswith("made-")]
        assert made == [f"made-{index}" for index in range(20)]
        versions = [event.kept.version for event in events]
        assert versions == sorted(set(versions))


@pytest.mark.asyncio
async def test_one_server_runs_the_controllers_and_another_takes_over(etcd):
    async with servers(etcd, "a") as ((a,), led):
        await until(lambda: led)
        async with servers(etcd, "b") as ((b,), led_later):
            await until(lambda: a.controllers.running)
            assert not b.controllers.running and not led_later
            await a.stop()
            await until(lambda: led_later)
            assert b.controllers.running and not a.controllers.running


@pytest.mark.asyncio
async def test_a_new_process_loads_everything_and_starts_no_watch_in_the_past(etcd):
    async with servers(etcd, "a") as ((a,), led):
        await until(lambda: led)
        made = a.put(config_map("lasting", word="kept"))
    async with servers(etcd, "b") as ((b,), _):
        assert b.get("ConfigMap", "default", "lasting") == made
        assert b.oldest() >= int(made["metadata"]["resourceVersion"])


@pytest.mark.asyncio
async def test_a_request_is_answered_by_what_the_quorum_knows_or_fails(etcd):
    """The API asks etcd before each request: what cannot be known is a Status of code 500, not an old answer."""
    led: list[str] = []
    wire = client(etcd)
    state = EtcdState(wire, "a", "v1.34.10+rke2r1", 50.0, lambda: led.append("a"))
    state.tokens["admin"] = User("admin", ("system:masters",))
    async with TestClient(TestServer(create_api(state))) as api:
        await until(lambda: led)
        path, login = "/api/v1/namespaces/default/configmaps", {"Authorization": "Bearer admin"}
        made = await api.post(path, json=config_map("asked"), headers=login)
        assert made.status == 201
        wire._client.base_url = "https://127.0.0.1:1"
        failed = await api.get(f"{path}/asked", headers=login)
        assert failed.status == 500 and (await failed.json())["kind"] == "Status"
    wire.close()
