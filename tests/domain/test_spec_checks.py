"""The rules of a site file: one row for each, with input that must make it refuse, and that only that place is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyrage import x25519

from stackwright.domain.checks import syntax
from stackwright.domain.checks.backup import is_recipient
from stackwright.domain.spec import StackSpec
from stackwright.domain.spec_checks import check_spec, note_spec
from tests.domain.layers.sites import lab_document

ROOT = Path(__file__).parents[2]
AGE_KEY = "age1r4xjadfc46ga8zugttwlhdjl2mh44nw873tmgmcc0sa48gsc840s5jpywe"
EXAMPLE = yaml.safe_load((ROOT / "deployments/sites/example-ha.yaml").read_text(encoding="utf-8"))
REMOVE = object()


def example(changes: dict[str, Any]) -> StackSpec:
    """Return the example site with values at dotted places exchanged, added or removed."""
    document = json.loads(json.dumps(EXAMPLE))  # no parts that nodes share through aliases
    for place, value in changes.items():
        *way, last = [int(part) if part.isdigit() else part for part in place.split("/")]
        owner = document
        for part in way:
            owner = owner[part]
        if value is REMOVE:
            del owner[last]
        elif isinstance(owner, list) and last == len(owner):
            owner.append(value)
        else:
            owner[last] = value
    return StackSpec.model_validate(document)


def told(changes: dict[str, Any]) -> set[str]:
    return {problem.where for problem in check_spec(example(changes))}


def node(name: str, address: str, *roles: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "address": address, "roles": list(roles), **more}


RULES: list[tuple[str, dict[str, Any], set[str]]] = [
    # nodes
    ("site name", {"site": "../etc"}, {"site"}),
    ("even servers", {"nodes/11": node("srv4", "192.0.2.14", "server")}, {"nodes"}),
    ("two servers", {"nodes/2/roles": ["worker"]}, {"nodes"}),
    ("one server", {"nodes/2/roles": ["worker"], "nodes/1/roles": ["worker"]}, {"nodes"}),
    ("no workers", {"nodes": [node(f"s{i}", f"192.0.2.1{i}", "server", "storage") for i in range(3)], "tenants": [],
                    "layers/suse_ai/ollama_gpus": 0}, {"nodes"}),
    ("two workers", {"nodes/6": REMOVE, "nodes/5": REMOVE, "layers/storage/replicas": 2}, {"nodes", "layers.storage"}),
    ("same name", {"nodes/4/name": "plat1"}, {"nodes[4].name"}),
    ("same address", {"nodes/4/address": "192.0.2.21"}, {"nodes[4].address"}),
    ("same address, another port", {"nodes/4/address": "192.0.2.21", "nodes/4/port": 2222}, {"nodes[4].address"}),
    ("upper case", {"nodes/4/name": "Plat2"}, {"nodes[4].name"}),
    ("localhost", {"nodes/4/name": "localhost"}, {"nodes[4].name"}),
    ("localhost with domain", {"nodes/4/name": "localhost.localdomain"}, {"nodes[4].name"}),
    ("underscore", {"nodes/4/name": "plat_2"}, {"nodes[4].name"}),
    ("long name", {"nodes/4/name": "p" * 64}, {"nodes[4].name"}),
    ("address as name", {"nodes/4/name": "192.0.2.9"}, {"nodes[4].name"}),
    ("no address", {"nodes/4/address": "plat2.example.com"}, {"nodes[4].address"}),
    ("loopback", {"nodes/4/address": "127.0.0.1", "rke2/node_cidrs": []}, {"nodes[4].address"}),
    ("unspecified", {"nodes/4/address": "::", "rke2/node_cidrs": []}, {"nodes[4].address"}),
    ("no roles", {"nodes/3/roles": []}, {"nodes[3].roles", "nodes[3].disks[0].use"}),
    ("role twice", {"nodes/3/roles": ["worker", "worker", "storage"]}, {"nodes[3].roles"}),
    ("role gpu without GPUs", {"nodes/7/gpu": REMOVE, "tenants/1": REMOVE}, {"nodes[7].gpu"}),
    ("GPUs without the role", {"nodes/7/roles": ["worker"]}, {"nodes[7].roles"}),
    ("label key", {"nodes/3/labels": {"bad key": "x"}}, {"nodes[3].labels[bad key]"}),
    ("label value", {"nodes/3/labels": {"a": "b c"}}, {"nodes[3].labels[a]"}),
    ("long label value", {"nodes/3/labels": {"a": "b" * 64}}, {"nodes[3].labels[a]"}),
    ("role label", {"nodes/3/labels": {"node-role.kubernetes.io/worker": "true"}},
     {"nodes[3].labels[node-role.kubernetes.io/worker]"}),
    ("taint", {"nodes/3/taints": [{"key": "a b"}]}, {"nodes[3].taints[0]"}),
    ("taint twice", {"nodes/7/taints/1": {"key": "nvidia.com/gpu"}}, {"nodes[7].taints[1]"}),
    ("disk path", {"nodes/3/disks/0/device": "sdb"}, {"nodes[3].disks[0].device"}),
    ("mount path", {"nodes/3/disks/0/mount": "/"}, {"nodes[3].disks[0].mount"}),
    ("disk twice", {"nodes/3/disks/1": {"device": "/dev/disk/by-id/nvme-example-data-1", "mount": "/b"}},
     {"nodes[3].disks[1].device"}),
    ("mount twice", {"nodes/3/disks/1": {"device": "/dev/sdc"}}, {"nodes[3].disks[1].mount"}),
    ("storage disk without role", {"nodes/7/disks/0/use": "storage"}, {"nodes[7].disks[0].use"}),
    ("host key", {"nodes/3/host_key": "ssh-ed25519 nonsense"}, {"nodes[3].host_key"}),
    # networks
    ("pods and services", {"rke2/service_cidr": "10.42.128.0/17"}, {"rke2.service_cidr"}),
    ("pods and nodes", {"rke2/cluster_cidr": "192.0.0.0/16"},
     {"rke2.node_cidrs[0]"} | {f"nodes[{i}].address" for i in range(11)}),
    ("node in the pods' network", {"nodes/3/address": "10.42.0.9", "rke2/node_cidrs": []}, {"nodes[3].address"}),
    ("node outside the nodes' networks", {"nodes/3/address": "203.0.113.4"}, {"nodes[3].address"}),
    ("pool over a node", {"layers/metallb/addresses": ["192.0.2.20-192.0.2.22"]},
     {"nodes[3].address", "nodes[4].address"}),
    ("pool in the services' network", {"layers/metallb/addresses": ["10.43.7.0/24"]}, {"layers.metallb.addresses[0]"}),
    ("pools over each other", {"layers/metallb/addresses": ["198.51.100.0/25", "198.51.100.9-198.51.100.12"]},
     {"layers.metallb.addresses[1]"}),
    ("no pool", {"layers/metallb/addresses": []}, {"layers.metallb.addresses"}),
    ("pool backwards", {"layers/metallb/addresses": ["198.51.100.9-198.51.100.2"]}, {"layers.metallb.addresses[0]"}),
    ("host bits", {"rke2/cluster_cidr": "10.42.0.1/16"}, {"rke2.cluster_cidr"}),
    ("no network", {"rke2/node_cidrs": ["192.0.2.0"]}, {"rke2.node_cidrs[0]"}),
    ("load balancer not in the certificate", {"rke2/tls_san": ["192.0.2.5"]}, {"rke2.tls_san"}),
    ("name with port in the certificate", {"rke2/tls_san/2": "k8s:6443"}, {"rke2.tls_san[2]"}),
    ("registration address as URL", {"rke2/registration_address": "https://k8s.example.com"},
     {"rke2.registration_address"}),
    ("registration address is a server", {"rke2/registration_address": "192.0.2.11", "rke2/tls_san/2": "192.0.2.11"},
     {"rke2.registration_address"}),
    ("registration address in MetalLB's pool",
     {"rke2/registration_address": "198.51.100.12", "rke2/tls_san/2": "198.51.100.12"}, {"rke2.registration_address"}),
    ("proxy URL", {"rke2/proxy": {"http": "proxy:3128", "no_proxy": [
        "10.42.0.0/16", "10.43.0.0/16", "192.0.2.0/24", ".svc",
                                                                      ".example.com"]}}, {"rke2.proxy.http"}),
    ("no_proxy", {"rke2/proxy": {"https": "http://proxy.example.com:3128", "no_proxy": ["10.42.0.0/16"]}},
     {"rke2.proxy.no_proxy"}),
    ("name server", {"dns/servers": ["ns.example.com"]}, {"dns.servers[0]"}),
    ("search domain", {"dns/search": ["example com"]}, {"dns.search[0]"}),
    ("static name", {"dns/hosts": {"a_b": "192.0.2.1"}}, {"dns.hosts[a_b]"}),
    ("static address", {"dns/hosts": {"a.example.com": "b"}}, {"dns.hosts[a.example.com]"}),
    ("NTP name", {"time/servers": ["ntp.example.com iburst"]}, {"time.servers[0]"}),
    # registration, packages, RKE2
    ("SCC without code", {"registration": {"kind": "scc"}}, {"registration.code_block"}),
    ("RMT without URL", {"registration/url": REMOVE}, {"registration.url"}),
    ("RMT over http", {"registration/url": "http://rmt.example.com"}, {"registration.url"}),
    ("RMT without fingerprint", {"registration/ca_fingerprint": REMOVE}, {"registration.ca_fingerprint"}),
    ("RMT with a short fingerprint", {"registration/ca_fingerprint": "AA:BB"}, {"registration.ca_fingerprint"}),
    ("Multi-Linux Manager", {"registration": {"kind": "multi-linux-manager"}},
     {"registration.url", "registration.bootstrap_script"}),
    ("product", {"registration/products": ["basesystem"]}, {"registration.products[0]"}),
    ("option as package", {"packages/extra": ["--force"]}, {"packages.extra[0]"}),
    ("repository", {"packages/repositories/0/url": "ftp://x"}, {"packages.repositories[0].url"}),
    ("repository twice", {"packages/repositories/1": {"name": "nvidia-driver", "url": "https://a.example.com"}},
     {"packages.repositories[1].name"}),
    ("RKE2 version", {"rke2/version": "1.34"}, {"rke2.version"}),
    ("Kubernetes line", {"rke2/version": "v1.28.1+rke2r1"}, {"rke2.version"} | {f"layers.{name}.version" for name in (
        "cert_manager", "storage", "rancher_backup", "observability", "gpu_operator")}),
    ("version pair", {"layers/rancher/version": "2.13.8"}, {"layers.rancher_backup.version"}),
    ("version pair with Kubernetes", {"rke2/version": "v1.36.3+rke2r1"}, {
        "layers.cert_manager.version", "layers.rancher.version", "layers.rancher_backup.version",
        "layers.observability.version"}),
    ("chart version", {"layers/rancher/version": "newest"}, {"layers.rancher.version"}),
    ("cluster domain", {"rke2/cluster_domain": "cluster_local"}, {"rke2.cluster_domain"}),
    ("schedule", {"rke2/snapshot_cron": "61 * * * *"}, {"rke2.snapshot_cron"}),
    ("K3s part", {"rke2/disable": ["traefik"]}, {"rke2.disable[0]"}),
    ("argument with dashes", {"rke2/kubelet_args": ["--max-pods=9"]}, {"rke2.kubelet_args[0]"}),
    ("argument without value", {"rke2/etcd_args": ["quota-backend-bytes"]}, {"rke2.etcd_args[0]"}),
    ("argument twice", {"rke2/etcd_args/1": "quota-backend-bytes=1"}, {"rke2.etcd_args[1]"}),
    ("K3s argument", {"rke2/kubelet_args": ["flannel-backend=none"]}, {"rke2.kubelet_args[0]"}),
    ("argument with a field of its own", {"rke2/kubelet_args": ["node-labels=a=b"]}, {"rke2.kubelet_args[0]"}),
    ("argument against the CIS profile", {"rke2/kubelet_args": ["protect-kernel-defaults=false"]},
     {"rke2.kubelet_args[0]"}),
    ("artifacts without URL", {"rke2/artifacts": {"source": "url"}}, {"rke2.artifacts.url"}),
    ("artifacts over http", {"rke2/artifacts": {"source": "url", "url": "http://m.example.com"}},
     {"rke2.artifacts.url"}),
    ("artifacts without folder", {"rke2/artifacts": {"source": "folder", "images": True}}, {"rke2.artifacts.folder"}),
    ("folder on the nodes", {"rke2/artifacts": {"source": "folder", "folder": "rke2", "on_nodes": True}},
     {"rke2.artifacts.folder"}),
    ("mirror over http", {"rke2/registries/mirrors/docker.io": ["http://r.example.com"]},
     {"rke2.registries.mirrors[docker.io][0]"}),
    ("mirror without endpoint", {"rke2/registries/mirrors/docker.io": []}, {"rke2.registries.mirrors[docker.io]"}),
    ("mirrored host", {"rke2/registries/mirrors": {"https://docker.io": ["https://r.example.com"]}},
     {"rke2.registries.mirrors[https://docker.io]", "rke2.registries.rewrites[nvcr.io]"}),
    ("rewrite", {"rke2/registries/rewrites/nvcr.io": {"(": "x"}}, {"rke2.registries.rewrites[nvcr.io]"}),
    ("default registry", {"rke2/registries/system_default_registry": "https://r.example.com/x"},
     {"rke2.registries.system_default_registry"}),
    ("air gap without images", {"rke2/registries": {"disable_default_endpoint": True}, "rke2/artifacts/images": False},
     {"rke2.registries.mirrors"}),
    # the platform
    ("base domain", {"ingress/domain": "https://ai.example.com"}, {"ingress.domain"}),
    ("base domain without a dot", {"clearml/base_domain": "ml"}, {"clearml.base_domain"}),
    ("base domain in capitals", {"clearml/base_domain": "ML.example.com"}, {"clearml.base_domain"}),
    ("own certificate", {"ingress/tls": "secret"}, {"ingress.certificate_block"}),
    ("private CA", {"ingress/ca_block": None}, {"ingress.ca_block"}),
    ("chart mirror", {"charts/mirror": "https://registry.example.com/charts"}, {"charts.mirror"}),
    ("two storage nodes", {f"nodes/{i}/roles": ["worker"] for i in (3, 4)} | {f"nodes/{i}/disks": [] for i in (3, 4)},
     {"layers.storage", "layers.storage.replicas"}),
    ("too many replicas", {"layers/storage/replicas": 5}, {"layers.storage.replicas"}),
    ("data path", {"layers/storage/data_path": "longhorn"}, {"layers.storage.data_path"}),
    ("GPU layer without GPUs",
     {f"nodes/{i}": node(f"w{i}", f"192.0.2.{i + 90}", "worker") for i in range(7, 11)}
     | {"layers/gpu_operator": {"enabled": True}, "tenants": [], "layers/suse_ai/ollama_gpus": 0},
     {"layers.gpu_operator.enabled"}),
    ("another vendor", {"layers/gpu_operator/vendor": "amd", "layers/suse_ai/enabled": False},
     {"layers.gpu_operator.vendor"}),
    ("mixed vendors under one", {"nodes/10/gpu/vendor": "amd", "layers/gpu_operator/vendor": "nvidia"},
     {"layers.gpu_operator.vendor"}),
    ("mixed vendors under one version", {"nodes/10/gpu/vendor": "amd", "layers/gpu_operator/version": "26.3.3"},
     {"layers.gpu_operator.version"}),
    ("promised GPUs without operator", {"layers/gpu_operator/enabled": False},
     {"layers.gpu_operator.enabled", "layers.suse_ai"}),
    ("too few nodes for ClearML",
     {"nodes": [node("a", "192.0.2.11", "server", "worker"),
      node("b", "192.0.2.12", "worker", "gpu", gpu={"count": 16})],
      "rke2/allow_single_server": True, "layers/storage/replicas": 1, "tenants": []}, {"layers.clearml"}),
    ("ClearML without storage", {"layers/storage/enabled": False}, {
        "layers.clearml", "layers.registry", "layers.observability", "layers.suse_ai"}),
    ("tenants without ClearML", {"layers/clearml/enabled": False}, {"tenants"}),
    ("sizing profile", {"layers/observability/profile": "huge"}, {"layers.observability.profile"}),
    ("GPUs of one pod", {"layers/suse_ai/ollama_gpus": 9}, {"layers.suse_ai.ollama_gpus"}),
    ("namespace", {"layers/suse_ai/namespace": "SUSE"}, {"layers.suse_ai.namespace"}),
    ("no ingress", {"rke2/ingress_controller": "none"}, {"rke2.ingress_controller"}),
    # tenants
    ("tenant name", {"tenants/0/name": "Vision"}, {"tenants[0].name"}),
    ("short tenant name", {"tenants/0/name": "ab"}, {"tenants[0].name"}),
    ("tenant twice", {"tenants/1/name": "vision"}, {"tenants[1].name"}),
    ("e-mail", {"tenants/0/admin_email": "nobody"}, {"tenants[0].admin_email"}),
    ("more GPUs than there are", {"tenants/0/quota/gpus": 33}, {"tenants[0].quota.gpus"}),
    ("a job larger than a node", {"tenants/0/queues/2/gpus": 16, "tenants/0/queues/2/max_pods": 1},
     {"tenants[0].queues[2].gpus"}),
    ("a full queue without pods", {"tenants/0/quota/pods": 20}, {"tenants[0].quota.pods"}),
    ("no queue", {"tenants/0/queues": []}, {"tenants[0].queues"}),
    ("queue of two kinds of GPU shares", {"tenants/0/queues/1/fraction": 0.5}, {"tenants[0].queues[1]"}),
    ("fraction that the injector does not know",
     {"tenants/0/queues/1/gpus": 0, "tenants/0/queues/1/fraction": 0.3}, {"tenants[0].queues[1].fraction"}),
    ("fraction too small for an old injector",
     {"tenants/0/queues/1/gpus": 0, "tenants/0/queues/1/fraction": 0.0625, "clearml/injector_version": "1.2.0"},
     {"tenants[0].queues[1].fraction"}),
    ("shared volume beyond the quota", {"tenants/0/workspace_gib": 4001}, {"tenants[0].workspace_gib"}),
    ("policy that is sure of more than it allows", {"tenants/0/policy/reservation": 17}, {"tenants[0].policy.limit"}),
    ("policy beyond the quota", {"tenants/0/policy/limit": 17}, {"tenants[0].policy.limit"}),
    ("policy below one job", {"tenants/0/policy": {"reservation": 0, "limit": 7}}, {"tenants[0].policy.limit"}),
    ("policy without a GPU queue", {"tenants/0/queues": [{"name": "default"}]}, {"tenants[0].policy"}),
    ("pools with nothing to spill over", {"tenants/0/policy": {"reservation": 16, "limit": 16, "pools": ["shared"]}},
     {"tenants[0].policy.pools"}),
    ("pool twice", {"tenants/0/policy/pools": ["shared", "shared"]}, {"tenants[0].policy.pools[1]"}),
    ("pool without a name", {"tenants/0/policy/pools": ["x"]}, {"tenants[0].policy.pools[0]"}),
    ("mail domain", {"tenants/0/identity/domains": ["@vision"]}, {"tenants[0].identity.domains[0]"}),
    ("mail domain of two tenants", {"tenants/1/identity": {"domains": ["vision.example.com"]}},
     {"tenants[1].identity.domains[0]"}),
    ("address that is none", {"tenants/0/identity/emails": ["someone"]}, {"tenants[0].identity.emails[0]"}),
    ("identity that says nothing", {"tenants/1/identity": {}}, {"tenants[1].identity"}),
    ("provider without its secret", {"tenants/0/identity/provider": "keycloak"}, {"tenants[0].identity"}),
    ("provider's keys without a provider", {"tenants/0/identity/client_id": "x"}, {"tenants[0].identity.provider"}),
    ("provider's secret from another's block",
     {"tenants/0/identity": {"provider": "keycloak", "client_id": "x", "client_block": "backup-key",
                             "base_url": "https://id.example.com/realms/vision"}},
     {"tenants[0].identity.client_block"}),
    ("provider over plain HTTP",
     {"tenants/0/identity": {"provider": "keycloak", "client_id": "x", "client_block": "clearml-tenant-vision-sso",
                             "base_url": "http://id.example.com"}}, {"tenants[0].identity.base_url"}),
    ("queue twice", {"tenants/0/queues/1/name": "default"}, {"tenants[0].queues[1].name"}),
    ("ports over each other", {"tenants/1/tcp_ports/start": 30120}, {"tenants[1].tcp_ports"}),
    ("allowed namespace", {"tenants/0/allowed_namespaces": ["*"]}, {"tenants[0].allowed_namespaces[0]"}),
    # backup
    ("backup over http", {"backup/endpoint": "http://s3.example.com"}, {"backup.endpoint"}),
    ("bucket", {"backup/bucket": "My_Bucket"}, {"backup.bucket"}),
    ("folder", {"backup/folder": "../x"}, {"backup.folder"}),
    ("second store over http", {"backup/second/endpoint": "http://s3.example.com"}, {"backup.second.endpoint"}),
    ("second store's bucket", {"backup/second/bucket": "My_Bucket"}, {"backup.second.bucket"}),
    ("second store's folder", {"backup/second/folder": "/x"}, {"backup.second.folder"}),
    ("second store is the first", {"backup/second": {
        "endpoint": "https://s3.example.com:9000/", "bucket": "example-ha-bundles", "folder": "stackwright/"}},
     {"backup.second"}),
    ("recipient", {"backup/recipients/0": "age1nonsense"}, {"backup.recipients[0]"}),
    ("recipient with a slip", {"backup/recipients/0": AGE_KEY.replace("r4xj", "r4xk")}, {"backup.recipients[0]"}),
    ("key's block is the token's", {"backup/key_block": "example-ha-token"}, {"backup.key_block"}),
    ("drill host is a node by name", {"backup/drill/host/name": "plat1"}, {"backup.drill.host.name"}),
    ("drill host is a node by address", {"backup/drill/host/address": "192.0.2.11"}, {"backup.drill.host.address"}),
    ("drill host is the registration address", {"backup/drill/host/address": "192.0.2.5"},
     {"backup.drill.host.address"}),
    ("drill host without an address", {"backup/drill/host/address": "spare"}, {"backup.drill.host.address"}),
    ("drill host's key", {"backup/drill/host/host_key": "nonsense"}, {"backup.drill.host.host_key"}),
    ("drill host is an agent", {"backup/drill/host/roles": ["worker"]}, {"backup.drill.host.roles"}),
    ("drill host without roles", {"backup/drill/host/roles": []}, {"backup.drill.host.roles"}),
    ("fence without port", {"backup/drill/fence/0": "s3.example.com"}, {"backup.drill.fence[0]"}),
    ("fence with port 0", {"backup/drill/fence/0": "s3.example.com:0"}, {"backup.drill.fence[0]"}),
    ("fence as URL", {"backup/drill/fence/0": "https://s3.example.com:9000"}, {"backup.drill.fence[0]"}),
    ("nowhere to keep backups", {"backup": REMOVE, "layers/storage/enabled": False, "layers/clearml/enabled": False,
                                 "tenants": [], "layers/registry/enabled": False, "layers/observability/enabled": False,
                                 "layers/suse_ai/enabled": False}, {"layers.rancher_backup"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "places"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_the_rule_refuses_and_names_the_place(changes, places):
    """Each rule refuses what it is for, and nothing else is told with it."""
    assert told(changes) == places


def test_the_example_and_the_lab_keep_every_rule():
    """Nothing is refused without a reason."""
    assert check_spec(example({})) == []
    assert check_spec(StackSpec.model_validate(lab_document())) == []


def test_what_age_makes_is_a_recipient():
    """Our reading of its checksum is the library's own, for keys made by it; its identities are none."""
    for _ in range(20):
        identity = x25519.Identity.generate()
        assert is_recipient(str(identity.to_public()))
        assert not is_recipient(str(identity)) and not is_recipient(str(identity.to_public()).upper())


