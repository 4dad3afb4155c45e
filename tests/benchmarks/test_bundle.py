"""The figures of the bundle's benchmark, from a small run: memory and rates of our own way beside the plain one."""

from __future__ import annotations

import pytest

from benchmarks.bundle import _figures, measure


@pytest.mark.slow
def test_a_small_run_gives_every_figure():
    """Both ways send the whole file; the bound on memory is judged on ours alone."""
    found = measure(24, 1)
    assert found["mib"] == 24 and found["runs"] == 1 and found["plain_mib_s"] > 0 and found["ours_mib_s"] > 0
    assert 0 < found["ours_peak_mib"] < 200 and found["ratio"] > 0


def test_too_slow_or_too_large_is_not_ok():
    good = {"seconds": 10.0, "peak_mib": 100.0}
    assert _figures(100, {"plain": [good], "ours": [good], "ours_ssh": []})["ok"] is True
    assert _figures(100, {"plain": [good], "ours": [{**good, "seconds": 15.0}], "ours_ssh": []})["ok"] is False
    assert _figures(100, {"plain": [good], "ours": [good], "ours_ssh": [{**good, "peak_mib": 201.0}]})["ok"] is False
