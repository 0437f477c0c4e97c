"""Refusals on purpose: of a whole call for its size, sender or one address, and of entries for the account's sake.

The invariant: a refused call leaves nothing accepted, and its answer has no more detail than a real provider's: it
never names the address at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.bulk_request import BulkCall, Rejection


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A whole call refused with this status."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RefusalPlan:
    """What to refuse; steered while the simulator runs.

    Attributes:
        body_bytes: calls above this size get 413, as from a proxy that is stricter than the provider.
        senders: calls from these addresses get 400 ``SenderNotVerified``.
        recipients: calls with one of these addresses get 400 ``InvalidRecipient``, as a whole.
        entries_accepted: in every call, entries after so many accepted ones are refused with ``AccountPaused``.
    """

    body_bytes: int | None = None
    senders: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    entries_accepted: int | None = None

    def changed_by(self, document: Any) -> RefusalPlan:
        """Return this plan with the fields that ``document`` (parsed JSON) names replaced.

        Raises:
            ConfigurationError: a field is unknown or has a wrong value; the message names it.
        """
        if not isinstance(document, dict):
            raise ConfigurationError("refusals: must be a JSON object")
        changes: dict[str, Any] = {}
        for name, value in document.items():
            if name in ("body_bytes", "entries_accepted"):
                if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                    raise ConfigurationError(f"{name}: must be a whole number from 0, or null")
                changes[name] = value
            elif name in ("senders", "recipients"):
                if not isinstance(value, list) or not all(isinstance(address, str) for address in value):
                    raise ConfigurationError(f"{name}: must be a list of addresses")
                changes[name] = tuple(address.lower() for address in value)
            else:
                raise ConfigurationError(f"{name}: unknown field; allowed: {', '.join(asdict(self))}")
        return replace(self, **changes)

    def of_size(self, size_bytes: int) -> RefusedCall | None:
        """The refusal of a body of this size."""
        if self.body_bytes is None or size_bytes <= self.body_bytes:
            return None
        return RefusedCall(413, "BodyTooLarge", f"at most {self.body_bytes} bytes a call")

    def of_call(self, call: BulkCall) -> RefusedCall | None:
        """The refusal of a well-formed call."""
        if self.senders and call.sender.lower() in self.senders:
            return RefusedCall(400, "SenderNotVerified", "the sender's identity is not verified for this account")
        if self.recipients and any(address.lower() in self.recipients for address, _, _ in call.recipients):
            return RefusedCall(400, "InvalidRecipient", "a recipient's address is not valid")
        return None

    def of_entry(self, accepted: Sequence[object]) -> Rejection | None:
        """The refusal of a good recipient after those of his call that were accepted before him."""
        if self.entries_accepted is None or len(accepted) < self.entries_accepted:
            return None
        return Rejection("AccountPaused", "sending is paused for this account")
