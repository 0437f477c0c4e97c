"""The page behind every unsubscribe link, and the one-click POST of RFC 8058.

Invariant: a GET changes nothing (link scanners fetch every link of a mail); a POST answers 2xx only when the
suppression of the address that was mailed is durable: in PostgreSQL, or, while PostgreSQL is away, as an event in the
inbox that holds the address and becomes a suppression as soon as it is staged. Anything less is a 5xx, after which a
one-click client tries again, and says what happened. It needs no cookie, no login and no redirect (RFC 8058,
section 3.1).

The address is the manifest's, whatever became of the lead since; the lead's address of today is suppressed as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from email_platform.content.unsubscribe import InvalidUnsubscribeTokenError, Unsubscription
from email_platform.domain.addresses import normalised_address
from email_platform.domain.ports import Clock
from email_platform.errors import EmailPlatformError
from email_platform.events.formats.platform import unsubscribed_body
from email_platform.events.mailed import MailedAddresses
from email_platform.events.received import ReceivedBody
from email_platform.events.suppression import SuppressionRequest, SuppressionStore
from email_platform.receiver.inbox_writer import EventInbox

_logger = logging.getLogger("email_platform.receiver")

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
        mailed: finds the address that was mailed.
    """

    verify: Callable[[str], Unsubscription]
    suppressions: SuppressionStore
    mailed: MailedAddresses
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
        mailed, present = await asyncio.gather(
            self._found(lambda: self._mailed(unsubscription)), self._found(lambda: self._present(unsubscription))
        )
        # The mailed one first: where the other differs, it is one more.
        addresses = list(dict.fromkeys([*(mailed or ()), *(present or ())]))
        is_durable = await self._keep(unsubscription, addresses)
        if mailed is None:
            return _not_yet("We could not look up which address this mail went to.")
        if not is_durable:
            return _not_yet("We could not store it.")
        if not addresses:
            # The event is kept, and comes to an operator as unattributable when it is staged.
            _logger.error("an unsubscription of campaign %d names nobody", unsubscription.campaign_id)
            return _not_yet("We have kept your request, but do not find the address that this mail went to.")
        return _page("Done", "<p>You are unsubscribed from this sender.</p>", status_code=200)

    async def _found(self, look_up: Callable[[], Sequence[str]]) -> Sequence[str] | None:
        """What was found; None where nobody can know now."""
        try:
            return await asyncio.to_thread(look_up)
        except EmailPlatformError:
            return None

    def _mailed(self, unsubscription: Unsubscription) -> Sequence[str]:
        found = self.mailed.of_lead(unsubscription.campaign_id, unsubscription.lead_id)
        return [normalised_address(one.address) for one in found]

    def _present(self, unsubscription: Unsubscription) -> Sequence[str]:
        return list(self.suppressions.present_addresses([unsubscription.lead_id]).values())

    async def _keep(self, unsubscription: Unsubscription, addresses: Sequence[str]) -> bool:
        """Whether one of the two places has it now."""
        kept = await asyncio.gather(
            self._suppress(unsubscription, addresses),
            self._keep_event(unsubscription, addresses),
            return_exceptions=True,
        )
        unexpected = [one for one in kept if isinstance(one, BaseException) and not isinstance(one, EmailPlatformError)]
        is_durable = any(not isinstance(one, BaseException) for one in kept)
        if unexpected and not is_durable:
            raise unexpected[0]
        return is_durable

    async def _suppress(self, unsubscription: Unsubscription, addresses: Sequence[str]) -> None:
        wanted = [
            SuppressionRequest(
                address=address,
                reason="unsubscribe",
                source="one_click",
                everywhere=False,
                lead_id=unsubscription.lead_id,
                sender_id=unsubscription.sender_id,
                campaign_id=unsubscription.campaign_id,
            )
            for address in addresses or [""]
        ]
        await asyncio.to_thread(self.suppressions.add, wanted)

    async def _keep_event(self, unsubscription: Unsubscription, addresses: Sequence[str]) -> None:
        now = self.clock()
        body = unsubscribed_body(
            unsubscription.campaign_id, unsubscription.lead_id, unsubscription.sender_id, now, addresses
        )
        await self.inbox.keep(ReceivedBody("platform", "default", now, "", body))


def _invalid() -> Response:
    return _page(
        "This link does not work", "<p>It is incomplete or too old. Please use the link in a newer mail.</p>", 404
    )


def _not_yet(what_happened: str) -> Response:
    again = "<p>You are not unsubscribed yet. Please try again in a minute.</p>"
    answer = _page("Not yet", f"<p>{what_happened}</p>{again}{_BUTTON}", status_code=503)
    answer.headers["retry-after"] = "60"
    return answer


def _page(title: str, content: str, status_code: int) -> Response:
    return HTMLResponse(_PAGE.format(title=title, content=content), status_code, headers=_HEADERS)
