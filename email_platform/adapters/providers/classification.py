"""What a provider's answer means, decided by one mechanism for every adapter.

Invariant: an answer is called *not accepted* or *rejected* only where the provider's documentation says so;
whatever is not in an adapter's table falls back to the defaults here, and an unlisted 5xx is *unknown*.
Each adapter only writes a table; there is no second place where an answer is judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum

from email_platform.domain.ports import RecipientResult
from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    CallThrottledError,
    ProviderError,
)

MAXIMUM_QUOTED_CHARACTERS = 200
_ADDRESS = re.compile(r"[^\s@<>\"'(),;:\[\]{}=]+@[^\s@<>\"'(),;:\[\]{}=]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]+")


class Outcome(StrEnum):
    """What became of a call; each has its subclass of `ProviderError`."""

    THROTTLED = "throttled"
    NOT_ACCEPTED = "not_accepted"
    REJECTED = "rejected"
    ACCOUNT_REFUSED = "account_refused"
    UNKNOWN = "unknown"


DEFAULT_BY_STATUS: Mapping[int, Outcome] = {
    # A redirect is never followed: the base URL is wrong, and no call to it can succeed.
    **dict.fromkeys((300, 301, 302, 303, 307, 308), Outcome.ACCOUNT_REFUSED),
    **dict.fromkeys((401, 402, 403, 404, 405, 407), Outcome.ACCOUNT_REFUSED),
    # 408 and 425 come from proxies as well as from the provider: nobody promises that nothing was forwarded.
    **dict.fromkeys((408, 425), Outcome.UNKNOWN),
    429: Outcome.THROTTLED,
}


@dataclass(frozen=True, slots=True)
class ClassificationTable:
    """One provider's documented answers.

    Attributes:
        by_code: the provider's own error code to outcome; consulted first.
        by_status: HTTP status to outcome; then `DEFAULT_BY_STATUS`; then 4xx is rejected, the rest unknown.
        by_recipient_code: per-recipient code to outcome; a code that is not listed refuses that recipient
            for good.
    """

    by_code: Mapping[str, Outcome] = field(default_factory=dict)
    by_status: Mapping[int, Outcome] = field(default_factory=dict)
    by_recipient_code: Mapping[str, Outcome] = field(default_factory=dict)

    def outcome(self, status: int, code: str) -> Outcome:
        """What an unsuccessful answer with this HTTP status and provider code means."""
        if code in self.by_code:
            return self.by_code[code]
        if status in self.by_status:
            return self.by_status[status]
        if status in DEFAULT_BY_STATUS:
            return DEFAULT_BY_STATUS[status]
        return Outcome.REJECTED if 400 <= status < 500 else Outcome.UNKNOWN


def provider_error(
    outcome: Outcome, message: str, *, code: str, retry_after_seconds: float | None = None
) -> ProviderError:
    """The exception that says this outcome; the caller raises it."""
    match outcome:
        case Outcome.THROTTLED:
            return CallThrottledError(message, retry_after_seconds)
        case Outcome.NOT_ACCEPTED:
            return CallNotAcceptedError(message)
        case Outcome.REJECTED:
            return CallRejectedError(message, code)
        case Outcome.ACCOUNT_REFUSED:
            return AccountRefusedError(message)
        case Outcome.UNKNOWN:
            return CallOutcomeUnknownError(message)


def settle(
    provider: str, results: Sequence[RecipientResult], table: ClassificationTable
) -> tuple[RecipientResult, ...]:
    """Return the results of a call that was answered per recipient, or raise where it was refused as a whole.

    A call of which every recipient is refused for the account's sake is the same as a call refused by its status:
    nothing was accepted. Otherwise recipients who are refused for the account's or the moment's sake are
    ``deferred``: SES accepts 40 of 50 and answers ``ACCOUNT_THROTTLED`` for ten, and the ten may be sent again, in
    another call.

    Raises:
        AccountRefusedError, CallThrottledError: as said, in this order of precedence.
    """
    outcomes = [
        None if result.status == "accepted" else table.by_recipient_code.get(result.error_code) for result in results
    ]
    if results and all(outcomes):
        for outcome in (Outcome.ACCOUNT_REFUSED, Outcome.THROTTLED):
            if outcome in outcomes:
                first = results[outcomes.index(outcome)]
                raise provider_error(
                    outcome,
                    f"{provider}: every recipient refused with {first.error_code}: {first.error_message}",
                    code=first.error_code,
                )
    return tuple(
        result if outcome is None else replace(result, status="deferred", throttled=outcome is Outcome.THROTTLED)
        for result, outcome in zip(results, outcomes, strict=True)
    )


def quoted(text: str, *secrets: str) -> str:
    """The text fit for an error or a log: one line, no addresses, none of the secrets, at most 200 characters."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "<secret>")
    # Cut before the patterns run: a provider's HTML error page can be megabytes.
    text = _UNPRINTABLE.sub(" ", text[: 10 * MAXIMUM_QUOTED_CHARACTERS]).strip()
    text = _ADDRESS.sub("<address>", text)
    if len(text) > MAXIMUM_QUOTED_CHARACTERS:
        text = text[: MAXIMUM_QUOTED_CHARACTERS - 1] + "…"
    return text


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait that ``Retry-After`` asks for, in seconds, or None.

    A date is compared with the answer's own ``Date``, so that neither clock skew nor a clock matters
    (RFC 9110, section 10.2.3).
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    seconds = non_negative_number(value)
    if seconds is not None:
        return seconds
    try:
        asked_at = parsedate_to_datetime(value)
        answered_at = parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (asked_at - answered_at).total_seconds())
    except (TypeError, ValueError):
        return None


def seconds_until_epoch(value: str, headers: Mapping[str, str]) -> float | None:
    """Seconds from the answer's ``Date`` to a Unix time given as text (``X-RateLimit-Reset``), or None."""
    until = non_negative_number(value)
    if until is None:
        return None
    try:
        return max(0.0, until - parsedate_to_datetime(headers.get("date", "")).timestamp())
    except (TypeError, ValueError):
        return None


def non_negative_number(value: object) -> float | None:
    """The value as a finite float of at least 0, or None where it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0.0 <= number < float("inf") else None
