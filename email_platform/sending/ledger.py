"""The call ledger: what was intended, what is known, and what is not, one record per provider call.

Invariant: a call is made only after its intent is durable under the chunk's present lease epoch, and a
recipient's outcome is only what a durable receipt says. Everything else is derived: staged objects,
completeness, the campaign's status.

    (no record) ──intent──▶ intent ──receipt──▶ accepted | rejected            final
                   ▲           │
                   │           ├─ certainly not accepted ─▶ planned            will be tried again
                   │           └─ no answer ──────────────▶ unknown            same key again, or the policy
                   └──────────── planned, unknown (retry) ◀─┘                  unknown ─▶ accepted | abandoned

A call that was never attempted has no record: planning costs no write, so the ledger's row writes stay at
two per call (intent, receipt), 1/25 of the recipients at 50 recipients a call.

**Recipients.** A recipient in no record is in no call yet. A record names the recipients of its call: neighbours by
their first position and their number, others by offset, durable with the intent. Recipients that a finished call
deferred go, up to a full call of them at a time, into a *follow-up* call with the next free index (and so with an id of
its own); recipients that must not be mailed any more, or for whom there is no message, are left out of their call and
stand as refused in a record of their own that was never sent. A call that the provider refused as a whole, or that does
not fit any more, is *emptied*: in one commit its recipients go into calls with new ids, and its own record keeps
nobody. Of several records with a recipient the one with the highest call index counts.

**What an event proves.** An event about a message proves that the provider accepted it. Where the provider accepts
or refuses whole calls, that proves the call. Where it answers per recipient, the others may have been accepted or
refused: they stay unknown, in a receipt that lists who is proved, and only they are ever sent again by a decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from email_platform.sending.receipt import CallReceipt

CallState = Literal["planned", "intent", "accepted", "rejected", "unknown", "abandoned"]
UnknownDecision = Literal["abandon", "resend"]
Follows = Literal["deferred", "in_doubt"]
SUPPRESSED_CODE = "suppressed"
CONTENT_ERROR_CODE = "content_error"
WATCHED_CHUNKS = 20
OWN_REFUSALS = frozenset({SUPPRESSED_CODE, CONTENT_ERROR_CODE})
DEFERRED_CODE_PREFIX = "deferred:"
"""Starts the code, in reports, of a recipient whom the provider deferred again and again until the tries ran out."""
FINAL_STATES: frozenset[CallState] = frozenset({"accepted", "rejected", "abandoned"})
OPEN_STATES: frozenset[CallState] = frozenset({"planned", "intent", "unknown"})


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one chunk, until another process takes the next epoch."""

    campaign_id: int
    chunk_index: int
    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class CallIntent:
    """A call about to be made: everything needed to recognise it later.

    Attributes:
        first_position: position in the manifest of its first recipient.
        body_sha256: hash of the exact request; a retry with another hash is refused.
        offsets: its recipients' offsets within the chunk, where they are not the slice of its index.
        follows: what became of its recipients in the earlier calls whose follow-up it is: ``deferred``, and that is
            all, or ``in_doubt``: deferred after an attempt of unknown outcome; None for a first call.
        after_unknown: an earlier attempt may have been accepted, and no key that is still honoured shows whether it
            was. A recipient who is refused now may still have got the message.
        refusal: the call is not made: its recipients are refused, at once. Without recipients: those it had are in
            other calls now, and its key is never used again.
        is_planned: the call is not made yet; the record only holds whose turn it is.
        error: one line for the operator, without addresses or secrets.
    """

    call_index: int
    call_id: UUID
    first_position: int
    recipient_count: int
    body_sha256: bytes
    offsets: tuple[int, ...] | None = None
    follows: Follows | None = None
    after_unknown: bool = False
    refusal: CallReceipt | None = None
    is_planned: bool = False
    error: str | None = None

    @property
    def state(self) -> CallState:
        """The state that the intent puts its call into."""
        if self.refusal is None:
            return "planned" if self.is_planned else "intent"
        return "unknown" if self.refusal.count("unknown") else "rejected"


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What became of an attempt.

    Attributes:
        state: ``accepted``/``rejected`` with a receipt, ``planned`` (certainly not accepted) or ``unknown``.
        error: one line for the operator, without addresses or secrets.
    """

    call_index: int
    state: Literal["planned", "accepted", "rejected", "unknown"]
    receipt: CallReceipt | None = None
    error: str | None = None

    @property
    def leaves_work(self) -> bool:
        """Whether somebody is to be called after it."""
        return self.state == "planned" or (self.receipt is not None and self.receipt.count("deferred") > 0)


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One row of ``send_call``.

    Attributes:
        lease_epoch: under which the last attempt was intended.
        intent_at: when the first attempt that may have been accepted was intended; its key's age.
        receipt: the provider's answer; in ``unknown`` and ``abandoned`` what events have proved, or None.
        offsets, follows, after_unknown: as in `CallIntent`.
    """

    call_index: int
    call_id: UUID
    state: CallState
    first_position: int
    recipient_count: int
    body_sha256: bytes
    lease_epoch: int
    attempts: int
    intent_at: datetime
    receipt_at: datetime | None
    receipt: CallReceipt | None
    error: str | None
    offsets: tuple[int, ...] | None = None
    follows: Follows | None = None
    after_unknown: bool = False

    def offsets_in_chunk(self, chunk_first_position: int) -> Sequence[int]:
        """Its recipients' offsets within the chunk, in the call's order."""
        if self.offsets is not None:
            return self.offsets
        first = self.first_position - chunk_first_position
        return range(first, first + self.recipient_count)

    @property
    def unknown_count(self) -> int:
        """How many of its recipients nothing is known of, while the call has no answer."""
        return self.recipient_count if self.receipt is None else self.receipt.count("unknown")


