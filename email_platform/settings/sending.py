"""How campaigns are sent, and when one is stopped for its own good."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from email_platform.settings.values import PositiveInt, PositiveSeconds, Share


class SendingSettings(BaseModel):
    """How campaigns are sent.

    Attributes:
        chunk_rows: recipients of one chunk.
        provider_connections: calls in flight of one process.
        provider_answer_seconds: how long a provider may take for the next part of its answer; giving up early makes
            accepted calls unknown.
        lease_seconds: how long a chunk's lease lives without renewal.
        stall_seconds: a campaign without progress for so long is resumed.
        content_error_share, content_error_minimum: a campaign is paused before its first call where more than this
            share of its recipients, and at least so many, cannot be rendered.
        render_seconds, render_memory_megabytes: what rendering ten messages may take, in a process of its own; a
            template that takes more fails its campaign with a sentence. While sending half of lease_seconds, if less.
        rejected_share_limit, rejected_minimum: a campaign is paused where the provider refuses more than this share of
            the recipients who have an answer since it was last queued, and these are at least so many.
        guard_bounce_rate, guard_complaint_rate, guard_blocked_rate: shares of the accepted messages at which a campaign
            is paused.
        guard_minimum_accepted, guard_minimum_events: below this sample, or from fewer bounces or complaints, nothing
            is concluded.
        complaint_scope: for whom a complaint suppresses an address: ``sender`` (whose mail it was) or ``everyone``.
    """

    chunk_rows: PositiveInt = 10_000
    provider_connections: Annotated[int, Field(ge=1, le=512)] = 16
    provider_answer_seconds: PositiveSeconds = 60.0
    lease_seconds: PositiveSeconds = 20.0
    stall_seconds: PositiveSeconds = 60.0
    content_error_share: Share = 0.01
    content_error_minimum: PositiveInt = 20
    render_seconds: PositiveSeconds = 60.0
    render_memory_megabytes: Annotated[int, Field(ge=64)] = 512
    rejected_share_limit: Share = 0.20
    rejected_minimum: PositiveInt = 200
    guard_bounce_rate: Share = 0.05
    guard_complaint_rate: Share = 0.003
    guard_blocked_rate: Share = 0.05
    guard_minimum_accepted: PositiveInt = 200
    guard_minimum_events: PositiveInt = 3
    complaint_scope: Literal["sender", "everyone"] = "sender"
