"""Decides what becomes of a call: planned, unknown, rejected or accepted, here and nowhere else.

Invariant: the result of one attempt is never taken as that of an earlier one. While an earlier attempt of the call may
have been accepted, an attempt that failed, was refused as a whole or was never made leaves the call *unknown*; only an
answer under a key that is still honoured, or an acceptance, settles it.

`judge_answer` and `judge_failure` look at an attempt's end, `never_made` and `no_answer` at attempts without one. The
`after_*` functions say what a record of the ledger becomes; both ledgers follow them (PostgreSQL's statements in bulk
say the same, and a test holds the two equal over random turns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from email_platform.domain.ports import RecipientResult
from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    CallThrottledError,
)
from email_platform.sending.ledger import (
    OPEN_STATES,
    CallIntent,
    CallOutcome,
    CallRecord,
    Proof,
    UnknownDecision,
)
from email_platform.sending.receipt import CallReceipt
from email_platform.sending.recipients import in_doubt


@dataclass(frozen=True, slots=True)
class CallHistory:
    """What is known of a call's earlier attempts when one ends.

    Attributes:
        once_unknown: one of them may have been accepted, so nothing but an answer to this one settles the call.
        after_unknown: likewise, and no key that is still honoured makes this answer the truth about all of them.
        may_repeat: asked after an attempt without an answer: whether the call may be made again all the same.
        is_proved_by_others: asked after a refusal of a single recipient: whether a call that began after he was first
            refused has been accepted, so that the sender and the account are not what is refused.
    """

    call_index: int
    recipient_count: int
    once_unknown: bool = False
    after_unknown: bool = False
    may_repeat: Callable[[], bool] = lambda: False
    is_proved_by_others: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt's end means.

    Attributes:
        then: ``end`` of the call in this step; ``again`` after a pause; ``split``: its recipients go into smaller
            calls; ``wait``: a single recipient was refused, and whether for his own sake the others will show.
        pause_seconds: what the provider asked for, beside the usual pause.
        halt: why no further call may start.
        error: the end itself where there was no answer.
    """

    outcome: CallOutcome
    then: Literal["end", "again", "split", "wait"] = "end"
    pause_seconds: float | None = None
    halt: Exception | None = None
    error: Exception | None = None


def never_made(history: CallHistory, reason: str) -> CallOutcome:
    """This attempt was certainly not accepted; an earlier one may have been, unseen."""
    return CallOutcome(history.call_index, "unknown" if history.once_unknown else "planned", error=reason)


def no_answer(call_index: int, reason: str) -> CallOutcome:
    """An attempt may have been accepted and nobody will say so."""
    return CallOutcome(call_index, "unknown", error=reason)


def judge_answer(history: CallHistory, results: Sequence[RecipientResult]) -> Verdict:
    """What an answer with one result per recipient means."""
    index = history.call_index
    if len(results) != history.recipient_count:
        short = f"{len(results)} results came for {history.recipient_count} recipients"
        return judge_failure(history, CallOutcomeUnknownError(short))
    refused = next((one for one in results if one.account_refused), None)
    halt = AccountRefusedError(f"{refused.error_code}: {refused.error_message}") if refused else None
    if history.once_unknown:  # a provider may look at the account before it looks for the key
        results = [replace(one, status="unknown") if one.account_refused else one for one in results]
    receipt = in_doubt(results) if history.after_unknown else CallReceipt(tuple(results))
    if receipt.count("unknown") == len(results):
        return Verdict(no_answer(index, "a later attempt was refused"), halt=halt)
    if receipt.count("unknown"):
        reason = "a later attempt was refused for some of its recipients"
        return Verdict(CallOutcome(index, "unknown", receipt, reason), halt=halt)
    state: Literal["accepted", "rejected"] = "accepted" if receipt.count("accepted") else "rejected"
    return Verdict(CallOutcome(index, state, receipt), halt=halt)


def judge_failure(history: CallHistory, error: Exception) -> Verdict:
    """What it means that an attempt ended with this error."""
    index = history.call_index
    match error:
        case CallThrottledError():
            return Verdict(never_made(history, str(error)), "again", error.retry_after_seconds, error=error)
        case CallNotAcceptedError():
            return Verdict(never_made(history, str(error)), "again", error=error)
        case CallRejectedError():
            return _judge_refusal(history, error)
        case AccountRefusedError():
            return Verdict(never_made(history, str(error)), halt=error)
        case CallOutcomeUnknownError():
            then: Literal["end", "again"] = "again" if history.may_repeat() else "end"
            return Verdict(no_answer(index, str(error)), then, error=error)
        case _:  # an adapter's bug: nobody knows what the provider did
            return Verdict(no_answer(index, f"{type(error).__name__} in the adapter"), halt=error)


