"""Runs the HTTP API and the console as a process: ``python -m email_platform.api``; several may run side by side.

Invariant: SIGTERM ends it after the requests at work are answered.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvicorn

from email_platform.api.app import create_app
from email_platform.api.services import open_services
from email_platform.console.app import create_console
from email_platform.receiver.__main__ import Server, listen
from email_platform.receiver.process import run_process
from email_platform.sending.orphan_watch import exit_with_parent
from email_platform.settings import Settings

_logger = logging.getLogger("email_platform.api")

MAXIMUM_CONNECTIONS = 512


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m email_platform.api",
        description="Serves the HTTP API and the console; settings come from the environment.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="put a TLS proxy in front for any other")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="stop when the process that started this one ends"
    )
    return parser.parse_args(arguments)


def serve(options: argparse.Namespace, original_parent: int) -> None:
    """Serve until asked to stop.

    Raises:
        ConfigurationError: a setting is missing or wrong.
        PortTakenError: another process listens there.
    """
    settings = Settings.load()
    config = uvicorn.Config(
        create_app(lambda: open_services(settings, os.environ), create_console),
        ws="none",
        lifespan="on",
        access_log=False,  # queries hold addresses
        proxy_headers=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        limit_concurrency=MAXIMUM_CONNECTIONS,
        timeout_graceful_shutdown=20,
    )
    with listen(options.host, options.port, share_port=False) as listener:
        if options.exit_with_parent:
            exit_with_parent(original_parent, lambda: os.kill(os.getpid(), signal.SIGTERM))
        _logger.info("serving the API on http://%s:%d", *listener.getsockname()[:2])
        Server(config).run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until asked to stop; return the exit code: 0 after a clean stop, 2 for a wrong setting."""
    return run_process(parse_arguments, serve, arguments)


if __name__ == "__main__":
    sys.exit(main())
