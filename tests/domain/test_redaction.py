"""Secrets are taken out of texts in whatever form they stand there, and what is left is searched anew."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from stackwright.domain.redaction import Known, Redactor, cleaner, redact, redact_looks, remaining, searchable
from stackwright.domain.site_secrets import LOOKS, looks_secret

PLANTED = 'pl4nted/p+ss "w\\rd" ü&<3>='


def pem(key) -> str:
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


RSA = pem(generate_private_key(65537, 2048))
KEY_DATA = base64.b64encode(pem(Ed25519PrivateKey.generate()).encode()).decode()
KUBECONFIG = yaml.safe_dump({
    "apiVersion": "v1",
    "clusters": [{"name": "north", "cluster": {"server": "https://k8s.example.com:6443"}}],
    "users": [{"name": "admin", "user": {"client-key-data": KEY_DATA, "token": "kubeconfig-user-x:9fd2ab31cc"}}],
})  # fmt: skip


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize(
    "spoken",
    [
        lambda s: s,
        lambda s: json.dumps({"a": s}),
        lambda s: json.dumps({"a": s}, ensure_ascii=False),
        lambda s: json.dumps(json.dumps({"a": s})),
        lambda s: repr({"a": s}),
        lambda s: quote(s, safe=""),
        lambda s: quote(s, safe="").lower(),
        quote_plus,
        lambda s: html.escape(s),
        b64,
        lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
        lambda s: b64(f"u:{s}"),
        lambda s: b64(f"us:{s}!"),
        lambda s: b64(f"use:{s}!!"),
        lambda s: b64(json.dumps({"auths": {"r": {"auth": b64(f"robot:{s}")}}})),
        lambda s: b64(json.dumps({"password": s})),
        lambda s: b64(b64(s)),
    ],
)
def test_every_form_is_found(spoken):
    """What is left holds no part of the secret that would let one have it."""
    text = f"before {spoken(PLANTED)} after"
    cleaned, hits = Redactor([PLANTED]).clean(text)
    assert hits == 1 and cleaned.startswith("before ") and cleaned.endswith(" after")
    left = len(cleaned) - len("before *** after")
    assert left <= len(text) - len(b64(PLANTED)) and "ss" not in cleaned
    assert not remaining(cleaned, [Known("p", PLANTED)])


def test_a_key_is_found_by_each_line_of_its_body():
    """Broken out of its armour, escaped, joined, or in base64 with line ends: no line of it stays."""
    body = [line for line in RSA.splitlines() if "-----" not in line]
    for text in (
        body[7],
        "\n".join(body[2:5]),
        json.dumps(RSA),
        "".join(body),
        b64(RSA),
        base64.encodebytes(RSA.encode()).decode(),
    ):
        cleaned = redact(f"x {text} y", [RSA])
        assert not [
            line for line in (*body[:-1], *base64.encodebytes(RSA.encode()).decode().split()) if line in cleaned
        ]
        assert len(cleaned) < len(text) / 6


def test_a_kubeconfigs_credentials_are_found_alone_and_its_addresses_stay():
    """The key behind its base64, the base64 itself and the token; the cluster's name and address are no secrets."""
    opened = base64.b64decode(KEY_DATA).decode().splitlines()[1]
    for text in (KEY_DATA, opened, "kubeconfig-user-x:9fd2ab31cc"):
        assert redact(f"a {text} b", [KUBECONFIG]) == "a *** b"
    assert "https://k8s.example.com:6443" in redact("to https://k8s.example.com:6443 as admin", [KUBECONFIG])


def test_pieces_of_tokens_and_addresses_are_found():
    """The end of a cluster's token, the signature of a JSON web token, the password in a database's address."""
    token = f"K10{'ab' * 32}::server:0f3c9d7712"
    jwt = ".".join([b64('{"alg":"none"}').rstrip("="), b64('{"sub":"planted"}').rstrip("="), "c2lnbmF0dXJlLW9mLWl0"])
    assert redact("x 0f3c9d7712 y", [token]) == "x *** y"
    assert redact(f"x {jwt.split('.')[2]} y", [jwt]) == "x *** y"
    assert redact("x p%40ss-of-db y p@ss-of-db", ["postgresql+asyncpg://u:p%40ss-of-db@db/x"]) == "x *** y ***"


def test_short_and_plain_values_are_not_looked_for():
    """They stand in every text; whoever gathers the secrets says so."""
    for value in ("", "abc", " ab ", "true", "None", "****"):
        assert not searchable(value) and redact("abc true None ****", [value]) == "abc true None ****"
    assert redact("x secret y c2VjcmV0 z", ["secret"]) == "x *** y *** z"


def test_what_stays_is_named_and_not_shown():
    """The last search knows the secret as it is and encoded; a name comes back, never the value."""
    known = [Known("block a", "planted-one"), Known("block b", "planted-two"), Known("block c", "abc")]
    assert remaining(f"planted-one abc {b64('x:planted-two')}", known) == ["block a", "block b"]
    assert "planted" not in repr(known)
    assert remaining("nothing", known) == []


LOOKING = {
    "a private key": RSA,
    "an RKE2 token": f"K10{'cd' * 32}::server:fresh0one",
    "an age identity": "AGE-SECRET-KEY-1" + "Q" * 58,
    "an AWS access key": "AKIA" + "Z" * 16,
    "a JSON web token": "eyJhbGciOiJI.eyJzdWIiOiIx.abcDEF123",
    "an access token": "ghp_" + "a" * 36,
    "a URL with a password": "https://u:fresh0one@host/x",
    "a login in base64": '{"auth": "dXNlcjpmcmVzaA=="}',
}


@pytest.mark.parametrize("kind", LOOKS)
def test_what_looks_like_a_secret_goes_wholly(kind):
    """Nothing that looked like one looks like one afterwards, also inside JSON; JSON stays JSON."""
    for text in (LOOKING[kind], json.dumps({"log": f"said {LOOKING[kind]} there"})):
        assert looks_secret(text) or kind == "a login in base64"
        cleaned, hits = redact_looks(text)
        assert hits and looks_secret(cleaned) is None
        assert "fresh0one" not in cleaned and "MII" not in cleaned and "dXNl" not in cleaned
    json.loads(redact_looks(json.dumps({"log": LOOKING[kind]}))[0])


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2x", "password=hunter2x", '{"apiKey": "hunter2x"}', '"{\\"secret_key\\": \\"hunter2x\\"}"',
        "REG_TOKEN='hunter2x and more'", "tool --api-key hunter2x --verbose", "error: password=hunter2x",
        "Authorization: Basic hunter2x==", "authorization=Bearer hunter2x",
        'curl -H "Authorization: Bearer hunter2xhunter2x"',
    ],
)  # fmt: skip
def test_a_value_under_a_telling_key_goes(text):
    cleaned, hits = redact_looks(text)
    assert hits and "hunter2x" not in cleaned and "***" in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "token_block: rke2-token", "password: null", "secrets: 12", "existingSecret: tls-rancher", "the token is fine",
        "value: ${secret:rke2-token}", "tokens: true", "2026-11-26 20:38:34 node: ready", "https://ui/runs/flow-run/1?x=y",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert redact_looks(text) == (text, 0)


def test_both_are_done_at_once():
    clean = cleaner([Known("block", "planted-one")])
    assert clean("planted-one and password: other1x") == ("*** and password: ***", 2)
