"""One thing that needs an operator, in words that may go to a chat, a pager or a mailbox.

Invariant: no text of a condition holds an address of a recipient, a credential, or an address of a part with one.
Reasons come from providers, drivers and people, so every text is cleaned where a condition is made, not where it is
sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Kind = Literal[
    "campaign_paused",
    "campaign_failed",
    "account_refused",
    "campaign_feedback",
    "campaign_silent",
    "credential_refused",
    "part_away",
    "unknown_calls",
    "queue_stuck",
    "loads_late",
    "object_quarantined",
    "events_late",
    "reports_late",
    "run_failed",
    "check_failed",
    "dagster_dead",
    "receiver_dead",
    "provider_notice",
    "test",
]
State = Literal["raised", "resolved"]

MAXIMUM_CHARACTERS = 600
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://\S+")
_ADDRESS = re.compile(r"[^\s@<>\"'(),;:\[\]{}=]+@[^\s@<>\"'(),;:\[\]{}=]+")
# Words after which a credential stands. A provider may quote the key that it refuses.
_CREDENTIAL = re.compile(
    r"(?i)\b((?:api[ _-]?key|access[ _-]?key(?: id)?|secret|token|password|bearer|basic|signature)\b['\"]?\s*[:=]?\s*)"
    r"['\"]?(?=[^\s'\"]*\d)[^\s'\",;]{8,}"
)
# Something long without blanks, of letters and digits, is a key more often than anything a person must read. Ids
# of runs and messages (hexadecimal, with hyphens) are shown.
_LONG_WORD = re.compile(r"\b(?![0-9a-f-]{36}\b)(?=\w*\d)(?=\w*[A-Za-z])[\w.+/-]{32,}")


def cleaned(text: str) -> str:
    """The text without addresses, URLs and what looks like a credential, on one line and of a bounded length."""
    line = " ".join(text.split())
    line = _URL.sub(r"<\1 address>", line)
    line = _ADDRESS.sub("<address>", line)
    line = _CREDENTIAL.sub(r"\1<hidden>", line)
    line = _LONG_WORD.sub("<hidden>", line)
    return line if len(line) <= MAXIMUM_CHARACTERS else line[: MAXIMUM_CHARACTERS - 1] + "…"


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that needs an operator, as long as it holds.

    Attributes:
        kind: which sort of thing.
        subject: what it is about, such as ``campaign 17``; kind and subject together ring once.
        happened: what happened.
        meaning: what that means for recipients.
        command: the one command that mends it, or shows how.
        occasion: which time it is. The same subject on another occasion (resumed and paused again) rings again, also
            where nobody looked in between.
        details: counts for programs; no texts.
    """

    kind: Kind
    subject: str
    happened: str
    meaning: str
    command: str
    occasion: str = ""
    details: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("happened", "meaning", "command"):
            object.__setattr__(self, name, cleaned(getattr(self, name)))

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two findings the same alert."""
        return self.kind, self.subject, self.occasion


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that was found, as the outbox keeps it.

    Attributes:
        resolved_at: when it was found to be over; None while it holds.
    """

    alert_id: int
    condition: Condition
    raised_at: datetime
    resolved_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one target; PagerDuty and its like close what the same ``alert_id`` opened."""

    delivery_id: int
    alert: Alert
    target: str
    state: State

    @property
    def title(self) -> str:
        """One line, the same for the beginning and the end: PagerDuty's ``action=map`` closes what it opened by it."""
        return f"Email platform, alert {self.alert.alert_id}: {self.alert.condition.kind.replace('_', ' ')}"

    @property
    def text(self) -> str:
        """What happened, what it means for recipients, and what to do."""
        found = self.alert.condition
        if self.state == "resolved":
            return f"OVER: {found.happened}"
        return f"{found.happened}\n{found.meaning}\nDo: {found.command}"

    def to_json(self) -> dict[str, Any]:
        """The body of a webhook's POST; ``text`` is what chat webhooks show. A repeat has the same id and state."""
        found = self.alert.condition
        return {
            "text": self.text,
            "id": self.alert.alert_id,
            "state": self.state,
            "kind": found.kind,
            "subject": found.subject,
            "happened": found.happened,
            "meaning": found.meaning,
            "command": found.command,
            "raised_at": self.alert.raised_at.isoformat(),
            **found.details,
        }
