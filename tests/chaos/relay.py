"""Carries connections between a host of the test's own and the first machine; needs the standard library only.

python relay.py FROM=TO...: each end is a port of the loopback interface, or a path of a unix socket.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

BLOCK_BYTES = 65_536


async def connect(end: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if end.isdecimal():
        return await asyncio.open_connection("127.0.0.1", int(end))
    return await asyncio.open_unix_connection(end)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(BLOCK_BYTES):
            writer.write(block)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


async def serve(start: str, end: str) -> asyncio.Server:
    at_work: set[asyncio.Task[None]] = set()  # the event loop itself holds them weakly

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        at_work.add(task)
        task.add_done_callback(at_work.discard)
        try:
            far_reader, far_writer = await connect(end)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        for one in (writer, far_writer):
            one.close()

    if start.isdecimal():
        return await asyncio.start_server(carry, "127.0.0.1", int(start))
    return await asyncio.start_unix_server(carry, start)


async def main(pairs: list[str]) -> None:
    servers = [await serve(*pair.split("=")) for pair in pairs]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    for each in sys.argv[1:]:
        if not each.partition("=")[0].isdecimal():
            Path(each.partition("=")[0]).unlink(missing_ok=True)  # of an earlier relay
    asyncio.run(main(sys.argv[1:]))
