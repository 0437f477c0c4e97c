"""What the S3 server adds to nanio, without a network."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanio.storage.metadata import read_metadata
from nanio.storage.paths import metadata_path

from email_platform.local.s3.refusals import BrokenFramesError
from email_platform.local.s3.server import (
    FrameDecoder,
    mend_after_kill,
    resolve_range,
)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(min_value=1, max_value=17))
def test_frames_are_taken_away_however_the_body_is_cut(pieces: list[bytes], cut_bytes: int) -> None:
    body = b"".join(b"%x;extension=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    body += b"0\r\nx-amz-checksum-crc64nvme:abc=\r\n\r\n"
    decoder = FrameDecoder()
    payload = b"".join(decoder.feed(body[start : start + cut_bytes]) for start in range(0, len(body), cut_bytes))
    assert payload == b"".join(pieces)
    assert decoder.complete


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nabc",
        b"0x2\r\nab\r\n",
        b"-2\r\nab\r\n",
        b"+2\r\nab\r\n",
        b" 2\r\nab\r\n",
        b"1_0\r\nab\r\n",
        b"2\r\nabcd\r\n",
        b"x" * 5000,
    ],
)
def test_broken_frames_are_refused(body: bytes) -> None:
    with pytest.raises(BrokenFramesError):
        FrameDecoder().feed(body)


def test_a_body_that_ends_early_is_not_complete() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(b"5\r\nabc") == b"abc"
    assert not decoder.complete


@given(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 40)), st.one_of(st.none(), st.integers(0, 40)))
def test_a_range_is_what_slicing_gives(size: int, first: int | None, last: int | None) -> None:
    data = bytes(range(size))
    if first is None and last is None:
        return
    if first is None:
        expected = data[-last:] if last else b""
    else:
        expected = data[first:] if last is None else data[first : last + 1]
    bounds = resolve_range("" if first is None else str(first), "" if last is None else str(last), size)
    assert (b"" if bounds is None else data[bounds[0] : bounds[1] + 1]) == expected


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket" / ".nanio-meta" / "a").mkdir(parents=True)
    (tmp_path / "bucket" / "a").mkdir()
    return tmp_path / "bucket"


def test_what_a_killed_put_left_is_removed(bucket: Path) -> None:
    left_overs = [bucket / "a" / ".tmp.0123", bucket / ".nanio-meta" / "a" / "x.json.tmp"]
    for path in left_overs:
        path.write_bytes(b"half")
    assert mend_after_kill(bucket.parent) == 0
    assert not any(path.exists() for path in left_overs)


def test_an_object_whose_description_is_older_is_described_again(bucket: Path) -> None:
    (bucket / "a" / "x").write_bytes(b"old!")
    assert mend_after_kill(bucket.parent) == 1  # it had no description at all
    assert mend_after_kill(bucket.parent) == 0

    (bucket / "a" / "x").write_bytes(b"new contents")
    description = metadata_path(bucket.parent, "bucket", "a/x")
    os.utime(description, ns=(1, 1))
    assert mend_after_kill(bucket.parent) == 1
    described = read_metadata(description, "a/x")
    assert described.size == len(b"new contents")
    assert described.etag == f'"{hashlib.md5(b"new contents").hexdigest()}"'


def test_nothing_to_mend_without_a_data_folder(tmp_path: Path) -> None:
    assert mend_after_kill(tmp_path / "missing") == 0
