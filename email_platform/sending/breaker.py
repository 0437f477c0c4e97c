"""Stops a chunk where the provider takes nobody, and distinguishes that from recipients whom it never takes.

Invariant: a few recipients whom the provider never takes stop nothing, and a refusal that would take everybody is
booked on nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from email_platform.errors import (
    AccountRefusedError,
    CallRejectedError,
    OneRecipientRefusedError,
    ProviderDownError,
    TooManyRejectedError,
)
from email_platform.sending.ledger import OWN_REFUSALS, AnswerCounts
from email_platform.sending.policy import RejectionLimits
from email_platform.sending.receipt import CallReceipt


class DeferralBreaker:
    """Watches for answers in a row that defer everybody.

    Args:
        calls: so many such answers in a row are enough.
        recipients: over more recipients than this, where anybody of the chunk has come to an end.
    """

    def __init__(self, calls: int, recipients: int) -> None:
        self._calls_allowed = calls
        self._recipients_allowed = recipients
        self._calls = 0
        self._recipients: set[int] = set()

    def note(self, offsets: Iterable[int], receipt: CallReceipt, *, anybody_ended: bool) -> ProviderDownError | None:
        """Take note of an answer; returns why to stop, if this is one too many."""
        if receipt.count("deferred") < len(receipt.ids):
            self._calls, self._recipients = 0, set()
            return None
        self._calls += 1
        self._recipients.update(offsets)
        takes_nobody = len(self._recipients) > self._recipients_allowed or not anybody_ended
        if self._calls < self._calls_allowed or not takes_nobody:
            return None
        last = receipt.result(len(receipt.ids) - 1)
        return ProviderDownError(
            f"the provider deferred every recipient of {self._calls} calls in a row; "
            f"the last time: {last.error_code}: {last.error_message}"
        )


class RefusalWatch:
    """Watches refusals of whole calls: are they about a recipient, or about the sender and so about everybody?

    A call that began after a refusal and was accepted shows that the sender and the account work. Moments are numbers
    that only grow, one for each beginning and each end of a call.

    How likely a row of refusals is where the sender is fine is reckoned from its single recipients: one of a call that
    was never tried is at fault with the share that stops a campaign anyhow, one of a refused call of n a n-th more.

    Attributes:
        DOUBT_CALLS: refused in a row, nobody accepted: from then on single recipients are tried before larger calls.
        STOP_CALLS, STOP_LIKELIHOOD: so many refused in a row, and so unlikely to be about recipients: it is about
            everybody.
        FEW_LIKELIHOOD: a row that is more likely than this may well be about one or two recipients.
        SINGLES_AT_ONCE: how many single recipients are tried at a time.
        SHARE: of recipients at fault, at most.
    """

    DOUBT_CALLS = 3
    STOP_CALLS = 5
    STOP_LIKELIHOOD = 0.005
    FEW_LIKELIHOOD = 0.03
    SINGLES_AT_ONCE = 3
    SHARE = 0.2

    def __init__(self) -> None:
        self._moment = 0
        self._since: int | None = None  # of the first of the refusals in a row
        self._calls = 0
        self._recipients: set[int] = set()  # of the refused calls in the row, by offset
        self._likelihood = 1.0  # that recipients are at fault, each for himself, for all refusals of the row
        self._smallest: dict[int, int] = {}  # by offset: recipients of the smallest refused call with it and others
        self._accepted_from = 0  # the latest beginning of a call that was accepted
        self._first_refused: dict[int, int] = {}  # by offset, in whichever call
        self._first_refused_alone: dict[int, int] = {}
        self._refused_beside: set[int] = set()  # offsets; in a call of which others were accepted
        self._last_error: CallRejectedError | None = None

    def begins(self) -> int:
        """A call begins; returns the moment."""
        self._moment += 1
        return self._moment

    def accepted(self, began: int, refused_beside: Collection[int] = ()) -> None:
        """A call that began at this moment was accepted, at least for some of its recipients.

        Args:
            began: the moment.
            refused_beside: recipients whom the same answer did not take, for a reason that is not known to be the
                moment's or the account's. Refused alone as well, it is their own.
        """
        self._refused_beside.update(refused_beside)
        self._accepted_from = max(self._accepted_from, began)
        if self._since is not None and began > self._since:
            self._since, self._calls, self._likelihood = None, 0, 1.0
            self._recipients = set()

    def refused(self, offsets: Collection[int], error: CallRejectedError) -> None:
        """A call over these recipients was refused as a whole; one that was too large says nothing of the sender."""
        self._moment += 1
        for offset in offsets:
            self._first_refused.setdefault(offset, self._moment)
            if len(offsets) == 1:
                self._first_refused_alone.setdefault(offset, self._moment)
        if error.blame == "size":
            return
        self._last_error = error
        self._since = self._moment if self._since is None else self._since
        self._calls += 1
        self._recipients.update(offsets)
        for offset in offsets:
            if len(offsets) > 1:
                self._smallest[offset] = min(len(offsets), self._smallest.get(offset, len(offsets)))
            elif offset in self._smallest:
                self._likelihood *= self.SHARE + (1 - self.SHARE) / self._smallest[offset]
            else:
                self._likelihood *= self.SHARE

    @property
    def is_in_doubt(self) -> bool:
        """Whether single recipients should be tried before anything larger."""
        return self._calls >= self.DOUBT_CALLS

    @property
    def singles_wanted(self) -> int:
        """How many single recipients to try at once."""
        return self.SINGLES_AT_ONCE if self.is_in_doubt else 0

    def is_proved(self, offset: int, *, is_last: bool) -> bool:
        """Whether the refusal of this recipient alone is his own.

        Args:
            offset: of a recipient who was refused alone.
            is_last: nobody else is left to try, so an acceptance since he was first refused in any call is enough.
        """
        if self._accepted_from > self._first_refused_alone.get(offset, self._moment) or offset in self._refused_beside:
            return True
        is_about_few = self._likelihood > self.FEW_LIKELIHOOD
        return is_last and is_about_few and self._accepted_from > self._first_refused.get(offset, self._moment)

    @property
    def verdict(self) -> AccountRefusedError | None:
        """Why to stop: call after call is refused and nobody is accepted."""
        if self._calls < self.STOP_CALLS or self._likelihood > self.STOP_LIKELIHOOD or self._last_error is None:
            return None
        if len(self._recipients) == 1:
            (offset,) = self._recipients
            return OneRecipientRefusedError(
                f"the provider refused the only recipient who is left {self._calls} times; "
                f"the last time: {self._last_error}",
                offset,
            )
        return AccountRefusedError(
            f"the provider refused {self._calls} calls in a row, single recipients' among them, and accepted nobody; "
            f"the last time: {self._last_error}"
        )


class RejectionBreaker:
    """Watches the share of a campaign's recipients whom the provider refuses.

    It counts from what the ledger has of this chunk and those before it when the chunk begins (`AnswerCounts`), and
    then the answers of this process.
    Who queues a campaign again has seen the counts up to then.
    """

    def __init__(self, limits: RejectionLimits) -> None:
        self._limits = limits
        self._ended = 0
        self._rejected = 0

    def begin(self, counts: AnswerCounts) -> None:
        """Count on from here."""
        self._ended, self._rejected = counts.ended, counts.refused

    def note(self, receipt: CallReceipt) -> TooManyRejectedError | None:
        """Take note of an answer; returns why to stop, if the share is above the limit."""
        refused = [one for one in receipt.others.values() if one.status == "rejected"]
        self._rejected += sum(one.error_code not in OWN_REFUSALS for one in refused)
        self._ended += len(refused) + receipt.count("accepted")
        limits = self._limits
        if self._ended < limits.minimum or self._rejected <= limits.share * self._ended:
            return None
        last = next((one for one in reversed(refused)), None)
        words = f"; the last time: {last.error_code}: {last.error_message}" if last else ""
        return TooManyRejectedError(
            f"the provider refused {self._rejected:,} of {self._ended:,} recipients "
            f"({self._rejected / self._ended:.0%}; the limit is {limits.share:.0%}){words}"
        )
