"""ClickHouse's exceptions as HTTP answers.

The invariant: every refusal carries ClickHouse's own numeric code, and the HTTP status that its server pairs with
the code, so that a client's handling of errors works as against a server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from email_platform.errors import EmailPlatformError

AUTHENTICATION_FAILED = 516
NOT_IMPLEMENTED = 48
BAD_ARGUMENTS = 36
READONLY = 164
SESSION_IS_LOCKED = 373
SESSION_NOT_FOUND = 372
UNKNOWN_COMPRESSION_METHOD = 89
INCOMPLETE_BODY = 33
SYNTAX_ERROR = 62
ACCESS_DENIED = 497
_UNKNOWN_EXCEPTION = 1002

_CODE = re.compile(r"Code: (\d+)\. ")
_VERSION = re.compile(r" \(version [^()]*(?:\([^()]*\))?\)\s*$")
# As in HTTPHandler's exceptionCodeToHTTPStatus.
_STATUS = {
    **dict.fromkeys((192, 193, 497, 512, 516), HTTPStatus.FORBIDDEN),
    194: HTTPStatus.UNAUTHORIZED,
    **dict.fromkeys(
        (6, 25, 26, 27, 33, 36, 37, 38, 41, 43, 53, 62, 69, 70, 72, 117, 321, 356, 357, 386, 456, 457, 467, 675),
        HTTPStatus.BAD_REQUEST,
    ),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 82, 115, 141, 281, 336, 372), HTTPStatus.NOT_FOUND),
    48: HTTPStatus.NOT_IMPLEMENTED,
    209: HTTPStatus.REQUEST_TIMEOUT,
    307: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


class ClickHouseError(EmailPlatformError):
    """A statement or request was refused.

    Attributes:
        code: ClickHouse's numeric code.
        body: the text of a server's answer.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = message

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status that the server pairs with the code."""
        return _STATUS.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)


def refusal(code: int, name: str, message: str, version: str) -> ClickHouseError:
    """Return the endpoint's own refusal, worded as the server words its exceptions."""
    return ClickHouseError(code, f"Code: {code}. DB::Exception: {message} ({name}) (version {version})")


def from_engine(failure: BaseException, version: str) -> ClickHouseError:
    """Return the exception that an engine's error text describes."""
    # The message may quote bytes of the statement that are no text; chDB then fails to decode it.
    text = failure.object.decode("utf-8", "replace") if isinstance(failure, UnicodeDecodeError) else str(failure)
    start = text.find("Code: ")
    match = _CODE.match(text, start) if start >= 0 else None
    if match is None:
        code = _UNKNOWN_EXCEPTION
        text = f"Code: {code}. std::exception: {text or type(failure).__name__}. (UNKNOWN_EXCEPTION)"
    else:
        code = int(match.group(1))
        text = text[start:].strip()
    if not _VERSION.search(text):
        text = f"{text} (version {version})"
    return ClickHouseError(code, text)


def calling_the_engine(version: str, call: Callable[[], Any]) -> Any:
    """Return what a call of the engine returns.

    Raises:
        ClickHouseError: the engine's exception, with its code.
    """
    try:
        return call()
    except ClickHouseError:
        raise
    except Exception as failure:
        raise from_engine(failure, version) from failure