def test_every_problem_has_a_remedy():
    """No rule refuses without saying what to do."""
    for _, changes, _ in RULES:
        assert all(problem.remedy and problem.what for problem in check_spec(example(changes)))


def test_a_lab_has_loopback_addresses_only():
    """Real machines under `environment: lab` would get a report that calls them stand-ins."""
    document = json.loads(json.dumps(lab_document()))
    document["nodes"][0]["address"] = "203.0.113.9"
    assert [problem.where for problem in check_spec(StackSpec.model_validate(document))] == ["nodes[0].address"]


def test_a_lab_needs_its_own_artifacts():
    """A lab without a place for RKE2 would reach for the network."""
    document = lab_document()
    document["rke2"]["artifacts"] = {}
    assert [problem.where for problem in check_spec(StackSpec.model_validate(document))] == ["rke2.artifacts.url"]


def test_a_trial_with_one_server_is_allowed_when_said():
    """allow_single_server lifts the counts of servers, workers and storage nodes, and is noted."""
    one = node("a", "192.0.2.11", "server", "worker", "storage")
    spec = example({
        "nodes": [one], "rke2/allow_single_server": True, "tenants": [], "layers/storage/replicas": 1,
        "layers/clearml/enabled": False, "layers/suse_ai/ollama_gpus": 0, "rke2/registration_address": "192.0.2.11",
        "rke2/tls_san": ["192.0.2.11"],
    })  # fmt: skip
    assert "nodes" not in {problem.where for problem in check_spec(spec) if "server" in problem.what}
    assert "rke2.registration_address" not in {problem.where for problem in check_spec(spec)}
    assert any("single server" in note for note in note_spec(spec))


