"""How a code server starts the processes of its runs: forked from a server that has the definitions loaded.

Dagster's code server starts an interpreter for each run, which imports Dagster and the definitions: most of what a
small campaign costs. Here the fork server of `multiprocessing` imports them once, and a run's process is a copy of it.
The fork server is an interpreter of its own that has only imported: nothing of the code server (gRPC's threads and
channels, its database connections) is inherited by a run.

Invariant: a run counts as at work as long as its process is there, whatever became of the fork server; and a run works
with the code that was there when the fork server began, which is the code server's own code unless the fork server
died and the files were changed since.

Sources: Python's *multiprocessing*, "Contexts and start methods" and `set_forkserver_preload`.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.popen_forkserver import Popen as ForkServerPopen
from typing import Any

import psutil
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.server import DagsterApiServer

from assets.step_process import LOADED_ONCE


class ForkingCodeServer(DagsterApiServer):
    """Dagster's code server, whose runs are forked; all else is Dagster's: health, sensors, stops, dead workers."""

    def __init__(self, *, loadable_target_origin: LoadableTargetOrigin, **options: Any) -> None:
        assert loadable_target_origin.module_name is not None
        # Begun first, so that it imports while this process does.
        begin_fork_server(loadable_target_origin.module_name)
        super().__init__(loadable_target_origin=loadable_target_origin, **options)
        self._mp_ctx = _RunContext()  # type: ignore[assignment]  # a spawn context, says Dagster

    def cleanup(self) -> None:
        """Ask the runs at work to end, and wait for them: each sees its calls in flight to their end.

        Dagster's own server waits for as long as they take, which a stop does not.
        """
        with self._execution_lock:
            for process, _ in self._executions.values():
                process.terminate()
        super().cleanup()


def begin_fork_server(module: str) -> None:
    """Let this process's fork server start and import the module, without waiting for it; once in a process."""
    multiprocessing.set_forkserver_preload([module, LOADED_ONCE])
    forkserver.ensure_running()


class _RunPopen(ForkServerPopen):
    """A forked process that is watched itself as well: the fork server, which reports its end, may die before it."""

    def _launch(self, process_obj: Any) -> None:
        super()._launch(process_obj)  # type: ignore[misc]  # not in the stubs
        try:
            self._itself: psutil.Process | None = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            self._itself = None

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, None while it works; 255 where the fork server could not report it any more."""
        known = self.returncode
        code = super().poll(flag)
        if known is None and code == 255 and self._is_there():
            self.returncode = None
            if flag == os.WNOHANG:
                return None
            assert self._itself is not None
            self._itself.wait()
            self.returncode = 255
        return self.returncode

    def _is_there(self) -> bool:
        try:
            return self._itself is not None and self._itself.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class _RunProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _RunPopen:  # noqa: N802  # multiprocessing's name
        return _RunPopen(process_obj)


class _RunContext(ForkServerContext):
    Process = _RunProcess
