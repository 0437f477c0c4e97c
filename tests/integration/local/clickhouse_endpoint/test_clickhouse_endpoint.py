"""The embedded ClickHouse as a process, asked by clickhouse-connect as a server would be."""

from __future__ import annotations

import gzip
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from moto.server import ThreadedMotoServer

from tests.integration.clickhouse_process import (
    DATABASE,
    PASSWORD,
    USER,
    Endpoint,
    command,
    environment,
    running,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


HARD_TEXTS = [
    "",
    'it\'s "quoted"',
    "back\\slash\\n",
    "tab\tline\nend\r",
    "😀 שלום عليكم",
    "{x:String} %s $1",
    "; drop",
    "\\N",
]


@pytest.fixture(scope="module")
def object_store() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def absent_store() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, object_store: str, absent_store: str) -> Iterator[Endpoint]:
    stores = ("--s3-endpoint", object_store, "--s3-endpoint", absent_store)
    with running(tmp_path_factory.mktemp("clickhouse") / "data", *stores) as started:
        yield started


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Client]:
    with endpoint.client() as opened:
        yield opened


@pytest.fixture
def table(client: Client, request: pytest.FixtureRequest) -> str:
    name = "t_" + re.sub(r"\W", "_", request.node.name)[:80]
    client.command(f"create or replace table {name} (id UInt64, text String) engine = MergeTree order by id")
    return name


def numbers(client: Client, table: str) -> list[int]:
    return [row[0] for row in client.query(f"select id from {table} order by id").result_rows]


# -- protocol ----------------------------------------------------------------------------------------------------


def test_ping_needs_no_credentials_and_answers_as_the_server(endpoint: Endpoint) -> None:
    assert endpoint.ask("GET", "/ping", headers={})[::2] == (200, b"Ok.\n")
    assert endpoint.ask("GET", "/nowhere", headers={})[0] == 404


def test_credentials_are_taken_from_basic_auth_headers_and_the_url(endpoint: Endpoint) -> None:
    own = {"X-ClickHouse-User": USER, "X-ClickHouse-Key": PASSWORD.encode().decode("latin-1")}
    assert endpoint.ask(query="select 1")[::2] == (200, b"1\n")
    assert endpoint.ask(query="select 1", headers=own)[::2] == (200, b"1\n")
    assert endpoint.ask(query="select 1", headers={}, user=USER, password=PASSWORD)[::2] == (200, b"1\n")


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("default", ""), ("", ""), (USER, PASSWORD + " ")])
def test_wrong_credentials_are_refused_with_the_servers_code(endpoint: Endpoint, user: str, password: str) -> None:
    status, headers, body = endpoint.ask(query="select 1", headers={}, user=user, password=password)
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "516")
    assert b"AUTHENTICATION_FAILED" in body
    with pytest.raises(DatabaseError) as refused:
        endpoint.client(password="wrong")
    assert refused.value.code == 516