@dataclass(frozen=True, slots=True)
class Proof:
    """What events have proved of one call that has no answer.

    Attributes:
        attempts: of the record that this was concluded from; another attempt since makes it void.
        before, receipt: the record's receipt then, and with what is proved now.
    """

    chunk_index: int
    call_index: int
    attempts: int
    before: CallReceipt | None
    receipt: CallReceipt

    @property
    def is_complete(self) -> bool:
        """Whether nobody of the call is unknown any more."""
        return not self.receipt.count("unknown")


@dataclass(frozen=True, slots=True)
class CampaignTotals:
    """Recipients of one campaign by what the ledger knows of them, and how far its chunks are.

    Attributes:
        planned: to be tried again: calls in ``planned``, and recipients deferred by a call of a chunk that is not
            finished. Deferred in a finished chunk is refused for good, or unknown after an unknown attempt.
        rejected: refused by the provider, or by us: suppressed after the audience was frozen.
        in_call: recipients of calls with an intent and no answer yet (a process is at it, or died at it).
        calls_by_state: number of calls, by state.
        chunks_finished: chunks in which every call has reached an end.
    """

    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    abandoned: int = 0
    planned: int = 0
    in_call: int = 0
    calls_by_state: Mapping[str, int] = field(default_factory=dict)
    chunks: int = 0
    chunks_finished: int = 0

    @property
    def ended(self) -> int:
        """Recipients who came to an end, known or not."""
        return self.accepted + self.rejected + self.unknown + self.abandoned

    @property
    def attempted(self) -> int:
        """Recipients whose call was made or is being made."""
        return self.ended + self.in_call


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """Recipients of one campaign with an answer since it was last queued: who queues it has seen what was before.

    Over a chunk and the `WATCHED_CHUNKS` before it, so that counting costs the same at the end of a large campaign as
    at its beginning.

    Attributes:
        ended: accepted or rejected.
        refused: of them, those whom the provider refused; not those who were left out by us.
    """

    ended: int = 0
    refused: int = 0


