"""The file of references: what is one, what is refused, and that what was typed is never said again."""

from __future__ import annotations

import pytest

from stackwright.domain.errors import ProblemsError
from stackwright.domain.references import Reference, VaultAccess, parse_reference, parse_references
from stackwright.domain.server_file import parse_server_file

GOOD = """
vault: {token: file:/run/token, ca: /etc/ca.pem, namespace: team}
blocks:
  ssh-key/fleet:
    private_key: file:/etc/fleet.key
  api-key/clearml:
    access_key: vault:https://vault.example:8200/v1/secret/data/site/clearml#access_key
    secret_key: env:SECRET_KEY
  custom-webhook/oncall:
    name: oncall
    url: env:ONCALL_URL
    json_data: {text: "{{body}}"}
"""
PLANTED = "planted-91f0-typed"


def test_a_good_file_is_read() -> None:
    blocks, access = parse_references(GOOD, "f")
    assert access == VaultAccess(Reference("file", "/run/token"), "/etc/ca.pem", "team")
    assert [str(block) for block in blocks] == ["ssh-key/fleet", "api-key/clearml", "custom-webhook/oncall"]
    assert blocks[1].references["access_key"] == Reference(
        "vault", "https://vault.example:8200/v1/secret/data/site/clearml", "access_key"
    )
    assert blocks[2].plain == {"name": "oncall", "json_data": {"text": "{{body}}"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("env:", "names no variable"),
        ("env:A B", "names no variable"),
        ("file:etc/key", "is not an absolute path"),
        ("vault:http://v/v1/secret/data/x#k", "is no https address"),
        ("vault:https://u:p@v/v1/secret/data/x#k", "holds a login or a query"),
        ("vault:https://v/v1/secret/data/x?version=1#k", "holds a login or a query"),
        ("vault:https://v/v1/secret/x#k", "is no path of a KV version 2 engine (/v1/MOUNT/data/PATH)"),
        ("vault:https://v/v1/secret/data/x", "names no key (#KEY)"),
        (PLANTED, "is no reference"),
    ],
)
def test_what_is_no_reference_is_said(text: str, said: str) -> None:
    assert parse_reference(text) == said


def test_all_problems_come_at_once_and_no_value_with_them() -> None:
    """A secret that was typed, in a field, a comment, a name or broken YAML, is not repeated."""
    text = f"""
# old: -----BEGIN RSA PRIVATE KEY----- {PLANTED}
vault: {{token: {PLANTED}}}
blocks:
  ssh-key/fleet: {{private_key: "-----BEGIN OPENSSH PRIVATE KEY----- {PLANTED}"}}
  {PLANTED}: {{value: x}}
  s3/store: {{access_key: "vault:https://u:{PLANTED}@v/v1/s/data/x#k"}}
"""
    with pytest.raises(ProblemsError) as caught:
        parse_references(text, "f")
    said = str(caught.value)
    for place in ("line 2", "vault.token", "blocks.ssh-key/fleet.private_key", "blocks.(hidden)", "blocks.s3/store"):
        assert place in said, place
    assert len(caught.value.problems) == 5 and PLANTED not in said
    for broken in (
        f"blocks: {{a: {PLANTED}: x",
        f"- {PLANTED}",
        f"blocks: {PLANTED}",
        f"other: {PLANTED}\nblocks: {{}}",
    ):
        with pytest.raises(ProblemsError) as caught:
            parse_references(broken, "f")
        assert PLANTED not in str(caught.value) and caught.value.__cause__ is None


def test_the_servers_file_is_checked_whole() -> None:
    """Every wrong field is named at once; the good one is read."""
    found = parse_server_file("work_pools: {p: {type: process, queues: {urgent: {priority: 1}}}}", "f")
    assert found.work_pools["p"].queues["urgent"].priority == 1
    with pytest.raises(ProblemsError) as caught:
        parse_server_file("home: program\nwork_pools: {p: {typ: process, concurrency_limit: 0}}", "f")
    assert {problem.where for problem in caught.value.problems} == {
        "home", "work_pools.p.type", "work_pools.p.typ", "work_pools.p.concurrency_limit",
    }  # fmt: skip
    for text in ("work_pools: {", "[]", "work_pools: {}"):
        with pytest.raises(ProblemsError):
            parse_server_file(text, "f")