@pytest.mark.parametrize(
    ("query", "code", "status"),
    [
        ("select * from no_such_table", 60, 404),
        ("selec 1", 62, 400),
        ("misspelt", 62, 400),
        ("select no_such_column", 47, 404),
        ("select 1; select 2", 62, 400),
        ("select throwIf(1)", 395, 500),
        ("select 1 format NoSuchFormat", 73, 404),
        ("select 1 into outfile '/tmp/never'", 36, 400),
        ("insert into no_such_table values (1)", 60, 404),
    ],
)
def test_errors_carry_clickhouses_codes(endpoint: Endpoint, client: Client, query: str, code: int, status: int) -> None:
    answered, headers, body = endpoint.ask(body=query.encode())
    assert (answered, headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert body.startswith(f"Code: {code}. DB::Exception: ".encode())
    with pytest.raises(DatabaseError) as failed:
        client.command(query)
    assert failed.value.code == code


def test_unknown_settings_and_databases_are_refused(client: Client, endpoint: Endpoint) -> None:
    with pytest.raises(DatabaseError, match="UNKNOWN_SETTING"):
        client.query("select 1", settings={"no_such_setting": 1})
    assert endpoint.ask(query="select 1", database="no_such")[1]["X-ClickHouse-Exception-Code"] == "81"


def test_settings_belong_to_one_request(client: Client) -> None:
    query = "select getSetting('max_block_size'), getSetting('async_insert')"
    assert client.query(query, settings={"max_block_size": 77}).result_rows == [(77, False)]
    [[block_size, _]] = client.query(query).result_rows
    assert block_size != 77


def test_get_requests_change_nothing(endpoint: Endpoint) -> None:
    assert endpoint.ask("GET", query="select 1")[2] == b"1\n"
    refused = endpoint.ask("GET", query="create table got (a Int8) engine = Memory")
    assert refused[1]["X-ClickHouse-Exception-Code"] == "164"


def test_get_requests_change_nothing_in_a_session_either(endpoint: Endpoint, table: str) -> None:
    assert endpoint.ask(query="set max_threads = 1", session_id="lasting")[0] == 200
    answer = endpoint.ask("GET", query=f"truncate table {table}", session_id="lasting")
    assert answer[1]["X-ClickHouse-Exception-Code"] == "164"
    assert endpoint.ask("GET", query="select 1", session_id="lasting")[2] == b"1\n"


def test_an_insert_may_begin_with_with(endpoint: Endpoint, client: Client, table: str) -> None:
    insert = f"with 7 as seven insert into {table} (id) select seven"
    for name in ("TabSeparated", "JSON", "Native"):
        assert endpoint.ask(query=insert, default_format=name)[0] == 200
    assert numbers(client, table) == [7, 7, 7]


def test_an_object_store_that_is_down_is_an_error_and_not_a_long_wait(client: Client, absent_store: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query(f"select * from s3('{absent_store}/bucket/key.parquet', 'key', 'secret', 'Parquet')")
    assert caught.value.code == 499


def test_the_memory_limit_refuses_a_query_and_not_the_process(tmp_path: Path) -> None:
    limits = ("--maximum-memory-bytes", "1000000000", "--threads-per-query", "1")
    with running(tmp_path / "data", *limits) as limited, limited.client() as client:
        with pytest.raises(DatabaseError) as caught:
            client.query("select length(groupArray(number)) from numbers(1000000000)")
        assert caught.value.code == 241
        assert client.command("select getSetting('max_threads')") == 1


def test_answers_name_their_query_format_and_zone(endpoint: Endpoint) -> None:
    headers = endpoint.ask(query="select 1", query_id="mine", default_format="CSVWithNames")[1]
    assert headers["X-ClickHouse-Query-Id"] == "mine"
    assert headers["X-ClickHouse-Format"] == "CSVWithNames"
    assert headers["X-ClickHouse-Timezone"]
    split = endpoint.ask(query="select 1", query_id="a\r\nX-Evil: 1")[1]
    assert "X-Evil" not in split


def test_a_connection_is_kept_after_an_error(endpoint: Endpoint) -> None:
    connection = HTTPConnection("127.0.0.1", endpoint.port, timeout=60)
    target = "/?" + urlencode({"user": USER, "password": PASSWORD})
    try:
        own = None
        for query, status in (
            (b"selec 1", 400),
            (b"insert into nope format CSV\n" + b"1\n" * 500_000, 404),
            (b"select 1", 200),
        ):
            connection.request("POST", target, query)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            assert own in (None, connection.sock.getsockname())
            own = connection.sock.getsockname()
    finally:
        connection.close()


def test_sessions_keep_settings_and_temporary_tables_apart(endpoint: Endpoint, client: Client) -> None:
    with endpoint.client(session_id="kept") as session:
        session.command("create temporary table mine (a Int8)")
        session.command("insert into mine values (1)")
        session.command("set max_block_size = 99")
        assert session.query("select a from mine").result_rows == [(1,)]
        block = "select getSetting('max_block_size')"
        assert session.query(block, settings={"max_block_size": 55}).result_rows == [(55,)]
        assert session.query(block).result_rows == [(99,)]
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
            client.query("select a from mine")
    assert (
        endpoint.ask(query="select 1", session_id="never", session_check="1")[1]["X-ClickHouse-Exception-Code"] == "372"
    )


# -- queries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [False, True], ids=["url", "multipart form"])
@pytest.mark.parametrize("text", HARD_TEXTS)
def test_bound_parameters_arrive_as_they_are(endpoint: Endpoint, text: str, form: bool) -> None:
    with endpoint.client(form_encode_query_params=form) as client:
        query = "select {text:String}, {list:Array(String)}, {none:Nullable(String)}, {number:UInt8}"
        parameters = {"text": text, "list": [text, "b"], "none": None, "number": 7}
        assert client.query(query, parameters=parameters).result_rows == [(text, [text, "b"], None, 7)]


def test_data_frames_and_arrow_tables_pass_both_ways(client: Client, table: str) -> None:
    frame = pd.DataFrame({"id": range(len(HARD_TEXTS)), "text": HARD_TEXTS})
    assert client.insert_df(table, frame).written_rows == len(HARD_TEXTS)
    rows = pa.table({"id": pa.array([100], pa.uint64()), "text": ["arrow 😀"]})
    assert client.insert_arrow(table, rows).written_rows == 1
    read = client.query_df(f"select id, text from {table} order by id")
    assert read["text"].tolist() == [*HARD_TEXTS, "arrow 😀"]
    arrow = client.query_arrow(f"select id, text from {table} order by id", use_strings=True)
    assert arrow.column("text").to_pylist() == [*HARD_TEXTS, "arrow 😀"]
    assert client.query_df(f"select id from {table} where id = 5 limit 0").empty


@pytest.mark.parametrize("method", ["lz4", "zstd", "gzip"])
def test_every_content_encoding_works_in_both_directions(endpoint: Endpoint, table: str, method: str) -> None:
    with endpoint.client(compress=method) as client:
        rows = [[number, f"text {number % 7} 😀"] for number in range(200_000)]
        assert client.insert(table, rows, column_names=["id", "text"]).written_rows == 200_000
        assert client.query(f"select id, text from {table} order by id").result_rows == [tuple(row) for row in rows]
    own = {
        "X-ClickHouse-User": USER,
        "X-ClickHouse-Key": PASSWORD.encode().decode("latin-1"),
        "Accept-Encoding": method,
    }
    assert endpoint.ask(query="select 1", headers=own, enable_http_compression="1")[1]["Content-Encoding"] == method
    assert "Content-Encoding" not in endpoint.ask(query="select 1", headers=own)[1]


def test_raw_inserts_take_every_usual_format_and_column_list(client: Client, table: str) -> None:
    columns = ["text", "id"]
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["parquet"], "id": pa.array([1], pa.uint64())}), parquet)
    arrow = io.BytesIO()
    batch = pa.table({"text": ["arrow"], "id": pa.array([2], pa.uint64())})
    with pa.ipc.new_file(arrow, batch.schema) as writer:
        writer.write_table(batch)
    assert client.raw_insert(table, columns, parquet.getvalue(), fmt="Parquet").written_rows == 1
    assert client.raw_insert(table, columns, arrow.getvalue(), fmt="Arrow").written_rows == 1
    assert client.raw_insert(table, columns, 'csv "x",3\n', fmt="CSV").written_rows == 1
    assert client.raw_insert(table, columns, b'{"id":4,"text":"\xd7\xa9"}\n', fmt="JSONEachRow").written_rows == 1
    assert (
        client.raw_insert(table, columns, gzip.compress(b"zipped\t5\n"), fmt="TSV", compression="gzip").written_rows
        == 1
    )
    pieces = (f'{{"id":{number},"text":"piece"}}\n'.encode() for number in range(6, 1006))
    assert client.raw_insert(table, columns, pieces, fmt="JSONEachRow").written_rows == 1000
    client.command(f"insert into {table} values ({{id:UInt64}}, {{text:String}})", {"id": 1006, "text": HARD_TEXTS[3]})
    client.command(f"insert into {table} (id) select 1007 settings max_threads = 1")
    assert numbers(client, table) == list(range(1, 1008))
    assert client.query(f"select text from {table} where id = 1006").result_rows == [(HARD_TEXTS[3],)]


