"""A training of MNIST's size through the ClearML SDK, on digits that it draws itself: nothing is downloaded.

28 x 28 grey pixels, ten classes, a sixth held out; a network of one hidden layer, trained by numpy, which the SDK
brings along. It reports loss and accuracy of each epoch, a confusion matrix and the model, and prints one JSON line
with all that it reported. Stands alone: it is sent as text to a queue, or run as a file.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# One thread: a pod has a share of a machine, and more threads than cores would wait for each other.
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np  # it reads them when it is loaded

VERSION = "1"
SIDE, CLASSES = 28, 10
# Digits as seven segments: top, upper left, upper right, middle, lower left, lower right, bottom.
SEGMENTS = (
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
)
BOXES = ((4, 6, 8, 20), (4, 14, 8, 10), (4, 14, 18, 20), (13, 15, 8, 20), (14, 24, 8, 10), (14, 24, 18, 20),
         (22, 24, 8, 20))  # fmt: skip
SHIFT = 3
MOMENTUM = 0.9
SETTINGS: dict[str, Any] = {"samples": 60_000, "epochs": 3, "hidden": 64, "batch": 128, "rate": 0.1, "seed": 7}


def draw_digits() -> Any:
    """Return the ten digits, each at every shift, as rows of pixels from 0 to 1: (10, shifts, 784)."""
    drawn = []
    for segments in SEGMENTS:
        picture = np.zeros((SIDE, SIDE), dtype=np.float32)
        for (top, bottom, left, right), on in zip(BOXES, segments, strict=True):
            if on == "1":
                picture[top:bottom, left:right] = 1.0
        moves = range(-SHIFT, SHIFT + 1)
        drawn.append([np.roll(picture, (down, right), (0, 1)).ravel() for down in moves for right in moves])
    return np.array(drawn, dtype=np.float32)


def make_data(samples: int, seed: int) -> tuple[Any, Any]:
    """Return pictures (one byte a pixel) and labels: shifted, of uneven brightness, in strong noise."""
    generator = np.random.default_rng(seed)
    digits = draw_digits()
    labels = generator.integers(0, CLASSES, samples)
    pictures = np.empty((samples, SIDE * SIDE), dtype=np.uint8)
    for first in range(0, samples, 4096):
        part = labels[first : first + 4096]
        clean = digits[part, generator.integers(0, digits.shape[1], len(part))]
        light = generator.uniform(0.5, 1.0, (len(part), 1)).astype(np.float32) * 160
        noise = generator.integers(0, 96, clean.shape, dtype=np.uint8)
        pictures[first : first + len(part)] = (clean * light + noise).astype(np.uint8)
    return pictures, labels


class Network:
    """784 pixels, one hidden layer, ten classes."""

    def __init__(self, hidden: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        sizes = ((SIDE * SIDE, hidden), (hidden, CLASSES))
        self.weights = [(generator.standard_normal(s) * np.sqrt(2 / s[0])).astype(np.float32) for s in sizes]
        self.biases = [np.zeros(size[1], dtype=np.float32) for size in sizes]
        self.speeds = [np.zeros(size, dtype=np.float32) for size in sizes]

    def forward(self, pictures: Any) -> tuple[Any, Any, Any]:
        """Return the pixels as numbers, the hidden layer and the chance of each class."""
        pixels = pictures.astype(np.float32) / 255 - 0.25
        hidden = np.maximum(pixels @ self.weights[0] + self.biases[0], 0)
        scores = hidden @ self.weights[1] + self.biases[1]
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        return pixels, hidden, chances / chances.sum(axis=1, keepdims=True)

    def learn(self, pictures: Any, labels: Any, rate: float) -> float:
        """Take one step down the slope; return the loss before it."""
        pixels, hidden, chances = self.forward(pictures)
        rows = np.arange(len(labels))
        loss = float(-np.log(np.maximum(chances[rows, labels], 1e-9)).mean())
        chances[rows, labels] -= 1
        slope = chances / len(labels)
        below = (slope @ self.weights[1].T) * (hidden > 0)
        for layer, (inputs, outputs) in enumerate(((pixels, below), (hidden, slope))):
            self.speeds[layer] = MOMENTUM * self.speeds[layer] - rate * (inputs.T @ outputs)
            self.weights[layer] += self.speeds[layer]
            self.biases[layer] -= rate * outputs.sum(axis=0)
        return loss

    def guess(self, pictures: Any) -> Any:
        """Return the likeliest class of each picture."""
        parts = [
            self.forward(pictures[first : first + 4096])[2].argmax(axis=1) for first in range(0, len(pictures), 4096)
        ]
        return np.concatenate(parts)


def train_epoch(network: Network, data: tuple[Any, Any], batch: int, rate: float, order: Any) -> float:
    """Do one pass; return the mean loss."""
    pictures, labels = data
    losses = [
        network.learn(pictures[order[first : first + batch]], labels[order[first : first + batch]], rate)
        for first in range(0, len(order), batch)
    ]
    return float(np.mean(losses))


def confusion(truth: Any, guessed: Any) -> Any:
    """Return how often each class (row) was taken for each (column)."""
    counts = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(counts, (truth, guessed), 1)
    return counts


def train(settings: dict[str, Any], report: Any) -> tuple[Network, Any, dict[str, list[float]]]:
    """Train and return the network, the confusion matrix, and what was reported, by series."""
    samples, seed = int(settings["samples"]), int(settings["seed"])
    pictures, labels = make_data(samples, seed)
    learnt = samples - samples // 6
    network = Network(int(settings["hidden"]), seed)
    shuffle = np.random.default_rng(seed + 1)
    told: dict[str, list[float]] = {"train/loss": [], "test/accuracy": []}
    guessed = np.empty(0)
    for epoch in range(int(settings["epochs"])):
        order = shuffle.permutation(learnt)
        loss = train_epoch(network, (pictures, labels), int(settings["batch"]), float(settings["rate"]), order)
        guessed = network.guess(pictures[learnt:])
        values = {"train/loss": loss, "test/accuracy": float((guessed == labels[learnt:]).mean())}
        for series, value in values.items():
            told[series].append(value)
            report(series, epoch, value)
    return network, confusion(labels[learnt:], guessed), told


def main() -> None:
    """Train, report, and print the result."""
    from clearml import Task

    task: Any = Task.init(
        project_name=os.environ.get("STACKWRIGHT_PROJECT", "Stackwright"),
        task_name=os.environ.get("STACKWRIGHT_TASK", "validation"),
        reuse_last_task_id=False,
        auto_connect_frameworks=False,
        auto_connect_arg_parser=False,
        auto_resource_monitoring=False,
    )
    settings = task.connect({**SETTINGS, "version": VERSION})
    logger = task.get_logger()

    def report(series: str, epoch: int, value: float) -> None:
        logger.report_scalar(*series.split("/"), iteration=epoch, value=value)

    network, counts, told = train(settings, report)
    logger.report_confusion_matrix("confusion", "test", matrix=counts, iteration=int(settings["epochs"]) - 1)
    model = {"weights": [layer.tolist() for layer in network.weights], "biases": [b.tolist() for b in network.biases]}
    task.upload_artifact("model", artifact_object=model, wait_on_upload=True)
    task_id = task.id
    task.close()
    result = {"task": task_id, "version": VERSION, "samples": int(settings["samples"]), "series": told}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
