"""Does an operator learn which right in S3 or ClickHouse is missing or too wide? Asked of real engines."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import connect
from email_platform.adapters.clickhouse.grants import GRANTS_FILE, apply_grants, check_rights, read_grants
from email_platform.adapters.clickhouse.production_form import ProductionForm
from email_platform.adapters.health.asking import PartCheck
from email_platform.adapters.object_store_rights import rights_beyond_the_bucket
from email_platform.adapters.part_checks import check_parts
from email_platform.errors import ConfigurationError
from email_platform.settings import Settings
from tests.integration import clickhouse_process
from tests.integration.clickhouse_process import DATABASE, PASSWORD, USER

pytestmark = pytest.mark.integration

# The endpoint's one account with other grants than its own: chDB reads them from the same file.
WITH_GRANTS = """
import re, sys
from email_platform.local.clickhouse_endpoint import __main__, access
given, original = sys.argv.pop(1), access.write_access
def write_access(folder, stores):
    configuration = original(folder, stores)
    users = folder / "users.xml"
    users.write_text(re.sub("<grants>.*</grants>", lambda _: given, users.read_text()))
    return configuration
access.write_access = write_access
sys.exit(__main__.main())
"""


def url_of(endpoint: clickhouse_process.Endpoint) -> str:
    return f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{endpoint.port}/{DATABASE}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an engine whose account has what the file gives the application."""
    patch = pytest.MonkeyPatch()
    grants = [
        statement.replace(" to email_platform_application", "")
        for statement in read_grants(DATABASE)
        if statement.startswith("grant") and statement.endswith("to email_platform_application")
    ]
    grants.append(f"grant create database on {DATABASE}.*")  # the endpoint makes its own with this account
    grants.append("grant create database, show databases on lacking.*")
    given = "<grants>" + "".join(f"<query>{grant}</query>" for grant in grants) + "</grants>"
    original = clickhouse_process.command

    def command(data_folder: Path, port: int, *more: str) -> list[str]:
        return [sys.executable, "-c", WITH_GRANTS, given, *original(data_folder, port, *more)[3:]]

    with patch.context() as patched:
        patched.setattr(clickhouse_process, "command", command)
        folder = tmp_path_factory.mktemp("rights")
        with clickhouse_process.running(folder / "data") as endpoint:
            yield url_of(endpoint)


def asked(settings: Settings, part: str, variables: dict[str, str], **changes: object) -> PartCheck:
    found = {check.part: check for check in check_parts(settings.model_copy(update=changes), variables)}
    return found[part]


def test_the_application_s_grants_are_enough_for_the_check_and_one_that_is_missing_is_named(
    server: str, tmp_path: Path
) -> None:
    with closing(connect(ClickHouseAddress.parse(server))) as client:
        rights = check_rights(client, DATABASE)
        assert (rights.missing, rights.beyond, rights.is_known) == ([], [], True)
        more = tmp_path / "clickhouse.sql"
        more.write_text(
            GRANTS_FILE.read_text()
            + "grant select, backup, drop database on email_platform.* to email_platform_application;\n"
        )
        assert check_rights(client, DATABASE, more).missing == [
            f"backup on `{DATABASE}`.*",
            f"drop database on `{DATABASE}`.*",
        ]
        assert check_rights(client, "another").missing[:2] == ["show on `another`.*", "select on `another`.*"]


def test_a_user_who_may_make_no_roles_gets_a_sentence(server: str, settings: Settings) -> None:
    for url in (server, settings.clickhouse_url.get_secret_value()):
        with pytest.raises(ConfigurationError, match="cannot make ClickHouse's roles") as refusal:
            apply_grants(url)
        assert PASSWORD not in str(refusal.value)


def test_the_embedded_parts_say_that_they_have_no_users(settings: Settings) -> None:
    for part in ("rights in S3", "rights in ClickHouse"):
        check = asked(settings, part, {})
        assert check.fits
        assert check.says.startswith("not asked: the embedded")


def test_doctor_asks_a_server_of_one_s_own_and_names_what_is_too_wide_or_missing(
    settings: Settings, server: str
) -> None:
    variables = {"EMAIL_PLATFORM_CLICKHOUSE_URL": "x", "EMAIL_PLATFORM_S3_BUCKET": "x"}
    check = asked(settings, "rights in ClickHouse", variables, clickhouse_url=SecretStr(server))
    assert check.fits
    assert "has those of email_platform_application" in check.says
    check = asked(settings, "rights in ClickHouse", variables)
    assert check.fits
    assert "may also drop any database, read every database, write into every database" in check.says
    with closing(connect(ClickHouseAddress.parse(server))) as client:
        client.command("create database if not exists lacking")
    elsewhere = SecretStr(server.removesuffix(DATABASE) + "lacking")
    check = asked(settings, "rights in ClickHouse", variables, clickhouse_url=elsewhere)
    assert not check.fits
    assert "insert on `lacking`.*" in check.says
    assert "--clickhouse-grants" in check.says
    check = asked(settings, "rights in S3", variables)
    assert check.fits
    assert "may list the account's buckets" in check.says


def test_credentials_that_are_refused_beyond_the_bucket_or_a_store_that_is_away_are_no_finding(
    settings: Settings,
) -> None:
    class Forbidding(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    store = ThreadingHTTPServer(("127.0.0.1", 0), Forbidding)
    threading.Thread(target=store.serve_forever, daemon=True).start()
    there = settings.model_copy(update={"s3_endpoint_url": f"http://127.0.0.1:{store.server_port}"})
    assert rights_beyond_the_bucket(there) == []
    store.shutdown()
    store.server_close()
    assert rights_beyond_the_bucket(there) == []


def test_the_file_s_statements_are_for_the_settings_database_and_every_server_of_a_cluster(tmp_path: Path) -> None:
    statements = read_grants("mail", ProductionForm("all_servers"))
    assert statements[0] == "create role if not exists email_platform_application on cluster all_servers"
    assert "grant on cluster all_servers show, select on `mail`.* to email_platform_reports" in statements
    assert "grant on cluster all_servers show, select on `mail_reports`.* to email_platform_reports" in statements
    assert not [each for each in statements if "email_platform.*" in each or "email_platform_reports.*" in each]
    other = tmp_path / "other.sql"
    other.write_text("grant all on *.* to somebody;")
    with pytest.raises(ConfigurationError, match="only those can be checked"):
        read_grants("mail", file=other)
    with pytest.raises(ConfigurationError, match="run this from the repository"):
        read_grants("mail", file=tmp_path / "absent.sql")
