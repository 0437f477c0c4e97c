"""Runs the metrics as a process: ``python -m email_platform.metrics``; one is enough for a platform.

Invariant: SIGTERM and Ctrl-C end it at once; there is nothing to lose.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import lru_cache

from prometheus_client import CollectorRegistry, start_http_server

from email_platform.adapters.assembly import open_oltp
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.metrics import PostgresFigures
from email_platform.errors import PortTakenError
from email_platform.metrics.collector import PlatformCollector
from email_platform.metrics.dagster_times import DagsterTimes, DagsterWatch, open_instance, read_dagster_times
from email_platform.receiver.process import run_process
from email_platform.sending.orphan_watch import exit_with_parent
from email_platform.settings import Settings

_logger = logging.getLogger("email_platform.metrics")


def utc_now() -> datetime:
    """The present time, UTC-aware."""
    return datetime.now(UTC)


def dagster_reader(opened: ExitStack, variables: Mapping[str, str]) -> Callable[[], DagsterTimes] | None:
    """The newest reading of the storage of DAGSTER_HOME, in a thread of its own; None where the variable is not set."""
    if not variables.get("DAGSTER_HOME"):
        _logger.warning("DAGSTER_HOME is not set: there are no figures of jobs, sensors and reports")
        return None
    # Not opened again where a question fails: its connections are made for each question.
    open_once = lru_cache(maxsize=1)(lambda: opened.enter_context(open_instance()))
    watch = DagsterWatch(lambda: read_dagster_times(open_once()))
    watch.start()
    opened.callback(watch.stop)
    return watch.latest


def serve(options: argparse.Namespace, original_parent: int) -> None:
    """Serve until asked to stop.

    Raises:
        ConfigurationError: a setting is missing or wrong.
        PortTakenError: another process listens there.
    """
    settings = Settings.load()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.exit_with_parent:
        exit_with_parent(original_parent, stop.set)
    with ExitStack() as opened:
        engine = opened.enter_context(open_oltp(settings))
        store = S3ObjectStore.from_settings(settings)
        opened.callback(store.close)
        registry = CollectorRegistry()
        registry.register(
            PlatformCollector(PostgresFigures(engine), store, dagster_reader(opened, os.environ), os.environ, utc_now)
        )
        try:
            server, thread = start_http_server(options.port, options.host, registry)
        except OSError as failure:
            raise PortTakenError(
                f"cannot listen on {options.host}:{options.port} ({failure.strerror}): choose another port with "
                "--port, or end the process that uses it"
            ) from failure
        _logger.info("metrics on http://%s:%d/metrics", *server.server_address[:2])
        while not stop.wait(1):  # a signal that another thread gets ends no wait without a limit
            pass
        server.shutdown()
        server.server_close()
        thread.join()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m email_platform.metrics", allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1", help="there is no login: let only Prometheus reach it")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when the process that started it ends")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until asked to stop; return the exit code: 0 after a clean stop, 2 for a wrong setting."""
    return run_process(parse_arguments, serve, arguments)


if __name__ == "__main__":
    sys.exit(main())
