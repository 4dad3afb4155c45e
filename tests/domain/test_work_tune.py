"""What a fine-tune on a GPU needs, that all that is missing is named, and what a run is worth: tables."""

from __future__ import annotations

import dataclasses

import pytest

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.spec_checks import check_spec
from stackwright.domain.work_tune import MEMORY_LABEL, TuneSeen, fitting_nodes, judge_tune, missing, tuning_queue
from tests.domain.layers.sites import lab

TUNE = {"image": "registry.lab.test/lora:1", "model": "/models/base", "data": "/data/texts.jsonl"}


def site(**over):
    """A real site whose tenant `red` has a queue with whole GPUs."""
    made = lab(validation={"fine_tune": TUNE}, **over)
    return made.model_copy(update={"environment": "production"})


def gpu_node(memory="81559"):
    return NodeStatus("gpu1", True, True, "v1", "10.0.0.9", (), labels={MEMORY_LABEL: memory} if memory else {})


def red(spec):
    return next(tenant for tenant in spec.tenants if tenant.name == "red")


def short(spec, *, served=("gpu",), nodes=None, tenant=None):
    return " | ".join(missing(spec, tenant or red(spec), served, (gpu_node(),) if nodes is None else nodes))


def test_a_site_with_all_of_it_misses_nothing():
    spec = site()
    assert tuning_queue(red(spec)).name == "gpu" and short(spec) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda: short(site(), served=()), "no worker serves queue gpu"),
        (lambda: short(site(), nodes=(gpu_node("8192"),)), "no node with a GPU of 16 GiB"),
        (lambda: short(site(), nodes=(gpu_node(""),)), "no node with a GPU of 16 GiB"),
        (lambda: short(site(), nodes=(gpu_node("much"),)), "no node with a GPU of 16 GiB"),
        (lambda: short(lab(validation={"fine_tune": TUNE})), "a lab's GPUs are simulated"),
        (lambda: short(lab().model_copy(update={"environment": "production"})), "validation.fine_tune is not set"),
    ],
)
def test_each_thing_that_is_missing_is_named(text, said):
    assert said in text()


def test_everything_that_is_missing_is_said_at_once():
    """A tenant without a GPU queue on a lab without settings hears of all of it."""
    spec = lab()
    bare = spec.model_copy(update={"nodes": tuple(node.model_copy(update={"gpu": None}) for node in spec.nodes)})
    tenant = red(bare).model_copy(update={"queues": ()})
    text = short(bare, tenant=tenant, served=(), nodes=())
    assert text == (
        "no GPU here | a lab's GPUs are simulated, and its jobs have no torch: a pass would prove nothing | "
        "no queue of the tenant gives its jobs whole GPUs | validation.fine_tune is not set (image, model, data)"
    )


def test_a_card_that_tells_a_little_less_than_its_size_fits():
    """A card of 16 GiB says 15 360 MiB or more of itself."""
    want = site().validation.fine_tune
    assert fitting_nodes(want, (gpu_node("15360"),)) and not fitting_nodes(want, (gpu_node("12288"),))


SERIES = {"train/loss": [2.5, 2.0], "probe/loss": [2.6, 1.9]}
PRINTED = {
    "task": "t", "version": "1", "gpu": "NVIDIA L4", "peak_gib": 3.2, "learning": 1_000, "parameters": 100_000,
    "adapter_bytes": 4096, "series": SERIES,
}  # fmt: skip
SEEN = TuneSeen("t", "completed", 64.0, "/models/base", PRINTED, SERIES)


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        ({}, "pass", "loss 2.6 -> 1.9 on the same texts"),
        ({"status": "failed", "last": "not possible: torch sees no GPU in this pod"}, "fail", "torch sees no GPU"),
        ({"printed": {}}, "unknown", "not in its log"),
        ({"printed": {**PRINTED, "gpu": ""}}, "unknown", "not in its log"),
        ({"printed": {**PRINTED, "series": {"probe/loss": [2.6]}}}, "unknown", "not in its log"),
        ({"printed": {**PRINTED, "adapter_bytes": 0}}, "fail", "adapters of 0 bytes"),
        ({"series": {**SERIES, "train/loss": [2.5]}}, "fail", "read back"),
        ({"series": {}}, "fail", "read back"),
    ],
)
def test_only_a_run_whose_loss_fell_and_whose_numbers_are_read_back_passes(change, verdict, said):
    found = judge_tune(dataclasses.replace(SEEN, **change))
    assert found.verdict == verdict and said in found.seen, found


def test_a_loss_that_did_not_fall_fails():
    worse = {"train/loss": [2.5, 2.6], "probe/loss": [2.6, 2.7]}
    found = judge_tune(dataclasses.replace(SEEN, printed={**PRINTED, "series": worse}, series=worse))
    assert found.verdict == "fail" and "2.6 -> 2.7" in found.seen


@pytest.mark.parametrize("model", ["models/base", "http://files.lab.test/x.tar.gz", "", "s3://x/y"])
def test_a_place_that_a_job_could_not_find_is_refused(model):
    """Only a path of the pod, or an https address."""
    problems = check_spec(lab(validation={"fine_tune": {**TUNE, "model": model}}))
    assert any(problem.where == "validation.fine_tune.model" for problem in problems)
    good = check_spec(lab(validation={"fine_tune": {**TUNE, "model": "https://files.lab.test/m.tar.gz"}}))
    assert not any("fine_tune" in problem.where for problem in good)
