"""A small training through the ClearML SDK: parameters, scalars, an artifact; prints one JSON line with the task's id.

Stands alone: it is sent as text to a queue, or run as a file. All its settings come from the environment: CLEARML_*,
REQUESTS_CA_BUNDLE, and STACKWRIGHT_RESOLVE, a JSON object of names to [address, port] (port 0 keeps the URL's).
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import sys
from typing import Any

Point = tuple[float, float, float]


def use_given_addresses() -> None:
    """Reach the names in STACKWRIGHT_RESOLVE at their addresses. Must come before the SDK opens a connection."""
    given = json.loads(os.environ.get("STACKWRIGHT_RESOLVE") or "{}")
    usual = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in given:
            address, other = given[name]
            return usual(address, other or port, *args, **kwargs)
        return usual(host, port, *args, **kwargs)

    if given:
        socket.getaddrinfo = look_up


def make_data(samples: int, seed: int) -> list[Point]:
    """Return points of two classes, a line between them with some noise."""
    generator = random.Random(seed)  # noqa: S311  reproducible, not secret
    points = []
    for _ in range(samples):
        x, y = generator.uniform(-1, 1), generator.uniform(-1, 1)
        points.append((x, y, 1.0 if x + 0.5 * y + generator.gauss(0, 0.1) > 0 else 0.0))
    return points


def predict(weights: list[float], x: float, y: float) -> float:
    """Return the probability of class one."""
    return 1.0 / (1.0 + math.exp(-(weights[0] * x + weights[1] * y + weights[2])))


def train_epoch(weights: list[float], points: list[Point], rate: float) -> tuple[list[float], float, float]:
    """Do one pass of gradient descent; return the new weights, the loss and the accuracy before it."""
    loss, right, slope = 0.0, 0, [0.0, 0.0, 0.0]
    for x, y, label in points:
        chance = min(max(predict(weights, x, y), 1e-9), 1 - 1e-9)
        loss -= label * math.log(chance) + (1 - label) * math.log(1 - chance)
        right += (chance > 0.5) == (label > 0.5)
        for i, part in enumerate((x, y, 1.0)):
            slope[i] += (chance - label) * part
    count = len(points)
    return [w - rate * s / count for w, s in zip(weights, slope, strict=True)], loss / count, right / count


def main() -> None:
    """Train, report, and print the result."""
    use_given_addresses()
    from clearml import Task

    task: Any = Task.init(
        project_name=os.environ.get("STACKWRIGHT_PROJECT", "Stackwright"),
        task_name=os.environ.get("STACKWRIGHT_TASK", "validation"),
        reuse_last_task_id=False,
        auto_connect_frameworks=False,
        auto_connect_arg_parser=False,
        auto_resource_monitoring=False,
    )
    settings: dict[str, Any] = {"epochs": 20, "rate": 2.0, "samples": 200, "seed": 7}
    settings = task.connect(settings)
    logger = task.get_logger()
    points, weights = make_data(int(settings["samples"]), int(settings["seed"])), [0.0, 0.0, 0.0]
    losses = []
    accuracy = 0.0
    for epoch in range(int(settings["epochs"])):
        weights, loss, accuracy = train_epoch(weights, points, float(settings["rate"]))
        losses.append(loss)
        logger.report_scalar("train", "loss", iteration=epoch, value=loss)
        logger.report_scalar("train", "accuracy", iteration=epoch, value=accuracy)
    task.upload_artifact("result", artifact_object={"weights": weights, "loss": losses[-1]}, wait_on_upload=True)
    task_id = task.id
    task.close()
    result = {"task": task_id, "first_loss": losses[0], "last_loss": losses[-1], "accuracy": accuracy}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
