"""A site as a restore sees it: the bundle's secrets in front of the site's own, and one look at everything."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, BinaryIO, Protocol

import yaml
from pydantic import SecretStr

from stackwright.clients.connect import connect
from stackwright.clients.secrets import Secrets
from stackwright.clients.site import Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.bundle import BundleState, Manifest, file_content
from stackwright.domain.errors import ApiError, NodeUnreachableError, StackError
from stackwright.domain.kinds import Kind
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.restore import Mark, RestoreFacts, parse_mark
from stackwright.domain.restore_scripts import look_script
from stackwright.domain.rke2_facts import CONFIG, REGISTRIES, SECRET_KEYS
from stackwright.domain.shell import parse_settled
from stackwright.domain.spec import Node, StackSpec
from tasks.cluster import read_sources
from tasks.nodes import look

log = logging.getLogger(__name__)

Fields = Mapping[str, SecretStr]


class Bundle(Protocol):
    """What a restore needs of an open bundle (tasks/bundles.py)."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def state(self) -> BundleState: ...

    def snapshot(self) -> AbstractContextManager[BinaryIO]:
        """Return the etcd snapshot in clear as a stream; its end is seen only when every sum is the manifest's."""
        ...


class BundleSecrets:
    """The bundle's secrets in front of the site's own. What is written stays here: `keep_access` passes it on."""

    def __init__(self, behind: Secrets, front: Mapping[tuple[Kind, str], Fields | None]) -> None:
        self.behind = behind
        self._front = dict(front)

    def read(self, kind: Kind, name: str) -> Fields | None:
        """Return the bundle's fields, else the site's."""
        if (kind, name) in self._front:
            return self._front[kind, name]
        return self.behind.read(kind, name)

    def write(self, kind: Kind, name: str, fields: Fields) -> None:
        """Keep fields for the time of the restore."""
        self._front[kind, name] = dict(fields)

    def remove(self, kind: Kind, name: str) -> None:
        """Count a block as gone for the time of the restore."""
        self._front[kind, name] = None

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of the bundle's blocks and the site's."""
        front = {name: fields for (of, name), fields in self._front.items() if of == kind}
        behind = set(self.behind.names(kind)) - front.keys()
        return tuple(sorted(behind | {name for name, fields in front.items() if fields is not None}))

    def pass_on(self, kind: Kind, name: str) -> None:
        """Write what is kept here to the site's own secrets."""
        fields = self._front.get((kind, name))
        if fields is None:
            raise StackError("nothing is kept that could be passed on", where=f"{kind}/{name}")
        self.behind.write(kind, name, fields)


def with_bundle(site: Site, state: BundleState) -> Site:
    """Return the site with the bundle's token, and with no access yet: neither to the old cluster nor to the new.

    Registry logins that the site's secrets lack come from the bundle's registries.yaml. Production's blocks are not
    written through it.
    """
    rke2 = site.spec.rke2
    front: dict[tuple[Kind, str], Fields | None] = {
        ("secret-text", rke2.token_block): {"value": state.token},
        ("cluster-access", rke2.kubeconfig_block): None,
    }
    front |= {
        ("registry", block): login
        for block, login in _logins(site.spec, state)
        if site.secrets.read("registry", block) is None
    }
    secrets = BundleSecrets(site.secrets, front)
    made = connect(site.spec, secrets, site.workdir)
    return replace(site, secrets=secrets, kube=made.kube, helm=made.helm)


def _logins(spec: StackSpec, state: BundleState) -> Iterator[tuple[str, Fields]]:
    configs = _yaml(state, REGISTRIES).get("configs") or {}
    for host, block in spec.rke2.registries.credentials.items():
        auth = (configs.get(host) or {}).get("auth") or {}
        if auth:
            yield block, {key: SecretStr(str(auth.get(key, ""))) for key in ("username", "password")}


def _yaml(state: BundleState, path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file_content(state, path) or b"") or {}
    except yaml.YAMLError:
        # The parser would quote the file, and that may hold secrets.
        raise StackError("a file of the bundle is not YAML", where=path, remedy="Use another bundle.") from None
    return content if isinstance(content, dict) else {}


