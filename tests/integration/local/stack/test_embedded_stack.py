"""The embedded stack: real engines that check credentials, keep their data and leave nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from pyarrow.fs import S3FileSystem

from email_platform.adapters.preparation import prepare
from email_platform.errors import ConfigurationError, PartUnavailableError, PortTakenError
from email_platform.local.stack.credentials import read_embedded_file
from email_platform.local.stack.dagster_processes import daemons_are_healthy
from email_platform.local.stack.part import Part
from email_platform.local.stack.python_parts import project_folder, python_environment
from email_platform.local.stack.stack import (
    ALL_PART_NAMES,
    clean_environment,
    running_stack,
    started_stack,
    stop_stack,
    supervisor_id,
)
from email_platform.local.stack.supervisor import Supervisor
from email_platform.local.stack.written_state import statuses
from email_platform.settings import Settings, embedded_values

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT_SECONDS = 60.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds; fail after a generous time."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what}: not in {LIMIT_SECONDS} s"
        time.sleep(0.02)
    return result


def connect(settings: Settings, **changes: Any) -> psycopg.Connection[Any]:
    url = urlsplit(settings.postgres_url.get_secret_value())
    given = {"user": url.username, "password": settings.postgres_password(), "dbname": url.path[1:]}
    return psycopg.connect(host=url.hostname, port=url.port, connect_timeout=10, **{**given, **changes})


@contextlib.contextmanager
def s3(settings: Settings, **changes: str) -> Iterator[Any]:
    assert settings.s3_secret_access_key is not None
    keys = {
        "aws_access_key_id": settings.s3_access_key_id,
        "aws_secret_access_key": settings.s3_secret_access_key.get_secret_value(),
    }
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        **{**keys, **changes},
    )
    try:
        yield client
    finally:
        client.close()


def clickhouse(settings: Settings, query: str, **changes: str) -> tuple[int, str]:
    url = urlsplit(settings.clickhouse_url.get_secret_value())
    headers = {
        "X-ClickHouse-User": url.username or "",
        "X-ClickHouse-Key": url.password or "",
        "X-ClickHouse-Database": url.path[1:],
    }
    return http_call(url.port, "POST", "/", query.encode(), headers | changes)


def http_call(port: int | None, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def client_error(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as failure:
        call()
    return str(failure.value.response["Error"]["Code"])


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- every part serves those who know its secret, and nobody else ----------------------------------------------


def test_postgres_serves_both_databases_durably(settings: Settings) -> None:
    for database in ("email_platform", "dagster"):
        with connect(settings, dbname=database) as connection:
            assert connection.execute("show fsync").fetchone() == ("on",)
            assert connection.execute("show data_checksums").fetchone() == ("on",)
            assert connection.execute("show server_encoding").fetchone() == ("UTF8",)


def test_postgres_refuses_a_wrong_password(settings: Settings) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(settings, password="wrong")


def test_s3_refuses_wrong_keys_and_unsigned_requests(settings: Settings) -> None:
    with s3(settings, aws_secret_access_key="wrong") as client:
        assert client_error(lambda: client.list_objects_v2(Bucket=settings.s3_bucket)) == "SignatureDoesNotMatch"
    with s3(settings, aws_access_key_id="WRONG") as client:
        assert client_error(lambda: client.list_objects_v2(Bucket=settings.s3_bucket)) == "InvalidAccessKeyId"
    port = urlsplit(settings.s3_endpoint_url or "").port
    assert http_call(port, "GET", f"/{settings.s3_bucket}", b"", {})[0] == 403


def test_clickhouse_serves_and_refuses_a_wrong_password(settings: Settings) -> None:
    assert clickhouse(settings, "select currentDatabase()") == (200, "email_platform\n")
    assert clickhouse(settings, "select 1", **{"X-ClickHouse-Key": "wrong"})[0] in (401, 403, 516)


def test_the_provider_refuses_a_wrong_key(settings: Settings) -> None:
    port = urlsplit(settings.provider_url or "").port
    assert http_call(port, "GET", "/health", b"", {})[0] == 200
    refused = http_call(port, "GET", "/admin/accepted", b"", {"Authorization": "Bearer wrong"})
    assert refused[0] in (401, 403)


def test_secrets_are_readable_by_their_owner_only_and_in_no_command_line(settings: Settings) -> None:
    path = settings.state_folder / "embedded.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.state_folder.stat().st_mode) == 0o700
    secrets = [settings.postgres_password(), settings.unsubscribe_secret.get_secret_value()]
    for name in ("s3_secret_access_key", "provider_api_key", "provider_webhook_secret"):
        secrets.append(getattr(settings, name).get_secret_value())
    secrets.append(urlsplit(settings.clickhouse_url.get_secret_value()).password or "")
    assert all(len(secret) >= 32 for secret in secrets)
    seen = "\n".join(log.read_text() for log in (settings.state_folder / "logs").iterdir())
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            seen += "\n" + " ".join(process.cmdline())
    assert not [secret for secret in secrets if secret in seen]


def test_no_file_that_a_part_writes_is_readable_by_others(settings: Settings) -> None:
    store_marks(settings)
    written = [path for path in settings.state_folder.rglob("*") if path.is_file() and not path.is_symlink()]
    parts = {path.relative_to(settings.state_folder).parts[0] for path in written}
    assert {"clickhouse", "s3", "logs"} <= parts, parts
    assert {"embedded.env", "stack.json", "supervisor.lock"} <= parts, parts
    assert [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    with connect(settings) as connection:
        connection.execute("drop table mark")


# --- S3 as our clients use it -----------------------------------------------------------------------------------


def test_s3_reads_ranges_as_s3_does(settings: Settings) -> None:
    with s3(settings) as client:
        client.put_object(Bucket=settings.s3_bucket, Key="ranges", Body=b"0123456789")

        def read(wanted: str) -> bytes:
            answer = client.get_object(Bucket=settings.s3_bucket, Key="ranges", Range=wanted)
            return bytes(answer["Body"].read())

        assert read("bytes=2-4") == b"234"
        assert read("bytes=7-") == b"789"
        assert read("bytes=7-100") == b"789"
        assert read("bytes=-3") == b"789"
        assert client_error(lambda: read("bytes=10-")) == "InvalidRange"


def test_s3_writes_conditionally_and_the_connection_stays_usable(settings: Settings) -> None:
    with s3(settings) as client:
        put = {"Bucket": settings.s3_bucket, "Key": "conditional"}
        client.delete_object(**put)
        client.put_object(**put, Body=b"first", IfNoneMatch="*")
        refused = client_error(lambda: client.put_object(**put, Body=b"second" * 10_000, IfNoneMatch="*"))
        assert refused == "PreconditionFailed"
        assert client.get_object(**put)["Body"].read() == b"first"


def test_s3_lists_deletes_and_assembles_parts(settings: Settings) -> None:
    bucket = settings.s3_bucket
    with s3(settings) as client:
        for index in range(5):
            client.put_object(Bucket=bucket, Key=f"listed/chunk={index}/x", Body=b"")
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix="listed/", PaginationConfig={"PageSize": 2}
        )
        assert [len(page["Contents"]) for page in pages] == [2, 2, 1]
        client.delete_object(Bucket=bucket, Key="listed/chunk=0/x")
        assert client_error(lambda: client.head_object(Bucket=bucket, Key="listed/chunk=0/x")) == "404"

        whole = {"Bucket": bucket, "Key": "parts"}
        upload = client.create_multipart_upload(**whole)["UploadId"]
        parts = [
            {
                "PartNumber": number,
                "ETag": client.upload_part(**whole, UploadId=upload, PartNumber=number, Body=body)["ETag"],
            }
            for number, body in ((1, b"a" * 5 * 1024 * 1024), (2, b"end"))
        ]
        client.complete_multipart_upload(**whole, UploadId=upload, MultipartUpload={"Parts": parts})
        assert client.get_object(**whole, Range="bytes=-4")["Body"].read() == b"aend"


def test_pyarrow_writes_parquet_that_clickhouse_reads_by_glob(settings: Settings) -> None:
    assert settings.s3_secret_access_key is not None
    secret = settings.s3_secret_access_key.get_secret_value()
    files = S3FileSystem(
        access_key=settings.s3_access_key_id,
        secret_key=secret,
        endpoint_override=urlsplit(settings.s3_endpoint_url or "").netloc,
        scheme="http",
        region=settings.s3_region,
    )
    table = pa.table({"n": pa.array(range(30_000))})
    for chunk in range(3):
        with files.open_output_stream(f"{settings.s3_bucket}/arrow/campaign=1/chunk-{chunk}.parquet") as target:
            pq.write_table(table, target, row_group_size=10_000)
    with files.open_input_file(f"{settings.s3_bucket}/arrow/campaign=1/chunk-2.parquet") as source:
        assert pq.ParquetFile(source).read_row_group(1)["n"][0].as_py() == 10_000
    url = f"{settings.s3_endpoint_url}/{settings.s3_bucket}/arrow/campaign=*/chunk-*.parquet"
    query = f"select count(), sum(n) from s3('{url}', '{settings.s3_access_key_id}', '{secret}', 'Parquet')"
    assert clickhouse(settings, query) == (200, f"90000\t{3 * sum(range(30_000))}\n")


# --- starting, stopping, starting again -------------------------------------------------------------------------


def small_stack(folder: Path, **changes: Any) -> contextlib.AbstractContextManager[Settings]:
    return running_stack(folder, **{"parts": ("postgres", "s3"), "environ": clean_environment(), **changes})


def store_marks(settings: Settings) -> None:
    with connect(settings) as connection:
        connection.execute("create table mark (n int)")
        connection.execute("insert into mark values (7)")
    with s3(settings) as client:
        client.put_object(Bucket=settings.s3_bucket, Key="mark", Body=b"seven")


def assert_marks(settings: Settings) -> None:
    with connect(settings) as connection:
        assert connection.execute("select n from mark").fetchall() == [(7,)]
    with s3(settings) as client:
        assert client.get_object(Bucket=settings.s3_bucket, Key="mark")["Body"].read() == b"seven"


def test_a_second_start_finds_the_data_and_secrets_of_the_first(tmp_path: Path) -> None:
    with small_stack(tmp_path / "state") as first:
        store_marks(first)
    assert not psutil_children_of_stack(tmp_path)
    with small_stack(tmp_path / "state") as second:
        assert_marks(second)
    assert second.postgres_password() == first.postgres_password()
    assert second.unsubscribe_secret == first.unsubscribe_secret


def test_a_state_folder_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    for name in ("supervisor.lock", "notes.txt"):
        (state / name).touch()
        (state / name).chmod(0o666)
    with small_stack(state, parts=("s3",)):
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert [path for path in state.iterdir() if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_what_the_embedded_engines_may_take_is_a_setting(tmp_path: Path) -> None:
    limits = {
        "EMAIL_PLATFORM_EMBEDDED_CLICKHOUSE_MEMORY_MEGABYTES": "900",
        "EMAIL_PLATFORM_EMBEDDED_CLICKHOUSE_THREADS": "1",
        "EMAIL_PLATFORM_EMBEDDED_POSTGRES_SHARED_MEGABYTES": "32",
        "EMAIL_PLATFORM_EMBEDDED_POSTGRES_WORK_MEGABYTES": "3",
        "EMAIL_PLATFORM_EMBEDDED_POSTGRES_CONNECTIONS": "33",
    }
    environ = {**clean_environment(), **limits}
    with small_stack(tmp_path / "state", parts=("postgres", "s3", "clickhouse"), environ=environ) as settings:
        with connect(settings) as connection:
            shown = [
                connection.execute(f"show {name}").fetchone()
                for name in ("shared_buffers", "work_mem", "max_connections")
            ]
        assert shown == [("32MB",), ("3MB",), ("33",)]
        assert clickhouse(settings, "select getSetting('max_threads')") == (200, "1\n")
        query = "select value from system.server_settings where name = 'max_server_memory_usage'"
        assert clickhouse(settings, query) == (200, f"{900 * 1024 * 1024}\n")
        status, answer = clickhouse(settings, "select length(groupArray(number)) from numbers(300000000)")
        assert (status, "MEMORY_LIMIT_EXCEEDED" in answer) == (500, True), answer


def test_a_state_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    state.mkdir()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)  # as that user would see it
    with pytest.raises(ConfigurationError, match="belongs to another user"), small_stack(state, parts=("s3",)):
        raise AssertionError("it was started")
    assert list(state.iterdir()) == []


def test_a_lost_secrets_file_does_not_lose_the_data(tmp_path: Path) -> None:
    with small_stack(tmp_path / "state") as first:
        store_marks(first)
    (tmp_path / "state" / "embedded.env").unlink()
    with small_stack(tmp_path / "state") as second:
        assert_marks(second)
    assert second.postgres_password() != first.postgres_password()


def test_a_part_that_died_is_brought_back_with_its_data(tmp_path: Path) -> None:
    printed: list[str] = []
    with small_stack(tmp_path / "state", say=printed.append) as settings:
        store_marks(settings)
        process_ids = {each.name: each.process_id for each in statuses(settings.state_folder)}
        for process_id in process_ids.values():
            assert process_id is not None
            os.kill(process_id, signal.SIGKILL)
        until(lambda: sum("serves again" in line for line in printed) == 2, "both parts serve again")
        assert_marks(settings)
        again = {each.name: each.process_id for each in statuses(settings.state_folder)}
    assert any("postgres ended (signal 9); starting it again in 0.5 s" in line for line in printed)
    assert again.keys() == process_ids.keys()
    assert not set(again.values()) & set(process_ids.values())
    stops = [line for line in printed if line.startswith("stopping ")]
    assert [line.split()[1] for line in stops] == list(reversed(process_ids)), "each is named while it is waited for"
    assert printed[-1].startswith("all 2 parts have ended")


def test_a_second_supervisor_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with small_stack(tmp_path / "state", parts=("s3",)):
        assert supervisor_id(tmp_path / "state") == os.getpid()
        with pytest.raises(
            ConfigurationError, match=rf"process {os.getpid()}\) works on .*EMAIL_PLATFORM_STATE_FOLDER"
        ):
            small_stack(tmp_path / "state").__enter__()
    assert supervisor_id(tmp_path / "state") is None


def test_a_taken_port_is_named_with_the_variable_to_change(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {**clean_environment(), "EMAIL_PLATFORM_S3_PORT": str(port)}
        with pytest.raises(PortTakenError, match=rf"port {port} .*s3.*EMAIL_PLATFORM_S3_PORT"):
            small_stack(tmp_path / "state", parts=("s3",), ports="configured", environ=environ).__enter__()


def test_an_external_part_is_not_started(tmp_path: Path, stack: Settings) -> None:
    environ = {
        **clean_environment(),
        "EMAIL_PLATFORM_POSTGRES_URL": stack.postgres_url.get_secret_value(),
        "EMAIL_PLATFORM_CLICKHOUSE_URL": stack.clickhouse_url.get_secret_value(),
    }
    with started_stack(tmp_path / "state", environ=environ, parts=("postgres", "s3"), ports="free") as started:
        assert started.external == {"postgres", "clickhouse"}
        assert [each.name for each in statuses(tmp_path / "state")] == ["s3"]
        assert started.settings.postgres_url == stack.postgres_url
        # What is written for a later start without these variables is of no use to an external part.
        assert "postgres_url" not in embedded_values(tmp_path / "state", environ)


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no such part: postgress; parts are postgres, s3"):
        small_stack(tmp_path / "state", parts=("postgress",)).__enter__()


def test_a_wrong_setting_leaves_no_secrets_behind(tmp_path: Path) -> None:
    environ = {**clean_environment(), "EMAIL_PLATFORM_CHUNK_ROWS": "none"}
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_CHUNK_ROWS"):
        small_stack(tmp_path / "state", environ=environ).__enter__()
    assert read_embedded_file(tmp_path / "state") == {}


def test_preparing_twice_is_preparing_once(settings: Settings) -> None:
    prepare(settings)
    prepare(settings)


# --- the supervisor with parts that misbehave -------------------------------------------------------------------


def python_part(tmp_path: Path, program: str, **changes: Any) -> Part:
    given = {
        "name": "odd",
        "command": (sys.executable, "-c", program),
        "environment": python_environment(clean_environment()),
        "working_folder": tmp_path,
        "data_folder": None,
        "log_file": tmp_path / "logs" / "odd.log",
        "address": "nowhere",
        "is_ready": lambda: False,
    }
    return Part(**{**given, **changes})


def test_a_part_that_dies_while_starting_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    supervisor = Supervisor(LIMIT_SECONDS)
    part = python_part(tmp_path, "print('what went wrong'); raise SystemExit(3)")
    with pytest.raises(PartUnavailableError) as failure:
        supervisor.start([part])
    supervisor.stop()
    assert "odd ended while starting (exit code 3)" in str(failure.value)
    assert str(part.log_file) in str(failure.value)
    assert "what went wrong" in str(failure.value)


def test_a_part_that_does_not_answer_in_time_is_named_with_the_variable(tmp_path: Path) -> None:
    supervisor = Supervisor(start_timeout_seconds=0.2)
    with pytest.raises(PartUnavailableError, match=r"odd did not answer .*EMAIL_PLATFORM_START_TIMEOUT_SECONDS"):
        supervisor.start([python_part(tmp_path, "import time; time.sleep(600)")])
    (started,) = supervisor.started_parts()
    process = psutil.Process(started.guard_id)
    supervisor.stop()
    assert is_gone(process)


ORPHAN_PROGRAM = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
)
open("child.unfinished", "w").write(str(child.pid))
os.rename("child.unfinished", "child")
time.sleep(600)
"""


