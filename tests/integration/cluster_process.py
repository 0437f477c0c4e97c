"""Two shards of a ClickHouse cluster, as far as one engine goes: every statement is analysed and run as on a real one.

The first shard is the engine itself. The second is a listener that speaks as much of ClickHouse's native protocol as
it takes to write down what it is asked, and answers that it has no rows (ClickHouse's documentation, native-protocol).
Its weight is 0, so no row is sent to it. So ``Distributed`` tables have two shards here: what is refused over several
shards is refused (code 288), and what a shard would be asked can be read.

The engine has no ``on cluster`` and writes to no replicated table (chDB has neither a listener nor the threads that
take a replica's parts): both are taken out of the DDL on its way in; with a ZooKeeper, only the first.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from email_platform.local.stack.part import LOOPBACK

CLUSTER = "main"
_USER, _PASSWORD = "mailer", "secret-of-the-cluster"
_OLD_PROTOCOL = 54057  # of servers that are asked neither for their replicas' delay nor for newer fields
_HELLO, _PING, _CANCEL = b"\x00", b"\x04", b"\x03"
_END_OF_STREAM = b"\x05"
# The block without columns that ends a query's tables, uncompressed.
_END_OF_QUERY = b"\x02\x00\x01\x00\x02\xff\xff\xff\xff\x00\x00\x00"
_STATEMENT = re.compile(rb"(?:SELECT|WITH|INSERT) [\x20-\x7e\n\t\x80-\xff]+")
_TABLE = re.compile(r"(?:FROM|JOIN|IN|INTO)\s+\(?`\w+`\.`(\w+)`")


class WritingShard:
    """A shard without rows that keeps the statements that it is asked."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            if not connection.recv(65_536).startswith(_HELLO):
                return
            connection.sendall(_HELLO + _text("shard") + _number(26) + _number(9) + _number(_OLD_PROTOCOL))
            waiting = b""
            while piece := connection.recv(65_536):
                waiting += piece
                while waiting[:1] in (_PING, _CANCEL):
                    if waiting[:1] == _PING:
                        connection.sendall(_PING)
                    waiting = waiting[1:]
                if waiting.endswith(_END_OF_QUERY):
                    self.asked.extend(found.decode("latin-1") for found in _STATEMENT.findall(waiting))
                    waiting = b""
                    connection.sendall(_END_OF_STREAM)


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _text(value: str) -> bytes:
    return _number(len(value)) + value.encode()


@dataclass
class Cluster:
    """The running engine and its second shard."""

    url: str
    shard: WritingShard
    log: Path = field(repr=False)

    def strangers(self) -> set[str]:
        """What the second shard was asked of that no shard has: anything but raw tables, under their local names."""
        return {
            table
            for statement in self.shard.asked
            for table in _TABLE.findall(statement)
            if not table.endswith("_local")
        }

    def settings_of(self, database: str) -> dict[str, Any]:
        """The settings of a warehouse in this database; the address has the password."""
        return {
            "clickhouse_url": f"{self.url}/{database}",
            "clickhouse_cluster": CLUSTER,
            "clickhouse_sharded": True,
        }

    def statements(self) -> list[dict[str, Any]]:
        """What clients sent so far, each with its `text`, as it came, and `settings`."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@contextmanager
def running_cluster(folder: Path, keeper_port: int | None = None, replica: str = "a") -> Iterator[Cluster]:
    """Start one on free ports; stopped on leaving.

    Args:
        folder: not there yet.
        keeper_port: of a ZooKeeper: replicated tables are made as such, and cannot be written to.
        replica: the name of the engine's replica of its shard.
    """
    folder.mkdir(parents=True)
    shard = WritingShard()
    keeper = f"<zookeeper><node><host>{LOOPBACK}</host><port>{keeper_port}</port></node></zookeeper>"
    configuration = folder / "cluster.xml"
    configuration.write_text(
        f"""<clickhouse><tcp_port>9000</tcp_port>{keeper if keeper_port else ""}
        <macros><shard>1</shard><replica>{replica}</replica></macros><remote_servers><{CLUSTER}>
        <shard><weight>1</weight><internal_replication>true</internal_replication>
            <replica><host>{LOOPBACK}</host><port>9000</port></replica></shard>
        <shard><weight>0</weight><internal_replication>true</internal_replication>
            <replica><host>{LOOPBACK}</host><port>{shard.port}</port><compression>false</compression></replica></shard>
        </{CLUSTER}></remote_servers></clickhouse>""",
        encoding="utf-8",
    )
    log = folder / "statements.jsonl"
    log.touch()
    output = folder / "output.log"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                __name__,
                str(folder / "data"),
                str(configuration),
                str(log),
                str(keeper_port or ""),
            ],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "EMAIL_PLATFORM_CLICKHOUSE_PASSWORD": _PASSWORD},
            cwd=Path(__file__).parents[2],
        )
    try:
        yield Cluster(f"http://{_USER}:{_PASSWORD}@{LOOPBACK}:{_port(process, output)}", shard, log)
    finally:
        process.kill()
        process.wait()
        shard.close()


def _port(process: subprocess.Popen[bytes], output: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listens on http://[\d.]+:(\d+)", output.read_text(encoding="utf-8")):
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(output.read_text(encoding="utf-8"))


_ON_CLUSTER = re.compile(rb" on cluster " + CLUSTER.encode())
_REPLICATED = re.compile(rb"Replicated((?:Replacing)?MergeTree)\('[^']*', '\{replica\}'(?:, )?")


def main(data_folder: Path, configuration: Path, log: Path, *, replicated: bool) -> None:
    """Serve the engine until the process is killed; tables are replicated only where that is asked for."""
    from email_platform.local.clickhouse_endpoint import __main__ as endpoint
    from email_platform.local.clickhouse_endpoint import engine, server

    read = server.read_statement  # type: ignore[attr-defined]

    def read_and_written_down(*arguments: Any) -> Any:
        work = read(*arguments)
        text = work.insert.statement if work.insert else work.text
        line = {"text": text.decode("utf-8", "replace"), "settings": dict(work.parameters.settings)}
        with log.open("a", encoding="utf-8") as lines:
            lines.write(f"{json.dumps(line)}\n")
        if work.insert:
            return work
        here = _ON_CLUSTER.sub(b"", work.text)
        return replace(work, text=here if replicated else _REPLICATED.sub(rb"\1(", here))

    server.read_statement = read_and_written_down  # type: ignore[attr-defined, assignment]
    engine.write_access = lambda *_: configuration  # type: ignore[attr-defined]
    endpoint.confine = lambda **_: "the cluster of a test is not confined"  # type: ignore[attr-defined]
    endpoint.main(["--data-folder", str(data_folder), "--port", "0", "--user", _USER, "--database", "unused"])


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]), replicated=bool(sys.argv[4]))
