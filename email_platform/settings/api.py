"""The HTTP API."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from email_platform.settings.values import HttpUrl, Port


class ApiSettings(BaseModel):
    """Where the HTTP API listens, and how much one key may ask of it.

    Attributes:
        api_port: of the embedded one.
        api_url: where this machine reaches the API, for `status` and `doctor`; None: the embedded one, or not asked.
        api_requests_per_second: of one API key, in the long run, over all processes together.
        api_burst_requests: of one API key at once, after a pause.
        console_url: where people reach the API's process in a browser, as https://host/path; Dagster links a campaign
            to ``console_url``/campaigns/ID. None: no links.
    """

    api_port: Port = 18081
    api_url: HttpUrl | None = None
    api_requests_per_second: Annotated[float, Field(gt=0, le=100_000)] = 20.0
    api_burst_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    console_url: HttpUrl | None = None