def bundle_config(state: BundleState) -> dict[str, Any]:
    """Return what the bundle's config.yaml and the files beside it say, as RKE2 merges them, without secrets."""
    merged: dict[str, Any] = {}
    for path in sorted(path for path in state.files if path == CONFIG or path.startswith(f"{CONFIG}.d/")):
        merged |= _yaml(state, path)
    return {key: value for key, value in merged.items() if key not in SECRET_KEYS}


def ca_hash_of(token: SecretStr) -> str:
    """Return the CA hash of a full token, empty for a short one."""
    text = token.get_secret_value()
    return text[3:].partition("::")[0] if text.startswith("K10") and "::" in text else ""


def read_restore(site: Site, bundle: Bundle) -> RestoreFacts:
    """Look at all nodes at once, at the markers of a restore, and at who else answers. Changes nothing.

    Nodes that do not answer are named in the facts. Raises what a client raises for anything else.
    """
    spec, manifest = site.spec, bundle.manifest
    asked = _other_addresses(spec, manifest)
    with RunThreads(max_workers=min(len(spec.nodes), spec.ssh.width)) as pool:
        looks = list(pool.map(lambda node: _look(site, node, asked if node == spec.servers[0] else ()), spec.nodes))
    facts = {node.name: look[0] for node, look in zip(spec.nodes, looks, strict=True) if not isinstance(look, str)}
    runs = any(facts[node.name].rke2_runs for node in spec.servers if node.name in facts)
    names = {spec.rke2.registration_address, _dialled(spec)}
    return RestoreFacts(
        nodes=facts,
        marks={node.name: look[1] for node, look in zip(spec.nodes, looks, strict=True) if not isinstance(look, str)},
        silent={node.name: look for node, look in zip(spec.nodes, looks, strict=True) if isinstance(look, str)},
        cluster=read_sources(spec),
        cluster_id=_cluster_id(site),
        answering=tuple(
            address
            for look in looks if not isinstance(look, str)
            for address in look[2] if not (runs and address in names)  # then it is our own server that answers
        ),
        config=bundle_config(bundle.state),
        ca_hash=ca_hash_of(bundle.state.token),
    )  # fmt: skip


def _look(site: Site, node: Node, asked: tuple[str, ...]) -> tuple[NodeFacts, Mark, tuple[str, ...]] | str:
    try:
        with site.shells.open(node) as shell:
            seen = shell.read(look_script(asked))
            parse_settled(seen, node.name)
            facts = look(site, node, shell)
    except NodeUnreachableError as error:
        return f"{error.what}: {error.seen}" if error.seen else error.what
    mark = seen["mark"]
    if mark.rc and not mark.absent:
        raise StackError("the restore's marker cannot be read", where=node.name, seen=f"exit code {mark.rc}")
    return facts, parse_mark(None if mark.absent else mark.out), tuple(seen["answering"].out.split())


def _dialled(spec: StackSpec) -> str:
    name = spec.rke2.registration_address
    return spec.dns.hosts.get(name, name)


def _other_addresses(spec: StackSpec, manifest: Manifest) -> tuple[str, ...]:
    """Return where another server of the old cluster could be alive: its noted addresses, and the registration's."""
    ours = {node.address for node in spec.nodes}
    noted = [note.address for note in manifest.nodes if note.server]
    return tuple(dict.fromkeys(one for one in (*noted, _dialled(spec)) if one and one not in ours))


def _cluster_id(site: Site) -> str:
    """Return the UID of kube-system of the cluster that the kept access leads to; empty where none answers."""
    if site.secrets.read("cluster-access", site.spec.rke2.kubeconfig_block) is None:
        return ""
    try:
        found = site.kube().get("v1", "Namespace", "kube-system")
    except ApiError as error:
        log.info("the kept access leads to no cluster that answers: %s", error)
        return ""
    return str(found["metadata"]["uid"]) if found else ""
