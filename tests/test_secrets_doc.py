"""docs/secrets.md says of every kind of block how it is exchanged."""

from __future__ import annotations

import re
from typing import get_args

from stackwright.domain.kinds import Kind
from stackwright.domain.references import parse_references
from stackwright.lab.rig import ROOT

TEXT = (ROOT / "docs" / "secrets.md").read_text(encoding="utf-8")


def test_every_kind_has_a_row_with_a_proof() -> None:
    rows = {kind: rest.split(" | ") for kind, rest in re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", TEXT, re.M)}
    assert set(get_args(Kind)) == set(rows)
    assert all(len(cells) == 3 and all(cells) for cells in rows.values())


def test_the_file_of_references_that_is_shown_can_be_read() -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.S | re.M)
    blocks, access = parse_references(shown, "docs/secrets.md")
    assert [str(block) for block in blocks] == ["ssh-key/ssh", "s3/backup-store", "slack-webhook/oncall"]
    assert str(access.token) == "env:VAULT_TOKEN" and not any(block.plain for block in blocks)
