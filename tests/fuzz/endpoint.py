"""The ClickHouse endpoint's request reader: a request is read to its end, or refused with an error that has a code.

An input is a request as it comes over the wire, from its request line on. A second target encodes bodies and damages
them: what comes out is the body, or an error, never a shorter body.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPException, parse_headers

import lz4.frame  # type: ignore[import-untyped]
from backports import zstd

from email_platform.local.clickhouse_endpoint.encodings import BrokenEncodingError, decoded
from email_platform.local.clickhouse_endpoint.exceptions import ClickHouseError
from email_platform.local.clickhouse_endpoint.execution import check as check_access
from email_platform.local.clickhouse_endpoint.reading import read_statement
from email_platform.local.clickhouse_endpoint.request import BrokenBodyError, body_of, credentials_of, path_and_query
from email_platform.local.clickhouse_endpoint.statement import is_statement, kind_of, output_clause
from tests.fuzz.mutation import changed_bytes
from tests.fuzz.target import Target

VERSION = "26.9.1.1"
ENCODERS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
}
INSERT = b"INSERT INTO t (a, b) SETTINGS x = 1 FORMAT CSV\n1,'x'\n2,\"y\"\n"


def posted(headers: bytes, body: bytes, target: bytes = b"/?database=d&query_id=q") -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\n" + headers + b"\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


FORM = (
    b'--B\r\nContent-Disposition: form-data; name="query"\r\n\r\nselect {a:String}\r\n'
    b'--B\r\nContent-Disposition: form-data; name="param_a"\r\n\r\nx\r\n--B--\r\n'
)
SEEDS = [
    posted(b"Content-Length: %d\r\nX-ClickHouse-User: u\r\nX-ClickHouse-Key: k" % len(INSERT), INSERT),
    posted(b"Transfer-Encoding: chunked\r\nAuthorization: Basic dTpr", chunked(INSERT[:7], INSERT[7:30], INSERT[30:])),
    posted(
        b"Content-Encoding: gzip\r\nContent-Length: %d" % len(gzip.compress(INSERT, mtime=0)),
        gzip.compress(INSERT, mtime=0),
    ),
    posted(b"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: %d" % len(FORM), FORM),
    posted(b"Content-Length: 9", b"(1,'a'),\n", b"/?user=u&password=p&query=INSERT%20INTO%20t%20VALUES"),
    b"GET /?query=SELECT+%27a%27+FORMAT+JSON%3B+--c&max_threads=1&param_x=%ff HTTP/1.1\r\n\r\n",
    posted(b"Content-Length: 50", b"/* c */ with a as (select 1) select * from a into "),
]


def check(content: bytes) -> None:
    request_line, _, rest = content.partition(b"\r\n")
    words = request_line.split(b" ")
    target = (words[1] if len(words) > 1 else b"").decode("latin-1")
    stream = io.BufferedReader(io.BytesIO(rest))  # type: ignore[arg-type]
    try:
        headers = parse_headers(stream)
    except (HTTPException, ValueError):
        return  # http.server answers 400 by itself
    try:
        credentials_of(target, headers).match("u", "p\N{SNOWMAN}")
        body = body_of(stream, headers)
        work = read_statement(path_and_query(target)[1], body, headers, VERSION)
        size = sum(map(len, work.data))
        assert is_statement(work.text) in (True, False)
        kind_of(work.text)
        output_clause(work.text)
        check_access(work.text, VERSION)
    except ClickHouseError as refusal:
        assert refusal.code
        assert refusal.status >= 400
        assert len(refusal.body) < 20_000
        refusal.body.encode("utf-8", "surrogateescape")
        return
    except (BrokenBodyError, BrokenEncodingError):
        return
    length = headers.get("Content-Length")
    if length is not None and "Content-Encoding" not in headers and work.insert is not None:
        assert size <= int(length) + len(target), "more was read than the request holds"


def check_encoding(content: bytes) -> None:
    """Damage behind the encoder, or none: the first byte says where and with what."""
    if len(content) < 4:
        return
    name = sorted(ENCODERS)[content[0] % 4]
    body = content[4:]
    encoded = ENCODERS[name](body)
    damage, at = content[1], int.from_bytes(content[2:4], "big") % (len(encoded) + 1)
    if damage == 0:
        sent = encoded
    elif damage < 128:
        sent = encoded[:at]
    else:
        sent = encoded[:at] + bytes([damage]) + encoded[at + 1 :]
    step = 1 + content[3] % 64
    pieces = [sent[start : start + step] for start in range(0, len(sent), step)]
    try:
        result = b"".join(decoded(iter(pieces), name))
    except BrokenEncodingError:
        assert damage, "an undamaged body was refused"
        return
    if damage == 0:
        assert result == body
    elif damage < 128:
        assert result == body or not sent, "a body that was cut is an error"


TARGETS = [
    Target("endpoint-requests", changed_bytes(SEEDS), check, 300),
    Target(
        "endpoint-encodings",
        changed_bytes(
            [b"\0\0\0\0" + INSERT, b"\1\1\0\x09" + INSERT * 30, b"\2\xff\0\x20ab", b"\3\0\0\3" + b"\0" * 9000]
        ),
        check_encoding,
        300,
    ),
]
