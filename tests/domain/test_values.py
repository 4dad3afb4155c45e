"""Value trees: merging as helm does, markers exchanged late, and comparisons that do not stumble over notation."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from stackwright.domain.errors import SecretMissingError
from stackwright.domain.values import (
    Marker,
    canonical,
    covers,
    deep_merge,
    docker_config,
    dotted,
    markers_in,
    resolve,
    sealed,
    secret,
)

PLANTED = "planted-secret-3141"
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab.", max_size=3)
TREES = st.recursive(LEAVES, lambda kids: st.dictionaries(st.text("xyz", min_size=1, max_size=2), kids, max_size=3))


def test_maps_are_merged_and_lists_replaced():
    """The upper tree wins; what it does not name stays; lists are taken whole."""
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert deep_merge(base, {"a": {"c": [3], "e": None}}) == {"a": {"b": 1, "c": [3], "e": None}, "d": 4}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), TREES, max_size=3))
def test_merging_a_tree_with_itself_changes_nothing(tree):
    """Merging is idempotent, and what was laid over is covered by the result."""
    assert deep_merge(tree, tree) == tree
    assert covers(deep_merge({"x": 1, "y": {"z": 2}}, tree), tree)


def test_markers_are_found_with_their_parts():
    """Every marker of a tree is found, with block, key and host as it names them."""
    tree = {
        "a": "${secret:one}",
        "b": ["x ${secret:two.password} y", {"c": "${file64:/ca.pem}"}],
        "d": "${pull:reg:5000=login}",
    }
    found = {(marker.kind, marker.block, marker.key) for marker in markers_in(tree) if marker.kind == "secret"}
    assert found == {("secret", "one", "value"), ("secret", "two", "password")}
    pull = next(marker for marker in markers_in(tree) if marker.kind == "pull")
    assert (pull.host, pull.block) == ("reg:5000", "login")
    assert Marker("file64", "/ca.pem") in markers_in(tree)


def test_resolved_text_is_a_secret_as_a_whole():
    """A text that held a marker becomes a SecretStr, so that nothing around the secret shows it."""
    opened = {Marker("secret", "one"): SecretStr(PLANTED)}
    done = resolve({"a": f"key={secret('one')}", "b": 7, "c": ["plain"]}, opened)
    assert done["a"].get_secret_value() == f"key={PLANTED}"
    assert (done["b"], done["c"]) == (7, ["plain"])
    assert PLANTED not in repr(done)


def test_missing_secret_is_named_by_its_block():
    """A marker with nothing behind it is an error that names block and marker."""
    with pytest.raises(SecretMissingError, match=r"block two.*\$\{secret:two\.key\}"):
        resolve({"a": secret("two", "key")}, {})


def test_docker_configuration_logs_in_to_its_host():
    """The configuration holds user, password and their base64 pair under the host."""
    content = json.loads(docker_config("reg.test:5000", "me", "pw"))["auths"]["reg.test:5000"]
    assert base64.b64decode(content["auth"]) == b"me:pw"


def test_canonical_text_ignores_notation():
    """Key order and the way a whole number is written do not count; a changed value does."""
    assert canonical({"b": 1.0, "a": [1]}) == canonical({"a": [1], "b": 1})
    assert canonical({"a": 1}) != canonical({"a": "1"})


COVERED = [
    ({"a": 1, "b": 2}, {"a": 1}, True),
    ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, True),
    ({"a": [{"b": 1, "x": 0}]}, {"a": [{"b": 1}]}, True),
    ({"a": [1, 2]}, {"a": [1]}, False),
    ({"a": "1"}, {"a": 1}, False),
    ({}, {"a": None}, False),
    (None, {"a": 1}, False),
]


@pytest.mark.parametrize(("seen", "wanted", "verdict"), COVERED)
def test_an_object_covers_what_is_wanted_of_it(seen, wanted, verdict):
    """More than what is wanted does not count; less or other does."""
    assert covers(seen, wanted) is verdict


def test_dotted_paths_escape_dots_in_keys():
    """A dot inside a key is escaped, so that a path can be taken apart again."""
    assert dict(dotted({"a": {"b.c": 1, "d": {}}, "e.f": [1]})) == {"a.b\\.c": 1, "a.d": {}, "e\\.f": [1]}


def test_sealed_secret_holds_base64_data():
    """A Secret's texts go into `data` as the API keeps them."""
    manifest = {"kind": "Secret", "stringData": {"a": "x"}, "data": {"b": "eQ=="}}
    assert sealed(manifest, lambda tree: dict(tree)) == {"kind": "Secret", "data": {"a": "eA==", "b": "eQ=="}}