def test_an_insert_in_the_url_takes_its_data_from_the_body(endpoint: Endpoint, client: Client, table: str) -> None:
    query = f"insert into {table} /* format values */ (id) -- select\nformat TSV"
    headers = endpoint.ask(query=query, body=b"1\n2\n")[1]
    assert '"written_rows": "2"' in headers["X-ClickHouse-Summary"]
    assert numbers(client, table) == [1, 2]


@pytest.mark.parametrize(
    "query", ["exists table system.one", "show databases", "describe table system.one", "explain select 1", "select 1"]
)
@pytest.mark.parametrize("name", ["JSON", "TabSeparated", "CSVWithNames", "Parquet", "Native", "JSONEachRow"])
def test_reading_statements_come_in_any_format(endpoint: Endpoint, query: str, name: str) -> None:
    clause = endpoint.ask(body=f"{query} format {name}".encode())
    default = endpoint.ask(body=query.encode(), default_format=name)
    assert (clause[0], default[0]) == (200, 200)
    assert clause[1]["X-ClickHouse-Format"] == default[1]["X-ClickHouse-Format"] == name
    assert clause[2]
    assert len(clause[2]) == len(default[2]) or name == "JSON"


def test_totals_are_part_of_the_output(endpoint: Endpoint) -> None:
    query = b"select number from numbers(2) group by number with totals order by number format TSV"
    assert endpoint.ask(body=query)[2] == b"0\n1\n\n0\n"


