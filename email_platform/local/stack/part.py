"""One part of the embedded stack, described as a value: what to run, where it answers, how it stops.

Invariant: a part counts as ready only when it answered at its own address with its own credentials, never
because some time passed or a port is open.
"""

from __future__ import annotations

import errno
import http.client
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import sample

from email_platform.errors import PortTakenError

LOOPBACK = "127.0.0.1"
_FIRST_FREE_PORT = 15_000
_LINUX_FIRST_EPHEMERAL_PORT = 32_768
_PORTS_TO_TRY = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """How one part is run.

    Attributes:
        name: as shown in the terminal and used by ``--only``.
        command: program and arguments; never a secret, since every user of the machine can read them.
        environment: the whole environment of the process; holds the part's secrets, so it is not in the repr.
        working_folder: where the process runs.
        data_folder: data that must survive; None for a part without data of its own.
        log_file: standard output and error, appended.
        address: the address that a user would open or connect to; without credentials.
        is_ready: answers whether the part serves; must not raise for a part that is not up yet.
        port: None for a part that listens nowhere.
        port_variable: the setting that changes the port.
        before_start: last preparations in the supervisor's process, such as removing a stale lock.
        stop_signal: asks for a clean end.
        grace_seconds: how long the clean end may take.
        user_id, group_id: run as these; None for the supervisor's own.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    working_folder: Path
    data_folder: Path | None
    log_file: Path
    address: str
    is_ready: Callable[[], bool] = field(repr=False)
    port: int | None = None
    port_variable: str = ""
    before_start: Callable[[], None] = field(default=lambda: None, repr=False)
    stop_signal: int = signal.SIGTERM
    grace_seconds: float = 15.0
    user_id: int | None = None
    group_id: int | None = None


def require_free_port(part: Part) -> None:
    """Refuse to start a part on a port where another process listens.

    Raises:
        PortTakenError: names the port, the part and the variable to change.
    """
    if part.port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without this option the remains of connections of an earlier start would look like a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, part.port))
        except OSError as failure:
            if failure.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise PortTakenError(
                f"port {part.port} of {LOOPBACK}, where {part.name} should listen, is taken ({failure.strerror}): "
                f"set {part.port_variable} to a free port, or end the process that uses it"
            ) from failure


@contextmanager
def held_free_ports(count: int) -> Iterator[list[int]]:
    """Different free ports, held until the block ends so that none is given out twice.

    Below the range from which the kernel takes the ports of outgoing connections (Linux: ip_local_port_range(5) in
    ip(7)): a port of that range can be taken by any connection of the machine before its server listens.
    """
    with ExitStack() as stack:
        ports: list[int] = []
        for port in sample(range(_FIRST_FREE_PORT, _first_ephemeral_port()), k=_PORTS_TO_TRY):
            if len(ports) == count:
                break
            one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with suppress(OSError):
                one.bind((LOOPBACK, port))
                ports.append(port)
        if len(ports) < count:
            raise PortTakenError(f"fewer than {count} of {_PORTS_TO_TRY} ports of {LOOPBACK} that were tried are free")
        yield ports


def free_port() -> int:
    """One port that was free a moment ago, as `held_free_ports` chooses them."""
    with held_free_ports(1) as (port,):
        return port


def _first_ephemeral_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return _LINUX_FIRST_EPHEMERAL_PORT
    return first if first >= _FIRST_FREE_PORT + _PORTS_TO_TRY else _LINUX_FIRST_EPHEMERAL_PORT


def http_status(port: int, path: str, timeout_seconds: float = 2.0) -> int | None:
    """The status of a GET on the loopback interface; None where nobody answers yet."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
