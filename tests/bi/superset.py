"""A Superset of its own for one warehouse: fresh metadata, the export imported, a server on a free port.

Invariant: the warehouse's password is in one private file for the time of the import, and afterwards encrypted in
Superset's own database; nothing that Superset prints is shown before it is taken out.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import yaml

from email_platform.adapters.clickhouse.address import ClickHouseAddress, reports_database_beside
from email_platform.local.stack.part import free_port, http_status

PROJECT = Path(__file__).parents[2]
SUPERSET = PROJECT / "deploy" / "superset"
EXPORT = SUPERSET / "export"
DATABASE_FILE = "databases/email_platform.yaml"
ENVIRONMENT = PROJECT / ".venv-bi" / "bin"
USER = "reader"
_START_SECONDS = 180.0
_COMMAND_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class RunningSuperset:
    """A server that answers.

    Attributes:
        url: where a browser finds it.
        user, password: of an administrator, made for this start.
    """

    url: str
    user: str
    password: str = field(repr=False)


def reports_uri(clickhouse_url: str) -> str:
    """The reports' database as SQLAlchemy's dialect of clickhouse-connect names it; the password is in it."""
    address = ClickHouseAddress.parse(clickhouse_url)
    account = f"{quote(address.user, safe='')}:{quote(address.password, safe='')}"
    secure = "?secure=true" if address.is_secure else ""
    database = reports_database_beside(address.database)
    return f"clickhousedb://{account}@{address.host}:{address.port}/{database}{secure}"


def write_export(folder: Path, uri: str) -> None:
    """A copy of the export whose database is at this address."""
    shutil.copytree(EXPORT, folder, dirs_exist_ok=True)
    file = folder / DATABASE_FILE
    database = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump({**database, "sqlalchemy_uri": uri}), encoding="utf-8")


@contextmanager
def running_superset(home: Path, clickhouse_url: str) -> Iterator[RunningSuperset]:
    """Make the metadata, import the dashboards with Superset's own command, serve them; stopped on leaving.

    Args:
        home: an empty folder for Superset's database and log.
        clickhouse_url: of the platform's settings.

    Raises:
        RuntimeError: a command of Superset failed; the end of its output is in it, without the password.
        TimeoutError: the server does not answer.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    uri = reports_uri(clickhouse_url)
    password = secrets.token_urlsafe(16)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EMAIL_PLATFORM_")},
        "SUPERSET_CONFIG_PATH": str(SUPERSET / "superset_config.py"),
        "SUPERSET_HOME": str(home),
        "SUPERSET_SECRET_KEY": secrets.token_urlsafe(42),
        "FLASK_APP": "superset.app:create_app()",
    }
    hidden = (uri, ClickHouseAddress.parse(clickhouse_url).password, password)
    _command(environment, hidden, "db", "upgrade")
    _command(environment, hidden, "init")
    _command(
        *(environment, hidden, "fab", "create-admin", "--username", USER, "--password", password),
        *("--firstname", "Reader", "--lastname", "of reports", "--email", "reader@example.com"),
    )
    with tempfile.TemporaryDirectory(dir=home) as copy:  # mkdtemp's are private
        write_export(Path(copy), uri)
        _command(environment, hidden, "import-directory", "--overwrite", copy)
    port = free_port()
    with (home / "superset.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [
                *(str(ENVIRONMENT / "gunicorn"), "--bind", f"127.0.0.1:{port}", "--workers", "1"),
                *("--worker-class", "gthread", "--threads", "8", "--timeout", "120", "superset.app:create_app()"),
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(server, port)
            yield RunningSuperset(f"http://127.0.0.1:{port}", USER, password)
        finally:
            server.terminate()
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while http_status(port, "/health") != 200:
        if server.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError("Superset does not answer: see superset.log in its folder")
        time.sleep(0.5)


def _command(environment: Mapping[str, str], hidden: tuple[str, ...], *words: str) -> None:
    ended = subprocess.run(
        [str(ENVIRONMENT / "superset"), *words],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_COMMAND_SECONDS,
    )
    # The import logs what it refuses and ends with 0 (superset.examples.utils.load_configs_from_directory).
    if ended.returncode != 0 or "An error occurred" in ended.stdout:
        output = ended.stdout
        for secret in hidden:
            output = output.replace(secret, "***")
        raise RuntimeError(f"superset {words[0]} ended with {ended.returncode}:\n{output[-4000:]}")
