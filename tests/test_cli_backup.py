"""`stackwright backup list|key`: what they print, and what they never print."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stackwright import cli
from stackwright.clients.sealing import recipient_of
from tasks.bundles import stores
from tests.store_server import Fault, running_store
from tests.tasks.bundle_site import BundleSite
from tests.tasks.bundle_store import bundle_in

shell = CliRunner()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    with running_store(folder / "first") as first, running_store(folder / "second") as second:
        yield first, second


@pytest.fixture
def world(servers, tmp_path, monkeypatch):
    world = BundleSite(tmp_path, None, *servers)
    monkeypatch.setattr("blocks.site.load_site", lambda name: (world.site.spec, world.site))
    yield world
    for server in servers:
        server.fault = None
        store = server.store()
        store.delete([one.key for one in store.list("")])


def run(*words, code=0):
    done = shell.invoke(cli.app, ["backup", *words])
    assert done.exit_code == code, done.output
    return done


def test_the_list_shows_every_bundle_and_where_it_lies(world):
    first, _ = stores(world.site)
    names = [bundle_in(world, first, hours=hours) for hours in (1, 5)]
    said = run("list", "north").stdout
    assert all(name in said for name in names) and "v1.34.10+rke2r1" in said
    told = json.loads(run("list", "north", "--json").stdout)
    assert [one["id"] for one in told["bundles"]] == names
    assert told["second"] == [] and told["proven"] is None and told["broken"] == {}


def test_no_bundle_or_a_broken_one_is_no_good_answer(world):
    assert "no bundle" in run("list", "north", code=1).stdout
    first, _ = stores(world.site)
    name = bundle_in(world, first)
    first.delete([f"sw/north/bundles/{name}/snapshot.age"])
    assert "file-missing" in run("list", "north", code=1).stdout


def test_a_second_store_that_is_away_is_said(world, servers):
    bundle_in(world, stores(world.site)[0])
    servers[1].fault = Fault("refused", "GET")
    assert "second store: " in run("list", "north", code=1).stdout


def test_the_key_is_made_once_and_only_its_public_half_is_shown(world):
    del world.secrets.blocks["secret-text", "backup-key"]
    done = run("key", "north")
    identity = world.secrets.read("secret-text", "backup-key")["value"]
    assert done.stdout.strip() == recipient_of(identity)
    assert "AGE-SECRET-KEY" not in done.output and "Keep a copy" in done.output
    again = run("key", "north")
    assert again.stdout == done.stdout and world.secrets.made == ["backup-key"]


def test_a_block_that_holds_something_else_is_left_alone(world):
    world.block("secret-text", "backup-key", value="planted-password")
    done = shell.invoke(cli.app, ["backup", "key", "north"])
    assert done.exit_code == 1 and "not an age identity" in str(done.exception)
    assert "planted" not in done.output + str(done.exception)
    assert world.secrets.blocks["secret-text", "backup-key"] == {"value": "planted-password"}
