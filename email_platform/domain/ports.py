"""What the domain asks of the outside world, as small Protocols; adapters and the tests' fakes fulfil them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Literal, Protocol
from uuid import UUID

from email_platform.domain.message import Skeleton
from email_platform.errors import EmailPlatformError

Clock = Callable[[], datetime]
"""Returns the present time, UTC-aware."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of the bucket: its key, size, and the store's ETag without quotes."""

    key: str
    size_bytes: int
    etag: str


class ObjectStore(Protocol):
    """A bucket. Every key is relative to it; an object appears whole or not at all."""

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        ...

    def put(self, key: str, body: bytes) -> ObjectInfo:
        """Store the body under the key, replacing what was there."""
        ...

    def writer(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write in a `with`; the object appears on a clean exit and not at all after an exception.

        Takes constant memory, whatever the size.
        """
        ...

    def get(self, key: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: no such key.
        """
        ...

    def reader(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """A seekable file that reads ranges on demand (for Parquet footers and row groups).

        Raises:
            FileNotFoundError: no such key.
        """
        ...

    def info(self, key: str) -> ObjectInfo | None:
        """Size and ETag, or None where there is no such object."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose keys start with the prefix, in key order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of a call.

    Attributes:
        message_id: of the one message that the campaign sends to the lead; a UUID as text.
        values: one per index of the call's skeleton, escaped as the place where it stands needs it.
    """

    lead_id: int
    message_id: str
    address: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BulkCall:
    """One provider call before it is encoded.

    Attributes:
        call_id: deterministic; the Idempotency-Key where the provider honours one.
        skeleton: the message that all recipients share; its holes are filled with each one's values.
        tags: short names and values for the provider's own logs and events (campaign_id …).
    """

    call_id: UUID
    campaign_id: int
    from_address: str
    from_name: str
    reply_to: str | None
    skeleton: Skeleton
    recipients: tuple[Recipient, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EncodedCall:
    """The exact request: the same BulkCall always encodes to the same bytes, so a retry can be proved equal."""

    call_id: UUID
    body: bytes
    recipient_count: int


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What is known of one recipient of a call, in the call's order.

    Attributes:
        status: ``deferred``: certainly not accepted, for a reason that is not the recipient's (throttled, a moment's
            failure): may be sent again, in another call. ``unknown`` is never a provider's word: the ledger says it
            of recipients of a call of which events have proved others.
        throttled: the deferral's reason is the account's rate.
        account_refused: the deferral's reason is the sender or the account: no other call of it can succeed, and
            the recipient is not used up by it.
    """

    status: Literal["accepted", "rejected", "deferred", "unknown"]
    provider_message_id: str = ""
    error_code: str = ""
    error_message: str = ""
    throttled: bool = field(default=False, compare=False)
    account_refused: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Fit:
    """How much of a call fits one request.

    Attributes:
        count: leading recipients that go into one request.
        problem: set only where `count` is 0: why the first recipient alone can never be sent, without his address.
    """

    count: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """What a provider allows and promises.

    Attributes:
        recipients_per_call: the most recipients of one call.
        honours_idempotency_keys: whether a repeated key with the same bytes is never accepted twice.
        idempotency_seconds: for how long after the first use the key is remembered (0 where it is not honoured).
        body_bytes: the largest request body, or None where no limit is documented.
        accepts_whole_calls: whether a call is accepted or refused as a whole (SendGrid, Mailgun), so that one
            accepted recipient proves all of them.
    """

    recipients_per_call: int
    honours_idempotency_keys: bool
    idempotency_seconds: int
    body_bytes: int | None = None
    accepts_whole_calls: bool = False


class EmailProvider(Protocol):
    """One provider account. Errors are those of `email_platform.errors.ProviderError`, classified here, once."""

    @property
    def name(self) -> str:
        """The adapter's name as in ``sender.provider``."""
        ...

    @property
    def limits(self) -> ProviderLimits:
        """What this provider allows and promises."""
        ...

    def fit(self, call: BulkCall) -> Fit:
        """How many of the call's first recipients fit one request by the limits as they are now.

        Cheap: it adds sizes up and puts no message together.

        Raises:
            InvalidTemplateError: nobody could be sent this: the sender's fields, the tags or the skeleton are at fault.
        """
        ...

    def encode(self, call: BulkCall) -> EncodedCall:
        """The request's exact bytes; deterministic. A call that fits is always encoded.

        Raises:
            InvalidTemplateError: the call does not fit (see `fit`).
        """
        ...

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        """Make the call once and return one result per recipient, in order; never retries by itself.

        Raises:
            CallThrottledError, CallNotAcceptedError: nothing was accepted; may be tried again.
            CallRejectedError: the call is refused as a whole; its `blame` says what is known of why.
            AccountRefusedError: the sender or the account cannot send; nothing was accepted.
            CallOutcomeUnknownError: may have been accepted.
        """
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


StagedKind = Literal[
    "delivery",
    "exclusion",
    "dimension_campaign",
    "dimension_app_user",
    "dimension_suppression",
    "event",
    "event_quarantine",
    "legacy_email",
]


@dataclass(frozen=True, slots=True)
class StagedObject:
    """One Parquet object waiting for, or loaded into, the warehouse.

    Attributes:
        kind: which table it belongs to.
        rows: row count of its footer.
        content_sha256: hash of the object's bytes; with the key it makes the deduplication token.
    """

    key: str
    kind: StagedKind
    rows: int
    content_sha256: str

    @property
    def deduplication_token(self) -> str:
        """Names this content of this object; a rewritten object gets another token."""
        return f"{self.key}:{self.content_sha256}"


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """What became of one object that was to be loaded.

    Attributes:
        rows: found loaded for it.
        problem: why it was set aside; None where it is loaded.
        was_held: nothing was inserted: the table held exactly its rows before.
    """

    staged: StagedObject
    rows: int
    problem: EmailPlatformError | None = None
    was_held: bool = False


class Warehouse(Protocol):
    """Bulk loads and counts in ClickHouse."""

    def load(self, staged: StagedObject) -> int:
        """Insert the object once, however often this is called; returns the rows found loaded for it.

        Raises:
            ObjectQuarantinedError: the object is corrupt or foreign.
        """
        ...

    def load_many(self, objects: Sequence[StagedObject]) -> Iterator[Sequence[LoadOutcome]]:
        """Load many objects in groups; yields the outcomes of a group as soon as they are known.

        A bad object keeps out only its own rows.

        Raises:
            ConfigurationError, PartUnavailableError: the part is away; loading everything again is safe.
        """
        ...

    def delivery_counts(self, campaign_id: int) -> Mapping[str, int]:
        """Deliveries by status for one campaign, each (campaign, lead) counted once; plus ``duplicates``."""
        ...

    def exclusion_counts(self, campaign_id: int) -> Mapping[str, int]:
        """Excluded leads by reason for one campaign."""
        ...


class SuppressionLookup(Protocol):
    """Who must not be mailed, asked again right before a call: the audience was frozen some time ago."""

    def suppressed(self, sender_id: int, lead_ids: Sequence[int], addresses: Sequence[str]) -> Mapping[int, str]:
        """Of these leads, those that nobody, or not this sender, may mail now; by lead id, with the reason.

        One statement with two index lookups a lead.

        Args:
            sender_id: whose mail it would be.
            lead_ids: of the recipients.
            addresses: theirs, in the same order, as in the manifest.
        """
        ...
