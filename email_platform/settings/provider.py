"""The provider simulator. The accounts of real providers: `email_platform.settings.provider_accounts`."""

from __future__ import annotations

from pydantic import BaseModel, SecretStr

from email_platform.settings.names import ReplaceablePart
from email_platform.settings.values import HttpUrl, Port

PROVIDER = ReplaceablePart(
    "provider",
    addresses=("provider_url",),
    fields=("provider_url", "provider_api_key", "provider_webhook_secret"),
)


class ProviderSettings(BaseModel):
    """Where the simulator is.

    Attributes:
        provider_url, provider_api_key: the simulator's; None where campaigns use real providers, whose accounts
            have their own variables.
        provider_webhook_url: where the simulator delivers its events, by default the receiver; without one they wait
            in its outbox.
        provider_webhook_secret: proves the simulator's events.
        provider_port: of the embedded simulator.
    """

    provider_url: HttpUrl | None = None
    provider_api_key: SecretStr | None = None
    provider_webhook_secret: SecretStr | None = None
    provider_webhook_url: HttpUrl | None = None
    provider_port: Port = 18025
