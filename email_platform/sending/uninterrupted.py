"""Runs one chunk's delivery from a blocking step and never tears a call that is in flight.

Invariant: whatever interrupts the step (a cancelled run, SIGTERM, an exception), the calls in flight are
seen to their end and their receipts are recorded before control goes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from threading import Event, Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_to_the_end(work: Callable[[], Coroutine[Any, Any, Result]], stop: Event) -> Result:
    """Run the coroutine in an event loop of its own thread; an interruption sets `stop` and waits for it.

    The main thread of a Dagster step receives interruptions as exceptions at any bytecode; an event loop
    running there would be torn down with its calls half-way. So the loop lives in another thread, with the context
    variables of this one.

    Raises:
        BaseException: what the work raised, or the interruption, after the work has ended.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(asyncio.run(work()))
        except BaseException as error:  # handed over to the caller's thread, which raises it
            failure.append(error)

    thread = Thread(target=copy_context().run, args=(body,), name="chunk-delivery")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(timeout=0.2)  # short: signals reach the main thread between two joins
    except BaseException:
        stop.set()
        thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]