def test_a_result_that_fails_midway_is_no_result(endpoint: Endpoint, client: Client) -> None:
    query = "select throwIf(number = 1000000) from numbers(2000000)"
    with pytest.raises(DatabaseError) as waited:
        client.query(query)
    assert waited.value.code == 395
    stream = client.query_row_block_stream(query, settings={"max_block_size": 1000})
    with pytest.raises(StreamFailureError, match="Code: 395"), stream as blocks:
        for _ in blocks:
            pass


# -- what the platform relies on ------------------------------------------------------------------------------------


def test_a_deduplication_token_in_the_url_drops_the_second_insert(client: Client) -> None:
    client.command(
        "create or replace table once (id UInt64) engine = MergeTree order by id "
        "settings non_replicated_deduplication_window = 1000"
    )
    for token in ("a", "a", "b"):
        client.insert("once", [[1]], column_names=["id"], settings={"insert_deduplication_token": token})
        client.command("insert into once select 2", settings={"insert_deduplication_token": "s" + token})
    assert numbers(client, "once") == [1, 1, 2, 2]


def test_tables_are_exchanged_and_replaced_rows_are_final(client: Client) -> None:
    for name, version in (("left_side", 1), ("right_side", 2)):
        client.command(
            f"create or replace table {name} (id UInt64, version UInt64) "
            "engine = ReplacingMergeTree(version) order by id"
        )
        client.insert(name, [[1, version]], column_names=["id", "version"])
        client.insert(name, [[1, version * 10]], column_names=["id", "version"])
    client.command("exchange tables left_side and right_side")
    assert client.query("select version from left_side final").result_rows == [(20,)]
    engine = client.query("select engine from system.databases where name = currentDatabase()").result_rows
    assert engine == [("Atomic",)]


