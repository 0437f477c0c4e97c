"""Who must not be mailed any more, from events, from the unsubscribe page and by hand.

Invariant: every hard bounce, complaint and unsubscription becomes a suppression, once; asking twice changes
nothing. Soft bounces suppress nobody.

Scope: a dead address and a complaint count for every sender; an unsubscription for the sender of its
campaign, and for every sender where the campaign is not known: rather too few mails than one unwanted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, get_args

from email_platform.events.event import Event

SuppressionReason = Literal["hard_bounce", "complaint", "unsubscribe", "manual"]
SUPPRESSION_REASONS: tuple[SuppressionReason, ...] = get_args(SuppressionReason)
CSV_COLUMNS = ("address", "sender_id", "reason", "source", "created_at")
MAXIMUM_ADDRESS_CHARACTERS = 320
_FORMULA_STARTS = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True)
class SuppressionRequest:
    """One address to suppress; idempotent.

    Attributes:
        address: lower case and trimmed; empty where the lead's present address is meant.
        source: where it comes from: ``ses/default``, ``one_click``, ``import`` ...
        everywhere: for every sender; else for `sender_id`, or else for the sender of `campaign_id`.
    """

    address: str
    reason: SuppressionReason
    source: str
    everywhere: bool
    lead_id: int = 0
    sender_id: int = 0
    campaign_id: int = 0


@dataclass(frozen=True, slots=True)
class Suppression:
    """One row of ``suppression``; sender_id None means every sender."""

    address: str
    sender_id: int | None
    reason: SuppressionReason
    source: str
    created_at: datetime


class SuppressionStore(Protocol):
    """The table ``suppression``."""

    def add(self, requests: Iterable[SuppressionRequest]) -> int:
        """Suppress, in one transaction; returns how many rows are new."""
        ...

    def all(self) -> Iterator[Suppression]:
        """Every suppression, by address, streamed."""
        ...


def normalised_address(address: str) -> str:
    """As the table holds it: trimmed, lower case."""
    return address.strip().lower()


def suppressions_from(events: Iterable[Event]) -> list[SuppressionRequest]:
    """What the events ask to suppress, each request once, in order."""
    requests: dict[SuppressionRequest, None] = {}
    for event in events:
        reason = _reason(event)
        address = normalised_address(event.recipient)
        lead_id, sender_id = _ids_of_page(event)
        if reason is None or (not address and not lead_id):
            continue
        everywhere = reason != "unsubscribe"
        requests[
            SuppressionRequest(
                address=address,
                reason=reason,
                source="one_click" if lead_id else f"{event.provider}/{event.account}",
                everywhere=everywhere,
                lead_id=lead_id,
                sender_id=sender_id,
                campaign_id=0 if everywhere else event.campaign_id,
            )
        ] = None
    return list(requests)


def _reason(event: Event) -> SuppressionReason | None:
    if event.type == "bounced":
        return "hard_bounce" if event.subtype == "hard" else None
    if event.type == "complained":
        return "complaint"
    return "unsubscribe" if event.type == "unsubscribed" else None


def _ids_of_page(event: Event) -> tuple[int, int]:
    """Lead and sender of an event of our own unsubscribe page, which knows no address; else zeros."""
    if event.provider != "platform":
        return 0, 0
    lead, _, sender = event.provider_message_id.partition(":")
    return int(lead), int(sender)


def export_csv(suppressions: Iterable[Suppression]) -> Iterator[str]:
    """The lines of a CSV file with a header, in `CSV_COLUMNS`; an empty sender_id means every sender."""
    yield _csv_line(CSV_COLUMNS)
    for one in suppressions:
        sender_id = "" if one.sender_id is None else str(one.sender_id)
        yield _csv_line((one.address, sender_id, one.reason, one.source, one.created_at.isoformat()))


def _csv_line(values: Iterable[str]) -> str:
    buffer = io.StringIO()
    # A spreadsheet would run a cell that begins with one of these.
    csv.writer(buffer, lineterminator="\n").writerow(
        [f"'{value}" if value.startswith(_FORMULA_STARTS) else value for value in values]
    )
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class CsvProblem:
    """A line of an import that was left out; the line's number counts from 1, the header included."""

    line: int
    problem: str


def parse_csv(lines: Iterable[str]) -> Iterator[SuppressionRequest | CsvProblem]:
    """The requests of a CSV file whose header names at least ``address``; one bad line stops no other.

    Missing columns mean: every sender, reason ``manual``, source ``import``.

    Raises:
        ValueError: the header does not name ``address``.
    """
    reader = csv.DictReader(lines)
    if "address" not in (reader.fieldnames or ()):
        raise ValueError("the first line must name the columns, among them address")
    for row in reader:
        cell = row.get("address") or ""
        address = normalised_address(cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULA_STARTS) else cell)
        sender = (row.get("sender_id") or "").strip()
        reason = next(
            (known for known in SUPPRESSION_REASONS if known == (row.get("reason") or "manual").strip()), None
        )
        if "@" not in address or len(address) > MAXIMUM_ADDRESS_CHARACTERS or any(one.isspace() for one in address):
            yield CsvProblem(reader.line_num, "no address")
        elif sender and not (sender.isascii() and sender.isdigit() and len(sender) <= 18):
            yield CsvProblem(reader.line_num, "sender_id is no number")
        elif reason is None:
            yield CsvProblem(reader.line_num, f"reason is none of {', '.join(SUPPRESSION_REASONS)}")
        else:
            yield SuppressionRequest(
                address=address,
                reason=reason,
                source=(row.get("source") or "import").strip()[:100],
                everywhere=not sender,
                sender_id=int(sender or 0),
            )
