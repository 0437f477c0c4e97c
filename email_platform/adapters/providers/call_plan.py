"""How many recipients of a call fit one request, by one loop for all providers.

Invariant: what `fit_plan` counts, `encode_plan` encodes; a fault that no recipient could help is the call's and raised,
never booked on a recipient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar
from uuid import UUID

from email_platform.adapters.providers.message_fields import (
    SharedChecks,
    ascii_domain_address,
    check_body_size,
    check_count,
    check_distinct_addresses,
    check_shared,
    no_problem,
    recipient_problem,
)
from email_platform.domain.ports import BulkCall, EncodedCall, Fit, ProviderLimits, Recipient
from email_platform.errors import InvalidTemplateError

_SHORT_ADDRESS = "a@b.example"


class CallPlan(ABC):
    """One call as one provider writes it: what its recipients share, and an entry for each.

    Making a plan checks what all recipients share (InvalidTemplateError).

    Attributes:
        provider: the adapter's name.
        shared_bytes: of the request without any recipient.
        tells_recipients_by_address: so that no two recipients of a call may have the same.
        multiplies_content: the request holds each recipient's whole message, so that it may be large.
    """

    provider: ClassVar[str]
    shared_bytes: int
    tells_recipients_by_address: ClassVar[bool] = False
    multiplies_content: ClassVar[bool] = False

    def __init__(self, call: BulkCall) -> None:
        check_shared(call)
        self.call = call
        self.checks = SharedChecks.of(call.skeleton)

    @abstractmethod
    def entry_bytes(self, recipient: Recipient) -> int:
        """By how much the request grows with this recipient; never less than it does."""

    @cached_property
    def body(self) -> bytes:
        """The request's exact bytes, for all recipients of the call."""
        return self._write()

    @abstractmethod
    def _write(self) -> bytes:
        """The request's exact bytes, for all recipients of the call."""

    def size_problem(self, recipient: Recipient) -> str | None:
        """Which of the provider's limits of one recipient's sizes this one breaks."""
        return None

    def problem(self, recipient: Recipient) -> str | None:
        """Why the provider cannot carry this recipient's message, sizes apart."""
        return None

    def conflict(self, first: Recipient, recipient: Recipient) -> str | None:
        """Why the two cannot be in one request."""
        return None


def fit_plan(plan: CallPlan, limits: ProviderLimits) -> Fit:
    """See `email_platform.domain.ports.EmailProvider.fit`.

    Raises:
        InvalidTemplateError: the skeleton alone breaks a limit, so that nobody can be sent it.
    """
    _check_shared(plan, limits)
    used_bytes = plan.shared_bytes
    addresses: set[str] = set()
    recipients = plan.call.recipients[: limits.recipients_per_call]
    if len(recipients) == len(plan.call.recipients) and _everybody_fits(plan, limits):
        return Fit(len(recipients))
    for count, recipient in enumerate(recipients):
        problem = _problem(plan, recipient)
        if problem is None:
            used_bytes += plan.entry_bytes(recipient)
            if limits.body_bytes is not None and used_bytes > limits.body_bytes:
                problem = f"{plan.provider}: the message takes {used_bytes} bytes; the limit is {limits.body_bytes}"
        if problem is not None:
            return Fit(count) if count else Fit(0, problem)
        if plan.tells_recipients_by_address:
            address = ascii_domain_address(recipient.address).lower()
            if address in addresses:
                return Fit(count)
            addresses.add(address)
        if count and plan.conflict(recipients[0], recipient) is not None:
            return Fit(count)
    return Fit(len(recipients))


def encode_plan(plan: CallPlan, limits: ProviderLimits, *, fits: bool = False) -> EncodedCall:
    """The call's exact bytes.

    Args:
        plan: of the call.
        limits: as they are now.
        fits: `fit_plan` has found that all recipients of this very plan fit, so they are not looked at again.

    Raises:
        InvalidTemplateError: the call does not fit; names the lead by id, never by address.
    """
    call = plan.call
    if fits:
        return _encoded(plan, limits)
    check_count(call, limits)
    for recipient in call.recipients:
        problem = _problem(plan, recipient)
        if problem is not None:
            raise InvalidTemplateError(f"lead {recipient.lead_id}: {problem}")
        first = call.recipients[0]
        conflict = None if recipient is first else plan.conflict(first, recipient)
        if conflict is not None:
            raise InvalidTemplateError(
                f"{plan.provider}: leads {first.lead_id} and {recipient.lead_id} cannot share a call: {conflict}"
            )
    if plan.tells_recipients_by_address:
        check_distinct_addresses(call, plan.provider)
    return _encoded(plan, limits)


def _encoded(plan: CallPlan, limits: ProviderLimits) -> EncodedCall:
    call, body = plan.call, plan.body
    check_body_size(call, body, limits, plan.provider)
    return EncodedCall(call_id=call.call_id, body=body, recipient_count=len(call.recipients))


class FittingEncoder:
    """`fit` and then `encode` of one call with one plan: the second need not repeat what the first checked.

    Keeps the newest plan that fits as a whole; any other call is planned again, so the bytes are the same either way.
    """

    def __init__(self, plan_of: Callable[[BulkCall], CallPlan]) -> None:
        self._plan_of = plan_of
        self._fitting: CallPlan | None = None

    def fit(self, call: BulkCall, limits: ProviderLimits) -> Fit:
        """See `fit_plan`."""
        plan = self._plan_of(call)
        fit = fit_plan(plan, limits)
        self._fitting = plan if fit.count == len(call.recipients) else None
        return fit

    def encode(self, call: BulkCall, limits: ProviderLimits) -> EncodedCall:
        """See `encode_plan`."""
        plan, self._fitting = self._fitting, None
        if plan is not None and plan.call == call:
            return encode_plan(plan, limits, fits=True)
        return encode_plan(self._plan_of(call), limits)


def _problem(plan: CallPlan, recipient: Recipient) -> str | None:
    found = recipient_problem(plan.call.skeleton, recipient, plan.checks)
    return found or _provider_problem(plan, recipient)


def _everybody_fits(plan: CallPlan, limits: ProviderLimits) -> bool:
    """Whether all recipients of the call fit one request, by writing it: they nearly always do.

    False does not say that they don't; they are looked at one by one then.
    """
    recipients = plan.call.recipients
    if plan.multiplies_content or not no_problem(plan.call.skeleton, recipients, plan.checks):
        return False
    if any(_provider_problem(plan, one) or plan.conflict(recipients[0], one) for one in recipients):
        return False
    if plan.tells_recipients_by_address:
        addresses = {ascii_domain_address(one.address).lower() for one in recipients}
        if len(addresses) < len(recipients):
            return False
    return limits.body_bytes is None or len(plan.body) <= limits.body_bytes


def _provider_problem(plan: CallPlan, recipient: Recipient) -> str | None:
    return plan.problem(recipient) or plan.size_problem(recipient)


def _check_shared(plan: CallPlan, limits: ProviderLimits) -> None:
    """Refuse a skeleton that is too large even for a recipient without any values."""
    blank = Recipient(0, str(UUID(int=0)), _SHORT_ADDRESS, ("",) * plan.call.skeleton.value_count)
    needed_bytes = plan.shared_bytes + plan.entry_bytes(blank)
    problem = plan.size_problem(blank)
    if problem is None and limits.body_bytes is not None and needed_bytes > limits.body_bytes:
        problem = f"{plan.provider}: the message takes {needed_bytes} bytes; the limit is {limits.body_bytes}"
    if problem is not None:
        raise InvalidTemplateError(f"the content is too large for everybody: {problem}")
