"""The HTTP face: authentication, faults, limits, acceptance and the admin API.

The invariant: "accepted" is answered only behind `AcceptedLogWriter.append`, and a fault that promises
"nothing accepted" acts before it. A client that hangs up does not undo an acceptance under way, as with a
real provider.

Longer than 400 lines: calls and the admin API share one state, and each admin answer is three lines of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import secrets
import socket
import sqlite3
import struct
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.accepted_log import (
    AcceptedLog,
    AcceptedLogWriter,
    AnsweredCall,
    database_path,
    open_for_reading,
    read_stored_answer,
)
from email_platform.local.provider_simulator.bulk_request import (
    BulkCall,
    InvalidBulkRequestError,
    parse_bulk_call,
    put_together,
)
from email_platform.local.provider_simulator.faults import NOTHING_ACCEPTED, Fault, FaultInjector
from email_platform.local.provider_simulator.idempotency import (
    MAXIMUM_KEY_CHARACTERS,
    KeyDecision,
    StoredAnswer,
    decide_key,
)
from email_platform.local.provider_simulator.outcomes import OutcomePlanner
from email_platform.local.provider_simulator.rate_limit import AccountRateLimiter, RateLimit
from email_platform.local.provider_simulator.refusals import RefusalPlan
from email_platform.local.provider_simulator.settings import SimulatorSettings
from email_platform.local.provider_simulator.webhook_signature import signing_key
from email_platform.local.provider_simulator.webhooks import WebhookDispatcher

TRANSPORT_EXTENSION = "email_platform.transport"
"""Where the server leaves the connection in the ASGI scope, for faults that reset it."""

_MAXIMUM_PAGE_ROWS = 10_000
# SO_LINGER on with 0 seconds: closing sends RST instead of FIN.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def utc_now_ms() -> int:
    """Return the time in milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def _json(status: int, document: Any, headers: dict[str, str] | None = None) -> Response:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return Response(body, status, headers, media_type="application/json")


