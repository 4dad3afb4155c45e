"""What a lab that is stopped and started again still holds."""

from __future__ import annotations

from stackwright.lab.clearml.state import ClearmlState
from stackwright.lab.keeping import FILE, keep, restore
from stackwright.lab.kube import KubeState
from stackwright.lab.kube.access import User

WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.lab.test"},
    "spec": {
        "group": "lab.test",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
WIDGET = {"apiVersion": "lab.test/v1", "kind": "Widget", "metadata": {"name": "one", "namespace": "default"}, "size": 3}


def test_what_products_hold_outlives_the_lab(tmp_path):
    """Objects with their uids, custom kinds, tokens, ClearML's companies and keys; what ran is started again."""
    kube, clearml = KubeState(), ClearmlState()
    kube.put(WIDGETS)
    uid = kube.put(WIDGET)["metadata"]["uid"]
    kube.tokens["secret-token"] = User("someone")
    clearml.add_company("red", {})
    memory = {"harbor/private-registry": {"projects": {"library": {}}}, "clearml/servers": {("a", "b"): object()}}
    keep(tmp_path, kube, clearml, memory)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600

    other, server = KubeState(), ClearmlState()
    kept = restore(tmp_path, other, server)
    assert kept == {"harbor/private-registry": memory["harbor/private-registry"]}
    found = other.get("lab.test/Widget", "default", "one")
    assert found is not None and (found["metadata"]["uid"], found["size"]) == (uid, 3)
    assert other.snapshot() == kube.snapshot() and server.snapshot() == clearml.snapshot()
    assert other.tokens["secret-token"].name == "someone"
    assert other.put({**WIDGET, "size": 4})["size"] == 4, "the kind is served as before"


def test_a_new_lab_holds_nothing(tmp_path):
    """Nothing kept is nothing restored, and no error."""
    kube = KubeState()
    before = kube.snapshot()
    assert restore(tmp_path, kube, ClearmlState()) == {}
    assert kube.snapshot() == before
