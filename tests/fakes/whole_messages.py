"""Calls for tests that think in whole messages: every part of a message is one value, and the skeleton all holes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from email_platform.domain.message import Skeleton
from email_platform.domain.ports import BulkCall, Recipient


@dataclass(frozen=True, slots=True)
class WholeMessage:
    """One recipient and his message."""

    lead_id: int
    message_id: UUID
    address: str
    subject: str
    html: str
    text: str
    headers: Mapping[str, str]


def call_of(*messages: WholeMessage, **fields: Any) -> BulkCall:
    """A call of these messages; its skeleton has the header names of the first."""
    names = list(messages[0].headers) if messages else []
    return BulkCall(
        skeleton=Skeleton((0,), (1,), (2,), {name: (3 + index,) for index, name in enumerate(names)}, 3 + len(names)),
        recipients=tuple(
            Recipient(
                one.lead_id,
                str(one.message_id),
                one.address,
                (one.subject, one.html, one.text, *(one.headers[name] for name in names)),
            )
            for one in messages
        ),
        **fields,
    )