def orphan_part(tmp_path: Path) -> Part:
    return python_part(tmp_path, ORPHAN_PROGRAM, is_ready=(tmp_path / "child").exists)


def test_processes_that_left_the_parts_session_are_ended_too(tmp_path: Path) -> None:
    supervisor = Supervisor(LIMIT_SECONDS)
    supervisor.start([orphan_part(tmp_path)])
    child = psutil.Process(int((tmp_path / "child").read_text()))
    assert not is_gone(child)
    supervisor.stop()
    assert is_gone(child)


def test_processes_of_a_killed_part_are_ended_before_it_is_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor(LIMIT_SECONDS)
    supervisor.start([orphan_part(tmp_path)])
    child = psutil.Process(int((tmp_path / "child").read_text()))
    (started,) = supervisor.started_parts()
    assert started.process_id is not None
    os.kill(started.process_id, signal.SIGKILL)
    until(lambda: is_gone(child), "the orphan ended")
    supervisor.stop()


def test_a_part_that_ignores_the_stop_signal_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open('deaf', 'w').close(); time.sleep(600)"
    )
    part = python_part(tmp_path, program, is_ready=(tmp_path / "deaf").exists, grace_seconds=0.2)
    supervisor = Supervisor(LIMIT_SECONDS)
    supervisor.start([part])
    (started,) = supervisor.started_parts()
    process = psutil.Process(started.process_id)
    supervisor.stop()
    assert is_gone(process)


