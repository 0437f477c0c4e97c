"""Runs django-post-office in a virtual environment of its own, on the same PostgreSQL and the same server."""

from __future__ import annotations

import json
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from email_platform.settings import Settings

_FOLDER = Path(__file__).parent / "post_office"


@dataclass(frozen=True, slots=True)
class PeerTurn:
    """What the peer did, and what PostgreSQL wrote for it.

    Attributes:
        queue_seconds, send_seconds: rows written with `send_many`; sent by `send_queued_mail`.
        wal_bytes, row_writes: from the first row to the last email.
    """

    emails: int
    queue_seconds: float
    send_seconds: float
    wal_bytes: int
    row_writes: int

    @property
    def recipients_per_second(self) -> float:
        """Queueing and sending together, as a campaign has to do both."""
        return self.emails / (self.queue_seconds + self.send_seconds)


def run_peer(settings: Settings, url: str, emails: int, processes: int, html_bytes: int, folder: Path) -> PeerTurn:
    """Install the peer once into the folder, and let it send so many emails through the server."""
    python = folder / "peer" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "peer", with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(_FOLDER / "requirements.txt")]
        subprocess.run(install, check=True, capture_output=True)
    address = make_url(settings.postgres_url.get_secret_value())
    name = f"peer_{uuid4().hex[:8]}"
    admin = create_engine(address, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"create database {name}"))
    admin.dispose()
    database = {
        "NAME": name,
        "USER": address.username,
        "PASSWORD": address.password,
        "HOST": address.host,
        "PORT": address.port,
    }
    own = create_engine(address.set(database=name))
    wal_before = _wal_bytes(own)
    arguments = [json.dumps(database), url, str(emails), str(processes), str(html_bytes)]
    done = subprocess.run(
        [str(python), str(_FOLDER / "peer.py"), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-2000:]}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    with own.connect() as connection:
        rows = connection.execute(
            text("select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables")
        ).scalar_one()
    turn = PeerTurn(
        measured["emails"],
        measured["queue_seconds"],
        measured["send_seconds"],
        _wal_bytes(own) - wal_before,
        int(rows),
    )
    own.dispose()
    return turn


def _wal_bytes(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(
            connection.execute(text("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")).scalar_one()
        )
