"""The HTTP API, and the console on the same process."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from email_platform.settings.values import HttpUrl, Port, PositiveSeconds


class ApiSettings(BaseModel):
    """Where the HTTP API listens, and how much one key may ask of it.

    Attributes:
        api_port: of the embedded one.
        api_url: where this machine reaches the API, for `status` and `doctor`; None: the embedded one, or not asked.
        api_requests_per_second: of one API key, in the long run, over all processes together.
        api_burst_requests: of one API key at once, after a pause.
        console_url: where browsers reach the API's process, as https://console.example.com; Dagster links a campaign to
            its page there. Set it behind TLS:
            forms are taken from that origin only, and the session's cookie is sent over TLS only. None: forms are taken
            from whatever host they are sent to.
        console_session_seconds: how long a login lasts.
        console_proxy_header: the header in which a reverse proxy names who has logged in there: the name of an API key.
            Empty, as by default: nobody logs in that way.
        console_proxy_addresses: addresses or networks of that proxy, with commas between them; the header is believed
            of nobody else.
    """

    api_port: Port = 18081
    api_url: HttpUrl | None = None
    api_requests_per_second: Annotated[float, Field(gt=0, le=100_000)] = 20.0
    api_burst_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    console_url: HttpUrl | None = None
    console_session_seconds: PositiveSeconds = 43_200.0
    console_proxy_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]*$", max_length=100)] = ""
    console_proxy_addresses: str = ""
