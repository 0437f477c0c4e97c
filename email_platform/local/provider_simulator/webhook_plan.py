"""Where and how events are delivered, and the pauses between attempts.

The invariant: a plan that cannot be carried out is refused with the name of its field, before it is in force.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from email_platform.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class WebhookPlan:
    """Where and how events are delivered.

    Attributes:
        url: the receiver; without one, events wait.
        batch_size: most events of one POST.
        delay_seconds: each event happens up to this long after the acceptance (seeded per event).
        duplicate_probability: chance that a post which was taken is sent once more, with the same id.
        reorder_probability: chance that a post is held back behind later ones; also shuffles events.
        reorder_hold_seconds: how long such a post is held at most.
        retry_base_seconds: first pause after a refusal; doubles up to `retry_limit_seconds`.
        retry_limit_seconds: the longest pause.
        timeout_seconds: how long the receiver may take.
    """

    url: str | None = None
    batch_size: int = 100
    delay_seconds: float = 0.0
    duplicate_probability: float = 0.0
    reorder_probability: float = 0.0
    reorder_hold_seconds: float = 1.0
    retry_base_seconds: float = 0.2
    retry_limit_seconds: float = 60.0
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.url is not None:
            address = urlsplit(self.url) if isinstance(self.url, str) else None
            if address is None or address.scheme not in ("http", "https") or not address.hostname:
                raise ConfigurationError("url: must be an http or https address, or null")
        if type(self.batch_size) is not int or not 1 <= self.batch_size <= 1000:
            raise ConfigurationError("batch_size: must be an integer from 1 to 1000")
        for name in ("duplicate_probability", "reorder_probability"):
            if not _is_number(value := getattr(self, name)) or not 0.0 <= value <= 1.0:
                raise ConfigurationError(f"{name}: must be from 0 to 1")
        for name in (
            "delay_seconds",
            "reorder_hold_seconds",
            "retry_base_seconds",
            "retry_limit_seconds",
            "timeout_seconds",
        ):
            if not _is_number(value := getattr(self, name)) or not 0.0 <= value <= 86_400.0:
                raise ConfigurationError(f"{name}: must be from 0 to 86400 seconds")

    def changed_by(self, document: Any) -> WebhookPlan:
        """Return this plan with the fields that ``document`` (parsed JSON) names replaced.

        Raises:
            ConfigurationError: a field is unknown or has a wrong value; the message names it.
        """
        if not isinstance(document, dict):
            raise ConfigurationError("webhooks: must be a JSON object")
        if unknown := sorted(document.keys() - asdict(self).keys()):
            raise ConfigurationError(f"{unknown[0]}: unknown field; allowed: {', '.join(asdict(self))}")
        return replace(self, **document)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def retry_pause_seconds(plan: WebhookPlan, attempts: int) -> float:
    """Return the pause after this many refusals in a row (1 or more)."""
    return min(plan.retry_limit_seconds, plan.retry_base_seconds * 2.0 ** min(attempts - 1, 30))
