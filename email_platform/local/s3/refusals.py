"""Requests that the embedded S3 refuses before, or instead of, a failure inside nanio, with S3's own errors.

Invariant: every answer to a signed request is S3's: an object, or an error with S3's code as XML; a body that is not
what its signature covers is never stored.

Codes and their meaning: Amazon S3 API Reference, "Error responses", list of error codes; keys of at most 1,024 bytes:
Amazon S3 User Guide, "Naming Amazon S3 objects".
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from nanio.errors import S3Error
from nanio.storage.paths import multipart_init_path
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

_LONGEST_KEY_BYTES = 1024
# A file's name may have 255; beside an object lies its description, written as <name>.json.tmp.
_LONGEST_SEGMENT_BYTES = 255 - len(".json.tmp")
_UPLOAD_ID = re.compile(r"[0-9A-Za-z_-]{1,200}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_UNHASHED = re.compile(r"UNSIGNED-PAYLOAD|STREAMING-[A-Z0-9-]+", re.ASCII)

_logger = logging.getLogger("email_platform.object_store")


class BrokenFramesError(Exception):
    """The body's aws-chunked frames are broken or end too early."""


class AlteredBodyError(Exception):
    """The body is not the one whose hash was signed."""


def refusal_of(scope: Scope, headers: Mapping[str, str], data_folder: Path) -> Response | None:
    """The error for a request with an impossible name or id; None for any other.

    Args:
        data_folder: where the uploads under way are described.
        scope: of an HTTP request whose signature is right.
        headers: of the request, names in lower case.
    """
    key = _bucket_and_key(scope)[1]
    key_bytes = len(key.encode("utf-8", "surrogatepass"))
    segments = key.split("/")
    if key_bytes > _LONGEST_KEY_BYTES:
        return s3_error(
            400, "KeyTooLongError", f"Your key is too long: {key_bytes} bytes, at most {_LONGEST_KEY_BYTES}"
        )
    if any(len(segment.encode("utf-8", "surrogatepass")) > _LONGEST_SEGMENT_BYTES for segment in segments):
        return s3_error(
            400,
            "KeyTooLongError",
            f"This embedded server keeps objects as files: at most {_LONGEST_SEGMENT_BYTES} bytes between two slashes",
        )
    if {".", ".."} & {*segments} or "\0" in key or not key.isprintable():
        return s3_error(400, "InvalidURI", "This embedded server takes no '.' or '..' between slashes, and no controls")
    if not _knows_uploads(scope, data_folder):
        return s3_error(404, "NoSuchUpload", "The specified multipart upload does not exist")
    signed = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    if not _SHA256.fullmatch(signed) and not _UNHASHED.fullmatch(signed):
        return s3_error(
            400, "InvalidArgument", "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-... or a SHA-256 in hex"
        )
    return None


def _bucket_and_key(scope: Scope) -> tuple[str, str]:
    bucket, _, key = scope["path"].lstrip("/").partition("/")
    return bucket, key


def _knows_uploads(scope: Scope, data_folder: Path) -> bool:
    """Whether each upload id of the query is of an upload under way of this very object."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for upload_id in query.get("uploadId", ()):
        if not _UPLOAD_ID.fullmatch(upload_id):
            return False
        try:
            described = json.loads(multipart_init_path(data_folder, upload_id).read_text(encoding="utf-8"))
            if (described["bucket"], described["key"]) != _bucket_and_key(scope):
                return False
        except (OSError, ValueError, KeyError):
            return False
    return True


def with_signed_hash(receive: Receive, signed: str) -> Receive:
    """The body as it comes, refused at its end where its SHA-256 is not the signed one.

    Raises:
        AlteredBodyError: while receiving the last piece, so that the code that writes it never reaches its end.
    """
    if not _SHA256.fullmatch(signed):
        return receive
    digest = hashlib.sha256()

    async def receive_checked() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            digest.update(message.get("body", b""))
            if not message.get("more_body", False) and not hmac.compare_digest(digest.hexdigest(), signed):
                raise AlteredBodyError
        return message

    return receive_checked


@contextlib.asynccontextmanager
async def answering_failures(scope: Scope, receive: Receive, send: Send) -> AsyncIterator[Send]:
    """Answer what fails inside with S3's error, unless an answer has begun; only the failure's kind is logged."""
    begun = False

    async def noticed(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    try:
        yield noticed
    except S3Error:
        raise  # nanio words its own
    except Exception as failure:
        if begun:
            raise
        answer = _answer_to(failure)
        answer.headers["connection"] = "close"
        await answer(scope, receive, send)


def _answer_to(failure: Exception) -> Response:
    if isinstance(failure, BrokenFramesError):
        return s3_error(400, "IncompleteBody", str(failure))
    if isinstance(failure, AlteredBodyError):
        return s3_error(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    if isinstance(failure, NotADirectoryError | IsADirectoryError | FileExistsError):
        return s3_error(
            409,
            "OperationAborted",
            "This embedded server keeps objects as files: no key lies below another",
        )
    _logger.error("a request failed inside the object store: %s", type(failure).__name__)
    return s3_error(500, "InternalError", "We encountered an internal error. Please try again.")


async def drain(receive: Receive) -> None:
    """Read the body to its end: left in the connection, it would be taken for the next request."""
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)


def s3_error(status: int, code: str, text: str) -> Response:
    """An error as S3 words it."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(text)}</Message></Error>'
    )
    return Response(body, status_code=status, media_type="application/xml")
