"""The receiver's HTTP surface: events of providers, the unsubscribe page, and its own health.

`/health` counts what this process did, and says that it runs; `/healthz` asks the parts that it needs
(`email_platform.adapters.health.serving`).

Invariants: an unknown account is refused before its body is read; a body is read up to a limit in bytes and
in time, and refused before it is kept whole; nothing is acknowledged before it is proved and durable; no part
of a body, no path and no credential is ever logged.

| answer | when |
| --- | --- |
| 200 | durable (or a confirmed subscription, which holds no event) |
| 400 | the proof lies in the body and cannot be read |
| 401 | unknown account, or not proved, or a replay |
| 408 | the body did not come in time |
| 413, 415 | too large; compressed |
| 500 | the proof could not be checked, by a fault of ours; counted |
| 503 | could not be made durable now, with Retry-After |
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from email_platform.adapters.health.serving import HEALTH_PATH, ServingHealth
from email_platform.content.unsubscribe import UNSUBSCRIBE_PATH
from email_platform.domain.ports import Clock
from email_platform.errors import (
    ConfigurationError,
    EmailPlatformError,
    MalformedEventError,
    PartUnavailableError,
    WebhookRefusedError,
)
from email_platform.events.accounts import WebhookAccounts
from email_platform.events.received import ReceivedBody
from email_platform.events.verification import Proof, Verifier
from email_platform.receiver.connections import ConnectionCounts
from email_platform.receiver.inbox_writer import EventInbox
from email_platform.receiver.unsubscribe_page import UnsubscribePage

_logger = logging.getLogger("email_platform.receiver")

MAXIMUM_WEBHOOK_ID_CHARACTERS = 200
MAXIMUM_COUNTS = 200
_NUMBER = re.compile(r"\d+")  # where in a body a fault is says nothing about how many there are


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may take.

    Attributes:
        body_bytes: SNS sends at most 256 KiB, SendGrid batches of up to 768 KiB.
        read_within_seconds: for the whole body.
        reading_bytes: bodies being read at the same time, over all requests.
    """

    body_bytes: int = 2 << 20
    read_within_seconds: float = 20.0
    reading_bytes: int = 64 << 20


class _Refusal(Exception):  # noqa: N818  (an answer, not an error)
    def __init__(self, status_code: int, reason: str) -> None:
        super().__init__(reason)
        self.status_code = status_code
        self.reason = reason


