"""A LoRA fine-tune of a small language model on one GPU, through the ClearML SDK, without a network beyond the site's.

Base model and texts come from inside the air gap: a path in the image or on a mounted volume, or an https address of
the site. The base model's weights stay as they are; only the adapters learn. It reports the loss of each step and, on
texts that are always the same, before and after; it keeps the adapters nowhere, and prints one JSON line with all that
it reported. Needs torch, transformers and peft in the image. Stands alone: it is sent as text to a queue.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from shutil import copyfileobj
from typing import Any

VERSION = "1"
PACKAGES = ("torch", "transformers", "peft")
SETTINGS: dict[str, Any] = {
    "model": "", "data": "", "steps": 30, "memory_gib": 16, "batch": 4, "length": 256, "rank": 8, "alpha": 16,
    "rate": 0.0005, "seed": 7, "device": "cuda",
}  # fmt: skip
PROBES = 2  # batches on which the loss is looked at before and after


class NotPossibleError(Exception):
    """What the job needs is not there. Its text says what, and where it was looked for."""


# --- what it needs ---------------------------------------------------------------------------------------------------


def load_packages() -> tuple[Any, Any, Any]:
    """Return torch, transformers and peft. Raises NotPossibleError with all that are missing."""
    found, missing = {}, []
    for name in PACKAGES:
        try:
            found[name] = import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise NotPossibleError(f"the image lacks Python packages: {', '.join(missing)}")
    return found["torch"], found["transformers"], found["peft"]


def bring(source: str, folder: Path) -> Path:
    """Return where a model or text lies: a path as it is; an https address is loaded into `folder`, and unpacked."""
    if not source.startswith("https://"):
        path = Path(source)
        if not source.startswith("/") or not path.exists():
            raise NotPossibleError(f"{source or 'nothing'} is neither a path that is there nor an https address")
        return path
    ca = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    target = folder / (source.partition("?")[0].rstrip("/").rpartition("/")[2] or "file")
    context = ssl.create_default_context(cafile=ca)
    # The scheme was looked at above.
    with urllib.request.urlopen(source, timeout=60, context=context) as answer, target.open("wb") as sink:  # noqa: S310
        copyfileobj(answer, sink)
    return unpack(target, folder / f"{target.name}.d") if tarfile.is_tarfile(target) else target


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the regular files of an archive, none of them outside of the folder; return the folder that holds them."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            place = (folder / member.name).resolve()
            source = tar.extractfile(member) if member.isfile() else None
            if source is None or not place.is_relative_to(folder.resolve()):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with source, place.open("wb") as sink:
                copyfileobj(source, sink)
    inside = list(folder.iterdir())
    if not inside:
        raise NotPossibleError(f"{archive.name} holds no file")
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def read_texts(path: Path) -> list[str]:
    """Return the texts to learn: `text`, or `prompt` and `completion`, of JSON lines; else each line of a text file."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    texts: list[str] = []
    for file in (file for file in files if file.suffix in (".jsonl", ".json", ".txt")):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        texts += lines if file.suffix == ".txt" else [_text_of(line, file) for line in lines]
    if not texts:
        raise NotPossibleError(f"{path} holds no text: *.jsonl with `text`, or *.txt, is needed")
    return texts


def _text_of(line: str, file: Path) -> str:
    try:
        entry = json.loads(line)
        return str(entry["text"]) if "text" in entry else f"{entry['prompt']}{entry['completion']}"
    except (ValueError, KeyError, TypeError) as error:
        raise NotPossibleError(f"{file.name}: a line without `text` or `prompt` and `completion`: {error}") from error


def need_device(torch: Any, settings: dict[str, Any]) -> str:
    """Return the GPU's name. Raises NotPossibleError where there is none, or too small a one: the CPU is no GPU."""
    if settings["device"] != "cuda":
        return str(settings["device"])
    if not torch.cuda.is_available():
        raise NotPossibleError("torch sees no GPU in this pod")
    found = torch.cuda.get_device_properties(0)
    # A card of 16 GiB tells a little less than that of itself.
    if found.total_memory < 0.9 * float(settings["memory_gib"]) * 2**30:
        raise NotPossibleError(f"{found.name} has {found.total_memory / 2**30:.1f} GiB of {settings['memory_gib']}")
    return str(found.name)


