"""What the holder of the endpoint's password must not be able to do, and requests that must be refused."""

from __future__ import annotations

import gzip
import os
import random
import re
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

from tests.integration.clickhouse_process import PASSWORD, USER, Endpoint, running

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECRET = "what-only-the-file-holds"


class Forbidding(BaseHTTPRequestHandler):
    """An object store that knows nobody, and remembers what it was asked for."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.paths.append(self.path)
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Listener(ThreadingHTTPServer):
    """An address; counts who reaches it, and what they ask for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Forbidding)
        self.connections = 0
        self.paths: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def store() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, store: Listener) -> Iterator[Endpoint]:
    bucket = f"http://{store.address}/bucket"
    with running(tmp_path_factory.mktemp("hardened") / "data", "--s3-endpoint", bucket) as started:
        assert started.ask(body=b"create table t (a String) engine = MergeTree order by a")[0] == 200
        yield started


def code_of(answer: tuple[int, dict[str, str], bytes]) -> int:
    assert answer[0] >= 400, answer
    return int(answer[1]["X-ClickHouse-Exception-Code"])


# -- no statement --------------------------------------------------------------------------------------------------

GARBAGE = [
    b"",
    b"   \n\t",
    b"-- only a comment",
    b"-- one\n/* two */ # three",
    b"/* never closed",
    b"#!shebang",
    b";",
    b";;",
    b"\x00",
    b"\x00select 1",
    b"\xef\xbb\xbf",
    b"\xc2\xa0",
    b"\x1f\x8b",
    b"'open",
    b"`open",
    b"'a string'",
    b"\\",
    b"1",
    gzip.compress(b"insert into t values ('x')", mtime=0),
    gzip.compress(b"insert into t format TSV\nx\n", mtime=0),
    b"\x28\xb5\x2f\xfd\x04\x00" + bytes(range(60)),  # zstd
    b"\x04\x22\x4d\x18\x64\x40" + bytes(range(60)),  # lz4
]


@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:12]))
def test_what_is_no_statement_is_refused_as_a_syntax_error(endpoint: Endpoint, body: bytes) -> None:
    sessions: tuple[dict[str, Any], ...] = ({}, {"session_id": "garbage"}, {"wait_end_of_query": "1"})
    for session in sessions:
        assert code_of(endpoint.ask(body=body, **session)) == 62


def test_random_bytes_are_never_answered_with_success(endpoint: Endpoint) -> None:
    chance = random.Random(20261127)
    for _ in range(150):
        body = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 40)))
        status, _, answer = endpoint.ask(body=body)
        assert status >= 400, (body, answer)


def test_a_statement_may_begin_with_a_byte_order_mark_and_other_blanks(endpoint: Endpoint) -> None:
    for blank in (b"\xef\xbb\xbf", b"\xc2\xa0", b"\xe2\x80\x83", b"\n-- note\n", b"/* note */", b"("):
        closing = b")" if blank == b"(" else b""
        assert endpoint.ask(body=blank + b"select 1" + closing)[::2] == (200, b"1\n")


# -- what is closed ------------------------------------------------------------------------------------------------


