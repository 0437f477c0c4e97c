"""Content encodings of request and response bodies, one chunk at a time.

The invariant: no body is ever held whole, and a body that ends inside its encoding is an error, never a shorter
body: half an insert must not look like an insert.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import lz4.frame  # type: ignore[import-untyped]
from backports import zstd

# What one step of decoding may produce: a few kilobytes of zeros can stand for gigabytes.
_STEP_BYTES = 4 * 1024 * 1024
_PREFERENCE = ("lz4", "zstd", "gzip", "deflate")
_GZIP_WINDOW_BITS = 31


class BrokenEncodingError(Exception):
    """The body does not match its Content-Encoding, or it ends too early."""


class UnknownEncodingError(Exception):
    """There is no decoder for this Content-Encoding."""


class Encoder(Protocol):
    """Encodes a body chunk by chunk."""

    def encode(self, data: bytes) -> bytes:
        """Return what can be sent now."""
        ...

    def finish(self) -> bytes:
        """Return the encoding's end."""
        ...


def decoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Return the decoded body in pieces of bounded size.

    Raises:
        UnknownEncodingError: at once, for an encoding without a decoder.
        BrokenEncodingError: while iterating.
    """
    if encoding in ("", "identity"):
        return iter(chunks)
    if encoding == "lz4":
        return _frames(chunks, lz4.frame.LZ4FrameDecompressor)
    if encoding == "zstd":
        return _frames(chunks, zstd.ZstdDecompressor)
    if encoding in ("gzip", "x-gzip"):
        return _deflated(chunks, _GZIP_WINDOW_BITS)
    if encoding == "deflate":
        return _deflated(chunks, zlib.MAX_WBITS)
    raise UnknownEncodingError(encoding)


def _frames(chunks: Iterable[bytes], new_decoder: Any) -> Iterator[bytes]:
    """Decode lz4 or zstd; a body may hold several frames, one after another."""
    decoder = new_decoder()
    inside = False
    try:
        for chunk in chunks:
            data = chunk
            while data or (inside and not decoder.needs_input):
                inside = True
                piece = decoder.decompress(data, max_length=_STEP_BYTES)
                data = b""
                if piece:
                    yield piece
                if decoder.eof:
                    data = decoder.unused_data or b""
                    decoder = new_decoder()
                    inside = False
    except (RuntimeError, EOFError, zstd.ZstdError) as failure:
        raise BrokenEncodingError(str(failure)) from failure
    if inside:
        raise BrokenEncodingError("the body ends inside a compressed frame")


def _deflated(chunks: Iterable[bytes], window_bits: int) -> Iterator[bytes]:
    decoder = zlib.decompressobj(window_bits)
    inside = False
    try:
        for chunk in chunks:
            data = chunk
            while data:
                inside = True
                piece = decoder.decompress(data, _STEP_BYTES)
                data = decoder.unconsumed_tail
                if piece:
                    yield piece
                if decoder.eof:
                    data = decoder.unused_data
                    decoder = zlib.decompressobj(window_bits)
                    inside = False
    except zlib.error as failure:
        raise BrokenEncodingError(str(failure)) from failure
    if inside:
        raise BrokenEncodingError("the body ends inside a compressed stream")


def encoding_for(accepted: str) -> str:
    """Return the encoding for an Accept-Encoding header; empty: none."""
    offered = {part.split(";")[0].strip().lower() for part in accepted.split(",")}
    return next((name for name in _PREFERENCE if name in offered), "")


def encoder_for(encoding: str) -> Encoder:
    """Return a new encoder; the empty encoding passes the body through."""
    if encoding == "lz4":
        return _Lz4Encoder()
    if encoding == "zstd":
        return _ObjectEncoder(zstd.ZstdCompressor(level=1))
    if encoding == "gzip":
        return _ObjectEncoder(zlib.compressobj(1, zlib.DEFLATED, _GZIP_WINDOW_BITS))
    if encoding == "deflate":
        return _ObjectEncoder(zlib.compressobj(1))
    return _PlainEncoder()


class _PlainEncoder:
    def encode(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Lz4Encoder:
    def __init__(self) -> None:
        self._compressor = lz4.frame.LZ4FrameCompressor()
        self._head = self._compressor.begin()

    def encode(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        return bytes(head + self._compressor.compress(data))

    def finish(self) -> bytes:
        head, self._head = self._head, b""
        return bytes(head + self._compressor.flush())


class _ObjectEncoder:
    def __init__(self, compressor: Any) -> None:
        self._compressor = compressor

    def encode(self, data: bytes) -> bytes:
        return bytes(self._compressor.compress(data))

    def finish(self) -> bytes:
        return bytes(self._compressor.flush())