def _error(status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Response:
    return _json(status, {"error": {"code": code, "message": message, **fields}}, headers)


def _throttled(wait_seconds: float, message: str) -> Response:
    # The header knows whole seconds only and must not invite a client too early.
    return _error(
        429,
        "Throttled",
        message,
        headers={"retry-after": str(max(1, math.ceil(wait_seconds)))},
        retry_after_seconds=round(wait_seconds, 6),
    )


class Simulator:
    """The state of one running simulator; built inside its event loop.

    Args:
        now_ms: UTC milliseconds since the epoch, for everything that is logged.
        monotonic_seconds: the rate limiter's clock.
        call_token: a fresh, never repeated text per accepted call, from which provider message ids are made.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        now_ms: Callable[[], int] = utc_now_ms,
        monotonic_seconds: Callable[[], float] = time.monotonic,
        call_token: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self.settings = settings
        self._now_ms = now_ms
        self._monotonic_seconds = monotonic_seconds
        self._call_token = call_token
        self._authorization = f"Bearer {settings.api_key}".encode()
        self.writer = AcceptedLogWriter(settings.data_folder, asyncio.get_running_loop())
        self.reader: sqlite3.Connection = open_for_reading(database_path(settings.data_folder))
        self.log = AcceptedLog(settings.data_folder)
        self.faults = FaultInjector(settings.faults)
        self.refusals = RefusalPlan()
        self.limiter = AccountRateLimiter(settings.rate_limit, monotonic_seconds())
        self.outcomes = OutcomePlanner(settings.seed, settings.rates)
        self.dispatcher = WebhookDispatcher(
            self.writer,
            self.reader,
            settings.webhooks,
            signing_key(settings.webhook_secret),
            settings.seed,
            now_ms,
        )
        self.stopping = asyncio.Event()
        self.in_flight: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.recent: deque[tuple[dict[str, Any], dict[str, Any]]] = deque(maxlen=settings.recent_messages)

    def stop(self) -> None:
        """Let waiting calls go, so that the process can end; nothing new is accepted from now on."""
        self.stopping.set()
        self.dispatcher.stop()

    def is_authorized(self, scope: Scope) -> bool:
        """Whether the request carries the API key; compared in constant time."""
        presented = _header(scope, b"authorization") or b""
        return hmac.compare_digest(presented, self._authorization)

    async def wait(self, seconds: float) -> bool:
        """Wait; return False at once when the simulator stops meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return True
        return False

    async def bulk(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``POST /v1/bulk``."""
        if not self.is_authorized(scope):
            # 401 without reading the body: a stranger must not make the process work.
            response = _unauthorized()
        else:
            answer = await self._answer_bulk(scope, receive)
            if answer is None:
                await self._reset(scope, receive)
                return
            response = answer
        self.answers[response.status_code] += 1
        await response(scope, receive, send)

    async def _answer_bulk(self, scope: Scope, receive: Receive) -> Response | None:
        """Return the answer; None to reset the connection instead."""
        self.counts["calls"] += 1
        body = await _read_body(receive, self.settings.maximum_body_bytes)
        if body is None:
            return _error(
                413,
                "BodyTooLarge",
                f"at most {self.settings.maximum_body_bytes} bytes a call",
                headers={"connection": "close"},
            )
        if refused := self.refusals.of_size(len(body)):
            return _error(refused.status, refused.code, refused.message)
        fault = self.faults.next_call()
        if fault in NOTHING_ACCEPTED:
            self.faults.injected[fault] += 1
            return self._refusal(fault)
        try:
            call = parse_bulk_call(
                body,
                maximum_recipients=self.settings.maximum_recipients,
                blocked_domains=self.settings.blocked_domains,
            )
        except InvalidBulkRequestError as refusal:
            return _error(400, refusal.code, str(refusal), path=refusal.path)
        if refused := self.refusals.of_call(call):
            return _error(refused.status, refused.code, refused.message)
        presented_key = _header(scope, b"idempotency-key")
        key = None if presented_key is None else presented_key.decode("latin-1")
        if key is None or not self.settings.idempotency:
            outcome = await self._accept_once(call, key, None, fault)
        elif not 1 <= len(key) <= MAXIMUM_KEY_CHARACTERS:
            return _error(400, "InvalidIdempotencyKey", f"1 to {MAXIMUM_KEY_CHARACTERS} characters")
        else:
            outcome = await self._accept_under_key(call, key, hashlib.sha256(body).hexdigest(), fault)
        if outcome.status_code != 200 or fault is None or fault is Fault.SLOW:
            return outcome
        return await self._spoil(outcome, fault, receive)

    def _refusal(self, fault: Fault) -> Response | None:
        if fault is Fault.THROTTLE:
            return _throttled(self.faults.plan.throttle_retry_after_seconds, "slow down (injected)")
        if fault is Fault.OUTAGE:
            return _error(503, "ServiceUnavailable", "the provider is down (injected)")
        if fault is Fault.REFUSE_ACCOUNT:
            return _error(403, "AccountSuspended", "sending is paused for this account (injected)")
        if fault is Fault.ERROR_5XX_BEFORE:
            return _error(500, "InternalFailure", "the call failed (injected)")
        return None

    async def _spoil(self, outcome: Response, fault: Fault, receive: Receive) -> Response | None:
        """Apply a fault that comes after the acceptance."""
        self.faults.injected[fault] += 1
        plan = self.faults.plan
        if fault is Fault.DUPLICATE_RESPONSE:
            return _AnsweredTwice(outcome)
        if fault is Fault.ERROR_5XX_AFTER:
            # The same words as before the acceptance: a client cannot tell, as with a real provider.
            return _error(500, "InternalFailure", "the call failed (injected)")
        if fault is Fault.SLOW_RESPONSE:
            await self.wait(plan.slow_response_seconds)
            return outcome
        if fault is Fault.DROP_RESPONSE:
            hung_up = asyncio.ensure_future(_wait_for_hang_up(receive))
            limit = asyncio.ensure_future(self.wait(plan.drop_response_limit_seconds))
            await asyncio.wait((hung_up, limit), return_when=asyncio.FIRST_COMPLETED)
            hung_up.cancel()
            limit.cancel()
        return None

    async def _accept_under_key(self, call: BulkCall, key: str, fingerprint: str, fault: Fault | None) -> Response:
        stored = read_stored_answer(self.reader, self.settings.account, key)
        decision = decide_key(
            in_flight=key in self.in_flight,
            stored=stored,
            fingerprint=fingerprint,
            now_ms=self._now_ms(),
            lifetime_seconds=self.settings.idempotency_lifetime_seconds,
        )
        if decision is KeyDecision.IN_FLIGHT:
            return _error(409, decision.value, "a call with this key is being processed; ask again later")
        if decision is KeyDecision.OTHER_PAYLOAD:
            return _error(409, decision.value, "this key was used for another payload")
        if decision is KeyDecision.REPLAY:
            assert stored is not None
            # A replay sends nothing, so it costs a call and no recipient.
            wait_seconds = self.limiter.admit(0, self._monotonic_seconds())
            if wait_seconds:
                self.counts["throttled"] += 1
                return _throttled(wait_seconds, "the account's rate is exceeded")
            self.counts["idempotent_replays"] += 1
            return _json(200, stored.body.encode(), {"idempotent-replayed": "true"})
        self.in_flight.add(key)
        try:
            return await self._accept_once(call, key, fingerprint, fault)
        finally:
            self.in_flight.discard(key)

    async def _accept_once(
        self, call: BulkCall, key: str | None, fingerprint: str | None, fault: Fault | None
    ) -> Response:
        wait_seconds = self.limiter.admit(len(call.recipients), self._monotonic_seconds())
        if wait_seconds:
            self.counts["throttled"] += 1
            return _throttled(wait_seconds, "the account's rate is exceeded")
        if fault is Fault.SLOW:
            self.faults.injected[fault] += 1
            await self.wait(self.faults.plan.slow_seconds)
        if self.stopping.is_set():
            return _error(503, "ServiceUnavailable", "the provider is stopping")
        answered, body = self._decide(call, key, fingerprint)
        try:
            await self.writer.append(answered)
        except sqlite3.Error as failure:
            # Rolled back: nothing of this call is in the log, so nothing was accepted.
            return _error(500, "InternalFailure", f"the call could not be logged: {failure}")
        self.counts["accepted_recipients"] += len(answered.accepted)
        self.counts["rejected_recipients"] += len(answered.rejected)
        self._remember(call, answered)
        if answered.accepted:
            self.dispatcher.wake()
        return _json(200, body)

    def _decide(self, call: BulkCall, key: str | None, fingerprint: str | None) -> tuple[AnsweredCall, bytes]:
        token = self._call_token()
        mask = self.outcomes.campaign_mask(call.campaign)
        planned_events = self.outcomes.planned_events
        accepted: list[tuple[str, str, str, str]] = []
        rejected: list[tuple[str, str, str, str]] = []
        results: list[dict[str, str]] = []
        for position, (address, message_id, rejection) in enumerate(call.recipients):
            rejection = rejection or self.refusals.of_entry(accepted)
            if rejection is None:
                provider_message_id = f"{token}-{position:04d}"
                accepted.append((address, message_id, provider_message_id, planned_events(address, mask)))
                results.append({"status": "accepted", "provider_message_id": provider_message_id})
            else:
                rejected.append((address, message_id, rejection.code, rejection.message))
                results.append({"status": "rejected", "code": rejection.code, "message": rejection.message})
        body = orjson.dumps({"results": results})
        now_ms = self._now_ms()
        stored = None if fingerprint is None else StoredAnswer(fingerprint, body.decode(), now_ms)
        answered = AnsweredCall(
            self.settings.account, key, call.call_id, call.campaign, now_ms, accepted, rejected, stored
        )
        return answered, body

    def _remember(self, call: BulkCall, answered: AnsweredCall) -> None:
        accepted = {message_id for _, message_id, _, _ in answered.accepted}
        for recipient in call.document["recipients"][-self.settings.recent_messages :]:
            if recipient["message_id"] in accepted:
                # Put together when somebody asks: 50 newsletters of 100 kB would cost a call 10 ms.
                self.recent.append((call.document, recipient))

    async def _reset(self, scope: Scope, receive: Receive) -> None:
        """End the connection with RST, then wait until the server noticed, so that it sends no answer."""
        transport = scope.get("extensions", {}).get(TRANSPORT_EXTENSION, {}).get("transport")
        if transport is None:
            raise ConfigurationError("this server gives no access to its connections; start the package itself")
        connection = transport.get_extra_info("socket")
        # A client that hung up first left nothing to reset.
        if not transport.is_closing() and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        await _wait_for_hang_up(receive)

    async def health(self, request: Request) -> Response:
        """Answer ``GET /health``: 200 while calls can be answered; an injected outage does not count."""
        return _json(200, {"status": "ok", "account": self.settings.account})

    async def get_faults(self, request: Request) -> Response:
        """Answer ``GET /admin/faults``: the plan in force."""
        return _json(200, self.faults.plan.as_document())

    async def put_faults(self, request: Request) -> Response:
        """Answer ``PUT /admin/faults``: fields that are named replace those in force."""
        self.faults.steer(self.faults.plan.changed_by(await _read_json(request)))
        return await self.get_faults(request)

    async def delete_faults(self, request: Request) -> Response:
        """Answer ``DELETE /admin/faults``: no faults from now on; durations and seed stay."""
        self.faults.steer(replace(self.faults.plan, probabilities={}, script=(), outage=False, refuse_account=False))
        return await self.get_faults(request)

    async def get_refusals(self, request: Request) -> Response:
        """Answer ``GET /admin/refusals``: the plan in force."""
        return _json(200, asdict(self.refusals))

    async def put_refusals(self, request: Request) -> Response:
        """Answer ``PUT /admin/refusals``: fields that are named replace those in force."""
        self.refusals = self.refusals.changed_by(await _read_json(request))
        return await self.get_refusals(request)

    async def delete_refusals(self, request: Request) -> Response:
        """Answer ``DELETE /admin/refusals``: nothing is refused on purpose from now on."""
        self.refusals = RefusalPlan()
        return await self.get_refusals(request)

    async def get_rate_limit(self, request: Request) -> Response:
        """Answer ``GET /admin/rate_limit``."""
        return _json(200, asdict(self.limiter.limit))

    async def put_rate_limit(self, request: Request) -> Response:
        """Answer ``PUT /admin/rate_limit``: new limits with full buckets."""
        document = await _read_json(request)
        allowed = asdict(self.limiter.limit).keys()
        if not isinstance(document, dict) or document.keys() - allowed:
            raise ConfigurationError(f"rate_limit: an object of {', '.join(sorted(allowed))}")
        for name, value in document.items():
            unlimited = value is None and name != "burst_seconds"
            if isinstance(value, bool) or not (unlimited or isinstance(value, int | float)):
                raise ConfigurationError(f"{name}: must be a number (a rate: or null)")
        limit: RateLimit = replace(self.limiter.limit, **document)
        self.limiter = AccountRateLimiter(limit, self._monotonic_seconds())
        return await self.get_rate_limit(request)

    async def get_webhooks(self, request: Request) -> Response:
        """Answer ``GET /admin/webhooks``."""
        return _json(200, asdict(self.dispatcher.plan))

    async def put_webhooks(self, request: Request) -> Response:
        """Answer ``PUT /admin/webhooks``: fields that are named replace those in force."""
        self.dispatcher.steer(self.dispatcher.plan.changed_by(await _read_json(request)))
        return await self.get_webhooks(request)

    async def statistics(self, request: Request) -> Response:
        """Answer ``GET /admin/statistics``: counts since the process started, and the webhook backlog."""
        return _json(
            200,
            {
                **{
                    name: self.counts[name]
                    for name in (
                        "calls",
                        "accepted_recipients",
                        "rejected_recipients",
                        "idempotent_replays",
                        "throttled",
                    )
                },
                "answers": {str(status): count for status, count in sorted(self.answers.items())},
                "faults": {str(fault): self.faults.injected[fault] for fault in Fault},
                "webhooks": {
                    **{
                        name: self.dispatcher.counts[name]
                        for name in (
                            "attempts",
                            "delivered_posts",
                            "duplicated_posts",
                            "refused",
                            "unreachable",
                        )
                    },
                    **self.dispatcher.backlog(),
                },
            },
        )

    async def accepted_summary(self, request: Request) -> Response:
        """Answer ``GET /admin/accepted/summary?campaign=``."""
        campaign = request.query_params.get("campaign")
        summary = await asyncio.to_thread(self.log.summary, campaign)
        rejected_rows = await asyncio.to_thread(self.log.rejected_rows, campaign)
        return _json(200, {"campaign": campaign, **asdict(summary), "rejected_rows": rejected_rows})

    async def accepted_duplicates(self, request: Request) -> Response:
        """Answer ``GET /admin/accepted/duplicates?campaign=``: message ids accepted more than once."""
        duplicates = await asyncio.to_thread(self.log.duplicates, request.query_params.get("campaign"))
        return _json(200, {"duplicates": [{"message_id": name, "times": times} for name, times in duplicates.items()]})

    async def accepted_page(self, request: Request) -> Response:
        """Answer ``GET /admin/accepted?campaign=&after=&limit=``: a page, and where the next one starts."""
        after_sequence = _query_integer(request, "after", 0, 0, 2**62)
        limit = _query_integer(request, "limit", 1000, 1, _MAXIMUM_PAGE_ROWS)
        page = await asyncio.to_thread(
            self.log.page, request.query_params.get("campaign"), after_sequence=after_sequence, limit=limit
        )
        rows = [{**asdict(row), "accepted_at": row.accepted_at.isoformat()} for row in page]
        return _json(200, {"rows": rows, "next_after": page[-1].sequence if len(page) == limit else None})

    async def recent_messages(self, request: Request) -> Response:
        """Answer ``GET /admin/recent_messages``: the last accepted messages, put together."""
        messages = [
            {
                "call": {name: document.get(name) for name in ("from", "reply_to")},
                **recipient,
                **put_together(document, recipient),
            }
            for document, recipient in self.recent
        ]
        return _json(200, {"as_of": datetime.fromtimestamp(self._now_ms() / 1000, UTC), "messages": messages})


class _AnsweredTwice(Response):
    """The same answer twice on one connection, as a broken proxy sends it.

    A client that keeps the connection would take the second for the answer to its next request.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.body, answer.status_code, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)
        transport = scope.get("extensions", {}).get(TRANSPORT_EXTENSION, {}).get("transport")
        if transport is not None and not transport.is_closing():
            head = f"HTTP/1.1 {self.status_code} OK\r\ncontent-type: application/json\r\n"
            transport.write(f"{head}content-length: {len(self.body)}\r\n\r\n".encode() + bytes(self.body))


class _BulkEndpoint:
    """``POST /v1/bulk`` as a bare ASGI endpoint: the hot path, and the one that resets connections."""

    def __init__(self, holder: SimulatorHolder) -> None:
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._holder.simulator.bulk(scope, receive, send)


class _AdminAuthorization:
    """Guards the admin API with the same key: a web page must not steer a server on loopback."""

    def __init__(self, app: ASGIApp, holder: SimulatorHolder) -> None:
        self._app = app
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"].startswith("/admin/")
            and not self._holder.simulator.is_authorized(scope)
        ):
            await _unauthorized()(scope, receive, send)
            return
        await self._app(scope, receive, send)


