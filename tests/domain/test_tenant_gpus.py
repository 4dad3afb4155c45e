"""What jobs take of GPUs: labels, limits, quota and counting, for whole GPUs, fractions and slices."""

from __future__ import annotations

import pytest

from stackwright.domain.tenant_gpus import FRACTIONS, cost, fraction_text, monitored, pod_needs, quota_entries
from stackwright.domain.tenant_objects import agent_values, quota
from stackwright.domain.tenant_workspace import bytes_of, mounts
from tests.domain.layers.sites import lab

LABEL = "clearml-injector/fraction"
OLD = {"clearml": {"injector_version": "1.2.0"}}


def tenant_of(*queues, gpus=2, **over):
    """Return a site and its one tenant."""
    red = {"name": "red", "admin_email": "a@red.example", "quota": {"gpus": gpus}, "queues": list(queues)}
    spec = lab(tenants=[red], **over)
    return spec, spec.tenants[0]


def needs(*queues, **over):
    spec, tenant = tenant_of(*queues, **over)
    return [pod_needs(spec, tenant, queue) for queue in tenant.queues]


WHOLE = {"name": "whole", "gpus": 2, "max_pods": 1}
HALF = {"name": "half", "fraction": 0.5}
SLICE = {"name": "slice", "mig": "1g.10gb"}


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0625, "0.0625"), (0.125, "0.125"), (0.25, "0.250"), (0.875, "0.875"), (2.0, "2.000")]
)
def test_fractions_are_written_as_the_injector_reads_them(amount, text):
    """Three places, and four for a sixteenth."""
    assert fraction_text(amount) == text


def test_the_fractions_are_a_sixteenth_and_the_eighths():
    """The injector's page lists these eight and whole numbers."""
    assert FRACTIONS == (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


@pytest.mark.parametrize(
    ("queue", "wanted"),
    [
        (WHOLE, 2.0),
        (HALF, 0.5),
        (SLICE, 1 / 7),
        ({"name": "big", "mig": "3g.40gb"}, 3 / 7),
        ({"name": "a30", "mig": "1g.6gb"}, 1 / 4),
        ({"name": "a30", "mig": "2g.12gb"}, 2 / 4),
        ({"name": "cpu"}, 0.0),
    ],
)
def test_a_job_costs_its_share_of_whole_gpus(queue, wanted):
    """A slice costs the part of its GPU that it is: of seven, or of four on an A30."""
    _, tenant = tenant_of(queue)
    assert cost(tenant.queues[0]) == wanted


def test_whole_gpus_are_limits_and_fractions_are_labels():
    """With a new injector the label is all; a tenant that uses fractions asks for whole GPUs by the label, too."""
    assert needs(WHOLE) == [({}, {"nvidia.com/gpu": 2})]
    assert needs(WHOLE, HALF) == [({LABEL: "2.000"}, {}), ({LABEL: "0.500"}, {})]
    assert needs(SLICE, {"name": "cpu"}) == [({}, {"nvidia.com/mig-1g.10gb": 1}), ({}, {})]


def test_an_old_injector_needs_eighths_as_limits():
    """Before 1.3.0 the share stands in the label and, as eighths, in the limits."""
    assert needs(WHOLE, HALF, **OLD) == [
        ({LABEL: "2.000"}, {"nvidia.com/gpu": 16}),
        ({LABEL: "0.500"}, {"nvidia.com/gpu": 4}),
    ]


@pytest.mark.parametrize(
    ("queues", "over", "wanted"),
    [
        ((WHOLE,), {}, {"requests.nvidia.com/gpu": "2"}),
        ((HALF,), {}, {"requests.nvidia.com/gpu": "2"}),
        ((HALF,), OLD, {"requests.nvidia.com/gpu": "16"}),
        ((SLICE,), {}, {"requests.nvidia.com/gpu": "2", "requests.nvidia.com/mig-1g.10gb": "14"}),
        (({"name": "big", "mig": "3g.40gb"},), {},
         {"requests.nvidia.com/gpu": "2", "requests.nvidia.com/mig-3g.40gb": "4"}),
    ],
)  # fmt: skip
def test_the_quota_counts_what_the_pods_ask_for(queues, over, wanted):
    """Slices under their own name, as many as the tenant's GPUs hold; shares as eighths where those are counted."""
    spec, tenant = tenant_of(*queues, **over)
    assert quota_entries(spec, tenant) == wanted
    assert wanted.items() <= quota(spec, tenant).manifest["spec"]["hard"].items()


@pytest.mark.parametrize(
    ("queues", "over", "wanted"),
    [
        ((WHOLE,), {}, {"maxResources": 2}),
        ((WHOLE, HALF), OLD, {"maxResources": 16}),
        ((WHOLE, SLICE), {}, None),
    ],
)
def test_the_agent_counts_by_the_field_that_says_it(queues, over, wanted):
    """Its default reads the limits of whole GPUs; two kinds at once are no single number, and the quota holds them."""
    assert monitored(*tenant_of(*queues, **over)) == wanted


def test_the_agent_counts_labels_and_slices_by_their_own_field():
    """Fractions by the injector's label, slices by their resource."""
    half, piece = monitored(*tenant_of(WHOLE, HALF)), monitored(*tenant_of(SLICE))
    assert (half["maxResources"], half["maxResourcesFieldName"]) == (2, f"metadata|labels|{LABEL}")
    assert (piece["maxResources"], piece["maxResourcesFieldName"]) == (14, "resources|limits|nvidia.com/mig-1g.10gb")


def test_the_queues_template_says_it_all():
    """Label, limits and the taints of GPU nodes are in the values that the agent gets."""
    spec, tenant = tenant_of(HALF, SLICE)
    queues = agent_values(spec, tenant, "6.14.1")["agentk8sglue"]["queues"]
    assert queues["half"]["templateOverrides"]["labels"] == {LABEL: "0.500"}
    assert queues["slice"]["templateOverrides"]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
    assert all(queue["templateOverrides"]["tolerations"] for queue in queues.values())


@pytest.mark.parametrize(
    ("version", "keys"),
    [
        ("6.14.1", {"extraVolumes", "extraVolumeMounts"}),
        ("6.11.0", {"extraVolumes", "extraVolumeMounts"}),
        ("6.10.3", {"volumes", "volumeMounts"}),
    ],
)
def test_the_volume_is_mounted_where_that_chart_reads_it(version, keys):
    """extraVolumes came with 6.11; without a volume there is neither."""
    _, tenant = tenant_of(HALF)
    assert mounts(tenant, version) == {}
    assert mounts(tenant.model_copy(update={"workspace_gib": 1}), version).keys() == keys


@pytest.mark.parametrize(
    ("text", "size"), [("50Gi", 50 * 2**30), ("1536Mi", 1536 * 2**20), ("1Ti", 2**40), ("5G", 5e9), ("1024", 1024)]
)
def test_sizes_are_read_as_kubernetes_writes_them(text, size):
    """A volume may have been made by hand, in other units."""
    assert bytes_of(text) == size
