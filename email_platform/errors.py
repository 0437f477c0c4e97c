"""Every error this platform raises on purpose, in one tree.

EmailPlatformError
├── ConfigurationError          the operator must change a setting; retrying cannot help
│   └── PortTakenError          another process listens where an embedded part should
├── PartUnavailableError        a part (PostgreSQL, S3, ClickHouse, provider) did not answer in time
├── CommandRefusedError         a command cannot do what the operator asked of it; the message says why
│   ├── ConflictError           somebody else changed it, or its state does not allow it; look again, then decide
│   └── IdempotencyKeyReusedError   one key of the HTTP API's caller names two different requests
├── InvalidConditionError       a campaign's audience condition breaks the grammar (path and mend inside)
├── InvalidTemplateError        a campaign's content cannot be rendered for anybody
│   └── RenderingEndedError     the process that renders it ended: by its limits, or by chance
├── CampaignNotFoundError       the campaign's row is gone (deleted in flight, or never there)
├── IllegalTransitionError      the campaign's state machine does not allow this change
├── CampaignStoppedError        the campaign was paused, cancelled or failed while its chunks were sending
│   ├── ContentHeldError        too many of its recipients cannot be rendered; paused before the first call
│   └── CampaignArchivedError   it ended long ago and its ledger is in the bucket; restore it first
├── TooManyRejectedError        the provider refuses more recipients than the settings allow: pause the campaign
├── LeaseLostError              another process took this chunk over: stop sending at once
├── AccountingError             two counts that must be equal are not
├── ObjectQuarantinedError      a staged object is corrupt or foreign and was set aside
├── LegacySourceError           the old email table is not as the import knows it; the message names columns or ids
├── WebhookRefusedError         a webhook is not proved to come from its provider account; nothing of it is kept
├── MalformedEventError         a proved webhook's body cannot be read: quarantine (path inside, never a value)
└── ProviderError               one call's outcome; transient or permanent is decided in the adapter, once
    ├── CallThrottledError      not accepted, try again after `retry_after_seconds`
    ├── CallNotAcceptedError    certainly not accepted (connection refused, 503 before the body): transient
    ├── CallRejectedError       certainly refused as a whole; `blame`: a recipient, the size, or nobody knows
    ├── AccountRefusedError     the sender or the account is refused: pause the campaign, book it on nobody
    └── CallOutcomeUnknownError the call may have been accepted (timeout, reset after sending)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal


class EmailPlatformError(Exception):
    """Root of the tree; catching it catches everything the platform raises on purpose."""


class ConfigurationError(EmailPlatformError):
    """A setting is missing or wrong; the message names the variable and how to mend it."""


class PortTakenError(ConfigurationError):
    """Another process listens on the port that an embedded part should use."""


class PartUnavailableError(EmailPlatformError):
    """A part did not answer within its start-up time; the message names the part and its address."""


class CommandRefusedError(EmailPlatformError):
    """A command cannot do what the operator asked of it, and nothing was changed; the message says why."""


class ConflictError(CommandRefusedError):
    """What it is about was changed by somebody else, or is in a state that does not allow it."""


class IdempotencyKeyReusedError(CommandRefusedError):
    """The caller of the HTTP API gave two different requests the same Idempotency-Key."""


class InvalidConditionError(EmailPlatformError):
    """An audience condition breaks the grammar.

    Attributes:
        path: where in the JSON, as a JSONPath such as ``$.all[1].not.eq``.
        problem: what is wrong and what is allowed there.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"condition at {path}: {problem}")
        self.path = path
        self.problem = problem


class InvalidTemplateError(EmailPlatformError):
    """A subject or body template cannot be compiled, or rendered for anybody."""


class RenderingEndedError(InvalidTemplateError):
    """The process that renders ended before it answered."""


class CampaignNotFoundError(EmailPlatformError):
    """No campaign has this id now; whether it was deleted or never existed is not known."""

    def __init__(self, campaign_id: int) -> None:
        super().__init__(f"campaign {campaign_id} does not exist")
        self.campaign_id = campaign_id


class IllegalTransitionError(EmailPlatformError):
    """The state machine does not allow this change of a campaign's status."""


class CampaignStoppedError(EmailPlatformError):
    """The campaign may not send now: it was paused, cancelled, failed or deleted.

    Attributes:
        status: the campaign's status that stopped the sending.
    """

    def __init__(self, campaign_id: int, status: str) -> None:
        super().__init__(f"campaign {campaign_id} stopped sending: its status is {status!r}")
        self.campaign_id = campaign_id
        self.status = status


