"""What a provider's answer means and whose fault it is, decided by one mechanism for every adapter.

Invariant: an answer is called *not accepted*, or a recipient's fault, only where the provider's documentation says so;
whatever is not in an adapter's table falls back to the defaults here: an unlisted 4xx is nobody's fault that we know,
an unlisted 5xx is *unknown*. Each adapter only writes a table; there is no second place where an answer is judged.

Whose fault, and what follows:

| outcome | of a whole call | of one recipient of an answered call |
| --- | --- | --- |
| RECIPIENT | CallRejectedError, blame ``recipient`` | rejected |
| UNCLEAR | blame ``unlisted`` | rejected where others of the call were accepted; else as UNLISTED |
| SIZE | blame ``size`` | as UNLISTED |
| UNLISTED | blame ``unlisted`` | deferred; where it is everybody, the whole call's |
| ACCOUNT_REFUSED | AccountRefusedError | deferred, ``account_refused``; where it is everybody, the whole call's |
| THROTTLED | CallThrottledError | deferred, ``throttled``; likewise |
| NOT_ACCEPTED | CallNotAcceptedError | deferred |
| UNKNOWN | CallOutcomeUnknownError | does not occur: an answer that says so is not read |

UNCLEAR is what the documentation lays at the call's or at a recipient's door: recipients of one call share everything
but address and values, so where another one was accepted the fault lies in those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Literal

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
    RECIPIENT = "recipient"
    UNCLEAR = "unclear"
    SIZE = "size"
    UNLISTED = "unlisted"
    ACCOUNT_REFUSED = "account_refused"
    UNKNOWN = "unknown"


DEFAULT_BY_STATUS: Mapping[int, Outcome] = {
    # A redirect is never followed: the base URL is wrong, and no call to it can succeed.
    **dict.fromkeys((300, 301, 302, 303, 307, 308), Outcome.ACCOUNT_REFUSED),
    **dict.fromkeys((401, 402, 403, 404, 405, 407), Outcome.ACCOUNT_REFUSED),
    # 408 and 425 come from proxies as well as from the provider: nobody promises that nothing was forwarded.
    **dict.fromkeys((408, 425), Outcome.UNKNOWN),
    413: Outcome.SIZE,
    429: Outcome.THROTTLED,
}
_BLAME: Mapping[Outcome, Literal["recipient", "size", "unlisted"]] = {
    Outcome.RECIPIENT: "recipient",
    Outcome.SIZE: "size",
    Outcome.UNCLEAR: "unlisted",
    Outcome.UNLISTED: "unlisted",
}
_NOBODY_KNOWS = frozenset({Outcome.UNCLEAR, Outcome.SIZE, Outcome.UNLISTED})


@dataclass(frozen=True, slots=True)
class ClassificationTable:
    """One provider's documented answers.

    Attributes:
        by_words: of some codes ("" for any), words of the message in lower case, with the outcome; consulted first, of
            a 4xx or a recipient's refusal: some providers have one code for faults of different people.
        by_code: the provider's own error code to outcome.
        by_status: HTTP status to outcome; then `DEFAULT_BY_STATUS`; then 4xx is unlisted, the rest unknown.
        by_recipient_code: per-recipient code to outcome; a code that is not listed is nobody's fault that we know.
    """

    by_words: Mapping[str, Sequence[tuple[str, Outcome]]] = field(default_factory=dict)
    by_code: Mapping[str, Outcome] = field(default_factory=dict)
    by_status: Mapping[int, Outcome] = field(default_factory=dict)
    by_recipient_code: Mapping[str, Outcome] = field(default_factory=dict)

    def outcome(self, status: int, code: str, message: str = "") -> Outcome:
        """What an unsuccessful answer with this HTTP status, provider code and message means."""
        if 400 <= status < 500 and (worded := self._worded(code, message)) is not None:
            return worded
        if code in self.by_code:
            return self.by_code[code]
        if status in self.by_status:
            return self.by_status[status]
        if status in DEFAULT_BY_STATUS:
            return DEFAULT_BY_STATUS[status]
        return Outcome.UNLISTED if 400 <= status < 500 else Outcome.UNKNOWN

    def recipient_outcome(self, code: str, message: str) -> Outcome:
        """What the refusal of one recipient of an answered call means."""
        worded = self._worded(code, message)
        return worded or self.by_recipient_code.get(code, Outcome.UNLISTED)

    def _worded(self, code: str, message: str) -> Outcome | None:
        lowered = message.lower()
        candidates = (*self.by_words.get(code, ()), *(self.by_words.get("", ()) if code else ()))
        return next((outcome for words, outcome in candidates if words in lowered), None)


def provider_error(
    outcome: Outcome,
    message: str,
    *,
    code: str,
    retry_after_seconds: float | None = None,
    culprits: frozenset[int] = frozenset(),
) -> ProviderError:
    """The exception that says this outcome; the caller raises it."""
    match outcome:
        case Outcome.THROTTLED:
            return CallThrottledError(message, retry_after_seconds)
        case Outcome.NOT_ACCEPTED:
            return CallNotAcceptedError(message)
        case Outcome.RECIPIENT | Outcome.UNCLEAR | Outcome.SIZE | Outcome.UNLISTED:
            return CallRejectedError(
                message, code, _BLAME[outcome], culprits if outcome is Outcome.RECIPIENT else frozenset()
            )
        case Outcome.ACCOUNT_REFUSED:
            return AccountRefusedError(message)
        case Outcome.UNKNOWN:
            return CallOutcomeUnknownError(message)


def settle(
    provider: str, results: Sequence[RecipientResult], table: ClassificationTable
) -> tuple[RecipientResult, ...]:
    """Return the results of a call that was answered per recipient, or raise where it was refused as a whole.

    ``rejected`` stays only on whom the documentation blames, or whom it may blame while others of the same call were
    accepted. Everybody else who was not accepted is ``deferred``: SES accepts 40 of 50 and answers
    ``ACCOUNT_THROTTLED`` for ten, and the ten may be sent again, in another call. A call of which nobody was accepted
    and nobody is to blame is the same as a call refused by its status.

    Raises:
        AccountRefusedError, CallThrottledError, CallRejectedError: in this order of precedence.
    """
    outcomes = [
        None if result.status == "accepted" else table.recipient_outcome(result.error_code, result.error_message)
        for result in results
    ]
    found = set(outcomes)
    if results and not found & {None, Outcome.RECIPIENT}:
        if Outcome.ACCOUNT_REFUSED in found:
            raise _of_everybody(provider, Outcome.ACCOUNT_REFUSED, results, outcomes)
        if Outcome.THROTTLED in found:
            raise _of_everybody(provider, Outcome.THROTTLED, results, outcomes)
        if found <= _NOBODY_KNOWS:
            raise _of_everybody(provider, Outcome.UNLISTED, results, outcomes)
    return tuple(
        result if outcome is None else _judged(result, outcome, others_accepted=None in found)
        for result, outcome in zip(results, outcomes, strict=True)
    )


def _of_everybody(
    provider: str, outcome: Outcome, results: Sequence[RecipientResult], outcomes: Sequence[Outcome | None]
) -> ProviderError:
    first = results[outcomes.index(outcome)] if outcome in outcomes else results[0]
    words = f"{provider}: nobody of the call was accepted; {first.error_code}: {first.error_message}"
    if outcome is Outcome.UNLISTED and len(results) == 1:
        words = first.error_message  # may be booked on this recipient: the provider's own words and nothing else
    return provider_error(outcome, words, code=first.error_code)


def _judged(result: RecipientResult, outcome: Outcome, *, others_accepted: bool) -> RecipientResult:
    if outcome is Outcome.RECIPIENT or (outcome is Outcome.UNCLEAR and others_accepted):
        return result
    return replace(
        result,
        status="deferred",
        throttled=outcome is Outcome.THROTTLED,
        account_refused=outcome is Outcome.ACCOUNT_REFUSED,
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
