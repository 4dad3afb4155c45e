"""What a bundle takes from a server: the script run for real on a folder in place of the server's own."""

from __future__ import annotations

import base64
import subprocess

import pytest

from stackwright.domain import server_state
from stackwright.domain.errors import StackError
from stackwright.domain.server_state import parse_server_state, state_script
from stackwright.domain.shell import parse_read

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nplanted-key\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def server(tmp_path):
    """A server's files below a folder: path on the server to content."""

    def put(path: str, content: bytes | str, mode=0o600):
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)

    def read():
        text = state_script()
        for top in ("/etc/rancher", "/etc/default", "/var/lib/rancher"):
            text = text.replace(top, f"{tmp_path}{top}")
        done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=False)
        found = parse_server_state(parse_read(done.stdout), "s1")
        files = {path.removeprefix(str(tmp_path)): content for path, content in found.files.items()}
        certificates = {path.partition("/tls/")[2]: text for path, text in found.certificates.items()}
        return found, {path: base64.b64decode(one.get_secret_value()) for path, one in files.items()}, certificates

    put.read, put.folder = read, tmp_path
    return put


def test_everything_that_a_restore_needs_is_read_in_one_round(server):
    """Bytes as they are, with odd names and contents; the kubeconfig that RKE2 writes anew is left out."""
    server("/etc/rancher/rke2/config.yaml", "tls-san: x\n")
    server("/etc/rancher/rke2/config.yaml.d/10-token.yaml", "token: planted-token\n")
    server("/etc/rancher/rke2/registries.yaml", "password: planted-registry")
    server("/etc/rancher/rke2/my file.bin", b"\x00\x1e\xff\n\n")
    server("/etc/rancher/rke2/empty.yaml", "")
    server("/etc/rancher/rke2/rke2.yaml", "kubeconfig")
    server("/etc/default/rke2-server", "HTTPS_PROXY=x\n")
    server("/var/lib/rancher/rke2/server/cred/encryption-config.json", "{}")
    server("/var/lib/rancher/rke2/server/token", "K10ab::server:planted\n")
    server("/var/lib/rancher/rke2/server/agent-token", "K10ab::node:planted-agent\n")
    server("/var/lib/rancher/rke2/server/tls/server-ca.crt", PEM)
    server("/var/lib/rancher/rke2/server/tls/etcd/client.crt", KEY + PEM)
    server("/var/lib/rancher/rke2/server/tls/server-ca.key", KEY)
    found, files, certificates = server.read()
    assert files == {
        "/etc/rancher/rke2/config.yaml": b"tls-san: x\n",
        "/etc/rancher/rke2/config.yaml.d/10-token.yaml": b"token: planted-token\n",
        "/etc/rancher/rke2/registries.yaml": b"password: planted-registry",
        "/etc/rancher/rke2/my file.bin": b"\x00\x1e\xff\n\n",
        "/etc/rancher/rke2/empty.yaml": b"",
        "/etc/default/rke2-server": b"HTTPS_PROXY=x\n",
        "/var/lib/rancher/rke2/server/cred/encryption-config.json": b"{}",
    }
    assert found.token.get_secret_value() == "K10ab::server:planted"
    assert found.agent_token.get_secret_value() == "K10ab::node:planted-agent"
    assert certificates == {"server-ca.crt": PEM, "etcd/client.crt": PEM}, "no key leaves the server by these"
    assert "planted" not in repr(found)


def test_a_bare_server_has_nothing_and_that_is_known(server):
    found, files, certificates = server.read()
    assert (files, certificates, found.token.get_secret_value()) == ({}, {}, "")


def test_a_file_that_is_no_configuration_is_refused_by_name(server):
    server("/etc/rancher/rke2/images.tar", b"0" * (server_state.LARGEST + 1))
    with pytest.raises(StackError) as caught:
        server.read()
    assert "images.tar" in str(caught.value) and str(server_state.LARGEST) in str(caught.value)


def test_what_cannot_be_read_is_not_taken_for_absent(server):
    seen = parse_read(
        subprocess.run(["sh", "-s"], input=state_script(), capture_output=True, text=True, check=False).stdout
    )
    for name in ("files", "certificates", "token", "agent_token"):
        broken = {**seen, name: type(seen[name])(1, "planted")}
        with pytest.raises(StackError) as caught:
            parse_server_state(broken, "s1")
        assert "planted" not in str(caught.value)
