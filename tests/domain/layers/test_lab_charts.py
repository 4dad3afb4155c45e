"""The lab holds the charts that its site file asks for: a changed default version is noticed here, not in a deploy."""

from __future__ import annotations

import pytest

from stackwright.domain.layers import order
from stackwright.domain.versions import DEFAULTS, MATRIX
from stackwright.lab.charts import CHARTS
from tests.domain.layers.sites import SITES

VERSIONS = {chart.name: set(chart.versions) for chart in CHARTS}


@pytest.mark.parametrize("site", sorted(SITES))
def test_every_chart_of_the_site_is_in_the_lab(site):
    """Each release's chart exists in the lab in the version that would be installed."""
    spec = SITES[site]
    missing = [
        f"{release.chart.name} {release.version}"
        for layer in order(spec)
        for release in layer.releases(spec)
        if release.version not in VERSIONS.get(release.chart.name, ())
    ]
    assert missing == []


def test_tenants_charts_are_in_the_lab():
    """The agent and the gateway of a tenant are there in their default versions."""
    assert DEFAULTS["clearml.agent"] in VERSIONS["clearml-enterprise-agent"]
    assert DEFAULTS["clearml.gateway"] in VERSIONS["clearml-enterprise-app-gateway"]


def test_matrix_names_no_version_below_its_default():
    """The newest version that a row names is never older than the default of the same line."""
    from stackwright.domain.versions import parse_chart

    for row in MATRIX:
        default = parse_chart(DEFAULTS[row.component])
        if default in row.charts:
            assert parse_chart(row.newest).effective >= default.effective
