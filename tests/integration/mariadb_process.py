"""A MariaDB of Debian's packages as a private process: unprivileged, with a data folder and a socket of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import quote

import pymysql
import pytest

from tests.integration.server_start import wait_for_server

_databases = count(1)


@dataclass(frozen=True)
class MariaDb:
    """A running server."""

    socket: Path

    def url(self, database: str, user: str = "reader", password: str = "only-select") -> str:
        return f"mysql://{user}:{quote(password)}@localhost/{database}?unix_socket={self.socket}"

    def connect(self, database: str | None = None, **options: Any) -> Any:
        """A connection as the owner of everything, each statement a transaction of its own, times in UTC."""
        connection = pymysql.connect(
            unix_socket=str(self.socket), user="root", database=database, charset="utf8mb4", autocommit=True,
            local_infile=True, **options,
        )  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute("set session time_zone = '+00:00', sql_mode = ''")
        return connection

    def make_database(self) -> str:
        """A new database, which the user ``reader`` may read and nothing else."""
        name = f"old_{next(_databases)}"
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"create database {name} character set utf8mb4")
            cursor.execute("create user if not exists reader@localhost identified by 'only-select'")
            cursor.execute(f"grant select on {name}.* to reader@localhost")
        return name


@contextmanager
def running_mariadb(*options: str) -> Iterator[MariaDb]:
    """Start a server on an empty data folder; stop it and remove the folder on leaving."""
    if not all(map(shutil.which, ("mariadbd", "mariadb-install-db", "my_print_defaults"))):
        pytest.skip("Debian's packages mariadb-server-core and mariadb-client-core are not installed: no MariaDB")
    folder = Path(mkdtemp(prefix="mariadb-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "nobody", "--"]
        shutil.chown(folder, "nobody")
    data, listening, log = folder / "data", folder / "socket", folder / "log"
    common = ["--no-defaults", f"--datadir={data}"]
    install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
    server = [
        "mariadbd", *common, f"--socket={listening}", "--skip-networking", f"--pid-file={folder / 'pid'}",
        f"--log-error={log}", f"--tmpdir={folder}", "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=16M", "--local-infile=1",
        "--performance-schema=0", *options,
    ]  # fmt: skip
    try:
        subprocess.run([*as_user, *install], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        with subprocess.Popen(
            [*as_user, *server], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        ) as process:
            try:
                yield _answering(MariaDb(listening), process, log)
            finally:
                process.terminate()  # runuser hands the signal on
                process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answering(server: MariaDb, process: subprocess.Popen[bytes], log: Path) -> MariaDb:
    def answers() -> bool:
        with suppress(OSError, pymysql.err.OperationalError):
            with socket.socket(socket.AF_UNIX) as knock:  # the driver leaves its socket open where nobody listens
                knock.connect(str(server.socket))
            server.connect().close()
            return True
        return False

    wait_for_server("MariaDB", process, answers, log, patience_seconds=120)
    return server
