"""Inputs made from good ones: bytes cut, doubled, swapped and replaced; JSON with a hostile value in one place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What readers trip over: ends and doublings of framing, numbers at limits, encodings cut short, odd Unicode.
TOKENS: Sequence[bytes] = (
    *(b"", b"\0", b"\n", b"\r\n", b"\r\n\r\n", b"\t", b" ", b",", b";", b":", b"=", b"&", b"%", b"%zz", b"%00", b"+"),
    *(b'"', b"'", b"`", b"\\", b"\\u0000", b"\\ud800", b"$$", b"--", b"/*", b"*/", b"#", b"(", b")", b"[", b"]", b"{"),
    *(
        b"}",
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"-1",
        b"0",
        b"1e400",
        b"9" * 30,
        b"9" * 5000,
        b"0x1",
        b"-0",
        b"1_0",
    ),
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", "\N{FULLWIDTH DIGIT ONE}".encode(), b"\x1f"),
    *(b"INSERT INTO t FORMAT CSV\n", b" VALUES ", b" FORMAT ", b"chunked", b"gzip", b"http://[", b"//[::", b"[" * 2000),
    *(
        b'{"a":' * 1500,
        b"2026-02-30T00:00:00Z",
        b"0001-01-01T00:00:00+14:00",
        b"9999-12-31T23:59:59-14:00",
        b"infinity",
    ),
)
_VALUES: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 2**63, -(2**63) - 1, 10**30, 10**4000, "", " ", "\0", "\ud800"),
    *("\u2028", "x" * 5000, "1", "-1", "1e400", "9" * 400, "NaN", "inf", [], {}, [[]], [None], {"": None}, [{}], [""]),
    *(
        "2026-06-01",
        "2026-06-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "<",
        "a@b",
        "<a@b",
        ",,",
    ),
    *(
        "9999-12-31T23:59:59-14:00",
        "1780315200",
        "A <a@example.com>",
        "a@example.com, b@example.com",
        "\u202eabc",
        "İ@ß.de",
    ),
)
JSON_VALUE = st.sampled_from(_VALUES) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def changed_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after up to six changes; sometimes nothing but noise."""
    content = draw(st.sampled_from(seeds)) if seeds else b""
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from((0, 1, 2, 4, 8, 30, 200))))
        what = draw(st.integers(0, 5))
        if what == 0:
            middle = draw(st.sampled_from(TOKENS))
        elif what == 1:
            middle = draw(st.binary(max_size=8))
        elif what == 2:
            middle = content[start:end] * draw(st.integers(0, 40))
        elif what == 3:
            other = draw(st.sampled_from(seeds)) if seeds else b""
            from_ = draw(st.integers(0, len(other)))
            middle = other[from_ : from_ + draw(st.integers(0, 200))]
        elif what == 4:
            middle = bytes(each ^ draw(st.sampled_from((1, 32, 128))) for each in content[start : start + 1])
        else:
            middle = content[start:end][::-1]
        content = content[:start] + middle + content[end:]
    return content


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += _places(inner, (*path, index))
    return found


def _replaced(value: Any, path: tuple[Any, ...], by: Any, *, leave_out: bool) -> Any:
    if not path:
        return by
    head, rest = path[0], path[1:]
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if rest or key != head or not leave_out}
        if head in kept:
            kept[head] = _replaced(value[head], rest, by, leave_out=leave_out)
        return kept
    return [_replaced(inner, rest, by, leave_out=leave_out) if at == head else inner for at, inner in enumerate(value)]


@st.composite
def changed_json(draw: st.DrawFn, documents: Sequence[Any]) -> Any:
    """One of the documents with up to three of its values replaced, left out or swapped for another one of it."""
    document = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        place = draw(st.sampled_from(places))
        by = draw(JSON_VALUE)
        if draw(st.integers(0, 4)) == 0:
            by = document
            for step in draw(st.sampled_from(places)):
                by = by[step]
        document = _replaced(document, place, by, leave_out=draw(st.integers(0, 3)) == 0)
    return document


def as_json(document: Any) -> bytes:
    """The document as bytes; what JSON's own writer refuses becomes a text."""
    try:
        return json.dumps(document).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # an int of more than 4,300 digits
        return json.dumps(document, default=str).encode() if not isinstance(document, int) else b"9" * 5000


def changed_bodies(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Bodies from JSON documents, changed as documents and as bytes."""
    seeds = [json.dumps(document).encode() for document in documents]
    return changed_json(documents).map(_written) | changed_bytes(seeds)


def _written(document: Any) -> bytes:
    try:
        return as_json(document)
    except (ValueError, RecursionError):
        return b"[" * 100_000