def test_a_part_ends_with_its_guard(tmp_path: Path) -> None:
    supervisor = Supervisor(LIMIT_SECONDS)
    part = python_part(
        tmp_path, "import time; open('up', 'w').close(); time.sleep(600)", is_ready=(tmp_path / "up").exists
    )
    supervisor.start([part])
    (started,) = supervisor.started_parts()
    process = psutil.Process(started.process_id)
    os.kill(started.guard_id, signal.SIGKILL)
    until(lambda: is_gone(process), "the part ended")
    supervisor.stop()


def test_the_wait_before_a_new_start_doubles(tmp_path: Path) -> None:
    printed: list[str] = []
    now = [0.0]
    ready = [True]
    supervisor = Supervisor(LIMIT_SECONDS, printed.append, clock=lambda: now[0])
    supervisor.start([python_part(tmp_path, "raise SystemExit(1)", is_ready=lambda: ready[0])])
    ready[0] = False

    def noticed(known: int) -> bool:
        supervisor.check_once()
        return len(printed) > known

    for _ in range(3):
        before = len(printed)
        until(partial(noticed, before), "the end was noticed")
        now[0] += 40.0
        supervisor.check_once()
    supervisor.stop()
    assert [line.split(" in ")[1].split(" s;")[0] for line in printed if " in " in line] == ["0.5", "1", "2"]


