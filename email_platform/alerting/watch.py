"""One bounded look at everything, and the messages that follow from it.

Invariant: a condition rings once for each occasion and is resolved when it is over, whoever looks and however often,
also across restarts: what was found, and which target was sent what, is in the outbox before anything is sent. A
process that dies between a target's answer and the mark sends that message once more, with the same id.

Two hosts look, each once a minute: a sensor in Dagster, and a thread in the receiver. Each sees the other's death. A
host resolves only kinds that it has looked at, so what Dagster alone can see (runs, checks, reports) stays as it was
found while Dagster is dead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from email_platform.alerting.condition import Alert, Condition, Kind, Message
from email_platform.alerting.rules import (
    BACKLOG_KINDS,
    Backlog,
    Limits,
    conditions_of_backlog,
    events_condition,
    part_condition,
)
from email_platform.domain.ports import Clock
from email_platform.errors import ConfigurationError, PartUnavailableError

_logger = logging.getLogger(__name__)

MESSAGES_PER_LOOK = 20
Host = Literal["dagster", "receiver"]
Send = Callable[[Message], None]
"""Sends one message to one target; PartUnavailableError where the target did not take it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one part of a look found.

    Attributes:
        kinds: what was looked at: an open alert of these kinds that is not among the conditions is over.
        conditions: what holds.
        undecided: kind and subject of what cannot be judged now, such as a job whose retry is at work: an open alert
            of it stays, and nothing rings.
        subjects: where given, only alerts of these subjects were looked at.
    """

    kinds: Collection[Kind] = ()
    conditions: Sequence[Condition] = ()
    undecided: Collection[tuple[Kind, str]] = ()
    subjects: Collection[str] | None = None


class AlertFacts(Protocol):
    """Reads, in bounded statements, what may need an operator."""

    def backlog(self, limits: Limits, now: datetime) -> Backlog:
        """What PostgreSQL shows."""
        ...

    def first_event_at(self) -> datetime | None:
        """When the oldest object in the receivers' inbox was written; one listing request.

        Raises:
            ConfigurationError: the object store refuses us.
            PartUnavailableError: it does not answer.
        """
        ...

    def attempts_at_work(self, campaign_ids: Collection[int]) -> Mapping[int, int]:
        """The present attempt of those of these campaigns that are queued or sending."""
        ...

    def oldest_change_after(self, refreshed_at: datetime | None) -> datetime | None:
        """The first change that a refresh of the reports which began then does not show; None where there is none."""
        ...


class AlertBook(Protocol):
    """The outbox; every method is one transaction."""

    def beat(self, host: Host, now: datetime) -> None:
        """Note that this host looks."""
        ...

    def reconcile(self, finding: Finding, targets: Collection[str], now: datetime) -> tuple[list[Alert], list[Alert]]:
        """Open what was found and is not open, close what is over, with a message to each target.

        Returns:
            What was raised, and what was resolved.
        """
        ...

    def expire(self, now: datetime) -> list[Alert]:
        """Close what nobody looks at again (notices) after a day without it; forget what ended long ago."""
        ...

    def claim(
        self, targets: Collection[str], limit: int, now: datetime, *, only: Condition | None = None
    ) -> list[Message]:
        """Messages that are due, taken by this caller for a minute.

        An alert's end is due to a target only after its beginning was taken there.

        Args:
            targets: those that are configured.
            limit: at most so many.
            now: the present time.
            only: this condition's, due or not.
        """
        ...

    def mark_taken(self, message: Message, now: datetime) -> None:
        """The target has it."""
        ...

    def mark_refused(self, message: Message, problem: str, now: datetime) -> None:
        """The target did not take it; it is due again after a pause that doubles, up to an hour."""
        ...


@dataclass(frozen=True, slots=True)
class AlertParts:
    """What a look needs.

    Attributes:
        targets: how each target is sent to, by a name that says nothing of its address.
    """

    facts: AlertFacts
    book: AlertBook
    targets: Mapping[str, Send]
    limits: Limits
    clock: Clock


@dataclass(frozen=True, slots=True)
class LookReport:
    """What one look did."""

    raised: tuple[Alert, ...] = ()
    resolved: tuple[Alert, ...] = ()
    taken: int = 0
    refused: int = 0


def look(parts: AlertParts, host: Host, more: Sequence[Finding] = ()) -> LookReport:
    """Look at everything once, keep what changed in the outbox, and send what is due; safe to repeat and side by side.

    Bounded: a fixed number of statements, at most `rules.CAMPAIGNS_OF_A_KIND` campaigns of a kind, one listing request,
    and `MESSAGES_PER_LOOK` messages.

    Args:
        parts: what it works with.
        host: who looks.
        more: what only this host can see.

    Raises:
        PartUnavailableError: PostgreSQL is away; the next look finds everything again.
    """
    now = parts.clock()
    parts.book.beat(host, now)
    raised: list[Alert] = []
    resolved = parts.book.expire(now)
    backlog = conditions_of_backlog(parts.facts.backlog(parts.limits, now), parts.limits, now)
    for finding in (Finding(BACKLOG_KINDS, backlog), *_inbox_findings(parts, now), *more):
        new, over = parts.book.reconcile(finding, parts.targets.keys(), now)
        raised += new
        resolved += over
    for alert in raised:
        _logger.error("alert %d: %s", alert.alert_id, alert.condition.happened)
    for alert in resolved:
        _logger.warning("alert %d is over: %s", alert.alert_id, alert.condition.happened)
    taken, refused = deliver(parts, parts.book.claim(parts.targets.keys(), MESSAGES_PER_LOOK, now))
    return LookReport(tuple(raised), tuple(resolved), taken, refused)


def ring(parts: AlertParts, condition: Condition) -> None:
    """Put one condition into the outbox and send it now; does nothing where it rang already.

    Raises:
        PartUnavailableError: a target did not take it. The outbox has it, and a later look sends it.
    """
    now = parts.clock()
    parts.book.reconcile(Finding(conditions=[condition]), parts.targets.keys(), now)
    messages = parts.book.claim(parts.targets.keys(), MESSAGES_PER_LOOK, now, only=condition)
    _, refused = deliver(parts, messages)
    if refused:
        raise PartUnavailableError(f"{refused} of {len(messages)} targets did not take the alert")


def try_targets(parts: AlertParts) -> dict[str, str | None]:
    """Send a test and its end to every target, past the outbox; why a target did not take it, None where it did."""
    found = Condition(
        "test",
        "test",
        "this is a test: somebody asked whether alerts arrive here",
        "Nothing is wrong, and no recipient is concerned.",
        "email-platform alert list",
    )
    alert = Alert(0, found, parts.clock())
    problems: dict[str, str | None] = {}
    for name, send in parts.targets.items():
        problems[name] = None
        try:
            send(Message(0, alert, name, "raised"))
            send(Message(0, alert, name, "resolved"))
        except PartUnavailableError as problem:
            problems[name] = str(problem)
    return problems


def deliver(parts: AlertParts, messages: Sequence[Message]) -> tuple[int, int]:
    """Send what was claimed; how many were taken, and how many not."""
    taken = 0
    for message in messages:
        try:
            parts.targets[message.target](message)
        except PartUnavailableError as problem:
            _logger.warning("alert %d was not taken by %s: %s", message.alert.alert_id, message.target, problem)
            parts.book.mark_refused(message, str(problem), parts.clock())
        else:
            parts.book.mark_taken(message, parts.clock())
            taken += 1
    return taken, len(messages) - taken


def _inbox_findings(parts: AlertParts, now: datetime) -> list[Finding]:
    """Whether events are late, and by the same question whether the object store answers and takes our credential."""
    times: list[datetime | None] = []
    store = part_finding("S3", lambda: times.append(parts.facts.first_event_at()))
    return [store, *(Finding(["events_late"], events_condition(at, parts.limits, now)) for at in times)]


def part_finding(part: str, ask: Callable[[], object]) -> Finding:
    """Whether a part of the outside world answers and takes our credential."""
    try:
        ask()
    except ConfigurationError as refusal:
        found = [part_condition(part, str(refusal), refused=True)]
    except PartUnavailableError as away:
        found = [part_condition(part, str(away), refused=False)]
    else:
        found = []
    return Finding(["credential_refused", "part_away"], found, subjects=[part])
