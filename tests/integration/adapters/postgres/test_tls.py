"""The platform's drivers check PostgreSQL's certificate: the one of the given authority and host, or no connection.

Debian's server with a certificate that signs itself, started by the test; it takes TLS only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import create_engine, insert, text
from sqlalchemy.exc import OperationalError

from email_platform.adapters.postgres.audience import PostgresAudienceSource
from email_platform.adapters.postgres.migrate import upgrade_to_head
from email_platform.adapters.postgres.tables import lead
from email_platform.audience.conditions import parse_condition
from email_platform.domain.manifest import CANDIDATE_SCHEMA
from email_platform.local.stack.part import free_port
from tests.fakes.certificates import self_signed
from tests.integration.own_databases import closing_engine

pytestmark = pytest.mark.integration

_IS_ENCRYPTED = text("select ssl from pg_stat_ssl where pid = pg_backend_pid()")


@dataclass(frozen=True, slots=True)
class TlsServer:
    """Where it is, its own authority's certificate, and that of somebody else."""

    port: int
    authority: Path
    other_authority: Path

    def url(self, mode: str, authority: Path, *, host: str = "localhost", driver: str = "psycopg") -> str:
        return (
            f"postgresql+{driver}://tester@{host}:{self.port}/postgres?hostaddr=127.0.0.1"
            f"&sslmode={mode}&sslrootcert={authority}"
        )


def written_certificate(folder: Path, name: str) -> Path:
    """A certificate of localhost that signs itself, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    extensions = [
        (x509.SubjectAlternativeName([x509.DNSName("localhost")]), False),
        (x509.BasicConstraints(ca=True, path_length=0), True),
    ]
    certificate = folder / f"{name}.crt"
    certificate.write_bytes(self_signed(key, "localhost", datetime.now(UTC), extensions))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file = folder / f"{name}.key"
    key_file.write_bytes(key.private_bytes(*form))
    key_file.chmod(0o600)
    return certificate


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not folders:
        pytest.skip("Debian's package postgresql is not installed: no PostgreSQL with TLS")
    programs = folders[-1].parent
    # A server of PostgreSQL does not run as root; Debian's package brings a user for it.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(mkdtemp(prefix="tls-"))
    folder.chmod(0o755)
    authority, other = written_certificate(folder, "server"), written_certificate(folder, "other")
    if as_user:
        for path in (folder, authority, folder / "server.key"):
            shutil.chown(path, "postgres")
    data, port = folder / "data", free_port()
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "tester", "--no-sync", "--encoding=UTF8", "--auth=trust"]
    options = (
        f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off -c ssl=on "
        f"-c ssl_cert_file={authority} -c ssl_key_file={folder / 'server.key'} -c hba_file={folder / 'hba'}"
    )
    (folder / "hba").write_text("hostssl all all 127.0.0.1/32 trust\n", encoding="utf-8")
    start = [str(programs / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-t", "120", "start", "-o", options]
    for command in (initdb, start):
        subprocess.run([*as_user, *command], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        yield TlsServer(port, authority, other)
    finally:
        stop = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, stdout=subprocess.DEVNULL, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_schema_the_ledger_s_driver_the_audience_s_and_dagster_s_work_over_a_checked_certificate(
    server: TlsServer,
) -> None:
    url = server.url("verify-full", server.authority)
    upgrade_to_head(url)
    with closing_engine(url) as engine:
        with engine.begin() as connection:
            assert connection.execute(_IS_ENCRYPTED).scalar_one() is True
            connection.execute(insert(lead).values(email="ada@example.com"))
        with PostgresAudienceSource(engine, None).stream(parse_condition({"all": []}), 1, 10) as batches:
            assert pa.Table.from_batches(batches, schema=CANDIDATE_SCHEMA).num_rows == 1
    dagster = create_engine(server.url("verify-full", server.authority, driver="psycopg2"))
    with dagster.connect() as connection:
        assert connection.execute(_IS_ENCRYPTED).scalar_one() is True
    dagster.dispose()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("no encryption", "no encryption"),
        ("another authority", "certificate verify failed"),
        ("another host", 'does not match host name "elsewhere.example"'),
    ],
)
def test_nothing_is_sent_to_a_server_that_is_not_the_one_that_was_meant(
    server: TlsServer, wrong: str, words: str
) -> None:
    url = {
        "no encryption": server.url("disable", server.authority),
        "another authority": server.url("verify-full", server.other_authority),
        "another host": server.url("verify-full", server.authority, host="elsewhere.example"),
    }[wrong]
    with closing_engine(url) as engine, pytest.raises(OperationalError, match=words):
        engine.connect()
