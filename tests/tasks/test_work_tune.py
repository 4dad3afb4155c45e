"""A fine-tune through a tenant's queue against fakes, and what its script does without torch."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from stackwright.clients.clearml_types import Metric
from stackwright.clients.workload import script_text, version_of
from stackwright.domain.work_clearml import FINE_TUNE, TAG
from stackwright.domain.work_tune import MEMORY_LABEL
from stackwright.workloads import lora
from tasks.work_jobs import own_client, remove_leftovers
from tasks.work_tune import look_fine_tune
from tests.tasks.layer_site import node
from tests.tasks.tenant_site import TenantSite

TUNE = {"image": "registry.lab.test/lora:1", "model": "/models/base", "data": "/data/t.jsonl", "timeout_s": 300}
SERIES = {"train/loss": [2.5, 2.0], "probe/loss": [2.6, 1.9]}
PRINTED = {"task": "t", "version": "1", "gpu": "NVIDIA L4", "adapter_bytes": 4096, "series": SERIES}


@pytest.fixture
def place(tmp_path):
    """A tenant on a site with GPUs of 80 GiB, where everything for a fine-tune is there."""
    place = TenantSite(tmp_path, validation={"fine_tune": TUNE})
    place.bring("red")
    spec = place.spec.model_copy(update={"environment": "production"})
    object.__setattr__(place.site, "spec", spec)
    for name in ("gpu1", "gpu2"):
        held = node(name, {"nvidia.com/gpu": "2"})
        held["metadata"]["labels"] = {MEMORY_LABEL: "81559"}
        place.kube.put(held)
    place.server.outcome.update(metrics=(Metric("probe", "loss", 1.9, 1.9, 2.6, 2.6, 2),), artifacts=())
    place.server.series.clear()
    place.server.series.update(SERIES)
    place.server.printed = dict(PRINTED)
    return place


def look(place):
    """Return the run's evidence; whether it is offered is another check."""
    return look_fine_tune(place.site, place.tenant())[1]


def ours(place):
    return own_client(place.site, place.tenant()).find_tasks(tag=TAG)


def test_it_runs_with_the_sites_image_model_and_texts_and_is_removed(place):
    found = look(place)
    assert found.id == "workload/red/fine-tune-run" and found.verdict == "pass", found.seen
    assert "NVIDIA L4" in found.seen and "2.6 -> 1.9" in found.seen
    asked = place.server.asked[FINE_TUNE]
    assert asked["image"] == TUNE["image"] and asked["parameters"]["model"] == TUNE["model"]
    assert asked["parameters"]["memory_gib"] == 16 and asked["parameters"]["version"] == version_of("lora")
    assert ours(place) == ()


def test_a_second_run_leaves_as_little(place):
    assert [look(place).verdict for _ in range(2)] == ["pass", "pass"] and ours(place) == ()


@pytest.mark.parametrize(
    ("defect", "verdict", "said"),
    [
        (lambda p: p.server.outcome.update(status="failed"), "fail", "failed"),
        (lambda p: p.server.series.update({"probe/loss": [2.6, 2.4]}), "fail", "read back"),
        (lambda p: p.server.printed.clear(), "unknown", "not in its log"),
        (lambda p: setattr(p.server, "down", True), "unknown", "no answer"),
    ],
)
def test_each_defect_is_found_and_nothing_is_left(place, defect, verdict, said):
    defect(place)
    found = look(place)
    assert found.verdict == verdict and said in found.seen, found.seen
    place.server.down = False
    assert ours(place) == ()


def test_a_job_that_does_not_end_is_stopped_at_its_deadline(place):
    """After validation.fine_tune.timeout_s it fails, and its task is gone: nobody's GPU is held."""
    place.server.outcome.update(status="in_progress")
    began = place.clock.now()
    found = look(place)
    assert found.verdict == "fail" and "not seen within 300 s" in found.seen
    assert 300 <= place.clock.now() - began < 600 and ours(place) == ()


