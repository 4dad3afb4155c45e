"""Quick digests for the layers' tests: the slow rounds guard real secrets, not these."""

import pytest

from stackwright.domain import releases


@pytest.fixture(autouse=True)
def quick_digests(monkeypatch):
    """Make a secret's digest in one round."""
    monkeypatch.setattr(releases, "SECRET_DIGEST_ROUNDS", 1)