def test_parquet_objects_load_from_s3_without_their_credentials_in_the_log(
    endpoint: Endpoint, client: Client, table: str, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    address = object_store
    keys = {
        "aws_access_key_id": "ACCESSKEY123",
        "aws_secret_access_key": "SECRETKEY456",
        "region_name": "us-east-1",
    }
    store = boto3.client("s3", endpoint_url=address, **keys)
    store.create_bucket(Bucket="staging")
    for number in range(3):
        body = io.BytesIO()
        rows = {"id": pa.array(range(number * 10, number * 10 + 10), pa.uint64()), "text": ["😀"] * 10}
        pq.write_table(pa.table(rows), body)
        store.put_object(Bucket="staging", Key=f"part-{number}.parquet", Body=body.getvalue())
    source = f"s3('{address}/staging/part-*.parquet', 'ACCESSKEY123', 'SECRETKEY456', 'Parquet')"
    summary = client.command(f"insert into {table} select id, text from {source}").summary
    assert summary["written_rows"] == "30"
    assert numbers(client, table) == list(range(30))
    with pytest.raises(DatabaseError) as missing:
        client.query(f"select id from {source.replace('part-', 'absent-')} settings s3_throw_on_zero_files_match = 1")
    assert "SECRETKEY456" not in str(missing.value)
    log = endpoint.log.read_text()
    assert "SECRETKEY456" not in log
    assert PASSWORD not in log


# -- size and concurrency ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RowBinary", "Native", "ArrowStream"])
def test_a_big_result_passes_through_a_small_process(endpoint: Endpoint, client: Client, name: str) -> None:
    client.query("select number from numbers(1000000)")
    endpoint.forget_peak()
    before = endpoint.peak_bytes()
    length = 0
    settings = {"output_format_arrow_compression_method": "none"} if name == "ArrowStream" else {}
    stream = client.raw_stream("select number, number from numbers(25000000)", fmt=name, settings=settings)
    while piece := stream.read(1 << 20):
        length += len(piece)
    assert length >= 400_000_000
    assert endpoint.peak_bytes() - before < 150_000_000


def test_a_big_insert_passes_through_a_small_process(endpoint: Endpoint, client: Client, table: str) -> None:
    block = client.raw_query("select number as id, toString(number) as text from numbers(100000)", fmt="Native")
    repeats = 400_000_000 // len(block) + 1
    settings = {"min_insert_block_size_rows": 200_000, "min_insert_block_size_bytes": 0, "max_insert_threads": 1}
    client.raw_insert(table, ["id", "text"], (block for _ in range(20)), fmt="Native", settings=settings)
    endpoint.forget_peak()
    before = endpoint.peak_bytes()
    body = (block for _ in range(repeats))
    written = client.raw_insert(table, ["id", "text"], body, fmt="Native", settings=settings).written_rows
    assert written == repeats * 100_000
    assert endpoint.peak_bytes() - before < 200_000_000


def test_an_insert_whose_body_is_cut_short_inserts_nothing(endpoint: Endpoint, client: Client, table: str) -> None:
    target = urlencode({"query": f"insert into {table} (id) format TSV", "user": USER, "password": PASSWORD})
    head = f"POST /?{target} HTTP/1.1\r\nHost: x\r\n"
    for framing in ("Content-Length: 1000\r\n\r\n1\n2\n", "Transfer-Encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n"):
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=60) as connection:
            connection.sendall((head + framing).encode())
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    cut = gzip.compress(b"3\n4\n")[:-6]
    headers = {"Content-Encoding": "gzip"}
    credentials = {"user": USER, "password": PASSWORD}
    answer = endpoint.ask(query=f"insert into {table} (id) format TSV", body=cut, headers=headers, **credentials)
    assert answer[1]["X-ClickHouse-Exception-Code"] == "33"
    assert numbers(client, table) == []


