"""Every adapter against a server that answers as its provider documents, failures of the wire included."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import socket
import ssl
import struct
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from email_platform.adapters.providers import CallTimeouts, ProviderAccount, build_provider
from email_platform.adapters.providers.http_status import ON_HTTP_STATUS
from email_platform.adapters.providers.registry import provider_names
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.ports import BulkCall, EmailProvider, RecipientResult
from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    CallThrottledError,
)
from tests.fakes.whole_messages import WholeMessage, call_of

pytestmark = pytest.mark.integration

_SECRET = "key-that-must-never-be-seen"
_ADDRESS = "ann.lee@example.com"
_PATIENT = CallTimeouts(connect_seconds=20, pool_seconds=20, write_seconds=20, read_seconds=20)
_IMPATIENT = CallTimeouts(connect_seconds=20, pool_seconds=20, write_seconds=20, read_seconds=0.2)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


# --- a server that follows its script ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class _Exchange:
    """One request as it comes in; a behaviour reads it and answers, or does not."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes
    server: _ScriptedServer

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    async def read_body(self) -> None:
        body = await self.reader.readexactly(int(self.headers.get("content-length", "0")))
        path = self.head.split(b" ", 2)[1].decode()
        self.server.requests.append(_Request(path, self.headers, body))

    async def until_hang_up(self) -> None:
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.writer.transport.abort()


_Behaviour = Callable[[_Exchange], Awaitable[bool]]
"""Returns whether the connection stays open for another request."""


@dataclass(frozen=True)
class _Answer:
    status: int
    document: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    promised_bytes_more: int = 0

    async def __call__(self, exchange: _Exchange) -> bool:
        await exchange.read_body()
        text = self.document if isinstance(self.document, str) else json.dumps(self.document)
        body = text.encode()
        headers = {
            "date": "Tue, 24 Nov 2026 20:00:00 GMT",
            "content-type": "application/json",
            "content-length": str(len(body) + self.promised_bytes_more),
            **self.headers,
        }
        if closes := exchange.headers.get("connection", "").lower() == "close":
            headers["connection"] = "close"
        head = f"HTTP/1.1 {self.status} As Asked\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        exchange.writer.write(head.encode() + b"\r\n" + body)
        await exchange.writer.drain()
        return self.promised_bytes_more == 0 and not closes


def _twice(answer: _Answer) -> _Behaviour:
    """The same answer again when the client has had time to take the connection for idle, as a broken proxy does."""

    async def behave(exchange: _Exchange) -> bool:
        await answer(exchange)
        with suppress(ConnectionError):
            await asyncio.sleep(0.05)
            head = f"HTTP/1.1 {answer.status} As Asked\r\ncontent-type: application/json\r\n"
            body = json.dumps(answer.document).encode()
            exchange.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await exchange.until_hang_up()
        return False

    return behave


async def _reset_before_reading(exchange: _Exchange) -> bool:
    exchange.server.requests.append(_Request("", exchange.headers, b""))
    exchange.reset()
    return False


async def _reset_after_reading(exchange: _Exchange) -> bool:
    await exchange.read_body()
    exchange.reset()
    return False


async def _close_without_answer(exchange: _Exchange) -> bool:
    await exchange.read_body()
    return False


async def _never_answer(exchange: _Exchange) -> bool:
    await exchange.read_body()
    exchange.server.holding.set()
    await exchange.until_hang_up()
    return False


async def _stop_reading(exchange: _Exchange) -> bool:
    exchange.server.requests.append(_Request("", exchange.headers, b""))
    await exchange.server.released()
    return False


async def _talk_nonsense(exchange: _Exchange) -> bool:
    await exchange.read_body()
    exchange.writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
    await exchange.writer.drain()
    return False


def _answer_when_released(answer: _Answer) -> _Behaviour:
    async def behave(exchange: _Exchange) -> bool:
        exchange.server.holding.set()
        await exchange.server.released()
        return await answer(exchange)

    return behave