class SimulatorHolder:
    """Where the app finds its simulator, which can only be built once an event loop runs."""

    def __init__(self) -> None:
        self._simulator: Simulator | None = None

    @property
    def simulator(self) -> Simulator:
        """The running simulator."""
        if self._simulator is None:
            raise ConfigurationError("the simulator has not started")
        return self._simulator

    def hold(self, simulator: Simulator | None) -> None:
        """Set or clear the simulator."""
        self._simulator = simulator

    def stop(self) -> None:
        """Stop the simulator where one runs."""
        if self._simulator is not None:
            self._simulator.stop()


def create_app(settings: SimulatorSettings, holder: SimulatorHolder) -> Starlette:
    """Return the ASGI app; its lifespan opens the log and delivers webhooks."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        simulator = Simulator(settings)
        holder.hold(simulator)
        delivery = asyncio.create_task(simulator.dispatcher.run(), name="webhook-delivery")
        try:
            yield
        finally:
            simulator.stop()
            # Bounded by the webhook timeout; what is cut off here is sent again at the next start.
            await asyncio.wait((delivery,), timeout=1.0)
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)
            simulator.reader.close()
            simulator.writer.close()

    def admin(name: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                response: Response = await getattr(holder.simulator, name)(request)
            except ConfigurationError as refusal:
                return _error(400, "ValidationError", str(refusal))
            return response

        return answer

    return Starlette(
        routes=[
            Route("/v1/bulk", _BulkEndpoint(holder), methods=["POST"]),
            Route("/health", admin("health"), methods=["GET"]),
            Route("/admin/faults", admin("get_faults"), methods=["GET"]),
            Route("/admin/faults", admin("put_faults"), methods=["PUT"]),
            Route("/admin/faults", admin("delete_faults"), methods=["DELETE"]),
            Route("/admin/refusals", admin("get_refusals"), methods=["GET"]),
            Route("/admin/refusals", admin("put_refusals"), methods=["PUT"]),
            Route("/admin/refusals", admin("delete_refusals"), methods=["DELETE"]),
            Route("/admin/rate_limit", admin("get_rate_limit"), methods=["GET"]),
            Route("/admin/rate_limit", admin("put_rate_limit"), methods=["PUT"]),
            Route("/admin/webhooks", admin("get_webhooks"), methods=["GET"]),
            Route("/admin/webhooks", admin("put_webhooks"), methods=["PUT"]),
            Route("/admin/statistics", admin("statistics"), methods=["GET"]),
            Route("/admin/accepted/summary", admin("accepted_summary"), methods=["GET"]),
            Route("/admin/accepted/duplicates", admin("accepted_duplicates"), methods=["GET"]),
            Route("/admin/accepted", admin("accepted_page"), methods=["GET"]),
            Route("/admin/recent_messages", admin("recent_messages"), methods=["GET"]),
        ],
        middleware=[Middleware(_AdminAuthorization, holder=holder)],
        lifespan=lifespan,
    )


def _unauthorized() -> Response:
    return _error(
        401,
        "Unauthorized",
        "the API key is missing or wrong",
        headers={"www-authenticate": "Bearer", "connection": "close"},
    )


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def _read_body(receive: Receive, maximum_bytes: int) -> bytes | None:
    """Return the whole body, or None when it is too large.

    A body that is a little too large is drained, so that the client reads the 413 instead of a reset.
    """
    chunks: list[bytes] = []
    size_bytes = 0
    while size_bytes <= maximum_bytes * 4:
        message = await receive()
        if message["type"] != "http.request":
            break
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes <= maximum_bytes:
            chunks.append(chunk)
        if not message.get("more_body", False):
            break
    if size_bytes > maximum_bytes:
        return None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _wait_for_hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_json(request: Request) -> Any:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as broken:
        raise ConfigurationError(f"the body is not JSON: {broken}") from broken


def _query_integer(request: Request, name: str, default: int, lowest: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
        raise ConfigurationError(f"{name}: must be an integer from {lowest} to {highest}")
    return int(text)
