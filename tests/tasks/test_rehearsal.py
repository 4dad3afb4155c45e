"""What a rehearsal needs before the fence, and how it takes errors. A whole one is on the container rung."""

from __future__ import annotations

import pytest

from stackwright.domain.errors import NodeUnreachableError, NotFoundError, Problem, RemoteStepError
from tasks.rehearsal import _Run, at_release, proven_bundle, read_releases, served_of
from tests.domain.bundle_made import ID
from tests.domain.test_rehearsal import DEPLOYMENT, release_of
from tests.fakes.kube import FakeKube
from tests.store_server import running_store
from tests.tasks.stored_bundle import put_bundle, site_with_store


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with running_store(tmp_path_factory.mktemp("store"), "store.example.test") as server:
        yield server


@pytest.fixture
def site(served, tmp_path):
    store = served.store()
    store.delete([one.key for one in store.list("")])
    return site_with_store(served, tmp_path)


def test_only_a_proven_bundle_is_rehearsed_with(served, site) -> None:
    with pytest.raises(NotFoundError, match="no bundle is proven"):
        proven_bundle(site)
    put_bundle(served)
    with pytest.raises(NotFoundError, match="drill-restore"):
        proven_bundle(site)
    put_bundle(served, proven=site)
    assert proven_bundle(site).manifest.id == ID


def test_what_ends_a_part_forbids_the_upgrade_and_a_lost_link_does_not(site) -> None:
    """The first is a finding; the second says nothing of the upgrade, and the rehearsal is done again."""
    run = _Run(site, [])
    found = Problem("s1", "it differs", "look", "a", "b")

    def breaks():
        raise RemoteStepError("the step failed", where="spare", seen="exit code 1")

    def loses():
        raise NodeUnreachableError("the node was lost", where="spare")

    run.attempt("after the upgrade", lambda: [found])
    run.attempt("the upgrade in the fence", breaks)
    with pytest.raises(NodeUnreachableError):
        run.attempt("the way back in the fence", loses)
    assert run.problems[0] == found and len(run.problems) == 2
    assert run.problems[1].where == "spare" and run.problems[1].what == "the upgrade in the fence: the step failed"


class Served(FakeKube):
    """A cluster that serves one group beside the core."""

    def has_kind(self, api_version: str, kind: str) -> bool:
        return api_version == "apps/v1"


def test_releases_are_read_and_what_is_served_is_asked() -> None:
    release = {"apiVersion": "v1", "kind": "Secret", **release_of()}
    release["metadata"]["labels"]["status"] = "deployed"
    kube = Served(release)
    releases = read_releases(kube)
    assert [one.name for one in releases] == ["shop/web"]
    assert served_of(kube, releases) == {DEPLOYMENT}


def test_another_release_is_looked_for_beside_the_folder_of_this_one(site) -> None:
    """A folder that is named by its release has siblings; any other stays as it is."""
    folder = site.spec.rke2.artifacts.model_copy(
        update={"source": "folder", "folder": f"/srv/{site.spec.rke2.version}"}
    )
    rke2 = site.spec.rke2.model_copy(update={"artifacts": folder})
    spec = site.spec.model_copy(update={"rke2": rke2})
    other = at_release(type(site)(**{**vars(site), "spec": spec}), "v1.99.1+rke2r1").spec.rke2
    assert (other.version, other.artifacts.folder) == ("v1.99.1+rke2r1", "/srv/v1.99.1+rke2r1")
    assert at_release(site, "v1.99.1+rke2r1").spec.rke2.artifacts == site.spec.rke2.artifacts