# --- the command line ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def command_up(tmp_path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    environ = cli_environment(tmp_path)
    with (tmp_path / "up.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "email_platform.cli.app", "up", *options],
            cwd=tmp_path,
            env=environ,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        until(lambda: process.poll() is not None or "running;" in (tmp_path / "up.log").read_text(), "the stack is up")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(LIMIT_SECONDS)


def cli_environment(tmp_path: Path) -> dict[str, str]:
    environ = {**clean_environment(), **python_environment(clean_environment()), "COLUMNS": "200"}
    environ["EMAIL_PLATFORM_STATE_FOLDER"] = str(tmp_path / "state")
    path = tmp_path / "ports"
    if not path.exists():
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            path.write_text(" ".join(str(server.getsockname()[1]) for server in servers))
    postgres_port, s3_port = path.read_text().split()
    return {**environ, "EMAIL_PLATFORM_POSTGRES_PORT": postgres_port, "EMAIL_PLATFORM_S3_PORT": s3_port}


def cli(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "email_platform.cli.app", *arguments],
        cwd=tmp_path,
        env=cli_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )


def psutil_children_of_stack(tmp_path: Path) -> list[psutil.Process]:
    """Processes that work on this folder: by working folder or command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and (
                process.cwd().startswith(str(tmp_path)) or str(tmp_path) in " ".join(process.cmdline())
            ):
                found.append(process)
    return found


ONLY_TWO = ("--only", "postgres", "--only", "s3")


def test_after_kill_9_of_the_supervisor_nothing_is_left_and_the_next_start_recovers(tmp_path: Path) -> None:
    with command_up(tmp_path, *ONLY_TWO) as process:
        assert process.poll() is None, (tmp_path / "up.log").read_text()
        settings = Settings.load(cli_environment(tmp_path))
        store_marks(settings)
        processes = psutil_children_of_stack(tmp_path)
        assert len(processes) > 4
        process.kill()
        process.wait()
        # The next start does not wait for us to look: it lets the old parts end first.
        (tmp_path / "up.log").write_text("")
    with command_up(tmp_path, *ONLY_TWO) as process:
        assert process.poll() is None, (tmp_path / "up.log").read_text()
        assert all(is_gone(old) for old in processes)
        assert_marks(settings)


def test_kill_9_of_everything_at_once_loses_nothing(tmp_path: Path) -> None:
    with command_up(tmp_path, *ONLY_TWO) as process:
        settings = Settings.load(cli_environment(tmp_path))
        store_marks(settings)
        everything = psutil_children_of_stack(tmp_path)
        for each in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        until(lambda: all(is_gone(each) for each in everything), "all ended")
        (tmp_path / "up.log").write_text("")
    with command_up(tmp_path, *ONLY_TWO) as process:
        assert process.poll() is None, (tmp_path / "up.log").read_text()
        assert_marks(settings)


def test_up_status_and_down_tell_what_runs_and_leave_nothing(tmp_path: Path) -> None:
    assert cli(tmp_path, "status").returncode == 1
    with command_up(tmp_path, *ONLY_TWO) as process:
        shown = cli(tmp_path, "status")
        assert shown.returncode == 1, shown.stderr  # ClickHouse is not there
        for expected in ("PostgreSQL", "ClickHouse", "WRONG", "state/logs", f"supervisor: process {process.pid}"):
            assert expected in shown.stdout
        document = json.loads(cli(tmp_path, "status", "--json").stdout)
        assert {part["name"]: part["up_seconds"] > 0 for part in document["parts"]} == {"postgres": True, "s3": True}
        fits = {check["part"]: check["fits"] for check in document["checks"]}
        assert (fits["PostgreSQL"], fits["S3"], fits["ClickHouse"], fits["queue"]) == (True, True, False, True)
        refused = cli(tmp_path, "up", *ONLY_TWO)
        assert refused.returncode == 2
        assert "another supervisor" in refused.stderr
        assert cli(tmp_path, "down").returncode == 0
        assert process.wait(LIMIT_SECONDS) == 0
    assert psutil_children_of_stack(tmp_path) == []
    assert "nothing runs" in cli(tmp_path, "down").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_cleanly(tmp_path: Path, number: int) -> None:
    with command_up(tmp_path, *ONLY_TWO) as process:
        process.send_signal(number)
        assert process.wait(LIMIT_SECONDS) == 0
    assert psutil_children_of_stack(tmp_path) == []
    assert "database system is shut down" in (tmp_path / "state" / "logs" / "postgres.log").read_text()
    assert stop_stack(tmp_path / "state", 1.0) is False


# --- the receiver of events ---------------------------------------------------------------------------------------


def test_receivers_share_a_port_come_back_one_by_one_and_are_known_to_the_simulator(tmp_path: Path) -> None:
    printed: list[str] = []
    environ = {**clean_environment(), "EMAIL_PLATFORM_RECEIVER_PROCESSES": "2"}
    parts = ("postgres", "s3", "provider", "receiver")
    with small_stack(tmp_path / "state", parts=parts, environ=environ, say=printed.append) as settings:
        found = {each.name: each for each in statuses(settings.state_folder)}
        assert found["receiver"].address == found["receiver-2"].address == settings.receiver_url
        assert settings.public_base_url == settings.receiver_url

        def answering() -> int:
            # A new connection each time: the kernel deals out connections.
            status, answer = http_call(settings.receiver_port, "GET", "/health", b"", {})
            assert status == 200
            return int(json.loads(answer)["process_id"])

        seen: set[int] = set()
        until(lambda: seen.add(answering()) or len(seen) == 2, "both receivers answer")
        assert seen == {found["receiver"].process_id, found["receiver-2"].process_id}
        killed = found["receiver-2"].process_id
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        until(lambda: "receiver-2 serves again" in printed, "the killed one serves again")
        until(lambda: answering() not in seen, "its successor answers")
        command = " ".join(psutil.Process(found["provider"].process_id).cmdline())
        assert f"--webhook-url {settings.receiver_url}/events/simulator/default" in command
    assert psutil_children_of_stack(tmp_path) == []


def test_a_receiver_elsewhere_is_not_started_and_gets_the_simulators_events(tmp_path: Path) -> None:
    environ = {**clean_environment(), "EMAIL_PLATFORM_RECEIVER_URL": "http://127.0.0.1:9"}
    parts = ("postgres", "s3", "provider", "receiver")
    with small_stack(tmp_path / "state", parts=parts, environ=environ):
        found = {each.name: each for each in statuses(tmp_path / "state")}
        assert "receiver" not in found
        command = " ".join(psutil.Process(found["provider"].process_id).cmdline())
        assert "--webhook-url http://127.0.0.1:9/events/simulator/default" in command


def test_a_receivers_taken_port_is_named_with_the_variable_to_change(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        environ = {
            **clean_environment(),
            "EMAIL_PLATFORM_RECEIVER_PORT": str(port),
            "EMAIL_PLATFORM_RECEIVER_PROCESSES": "2",
        }
        with pytest.raises(PortTakenError, match=rf"port {port} .*receiver.*EMAIL_PLATFORM_RECEIVER_PORT"):
            small_stack(tmp_path / "state", parts=("receiver",), ports="configured", environ=environ).__enter__()


# --- Dagster ------------------------------------------------------------------------------------------------------

WORKSPACE = """
load_from:
  - python_file:
      relative_path: stub.py
"""


def test_dagster_runs_on_the_embedded_postgres_and_shows_no_password(tmp_path: Path) -> None:
    (tmp_path / "stub.py").write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
    (tmp_path / "workspace.yaml").write_text(WORKSPACE)
    parts = [name for name in ALL_PART_NAMES if name == "postgres" or name.startswith("dagster")]
    with small_stack(tmp_path / "state", parts=parts, workspace=tmp_path / "workspace.yaml") as settings:
        assert daemons_are_healthy(settings.dagster_port)
        with connect(settings, dbname="dagster") as connection:
            assert connection.execute("select count(*) from daemon_heartbeats").fetchone() != (0,)
        processes = psutil.Process().children(recursive=True)
        command_lines = " ".join(" ".join(each.cmdline()) for each in processes if not is_gone(each))
        assert settings.postgres_password() not in command_lines
        assert settings.postgres_password() not in (settings.state_folder / "dagster_home" / "dagster.yaml").read_text()
    assert psutil_children_of_stack(tmp_path) == []


def test_the_workspace_at_the_top_level_loads_the_definitions() -> None:
    assert "module_name: email_platform.definitions" in (project_folder() / "workspace.yaml").read_text()
