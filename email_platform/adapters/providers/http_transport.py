"""The one place that opens the way to a provider and makes the one call.

Invariant: one `post_once` puts at most one request on the wire, and a failure is called *not accepted* only
where no byte of the request can have reached the provider.

**Every call has a connection of its own.** On a kept one, bytes that a broken proxy sent after an answer pass for the
answer to the *next* call, and its recipients for accepted: looking at the connection before it is lent helps only if
the bytes have come by then (they had not, once, on a busy machine). And a connection that the server closed while it
was idle looks exactly like one that it closed after accepting: an unknown call, held recipients, for nothing.
(The request says ``Connection: keep-alive`` all the same: after ``close`` aiohttp refuses an answer with anything
behind it, and an accepted call would be unknown.) The price is a handshake for 50 recipients.
``bench/provider_transport.py``, calls of 50 kB to a loopback server, all three in turns in one run on 2 busy cores:

| wire | calls at once | httpx's own pool | aiohttp, connections kept | a connection each |
| --- | --- | --- | --- | --- |
| http | 4 | 623 calls/s | 1,165 | 558 |
| http | 16 | 266 | 1,245 | 718 |
| http | 50 | 96 | 1,358 | 796 |
| https | 4 | 1,100 | 2,710 | 705 |
| https | 16 | 397 | 1,898 | 407 |
| https | 50 | 134 | 1,232 | 379 |

379 calls/s are 19,000 recipients/s and process, many times what accounts of providers allow. The transport is
``httpx_aiohttp.AiohttpTransport``: httpx's own pool loses most of its throughput between 4 and 50 calls. It is used
without ``httpx.AsyncClient`` around it, which took two fifths of the time of a request for what no call may do: follow
redirects, keep cookies, authenticate by asking twice.

How failures map (aiohttp 3.14, httpx-aiohttp 0.2; each row is a test in ``test_provider_contracts.py``):

| what happened | aiohttp's exception | httpx-aiohttp's | outcome |
| --- | --- | --- | --- |
| refused, DNS, TLS handshake or certificate | ClientConnectorError and subclasses | ConnectTimeout | not accepted |
| connect timeout, no free connection in time | ConnectionTimeoutError | ConnectTimeout | not accepted |
| reset while writing or waiting | ClientOSError | ConnectTimeout | unknown |
| closed without an answer | ServerDisconnectedError | ConnectTimeout | unknown |
| no answer in time | SocketTimeoutError | ReadTimeout | unknown |
| answer cut short | ClientPayloadError | ReadError | unknown |
| answer that is not HTTP | ClientResponseError | not mapped at all | unknown |

The transport names resets and disconnects ``ConnectTimeout`` as it does refused connections, because it maps
aiohttp's base class ``ClientConnectionError`` to it: code that classifies by httpx's class alone sends twice.
`post_once` therefore judges aiohttp's own exception, found as the cause.

aiohttp repeats a request by itself only on a kept connection and for idempotent methods, never a POST (a test counts
the requests).

aiohttp has no write timeout, and its read timeout starts when the body is written: `CallTimeouts.total_seconds`
bounds the whole call, so that a peer which stops reading cannot hold it for ever.

**Cancelling**: cancelling the task that awaits `post_once` closes the connection in the middle of the call and
makes its outcome unknown. The engine runs `send` in a task of its own, which it never cancels and always waits for;
an adapter cannot do it for the engine, because a result that nobody awaits is a receipt lost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from email_platform.adapters.providers.classification import quoted
from email_platform.errors import CallNotAcceptedError, CallOutcomeUnknownError, ConfigurationError

MAXIMUM_CONNECTIONS = 50
_PIECE_BYTES = 256 * 1024
_HEADERS = {"accept-encoding": "gzip, deflate", "connection": "keep-alive"}

_NEVER_REACHED_AIOHTTP = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)
# For another transport (httpx's own, a mock), whose connect errors mean what they say.
_NEVER_REACHED_HTTPX = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


@dataclass(frozen=True, slots=True)
class CallTimeouts:
    """How long each part of a call may take, in seconds.

    Attributes:
        connect_seconds: TCP and TLS handshake of one connection.
        pool_seconds: until a connection is ready, waiting for a free one included.
        write_seconds: share of `total_seconds` for sending the body.
        read_seconds: from the last byte sent to the first of the answer, and between its parts. A provider's
            bulk call takes seconds; giving up early only turns accepted calls into unknown ones.
    """

    connect_seconds: float = 10.0
    pool_seconds: float = 30.0
    write_seconds: float = 30.0
    read_seconds: float = 60.0

    @property
    def total_seconds(self) -> float:
        """The most that one call may take."""
        return self.pool_seconds + self.write_seconds + self.read_seconds

    def by_part(self) -> dict[str, float]:
        """As httpx's transports take them."""
        return {
            "connect": self.connect_seconds,
            "pool": self.pool_seconds,
            "write": self.write_seconds,
            "read": self.read_seconds,
        }


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def open_transport(
    *, max_connections: int = MAXIMUM_CONNECTIONS, verify: ssl.SSLContext | None = None
) -> httpx.AsyncBaseTransport:
    """A way to a provider that makes each call once: no redirects, no retries, no cookies, no proxy of the environment.

    The connections belong to the event loop of the first call. Close it with ``aclose``.

    Args:
        max_connections: at most 50; more only queue inside the provider.
        verify: a TLS context with the company's own authorities; by default the usual authorities. There is no
            way to switch verification off.

    Raises:
        ConfigurationError: more than 50 connections, or fewer than one.
    """
    if not 1 <= max_connections <= MAXIMUM_CONNECTIONS:
        raise ConfigurationError(
            f"max_connections must be 1 to {MAXIMUM_CONNECTIONS} per process, not {max_connections}"
        )
    tls = verify or _usual_authorities()

    def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, force_close=True, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    return AiohttpTransport(verify=tls, trust_env=False, client=open_session)


