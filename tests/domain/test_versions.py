"""Versions are read as their vendors write them; pairs that nobody supports are refused with the nearest that is."""

from __future__ import annotations

import pytest

from stackwright.domain.versions import (
    DEFAULTS,
    KNOWN_RKE2,
    MATRIX,
    check_versions,
    nearest_chart,
    parse_chart,
    parse_rke2,
    row_of,
    since,
    until,
    v,
)

READ_RKE2 = [
    ("v1.34.10+rke2r1", (1, 34, 10, 1)),
    ("v1.33.13+rke2r2", (1, 33, 13, 2)),
    ("1.34.10+rke2r1", None),
    ("v1.34.10", None),
    ("v1.34.10+k3s1", None),
    ("v1.34.10-rc1+rke2r1", None),
]


@pytest.mark.parametrize(("text", "numbers"), READ_RKE2)
def test_rke2_releases_are_read(text, numbers):
    """Only vX.Y.Z+rke2rN is an RKE2 release."""
    seen = parse_rke2(text)
    assert (seen and (*seen.core, seen.revision)) == numbers


READ_CHARTS = [
    ("1.20.3", "1.20.3", "1.20.3"),
    ("v1.20.3", "1.20.3", "1.20.3"),
    ("1.21.0-beta.1", "1.21.0-beta.1", "1.21.0-beta.1"),
    ("108.0.9+up2.11.2", "108.0.9", "2.11.2"),
    ("110.0.0+up11.0.0-rc.1", "110.0.0", "11.0.0"),
    ("1.2", None, None),
    ("latest", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("text", "whole", "effective"), READ_CHARTS)
def test_chart_versions_are_read(text, whole, effective):
    """Semantic versions are read, and the version that the Rancher catalogue wraps is the one that counts."""
    seen = parse_chart(text)
    assert (seen and str(seen)) == whole
    assert (seen and str(seen.effective)) == effective


def test_versions_have_an_order():
    """A pre-release comes before its release, a later RKE2 revision after the earlier one."""
    ordered = [v("1.9.0"), parse_chart("1.10.0-rc.1"), v("1.10.0"), v("1.10.1")]
    assert sorted(reversed(ordered)) == ordered
    assert parse_rke2("v1.34.10+rke2r1") < parse_rke2("v1.34.10+rke2r2")


def test_ranges_include_their_low_end_only():
    """A range holds its low end and not its upper one; a revision does not move a release out of it."""
    assert v("1.33") in since("1.33", "1.36")
    assert v("1.36") not in since("1.33", "1.36")
    assert parse_rke2("v1.35.7+rke2r2") in until("1.36")
    assert parse_chart("108.0.9+up2.11.2") in since("2.10", "2.12")
    assert str(since("1.33", "1.36")) == ">=1.33.0 <1.36.0"


def _path(component: str) -> str:
    return f"layers.{component}.version"


def check(rke2: str, **charts: str) -> list:
    charts = {name.replace("__", "."): text for name, text in charts.items()}
    return check_versions(rke2, charts, {})


@pytest.mark.parametrize("rke2", ["v1.34.10+rke2r1", "v1.35.3+rke2r1"])
def test_default_versions_stand_together(rke2):
    """The versions installed when the site file names none are a set that the matrix allows."""
    together = {name: text for name, text in DEFAULTS.items() if name != "gpu_operator.intel"}
    assert check_versions(rke2, together, {}) == []


def test_every_default_is_in_the_matrix_and_every_row_reads():
    """Each default has a row, each row's newest version lies in its own range."""
    assert [name for name, text in DEFAULTS.items() if row_of(name, parse_chart(text)) is None] == []
    assert [row for row in MATRIX if parse_chart(row.newest) not in row.charts] == []
    assert {row.component for row in MATRIX} == set(DEFAULTS)
    assert all(parse_rke2(text).line == line for line, text in KNOWN_RKE2.items())


REFUSED = [
    ("v1.36.3+rke2r1", {"rancher": "2.14.4"}, "set it to 2.15.0", "<1.36.0"),
    ("v1.35.7+rke2r1", {"rancher": "2.13.8"}, "set it to 2.14.4", "<1.35.0"),
    ("v1.36.3+rke2r1", {"cert_manager": "1.20.3"}, "set it to 1.21.1", ">=1.32.0 <1.36.0"),
    ("v1.34.10+rke2r1", {"cert_manager": "1.18.2"}, "1.20.3", ">=1.20.0 <1.21.0 or"),
    ("v1.34.10+rke2r1", {"metallb": "0.14.9"}, "0.16.1", ">=0.15.0"),
    ("v1.35.7+rke2r1", {"observability": "2.10.3"}, "set rke2.version to v1.34.10+rke2r1", "<1.35.4"),
    ("v1.36.3+rke2r1", {"storage": "1.11.3"}, "set it to 1.12.1", "<1.36.0"),
    ("v1.34.10+rke2r1", {"storage": "1.9.0"}, "1.11.3", ">=1.10.0"),
    ("v1.35.3+rke2r1", {"gpu_operator__nvidia": "25.3.4"}, "set it to 26.7.0", "<1.35.0"),
    ("v1.34.10+rke2r1", {"gpu_operator__nvidia": "24.9.0"}, "25.3.4", ">=25.3.0"),
    (
        "v1.34.10+rke2r1",
        {"rancher": "2.14.4", "rancher_backup": "110.0.0+up11.0.0"},
        "109.0.7+up10.0.8",
        "rancher >=2.15.0",
    ),
    ("v1.34.10+rke2r1", {"rancher": "2.14.4", "cert_manager": "1.19.6"}, "1.20.3", ">=1.20.0"),
    ("v1.34.10+rke2r1", {"clearml": "10.8.0"}, "11.0.0", ">=10.11.7"),
    ("v1.34.10+rke2r1", {"clearml__agent": "6.12.3"}, "6.14.1", ">=6.13.9"),
    ("v1.34.10+rke2r1", {"security": "2.8.13"}, "108.0.9+up2.11.2", ">=2.10.0"),
]


@pytest.mark.parametrize(("rke2", "charts", "nearest", "wanted"), REFUSED)
def test_pairs_outside_the_matrix_are_refused(rke2, charts, nearest, wanted):
    """Each pair that no vendor supports is a problem with the range, what was seen, and the nearest allowed version."""
    problems = check(rke2, **charts)
    assert problems
    assert any(nearest in problem.remedy and wanted in problem.wanted for problem in problems), problems


@pytest.mark.parametrize("rke2", ["1.34", "v1.34.10", "v1.31.2+rke2r1", "v1.40.0+rke2r1"])
def test_unknown_kubernetes_is_refused(rke2):
    """A release that is none, or of a line that is not published, is refused at its path in the site file."""
    problems = check(rke2)
    assert [problem.where for problem in problems] == ["rke2.version"]


def test_unreadable_chart_version_is_refused_at_its_path():
    """A word that is no version is refused where the site file has it."""
    problems = check_versions("v1.34.10+rke2r1", {"rancher": "newest"}, {"rancher": "layers.rancher.version"})
    assert [(problem.where, problem.seen) for problem in problems] == [("layers.rancher.version", "newest")]


def test_nearest_version_keeps_to_the_kubernetes_in_use():
    """The nearest chart is looked for among those that support the cluster, else among all."""
    assert nearest_chart("rancher", v("2.12.0")) == "2.13.8"
    assert nearest_chart("rancher", v("2.12.0"), parse_rke2("v1.36.3+rke2r1")) == "2.15.0"
