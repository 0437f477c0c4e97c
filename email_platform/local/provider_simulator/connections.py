"""Operations on a connection below the level of requests and answers.

The invariant: a connection that is reset carries no answer, and no body is kept beyond its limit.
"""

from __future__ import annotations

import socket
import struct

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from email_platform.errors import ConfigurationError

TRANSPORT_EXTENSION = "email_platform.transport"
"""Where the server leaves the connection in the ASGI scope, for faults that reset it."""

# SO_LINGER on with 0 seconds: closing sends RST instead of FIN.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class AnsweredTwice(Response):
    """The same answer twice on one connection, as a broken proxy sends it.

    A client that keeps the connection would take the second for the answer to its next request.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.body, answer.status_code, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then the same bytes again past the server."""
        await super().__call__(scope, receive, send)
        transport = scope.get("extensions", {}).get(TRANSPORT_EXTENSION, {}).get("transport")
        if transport is not None and not transport.is_closing():
            head = f"HTTP/1.1 {self.status_code} OK\r\ncontent-type: application/json\r\n"
            transport.write(f"{head}content-length: {len(self.body)}\r\n\r\n".encode() + bytes(self.body))


async def reset_connection(scope: Scope, receive: Receive) -> None:
    """End the connection with RST, then wait until the server noticed, so that it sends no answer."""
    transport = scope.get("extensions", {}).get(TRANSPORT_EXTENSION, {}).get("transport")
    if transport is None:
        raise ConfigurationError("this server gives no access to its connections; start the package itself")
    connection = transport.get_extra_info("socket")
    # A client that hung up first left nothing to reset.
    if not transport.is_closing() and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    await wait_for_hang_up(receive)


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of a name (lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def read_body(receive: Receive, maximum_bytes: int) -> bytes | None:
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


async def wait_for_hang_up(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
