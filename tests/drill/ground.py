"""A production of one server on the rung, a spare host behind a fence, and a bundle store: the ground of drills.

The server counts: its RKE2, etcd and API are what bundles are made of by production's own task. The store listens on
this machine's loopback, where no host can reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.sealing import new_identity
from stackwright.clients.site import Site
from stackwright.domain.spec import Backup, StackSpec
from tasks.bundle_making import make_bundle
from tasks.bundles import backup_identity, stores
from tests.drill.spoil import Parts, put_together, take_apart
from tests.rung.hosts import Hosts
from tests.rung.sites import bring, site_of, spec_of, with_spec
from tests.store_server import ACCESS, SECRET, StoreServer
from tests.tasks.test_nodes import Held

SERVER, SPARE = "p1", "spare"
STORE = "store.example.test"


@dataclass
class Ground:
    """Everything around a drill. `site` is production's; what it keeps in `folder`s of the store is apart by case."""

    hosts: Hosts
    site: Site
    written: int = 0

    def in_folder(self, folder: str) -> Site:
        """Return the same site with its bundles in another folder of the store."""
        return self.with_backup(folder=folder)

    def with_backup(self, **changes: object) -> Site:
        """Return the same site with another section `backup`."""
        backup = self.site.spec.backup
        assert backup is not None
        spec = self.site.spec.model_copy(update={"backup": backup.model_copy(update=changes)})
        return with_spec(self.site, spec)

    def change(self) -> None:
        """Write some objects, and delete some of those before, so that no two snapshots are alike."""
        kube = self.site.kube()
        self.written += 1
        for kind, body in (
            ("ConfigMap", {"data": {"round": str(self.written)}}),
            ("Secret", {"stringData": {"a": "b"}}),
        ):
            for number in range(3):
                meta = {"name": f"drill-{self.written}-{number}", "namespace": "default"}
                kube.apply({"apiVersion": "v1", "kind": kind, "metadata": meta, **body})
            if self.written > 1:
                kube.delete("v1", kind, f"drill-{self.written - 1}-0", "default")

    def bundle(self) -> str:
        """Make a bundle of production as it is now; return its name."""
        return make_bundle(self.site, self.site.spec.servers[0], Held()).id

    def parts(self, bundle: str) -> Parts:
        """Return a bundle taken apart."""
        return take_apart(stores(self.site)[0], self.site.spec.site, bundle, backup_identity(self.site))

    def spoilt(self, parts: Parts, folder: str, spoil: Callable[[Parts], Parts]) -> Site:
        """Return a site whose folder of the store holds the bundle alone, as `spoil` makes it."""
        site = self.in_folder(folder)
        put_together(stores(site)[0], spoil(parts), backup_identity(site))
        return site


def lay_ground(hosts: Hosts, store: StoreServer, folder: Path, *, fenced: bool = True) -> Ground:
    """Bring production up and switch the spare host on, behind its fence or on production's own network."""
    hosts.add(SERVER)
    hosts.use(SERVER)
    if fenced:
        hosts.add_fenced(SPARE)
    else:
        hosts.add(SPARE)
    spec = drill_site_spec(hosts, store)
    site = site_of(hosts, spec, folder)
    site.secrets.write("s3", "backup-store", {"access_key": SecretStr(ACCESS), "secret_key": SecretStr(SECRET)})
    site.secrets.write("secret-text", "backup-key", {"value": new_identity()})
    bring(site)
    return Ground(hosts, site)


def drill_site_spec(hosts: Hosts, store: StoreServer) -> StackSpec:
    """Return production's spec, with its store and its spare host."""
    spare = hosts[SPARE]
    host = {"name": SPARE, "address": spare.address, "roles": ["server"], "host_key": spare.host_key}
    backup = {**store.settings().model_dump(), "drill": {"host": host, "rto_s": 300}}
    spec = spec_of(hosts, {SERVER: ["server"]}, allow_single_server=True)
    names = {**spec.dns.hosts, STORE: "127.0.0.1"}
    update = {"backup": Backup.model_validate(backup), "dns": spec.dns.model_copy(update={"hosts": names})}
    return spec.model_copy(update=update)