def _judge_refusal(history: CallHistory, error: CallRejectedError) -> Verdict:
    """A refusal of the whole call is about this attempt alone: after one that may have been accepted it proves nothing.

    So such a call is not split either: its recipients would be sent to under keys that the provider has not seen.
    """
    index = history.call_index
    if history.once_unknown:
        return Verdict(no_answer(index, f"a later attempt was refused: {error}"), error=error)
    planned = never_made(history, str(error))
    if history.recipient_count > 1:
        return Verdict(planned, "split", error=error)
    if error.blame == "size" or history.is_proved_by_others():
        return Verdict(refused_for_good(history, error), error=error)
    return Verdict(planned, "wait", error=error)


def refused_for_good(history: CallHistory, error: CallRejectedError) -> CallOutcome:
    """The refusal of a single recipient is his own; unknown after an attempt that may have been accepted."""
    result = RecipientResult("rejected", "", error.code, str(error))
    receipt = in_doubt([result]) if history.after_unknown else CallReceipt((result,))
    state: Literal["unknown", "rejected"] = "unknown" if history.after_unknown else "rejected"
    return CallOutcome(history.call_index, state, receipt, str(error))


def refused_by_us(intent: CallIntent, results: Sequence[RecipientResult]) -> CallIntent:
    """The record of recipients who are left out: never sent, and refused unless an earlier attempt is in doubt."""
    receipt = in_doubt(results) if intent.after_unknown else CallReceipt(tuple(results))
    return replace(intent, refusal=receipt)


def after_intent(known: CallRecord | None, intent: CallIntent, lease_epoch: int, now: datetime) -> CallRecord | None:
    """The record once the intent is durable; None where the call has come to an end: it must not be made."""
    if known is not None and known.state not in OPEN_STATES:
        return None
    may_have_been_accepted = known is not None and known.state != "planned"
    proved = known.receipt if known else None
    return CallRecord(
        call_index=intent.call_index,
        call_id=intent.call_id,
        state=intent.state,
        first_position=intent.first_position,
        recipient_count=intent.recipient_count,
        body_sha256=intent.body_sha256,
        lease_epoch=lease_epoch,
        attempts=(known.attempts if known else 0) + (not intent.is_planned),
        # The first attempt that may have been accepted decides how long its key is trusted.
        intent_at=known.intent_at if known and may_have_been_accepted else now,
        receipt_at=now if intent.refusal is not None else known.receipt_at if known else None,
        receipt=proved
        if intent.refusal is None
        else intent.refusal,  # what events have proved of an earlier attempt stays
        error=intent.error,
        offsets=intent.offsets,
        follows=intent.follows,
        after_unknown=intent.after_unknown or (known is not None and known.after_unknown),
    )


def after_outcome(
    record: CallRecord | None, outcome: CallOutcome, lease_epoch: int, *, chunk_is_over: bool, now: datetime
) -> CallRecord | None:
    """The record once the outcome is recorded; None where it changes nothing.

    An acceptance counts whoever brings it; anything else only while no later epoch has tried, and never over an end.

    Args:
        record: the call's, as the ledger has it.
        outcome: of an attempt under ``lease_epoch``.
        lease_epoch: of the process that brings it.
        chunk_is_over: the chunk is finished and its campaign goes on no more, so nobody would make a planned call.
        now: the ledger's time.
    """
    if record is None or record.state not in OPEN_STATES:
        return None
    if outcome.state == "planned" and chunk_is_over:
        return None
    if outcome.state != "accepted" and record.lease_epoch > lease_epoch:
        return None
    return replace(
        record,
        state=outcome.state,
        receipt=outcome.receipt or record.receipt,
        receipt_at=now if outcome.receipt else record.receipt_at,
        error=outcome.error,
    )


def after_decision(record: CallRecord, decision: UnknownDecision) -> CallRecord:
    """What an operator's decision makes of a call without an answer.

    Of a call of which events have proved some recipients, only the others are sent again, in a follow-up call.
    """
    note = f"an operator decided: {decision}"
    error = f"{record.error}; {note}" if record.error else note
    if decision == "abandon":
        return replace(record, state="abandoned", error=error)
    if record.receipt is None:
        return replace(record, state="planned", after_unknown=True, error=error)
    receipt = record.receipt.resending_unknown(note)
    return replace(record, state="accepted", after_unknown=True, receipt=receipt, error=error)


def after_proof(record: CallRecord, proof: Proof, now: datetime) -> CallRecord | None:
    """The record with what events have proved; None where the record has changed since the proof was drawn."""
    if record.state not in ("intent", "unknown") or (record.attempts, record.receipt) != (proof.attempts, proof.before):
        return None
    is_complete = not proof.receipt.count("unknown")
    return replace(
        record,
        state="accepted" if is_complete else "unknown",
        receipt=proof.receipt,
        receipt_at=now,
        error=None if is_complete else "events prove a part of its recipients",
    )
