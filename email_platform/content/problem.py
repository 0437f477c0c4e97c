"""Why one recipient's message cannot be rendered, in words that may be shown and stored.

Invariant: a reason names variables, limits, types and places in the template, never an address or a lead's value.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Template, UndefinedError
from jinja2.exceptions import SecurityError

from email_platform.content.budget import BudgetError

_MAXIMUM_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class ContentProblem:
    """One recipient cannot be sent this content.

    Attributes:
        reason: which variable or limit, and where in the template.
    """

    reason: str


def missing(name: str) -> str:
    """The reason where a required variable is missing."""
    return f"{name} is missing"


def reason_of(error: Exception, part: str = "", template: Template | None = None) -> str:
    """What was wrong, from the error that a rendering raised."""
    match error:
        # Their texts hold names from the template, limits or names of types alone (see `MissingValue`).
        case UndefinedError() | BudgetError() | SecurityError() | TypeError():
            what = str(error)[:_MAXIMUM_REASON_CHARACTERS]
        case ZeroDivisionError():
            what = "a division by zero"
        case ArithmeticError():
            what = "a number is outside what can be reckoned with"
        case RecursionError() | MemoryError():
            what = "a value is too large or too deeply nested"
        case _:
            what = f"a value cannot be used there ({type(error).__name__})"
    if not part or isinstance(error, UndefinedError):
        return what
    line = None if template is None else _line_of(error, template)
    return f"{part} template{'' if line is None else f', line {line}'}: {what}"


def _line_of(error: Exception, template: Template) -> int | None:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals is template.root_render_func.__globals__:
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