def closed_statements(path: str, address: str) -> list[str]:
    flat, tree = "layout(flat()) lifetime(0)", "engine = MergeTree order by a"
    url, s3 = f"http://{address}/x", f"http://{address}/bucket/key"
    return [
        f"select * from file('{path}', 'LineAsString')",
        f"select file('{path}')",
        f"select `file`('{path}')",
        f"select \"fi\\le\" /* a comment */ ('{path}')",
        f"select * from (select file\n('{path}'))",
        f"insert into t from infile '{path}' format LineAsString",
        f"insert into function file('{path}.new', 'TSV', 'a String') values ('x')",
        f"create table f (a String) engine = File('TSV', '{path}')",
        f"create table f (a String) engine = EmbeddedRocksDB(0, '{path}.new') primary key a",
        f"create table f (a String) engine = FileLog('{path}', 'LineAsString')",
        "create table f (query String, database String, settings Map(String, String)) engine = QueryRunner",
        f"create database fs engine = Filesystem('{path}')",
        f"select * from default.`{path}`",
        f"select 'x' as a format Template settings format_template_row = '{path}'",
        f"select 'x' as a format Protobuf settings output_format_schema = '{path}.proto'",
        f"select * from format(Protobuf, 'x') settings format_schema = '{path}:X'",
        f"set format_schema = '{path}:X'",
        f"select * from url('{url}', 'TSV', 'a String')",
        f"create table u (a String) engine = URL('{url}', 'TSV')",
        f"insert into function url('{url}', 'TSV', 'a String') values ('x')",
        f"select * from s3('{s3}', 'k', 's', 'TSV', 'a String')",
        f"insert into function s3('{s3}', 'k', 's', 'TSV', 'a String') values ('x')",
        f"create table s (a String) engine = S3('{s3}', 'k', 's', 'TSV')",
        f"select * from gcs('{s3}', 'k', 's', 'TSV', 'a String')",
        f"select * from iceberg('{s3}', 'k', 's')",
        f"select * from deltaLake('{s3}', 'k', 's')",
        f"select * from remote('{address}', system.one)",
        f"select * from postgresql('{address}', 'a', 'b', 'c', 'd')",
        f"select * from mysql('{address}', 'a', 'b', 'c', 'd')",
        f"select * from redis('{address}', 'a', 'a String')",
        f"select * from mongodb('{address}', 'a', 'b', 'c', 'd', 'a String')",
        f"select * from sqlite('{path}', 't')",
        f"create table w (a String) {tree} settings disk = disk(type = web, endpoint = '{url}/')",
        f"create table w (a String) {tree} settings disk = disk(type = local, path = '{path}d/')",
        "select * from executable('x.sh', 'TSV', 'a String')",
        "create table x (a String) engine = Executable('x.sh', 'TSV')",
        "create dictionary d (a UInt64) primary key a "
        f"source(executable(command 'touch {path}.new' format 'TSV')) {flat}",
        f"create dictionary d (a UInt64) primary key a source(http(url '{url}' format 'TSV')) {flat}",
        f"create dictionary d (a UInt64) primary key a source(file(path '{path}' format 'TSV')) {flat}",
        "select * from Python(handle)",
        f"backup table t to File('{path}.backup')",
        f"select 1 into outfile '{path}.new'",
        f"attach table z from '{path}' (a String) engine = MergeTree order by a",
        "system shutdown",
        "system kill",
        "create user other",
        "grant all on *.* to default",
    ]


@pytest.mark.parametrize("number", range(len(closed_statements("", ""))))
def test_files_commands_and_other_hosts_are_closed_to_clients(
    endpoint: Endpoint, elsewhere: Listener, tmp_path: Path, number: int
) -> None:
    secret = tmp_path / "credentials"
    secret.write_text(SECRET)
    statement = closed_statements(str(secret), elsewhere.address)[number]
    sessions: tuple[dict[str, Any], ...] = ({}, {"session_id": "closed"})
    for session in sessions:
        answer = endpoint.ask(body=statement.encode(), **session)
        assert code_of(answer) in (497, 452, 36, 481), answer
        assert SECRET.encode() not in answer[2]
    assert [path.name for path in tmp_path.iterdir()] == ["credentials"]
    assert elsewhere.connections == 0
    assert endpoint.ask(query="select count() from t")[2] == b"0\n"


# Engines that ask for no grant and that nothing of this machine is reached by: they read other tables, make up rows, or
# need a Keeper, which this engine has none of.
HARMLESS_ENGINES = {
    *("Alias", "Dictionary", "FuzzJSON", "FuzzQuery", "GraphiteMergeTree", "KeeperMap", "Loop", "TimeSeries"),
    *(f"Replicated{kind}MergeTree" for kind in ("", "Aggregating", "Coalescing", "Collapsing", "Graphite")),
    *(f"Replicated{kind}MergeTree" for kind in ("Replacing", "Summing", "VersionedCollapsing")),
}


