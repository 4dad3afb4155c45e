"""An error that ended a run, as Markdown: what, where, wanted, seen, remedy; and how far the run came."""

from __future__ import annotations

from collections.abc import Sequence

from stackwright.domain.errors import Problem, ProblemsError, StackError
from stackwright.reports.markdown import listing, one_line
from stackwright.reports.model import Group

UNCHANGED = "Nothing was changed."


def stopped_markdown(
    site: str, flow: str, error: StackError, groups: Sequence[Group] = (), planned: int = 0, *, refused: bool = False
) -> str:
    """Return the page of a run that was stopped: the error's parts, then what was done before and what is left.

    `planned` is the number of steps that were to be done; 0 where no plan was begun. `refused` says that the run ended
    before it changed anything.
    """
    mark = "⛔" if refused else "❌"
    parts = [f"# {mark} {flow} of {site}: {error.what}"]
    parts.append(_values(error.where, error.wanted, error.seen, error.how_to_fix))
    if isinstance(error, ProblemsError):
        parts += [_problem(problem) for problem in error.problems]
    notes = list(getattr(error, "__notes__", ()))
    if notes:
        parts.append("## Beside it\n\n" + "\n".join(f"- {one_line(note)}" for note in notes))
    parts += [_progress(groups, planned)] if planned else [UNCHANGED] if refused else []
    return "\n\n".join(parts) + "\n"


def stopped_line(error: StackError, groups: Sequence[Group] = (), planned: int = 0) -> str:
    """Return the run's message: the error whole, as the shell prints it, and how far the run came."""
    lines = [str(error), *getattr(error, "__notes__", ())]
    if planned:
        done = sum(group.steps for group in groups if group.ok)
        bad = ", ".join(f"{group.target} ({group.area})" for group in groups if not group.ok)
        lines.append(f"{done} of {planned} steps done" + (f"; failed: {bad}" if bad else ""))
    return "\n".join(lines)


def _problem(problem: Problem) -> str:
    return f"### {one_line(problem.what)}\n\n{_values(problem.where, problem.wanted, problem.seen, problem.remedy)}"


def _values(where: str, wanted: str, seen: str, remedy: str) -> str:
    rows = (("Where", where), ("Wanted", wanted), ("Seen", seen), ("Remedy", remedy))
    return "\n".join(f"- **{name}**: {one_line(value)}" for name, value in rows if value)


def _progress(groups: Sequence[Group], planned: int) -> str:
    done = sum(group.steps for group in groups if group.ok)
    bad_first = sorted(groups, key=lambda group: (group.ok, group.started_s))
    rows = ([g.target, g.area, "done" if g.ok else "**FAILED**", f"{g.seconds:.1f}"] for g in bad_first)
    left = f"{done} of {planned} steps were done. Start the flow again when the cause is mended: it continues."
    return f"## How far it came\n\n{left}\n\n{listing(('Target', 'Chapter', 'Ended', 'Took, s'), rows)}"