class EventReceiver:
    """Takes providers' events: prove, keep, acknowledge.

    Attributes:
        counts: bodies by outcome, for `/health`; keys hold no more than known account names and fixed reasons, and
            their number is bounded, however long an outage lasts.
        connections: open ones, and those that were refused.
    """

    def __init__(self, accounts: WebhookAccounts, inbox: EventInbox, clock: Clock, limits: RequestLimits) -> None:
        self._accounts = accounts
        self._inbox = inbox
        self._clock = clock
        self._limits = limits
        self._reading_bytes = 0
        self.connections = ConnectionCounts()
        self.counts: Counter[str] = Counter()

    async def receive(self, request: Request) -> Response:
        """POST /events/{provider}/{account}."""
        provider, account = request.path_params["provider"], request.path_params["account"]
        name = "unknown account"
        is_body_read = False
        try:
            verifier = self._accounts.find(provider, account)
            if verifier is None:
                raise _Refusal(401, "no such account may send events here")
            name = f"{provider}/{account}"
            body = await self._read(request)
            is_body_read = True
            headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in request.headers.raw}
            proof = await self._prove(verifier, name, headers, body)
            if proof.keep:
                identifier = proof.webhook_id[:MAXIMUM_WEBHOOK_ID_CHARACTERS]
                await self._inbox.keep(ReceivedBody(provider, account, self._clock(), identifier, body))
        except _Refusal as refusal:
            return self._answer(refusal.status_code, name, refusal.reason, is_body_read=is_body_read)
        except WebhookRefusedError as error:
            return self._answer(401, name, str(error))
        except MalformedEventError as error:
            return self._answer(400, name, str(error))
        except PartUnavailableError as error:
            return self._answer(503, name, str(error), is_body_read=is_body_read)
        except ConfigurationError as error:
            # The provider tries again until the operator has mended it; the message names a variable only.
            _logger.error("%s", error)
            reason = "the receiver is not configured completely"
            return self._answer(503, name, reason, is_body_read=is_body_read)
        except ClientDisconnect:
            return self._answer(400, name, "the connection ended before the body", is_body_read=False)
        self.counts["acknowledged"] += 1
        return JSONResponse({"status": "kept" if proof.keep else "confirmed"})

    async def _prove(self, verifier: Verifier, name: str, headers: Mapping[str, str], body: bytes) -> Proof:
        try:
            return await verifier.verify(headers, body)
        except EmailPlatformError:
            raise
        except Exception as error:
            # A fault of ours: nothing is taken unproved, and the provider tries again until it is mended. No text of
            # the error: it may hold a part of the body.
            _logger.error("the verifier of %s failed: %s", name, type(error).__name__)
            raise _Refusal(500, "the proof could not be checked") from None

    def _answer(self, status_code: int, name: str, reason: str, *, is_body_read: bool = True) -> Response:
        key = f"{status_code} {name}: {_NUMBER.sub('#', reason)}"
        if key not in self.counts and len(self.counts) >= MAXIMUM_COUNTS:
            key = f"{status_code} other"
        self.counts[key] += 1
        if status_code == 503:
            _logger.warning("not durable, answered 503: %s: %s", name, reason)
        headers = {"retry-after": "5"} if status_code == 503 else None
        if not is_body_read:
            # The rest of the body is not read, so the connection cannot be used again.
            headers = {**(headers or {}), "connection": "close"}
        return JSONResponse({"reason": reason}, status_code, headers)

    async def _read(self, request: Request) -> bytes:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refusal(415, "compressed bodies are not taken")
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > self._limits.body_bytes:
            raise _Refusal(413, f"a body may have {self._limits.body_bytes} bytes")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.read_within_seconds):
                async for block in request.stream():
                    if len(body) + len(block) > self._limits.body_bytes:
                        raise _Refusal(413, f"a body may have {self._limits.body_bytes} bytes")
                    if self._reading_bytes + len(block) > self._limits.reading_bytes:
                        raise PartUnavailableError("too many bodies are being read")
                    body += block
                    self._reading_bytes += len(block)
        except TimeoutError:
            raise _Refusal(408, "the body did not come in time") from None
        finally:
            self._reading_bytes -= len(body)
        return bytes(body)

    def health(self) -> dict[str, object]:
        """Counts since the start of this process."""
        return {
            "status": "ok",
            "process_id": os.getpid(),  # of several behind one address
            "counts": dict(self.counts.most_common(100)),
            "connections": self.connections.report(),
            "stored_bodies": self._inbox.stored_bodies,
            "stored_objects": self._inbox.stored_objects,
            "failed_objects": self._inbox.failed_objects,
            "held_bytes": self._inbox.held_bytes,
        }


def create_app(
    receiver: EventReceiver, page: UnsubscribePage, inbox: EventInbox, parts: ServingHealth | None = None
) -> Starlette:
    """The ASGI application; on shutdown it stores what waits.

    Args:
        receiver: takes events.
        page: takes opt-outs.
        inbox: where both are kept.
        parts: asks the parts for `/healthz`; None: there is no such path.
    """

    async def health(request: Request) -> Response:
        return JSONResponse(receiver.health())

    async def healthz(request: Request) -> Response:
        assert parts is not None
        found = await parts.read()
        return JSONResponse(found.body, found.status)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await inbox.aclose()

    return Starlette(
        routes=[
            Route("/events/{provider}/{account}", receiver.receive, methods=["POST"]),
            Route(UNSUBSCRIBE_PATH + "/{token}", page.show, methods=["GET"]),
            Route(UNSUBSCRIBE_PATH + "/{token}", page.act, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
            *([Route(HEALTH_PATH, healthz, methods=["GET"])] if parts is not None else []),
        ],
        lifespan=lifespan,
    )
