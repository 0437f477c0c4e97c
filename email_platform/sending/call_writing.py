"""Turns calls that are due into exact requests, without the recipients whom they must not or cannot reach.

Invariant: a call that may have been accepted is written with the same recipients and the same bytes or not at all;
any other is written for those who may be mailed at this moment and who fit one request by the limits of this moment.
Nobody's content keeps anybody else from being mailed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from uuid import UUID

from email_platform.domain.campaigns import OnUnknown
from email_platform.domain.ports import BulkCall, EmailProvider, EncodedCall, Recipient, RecipientResult
from email_platform.errors import InvalidTemplateError
from email_platform.sending.call_outcome import no_answer
from email_platform.sending.call_queue import Attempt
from email_platform.sending.chunk_plan import ChunkPlan
from email_platform.sending.ledger import CallIntent, CallOutcome
from email_platform.sending.recipients import content_error_result, left_out_result
from email_platform.sending.runtime import Runtime


@dataclass(frozen=True, slots=True)
class RenderedCall:
    """A call as its content allows it.

    Attributes:
        call: over those recipients for whom there is a message, in the order asked for.
        problems: why there is none, of the others, by offset.
    """

    call: BulkCall
    problems: Mapping[int, str] = field(default_factory=dict)


RenderCall = Callable[[UUID, Sequence[int]], RenderedCall]
"""Renders the call with this id over the recipients at these offsets within the chunk."""

Screen = Callable[[Sequence[int]], Mapping[int, str]]
"""Says which of the recipients at these offsets must not be mailed any more, and why."""


@dataclass(frozen=True, slots=True)
class Mailing:
    """What calls are made of and with.

    Attributes:
        render: deterministic.
        screen: asked once per batch of calls about to start; None where nobody can be suppressed.
    """

    provider: EmailProvider
    render: RenderCall
    screen: Screen | None = None


@dataclass(slots=True)
class WrittenCalls:
    """Calls about to start.

    Attributes:
        starting: with an intent and the request of each, by call index.
        records: to be written in the same commit: recipients who are left out or wait for a later call.
        planned: further calls that these records hold.
        outcomes: of calls that cannot be repeated after all.
    """

    starting: list[Attempt] = field(default_factory=list)
    intents: list[CallIntent] = field(default_factory=list)
    encoded: dict[int, EncodedCall] = field(default_factory=dict)
    records: list[CallIntent] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)
    outcomes: list[CallOutcome] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.intents or self.records)


class CallSize:
    """How many recipients the next calls should have: as many as the last ones had room for, and a few more to try.

    Attributes:
        most: the largest call that the provider is known to take; at first what its limits say.
        rows: for the next call.
    """

    GROWTH = 1.25

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows = most

    def note_fit(self, wanted: int, fitting: int) -> None:
        """So many of those wanted had room."""
        if fitting < wanted:
            self.rows = max(1, fitting)
        elif fitting >= self.rows:
            self.rows = min(self.most, int(self.rows * self.GROWTH) + 1)

    def groups(self, offsets: Sequence[int]) -> list[Sequence[int]]:
        """These recipients in groups of at most `most`."""
        return [offsets[first : first + self.most] for first in range(0, len(offsets), self.most)]

    def too_large(self, rows: int) -> None:
        """The provider found a call of so many too large."""
        self.most = min(self.most, max(1, rows // 2))
        self.rows = min(self.rows, self.most)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A call written ahead, for these recipients if all of them may be mailed: the same that `_write` would write."""

    offsets: list[int]
    encoded: EncodedCall


