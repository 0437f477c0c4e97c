"""Runs the endpoint as a process: ``python -m email_platform.local.clickhouse_endpoint``.

The invariant: one process per data folder; SIGTERM and SIGINT let the requests in flight end, cancel those that take
too long, and exit with 0; acknowledged data survives any other end too.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from email_platform.errors import ConfigurationError, PortTakenError
from email_platform.local.clickhouse_endpoint.confinement import confine
from email_platform.local.clickhouse_endpoint.settings import (
    PASSWORD_VARIABLE,
    EndpointSettings,
    half_of_the_machine_bytes,
    read_password,
    require_loopback,
)
from email_platform.sending.orphan_watch import exit_with_parent

if TYPE_CHECKING:
    from email_platform.local.clickhouse_endpoint.engine import Engine

_logger = logging.getLogger("email_platform.clickhouse_endpoint")
# Twice this is less than what the supervisor grants before it kills.
_LAST_REQUESTS_SECONDS = 10.0
_TEMPORARY = "temporary-"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m email_platform.local.clickhouse_endpoint",
        description="ClickHouse's HTTP protocol in front of chDB.",
        epilog=f"The password comes from {PASSWORD_VARIABLE}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data-folder", type=Path, required=True, help="where the data is kept; created if missing")
    add("--host", default="127.0.0.1", help="a loopback address")
    add("--port", type=int, required=True, help="0: any free port, which the log names")
    add("--user", required=True, help="the only account")
    add("--database", required=True, help="created if missing; the default of every request")
    add(
        "--maximum-memory-bytes",
        type=int,
        default=half_of_the_machine_bytes(),
        help="of the whole process; half of the machine's unless given",
    )
    add("--threads-per-query", type=int, default=0, help="0: one per core")
    add(
        "--s3-endpoint",
        action="append",
        default=[],
        metavar="URL",
        help="of a bucket, or of a prefix in it: what s3() may reach; may be given more than once, without it s3() is "
        "closed",
    )
    add("--exit-with-parent", action="store_true", help="stop when the process that started this one ends")
    return parser.parse_args(arguments)


def _listen(host: str, port: int) -> socket.socket:
    require_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as failure:
        listener.close()
        raise PortTakenError(f"--port {port}: cannot listen on {host}:{port}: {failure.strerror}") from failure
    return listener


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until asked to stop; return the exit code: 0 after a clean stop, 2 for a wrong setting."""
    original_parent = os.getppid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = parse_arguments(arguments)
    try:
        settings = EndpointSettings(
            data_folder=options.data_folder,
            host=options.host,
            port=options.port,
            user=options.user,
            password=read_password(os.environ),
            database=options.database,
            maximum_memory_bytes=options.maximum_memory_bytes,
            threads_per_query=options.threads_per_query,
            s3_endpoints=tuple(options.s3_endpoint),
        )
        # Not for the engine's own subprocesses, nor for getenv-like functions of its SQL.
        os.environ.pop(PASSWORD_VARIABLE, None)
        with _listen(settings.host, settings.port) as listener:
            own = _own_temporary_folder(settings.data_folder)
            _logger.info("%s", confine(writable=[settings.data_folder], s3_endpoints=settings.s3_endpoints))
            engine = _open_engine(settings)
            _remove_other_temporary_folders(own)
            _serve(settings, engine, listener, original_parent if options.exit_with_parent else None)
    except ConfigurationError as refusal:
        _logger.error("%s", refusal)
        return 2
    return 0


def _own_temporary_folder(data_folder: Path) -> Path:
    """The engine's import makes a folder in the machine's temporary one, which is not ours to write in."""
    data_folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=data_folder)).resolve()
    os.environ["TMPDIR"] = str(folder)
    return folder


def _remove_other_temporary_folders(own: Path) -> None:
    """Those of killed processes: only one at a time holds the data folder."""
    for folder in own.parent.glob(f"{_TEMPORARY}*"):
        if folder != own:
            shutil.rmtree(folder, ignore_errors=True)


def _open_engine(settings: EndpointSettings) -> Engine:
    # Its import starts threads, and a thread is confined only if the one that starts it is.
    from email_platform.local.clickhouse_endpoint.engine import Engine

    return Engine(
        settings.data_folder,
        settings.database,
        maximum_memory_bytes=settings.maximum_memory_bytes,
        threads_per_query=settings.threads_per_query,
        s3_endpoints=settings.s3_endpoints,
    )


def _serve(settings: EndpointSettings, engine: Engine, listener: socket.socket, original_parent: int | None) -> None:
    from email_platform.local.clickhouse_endpoint.server import EndpointServer

    waiting, waking = socket.socketpair()
    waking.setblocking(False)
    # The kernel may give the signal to one of the engine's threads. That wakes a read of this socket, but no
    # threading.Event that the main thread waits for.
    signal.set_wakeup_fd(waking.fileno())
    # After the engine's start, which may install handlers of its own.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if original_parent is not None:
        exit_with_parent(original_parent, lambda: os.kill(os.getpid(), signal.SIGTERM))
    server = EndpointServer(settings, engine, listener)
    threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
    _logger.info("ClickHouse %s listens on http://%s:%s", engine.version, settings.host, listener.getsockname()[1])
    waiting.recv(1)
    server.shutdown()
    ended = server.wait_for_requests(_LAST_REQUESTS_SECONDS)
    if not ended:
        _logger.warning("requests still ran after %s s and are cancelled", _LAST_REQUESTS_SECONDS)
        engine.cancel_all()
        ended = server.wait_for_requests(_LAST_REQUESTS_SECONDS)
    if not ended:
        _logger.warning("requests outlived their cancellation and were cut off")
        os._exit(0)  # the engine cannot be closed under them; what was acknowledged is on disk
    engine.close()


if __name__ == "__main__":
    raise SystemExit(main())
