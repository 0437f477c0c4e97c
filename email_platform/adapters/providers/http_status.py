"""The HTTP status of a call's answer, for whoever watches the call; nobody does unless calls are traced."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

ON_HTTP_STATUS: ContextVar[Callable[[int], None] | None] = ContextVar("on_http_status", default=None)
"""Set around a call by whoever wants its status."""


def note_http_status(status: int) -> None:
    """Say that the call of this context was answered with this status."""
    if (noted := ON_HTTP_STATUS.get()) is not None:
        noted(status)
