"""The file that declares work pools, and where their workers have the program: `deployments/server.yaml`. Pure."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stackwright.domain.errors import Problem, ProblemsError

DEFAULT_QUEUE = "default"


class Queue(BaseModel):
    """A queue of a work pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priority: int = Field(default=1, ge=1, description="1 is served first.")
    concurrency_limit: int | None = Field(default=None, ge=1, description="Runs at once; none is no limit.")


class Pool(BaseModel):
    """A work pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(min_length=1, description="Type of the worker that serves it.")
    description: str = ""
    concurrency_limit: int | None = Field(default=None, ge=1, description="Runs at once over all workers.")
    job_template: str | None = Field(default=None, description="JSON file, beside the file that names it.")
    queues: dict[str, Queue] = {}


class ServerFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: str | None = Field(
        default=None, pattern="^/", description="Folder of the program where runs are; none is that of `setup` itself."
    )
    work_pools: dict[str, Pool] = Field(min_length=1)


def parse_server_file(text: str, path: str) -> ServerFile:
    """Read the file. Raises ProblemsError with every problem at once."""
    try:
        raw: Any = yaml.safe_load(text)
        return ServerFile.model_validate(raw)
    except yaml.YAMLError as error:
        problem = Problem(path, "is no YAML", "correct the place named here", seen=str(error).replace("\n", " ")[:200])
        raise ProblemsError("the file was refused", [problem], where=path) from error
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, one["loc"])) or path, one["msg"], "see the head of deployments/server.yaml")
            for one in error.errors()
        ]
        raise ProblemsError("the file was refused", problems, where=path) from error
