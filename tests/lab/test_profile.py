"""What RKE2's CIS profile brings to the lab's cluster."""

from __future__ import annotations

import pytest

from stackwright.domain.hardening import POLICIES
from stackwright.lab.rke2.objects import system_objects


@pytest.mark.parametrize(("profile", "there"), [("cis", sorted(POLICIES)), ("etcd", []), (None, [])])
def test_only_the_cis_profile_brings_network_policies(profile, there):
    found = [one["metadata"] for one in system_objects({"profile": profile}, "v1.34.10+rke2r1")
             if one["kind"] == "NetworkPolicy"]  # fmt: skip
    assert sorted((meta["namespace"], meta["name"]) for meta in found) == there
