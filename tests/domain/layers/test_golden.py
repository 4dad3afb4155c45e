"""What helm is given for the example sites, release by release, as files: a changed value is seen in review.

`STACKWRIGHT_UPDATE_GOLDEN=1 pytest tests/domain/layers/test_golden.py` writes them anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackwright.domain.layers import order, releases_of
from tests.domain.layers.sites import SITES

FOLDER = Path(__file__).parent / "golden"


def rendered(site: str) -> str:
    spec = SITES[site]
    document: dict[str, Any] = {}
    for layer in order(spec):
        objects = (*layer.before_objects(spec), *layer.after_objects(spec))
        releases = {
            f"{release.namespace}/{release.name}": {
                "chart": " ".join(part for part in release.chart.address(spec.charts.mirror) if part),
                "version": release.version,
                "values": dict(release.values),
            }
            for release in releases_of(spec, layer)
        }
        document[layer.name] = {"releases": releases, "objects": [dict(item.manifest) for item in objects]}

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    return yaml.dump(document, Dumper=Plain, sort_keys=False, width=120)


@pytest.mark.parametrize("site", ["lab", "vendor-places", *(["example-ha"] if "example-ha" in SITES else [])])
def test_values_and_objects_are_as_reviewed(site):
    """Releases, values and objects of the site are those of its golden file; secrets stand as markers."""
    path = FOLDER / f"{site}.yaml"
    text = rendered(site)
    if os.environ.get("STACKWRIGHT_UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_site_files_values_are_laid_over_the_main_release_only():
    """Values of the site file reach the layer's main release and leave its helpers alone."""
    from stackwright.domain.layers import BY_NAME
    from tests.domain.layers.sites import lab

    spec = lab(layers={"rancher_backup": {"values": {"debug": True, "s3": {"folder": "other"}}}})
    crd, main = releases_of(spec, BY_NAME["rancher_backup"])
    assert crd.values == {}
    assert main.values["debug"] is True
    assert (main.values["s3"]["folder"], main.values["s3"]["enabled"]) == ("other", True)