def test_mixed_vendors_are_allowed_with_auto():
    """NVIDIA and AMD nodes stand side by side: one operator a vendor, one Node Feature Discovery."""
    assert told({"nodes/10/gpu/vendor": "amd"}) == set()


def test_what_to_add_to_no_proxy_is_said():
    """The remedy lists every network and name that is missing, ready to copy."""
    changes = {"rke2/proxy": {"https": "http://proxy.example.com:3128"}, "rke2/node_cidrs": []}
    remedy = next(p.remedy for p in check_spec(example(changes)) if p.where == "rke2.proxy.no_proxy")
    for part in ("10.42.0.0/16", "10.43.0.0/16", "192.0.2.11", ".svc", "k8s.example.com"):
        assert part in remedy


def test_wider_networks_in_no_proxy_count():
    """10.0.0.0/8 stands for the networks of pods and services."""
    no_proxy = ["10.0.0.0/8", "192.0.2.0/24", ".svc", ".example.com"]
    assert told({"rke2/proxy": {"https": "http://proxy.example.com:3128", "no_proxy": no_proxy}}) == set()


def test_networks_of_nodes_may_lie_in_each_other():
    """Only pods', services' and MetalLB's networks must be apart from the rest."""
    assert told({"rke2/node_cidrs": ["192.0.2.0/24", "192.0.0.0/16"]}) == set()


