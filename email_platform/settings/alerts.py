"""Who is called when something needs an operator, and from when on something is late."""

from __future__ import annotations

from pydantic import BaseModel

from email_platform.settings.values import NotificationUrls, PositiveSeconds, WebhookUrl


class AlertSettings(BaseModel):
    """Where alerts go.

    Attributes:
        alert_webhook_url: where alerts are POSTed as JSON with a ``text``; a credential. None: the log alone.
        alert_urls: more targets, as URLs of the library apprise with blanks between them; credentials.
        alert_late_seconds: a queue without any movement, loads, events, reports and calls without an answer are late
            after so long.
    """

    alert_webhook_url: WebhookUrl | None = None
    alert_urls: NotificationUrls | None = None
    alert_late_seconds: PositiveSeconds = 900.0
