"""Errors that a person can act on: what went wrong, where, what was wanted, what was seen, and the remedy.

No foreign exception leaves a client: each is turned into one of these with `raise ... from`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class StackError(Exception):
    """Base of every error that Stackwright raises on purpose.

    `what` says what failed, `where` names the node, layer, tenant or field; `wanted` and `seen` carry the values.
    A class gives its usual `remedy`; a call may give a better one. `transient` tells the retry rule that the same
    step may work when tried again after looking again.
    """

    remedy: ClassVar[str] = "Read the values above, correct the cause, then start the flow again."
    transient: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str = "", wanted: str = "", seen: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.wanted = wanted
        self.seen = seen
        self.how_to_fix = remedy or type(self).remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.wanted:
            parts.append(f"wanted: {self.wanted}")
        if self.seen:
            parts.append(f"seen: {self.seen}")
        parts.append(f"remedy: {self.how_to_fix}")
        return " | ".join(parts)


@dataclass(frozen=True)
class Problem:
    """One finding of a check: where it is (a path such as `nodes[2].address`), what is wrong and how to mend it."""

    where: str
    what: str
    remedy: str
    wanted: str = ""
    seen: str = ""

    def __str__(self) -> str:
        values = "".join(
            f" | {name}: {value}" for name, value in (("wanted", self.wanted), ("seen", self.seen)) if value
        )
        return f"{self.where}: {self.what}{values} | remedy: {self.remedy}"


class ProblemsError(StackError):
    """Several problems at once: all of them are listed, not only the first."""

    def __init__(self, what: str, problems: list[Problem], *, where: str = "") -> None:
        self.problems = problems
        super().__init__(what, where=where, seen=f"{len(problems)} problem(s)", remedy="Mend each line below.")

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  - {problem}" for problem in getattr(self, "problems", []))])


class SiteFileError(ProblemsError):
    """The site file was refused."""


class PlanRefusedError(ProblemsError):
    """The facts forbid any plan: nothing was changed."""


class PlanMovedError(StackError):
    """The plan that was approved is not the plan that the facts ask for now."""

    remedy = "Read the new plan, then apply it with its own hash."


class NodeUnreachableError(StackError):
    """The node does not answer on its SSH port, or the link was lost."""

    remedy = "Check power, network and the SSH port, then run the flow again."
    transient = True


class HostKeyError(StackError):
    """The node's host key is unknown or another one than pinned."""

    remedy = "Compare the fingerprint on the node's console, then pin it in the site file (nodes[].host_key)."


class LoginRefusedError(StackError):
    """The node refused the SSH login, or sudo asked for a password."""

    remedy = "Check the user and key of the site's SSH block, and a NOPASSWD rule in /etc/sudoers.d for that user."


class RemoteStepError(StackError):
    """A step's script ran on the node and reported failure."""


class FencedError(StackError):
    """Another run has taken over the right to change this site."""

    remedy = "Nothing was changed by this run any more. Look at the run that holds the lease now."


class LeaseHeldError(StackError):
    """Another live run holds the lease of this site. `run` is its name, where it is known."""

    remedy = "Wait for that run to end, or cancel it, then start again."
    run: str = ""


class GateTimeoutError(StackError):
    """A gate did not open within its limit."""

    remedy = "Read the last state and journal lines, mend the cause, then start the flow again: it continues here."


class ToolError(StackError):
    """A local program (helm, kubectl) failed or is missing."""


class ReleaseStateError(StackError):
    """A Helm release is in a state that must not be changed automatically."""


class ApiError(StackError):
    """An HTTP service answered with an error. `status` is the HTTP status, `code` the product's own sub-code."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        wanted: str = "",
        seen: str = "",
        remedy: str = "",
        status: int = 0,
        code: int = 0,
    ) -> None:
        self.status = status
        self.code = code
        super().__init__(what, where=where, wanted=wanted, seen=seen, remedy=remedy)


class ApiUnavailableError(ApiError):
    """An HTTP service did not answer, or answered 429, 502, 503 or 504."""

    remedy = "Check that the service runs and can be reached, then run the flow again."
    transient = True


class NotFoundError(ApiError):
    """The object asked for does not exist."""


class ConflictError(ApiError):
    """The object exists already, or was changed by someone else in between."""


class SecretsUnavailableError(StackError):
    """The Prefect server, which keeps the blocks, does not answer: whether a block exists is not known."""

    remedy = "Check that the Prefect server runs and can be reached, then run the flow again."
    transient = True


class SecretMissingError(StackError):
    """A block that the site file names does not exist or lacks a value."""

    remedy = "Create the block with `stackwright setup`, or in the Prefect UI under Blocks."
