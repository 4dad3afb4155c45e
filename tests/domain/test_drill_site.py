"""The spare host's own site: what of production's is kept, what is left out, and what is no spare host."""

from __future__ import annotations

import pytest
import yaml

from stackwright.domain.bundle import BundleError
from stackwright.domain.drill_site import LABEL, TAINT, allowed_blocks, check_drill_site, drill_spec, spare_host
from stackwright.domain.errors import StackError
from stackwright.domain.rke2_files import config, wanted_files
from stackwright.domain.spec_checks import check_spec
from tests.domain.drill_samples import manifest, spec, state

REGISTRIES = {
    "mirrors": {"docker.io": ["https://mirror.example.com:5000"]},
    "credentials": {"mirror.example.com:5000": "mirror-login"},
    "system_default_registry": "mirror.example.com:5000",
}


def fenced(**changes):
    return drill_spec(spec(**changes), manifest(rke2_version="v1.33.9+rke2r1"), state())


def test_the_spare_host_stands_alone():
    """One server with its own address for everything; no layers, tenants, stores, nor names that lead to production."""
    made = fenced()
    host = made.nodes[0]
    assert [node.name for node in made.nodes] == ["spare"] and host.roles == ("server",) and made.removed == ()
    assert (made.rke2.registration_address, made.rke2.tls_san) == ("192.0.2.99", ("192.0.2.99",))
    assert not any(getattr(made.layers, name).enabled for name in type(made.layers).model_fields)
    assert (made.tenants, made.backup, made.dns.hosts) == ((), None, {})
    assert made.site == "north-drill" and made.rke2.allow_single_server
    assert "k8s.example.com" not in yaml.safe_dump(config(made, host)) + str(wanted_files(made, host, {}, joins=False))


def test_nothing_of_production_runs_there():
    """A taint that also drives off what is bound to it; the host's own labels and taints stay."""
    host = spare_host(spec())
    assert host.taints[-1] == TAINT and TAINT.effect == "NoExecute" and len(host.taints) == 2
    assert host.labels == {"rack": "9", **LABEL}
    assert str(TAINT) in config(fenced(), fenced().nodes[0])["node-taint"]


def test_release_and_networks_are_the_bundles_own():
    """The site file may have moved on since: what the restored cluster cannot change comes from its config.yaml."""
    want = fenced(rke2__kubelet_args=["max-pods=500"]).rke2
    assert want.version == "v1.33.9+rke2r1"
    assert (want.cni, want.cluster_cidr, want.service_cidr) == ("cilium", "10.52.0.0/16", "10.53.0.0/16")
    assert (want.cluster_domain, want.ingress_controller, want.profile) == ("north.local", "none", "etcd")
    assert want.disable == ("rke2-metrics-server",) and want.etcd_args == ("quota-backend-bytes=8589934592",)
    assert want.kubelet_args == ()
    assert "etcd-s3" not in config(fenced(), fenced().nodes[0])


def test_a_profile_that_the_bundle_does_not_name_is_none():
    settings = {"cni": "canal"}
    assert drill_spec(spec(), manifest(), state(settings)).rke2.profile == "none"


@pytest.mark.parametrize("settings", [None, "", "text", []])
def test_a_bundle_without_its_configuration_cannot_be_restored(settings):
    with pytest.raises(BundleError) as caught:
        drill_spec(spec(), manifest(), state(settings))
    assert caught.value.reason == "file-missing"


def test_images_that_come_as_archives_need_no_registry_and_no_login():
    made = fenced(rke2__registries=REGISTRIES, rke2__artifacts={"source": "folder", "folder": "/x", "images": True})
    assert made.rke2.registries.mirrors == {} and made.rke2.registries.disable_default_endpoint
    own = spec(rke2__registries=REGISTRIES, rke2__artifacts={"source": "folder", "folder": "/x", "images": True})
    assert allowed_blocks(own) == {("ssh-key", "ssh"), ("registration", "suse")}


def test_without_archives_the_mirror_and_its_login_are_needed():
    own = spec(rke2__registries=REGISTRIES)
    assert fenced(rke2__registries=REGISTRIES).rke2.registries == own.rke2.registries
    assert ("registry", "mirror-login") in allowed_blocks(own)


def test_no_block_of_the_cluster_is_among_the_allowed_ones():
    names = {name for _, name in allowed_blocks(spec())}
    want = spec()
    for block in (
        want.rke2.token_block,
        want.rke2.kubeconfig_block,
        want.backup.key_block,
        want.backup.credentials_block,
    ):
        assert block not in names


# --- what forbids a drill --------------------------------------------------------------------------------------------

HOST = "backup__drill__host"
REFUSED = {
    "a node's name": {f"{HOST}__name": "w1"},
    "a node's address": {f"{HOST}__address": "192.0.2.21"},
    "the registration address": {f"{HOST}__address": "192.0.2.10"},
    "a node that leaves": {"removed": [{"name": "old", "address": "192.0.2.99", "roles": ["worker"]}]},
    "artifacts from production": {"rke2__artifacts__url": "https://registry.example.com/rke2"},
    "images from production": {"rke2__registries": {"mirrors": {"docker.io": ["https://registry.example.com"]}}},
    "a registry in production": {"rke2__registries": {"system_default_registry": "registry.example.com"}},
    "registration through the store": {
        "registration": {"kind": "rmt", "url": "https://s3.example.com:9000", "code_block": "suse"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_host_that_is_not_spare_and_sources_behind_the_fence_are_refused(name):
    """Before anything is reached: the spare host is wiped, so it may be nobody's."""
    made = spec(**REFUSED[name])
    assert check_drill_site(made, {"k8s.example.com": ("192.0.2.10",)})


def test_a_spare_host_is_let_in():
    assert check_drill_site(spec(), {"k8s.example.com": ("192.0.2.10",)}) == []


def test_archives_need_no_source_that_could_lie_behind_the_fence():
    changes = {
        "rke2__registries": {"mirrors": {"docker.io": ["https://registry.example.com"]}},
        "rke2__artifacts": {"source": "folder", "folder": "/x", "images": True},
    }
    assert check_drill_site(spec(**changes), {}) == []


def test_a_site_without_a_spare_host_says_so():
    with pytest.raises(StackError, match=r"backup\.drill"):
        spare_host(spec(backup=None))


def test_the_sample_is_a_site_that_may_be_planned():
    assert not [problem for problem in check_spec(spec()) if "backup" in problem.where]
