"""django-post-office as it is documented to be run, for `bench.send`: a row per email, sent by `send_queued_mail`.

Run with an interpreter of its own (requirements.txt beside this file), never imported by the platform:

    python peer.py DATABASE_URL_JSON SERVER_URL EMAILS PROCESSES HTML_BYTES

Emails are queued with `mail.send_many` from a stored template with a context each, and sent by the management command
with several processes and threads. Its connection hands a backend one message at a time, so the backend makes a call
of one recipient; connections to the server are kept. Prints one JSON line: emails, seconds to queue, seconds to send.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.mail.backends.base import BaseEmailBackend

DATABASE, SERVER_URL, EMAILS, PROCESSES, HTML_BYTES = sys.argv[1:6]


class BulkApiBackend(BaseEmailBackend):  # type: ignore[misc]  # Django has no stubs here, so the class is Any
    """Sends each message as one call of the provider's API."""

    _kept = threading.local()

    def send_messages(self, email_messages: list[Any]) -> int:
        """One call per message, as many as came."""
        address = urlsplit(SERVER_URL)
        connection = getattr(self._kept, "connection", None)
        if connection is None:
            connection = self._kept.connection = http.client.HTTPConnection(address.hostname or "", address.port)
        for message in email_messages:
            body = json.dumps(
                {
                    "from": message.from_email,
                    "recipients": [
                        {
                            "to": message.to[0],
                            "message_id": message.to[0],
                            "subject": message.subject,
                            "text": message.body,
                            "html": message.alternatives[0][0] if message.alternatives else None,
                        }
                    ],
                }
            )
            connection.request("POST", "/v1/bulk", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the server answered {answer.status}")
        return len(email_messages)


settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **json.loads(DATABASE)}},
    INSTALLED_APPS=["django.contrib.contenttypes", "post_office"],
    EMAIL_BACKEND="post_office.EmailBackend",
    POST_OFFICE={
        "BACKENDS": {"default": f"{__name__}.BulkApiBackend"},
        "BATCH_SIZE": 1000,
        "THREADS_PER_PROCESS": 8,
    },
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)


def main() -> None:
    """Queue, send, print."""
    django.setup()
    from django.core.management import call_command
    from post_office import mail
    from post_office.models import STATUS, Email, EmailTemplate

    call_command("migrate", verbosity=0)
    html = "<p>Hello {{ first_name }}, {{ points }} points in {{ city }}.</p>"
    html += "<p>Spring is here, and so are our new offers: have a look at what is new.</p>" * (int(HTML_BYTES) // 80)
    template = EmailTemplate.objects.create(
        name=f"newsletter-{time.monotonic_ns()}",
        subject="{{ first_name }}, your {{ city }} offers",
        content="Hello {{ first_name }}, {{ points }} points.",
        html_content=html,
    )
    how_many, began = int(EMAILS), time.perf_counter()
    for first in range(0, how_many, 1000):
        mail.send_many(
            [
                {
                    "recipients": f"lead{number}@example.com",
                    "sender": "news@example.com",
                    "template": template,
                    "context": {"first_name": f"Ada {number}", "points": number, "city": "Berlin"},
                    "render_on_delivery": True,
                }
                for number in range(first, min(first + 1000, how_many))
            ]
        )
    queued = time.perf_counter()
    call_command("send_queued_mail", processes=int(PROCESSES), verbosity=0)
    sent = time.perf_counter()
    left = Email.objects.exclude(status=STATUS.sent).count()
    if left:
        raise SystemExit(f"{left} emails were not sent")
    print(json.dumps({"emails": how_many, "queue_seconds": queued - began, "send_seconds": sent - queued}))


if __name__ == "__main__":
    sys.modules["peer"] = sys.modules[__name__]
    main()