class CallLedger(Protocol):
    """Durable store of leases and calls. Every method is one transaction."""

    def take_lease(self, campaign_id: int, chunk_index: int, holder: str) -> Lease | None:
        """Take the next epoch of the chunk, or return None while another holder's lease is still valid."""
        ...

    def calls(self, campaign_id: int, chunk_index: int) -> Sequence[CallRecord]:
        """Every recorded call of the chunk, by call index."""
        ...

    def turn(self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]) -> frozenset[int]:
        """Record the outcomes, then the intents, in one commit; renews the lease.

        Returns the call indexes of the intents that stand. The others' calls have come to an end meanwhile, by the
        late receipt of a process that was taken over: they must not be made.

        An acceptance is recorded even by a process that has lost its lease (it is the truth whoever brings
        it); a refusal or failure counts only while no later epoch has tried. A final state is never
        overwritten. Intents need the lease and a campaign in ``sending``.

        A fenced process may say that a call was never made, or who was deferred, after its successor has held the
        call as unknown and finished the chunk: the chunk is unfinished again, so that somebody makes the call. Of a
        campaign that is not in ``sending`` any more such a call stays unknown.

        Raises:
            LeaseLostError: outcomes are recorded, intents are not.
            CampaignStoppedError: likewise, because the campaign is not in ``sending``.
        """
        ...

    def finish_chunk(self, lease: Lease) -> bool:
        """Mark the chunk finished and let the lease go; False where calls are planned again and nothing is marked.

        Raises:
            LeaseLostError: another process has taken the chunk over.
        """
        ...

    def release_lease(self, lease: Lease) -> None:
        """Let the lease go without finishing; does nothing where it is lost already."""
        ...

    def chunk_is_finished(self, campaign_id: int, chunk_index: int) -> bool:
        """Whether every call of the chunk has reached an end."""
        ...

    def totals(self, campaign_id: int) -> CampaignTotals:
        """Recipients and calls of the campaign by state."""
        ...

    def answers_since_queued(self, campaign_id: int, chunk_index: int) -> AnswerCounts:
        """How many recipients up to this chunk have an answer since the campaign was last queued."""
        ...

    def unknown_calls(self, campaign_id: int) -> Sequence[tuple[int, CallRecord]]:
        """Chunk index and record of every call without an answer that nobody is making now."""
        ...

    def campaigns_with_unknown(self) -> Sequence[int]:
        """Ids of the campaigns that have such calls."""
        ...

    def decide_unknown(self, campaign_id: int, decision: UnknownDecision, chunk_index: int | None = None) -> int:
        """Apply an operator's decision to the campaign's unknown calls (of one chunk); returns how many.

        ``abandon`` ends them; ``resend`` makes their chunks unfinished and the calls planned, and queues a campaign
        that is sent again, so that the next run sends them; of a call of which events have proved some recipients,
        only the others are sent again. Where nothing is unknown, ``resend`` still queues a sent campaign that has an
        unfinished chunk: an earlier decision may have come only half-way.
        """
        ...

    def abandoned_chunks(self, campaign_id: int) -> Sequence[int]:
        """Chunks with calls that an operator has abandoned."""
        ...

    def put_back_rejected(self, campaign_id: int, chunk_rows: int, code: str | None = None) -> int:
        """Have recipients whose refusal is certain sent to again; returns how many (see `second_chance`).

        Their chunks are unfinished then, and a campaign that is sent is queued, in the same transaction. Chunks in
        which a process is at work are left out.

        Args:
            campaign_id: which campaign.
            chunk_rows: of its manifest.
            code: only those refused with this code.
        """
        ...

    def prove(self, campaign_id: int, proofs: Iterable[Proof]) -> int:
        """Record what events have proved of calls without an answer; returns how many records changed.

        A proof is void, and left out, where the call has an answer by now, is being made, or was tried or proved
        since the proof was drawn.
        """
        ...