@cache
def _usual_authorities() -> ssl.SSLContext:
    """Read once a process: the file of authorities takes as long as sending to several hundred recipients."""
    return httpx.create_ssl_context()


@lru_cache(maxsize=64)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


async def post_once(
    transport: httpx.AsyncBaseTransport,
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    provider: str,
    timeouts: CallTimeouts,
) -> HttpAnswer:
    """Send these bytes once and return the whole answer, whatever its status.

    Raises:
        CallNotAcceptedError: no byte of the request can have reached the provider.
        CallOutcomeUnknownError: anything else that went wrong.
    """
    try:
        request = httpx.Request(
            "POST",
            _parsed(url),
            content=_pieces(body),
            headers={**_HEADERS, **headers, "content-length": str(len(body))},
            extensions={"timeout": timeouts.by_part()},
        )
        async with asyncio.timeout(timeouts.total_seconds):
            response = await transport.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
    except TimeoutError as late:
        raise CallOutcomeUnknownError(f"{provider}: no answer within {timeouts.total_seconds:g} s") from late
    except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError) as failure:
        if never_reached(failure):
            raise CallNotAcceptedError(f"{provider}: not reached: {_named(failure)}") from failure
        raise CallOutcomeUnknownError(f"{provider}: no answer after the request began: {_named(failure)}") from failure
    return HttpAnswer(response.status_code, _lower_case(response.headers), response.content)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """The body in pieces: whole, aiohttp warns above 1 MiB that it blocks the event loop while it is written.

    A stream is also used up by the first attempt, so nothing below can send it a second time.
    """
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def never_reached(failure: BaseException) -> bool:
    """Whether the failure proves that no byte of the request reached the provider."""
    cause = failure.__cause__
    origin = cause if isinstance(cause, aiohttp.ClientError | OSError) else failure
    if isinstance(origin, aiohttp.ClientError):
        return isinstance(origin, _NEVER_REACHED_AIOHTTP)
    return isinstance(failure, _NEVER_REACHED_HTTPX)


def _named(failure: BaseException) -> str:
    cause = failure.__cause__
    origin = cause if isinstance(cause, aiohttp.ClientError) else failure
    return quoted(f"{type(origin).__name__}: {origin}")


def _lower_case(headers: httpx.Headers) -> dict[str, str]:
    """By name, read as latin-1, which cannot fail; repeated headers are joined (RFC 9110, section 5.3)."""
    found: dict[str, str] = {}
    for name, value in headers.raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