class ContentHeldError(CampaignStoppedError):
    """More of a campaign's recipients than the settings allow cannot be rendered; it was paused, nothing was sent.

    Attributes:
        reason: what is wrong, with how many recipients and some lead ids.
    """

    def __init__(self, campaign_id: int, reason: str) -> None:
        super().__init__(campaign_id, "paused")
        self.reason = reason

    def __str__(self) -> str:
        return f"campaign {self.campaign_id} was paused before its first call: {self.reason}"


class CampaignArchivedError(CampaignStoppedError):
    """The campaign ended long ago and its call ledger was moved into the bucket: nothing can be sent or decided."""

    def __init__(self, campaign_id: int, archived_at: datetime) -> None:
        super().__init__(campaign_id, "archived")
        self.archived_at = archived_at

    def __str__(self) -> str:
        return (
            f"campaign {self.campaign_id} is archived since {self.archived_at:%Y-%m-%d}: its call ledger is in the "
            "bucket, and nothing of it can be sent or decided; `email-platform retention restore "
            f"{self.campaign_id}` brings the ledger back"
        )


class TooManyRejectedError(EmailPlatformError):
    """The provider refuses a larger share of a campaign's recipients than the settings allow."""


class LeaseLostError(EmailPlatformError):
    """This process no longer owns the chunk's lease; it must not start another call."""


class ChunkBusyError(EmailPlatformError):
    """Another process holds the chunk's lease and keeps it alive; it is sending this chunk now."""


class SendingInterruptedError(EmailPlatformError):
    """This process was asked to end; what was in flight has been seen to its end and recorded."""


class AccountingError(EmailPlatformError):
    """Counts that must agree do not; the message gives every count."""


class ObjectQuarantinedError(EmailPlatformError):
    """A staged object is corrupt or foreign; it was set aside with the reason and blocks nothing else."""


class LegacySourceError(EmailPlatformError):
    """The old email table lacks a column or index, has an unknown one, or holds what the warehouse cannot."""


class WebhookRefusedError(EmailPlatformError):
    """A webhook is not proved to come from the account that it names, or is a replay; nothing of it is kept."""


class MalformedEventError(EmailPlatformError):
    """A proved webhook's body cannot be read as its provider documents it; names a path, never a value."""


class ProviderError(EmailPlatformError):
    """What went wrong with one provider call."""


class CallThrottledError(ProviderError):
    """The provider accepted nothing and asks to wait.

    Attributes:
        retry_after_seconds: the provider's own figure, or None where it gave none.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class CallNotAcceptedError(ProviderError):
    """The provider certainly accepted nothing; the same call may be made again."""


class CallRejectedError(ProviderError):
    """The provider certainly refuses this call as a whole; no recipient of it was accepted.

    Attributes:
        code: the provider's error code or the HTTP status as text.
        blame: whose fault it is by the provider's documentation. ``recipient``: an address or the content of one of
            the recipients, but not which one; ``size``: the call is too large or has too many recipients;
            ``unlisted``: nobody knows, so nothing of it may be booked on a recipient.
        culprits: positions, within the call, of the recipients whom the answer names (only with ``recipient``, and only
            where it blames nobody else); empty where it names none. Others of the call may be at fault too.
    """

    def __init__(
        self,
        message: str,
        code: str,
        blame: Literal["recipient", "size", "unlisted"] = "unlisted",
        culprits: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.blame: Literal["recipient", "size", "unlisted"] = blame
        self.culprits = culprits


class AccountRefusedError(ProviderError):
    """The provider refuses the sender or the account (credentials, suspension, quota, identity).

    Nothing of the call was accepted, no further call can succeed, and no recipient is to blame.
    """


class OneRecipientRefusedError(AccountRefusedError):
    """The only recipient who is left is refused each time; nobody else shows whether the fault is his or the sender's.

    Attributes:
        offset: his, within the chunk.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class ProviderDownError(ProviderError):
    """A call failed in every bounded retry, or call after call was deferred whole: the provider takes nothing now."""


class CallOutcomeUnknownError(ProviderError):
    """The request may have been accepted, but no answer says so."""


_WRONG_VALUES = {
    "missing": "is missing",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def wrong_value(kind: str, message: str, context: Mapping[str, Any]) -> str:
    """What a value must be, for settings, files and requests alike; never the value itself.

    Args:
        kind, message, context: ``type``, ``msg`` and ``ctx`` of one of pydantic's errors (its *Validation Errors* page
            has the kinds).
    """
    if kind == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    if kind == "string_pattern_mismatch" and context["pattern"] == r"^[^\x00]*$":
        return "must hold no NUL character"
    words = _WRONG_VALUES.get(kind)
    if words is None:
        return message.removeprefix("Value error, ")
    return words.format_map({name: f"{one:g}" if isinstance(one, float) else one for name, one in context.items()})