class _ScriptedServer:
    """Meets the n-th request with the n-th behaviour of its script, in a thread of its own."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: list[_Behaviour] = []
        self.requests: list[_Request] = []
        self.connections = 0
        self.holding = threading.Event()
        self.idle = threading.Event()
        self._release = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server = self._await(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls))
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    def _await(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(20)

    def release(self) -> None:
        self._release.set()

    async def released(self) -> None:
        await asyncio.to_thread(self._release.wait, 20)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        try:
            stays = True
            while stays:
                head = await reader.readuntil(b"\r\n\r\n")
                stays = await self.script.pop(0)(_Exchange(reader, writer, head, self))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client hung up, or the test is over
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            self._handlers.discard(task)
            if not self._handlers:
                self.idle.set()

    def close(self) -> None:
        self._release.set()

        async def end() -> None:
            self._server.close()
            for task in list(self._handlers):
                task.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)
            await asyncio.get_running_loop().shutdown_default_executor()

        self._await(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


@pytest.fixture
def server() -> Iterator[_ScriptedServer]:
    scripted = _ScriptedServer()
    yield scripted
    scripted.close()


# --- what each provider documents -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dialect:
    """One provider's documented answers.

    Attributes:
        accepted: a call of two, both accepted, with `accepted_ids`.
        refused_recipient: a call of two, the second refused, with its code; None where the provider has no
            per-recipient result and refuses the call instead.
        deferred: a call of two, the second not accepted for the account's sake.
        throttled_wholly: all recipients of a 200 refused for the moment.
    """

    name: str
    account: ProviderAccount
    accepted: _Answer
    accepted_ids: tuple[str, str]
    throttled: _Answer
    throttled_seconds: float | None
    rejected: _Answer
    unauthorized: _Answer
    account_refused: tuple[_Answer, ...]
    unknown: tuple[_Answer, ...]
    not_accepted: tuple[_Answer, ...] = ()
    refused_recipient: _Answer | None = None
    refused_code: str = ""
    deferred: _Answer | None = None
    deferred_code: str = ""
    throttled_wholly: _Answer | None = None
    credential_header: str = "authorization"


def _ses_error(status: int, kind: str, message: str) -> _Answer:
    return _Answer(status, {"message": message}, {"x-amzn-errortype": kind})


def _ses_results(*entries: dict[str, str]) -> _Answer:
    return _Answer(200, {"BulkEmailEntryResults": list(entries)})


def _resend_error(status: int, name: str, message: str = "as documented") -> _Answer:
    return _Answer(status, {"statusCode": status, "name": name, "message": message})


def _postmark_error(status: int, code: int, message: str = "as documented") -> _Answer:
    return _Answer(status, {"ErrorCode": code, "Message": message})


def _simulator_error(status: int, code: str, message: str = "as documented", **fields: Any) -> _Answer:
    return _Answer(status, {"error": {"code": code, "message": message, **fields}}, {"retry-after": "3"})


def _postmark_entry(code: int, message: str = "OK") -> dict[str, object]:
    entry: dict[str, object] = {"ErrorCode": code, "Message": message, "To": _ADDRESS}
    return {**entry, "MessageID": "b7bc2f4a-e38e"} if code == 0 else entry


def _sendgrid_error(*complaints: tuple[str | None, str]) -> _Answer:
    return _Answer(400, {"errors": [{"message": words, "field": name, "help": None} for name, words in complaints]})


def _not_verified(index: int) -> dict[str, object]:
    return {"index": index, "message": "The example.org domain is not verified. Please, add and verify your domain."}


def _odd_field(index: int) -> dict[str, object]:
    return {"index": index, "message": "Invalid `subject` field"}


_REFUSED_SENDER = (
    "Email address is not verified. The following identities failed the check in region US-EAST-1: news@example.com"
)
_KEY = SecretStr(_SECRET)
_SES_ACCEPTED = {"Status": "SUCCESS", "MessageId": "0100018f-a"}

_DIALECTS = (
    _Dialect(
        name="simulator",
        account=ProviderAccount(api_key=_KEY),
        accepted=_Answer(
            200,
            {
                "results": [
                    {"status": "accepted", "provider_message_id": "m-0"},
                    {"status": "accepted", "provider_message_id": "m-1"},
                ]
            },
        ),
        accepted_ids=("m-0", "m-1"),
        refused_recipient=_Answer(
            200,
            {
                "results": [
                    {"status": "accepted", "provider_message_id": "m-0"},
                    {"status": "rejected", "code": "InvalidAddress", "message": f"{_ADDRESS} is not a mailbox"},
                ]
            },
        ),
        refused_code="InvalidAddress",
        throttled=_simulator_error(429, "Throttled", retry_after_seconds=2.25),
        throttled_seconds=2.25,
        rejected=_simulator_error(400, "ValidationError", f"recipients[0].to: {_ADDRESS}"),
        unauthorized=_simulator_error(401, "Unauthorized", f"key {_SECRET} is unknown"),
        account_refused=(_simulator_error(403, "AccountSuspended"), _Answer(404, "Not Found")),
        unknown=(
            _simulator_error(500, "InternalFailure"),
            _simulator_error(409, "idempotency_in_flight"),
            _simulator_error(409, "idempotency_key_reused"),
            _Answer(502, "<html>Bad Gateway</html>"),
            _Answer(503, "<html>Service Unavailable</html>"),
        ),
        not_accepted=(_simulator_error(503, "ServiceUnavailable"),),
    ),
    _Dialect(
        name="ses",
        account=ProviderAccount(region="eu-west-1", access_key_id=SecretStr("AKIDEXAMPLE"), secret_access_key=_KEY),
        accepted=_ses_results(_SES_ACCEPTED, {"Status": "SUCCESS", "MessageId": "0100018f-b"}),
        accepted_ids=("0100018f-a", "0100018f-b"),
        refused_recipient=_ses_results(
            _SES_ACCEPTED, {"Status": "MESSAGE_REJECTED", "Error": f"{_ADDRESS} got a virus"}
        ),
        refused_code="MESSAGE_REJECTED",
        deferred=_ses_results(_SES_ACCEPTED, {"Status": "ACCOUNT_THROTTLED", "Error": "rate exceeded"}),
        deferred_code="ACCOUNT_THROTTLED",
        throttled_wholly=_ses_results(*[{"Status": "ACCOUNT_THROTTLED", "Error": "rate exceeded"}] * 2),
        throttled=_ses_error(429, "TooManyRequestsException", "Maximum sending rate exceeded."),
        throttled_seconds=None,
        rejected=_ses_error(400, "BadRequestException", f"Illegal address {_ADDRESS}"),
        unauthorized=_ses_error(403, "UnrecognizedClientException", f"The token {_SECRET} is invalid."),
        account_refused=(
            _ses_error(400, "AccountSuspendedException", "restricted"),
            _ses_error(400, "SendingPausedException", "paused"),
            _ses_error(400, "MailFromDomainNotVerifiedException", "not verified"),
            _ses_error(404, "NotFoundException", "Configuration set <x> does not exist"),
            _ses_error(429, "TooManyRequestsException", "Daily message quota exceeded."),
            _ses_results(*[{"Status": "ACCOUNT_SENDING_PAUSED"}] * 2),
        ),
        unknown=(
            _ses_error(500, "InternalFailure", "failed"),
            _ses_error(503, "ServiceUnavailable", "temporary failure of the server"),
            _ses_results(_SES_ACCEPTED),
            _Answer(502, "<html>Bad Gateway</html>"),
        ),
    ),
    _Dialect(
        name="sendgrid",
        account=ProviderAccount(api_key=_KEY, template_id="d-1234"),
        accepted=_Answer(202, "", {"x-message-id": "sg-14c5d75ce93"}),
        accepted_ids=("sg-14c5d75ce93", "sg-14c5d75ce93"),
        throttled=_Answer(
            429,
            {"errors": [{"field": None, "message": "too many requests"}]},
            {"x-ratelimit-reset": "1795550407", "x-ratelimit-remaining": "0"},
        ),
        throttled_seconds=7.0,
        rejected=_Answer(
            400,
            {"errors": [{"message": f"{_ADDRESS} is no address.", "field": "personalizations.0.to", "help": None}]},
        ),
        unauthorized=_Answer(401, {"errors": [{"message": f"the grant {_SECRET} is invalid", "field": None}]}),
        account_refused=(_Answer(403, {"errors": [{"message": "not a verified Sender Identity"}]}),),
        unknown=(_Answer(500, {"errors": []}), _Answer(503, "upstream"), _Answer(504, "<html>Timeout</html>")),
    ),
    _Dialect(
        name="postmark",
        account=ProviderAccount(api_key=_KEY),
        accepted=_Answer(200, [_postmark_entry(0), {**_postmark_entry(0), "MessageID": "e2ecbbfc"}]),
        accepted_ids=("b7bc2f4a-e38e", "e2ecbbfc"),
        refused_recipient=_Answer(200, [_postmark_entry(0), _postmark_entry(406, f"{_ADDRESS} is inactive")]),
        refused_code="406",
        deferred=_Answer(200, [_postmark_entry(0), _postmark_entry(405, "not allowed to send")]),
        deferred_code="405",
        throttled_wholly=_Answer(200, [_postmark_entry(429), _postmark_entry(429)]),
        throttled=_postmark_error(429, 429, "Rate Limit Exceeded"),
        throttled_seconds=None,
        rejected=_postmark_error(422, 402, f"Invalid JSON near {_ADDRESS}"),
        unauthorized=_postmark_error(401, 10, f"No Account or Server API tokens like {_SECRET}"),
        account_refused=(
            _postmark_error(422, 405),
            _postmark_error(422, 412),
            _Answer(200, [_postmark_entry(401), _postmark_entry(401)]),
        ),
        unknown=(_postmark_error(500, 0), _Answer(503, ""), _Answer(200, [_postmark_entry(0)]), _Answer(200, "[")),
        not_accepted=(_postmark_error(503, 100, "Maintenance"),),
        credential_header="x-postmark-server-token",
    ),
    _Dialect(
        name="resend",
        account=ProviderAccount(api_key=_KEY),
        accepted=_Answer(200, {"data": [{"id": "ae2014de"}, {"id": "faccb7a5"}]}),
        accepted_ids=("ae2014de", "faccb7a5"),
        refused_recipient=_Answer(
            200,
            {"data": [{"id": "ae2014de"}], "errors": [{"index": 1, "message": f"Invalid `to` field {_ADDRESS}"}]},
        ),
        refused_code="validation_error",
        throttled=replace(_resend_error(429, "rate_limit_exceeded"), headers={"retry-after": "1"}),
        throttled_seconds=1.0,
        rejected=_resend_error(422, "validation_error", f"{_ADDRESS} is wrong"),
        unauthorized=_resend_error(403, "invalid_api_key", f"API key {_SECRET} is invalid"),
        account_refused=(
            _resend_error(401, "missing_api_key"),
            _resend_error(429, "daily_quota_exceeded"),
            _resend_error(429, "monthly_quota_exceeded"),
            _resend_error(422, "invalid_from_address"),
        ),
        unknown=(
            _resend_error(409, "concurrent_idempotent_requests"),
            _resend_error(409, "invalid_idempotent_request"),
            _resend_error(500, "application_error"),
            _Answer(200, {"data": [{"id": "ae2014de"}]}),
        ),
    ),
    _Dialect(
        name="mailgun",
        account=ProviderAccount(api_key=_KEY, domain="mg.example.com"),
        accepted=_Answer(200, {"id": "<2016.116301@mg.example.com>", "message": "Queued. Thank you."}),
        accepted_ids=("<2016.116301@mg.example.com>",) * 2,
        throttled=_Answer(429, {"message": "too many requests"}, {"retry-after": "Tue, 24 Nov 2026 20:00:09 GMT"}),
        throttled_seconds=9.0,
        rejected=_Answer(400, {"message": f"'to' parameter is not a valid address: {_ADDRESS}"}),
        unauthorized=_Answer(401, f"Forbidden {_SECRET}"),
        account_refused=(
            _Answer(402, {"message": "payment required"}),
            _Answer(404, {"message": "Domain not found: mg.example.com"}),
            _Answer(200, "Mailgun Magnificent API"),
            _Answer(307, "", {"location": "https://elsewhere.example.com/"}),
        ),
        unknown=(_Answer(500, {"message": "Internal Server Error"}), _Answer(200, {"message": "Queued."})),
    ),
)
_HTTP_DIALECTS = tuple(dialect for dialect in _DIALECTS if dialect.name != "ses")


def _call(text: str = "hello", *, recipients: int = 2) -> BulkCall:
    addresses = (_ADDRESS, *(f"bob{number or ''}@example.com" for number in range(recipients - 1)))
    return call_of(
        *(
            WholeMessage(
                lead_id=lead_id,
                message_id=message_id(7, lead_id),
                address=address,
                subject=f"Dear {lead_id} ✓",
                html=f"<p>{text}</p>",
                text=text,
                headers={
                    "List-Unsubscribe": f"<https://example.org/u/{lead_id}>",
                    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
                },
            )
            for lead_id, address in enumerate(addresses, start=1)
        ),
        call_id=call_id(7, 3, 0),
        campaign_id=7,
        from_address="news@example.org",
        from_name="News, Žluť",
        reply_to="answers@example.org",
        tags={"variant": "a"},
    )


def _provider(
    dialect: _Dialect, url: str, timeouts: CallTimeouts = _PATIENT, max_connections: int = 4
) -> EmailProvider:
    return build_provider(
        dialect.name,
        replace(dialect.account, base_url=url),
        timeouts=timeouts,
        max_connections=max_connections,
    )


def _send(
    dialect: _Dialect, url: str, timeouts: CallTimeouts = _PATIENT, *, times: int = 1, text: str = "hello"
) -> tuple[RecipientResult, ...]:
    async def run() -> tuple[RecipientResult, ...]:
        provider = _provider(dialect, url, timeouts)
        try:
            call = provider.encode(_call(text))
            for _ in range(times - 1):
                await provider.send(call)
            return await provider.send(call)
        finally:
            await provider.aclose()

    return asyncio.run(run())


def _dialect_of(name: str) -> _Dialect:
    return next(dialect for dialect in _DIALECTS if dialect.name == name)


def _named(dialect: _Dialect) -> str:
    return dialect.name


def _cases(field_name: str) -> list[Any]:
    return [
        pytest.param(dialect, answer, id=f"{dialect.name}-{position}-{answer.status}")
        for dialect in _DIALECTS
        for position, answer in enumerate(getattr(dialect, field_name))
    ]


def _having(field_name: str) -> list[_Dialect]:
    return [dialect for dialect in _DIALECTS if getattr(dialect, field_name) is not None]


def test_every_known_provider_is_covered_here() -> None:
    assert {dialect.name for dialect in _DIALECTS} == set(provider_names())
    assert {name for name, *_ in _BLAMES} == set(provider_names())


@pytest.fixture(params=_DIALECTS, ids=_named)
def dialect(request: pytest.FixtureRequest) -> _Dialect:
    value = request.param
    assert isinstance(value, _Dialect)
    return value


class TestAnswers:
    """What the provider answers is classified as its documentation says, for every adapter alike."""

    def test_accepted_recipients_carry_the_providers_ids_in_order(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        server.script = [dialect.accepted]
        results = _send(dialect, server.url)
        assert [result.status for result in results] == ["accepted", "accepted"]
        assert tuple(result.provider_message_id for result in results) == dialect.accepted_ids

    def test_whoever_watches_a_call_learns_the_status_of_its_answer_and_nobody_after_it(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        server.script = [dialect.accepted, dialect.throttled, dialect.accepted]
        seen: list[int] = []
        token = ON_HTTP_STATUS.set(seen.append)
        try:
            _send(dialect, server.url)
            with pytest.raises(CallThrottledError):
                _send(dialect, server.url)
        finally:
            ON_HTTP_STATUS.reset(token)
        _send(dialect, server.url)
        assert seen == [dialect.accepted.status, dialect.throttled.status]

    def test_every_call_carries_the_credential_and_the_correlation_ids(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        server.script = [dialect.accepted]
        _send(dialect, server.url)
        (request,) = server.requests
        assert request.headers[dialect.credential_header]
        for lead_id in (1, 2):
            assert str(message_id(7, lead_id)).encode() in request.body
            assert f"https://example.org/u/{lead_id}".encode() in request.body
        assert str(call_id(7, 3, 0)).encode() in request.body
        assert b"List-Unsubscribe=One-Click" in request.body

    # SendGrid and Mailgun are not among them: there an invalid address refuses the call.
    @pytest.mark.parametrize("dialect", _having("refused_recipient"), ids=_named)
    def test_a_refused_recipient_leaves_the_others_accepted(self, dialect: _Dialect, server: _ScriptedServer) -> None:
        assert dialect.refused_recipient is not None
        server.script = [dialect.refused_recipient]
        accepted, rejected = _send(dialect, server.url)
        assert accepted.status == "accepted"
        assert (rejected.status, rejected.error_code) == ("rejected", dialect.refused_code)
        assert rejected.error_message
        assert _ADDRESS not in rejected.error_message

    @pytest.mark.parametrize("dialect", _having("deferred"), ids=_named)
    def test_a_recipient_refused_for_the_accounts_sake_is_marked_as_deferred(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        assert dialect.deferred is not None
        server.script = [dialect.deferred]
        accepted, deferred = _send(dialect, server.url)
        assert accepted.status == "accepted"
        assert (deferred.status, deferred.error_code) == ("deferred", dialect.deferred_code)

    @pytest.mark.parametrize("dialect", _having("throttled_wholly"), ids=_named)
    def test_a_call_of_which_every_recipient_is_throttled_is_throttled(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        assert dialect.throttled_wholly is not None
        server.script = [dialect.throttled_wholly]
        with pytest.raises(CallThrottledError):
            _send(dialect, server.url)

    def test_a_throttled_call_says_how_long_to_wait(self, dialect: _Dialect, server: _ScriptedServer) -> None:
        server.script = [dialect.throttled]
        with pytest.raises(CallThrottledError) as caught:
            _send(dialect, server.url)
        assert caught.value.retry_after_seconds == dialect.throttled_seconds

    def test_a_refused_call_is_rejected_without_quoting_the_address(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        server.script = [dialect.rejected]
        with pytest.raises(CallRejectedError) as caught:
            _send(dialect, server.url)
        assert caught.value.code
        assert _ADDRESS not in _shown(caught.value)

    def test_wrong_credentials_refuse_the_account_without_showing_them(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        server.script = [dialect.unauthorized]
        with pytest.raises(AccountRefusedError) as caught:
            _send(dialect, server.url)
        assert _SECRET not in _shown(caught.value)

    @pytest.mark.parametrize(("dialect", "answer"), _cases("account_refused"))
    def test_an_account_that_cannot_send_is_refused(
        self, dialect: _Dialect, answer: _Answer, server: _ScriptedServer
    ) -> None:
        server.script = [answer]
        with pytest.raises(AccountRefusedError):
            _send(dialect, server.url)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(("dialect", "answer"), _cases("unknown"))
    def test_an_answer_that_promises_nothing_is_unknown(
        self, dialect: _Dialect, answer: _Answer, server: _ScriptedServer
    ) -> None:
        server.script = [answer]
        with pytest.raises(CallOutcomeUnknownError):
            _send(dialect, server.url)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(("dialect", "answer"), _cases("not_accepted"))
    def test_an_answer_that_promises_that_nothing_was_accepted_is_believed(
        self, dialect: _Dialect, answer: _Answer, server: _ScriptedServer
    ) -> None:
        server.script = [answer]
        with pytest.raises(CallNotAcceptedError):
            _send(dialect, server.url)
        assert len(server.requests) == 1

    def test_a_call_of_which_ses_takes_nobody_for_the_moment_is_deferred_one_by_one(
        self, server: _ScriptedServer
    ) -> None:
        server.script = [_ses_results(*[{"Status": "TRANSIENT_FAILURE"}] * 2)]
        ses = next(dialect for dialect in _DIALECTS if dialect.name == "ses")
        assert [result.status for result in _send(ses, server.url)] == ["deferred"] * 2


_BLAMES: list[tuple[str, _Answer, str]] = [
    ("simulator", _simulator_error(400, "InvalidRecipient"), "recipient"),
    ("simulator", _simulator_error(400, "TooManyRecipients"), "size"),
    ("simulator", _simulator_error(413, "BodyTooLarge"), "size"),
    ("simulator", _simulator_error(400, "ValidationError"), "unlisted"),
    ("simulator", _simulator_error(400, "SenderNotVerified"), "account"),
    ("ses", _ses_error(400, "MessageRejected", _REFUSED_SENDER), "account"),
    ("ses", _ses_error(400, "MessageRejected", "the message contains a virus"), "unlisted"),
    ("ses", _ses_error(400, "BadRequestException", "Missing final '@domain'"), "unlisted"),
    ("ses", _ses_error(400, "LimitExceededException", "too many"), "account"),
    ("ses", _ses_error(413, "", "Request Entity Too Large"), "size"),
    ("ses", _ses_results(*[{"Status": "MESSAGE_REJECTED", "Error": _REFUSED_SENDER}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "MAIL_FROM_DOMAIN_NOT_VERIFIED"}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "CONFIGURATION_SET_NOT_FOUND"}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "CONFIGURATION_SET_SENDING_PAUSED"}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "TEMPLATE_NOT_FOUND"}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "INVALID_SENDING_POOL_NAME"}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "ACCOUNT_SUSPENDED"}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "ACCOUNT_DAILY_QUOTA_EXCEEDED"}] * 2), "account"),
    ("ses", _ses_results(*[{"Status": "INVALID_PARAMETER", "Error": "Missing final '@domain'"}] * 2), "unlisted"),
    ("ses", _ses_results(*[{"Status": "FAILED"}] * 2), "unlisted"),
    ("sendgrid", _sendgrid_error(("personalizations.1.to.0.email", "not a valid address")), "recipient"),
    ("sendgrid", _sendgrid_error(("personalizations.0.to", "required"), ("from.email", "not valid")), "account"),
    ("sendgrid", _sendgrid_error(("personalizations.0.to", "required"), ("content.0.value", "short")), "unlisted"),
    ("sendgrid", _sendgrid_error(("from", "The from email does not contain a valid address.")), "account"),
    ("sendgrid", _sendgrid_error(("template_id", "The template_id must be a valid GUID")), "account"),
    ("sendgrid", _sendgrid_error(("personalizations", "The block is limited to 1000 personalizations")), "size"),
    ("sendgrid", _sendgrid_error(("personalizations.0.substitutions", "must be strings")), "unlisted"),
    ("sendgrid", _sendgrid_error((None, "Bad Request")), "unlisted"),
    ("sendgrid", _Answer(413, "<html>Request Entity Too Large</html>"), "size"),
    ("sendgrid", _Answer(451, {"errors": [{"message": "data residency", "field": None}]}), "account"),
    ("sendgrid", _Answer(401, {"errors": [{"message": "Maximum credits exceeded", "field": None}]}), "account"),
    (
        "sendgrid",
        _Answer(403, {"errors": [{"message": "from does not match", "field": "personalizations.0.to"}]}),
        "account",
    ),
    (
        "postmark",
        _postmark_error(422, 300, "Invalid 'From' address: 'a' is not a verified sender signature."),
        "account",
    ),
    ("postmark", _postmark_error(422, 300, "Invalid 'To' address"), "unlisted"),
    ("postmark", _postmark_error(422, 410, "Too many batch messages"), "size"),
    ("postmark", _postmark_error(422, 400, "Sender Signature not found"), "account"),
    ("postmark", _postmark_error(422, 413, "Account may not send"), "account"),
    ("postmark", _Answer(413, "<html>Payload Too Large</html>"), "size"),
    ("postmark", _Answer(200, [_postmark_entry(300, "Invalid 'From' address")] * 2), "account"),
    ("postmark", _Answer(200, [_postmark_entry(300, "Illegal email address")] * 2), "unlisted"),
    ("postmark", _Answer(200, [_postmark_entry(412)] * 2), "account"),
    ("resend", _resend_error(422, "validation_error", "Invalid `to` field. The email address needs to …"), "recipient"),
    ("resend", _resend_error(422, "validation_error", "Invalid `to` field. Please use our testing email"), "account"),
    ("resend", _resend_error(422, "validation_error", "Invalid `from` field."), "account"),
    ("resend", _resend_error(400, "validation_error", "API key is invalid"), "account"),
    ("resend", _resend_error(403, "validation_error", "You can only send testing emails to your own"), "account"),
    ("resend", _resend_error(403, "validation_error", "The example.org domain is not verified."), "account"),
    ("resend", _resend_error(422, "validation_error", "something else"), "unlisted"),
    ("resend", _resend_error(422, "missing_required_field", "Missing `subject` field"), "unlisted"),
    ("resend", _resend_error(451, "security_error", "We may have found a security issue"), "unlisted"),
    ("resend", _Answer(413, ""), "size"),
    ("resend", _Answer(200, {"data": [], "errors": [_not_verified(0), _not_verified(1)]}), "account"),
    ("resend", _Answer(200, {"data": [], "errors": [_odd_field(0), _odd_field(1)]}), "unlisted"),
    (
        "mailgun",
        _Answer(400, {"message": "'to' parameter is not a valid address. please check documentation"}),
        "recipient",
    ),
    ("mailgun", _Answer(400, {"message": "'from' parameter is not a valid address"}), "account"),
    ("mailgun", _Answer(400, {"message": "Too many recipients; max is 1000"}), "size"),
    ("mailgun", _Answer(400, {"message": "Header name must be pure ASCII"}), "unlisted"),
    ("mailgun", _Answer(400, {"message": "Domain mg.example.com is not allowed to send: probation"}), "account"),
    ("mailgun", _Answer(403, {"message": "Sandbox subdomains are for test purposes only."}), "account"),
    ("mailgun", _Answer(400, {"message": "Domain not found: mg.example.com"}), "account"),
    ("mailgun", _Answer(413, ""), "size"),
]


class TestBlame:
    """Whose fault a refusal is, by each provider's own table; nothing is booked on recipients that is not theirs."""

    @pytest.mark.parametrize(
        ("name", "answer", "blame"),
        [pytest.param(*case, id=f"{case[0]}-{case[2]}-{number}") for number, case in enumerate(_BLAMES)],
    )
    def test_a_refused_call_says_whose_fault_it_is(
        self, name: str, answer: _Answer, blame: str, server: _ScriptedServer
    ) -> None:
        server.script = [answer]
        with pytest.raises((CallRejectedError, AccountRefusedError)) as caught:
            _send(_dialect_of(name), server.url)
        refused = caught.value
        assert (refused.blame if isinstance(refused, CallRejectedError) else "account") == blame

    def test_sendgrid_names_the_culprits_and_only_where_nobody_else_is_blamed(self, server: _ScriptedServer) -> None:
        server.script = [_sendgrid_error(("personalizations.1.to.0.email", "x"), ("personalizations.0.to", "y"))]
        with pytest.raises(CallRejectedError) as caught:
            _send(_dialect_of("sendgrid"), server.url)
        assert caught.value.culprits == {0, 1}
        assert caught.value.code == "personalizations.to.email"
        server.script = [_sendgrid_error(("personalizations.1.to", "x"), ("subject", "required"))]
        with pytest.raises(CallRejectedError) as caught:
            _send(_dialect_of("sendgrid"), server.url)
        assert (caught.value.blame, caught.value.culprits) == ("unlisted", frozenset())

    @pytest.mark.parametrize(
        ("name", "answer", "status", "account_refused"),
        [
            ("ses", _ses_results(_SES_ACCEPTED, {"Status": "ACCOUNT_SUSPENDED"}), "deferred", True),
            ("ses", _ses_results(_SES_ACCEPTED, {"Status": "MAIL_FROM_DOMAIN_NOT_VERIFIED"}), "deferred", True),
            (
                "ses",
                _ses_results(_SES_ACCEPTED, {"Status": "MESSAGE_REJECTED", "Error": _REFUSED_SENDER}),
                "deferred",
                True,
            ),
            ("ses", _ses_results(_SES_ACCEPTED, {"Status": "INVALID_PARAMETER"}), "rejected", False),
            ("ses", _ses_results(_SES_ACCEPTED, {"Status": "FAILED"}), "deferred", False),
            ("ses", _ses_results(_SES_ACCEPTED, {"Status": "A_STATUS_OF_TOMORROW"}), "deferred", False),
            ("postmark", _Answer(200, [_postmark_entry(0), _postmark_entry(300)]), "rejected", False),
            ("postmark", _Answer(200, [_postmark_entry(0), _postmark_entry(405)]), "deferred", True),
            ("postmark", _Answer(200, [_postmark_entry(0), _postmark_entry(9999)]), "deferred", False),
            ("resend", _Answer(200, {"data": [{"id": "a"}], "errors": [_odd_field(1)]}), "rejected", False),
            ("resend", _Answer(200, {"data": [{"id": "a"}], "errors": [_not_verified(1)]}), "deferred", True),
        ],
    )
    def test_a_refused_entry_is_booked_on_the_recipient_only_where_it_is_his(
        self, name: str, answer: _Answer, status: str, account_refused: bool, server: _ScriptedServer
    ) -> None:
        server.script = [answer]
        accepted, other = _send(_dialect_of(name), server.url)
        assert accepted.status == "accepted"
        assert (other.status, other.account_refused) == (status, account_refused)

    def test_an_inactive_recipient_of_postmark_is_his_own_fault_also_alone(self, server: _ScriptedServer) -> None:
        server.script = [_Answer(200, [_postmark_entry(406), _postmark_entry(300)])]
        inactive, unclear = _send(_dialect_of("postmark"), server.url)
        assert (inactive.status, unclear.status) == ("rejected", "deferred")


