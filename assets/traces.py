"""A step of a run as a span, where the settings name a collector for traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from email_platform.adapters.tracing import Note, traced_step
from resources.settings import SettingsResource

_NAMES = {"campaign_id": "email_platform.campaign.id", "chunk_index": "email_platform.chunk.index"}


@contextmanager
def traced(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    settings: SettingsResource,
    name: str,
    **attributes: str | float | bool,
) -> Iterator[Note]:
    """Trace what happens within the `with` as a step of the context's run; see `traced_step`."""
    named = {_NAMES.get(key, f"email_platform.{key}"): value for key, value in attributes.items()}
    with traced_step(settings.load().otlp_url, name, context.run.run_id, named) as note:
        yield note
