"""What forbids to restore a bundle: every reason at once, each with what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from stackwright.domain.bundle import SNAPSHOT, Manifest
from stackwright.domain.errors import Problem
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.restore import RestoreFacts, first_of, phase_of, reached
from stackwright.domain.rke2_files import config
from stackwright.domain.spec import Node, StackSpec
from stackwright.domain.versions import parse_rke2

BOUND_KEYS = {"cluster-cidr": "10.42.0.0/16", "service-cidr": "10.43.0.0/16", "cni": "canal", "data-dir": ""}
"""Keys of config.yaml that a restored cluster keeps, with RKE2's defaults."""
COPIES = 3
"""Room for the snapshot, for etcd's data made of it, and for its log."""
SPARE_GIB = 1.0
ANYWAY = "replace_healthy"


def check_restore(spec: StackSpec, facts: RestoreFacts, manifest: Manifest, replace_healthy: str = "") -> list[Problem]:
    """Return why this bundle may not be restored on this site now.

    `replace_healthy` is the site's name, said once more beside the plan's hash, where a cluster that works is to be
    replaced all the same.
    """
    problems = [*_origin(spec, facts, manifest), *_version(spec, manifest), *_config(spec, facts)]
    problems += [*_silent(spec, facts), *_foreign(spec, facts), *_room(spec, facts, manifest)]
    problems += _elsewhere(facts)
    begun = phase_of(spec, facts, manifest, first_of(spec).name)
    if not reached(begun, "reset"):
        problems += _healthy(spec, facts, replace_healthy)
    return problems


def _origin(spec: StackSpec, facts: RestoreFacts, manifest: Manifest) -> Iterator[Problem]:
    where = f"bundle {manifest.id}"
    if manifest.site != spec.site:
        remedy = "Choose a bundle of this site."
        yield Problem(where, "the bundle is of another site", remedy, spec.site, manifest.site)
    if facts.cluster_id and facts.cluster_id != manifest.cluster_id:
        remedy = "Find out which cluster is yours: the one that answers was never the bundle's."
        what = "the cluster that answers now is not the one that the bundle was made of"
        yield Problem(where, what, remedy, manifest.cluster_id, facts.cluster_id)


def _version(spec: StackSpec, manifest: Manifest) -> Iterator[Problem]:
    wanted, made = parse_rke2(spec.rke2.version), parse_rke2(manifest.rke2_version)
    if wanted is None or made is None or wanted < made:
        remedy = "Write the bundle's release, or a later one of the same minor, into rke2.version."
        what = "the site file's RKE2 is older than the bundle's"
        yield Problem("rke2.version", what, remedy, f"{manifest.rke2_version} at the least", spec.rke2.version)


def _config(spec: StackSpec, facts: RestoreFacts) -> Iterator[Problem]:
    want = config(spec, first_of(spec))
    for key, default in BOUND_KEYS.items():
        seen, wanted = facts.config.get(key, default), want.get(key, default)
        if _words(seen) != _words(wanted):
            remedy = f"Write the bundle's value into the site file: what lies in etcd was made with this {key}."
            yield Problem(f"rke2.{key.replace('-', '_')}", "it is not the bundle's", remedy, str(seen), str(wanted))


def _words(value: object) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list | tuple) else [str(value)]


def _silent(spec: StackSpec, facts: RestoreFacts) -> Iterator[Problem]:
    for node in spec.nodes:
        if node.name not in facts.silent:
            continue
        what = "the server does not answer, so it cannot be kept from coming back with its old data"
        remedy = "Bring it back or switch it off for good; put another host into the site file in its place."
        if not node.is_server:
            what, remedy = "the host does not answer", "Bring it back, or take it out of the site file for now."
        yield Problem(node.name, what, remedy, "an answer over SSH", facts.silent[node.name])


def _foreign(spec: StackSpec, facts: RestoreFacts) -> Iterator[Problem]:
    for node in spec.servers:
        seen = facts.nodes[node.name].rke2 if node.name in facts.nodes else None
        held = (seen.token_ca_hash or seen.ca_hash) if seen else ""
        if held and facts.ca_hash and held != facts.ca_hash:
            remedy = "If nothing on it is needed, remove it with rke2-uninstall.sh; nothing is wiped for you."
            what = "the host holds data of another cluster, or of this one under another CA"
            yield Problem(node.name, what, remedy, f"CA {facts.ca_hash[:12]}", f"CA {held[:12]}")


def _room(spec: StackSpec, facts: RestoreFacts, manifest: Manifest) -> Iterator[Problem]:
    need = COPIES * manifest.files[SNAPSHOT].plain_bytes / (1 << 30) + SPARE_GIB
    for node in spec.servers:
        if node.name not in facts.nodes or reached(phase_of(spec, facts, manifest, node.name), "placed"):
            continue
        free = facts.nodes[node.name].rke2.free_gib
        if free < need:
            remedy = "Make room below /var/lib/rancher: old data are kept until you remove them."
            yield Problem(node.name, "its disk has no room for the restore", remedy, f"{need:.1f} GiB", f"{free} GiB")


def _elsewhere(facts: RestoreFacts) -> Iterator[Problem]:
    for address in facts.answering:
        remedy = "Switch that server off, or point the name elsewhere: two clusters of one identity destroy each other."
        what = "a server that this restore does not fence answers as RKE2"
        yield Problem(address, what, remedy, "no answer at port 9345", "an answer")


def _healthy(spec: StackSpec, facts: RestoreFacts, replace_healthy: str) -> Iterator[Problem]:
    if replace_healthy != spec.site:
        for node in spec.servers:
            if node.name in facts.nodes:
                yield from check_working(spec.site, node, facts.nodes[node.name])


def check_working(site: str, node: Node, facts: NodeFacts) -> list[Problem]:
    """Return whether a server's etcd works: without a quorum none calls itself healthy. Unknown counts as working."""
    etcd = facts.rke2.etcd
    if etcd is None or etcd.healthy is False or (etcd.readable and not etcd.leader):
        return []
    if etcd.readable and etcd.healthy:
        voters = ", ".join(sorted(one.node for one in etcd.members if not one.learner))
        what, seen = "etcd has a healthy quorum: a restore would throw away what it holds", f"voters {voters}"
    else:
        what, seen = "an etcd runs here and does not say whether it has a quorum", etcd.problem or "no answer"
    remedy = f"Mend the cluster instead; to replace it all the same, give {ANYWAY}={site} beside the hash."
    return [Problem(node.name, what, remedy, "no working etcd", seen)]
