"""What is known of one call's recipients, as it is kept in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from email_platform.domain.ports import RecipientResult
from email_platform.domain.texts import without_nul

UNCOUNTED_MARK = "uncounted"  # in a receipt: a deferral for the sender's or the account's sake is no try


@dataclass(frozen=True, slots=True, init=False)
class CallReceipt:
    """What is known of one call's recipients, in the call's order.

    It is the provider's answer, or what events have proved of a call without an answer. Nearly everybody is accepted,
    so an acceptance is an id and no object: reading the calls of a million recipients makes no million objects.

    Args:
        results: one for each recipient.

    Attributes:
        ids: the provider's message ids; "" for whoever was not accepted.
        others: by place in the call, in order, the results of those who were not accepted.
    """

    ids: tuple[str, ...]
    others: Mapping[int, RecipientResult]

    def __init__(self, results: Iterable[RecipientResult] = ()) -> None:
        known = tuple(results)
        self._set(
            [one.provider_message_id if one.status == "accepted" else "" for one in known],
            {place: one for place, one in enumerate(known) if one.status != "accepted"},
        )

    def _set(self, ids: Iterable[str], others: Mapping[int, RecipientResult]) -> None:
        object.__setattr__(self, "ids", tuple(ids))
        object.__setattr__(self, "others", others)

    @property
    def results(self) -> tuple[RecipientResult, ...]:
        """One result for each recipient."""
        return tuple(self.result(place) for place in range(len(self.ids)))

    def result(self, place: int) -> RecipientResult:
        """What is known of the recipient at this place of the call."""
        return self.others.get(place) or RecipientResult("accepted", self.ids[place])

    def to_json(self) -> dict[str, Any]:
        """Compact form for the ledger: ids in order ("" where there is none), and by offset who was not accepted.

        Without NUL characters: PostgreSQL's jsonb takes none, and an answer with one could never be recorded.
        """
        ids = list(self.ids)
        if "\0" in "".join(ids):
            ids = [without_nul(one) for one in ids]
        document: dict[str, Any] = {"ids": ids, "rejected": {}}
        others = {result.status for result in self.others.values()}
        for status in ("rejected", "deferred", "unknown"):
            if status in others:
                document[status] = self._with_status(status)
        return document

    def _with_status(self, status: str) -> dict[str, list[str]]:
        return {
            str(place): [
                without_nul(result.error_code),
                without_nul(result.error_message),
                *([UNCOUNTED_MARK] if result.account_refused else ()),
            ]
            for place, result in self.others.items()
            if result.status == status
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CallReceipt:
        """The inverse of `to_json`."""
        others = {}
        statuses: tuple[Literal["rejected", "deferred", "unknown"], ...] = ("rejected", "deferred", "unknown")
        for status in statuses:
            for place, (code, message, *marks) in document.get(status, {}).items():
                others[int(place)] = RecipientResult(status, "", code, message, account_refused=UNCOUNTED_MARK in marks)
        receipt = cls()
        receipt._set(document["ids"], dict(sorted(others.items())))
        return receipt

    def count(self, status: str) -> int:
        """How many recipients have this status."""
        if status == "accepted":
            return len(self.ids) - len(self.others)
        statuses: list[str] = [result.status for result in self.others.values()]
        return statuses.count(status)

    def resending_unknown(self, reason: str) -> CallReceipt:
        """The same, with the recipients of whom nothing is known deferred, so that a follow-up call sends to them."""
        return CallReceipt(
            replace(result, status="deferred", error_code="unknown", error_message=reason)
            if result.status == "unknown"
            else result
            for result in self.results
        )

    @classmethod
    def all_rejected(cls, recipient_count: int, code: str, message: str) -> CallReceipt:
        """The receipt of a call that was refused as a whole."""
        return cls([RecipientResult("rejected", "", code, message)] * recipient_count)
