"""Every value that Stackwright sets is a key of the real chart, below an open map or list of it, or documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import stackwright.domain
from stackwright.domain.layers import LAYERS
from stackwright.domain.values import dotted
from tests.domain.layers.sites import SITES

KEYS = Path(stackwright.domain.__file__).parent / "chart_keys"
OPEN = {"map", "list"}
# Charts whose carried-over list has another name: the community's and the Rancher catalogue's are the same product.
SAME_LIST = {"core": "neuvector", "crd": "neuvector-crd"}
# Keys that a chart documents in comments, in its README or for its subcharts, so that its default values lack them.
DOCUMENTED = {
    "suse-observability": {
        "global.s3proxy.credentials.accessKey": "StackVista/helm-charts stable/suse-observability README",
        "global.s3proxy.credentials.secretKey": "StackVista/helm-charts stable/suse-observability README",
    },
    "neuvector": {"controller.secret.data": "neuvector-helm charts/core README: initial configuration"},
    "intel-device-plugins-operator": {"manager.devices.gpu": "intel/helm-charts charts/device-plugin-operator README"},
    "suse-ai-deployer": {
        "milvus.kafka.enabled": "SUSE/suse-ai-deployer values.yaml",
        "ollama.enabled": "SUSE/suse-ai-deployer Chart.yaml, conditions",
        "open-webui.enabled": "SUSE/suse-ai-deployer Chart.yaml, conditions",
    },
}


def known_keys(chart: str) -> dict[str, str]:
    """Return dotted path -> type of a chart's carried-over key list, documented optional keys included."""
    listed = json.loads((KEYS / f"{SAME_LIST.get(chart, chart)}.json").read_text(encoding="utf-8"))
    documented = dict.fromkeys(DOCUMENTED.get(SAME_LIST.get(chart, chart), {}), "map")
    return {**listed["keys"], **listed.get("optional", {}), **documented}


def is_known(path: str, value: object, keys: dict[str, str]) -> bool:
    """Tell whether a set value stands at a listed key, or below an open one; an empty map may stand above."""
    parts = re.split(r"(?<!\\)\.", path)
    if path in keys:
        return True
    above = (".".join(parts[:size]) for size in range(1, len(parts)))
    return any(keys.get(key) in OPEN for key in above) or (
        value == {} and any(key.startswith(f"{path}.") for key in keys)
    )


CASES = [(site, layer.name) for site in SITES for layer in LAYERS]


@pytest.mark.parametrize(("site", "name"), CASES, ids=lambda case: str(case))
def test_every_value_is_a_key_of_the_real_chart(site, name):
    """No layer sets a value under a name that its chart does not have, on any of the example sites."""
    spec = SITES[site]
    layer = next(layer for layer in LAYERS if layer.name == name)
    strange = [
        f"{release.chart.name}: {path}"
        for release in (layer.releases(spec) if layer.enabled(spec) else ())
        for path, value in dotted(release.values)
        if not is_known(path, value, known_keys(release.chart.name))
    ]
    assert strange == []


def test_a_misspelt_key_is_noticed():
    """The check above refuses a key that the chart lacks, and a key below a plain value."""
    keys = known_keys("rancher")
    assert is_known("ingress.tls.source", "secret", keys)
    assert not is_known("ingress.tls.sauce", "secret", keys)
    assert not is_known("hostname.first", "x", keys | {"hostname": "string"})


def test_documented_keys_are_used():
    """The table of documented keys holds nothing that no layer sets."""
    used = {
        (SAME_LIST.get(release.chart.name, release.chart.name), path)
        for spec in SITES.values()
        for layer in LAYERS
        if layer.enabled(spec)
        for release in layer.releases(spec)
        for path, _ in dotted(release.values)
    }
    unused = [
        (chart, key)
        for chart, table in DOCUMENTED.items()
        for key in table
        if not any(other == chart and (path == key or path.startswith(f"{key}.")) for other, path in used)
    ]
    assert unused == []
