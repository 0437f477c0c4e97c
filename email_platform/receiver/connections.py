"""Bounds what one peer may hold of the receiver: open connections, unfinished heads, and requests behind a proxy.

Invariant: nobody keeps the receiver from everybody else by opening connections and saying nothing, or little, or
by a head that never ends. uvicorn itself counts all connections together, and waits for a head for ever.

A peer is an IPv4 address or an IPv6 network of 64 bits, which is what one customer gets. Behind a proxy every
connection comes from the proxy: its own are not bounded, and the requests are, by the address that it puts last into
X-Forwarded-For. That header is believed from trusted proxies alone; anybody else can write what they like.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import ClassVar

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from email_platform.errors import ConfigurationError

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one peer may hold.

    Attributes:
        head_within_seconds: from the connection, or the first byte of a later request, to the end of the head.
        head_bytes: the largest head.
        connections_per_peer: open at a time; behind a trusted proxy, requests at a time.
        trusted_proxies: whose X-Forwarded-For is believed, and whose connections are not bounded.
    """

    head_within_seconds: float = 10.0
    head_bytes: int = 64 * 1024
    connections_per_peer: int = 256
    trusted_proxies: tuple[Network, ...] = ()

    def is_trusted(self, address: str) -> bool:
        """Whether the address is a trusted proxy's."""
        return is_within(self.trusted_proxies, address)


def trusted_networks(text: str, variable: str = "EMAIL_PLATFORM_RECEIVER_TRUSTED_PROXIES") -> tuple[Network, ...]:
    """Networks from a setting: addresses or networks, separated by commas or spaces.

    Args:
        text: the setting's value.
        variable: which setting it is.

    Raises:
        ConfigurationError: one is neither.
    """
    try:
        return tuple(ip_network(one) for one in text.replace(",", " ").split())
    except ValueError as error:
        raise ConfigurationError(
            f"{variable} must hold addresses or networks such as 10.0.0.0/8, with commas between them"
        ) from error


def is_within(networks: Iterable[Network], address: str) -> bool:
    """Whether the address is in one of the networks; a text that is no address is in none."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def peer_of(address: str) -> str:
    """Who the address belongs to; any text stands for itself."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((found, 64), strict=False))
    return str(found)


@dataclass(slots=True)
class ConnectionCounts:
    """Of one process, for `/health`."""

    open_by_peer: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    slow_heads: int = 0
    large_heads: int = 0

    def close(self, peer: str) -> None:
        """One of the peer's ended; a peer without any is forgotten."""
        self.open_by_peer[peer] -= 1
        if self.open_by_peer[peer] <= 0:
            del self.open_by_peer[peer]

    def report(self) -> dict[str, int]:
        """The counts, without addresses."""
        return {
            "open": self.open_by_peer.total(),
            "peers": len(self.open_by_peer),
            "refused": self.refused,
            "slow heads": self.slow_heads,
            "large heads": self.large_heads,
        }


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol that gives up slow or endless heads, and refuses a peer that holds too many connections."""

    limits: ClassVar[ConnectionLimits]
    counts: ClassVar[ConnectionCounts]
    _peer: str | None = None
    _is_refused = False
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection where its peer holds too many already."""
        address = (transport.get_extra_info("peername") or ("",))[0]
        if not self.limits.is_trusted(address):
            peer = peer_of(address)
            if self.counts.open_by_peer[peer] >= self.limits.connections_per_peer:
                self.counts.refused += 1
                self._is_refused = True
                transport.abort()
                return
            self._peer = peer
            self.counts.open_by_peer[peer] += 1
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the peer its place back."""
        self._end_of_head()
        if self._peer is not None:
            self.counts.close(self._peer)
            self._peer = None
        if not self._is_refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the head's bytes; one that is too large is answered 400."""
        if self._is_refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > self.limits.head_bytes:
            self.counts.large_heads += 1
            self._end_of_head()
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """Start the time that the head may take."""
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        """Stop it."""
        self._end_of_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(self.limits.head_within_seconds, self._give_up)

    def _end_of_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        self.counts.slow_heads += 1
        self.transport.close()


def bounded_protocol(limits: ConnectionLimits, counts: ConnectionCounts) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol with these bounds; `uvicorn.Config` takes the class as ``http``."""
    return type("BoundedProtocolOfThisReceiver", (BoundedProtocol,), {"limits": limits, "counts": counts})


class ClientBound:
    """ASGI: bounds the requests that one client has at work through trusted proxies.

    Args:
        app: answers what is let through.
        limits: the bounds.
    """

    def __init__(self, app: ASGIApp, limits: ConnectionLimits) -> None:
        self._app = app
        self._limits = limits
        self._counts = ConnectionCounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503 where the client has too many requests at work already."""
        client = self._client_behind_proxy(scope) if scope["type"] == "http" else None
        if client is None:
            await self._app(scope, receive, send)
            return
        if self._counts.open_by_peer[client] >= self._limits.connections_per_peer:
            headers = {"retry-after": "5", "connection": "close"}
            answer = JSONResponse({"reason": "too many requests of one client at a time"}, 503, headers)
            await answer(scope, receive, send)
            return
        self._counts.open_by_peer[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._counts.close(client)

    def _client_behind_proxy(self, scope: Scope) -> str | None:
        """Whom a trusted proxy names: the last address of the list that is no trusted proxy's itself."""
        address, _ = scope.get("client") or ("", 0)
        if not self._limits.is_trusted(address):
            return None
        forwarded: Sequence[str] = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        for one in reversed([part.strip() for part in forwarded]):
            if one and not self._limits.is_trusted(one):
                return peer_of(one)
        return None
