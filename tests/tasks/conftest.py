"""A small lab for the tests of node and RKE2 tasks, and quick digests for all."""

from collections.abc import Iterator

import pytest

from tests.lab.conftest import make_lab, small_lab

__all__ = ["make_lab", "small_lab"]


@pytest.fixture(scope="module", autouse=True)
def quick_digests() -> Iterator[None]:
    """Digests of secrets are slow on purpose; here they need not be. Also for what a whole module shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stackwright.domain.releases.SECRET_DIGEST_ROUNDS", 1)
        yield
