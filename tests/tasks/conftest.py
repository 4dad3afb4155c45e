"""A small lab for the tests of node and RKE2 tasks."""

from tests.lab.conftest import make_lab, small_lab

__all__ = ["make_lab", "small_lab"]
