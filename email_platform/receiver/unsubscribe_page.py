"""The page behind every unsubscribe link, and the one-click POST of RFC 8058.

Invariant: a GET changes nothing (link scanners fetch every link of a mail); a POST answers 2xx only when the
unsubscription is durable: in PostgreSQL, or, while PostgreSQL is away, as an event in the inbox that becomes
a suppression as soon as it is staged. It needs no cookie, no login and no redirect (RFC 8058, section 3.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from email_platform.content.unsubscribe import InvalidUnsubscribeTokenError, Unsubscription
from email_platform.domain.ports import Clock
from email_platform.errors import EmailPlatformError
from email_platform.events.formats.platform import unsubscribed_body
from email_platform.events.received import ReceivedBody
from email_platform.events.suppression import SuppressionRequest, SuppressionStore
from email_platform.receiver.inbox_writer import EventInbox

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    "referrer-policy": "no-referrer",  # the address of the page is a credential
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 30rem; margin: 15vh auto; padding: 0 1rem;
  text-align: center }}
button {{ font: inherit; padding: .6rem 1.4rem; cursor: pointer }}
</style></head><body><h1>{title}</h1>{content}</body></html>
"""
_BUTTON = '<form method="post"><button type="submit">Unsubscribe</button></form>'


@dataclass(frozen=True, slots=True)
class UnsubscribePage:
    """Answers GET and POST of one link.

    Attributes:
        verify: what a token says (`UnsubscribeSigner.verify`).
    """

    verify: Callable[[str], Unsubscription]
    suppressions: SuppressionStore
    inbox: EventInbox
    clock: Clock

    async def show(self, request: Request) -> Response:
        """The page with its button; changes nothing."""
        try:
            self.verify(request.path_params["token"])
        except InvalidUnsubscribeTokenError:
            return _invalid()
        return _page(
            "Unsubscribe", f"<p>Press the button to get no more mail from this sender.</p>{_BUTTON}", status_code=200
        )

    async def act(self, request: Request) -> Response:
        """Unsubscribe; idempotent. The body (``List-Unsubscribe=One-Click``) says nothing more and is not read."""
        try:
            unsubscription = self.verify(request.path_params["token"])
        except InvalidUnsubscribeTokenError:
            return _invalid()
        kept = await asyncio.gather(
            self._suppress(unsubscription), self._keep_event(unsubscription), return_exceptions=True
        )
        unexpected = [one for one in kept if isinstance(one, BaseException) and not isinstance(one, EmailPlatformError)]
        if len([one for one in kept if isinstance(one, BaseException)]) == len(kept):
            if unexpected:
                raise unexpected[0]
            return _page("Not yet", "<p>Please try again in a minute.</p>" + _BUTTON, status_code=503)
        return _page("Done", "<p>You are unsubscribed from this sender.</p>", status_code=200)

    async def _suppress(self, unsubscription: Unsubscription) -> None:
        wanted = SuppressionRequest(
            address="",
            reason="unsubscribe",
            source="one_click",
            everywhere=False,
            lead_id=unsubscription.lead_id,
            sender_id=unsubscription.sender_id,
            campaign_id=unsubscription.campaign_id,
        )
        await asyncio.to_thread(self.suppressions.add, [wanted])

    async def _keep_event(self, unsubscription: Unsubscription) -> None:
        now = self.clock()
        body = unsubscribed_body(unsubscription.campaign_id, unsubscription.lead_id, unsubscription.sender_id, now)
        await self.inbox.keep(ReceivedBody("platform", "default", now, "", body))


def _invalid() -> Response:
    return _page(
        "This link does not work", "<p>It is incomplete or too old. Please use the link in a newer mail.</p>", 404
    )


def _page(title: str, content: str, status_code: int) -> Response:
    return HTMLResponse(_PAGE.format(title=title, content=content), status_code, headers=_HEADERS)
