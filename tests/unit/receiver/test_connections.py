"""One peer is bounded, by its address or by what a trusted proxy says of it, and nobody else pays for it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from email_platform.errors import ConfigurationError
from email_platform.receiver.connections import (
    ClientBound,
    ConnectionCounts,
    ConnectionLimits,
    peer_of,
    trusted_networks,
)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_64_bits(address: str, peer: str) -> None:
    assert peer_of(address) == peer


def test_trusted_proxies_are_addresses_and_networks() -> None:
    limits = ConnectionLimits(trusted_proxies=trusted_networks("10.0.0.0/8, 192.0.2.1  2001:db8::/32"))
    assert limits.is_trusted("10.1.2.3")
    assert limits.is_trusted("192.0.2.1")
    assert limits.is_trusted("2001:db8::9")
    assert not limits.is_trusted("192.0.2.2")
    assert not limits.is_trusted("no address")
    assert not ConnectionLimits(trusted_proxies=trusted_networks("")).is_trusted("10.1.2.3")
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_RECEIVER_TRUSTED_PROXIES must hold"):
        trusted_networks("10.0.0.0/8, everywhere")


def test_counts_forget_who_has_nothing_open() -> None:
    counts = ConnectionCounts()
    counts.open_by_peer["192.0.2.7"] += 1
    counts.close("192.0.2.7")
    assert counts.open_by_peer == {}
    assert counts.report() == {"open": 0, "peers": 0, "refused": 0, "slow heads": 0, "large heads": 0}


def answers_at_work(bound: int, requests: list[tuple[str, str]]) -> list[int]:
    """The answers of requests that are all at work at a time: (address of the connection, X-Forwarded-For)."""

    async def main() -> list[int]:
        go = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        limits = ConnectionLimits(connections_per_peer=bound, trusted_proxies=trusted_networks("10.0.0.0/8"))
        bounded = ClientBound(app, limits)

        async def ask(address: str, forwarded: str) -> int:
            transport: Any = httpx.ASGITransport(bounded, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
                return (await client.get("/", headers={"x-forwarded-for": forwarded})).status_code

        asking = [asyncio.create_task(ask(*one)) for one in requests]
        await asyncio.sleep(0.05)
        go.set()
        return list(await asyncio.gather(*asking))

    return asyncio.run(main())


def test_behind_a_trusted_proxy_each_client_is_bounded() -> None:
    proxied = [("10.0.0.1", "192.0.2.7")] * 3 + [("10.0.0.2", "192.0.2.8")]
    assert sorted(answers_at_work(2, proxied)) == [200, 200, 200, 503]


def test_the_last_address_that_is_no_proxy_counts_and_not_what_a_client_claims() -> None:
    claims = [("10.0.0.1", f"203.0.113.{number}, 192.0.2.7, 10.0.0.9") for number in range(3)]
    assert sorted(answers_at_work(2, claims)) == [200, 200, 503]


def test_a_header_of_anybody_else_is_not_believed() -> None:
    assert answers_at_work(1, [("192.0.2.1", "198.51.100.1")] * 3) == [200, 200, 200]
    assert answers_at_work(1, [("10.0.0.1", "")] * 3) == [200, 200, 200], "the proxy's own, such as its health check"