class CallWriter:
    """Writes the calls of one chunk.

    While the database works (on a commit, or on the question who is suppressed), calls are written ahead (`prepare`).
    A draft is used only for exactly its recipients; whether they may be mailed is asked when the call is written.
    """

    def __init__(
        self, plan: ChunkPlan, mailing: Mailing, size: CallSize, on_unknown: OnUnknown, runtime: Runtime
    ) -> None:
        self._plan = plan
        self._mailing = mailing
        self._size = size
        self._on_unknown = on_unknown
        self._runtime = runtime
        self._drafts: dict[int, _Draft] = {}

    def prepare(self, call_indexes: Iterable[int]) -> None:
        """Write these calls ahead, as far as nothing speaks against it; changes nothing that anybody can see."""
        for index in call_indexes:
            offsets = list(self._plan.call(index).offsets)
            if index in self._drafts or not offsets or not self._plan.is_free(index) or len(offsets) > self._size.rows:
                continue
            try:
                rendered = self._mailing.render(self._plan.call_id(index), offsets)
                if not rendered.problems and self._mailing.provider.fit(rendered.call).count == len(offsets):
                    self._drafts[index] = _Draft(offsets, self._mailing.provider.encode(rendered.call))
            except Exception:  # a commit may be on its way: it is raised when the call is written, and dealt with there
                return

    async def write(self, due: Sequence[Attempt]) -> WrittenCalls:
        """The calls as they go out now, and the records of everybody else of theirs.

        Raises:
            InvalidTemplateError: nobody could be sent this content.
        """
        written = WrittenCalls()
        asking = asyncio.ensure_future(self._suppressed(due))
        await asyncio.sleep(0)  # the question is on its way
        self.prepare(attempt.call_index for attempt in due)
        suppressed = await asking
        for attempt in due:
            if self._plan.may_change(attempt.call_index):
                self._write(attempt, suppressed, written)
            else:
                self._repeat(attempt, written)
        return written

    async def _suppressed(self, due: Sequence[Attempt]) -> Mapping[int, RecipientResult]:
        fresh = sorted(attempt.call_index for attempt in due if self._plan.may_change(attempt.call_index))
        offsets = [offset for index in fresh for offset in self._plan.call(index).offsets]
        if self._mailing.screen is None or not offsets:
            return {}
        reasons = await self._runtime.blocking(self._mailing.screen, offsets)
        return {offset: left_out_result(reason) for offset, reason in reasons.items()}

    def _write(self, attempt: Attempt, suppressed: Mapping[int, RecipientResult], written: WrittenCalls) -> None:
        index = attempt.call_index
        offsets = self._plan.call(index).offsets
        left_out = {offset: suppressed[offset] for offset in offsets if offset in suppressed}
        mailable = [offset for offset in offsets if offset not in left_out]
        call: BulkCall | None = None
        keep: list[int] = []
        draft = self._drafts.pop(index, None)
        if draft is not None and draft.offsets == mailable == list(offsets):
            self._size.note_fit(len(mailable), len(mailable))
            sha = sha256(draft.encoded.body).digest()
            self._start(attempt, self._plan.intent(index, sha), draft.encoded, written)
            return
        if mailable:
            rendered = self._mailing.render(self._plan.call_id(index), mailable)
            left_out |= {offset: content_error_result(reason) for offset, reason in rendered.problems.items()}
            keep = [offset for offset in mailable if offset not in rendered.problems]
            call, keep = self._fitting(rendered.call, keep, left_out)
        rewrite = self._plan.recut(index, frozenset(keep), left_out)
        written.records += rewrite.records
        written.planned += rewrite.planned
        if rewrite.sending is None or call is None:
            return
        call = replace(call, call_id=self._plan.call_id(rewrite.sending))
        encoded = self._mailing.provider.encode(call)
        sending = Attempt(attempt.start_at_seconds, rewrite.sending, attempt.number)
        self._start(sending, self._plan.intent(rewrite.sending, sha256(encoded.body).digest()), encoded, written)

    def _fitting(
        self, call: BulkCall, offsets: list[int], left_out: dict[int, RecipientResult]
    ) -> tuple[BulkCall, list[int]]:
        """The first recipients as far as they fit one request; a recipient who can never fit is left out."""
        provider = self._mailing.provider
        kept: list[tuple[int, Recipient]] = list(zip(offsets, call.recipients, strict=True))
        wanted = len(kept)
        while kept:
            fit = provider.fit(replace(call, recipients=tuple(one for _, one in kept)))
            if fit.count >= len(kept):
                break
            alone = provider.fit(replace(call, recipients=(kept[fit.count][1],))) if fit.count else fit
            if alone.count == 0:  # the first without room would have none in any call: the others are tried without him
                offset, _ = kept.pop(fit.count)
                left_out[offset] = content_error_result(alone.problem or "the message fits no call of the provider")
                wanted -= 1
                continue
            kept = kept[: fit.count]
        self._size.note_fit(wanted, len(kept))
        return replace(call, recipients=tuple(one for _, one in kept)), [offset for offset, _ in kept]

    def _repeat(self, attempt: Attempt, written: WrittenCalls) -> None:
        """Write a call that may have been accepted, as it was."""
        index = attempt.call_index
        rendered = self._mailing.render(self._plan.call_id(index), self._plan.call(index).offsets)
        encoded: EncodedCall | None = None
        if not rendered.problems:
            try:
                encoded = self._mailing.provider.encode(rendered.call)
            except InvalidTemplateError as unfit:  # by limits that have changed since
                written.outcomes.append(no_answer(index, f"held: the request cannot be made any more: {unfit}"))
                return
        record = self._plan.record(index)
        digest = None if encoded is None else sha256(encoded.body).digest()
        is_changed = record is not None and record.body_sha256 != digest
        if encoded is None or digest is None or (is_changed and self._on_unknown == "hold"):
            reason = "held: the request's bytes differ from the first attempt's, so its key proves nothing"
            written.outcomes.append(no_answer(index, reason))
            return
        self._start(attempt, self._plan.intent(index, digest), encoded, written)

    @staticmethod
    def _start(attempt: Attempt, intent: CallIntent, encoded: EncodedCall, written: WrittenCalls) -> None:
        written.starting.append(attempt)
        written.intents.append(intent)
        written.encoded[attempt.call_index] = encoded
