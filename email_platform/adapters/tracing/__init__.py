"""Traces of steps, provider calls and loads, for an OpenTelemetry collector that the settings name.

Invariant: what is traced does the same as without: a span that cannot be exported is dropped, and a step waits for the
collector at its end only, for at most `FLUSH_SECONDS`. No span holds an address, content, a key or an error's text.

Without a collector nothing of OpenTelemetry's SDK is imported, and providers and loads are the same objects as before:
the sending loop runs the same code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from email_platform.domain.campaigns import Sender
from email_platform.domain.ports import EmailProvider, LoadOutcome, StagedObject
from email_platform.settings import variable_of

FLUSH_SECONDS = 5.0
"""How long the end of a step waits for a collector that does not answer."""

AttributeValue = str | int | float | bool
LoadGroup = Callable[[Sequence[StagedObject]], Sequence[LoadOutcome]]
Note = Callable[[Mapping[str, AttributeValue]], None]
"""Adds attributes to the step's span."""

_logger = logging.getLogger(__name__)


class StepTrace(Protocol):
    """The trace of the step that runs now."""

    def provider(self, provider: EmailProvider, sender: Sender) -> EmailProvider:
        """The provider with a span for each call."""
        ...

    def load(self, load: LoadGroup) -> LoadGroup:
        """The load of a group of objects with a span."""
        ...


_step: ContextVar[StepTrace | None] = ContextVar("traced_step", default=None)


@contextmanager
def traced_step(
    otlp_url: str | None, name: str, run_id: str, attributes: Mapping[str, AttributeValue]
) -> Iterator[Note]:
    """Trace what happens within the `with` as one step of the run; an error passes through unchanged.

    All steps of a run are one trace, whatever process or machine each runs on: the trace's id is computed from the
    run's, so nothing has to be handed over.

    Args:
        otlp_url: the collector's, from the settings; None: nothing is traced.
        name: of the step.
        run_id: Dagster's id of its run.
        attributes: of the step, and of every call and load within it.
    """
    if otlp_url is None:
        yield _unnoted
        return
    try:
        from email_platform.adapters.tracing.spans import exported_step
    except ModuleNotFoundError as missing:
        _logger.warning(
            "%s is set, and the package %s is not installed: nothing is traced; install email-platform[tracing]",
            variable_of("otlp_url"),
            missing.name,
        )
        yield _unnoted
        return
    with exported_step(otlp_url, name, run_id, attributes, FLUSH_SECONDS) as (trace, note):
        token = _step.set(trace)
        try:
            yield note
        finally:
            _step.reset(token)


def traced_provider(provider: EmailProvider, sender: Sender) -> EmailProvider:
    """The provider with a span for each call of the traced step; the same object where there is none."""
    step = _step.get()
    return provider if step is None else step.provider(provider, sender)


def traced_load(load: LoadGroup) -> LoadGroup:
    """The load with a span for each group of the traced step; the same function where there is none."""
    step = _step.get()
    return load if step is None else step.load(load)


def _unnoted(attributes: Mapping[str, AttributeValue]) -> None:
    """Nobody wants them."""
