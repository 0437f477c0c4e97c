"""The receiver of providers' events, and the links that lead recipients to it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from email_platform.settings.names import ReplaceablePart
from email_platform.settings.values import HttpUrl, Port, SigningSecret

RECEIVER = ReplaceablePart("receiver", addresses=("receiver_url",), fields=("receiver_url",))


class ReceiverSettings(BaseModel):
    """Where the receiver is.

    Attributes:
        receiver_url: where this machine reaches the receiver of events; None where nobody needs to.
        receiver_trusted_proxies: addresses or networks, with commas between them, whose X-Forwarded-For is believed.
        receiver_processes: how many embedded receivers share `receiver_port`.
        public_base_url: where recipients reach the unsubscribe page, by default `receiver_url`; no slash at the end.
        unsubscribe_secret: signs the links in it.
    """

    receiver_url: HttpUrl | None = None
    receiver_trusted_proxies: str = ""
    receiver_processes: Annotated[int, Field(ge=1, le=64)] = 1
    receiver_port: Port = 18080
    public_base_url: HttpUrl = "http://127.0.0.1:18080"
    unsubscribe_secret: SigningSecret

    @model_validator(mode="before")
    @classmethod
    def _complete_public_base_url(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("public_base_url") or not values.get("receiver_url"):
            return values
        return {**values, "public_base_url": values["receiver_url"]}
