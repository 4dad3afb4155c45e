"""A pipeline of two decorated steps through the ClearML SDK; prints one JSON line with the controller's id and value.

Sent as text to a queue: it is the controller, and sends its steps to the queue named in its parameters, each to be run
by an agent in a pod of its own.
"""

import json
import os
import sys

VERSION = "1"
POLL_S = 0.5
COUNT, TOTAL = 5, 30


def look_oftener() -> None:
    """Let the controller look at its steps every half second: a value that is passed on is waited for in 20 s looks."""
    from clearml.automation.job import BaseJob

    usual = BaseJob.wait

    def wait(self, timeout=None, pool_period=POLL_S, **more):  # type: ignore[no-untyped-def]  # the SDK's own
        return usual(self, timeout, min(pool_period, POLL_S), **more)

    BaseJob.wait = wait  # type: ignore[method-assign,assignment]  # no setting reaches it


def queue_of_steps() -> str:
    """Return the queue that the task's parameters name."""
    from clearml import Task

    return str(Task.get_task(task_id=os.environ["CLEARML_TASK_ID"]).get_parameter("General/queue"))


def main() -> None:
    """Build the pipeline, run it, and print the result."""
    from clearml.automation.controller import PipelineDecorator

    @PipelineDecorator.component(return_values=["numbers"], cache=False, packages=["clearml"])
    def make_numbers(count: int):  # type: ignore[no-untyped-def]  # its source is copied into a step
        return [i * i for i in range(count)]

    @PipelineDecorator.component(return_values=["total"], cache=False, packages=["clearml"])
    def add_up(numbers: list):  # type: ignore[no-untyped-def,type-arg]  # as above
        return sum(numbers)

    @PipelineDecorator.pipeline(
        name="validation pipeline",
        project="Stackwright",
        version="1.0",
        pool_frequency=POLL_S / 60,
        add_pipeline_tags=False,
        return_value="total",
    )
    def pipeline(count: int = COUNT) -> int:
        return int(add_up(make_numbers(count)))

    look_oftener()
    PipelineDecorator.set_default_execution_queue(queue_of_steps())
    total = pipeline(COUNT)
    controller = PipelineDecorator.get_current_pipeline().id
    sys.stdout.write(json.dumps({"task": controller, "version": VERSION, "total": total}) + "\n")
    if total != TOTAL:
        sys.exit(f"the pipeline answered {total}, wanted {TOTAL}")


if __name__ == "__main__":
    main()
