"""Where traces of what the platform does are sent."""

from __future__ import annotations

from pydantic import BaseModel

from email_platform.settings.values import CollectorUrl


class TracingSettings(BaseModel):
    """Traces for an OpenTelemetry collector.

    Attributes:
        otlp_url: of a collector that takes OTLP over HTTP, without ``/v1/traces``; None: nothing is traced. What the
            collector asks for beside it (headers with a key, a certificate) is in OpenTelemetry's own variables.
    """

    otlp_url: CollectorUrl | None = None