class TestWire:
    """What the wire does is classified alike for every adapter, and no failure makes a second request."""

    def test_a_refused_connection_is_not_accepted(self, dialect: _Dialect, server: _ScriptedServer) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(CallNotAcceptedError):
                _send(dialect, f"http://127.0.0.1:{unused.getsockname()[1]}")

    def test_an_unknown_host_is_not_accepted(self, dialect: _Dialect) -> None:
        with pytest.raises(CallNotAcceptedError):
            _send(dialect, "https://provider.invalid")

    def test_a_certificate_that_nobody_vouches_for_is_not_accepted(self, dialect: _Dialect, tmp_path: Path) -> None:
        server = _ScriptedServer(_self_signed(tmp_path))
        try:
            with pytest.raises(CallNotAcceptedError):
                _send(dialect, server.url)
            assert server.requests == []
        finally:
            server.close()

    @pytest.mark.parametrize(
        "behaviour",
        [
            _reset_before_reading,
            _reset_after_reading,
            _close_without_answer,
            _talk_nonsense,
            _Answer(200, {"cut": "short"}, promised_bytes_more=10),
            _Answer(500, {"cut": "short"}, promised_bytes_more=10),
        ],
        ids=["reset-before", "reset-after", "closed", "nonsense", "cut-200", "cut-500"],
    )
    def test_a_connection_lost_after_the_request_began_is_unknown(
        self, dialect: _Dialect, behaviour: _Behaviour, server: _ScriptedServer
    ) -> None:
        server.script = [behaviour]
        with pytest.raises(CallOutcomeUnknownError):
            _send(dialect, server.url)
        assert len(server.requests) == 1

    def test_no_answer_in_time_is_unknown(self, dialect: _Dialect, server: _ScriptedServer) -> None:
        server.script = [_never_answer]
        with pytest.raises(CallOutcomeUnknownError):
            _send(dialect, server.url, _IMPATIENT)
        assert len(server.requests) == 1

    def test_every_call_has_a_connection_of_its_own_on_which_nothing_else_is_taken_for_its_answer(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        stale = dialect.refused_recipient or dialect.rejected
        server.script = [_twice(stale), dialect.accepted]

        async def run() -> tuple[RecipientResult, ...]:
            provider = _provider(dialect, server.url)
            try:
                call = provider.encode(_call())
                with suppress(CallRejectedError):
                    await provider.send(call)
                return await provider.send(call)
            finally:
                await provider.aclose()

        assert tuple(result.provider_message_id for result in asyncio.run(run())) == dialect.accepted_ids
        assert server.connections == 2

    def test_the_same_call_sent_again_is_the_same_request(self, dialect: _Dialect, server: _ScriptedServer) -> None:
        server.script = [dialect.accepted, dialect.accepted]
        _send(dialect, server.url, times=2)
        first, second = server.requests
        assert first.body == second.body
        assert first.headers.get("idempotency-key") == second.headers.get("idempotency-key")
        assert first.headers["content-type"] == second.headers["content-type"]

    def test_a_shielded_call_ends_although_its_awaiter_is_cancelled(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        server.script = [_answer_when_released(dialect.accepted)]

        async def run() -> tuple[RecipientResult, ...]:
            provider = _provider(dialect, server.url)
            try:
                call = asyncio.ensure_future(provider.send(provider.encode(_call())))
                awaiter = asyncio.ensure_future(_shielded(call))
                await asyncio.to_thread(server.holding.wait, 20)
                awaiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await awaiter
                server.release()
                return await call
            finally:
                await provider.aclose()

        results = asyncio.run(run())
        assert tuple(result.provider_message_id for result in results) == dialect.accepted_ids


@pytest.mark.parametrize("dialect", _HTTP_DIALECTS, ids=_named)
class TestHttpTransport:
    """What only the httpx adapters have."""

    def test_no_free_connection_in_time_is_not_accepted(self, dialect: _Dialect, server: _ScriptedServer) -> None:
        server.script = [_answer_when_released(dialect.accepted)]
        timeouts = replace(_PATIENT, pool_seconds=0.2)

        async def run() -> None:
            provider = _provider(dialect, server.url, timeouts, max_connections=1)
            try:
                call = provider.encode(_call())
                first = asyncio.ensure_future(provider.send(call))
                await asyncio.to_thread(server.holding.wait, 20)
                with pytest.raises(CallNotAcceptedError):
                    await provider.send(call)
                server.release()
                await first
            finally:
                await provider.aclose()

        asyncio.run(run())
        assert len(server.requests) == 1

    def test_a_peer_that_stops_reading_cannot_hold_the_call_for_ever(
        self, dialect: _Dialect, server: _ScriptedServer
    ) -> None:
        server.script = [_stop_reading]
        timeouts = CallTimeouts(connect_seconds=0.2, pool_seconds=0.2, write_seconds=0.2, read_seconds=0.2)

        async def run() -> None:
            provider = _provider(dialect, server.url, timeouts)
            try:
                # More than sockets hold, in messages that every provider takes.
                part_bytes = min(12_000_000, provider.limits.body_bytes or 12_000_000) * 4 // 5 // 20
                with pytest.raises(CallOutcomeUnknownError):
                    await provider.send(provider.encode(_call("x" * part_bytes, recipients=10)))
                assert not server.idle.is_set(), "the peer hung up by itself"
                # The connection still holds what the peer did not take; it ends when the peer hangs up.
                server.release()
                await asyncio.to_thread(server.idle.wait, 20)
                for _ in range(5):
                    await asyncio.sleep(0)
            finally:
                await provider.aclose()

        asyncio.run(run())
        assert len(server.requests) == 1

    def test_an_environments_proxy_and_a_servers_cookies_are_ignored(
        self, dialect: _Dialect, server: _ScriptedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        answer = replace(dialect.accepted, headers={**dialect.accepted.headers, "x-other": "1"})
        server.script = [answer, answer]
        _send(dialect, server.url, times=2)
        assert len(server.requests) == 2

    def test_a_repr_shows_no_secret(self, dialect: _Dialect) -> None:
        account = replace(dialect.account, base_url="https://provider.invalid")

        async def run() -> str:
            provider = build_provider(dialect.name, account)
            try:
                return f"{provider!r} {provider} {account!r}"
            finally:
                await provider.aclose()

        assert _SECRET not in asyncio.run(run())


def _shown(error: BaseException) -> str:
    """What a log shows of the error, causes included."""
    return "".join(traceback.format_exception(error))


async def _shielded(call: asyncio.Future[tuple[RecipientResult, ...]]) -> tuple[RecipientResult, ...]:
    return await asyncio.shield(call)


def _self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_httpx_own_transport_is_classified_by_what_it_says(server: _ScriptedServer) -> None:
    from email_platform.adapters.providers.simulator import SimulatorProvider

    async def run(url: str) -> None:
        provider = SimulatorProvider(base_url=url, api_key=_SECRET, transport=httpx.AsyncHTTPTransport(trust_env=False))
        try:
            await provider.send(provider.encode(_call()))
        finally:
            await provider.aclose()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(CallNotAcceptedError):
            asyncio.run(run(f"http://127.0.0.1:{unused.getsockname()[1]}"))
    server.script = [_close_without_answer]
    with pytest.raises(CallOutcomeUnknownError):
        asyncio.run(run(server.url))
