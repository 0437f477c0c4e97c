"""Every setting that an endpoint process gets at its start.

The invariant: the password comes from the environment alone and never appears in a repr, and nothing but the
loopback interface is ever listened on.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from email_platform.errors import ConfigurationError

PASSWORD_VARIABLE = "EMAIL_PLATFORM_CLICKHOUSE_PASSWORD"  # noqa: S105  (a name, not a secret)

# The process takes about 330 MB at its start, most of it the engine's code.
LEAST_MEMORY_BYTES = 512 * 1024 * 1024


def half_of_the_machine_bytes() -> int:
    """Return half of the machine's memory: the other parts of the platform run beside the engine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Settings of one process.

    Attributes:
        data_folder: holds the engine's data, the spool of results and the lock; one process per folder.
        host: a loopback address.
        port: 0 takes any free port, which the log names.
        user: the only account.
        password: that account's password.
        database: created if absent; what a request without a database uses.
        maximum_memory_bytes: of the whole process; a query that would go over it is refused with code 241.
        threads_per_query: 0 takes one per core.
        s3_endpoints: http or https URLs below which s3() may read and write.
    """

    data_folder: Path
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    maximum_memory_bytes: int
    threads_per_query: int = 0
    s3_endpoints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_loopback(self.host)
        if not self.user or not self.database:
            raise ConfigurationError("--user and --database must not be empty")
        if self.maximum_memory_bytes < LEAST_MEMORY_BYTES:
            raise ConfigurationError(f"--maximum-memory-bytes: the engine needs at least {LEAST_MEMORY_BYTES}")
        if self.threads_per_query < 0:
            raise ConfigurationError("--threads-per-query must not be negative")
        for url in self.s3_endpoints:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ConfigurationError("--s3-endpoint: give an http or https URL, such as http://127.0.0.1:9000")


def require_loopback(host: str) -> None:
    """Refuse an address that others than this machine can reach.

    Raises:
        ConfigurationError: the host is not a loopback address.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigurationError(f"--host {host}: the endpoint listens on the loopback interface only; use 127.0.0.1")


def read_password(environment: Mapping[str, str]) -> str:
    """Return the password from the environment.

    Raises:
        ConfigurationError: the variable is not set or empty.
    """
    password = environment.get(PASSWORD_VARIABLE, "")
    if not password:
        raise ConfigurationError(f"set {PASSWORD_VARIABLE} to the password that clients must present")
    return password