def test_a_mirror_of_charts_with_open_registries_is_noted():
    """Half an air gap is allowed, but said."""
    notes = note_spec(example({"rke2/registries/disable_default_endpoint": False}))
    assert any("disable_default_endpoint" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"firewall/mode": "open-ports"}, "Canal"),
        ({"firewall/mode": "unmanaged"}, "unmanaged"),
        ({"nodes/3/host_key": REMOVE}, "plat1"),
        ({"nodes/3/disks": []}, "plat1"),
        ({"backup": REMOVE}, "backup"),
        ({"time/servers": []}, "time.servers"),
    ],
)
def test_what_is_allowed_but_risky_is_noted(changes, word):
    """Notes do not refuse; they name what they are about."""
    spec = example(changes)
    assert check_spec(spec) == []
    assert any(word in note for note in note_spec(spec))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("0 */6 * * *", True),
        ("@daily", True),
        ("15,45 0-6/2 1 jan mon-fri", True),
        ("* * * *", False),
        ("* * * * * *", False),
        ("60 * * * *", False),
        ("*/0 * * * *", False),
        ("5-1 * * * *", False),
        ("@sometimes", False),
        ("", False),
    ],
)
def test_schedules(text, good):
    """Five fields in their ranges, or a word that the scheduler knows."""
    assert syntax.is_cron(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a", True),
        ("a.b-c.d1", True),
        ("1a.example.com", True),
        ("A.example.com", False),
        ("-a", False),
        ("a-", False),
        ("a..b", False),
        ("a.", False),
        (".a", False),
        ("*.a", False),
        ("192.0.2.1", False),
        ("a." + "b" * 64, False),
        (".".join(["a" * 60] * 5), False),
        ("a_b", False),
        ("", False),
        ("a.1", False),
    ],
)
def test_dns_names(text, good):
    """Lower-case names of RFC 1123, never an address."""
    assert syntax.is_dns_name(text) is good


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://a.example.com:9000/x", "a.example.com"),
        ("https://[2001:db8::1]:9000", "2001:db8::1"),
        ("http://a.example.com", None),
        ("https://user@a.example.com", None),
        ("https://a.example.com:0", None),
        ("https://a.example.com:99999", None),
        ("https://", None),
        ("https://a b", None),
        ("a.example.com", None),
    ],
)
def test_urls(text, host):
    """A host, a port that exists, no user."""
    assert syntax.url_host(text, "https") == host
