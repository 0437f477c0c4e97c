"""Templates to answers, and the headers that every answer of the console has.

Invariant: every value on a page is escaped by the template engine; the browser runs no script but htmx's file, whatever
a campaign's name or template holds. A message is shown only in a frame without scripts, forms and origin (`sandbox`).

The headers are described by the W3C's Content Security Policy Level 3 and by the HTML standard (`sandbox`). The
referrer policy is not ``no-referrer``: browsers would then send ``Origin: null`` with our own forms (Fetch standard,
"append a request Origin header").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2
import orjson
from starlette.responses import HTMLResponse, RedirectResponse, Response

from email_platform.domain.texts import visible
from email_platform.reporting.page import count, duration, percent

HOME = "/console"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A message brings its own styles and pictures.
_FRAMED_POLICY = (
    "sandbox; default-src 'none'; style-src 'self' 'unsafe-inline'; img-src http: https: data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
_COMMON = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-robots-tag": "noindex",
}
HEADERS = {**_COMMON, "content-security-policy": _POLICY, "x-frame-options": "DENY"}
"""Of every answer that names none of its own."""
FRAMED_HEADERS = {**_COMMON, "content-security-policy": _FRAMED_POLICY, "x-frame-options": "SAMEORIGIN"}
"""Of what is shown in a frame of the console."""


def _moment(value: datetime | None) -> str:
    return "-" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _text(value: object) -> str:
    """Words of others on one line, with characters that act on the text beside them shown escaped."""
    return "-" if value is None or value == "" else visible(str(value))


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("email_platform.console", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "moment": _moment,
        "words": _text,
        "count": count,
        "duration": duration,
        "percent": percent,
        "as_json": _json,
    }
    environment.filters.update(filters)
    environment.globals |= {"home": HOME}
    return environment


_TEMPLATES = _environment()


def page(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """The template's page."""
    return _html(template, values, status, HEADERS)


def framed(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """The same for a frame of the console: no script, no form, no origin."""
    return _html(template, values, status, FRAMED_HEADERS)


def framed_document(document: str) -> Response:
    """A whole document for a frame of the console."""
    return HTMLResponse(document, headers={**FRAMED_HEADERS, "cache-control": "no-store"})


def see_other(path: str) -> Response:
    """Send the browser to a page of the console after a form was taken."""
    return RedirectResponse(f"{HOME}{path}", 303, headers={**HEADERS, "cache-control": "no-store"})


def _html(template: str, values: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    text = _TEMPLATES.get_template(template).render(values)
    return HTMLResponse(text, status, headers={**headers, "cache-control": "no-store"})