# --- learning --------------------------------------------------------------------------------------------------------


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield so many batches of indices: all texts in a new order, again and again."""
    import random

    shuffle = random.Random(seed)  # noqa: S311 - an order, no secret
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            more = list(range(count))
            shuffle.shuffle(more)
            order += more
        yield order[:size]
        order = order[size:]


class Tuner:
    """The model with its adapters, and the texts as numbers."""

    def __init__(self, packages: tuple[Any, Any, Any], model: Path, texts: list[str], settings: dict[str, Any]) -> None:
        self.torch, transformers, peft = packages
        self.device, self.size = str(settings["device"]), int(settings["batch"])
        self.torch.manual_seed(int(settings["seed"]))
        # Nothing is looked for outside, and no code of the model's own is run.
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(model), **local)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        whole = self.torch.float32
        if self.device == "cuda":
            whole = self.torch.bfloat16 if self.torch.cuda.is_bf16_supported() else self.torch.float16
        self.kind = whole
        base = transformers.AutoModelForCausalLM.from_pretrained(str(model), torch_dtype=whole, **local)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=int(settings["rank"]), lora_alpha=int(settings["alpha"]),
            target_modules=linear_names(self.torch, base),
        )  # fmt: skip
        self.model = peft.get_peft_model(base, config).to(self.device)
        self.learning = [part for part in self.model.parameters() if part.requires_grad]
        for part in self.learning:  # small steps get lost in halves
            part.data = part.data.float()
        self.counts = sum(part.numel() for part in self.learning), sum(p.numel() for p in self.model.parameters())
        self.optimizer = self.torch.optim.AdamW(self.learning, lr=float(settings["rate"]))
        self.texts = [
            tokenizer(text, truncation=True, max_length=int(settings["length"]))["input_ids"] for text in texts
        ]
        self.texts = [numbers for numbers in self.texts if len(numbers) > 1]
        self.pad = int(tokenizer.pad_token_id or 0)

    def loss(self, chosen: list[int]) -> Any:
        """Return the loss of one batch; what is only filled up does not count."""
        rows = [self.texts[index] for index in chosen]
        width = max(map(len, rows))
        tensor = self.torch.tensor
        ids = tensor([row + [self.pad] * (width - len(row)) for row in rows], device=self.device)
        mask = tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        halves = self.kind != self.torch.float32
        with self.torch.autocast(self.device, dtype=self.kind) if halves else nullcontext():
            return self.model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss

    def probe(self) -> float:
        """Return the mean loss on the first texts, which are always the same."""
        self.model.eval()
        count = min(PROBES, -(-len(self.texts) // self.size))
        parts = [range(part * self.size, min((part + 1) * self.size, len(self.texts))) for part in range(count)]
        with self.torch.no_grad():
            return sum(float(self.loss(list(part))) for part in parts) / count

    def step(self, chosen: list[int]) -> float:
        """Take one step down the slope; return the loss before it."""
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss(chosen)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        return float(loss.detach())


def linear_names(torch: Any, model: Any) -> list[str]:
    """Return the last part of the names of all linear layers but the one that answers: adapters go there."""
    head = model.get_output_embeddings()
    kinds = ("Linear", "Conv1D")  # GPT-2's layers are of the second kind
    found = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if type(part).__name__ in kinds and part is not head
    }
    if not found:
        raise NotPossibleError("the model has no linear layer that an adapter could be given to")
    return sorted(found)


def tune(tuner: Tuner, settings: dict[str, Any], report: Any) -> dict[str, list[float]]:
    """Learn, and return what was reported, by series."""
    told: dict[str, list[float]] = {"train/loss": [], "probe/loss": []}

    def tell(series: str, step: int, value: float) -> None:
        told[series].append(value)
        report(series, step, value)

    steps = int(settings["steps"])
    tell("probe/loss", 0, tuner.probe())
    for step, chosen in enumerate(batches(len(tuner.texts), tuner.size, steps, int(settings["seed"]))):
        tell("train/loss", step, tuner.step(chosen))
    tell("probe/loss", steps, tuner.probe())
    return told


def run(settings: dict[str, Any], report: Any) -> dict[str, Any]:
    """Bring model and texts, learn, and return the result. Raises NotPossibleError."""
    packages = load_packages()
    torch = packages[0]
    gpu = need_device(torch, settings)
    with tempfile.TemporaryDirectory(prefix="stackwright-lora-") as name:
        folder, began = Path(name), time.monotonic()
        texts = read_texts(bring(str(settings["data"]), folder))
        model = bring(str(settings["model"]), folder)
        tuner = Tuner(packages, model, texts, settings)
        told = tune(tuner, settings, report)
        # Not save_pretrained: that also writes a page about the model, for which it wants more packages.
        torch.save(packages[2].get_peft_model_state_dict(tuner.model), str(folder / "adapters.pt"))
        size = (folder / "adapters.pt").stat().st_size
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu != settings["device"] else 0.0
    return {
        "version": VERSION, "gpu": gpu, "peak_gib": round(peak, 2), "texts": len(texts), "learning": tuner.counts[0],
        "parameters": tuner.counts[1], "adapter_bytes": size, "seconds": round(time.monotonic() - began, 1),
        "series": told,
    }  # fmt: skip


def main() -> None:
    """Fine-tune, report, and print the result; what is missing is said in one line."""
    from clearml import Task

    task: Any = Task.init(
        project_name=os.environ.get("STACKWRIGHT_PROJECT", "Stackwright"),
        task_name=os.environ.get("STACKWRIGHT_TASK", "validation fine-tune"),
        reuse_last_task_id=False,
        auto_connect_frameworks=False,
        auto_connect_arg_parser=False,
    )
    settings = task.connect({**SETTINGS, "version": VERSION})
    logger = task.get_logger()

    def report(series: str, step: int, value: float) -> None:
        logger.report_scalar(*series.split("/"), iteration=step, value=value)

    try:
        result = run(settings, report)
    except NotPossibleError as error:
        task.flush(wait_for_uploads=True)
        sys.exit(f"not possible: {error}")
    task_id = task.id
    task.close()
    sys.stdout.write(json.dumps({"task": task_id, **result}) + "\n")


if __name__ == "__main__":
    main()
