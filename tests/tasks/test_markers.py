"""What stands behind markers: blocks by the field that is named, files, logins; and secrets that are made once."""

from __future__ import annotations

import base64
import json

import pytest

from stackwright.domain.errors import StackError
from stackwright.domain.layers.model import GeneratedField, GeneratedSecret
from stackwright.domain.values import Marker
from tasks.markers import ensure_generated, open_markers
from tests.tasks.layer_site import FakeSite


@pytest.fixture
def fake(tmp_path):
    return FakeSite(tmp_path)


def opened(fake, marker: Marker) -> str | None:
    value = open_markers(fake.site, [marker]).get(marker)
    return value and value.get_secret_value()


def test_block_is_found_by_the_field_that_is_named(fake):
    """The field says which kind of block is meant; a block or field that is not there is left out."""
    assert opened(fake, Marker("secret", "observability-license")) == "planted-licence"
    assert opened(fake, Marker("secret", "backup-store.access_key")) == "planted-access"
    assert opened(fake, Marker("secret", "site-ca.certificate")) == "CERT"
    assert opened(fake, Marker("secret", "nowhere")) is None
    assert opened(fake, Marker("secret", "site-ca.colour")) is None


def test_file_is_read_as_text_and_in_base64(fake, tmp_path):
    """A file on the controller is opened as it is, or in base64 where a product wants that."""
    path = str(tmp_path / "ca.pem")
    assert opened(fake, Marker("file", path)) == "CERT"
    assert opened(fake, Marker("file64", path)) == base64.b64encode(b"CERT").decode()


def test_missing_file_is_named(fake):
    """A file that the site file names and that is not there is an error with its path."""
    with pytest.raises(StackError, match=r"/no/such\.pem"):
        opened(fake, Marker("file", "/no/such.pem"))


def test_login_becomes_a_docker_configuration(fake):
    """A pull marker gives the JSON that a pull Secret holds, for the host it names."""
    content = json.loads(opened(fake, Marker("pull", "reg.test=lab-registry")) or "")
    assert content["auths"]["reg.test"]["username"] == "lab"
    assert opened(fake, Marker("pull", "reg.test=nowhere")) is None


def test_each_block_is_read_once(fake):
    """Several markers of one block cost one look at it."""
    reads = []
    read = fake.secrets.read
    fake.secrets.read = lambda kind, name: reads.append((kind, name)) or read(kind, name)
    open_markers(fake.site, [Marker("secret", "site-ca.certificate"), Marker("secret", "site-ca.private_key")])
    assert reads == [("certificate", "site-ca")]


def test_secrets_are_made_once_and_as_declared(fake):
    """Length, alphabet and fixed fields are those declared; the second call makes nothing."""
    fields = (
        GeneratedField("access_key", 20, "key"),
        GeneratedField("secret_key", 48),
        GeneratedField("user", fixed="admin"),
    )
    wanted = [
        GeneratedSecret("api-key", "pair", fields),
        GeneratedSecret("secret-text", "cipher", (GeneratedField("value", charset="base64-32"),)),
    ]
    assert ensure_generated(fake.site, wanted) == ["pair", "cipher"]
    pair = fake.secrets.blocks[("api-key", "pair")]
    assert (len(pair["access_key"]), len(pair["secret_key"]), pair["user"]) == (20, 48, "admin")
    assert pair["access_key"].isupper() or pair["access_key"].isdigit()
    assert len(base64.b64decode(fake.secrets.blocks[("secret-text", "cipher")]["value"])) == 32
    assert ensure_generated(fake.site, wanted) == []
    assert fake.secrets.blocks[("api-key", "pair")] == pair
