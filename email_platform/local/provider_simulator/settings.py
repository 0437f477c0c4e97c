"""Everything that is set when a simulator process starts.

The invariant: secrets come from the environment alone and never appear in a repr, and nothing but the
loopback interface is ever listened on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.faults import FaultPlan
from email_platform.local.provider_simulator.idempotency import DEFAULT_LIFETIME_SECONDS
from email_platform.local.provider_simulator.outcomes import OutcomeRates
from email_platform.local.provider_simulator.rate_limit import RateLimit
from email_platform.local.provider_simulator.webhook_plan import WebhookPlan

API_KEY_VARIABLE = "EMAIL_PLATFORM_PROVIDER_API_KEY"
WEBHOOK_SECRET_VARIABLE = "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET"  # noqa: S105  (a name, not a secret)


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """Settings of one process.

    Attributes:
        api_key: what callers must present as a bearer token.
        webhook_secret: see `webhook_signature.signing_key`.
        account: the name that accepted rows carry.
        idempotency: whether Idempotency-Key is honoured; the key is logged either way.
        maximum_recipients: most recipients of one call.
        maximum_body_bytes: largest body of one call.
        recent_messages: how many accepted messages the window in memory keeps.
    """

    data_folder: Path
    host: str
    port: int
    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    account: str = "default"
    seed: int = 0
    idempotency: bool = True
    idempotency_lifetime_seconds: float = DEFAULT_LIFETIME_SECONDS
    maximum_recipients: int = 50
    maximum_body_bytes: int = 10 * 1024 * 1024
    recent_messages: int = 100
    blocked_domains: frozenset[str] = frozenset()
    rates: OutcomeRates = field(default_factory=OutcomeRates)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    faults: FaultPlan = field(default_factory=FaultPlan)
    webhooks: WebhookPlan = field(default_factory=WebhookPlan)

    def __post_init__(self) -> None:
        require_loopback(self.host)
        for name in ("maximum_recipients", "maximum_body_bytes", "idempotency_lifetime_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name}: must be above 0")


def require_loopback(host: str) -> None:
    """Refuse an address that others than this machine can reach.

    Raises:
        ConfigurationError: the host is not a loopback address.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigurationError(f"--host {host}: the simulator listens on the loopback interface only; use 127.0.0.1")


def read_secret(environment: Mapping[str, str], variable: str) -> str:
    """Return a secret from the environment.

    Raises:
        ConfigurationError: the variable is not set or empty.
    """
    secret = environment.get(variable, "")
    if not secret:
        raise ConfigurationError(f"set {variable} to a secret of your choice")
    return secret
