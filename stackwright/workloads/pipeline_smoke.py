"""A pipeline of two steps through the ClearML SDK, run on this machine; prints one JSON line with the controller's id.

Stands alone, like sdk_smoke.py. The steps run in processes of their own, which find the address override of
STACKWRIGHT_RESOLVE in a sitecustomize module that this script writes into a folder of its own.
"""

import json
import os
import pathlib
import socket
import sys
import tempfile

OVERRIDE = """
import json, os, socket
_given = json.loads(os.environ.get("STACKWRIGHT_RESOLVE") or "{}")
_usual = socket.getaddrinfo
def _look_up(host, port, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name in _given:
        address, other = _given[name]
        return _usual(address, other or port, *args, **kwargs)
    return _usual(host, port, *args, **kwargs)
if _given:
    socket.getaddrinfo = _look_up
"""


def use_given_addresses(folder: str) -> None:
    """Reach the names in STACKWRIGHT_RESOLVE at their addresses, here and in every Python that this one starts."""
    (pathlib.Path(folder) / "sitecustomize.py").write_text(OVERRIDE)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")]))
    exec(OVERRIDE, {})  # noqa: S102  the text above


def main() -> None:
    """Build the pipeline, run it here, and print the result."""
    with tempfile.TemporaryDirectory(prefix="stackwright-pipeline-") as folder:
        use_given_addresses(folder)
        from clearml.automation.controller import PipelineDecorator

        @PipelineDecorator.component(return_values=["numbers"], cache=False, packages=False)
        def make_numbers(count: int):  # type: ignore[no-untyped-def]  # its source is copied into a step
            return [i * i for i in range(count)]

        @PipelineDecorator.component(return_values=["total"], cache=False, packages=False)
        def add_up(numbers: list):  # type: ignore[no-untyped-def,type-arg]  # as above
            return sum(numbers)

        @PipelineDecorator.pipeline(
            name=os.environ.get("STACKWRIGHT_TASK", "validation-pipeline"),
            project=os.environ.get("STACKWRIGHT_PROJECT", "Stackwright"),
            version="1.0",
            add_pipeline_tags=False,
        )
        def pipeline(count: int = 5) -> int:
            total = add_up(make_numbers(count))
            return int(total)

        PipelineDecorator.run_locally()
        total = pipeline(5)
        controller = PipelineDecorator.get_current_pipeline().id
        if total != 30:
            sys.exit(f"the pipeline answered {total}, wanted 30")
    sys.stdout.write(json.dumps({"task": controller, "total": total, "host": socket.gethostname()}) + "\n")


if __name__ == "__main__":
    main()
