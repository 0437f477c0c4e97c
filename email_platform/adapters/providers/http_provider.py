"""What the adapters over HTTP have in common: encode with checks, one call, one classification.

Invariant: `send` hands the encoded bytes to `post_once` exactly once and unchanged, and answers with exactly one
result per recipient or raises; a success that cannot be read is *unknown*, because the provider has accepted it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
import orjson

from email_platform.adapters.providers.call_plan import CallPlan, FittingEncoder
from email_platform.adapters.providers.classification import (
    ClassificationTable,
    provider_error,
    quoted,
    retry_after_seconds,
    settle,
)
from email_platform.adapters.providers.http_status import note_http_status
from email_platform.adapters.providers.http_transport import CallTimeouts, HttpAnswer, post_once
from email_platform.domain.ports import BulkCall, EncodedCall, Fit, ProviderLimits, RecipientResult
from email_platform.errors import CallOutcomeUnknownError, InvalidTemplateError

USER_AGENT = "email-platform"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an unsuccessful answer says in the provider's own words.

    Attributes:
        code: the provider's error code, or empty where it has none.
        retry_after_seconds: where the provider says it elsewhere than in ``Retry-After``.
        culprits: positions of the recipients whom the answer names as the only ones at fault.
    """

    code: str
    message: str
    retry_after_seconds: float | None = None
    culprits: frozenset[int] = frozenset()


class UnreadableAnswerError(Exception):
    """A success whose body breaks the documented form; never leaves this package."""


class HttpProvider(ABC):
    """An `EmailProvider` over one HTTP endpoint; a subclass says how to write and how to read."""

    name: ClassVar[str]
    table: ClassVar[ClassificationTable]
    success_statuses: ClassVar[frozenset[int]] = frozenset({200})

    def __init__(
        self,
        *,
        url: str,
        limits: ProviderLimits,
        secret: str,
        timeouts: CallTimeouts,
        transport: httpx.AsyncBaseTransport,
    ) -> None:
        self._url = url
        self._limits = limits
        self._secret = secret
        self._timeouts = timeouts
        self._transport = transport
        self._encoder = FittingEncoder(self._plan)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self._url!r}, limits={self._limits!r})"

    @property
    def limits(self) -> ProviderLimits:
        """What this provider allows and promises."""
        return self._limits

    def fit(self, call: BulkCall) -> Fit:
        """How many of the call's first recipients fit one request; see `fit_plan`.

        Raises:
            InvalidTemplateError: nobody could be sent this.
        """
        return self._encoder.fit(call, self._limits)

    def encode(self, call: BulkCall) -> EncodedCall:
        """The request's exact bytes; the same call always gives the same bytes.

        Raises:
            InvalidTemplateError: the call breaks one of the provider's limits or a header rule.
        """
        return self._encoder.encode(call, self._limits)

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        """Make the call once and return one result per recipient, in order.

        The caller must not cancel the task that awaits this; see `http_transport`, "Cancelling".

        Raises:
            CallThrottledError, CallNotAcceptedError: nothing was accepted; may be tried again.
            CallRejectedError: refused as a whole; `blame` says what is known of why.
            AccountRefusedError: the sender or the account cannot send.
            CallOutcomeUnknownError: may have been accepted.
        """
        answer = await post_once(
            self._transport,
            self._url,
            body=call.body,
            headers={"user-agent": USER_AGENT, "accept": "application/json", **self._headers(call)},
            provider=self.name,
            timeouts=self._timeouts,
        )
        note_http_status(answer.status)
        if answer.status not in self.success_statuses:
            refusal = self._refusal(answer)
            outcome = self.table.outcome(answer.status, refusal.code, refusal.message)
            waits = (refusal.retry_after_seconds, retry_after_seconds(answer.headers))
            named = f"HTTP {answer.status}" + (f" ({quoted(refusal.code)})" if refusal.code else "")
            raise provider_error(
                outcome,
                f"{self.name}: {named}: {quoted(refusal.message, self._secret)}",
                code=refusal.code or str(answer.status),
                retry_after_seconds=next((wait for wait in waits if wait is not None), None),
                culprits=refusal.culprits,
            )
        try:
            results = self._results(answer, call.recipient_count)
        except (UnreadableAnswerError, KeyError, TypeError, ValueError, AttributeError) as broken:
            raise CallOutcomeUnknownError(
                f"{self.name}: HTTP {answer.status} with an answer that cannot be read ({broken}): "
                f"{quoted(answer.body[:2000].decode(errors='replace'), self._secret)}"
            ) from broken
        return settle(self.name, results, self.table)

    async def aclose(self) -> None:
        """Close connections; calls in flight are cut and become unknown."""
        await self._transport.aclose()

    def accepted(self, provider_message_id: str) -> RecipientResult:
        """A recipient that was accepted."""
        return RecipientResult("accepted", provider_message_id=provider_message_id)

    def rejected(self, code: str, message: str) -> RecipientResult:
        """A recipient that was refused."""
        return RecipientResult("rejected", error_code=code, error_message=quoted(message, self._secret))

    @abstractmethod
    def _plan(self, call: BulkCall) -> CallPlan:
        """How the provider writes the call."""

    @abstractmethod
    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        """Credentials, content type and idempotency key."""

    @abstractmethod
    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        """One result per recipient; raises `UnreadableAnswerError` (or a lookup error) where it cannot."""

    @abstractmethod
    def _refusal(self, answer: HttpAnswer) -> Refusal:
        """The provider's own words; must not raise, since a proxy may answer with anything."""


def json_bytes(document: object) -> bytes:
    """The document as JSON with sorted keys: equal documents give equal bytes.

    Raises:
        InvalidTemplateError: a text holds half a surrogate pair, which has no UTF-8 form.
    """
    try:
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except TypeError as unencodable:
        raise InvalidTemplateError(f"the content cannot be encoded as JSON: {unencodable}") from unencodable


def json_document(body: bytes) -> dict[str, Any]:
    """The answer's JSON object, or an empty one where it is anything else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def required_list(value: object, count: int, what: str) -> list[Any]:
    """The value as a list of exactly this many entries.

    Raises:
        UnreadableAnswerError: it is anything else.
    """
    if not isinstance(value, list) or len(value) != count:
        found = f"{len(value)} entries" if isinstance(value, list) else type(value).__name__
        raise UnreadableAnswerError(f"{what}: expected {count} entries, found {found}")
    return value


def required_text(value: object, what: str) -> str:
    """The value as a non-empty string.

    Raises:
        UnreadableAnswerError: it is anything else.
    """
    if not isinstance(value, str) or not value:
        raise UnreadableAnswerError(f"{what}: expected a text")
    return value


def answer_text(answer: HttpAnswer) -> str:
    """The beginning of the answer's body as text, for an error's message."""
    return answer.body[:2000].decode(errors="replace")
