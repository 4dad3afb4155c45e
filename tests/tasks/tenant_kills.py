"""Ends a run at a chosen change of a tenant: in ClearML, on the cluster, in a block, or in the middle of helm."""

from __future__ import annotations

from tests.fakes.helm import storage_secret


class Killed(BaseException):
    """The process ended here."""


class HelmKilled(Killed):
    """The process ended while helm was at work."""


def watch(place, tell):
    """Call `tell(action)` before every change of ClearML, the cluster, the releases and the blocks."""
    place.server.on_change = tell
    place.kube.on_change = tell
    write, install = type(place.secrets).write, type(place.helm).upgrade_install

    def write_block(kind, name, fields):
        tell(f"block {name}")
        write(place.secrets, kind, name, fields)

    def upgrade_install(want):
        try:
            tell(f"helm {want.name}")
        except HelmKilled:
            secret = storage_secret(want.name, want.namespace, "pending-install")
            secret["metadata"]["labels"] |= want.all_labels()
            place.kube.put(secret)
            raise
        install(place.helm, want)

    place.secrets.write, place.helm.upgrade_install = write_block, upgrade_install


def kill_at(place, number, moment):
    """End the run before change `number`, or after it and before the next; helm dies in the middle, `pending`."""
    seen = []

    def tell(action):
        seen.append(action)
        if moment == "after" and len(seen) == number + 1 and action.startswith("helm "):
            raise HelmKilled(action)
        if len(seen) == number + (1 if moment == "before" else 2):
            raise Killed(action)

    watch(place, tell)