def test_every_engine_is_granted_known_to_be_harmless_or_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    granted = set(re.findall(r"TABLE ENGINE ON `?(\w+)", endpoint.ask(query="show grants")[2].decode()))
    assert len(granted) > 10
    names = set(endpoint.ask(query="select name from system.table_engines")[2].decode().split())
    assert len(names) > 60
    for name in sorted(names - granted - HARMLESS_ENGINES):
        statement = f"create table e (a String) engine = {name}('{tmp_path}', 'x') order by a"
        assert code_of(endpoint.ask(body=statement.encode())) == 497, name
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_request_open_nothing_either(endpoint: Endpoint, tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_text(SECRET)
    for name in ("format_template_row", "format_template_resultset", "format_schema", "output_format_schema"):
        setting: dict[str, Any] = {name: str(template)}
        answer = endpoint.ask(query="select 'x' as a format Template", **setting)
        assert code_of(answer) == 452
        assert SECRET.encode() not in answer[2]


def hidden_names(path: str) -> list[str]:
    """Names that the engine's lexer reads, and that a plain look at the statement would not."""
    return [
        f"select \"\\x66ile\"('{path}')",
        f"select `f\\ile`('{path}')",
        f"select “file”('{path}')",
        f"select file\u180e('{path}')",
        f"select file\x85('{path}')",
        f"select file\u2060('{path}')",
        f"select 1 as x$$, file('{path}') as y$$",
        f"select 1 as $x$$, file('{path}') as y$$",
        f"select columns('x') apply file from (select '{path}' as x)",
        f"select * apply(file) from (select '{path}' as x)",
        f"select '{path}' |> file()",
        f"select {{fn file('{path}')}}",
        f"select * from eval('select file(''{path}'')') settings allow_experimental_eval_table_function = 1",
        f"select 1 settings additional_result_filter = 'throwIf(1, file(''{path}''))'",
        f"select * from t settings additional_table_filters = {{'t': 'throwIf(1, file(''{path}''))'}}",
        f"set dialect = 'kusto'; print file('{path}')",
    ]


@pytest.mark.parametrize("number", range(len(hidden_names(""))))
def test_a_closed_name_is_found_however_it_is_written(endpoint: Endpoint, tmp_path: Path, number: int) -> None:
    secret = tmp_path / "credentials"
    secret.write_text(SECRET)
    answer = endpoint.ask(body=hidden_names(str(secret))[number].encode())
    assert code_of(answer) in (497, 452, 62), answer
    assert SECRET.encode() not in answer[2]


def without_a_name(path: str) -> list[str]:
    """Ways to a function that are no name in the statement."""
    return [
        f"select arrayMap(file, ['{path}'])",
        f"select b from format(TSV, 'a String, b String alias file(''{path}'')', 'x')",
        f"select * from format(JSONEachRow, 'a String, b String default file(''{path}'')', '{{\"a\":\"x\"}}')",
        f"select b from generateRandom('a String, b String alias file(''{path}'')') limit 1",
        f"insert into t values (file('{path}'))",
    ]


def test_what_no_reading_of_a_statement_can_see_the_kernel_keeps_from_every_file_but_the_engine_s_own(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    assert "the kernel confines it" in endpoint.log.read_text(), "run the tests where Linux has Landlock"
    secret = tmp_path / "credentials"
    secret.write_text(SECRET)
    environments = [f"/proc/{each}/environ" for each in ("self", "1", os.getpid(), endpoint.process.pid)]
    for path in [str(secret), str(endpoint.log), "/etc/passwd", *environments]:
        for statement in without_a_name(path):
            answer = endpoint.ask(body=statement.encode())
            assert answer[0] >= 400, (statement, answer)
            assert b"Permission denied" in answer[2]


def outside_the_bucket(store: str, other: str) -> list[str]:
    """Addresses that are not below http://store/bucket/."""
    return [
        f"http://{store}/other/key",
        f"http://{store}/bucket",
        f"http://{store}/bucket2/key",
        f"http://{store}/BUCKET/key",
        f"http://{store}/bucket/../other/key",
        f"http://{store}/bucket/a/../../other/key",
        f"http://{store}/bucket/a/../..",
        f"http://{store}/bucket%2F..%2Fother/key",
        f"http://{store}/bucket/%2e%2e/other/key",
        f"http://{store}/{{bucket,other}}/key",
        f"http://{store}//bucket/key",
        f"http://{store}/other?/bucket/key",
        f"http://{store}/other/key?versionId=/bucket/key",
        f"http://{store}/other#/bucket/key",
        f"http://bucket.{store}/key",
        f"http://{store.replace('127.0.0.1', 'localhost')}/bucket/key",
        f"http://{store.replace('127.0.0.1', '127.0.0.1.')}/bucket/key",
        f"http://{store.replace('127.0.0.1', '127.1')}/bucket/key",
        f"https://{store}/bucket/key",
        "http://127.0.0.1/bucket/key",
        f"http://someone@{store}/bucket/key",
        f"http://{store}@{other}/bucket/key",
        f"http://{store}\\@{other}/bucket/key",
        f"http://{store}.{other}/bucket/key",
        f"http://{other}/bucket/key",
        f"http://{other}/bucket?http://{store}/bucket/key",
        f"http://{other}/bucket/http://{store}/bucket/key",
        *(f"{scheme}://bucket/key" for scheme in ("s3", "gs", "gcs", "oss", "file", "http")),
    ]


@pytest.mark.parametrize("number", range(len(outside_the_bucket("", ""))))
def test_s3_reaches_the_bucket_and_nothing_beside_it(
    endpoint: Endpoint, store: Listener, elsewhere: Listener, number: int
) -> None:
    url = outside_the_bucket(store.address, elsewhere.address)[number]
    store.paths.clear()
    rest = "'k', 's', 'TSV', 'a String') settings s3_retry_attempts = 0"
    statements = (
        *(f"select * from {name}('{url}', {rest}" for name in ("s3", "gcs", "oss", "cosn")),
        f"select * from s3(url = '{url}', format = 'TSV', structure = 'a String') settings s3_retry_attempts = 0",
        f"describe table s3('{url}') settings s3_retry_attempts = 0",
        f"select * from s3('{url.rpartition('/')[2]}', {rest}, s3_base = '{url.rpartition('/')[0]}/'",
        f"create table far as s3('{url}', 'TSV', 'a String')",
        f"create view far as select * from s3('{url}', {rest}",
        f"select * from viewIfPermitted(select * from s3('{url}', 'k', 's', 'TSV', 'a String') else null('a String'))",
    )
    for statement in statements:
        status, _, answer = endpoint.ask(body=statement.encode())
        assert status >= 400 or answer == b"", statement
    assert (store.paths, elsewhere.connections) == ([], 0)


@pytest.mark.parametrize(
    "key",
    [
        *("key", "a/b.parquet", "{a/b.parquet,c/d.tsv.gz}", "a/chunk-*.parquet", "x{1..3}.tsv", "n=1/.a", "a..b"),
        # Keys of this bucket too, which the object store refuses (tests/integration/local/s3).
        *("./key", "a/../key", "{a,../../other}/key", "{.,x}{.,x}/other/key", "a%2f..%2f..%2f%2e/other", "*/../../x"),
    ],
)
def test_a_request_names_the_bucket_whatever_the_key_is(endpoint: Endpoint, store: Listener, key: str) -> None:
    store.paths.clear()
    url = f"http://{store.address}/bucket/{key}"
    for name in ("s3", "gcs"):
        statement = f"select * from {name}('{url}', 'k', 's', 'TSV', 'a String') settings s3_retry_attempts = 0"
        assert code_of(endpoint.ask(body=statement.encode())) in (497, 499)  # the store knows nobody
    assert store.paths or ".." in key
    assert all(re.match(r"/bucket[/?]", path) for path in store.paths)


def test_a_named_collection_reaches_the_bucket_alone_and_has_no_credentials_fetched(
    endpoint: Endpoint, elsewhere: Listener, store: Listener
) -> None:
    bucket = f"http://{store.address}/bucket/"
    structure = "format = 'TSV', structure = 'a String'"
    for name, url in (("far", f"http://{elsewhere.address}/b/"), ("near", bucket)):
        assert endpoint.ask(body=f"create named collection {name} as url = '{url}'".encode())[0] == 200
    token = f"http_client = 'gcp_oauth', metadata_service = '{elsewhere.address}', request_token_path = 'x'"
    role = f"role_arn = 'arn:aws:iam::1:role/x', sts_endpoint_override = 'http://{elsewhere.address}'"
    store.paths.clear()
    for statement in (
        f"select * from s3(far, filename = 'x', {structure})",
        f"select * from s3(near, url = 'http://{elsewhere.address}/bucket/x', {structure})",
        f"select * from s3(near, filename = '../other/x', {structure})",
        f"create named collection tokens as url = '{bucket}', {token}",
        f"create named collection tokens as url = '{bucket}', `\\x68ttp_client` = 'gcp_oauth'",
        f"alter named collection near set {role}",
        f"select * from s3(near, filename = 'x', {structure}, {token})",
        f"select * from s3('{bucket}x', 'TSV', 'a String', extra_credentials(role_arn = 'arn:aws:iam::1:role/x'))",
        f"insert into function s3(far, filename = 'x', {structure}) values ('x')",
        f"insert into function s3('http://{store.address}/other/x', 'TSV', 'a String') values ('x')",
        f"backup table t to S3('http://{store.address}/other/x', 'k', 's')",
        f"backup table t to S3('{bucket}x', 'k', 's')",
        f"restore table t as u from S3('http://{store.address}/other/x', 'k', 's')",
        f"create table s (a String) engine = S3Queue('http://{store.address}/other/*', 'k', 's', 'TSV')",
        f"create database d engine = S3('http://{elsewhere.address}/bucket', 'k', 's')",
        f"create database d engine = DataLakeCatalog('http://{elsewhere.address}/x') "
        "settings catalog_type = 'rest', warehouse = 'x'",
        *(
            f"create table w (a String) engine = MergeTree order by a settings disk = disk(type = {kind}, "
            f"endpoint = 'http://{store.address}/other/', access_key_id = 'k', secret_access_key = 's')"
            for kind in ("s3", "s3_plain", "s3_plain_rewritable", "object_storage")
        ),
    ):
        answer = endpoint.ask(body=statement.encode(), allow_database_iceberg="1")
        assert code_of(answer) in (497, 36), (statement, answer)
    assert (store.paths, elsewhere.connections) == ([], 0)
    near = f"select * from s3(near, filename = 'x', {structure}) settings s3_retry_attempts = 0"
    assert code_of(endpoint.ask(body=near.encode())) == 499  # the store knows nobody
    assert store.paths == ["/bucket/x"]


def test_no_table_function_of_the_engine_reaches_another_host_bucket_or_file(
    endpoint: Endpoint, store: Listener, elsewhere: Listener, tmp_path: Path
) -> None:
    secret = tmp_path / "credentials"
    secret.write_text(SECRET)
    store.paths.clear()
    names = endpoint.ask(query="select name from system.table_functions")[2].decode().split()
    assert len(names) > 80
    far, other, path = f"http://{elsewhere.address}/bucket/x", f"http://{store.address}/other/x", str(secret)
    for name in names:
        for arguments in (f"'{far}'", f"'{other}', 'k', 's', 'TSV', 'a String'", f"'{path}', 'LineAsString'"):
            answer = endpoint.ask(body=f"select * from `{name}`({arguments}) settings s3_retry_attempts = 0".encode())
            assert SECRET.encode() not in answer[2], name
            assert (store.paths, elsewhere.connections) == ([], 0), name


def test_closed_names_are_free_as_names_and_in_texts(endpoint: Endpoint) -> None:
    for query in (
        "select 'file(1)' as file, 1 as python, 2 as disk",
        "select file from (select 1 as file)",
        "select 1 /* file('x') */",
        "select 'from infile'",
    ):
        assert endpoint.ask(body=query.encode())[0] == 200


# -- framing -------------------------------------------------------------------------------------------------------

FRAMINGS = [
    "Content-Length: -1\r\n\r\n",
    "Content-Length: +2\r\n\r\nx\n",
    "Content-Length: 0x2\r\n\r\nx\n",
    "Content-Length: 1_0\r\n\r\nx\nx\nx\nx\nx\n",
    "Content-Length:\r\n\r\n",
    "Content-Length: 2, 2\r\n\r\nx\n",
    "Content-Length: \x1f2\r\n\r\nx\n",
    "Content-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\n--B",
    "Content-Length: 2\r\nContent-Length: 4\r\n\r\nx\ny\n",
    "Content-Length: 2\r\nContent-Length: 2\r\n\r\nx\n",
    "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: identity\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0x2\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n-2\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n+2\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n 2\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1_0\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n\r\nx\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n2\r\nx\n\r\n-0\r\n\r\n",
]


@pytest.mark.parametrize("framing", FRAMINGS, ids=repr)
def test_a_body_whose_end_is_in_doubt_is_refused_and_the_connection_closed(endpoint: Endpoint, framing: str) -> None:
    target = urlencode({"query": "insert into t format TSV", "user": USER, "password": PASSWORD})
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=60) as connection:
        connection.sendall(f"POST /?{target} HTTP/1.1\r\nHost: x\r\n{framing}".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert answer.count(b"HTTP/1.1") == 1
    assert endpoint.ask(query="select count() from t")[2] == b"0\n"


def test_extensions_of_chunks_and_trailers_are_read_over(endpoint: Endpoint) -> None:
    target = urlencode({"query": "select 1", "user": USER, "password": PASSWORD})
    framing = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2;a=b\r\n+1\r\n00\r\nTrailer: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=60) as connection:
        connection.sendall(f"POST /?{target} HTTP/1.1\r\nHost: x\r\n{framing}".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"2\n" in answer


# -- one enormous row ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TSV", "CSV", "JSONEachRow", "RowBinary"])
def test_a_gigabyte_in_one_row_is_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    length = 1_100_000_000
    piece = b"x" * (1 << 20)
    head, tail = {"JSONEachRow": (b'{"a":"', b'"}\n'), "RowBinary": (b"\x80\xac\xc2\x8c\x04", b"")}.get(
        name, (b"", b"\n")
    )
    with running(tmp_path / "data") as endpoint:
        assert endpoint.ask(body=b"create table t (a String) engine = MergeTree order by tuple()")[0] == 200
        endpoint.forget_peak()
        before = endpoint.peak_bytes()
        target = urlencode({"query": f"insert into t format {name}", "user": USER, "password": PASSWORD})
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=120) as connection:
            size = len(head) + (length // len(piece)) * len(piece) + len(tail)
            connection.sendall(f"POST /?{target} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
            try:
                connection.sendall(head)
                for _ in range(length // len(piece)):
                    connection.sendall(piece)
                connection.sendall(tail)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before its end, which is as good
            try:
                answer = connection.recv(65536)
            except ConnectionResetError:
                answer = b""
        assert not answer.startswith(b"HTTP/1.1 200")
        assert endpoint.peak_bytes() - before < 1_600_000_000
        assert endpoint.ask(query="select count() from t")[2] == b"0\n"


# -- what clients send beside a statement --------------------------------------------------------------------------


def native(endpoint: Endpoint, version: str) -> tuple[int, dict[str, str], bytes]:
    return endpoint.ask(body=b"select 1 as n format Native", client_protocol_version=version)


def test_a_protocol_version_is_refused_where_the_answer_would_be_misread(endpoint: Endpoint) -> None:
    assert code_of(native(endpoint, "54405")) == 48  # NOT_IMPLEMENTED
    assert code_of(endpoint.ask(body=b"select 1", client_protocol_version="1", default_format="Native")) == 48
    assert native(endpoint, "0")[::2] == native(endpoint, "")[::2]
    status, _, answer = endpoint.ask(body=b"select 1", client_protocol_version="54405")
    assert (status, answer) == (200, b"1\n"), "other formats do not depend on it"


def test_a_client_that_asks_for_the_protocol_version_sees_that_there_is_none(endpoint: Endpoint) -> None:
    # As clickhouse-connect 0.15 does at each connect, and reads `answer[8:16]`; a server's head is before the block.
    asked = b"SELECT 1 AS check\n FORMAT Native"
    status, _, answer = endpoint.ask(body=asked, client_protocol_version="54405")
    assert (status, answer[:8]) == (200, b"\x01\x01\x05check")
    assert answer[8:16] != b"\x01\x01\x05check"
    more = b"SELECT 1 AS check, 2 AS more FORMAT Native"
    assert code_of(endpoint.ask(body=more, client_protocol_version="54405")) == 48


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Iterator[Client]:
    with clickhouse_connect.get_client(
        host="127.0.0.1", port=endpoint.port, username=USER, password=PASSWORD
    ) as connected:
        yield connected


def test_external_data_is_a_table_of_its_own_statement_and_of_no_other(client: Client) -> None:
    people = ExternalData(
        file_name="people", data=b'1,Ann\n2,"B, \'ob"\n', fmt="CSV", structure=["id UInt32", "name String"]
    )
    people.add_file(file_name="numbers", data=b"2\t[1,2]\n", types=["UInt32", "Array(UInt8)"])
    query = "select id, name, _2 from people left join numbers on id = _1 where id < {most:UInt32} order by id"
    found = client.query(query, parameters={"most": 3}, external_data=people)
    assert found.result_rows == [(1, "Ann", []), (2, "B, 'ob", [1, 2])]
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):  # clickhouse-connect keeps one session
        client.query("select * from people")
    again = ExternalData(file_name="people", data=b"7\n", fmt="TSV", structure="n UInt8")
    assert client.query("select * from people", external_data=again).result_rows == [(7,)]


@pytest.mark.parametrize(
    ("structure", "data", "code"),
    [
        ("", b"1\n", 36),
        ("n UInt8) engine = File('TSV', '/etc/passwd') as (select 1", b"1\n", None),
        ("n UInt8 default (select line from file('/etc/passwd', 'LineAsString') limit 1)", b"1\n", None),
        ("n UInt8); drop table t; select (1", b"1\n", None),
        ("n UInt8", b"no number\n", None),
        ("n NoSuchType", b"", None),
    ],
)
def test_wrong_external_data_is_an_error_and_leaves_nothing_behind(
    endpoint: Endpoint, structure: str, data: bytes, code: int | None
) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n' + data + b"\r\n--b--\r\n"
    basic = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": basic}
    answer = endpoint.ask(body=form, headers=headers, query="select * from x", x_structure=structure)
    found = code_of(answer)
    assert code is None or found == code
    assert b"root:" not in answer[2]
    assert endpoint.ask(body=b"exists table t")[2] == b"1\n"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        *((statement, 497) for statement in ("create user u identified by 'x'", "create role r", "show users")),
        *((statement, 497) for statement in ("create quota q", "create row policy p on t using 1")),
        *((statement, 497) for statement in ("select * from system.users", "backup table t to Disk('x', 'y')")),
        ("create table d as t engine = Distributed(x, currentDatabase(), t)", 497),
        ("create dictionary d (n UInt64) primary key n source(clickhouse(table 't')) layout(flat()) lifetime(0)", 497),
        ("create table r (k UInt8) engine = ReplicatedMergeTree('/a', 'b') order by k", 225),
        ("select count() from system.query_log", 60),
    ],
)
def test_what_the_documentation_calls_refused_is_refused_with_its_code(
    endpoint: Endpoint, statement: str, code: int
) -> None:
    assert code_of(endpoint.ask(body=statement.encode())) == code
