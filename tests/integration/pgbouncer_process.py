"""Debian's PgBouncer (`pgbouncer`) before a database, in transaction mode: unprivileged, with few connections to it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

from email_platform.local.stack.part import LOOPBACK, free_port
from tests.integration.server_start import PATIENCE_SECONDS, wait_for_server

# Nothing is ignored that a client asks for when it connects: `ignore_startup_parameters` is empty by default.
_CONFIGURATION = """
[databases]
{server.database} = host={server.host} port={server.port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
admin_users = {server.username}
pool_mode = transaction
default_pool_size = {server_connections}
query_wait_timeout = {wait_seconds}
"""


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """A running one, in the place of its server.

    Attributes:
        server: the address of the database itself.
        port: where it listens, on the loopback interface.
    """

    server: URL
    port: int

    def url(self, server_url: str) -> str:
        """The same database and user through it; other databases than its server's it does not know."""
        through = make_url(server_url).set(host=LOOPBACK, port=self.port)
        return through.render_as_string(hide_password=False)

    def listens(self) -> bool:
        """Whether it takes connections."""
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1):
            return True
        return False

    def show(self, what: str) -> list[dict[str, Any]]:
        """What its console shows: ``clients`` or ``servers``, a row for each connection; its own are left out."""
        with (
            psycopg.connect(
                host=LOOPBACK, port=self.port, dbname="pgbouncer",
                user=self.server.username, password=self.server.password, autocommit=True,
            ) as console,
            console.cursor(row_factory=psycopg.rows.dict_row) as cursor,
        ):  # fmt: skip
            rows = cursor.execute(f"show {what}".encode()).fetchall()
        return [row for row in rows if row["database"] != "pgbouncer"]


@contextmanager
def running_pgbouncer(server_url: str, *, server_connections: int, wait_seconds: int = 60) -> Iterator[PgBouncer]:
    """Start one on a free port before this database, and end it on leaving; skips where the package is missing.

    Args:
        server_url: of the database, with the user and password of everybody who comes.
        server_connections: to the database at most; all clients share them.
        wait_seconds: how long a client waits for one before it is turned away, whole seconds.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer (Debian's package) is not installed")
    bouncer = PgBouncer(make_url(server_url), free_port())
    folder = Path(mkdtemp(prefix="pgbouncer-"))
    users, configuration = folder / "users", folder / "ini"
    users.touch(mode=0o600)
    users.write_text(f'"{bouncer.server.username}" "{bouncer.server.password}"\n', encoding="utf-8")
    configuration.write_text(
        _CONFIGURATION.format(
            server=bouncer.server, host=LOOPBACK, port=bouncer.port, users=users,
            server_connections=server_connections, wait_seconds=wait_seconds,
        ),
        encoding="utf-8",
    )  # fmt: skip
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for path in (folder, users, configuration):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, str(configuration)], stdout=log, stderr=log, cwd=folder, **as_user)
        try:
            wait_for_server("PgBouncer", process, bouncer.listens, folder / "log")
            yield bouncer
        finally:
            process.terminate()  # it drops its clients
            process.wait(PATIENCE_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
