"""A site with a spare host, a bundle of it, and what a faithful restore shows: for the tests of drills."""

from __future__ import annotations

import base64
import copy
from dataclasses import replace

import yaml
from pydantic import SecretStr

from stackwright.domain.bundle import BundleState, Manifest, NodeNote, SnapshotNote, StoredFile, known_sum
from stackwright.domain.drill_compare import Restored, RestoredNode
from stackwright.domain.rke2_facts import CONFIG
from stackwright.domain.token_archive import token_hash
from tests.domain.nodes_seen import VERSION, make_spec

TOKEN = f"K10{'ab' * 32}::server:restored-secret"
DATA = {"bundle": "b", "nonce": "n"}
COUNTS = {"configmaps": 40, "secrets": 12, "apps/deployments": 7, "pods": 30, "leases": 9}
KEYS = sum(COUNTS.values()) + 3
CREATED = 1_800_000_000.0
BACKUP = {
    "endpoint": "https://s3.example.com:9000",
    "bucket": "bundles",
    "drill": {
        "host": {
            "name": "spare", "address": "192.0.2.99", "roles": ["server"], "labels": {"rack": "9"},
            "taints": [{"key": "own", "value": "x"}],
        },
        "fence": ["vault.example.com:8200"],
        "rto_s": 600,
    },
}  # fmt: skip
SETTINGS = {
    "node-name": "s1",
    "node-ip": "192.0.2.11",
    "cni": "cilium",
    "cluster-cidr": "10.52.0.0/16",
    "service-cidr": "10.53.0.0/16",
    "cluster-domain": "north.local",
    "ingress-controller": "none",
    "profile": "etcd",
    "disable": ["rke2-metrics-server"],
    "etcd-arg": "quota-backend-bytes=8589934592",
    "etcd-s3": True,
}


def spec(**changes):
    """Return the site: `backup__drill__...` sets a field of the spare host's section."""
    return make_spec(**{"backup": copy.deepcopy(BACKUP), **changes})


def state(config=SETTINGS, token=TOKEN):
    """Return the secret part of the bundle."""
    files = {} if config is None else {CONFIG: SecretStr(base64.b64encode(yaml.safe_dump(config).encode()).decode())}
    return BundleState(SecretStr("seal"), SecretStr(token), SecretStr(""), files)


def manifest(**changes):
    """Return the bundle's manifest."""
    made = Manifest(
        id="20270115T080000Z-00000001", site="north", cluster_id="uid-system", created_at="2027-01-15T08:00:00+00:00",
        rke2_version=VERSION,
        snapshot=SnapshotNote("stackwright-s1-1", "s1", "2027-01-15T07:59:00+00:00", 500, KEYS, COUNTS),
        token_hash=token_hash(TOKEN), encryption_sha256="", known_sha256=known_sum(DATA),
        nodes=(NodeNote("s1", "uid-1", "192.0.2.11", True), NodeNote("w1", "uid-2", "192.0.2.21", False)),
        certificates=(), files={"snapshot.age": StoredFile(1, "", 1, "")},
    )  # fmt: skip
    return replace(made, **changes)


def restored(**changes):
    """Return what a restore of it shows that brought everything back."""
    nodes = {"s1": RestoredNode("uid-1", VERSION), "w1": RestoredNode("uid-2", VERSION)}
    nodes["spare"] = RestoredNode("uid-9", VERSION)
    made = Restored("uid-system", nodes, 530, COUNTS, True, known_sum(DATA), 13)
    return replace(made, **changes)