def test_gpus_in_use_are_left_alone(place):
    """All of them are held by somebody's pods: skipped with their names, and no task is made."""
    for index in (1, 2):
        place.kube.put({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"job{index}", "namespace": "clearml-blue"},
            "spec": {"nodeName": f"gpu{index}",
                     "containers": [{"name": "m", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
            "status": {"phase": "Running"},
        })  # fmt: skip
    found = look(place)
    assert found.verdict == "skipped" and "clearml-blue/job1" in found.seen and FINE_TUNE not in place.server.asked


def test_a_lab_trains_nothing_and_says_so(place):
    object.__setattr__(place.site, "spec", place.spec)
    found = look(place)
    assert found.verdict == "skipped" and "nothing was trained: a lab's GPUs are simulated" in found.seen
    assert FINE_TUNE not in place.server.asked


def test_a_task_of_a_run_that_died_is_removed_by_the_next(place):
    own = own_client(place.site, place.tenant())
    own.create_task(own.ensure_project("Stackwright"), FINE_TUNE, {}, tags=(TAG,))
    assert remove_leftovers(own) == 1 and ours(place) == ()


# --- the script ------------------------------------------------------------------------------------------------------


def test_the_script_is_good_for_the_pythons_of_such_images_and_loads_nothing_by_itself():
    """Python 3.9 reads it; torch is asked for only when it runs."""
    ast.parse(script_text("lora"), feature_version=(3, 9))
    text = "import sys; sys.modules['torch'] = None; import stackwright.workloads.lora"
    subprocess.run([sys.executable, "-c", text], check=True)


def test_an_image_without_the_packages_is_named(monkeypatch):
    for name in lora.PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(lora.NotPossibleError, match=r"lacks Python packages: torch .*transformers .*peft"):
        lora.run(dict(lora.SETTINGS), lambda *args: None)


class NoCuda:
    class cuda:
        @staticmethod
        def is_available():
            return False


class SmallCuda:
    class cuda:
        @staticmethod
        def is_available():
            return True

        @staticmethod
        def get_device_properties(index):
            return type("Card", (), {"name": "NVIDIA T4", "total_memory": 15 * 2**30})()


def test_a_cpu_is_no_gpu_and_a_small_gpu_is_too_small():
    with pytest.raises(lora.NotPossibleError, match="no GPU in this pod"):
        lora.need_device(NoCuda, dict(lora.SETTINGS))
    with pytest.raises(lora.NotPossibleError, match=r"NVIDIA T4 has 15\.0 GiB of 40"):
        lora.need_device(SmallCuda, {**lora.SETTINGS, "memory_gib": "40"})
    assert lora.need_device(SmallCuda, dict(lora.SETTINGS)) == "NVIDIA T4"


def test_texts_are_read_from_lines_of_json_or_of_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"prompt": "two ", "completion": "three"}\n')
    (tmp_path / "b.txt").write_text("four\n\nfive\n")
    (tmp_path / "c.md").write_text("not read\n")
    assert lora.read_texts(tmp_path) == ["one", "two three", "four", "five"]
    (tmp_path / "a.jsonl").write_text('{"words": 1}\n')
    with pytest.raises(lora.NotPossibleError, match=r"a\.jsonl: a line without"):
        lora.read_texts(tmp_path)
    with pytest.raises(lora.NotPossibleError, match="holds no text"):
        lora.read_texts(tmp_path / "c.md")


@pytest.mark.parametrize("source", ["", "models", "http://x/y", "/not/there", "s3://x/y"])
def test_what_is_not_there_is_named(source, tmp_path):
    with pytest.raises(lora.NotPossibleError, match="neither a path that is there nor an https address"):
        lora.bring(source, tmp_path)


def test_an_archive_is_unpacked_and_never_outside_of_its_folder(tmp_path):
    """A member that points out of the folder, or is a link, is left out."""
    archive = tmp_path / "m.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (("base/config.json", b"{}"), ("../evil", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        link = tarfile.TarInfo("base/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = lora.unpack(archive, tmp_path / "out")
    assert [path.name for path in found.iterdir()] == ["config.json"] and not (tmp_path / "evil").exists()


def test_batches_use_every_text_before_any_again():
    made = list(lora.batches(5, 2, 5, seed=1))
    first = [index for batch in made for index in batch]
    assert [len(batch) for batch in made] == [2] * 5
    assert sorted(first[:5]) == sorted(first[5:]) == list(range(5))


class Slope:
    """A tuner whose loss falls by a tenth with each step."""

    def __init__(self, fails_at=99):
        self.value, self.size, self.texts, self.steps, self.fails_at = 3.0, 2, [[1, 2]] * 4, 0, fails_at

    def probe(self):
        return self.value

    def step(self, chosen):
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("CUDA out of memory")
        self.value -= 0.1
        return self.value


def test_every_number_that_is_printed_is_reported(tmp_path):
    reported = []
    told = lora.tune(Slope(), {**lora.SETTINGS, "steps": 3}, lambda *args: reported.append(args))
    assert told["probe/loss"] == pytest.approx([3.0, 2.7]) and len(told["train/loss"]) == 3
    assert [(series, value) for series, _, value in reported if series == "probe/loss"] == [
        ("probe/loss", 3.0), ("probe/loss", told["probe/loss"][1])
    ]  # fmt: skip
    assert sum(series == "train/loss" for series, _, _ in reported) == 3 and json.dumps(told)


def test_a_step_that_fails_ends_the_job():
    """What was reported until then stays; the error is the job's own."""
    reported = []
    with pytest.raises(RuntimeError, match="out of memory"):
        lora.tune(Slope(fails_at=2), dict(lora.SETTINGS), lambda *args: reported.append(args))
    assert len(reported) == 2


def test_the_script_has_no_address_of_a_hub():
    """Nothing is looked for outside of the site."""
    text = Path(lora.__file__).read_text()
    assert "local_files_only" in text and "huggingface" not in text.lower()
