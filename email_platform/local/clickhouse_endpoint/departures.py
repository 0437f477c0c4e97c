"""Notices clients that leave while their query runs.

The invariant: a query whose client has gone is ended. A query that is sending rows ends with its connection; one that
computes in silence would go on for as long as it takes, holding cores and memory, and would hold up a clean stop.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator

_LOOK_MILLISECONDS = 200
# RDHUP: the client closed its side. ClickHouse's clients never close only that side and still wait for an answer.
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class DepartureWatch:
    """One thread that looks at the connections of all running queries."""

    def __init__(self) -> None:
        self._watched: dict[int, Callable[[], None]] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._look, name="departures", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, connection: socket.socket, cancel: Callable[[], None]) -> Iterator[None]:
        """Call `cancel`, once, if the client leaves meanwhile.

        Args:
            connection: stays open throughout.
            cancel: must do no harm after the query's end.
        """
        number = connection.fileno()
        with self._changed:
            self._watched[number] = cancel
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watched.pop(number, None)

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watched)
                watched = dict(self._watched)
            poll = select.poll()
            for number in watched:
                poll.register(number, _GONE)
            gone = [number for number, event in poll.poll(_LOOK_MILLISECONDS) if event & _GONE]
            for number in gone:
                with self._changed:
                    # The number may be another connection's by now.
                    if self._watched.get(number) is not watched[number]:
                        continue
                    del self._watched[number]
                with contextlib.suppress(Exception):
                    watched[number]()
