"""The code server: serves the definitions to Dagster's daemon and webserver, and starts the runs.

python -m assets.code_server [--module MODULE] [--host 127.0.0.1] [--port 4000] [--ready-file FILE]

It is what `dagster api grpc` is, except for how a run's process starts (`forked_runs`), and how the server ends.
Asked to end (SIGTERM, Ctrl-C) it takes no new run, and each run at work sees its calls in flight to their end, records
them and ends; Dagster retries it once a code server is there again.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import FuturesAwareThreadPoolExecutor
from dagster._grpc.server import DagsterGrpcServer
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers

from assets.forked_runs import ForkingCodeServer
from assets.step_process import DEFINITIONS


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--module", default=DEFINITIONS, help="whose definitions are served")
    options.add_argument("--host", default="127.0.0.1", help="the address to listen on; it has no login")
    options.add_argument("--port", type=int, default=4000)
    options.add_argument("--ready-file", type=Path, help="made when the server listens, removed when it ends")
    given = options.parse_args(arguments)
    # A shell starts what it puts into the background with SIGINT ignored, and Dagster gives SIGTERM the same handler:
    # neither this server nor a run that it forks could be ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    setup_interrupt_handlers()
    configure_loggers(log_level="INFO")
    logger = logging.getLogger("dagster.code_server")
    may_end = threading.Event()
    threads = FuturesAwareThreadPoolExecutor()
    server = DagsterGrpcServer(
        server_termination_event=may_end,
        dagster_api_servicer=ForkingCodeServer(
            server_termination_event=may_end,
            logger=logger,
            server_threadpool_executor=threads,
            loadable_target_origin=LoadableTargetOrigin(
                executable_path=sys.executable, module_name=given.module, working_directory=str(Path.cwd())
            ),
            entry_point=[sys.executable, "-m", "dagster"],
        ),
        logger=logger,
        threadpool_executor=threads,
        host=given.host,
        port=given.port,
    )
    try:
        if given.ready_file is not None:
            given.ready_file.write_text(str(os.getpid()), encoding="utf-8")
        server.serve()
    except KeyboardInterrupt:
        logger.info("asked to end")
    finally:
        if given.ready_file is not None:
            given.ready_file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