def test_a_client_that_leaves_ends_its_query(endpoint: Endpoint, client: Client) -> None:
    stream = client.raw_stream("select number from numbers(100000000000)", fmt="RowBinary")
    assert stream.read(1000)
    stream.close()
    deadline = time.monotonic() + 60
    with endpoint.client() as watcher:
        while watcher.query("select count() from system.processes").result_rows[0][0] > 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_client_that_leaves_a_silent_query_ends_it(endpoint: Endpoint, client: Client) -> None:
    silent = "select count() from numbers(1000000000000) where sipHash64(number) = 1"
    target = urlencode({"query": silent, "user": USER, "password": PASSWORD})

    def running_queries() -> int:
        asked = "select count() from system.processes where query like '%1000000000000%' and query not like '%like%'"
        return int(str(client.command(asked)))

    deadline = time.monotonic() + 60
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=60) as connection:
        connection.sendall(f"POST /?{target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        while not running_queries():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    while running_queries():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_concurrent_clients_get_their_own_answers(endpoint: Endpoint, table: str) -> None:
    def work(number: int) -> int:
        database = f"own_{number}"
        with endpoint.client() as client:
            client.command(f"create database if not exists {database}")
            client.database = database
            for turn in range(15):
                query = "select {n:UInt32}, currentDatabase(), sum(number) from numbers(100000) group by all"
                settings = {"max_block_size": 1000 + number}
                assert client.query(query, {"n": turn}, settings=settings).result_rows == [(turn, database, 4999950000)]
                client.insert(table, [[number, "x"]] * 10, column_names=["id", "text"], database=DATABASE)
                block = client.query("select getSetting('max_block_size')", settings=settings).result_rows
                assert block == [(1000 + number,)]
            return number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == list(range(8))
    with endpoint.client() as client:
        assert client.command(f"select count() from {table}") == 8 * 15 * 10


def test_two_queries_run_at_once(endpoint: Endpoint) -> None:
    """Each waits until it sees the other; one after the other, both would time out."""
    seen = threading.Barrier(2, timeout=60)

    def work(mark: str) -> int:
        with endpoint.client() as client:
            stream = client.raw_stream(f"select number, '{mark}' from numbers(100000000000)", fmt="RowBinary")
            assert stream.read(1000)
            seen.wait()
            with endpoint.client() as other:
                count = other.command("select count() from system.processes where query like '%100000000000%'")
            seen.wait()
            stream.close()
            return int(str(count))

    with ThreadPoolExecutor(2) as pool:
        assert all(count >= 2 for count in pool.map(work, ["one", "two"]))


# -- lifetime ---------------------------------------------------------------------------------------------------------


def test_data_is_found_again_after_a_clean_stop_and_after_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with running(folder) as first, first.client() as client:
        client.command("create table kept (id UInt64, text String) engine = MergeTree order by id")
        client.insert("kept", [[1, "😀"]], column_names=["id", "text"])
        assert first.stop() == 0
    with running(folder) as second, second.client() as client:
        assert numbers(client, "kept") == [1]
        for number in range(2, 30):
            client.insert("kept", [[number, "x"]], column_names=["id", "text"])
        left_over = client.raw_stream("select number from numbers(100000000000)", fmt="RowBinary")
        assert left_over.read(10)
        second.stop(signal.SIGKILL)
        left_over.close()
    (folder / "spool" / "left over").write_bytes(b"by a killed process")
    with running(folder) as third, third.client() as client:
        assert numbers(client, "kept") == list(range(1, 30))
        assert list((folder / "spool").iterdir()) == []
        assert third.stop(signal.SIGINT) == 0


def test_a_clean_stop_cancels_what_takes_too_long(tmp_path: Path) -> None:
    query = "select count() from numbers(1000000000000) where sipHash64(number) = 1"
    with running(tmp_path / "data") as endpoint, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(endpoint.ask, query=query)
        deadline = time.monotonic() + 60
        while endpoint.ask(query="select count() from system.processes where query like '%sipHash%'")[2] != b"2\n":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert endpoint.stop() == 0
        assert answer.result(60)[1]["X-ClickHouse-Exception-Code"] == "394"
        assert "cut off" not in endpoint.log.read_text()


def refused_start(arguments: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(arguments, env=environment, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert PASSWORD.encode() not in ended.stderr
    return ended.stderr.decode()


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with running(folder) as first:
        assert "another ClickHouse endpoint runs on this folder" in refused_start(command(folder, 0), environment())
        taken = refused_start(command(tmp_path / "other", first.port), environment())
        assert "cannot listen on" in taken
        assert first.ask(query="select 1")[2] == b"1\n"


def test_other_addresses_and_a_missing_password_are_refused(tmp_path: Path) -> None:
    everywhere = command(tmp_path / "data", 0, "--host", "0.0.0.0")
    assert "loopback" in refused_start(everywhere, environment())
    without = {name: value for name, value in os.environ.items() if name != "EMAIL_PLATFORM_CLICKHOUSE_PASSWORD"}
    assert "EMAIL_PLATFORM_CLICKHOUSE_PASSWORD" in refused_start(command(tmp_path / "data", 0), without)


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import subprocess, sys, time\n"
        f"with open({str(log)!r}, 'wb') as log:\n"
        "    child = subprocess.Popen(sys.argv[1:], stderr=log, stdout=log)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    arguments = [sys.executable, "-c", script, *command(tmp_path / "data", 0, "--exit-with-parent")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment()) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 60
        while b"listens on" not in log.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        parent.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
