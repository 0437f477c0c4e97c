"""Gets SNS's signing certificates and confirms subscriptions, over httpx.

Invariant: only what `email_platform.events.verification` has checked is fetched, without redirects, without a
proxy from the environment, bounded in time and size. The TLS context, which reads some hundred certificates for
20 to 50 ms, is built once and never on the event loop.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import cache

import httpx

from email_platform.errors import PartUnavailableError

MAXIMUM_ANSWER_BYTES = 64 * 1024
TIMEOUT_SECONDS = 5.0


@cache
def _tls_context() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


async def fetch_from_sns(address: str) -> bytes:
    """The answer's body; see `email_platform.events.verification.sns.Fetch`.

    Raises:
        PartUnavailableError: no answer in time, another status than 200, or too much of it.
    """
    context = await asyncio.to_thread(_tls_context)
    try:
        async with (
            httpx.AsyncClient(
                verify=context, timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False
            ) as client,
            client.stream("GET", address) as answer,
        ):
            if answer.status_code != 200:
                raise PartUnavailableError(f"SNS answered with {answer.status_code}")
            body = b""
            async for block in answer.aiter_bytes():
                body += block
                if len(body) > MAXIMUM_ANSWER_BYTES:
                    raise PartUnavailableError("SNS answered with more than a certificate's size")
            return body
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PartUnavailableError(f"SNS did not answer: {type(error).__name__}") from error
