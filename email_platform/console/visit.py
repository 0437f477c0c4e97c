"""Every page's way in and out: who asks, the form and its token, the audit log, the failures.

Invariant: nothing of a body is read before the caller is known and has rate left; a form is taken only from a page of
this console (its token, and the Origin that the browser names); what may change something is in the API's audit log
before it does; whatever a page raises becomes a page that says what is wrong and how to mend it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import uuid4

from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from email_platform.adapters.postgres.api_keys import Caller
from email_platform.adapters.postgres.api_requests import RequestName
from email_platform.api.problems import Refusal, field_problems, refusal_for
from email_platform.api.route import ExactRequest, note_answer, within_rate
from email_platform.api.services import Services
from email_platform.console.pages import HOME, page
from email_platform.console.session import Session, Sessions
from email_platform.errors import CampaignNotFoundError
from email_platform.receiver.connections import Network, is_within, trusted_networks

_logger = logging.getLogger("email_platform.console")

_MOST_FIELDS = 40
_MOST_DIGITS = 19
LARGEST_UPLOAD_BYTES = 32 << 20
TOKEN_FIELD = "form_token"  # noqa: S105 - a field's name
NAME_FIELD = "form_name"


@dataclass(frozen=True, slots=True)
class Console:
    """What every page works with."""

    services: Services
    sessions: Sessions
    proxies: tuple[Network, ...]

    @classmethod
    def of(cls, services: Services) -> Console:
        """Of these services.

        Raises:
            ConfigurationError: the proxies' addresses are none.
        """
        settings = services.settings
        proxies = trusted_networks(settings.console_proxy_addresses, "EMAIL_PLATFORM_CONSOLE_PROXY_ADDRESSES")
        return cls(services, Sessions(settings), proxies)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is logged in.

    Attributes:
        form: the fields that were sent; empty for a GET.
        upload: the file that was sent with them.
    """

    request: Request
    console: Console
    session: Session
    caller: Caller
    form: Mapping[str, str] = field(default_factory=dict)
    upload: UploadFile | None = None

    @property
    def services(self) -> Services:
        """What the API's endpoints work with."""
        return self.console.services

    @property
    def campaign_id(self) -> int:
        """Of the address.

        Raises:
            CampaignNotFoundError: no column could hold it.
        """
        found = int(self.request.path_params["campaign_id"])
        if not 0 < found < 2**63:
            raise CampaignNotFoundError(found)
        return found

    def query(self, name: str) -> str:
        """A field of the address, without blanks around it."""
        return self.request.query_params.get(name, "").strip().replace("\0", "")

    def number(self, name: str) -> int | None:
        """A whole number above 0 in the address, as its field or a part of its path; None where there is none."""
        written = str(self.request.path_params.get(name, "")) or self.query(name)
        is_number = written.isascii() and written.isdigit() and len(written) < _MOST_DIGITS
        return int(written) or None if is_number else None

    def made(self, write: Callable[[Connection], BaseModel]) -> Mapping[str, Any]:
        """Make it once, however often the form's button was pressed; what was made, as the API shows it."""
        _, made, _ = self.services.requests.once(
            self.name(), 201, lambda connection: write(connection).model_dump(mode="json")
        )
        found: Mapping[str, Any] = made
        return found

    def name(self) -> RequestName:
        """Names the form that was sent, so that a second press of its button makes nothing twice.

        Raises:
            Refusal: 400, the form has no name.
        """
        if not self.form.get(NAME_FIELD):
            raise Refusal(400, "the form is incomplete", "Load its page again and send it once more.")
        # Of a page that was gone back to and changed, the form is another one.
        fields = sorted((name, value) for name, value in self.form.items() if name != TOKEN_FIELD)
        digest = hashlib.sha256(repr((self.request.url.path, fields)).encode())
        return RequestName(self.caller.key_id, f"console {digest.hexdigest()}", digest.digest())

    def page(self, template: str, values: Mapping[str, Any] | None = None, status: int = 200) -> Response:
        """A page with what all of them have."""
        return page(template, {**self.common(), **(values or {})}, status)

    def common(self) -> dict[str, Any]:
        """What all templates know: the caller, and what forms send along."""
        return {
            "caller": self.caller,
            "token": self.console.sessions.token(self.session),
            "form_name": str(uuid4()),
            "logs_out": self.session.key_id is not None,
            "editor": self.caller.role != "reader",
            "operator": self.caller.role == "operator",
            "sees_all": self.caller.user_id is None,
        }


Handler = Callable[[Visit], Response]
Endpoint = Callable[[Request], Any]


def visited(handler: Handler, allowed: Callable[[Caller], Caller] | None = None, *, uploads: bool = False) -> Endpoint:
    """The endpoint of a page.

    Args:
        handler: makes the answer, in a thread.
        allowed: raises Refusal where the caller's role does not allow it.
        uploads: its form sends a file; whoever may not use the page sends none.
    """

    async def handle(request: Request) -> Response:
        console: Console = request.app.state.console()
        session = console.sessions.of(request)
        visit, entry_id, upload = None, None, None
        try:
            caller = await run_in_threadpool(caller_of, console, session, request)
            if caller is None:
                return _to_login(request)
            visit = Visit(request, console, session, caller)
            if uploads and allowed is not None:
                allowed(caller)  # before a large body is read
            if request.method == "POST":
                form, upload = await (read_upload(request) if uploads else _only_fields(request))
                require_own_form(console, session, request, form)
                visit = Visit(request, console, session, caller, form, upload)
                path = request.url.path
                entry_id = await run_in_threadpool(console.services.requests.note, caller.key_id, "POST", path)
            if allowed is not None:
                allowed(caller)
            response = await run_in_threadpool(handler, visit)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as failure:  # whatever it is, a page shows it
            response = failure_page(failure, visit)
        finally:
            if upload is not None:
                await upload.close()
        if entry_id is not None:
            await run_in_threadpool(note_answer, console.services, entry_id, response.status_code)
        if session.is_new:
            console.sessions.write(response, session)
        return response

    return handle


def caller_of(console: Console, session: Session, request: Request) -> Caller | None:
    """Who makes the request; None where nobody is logged in.

    Raises:
        Refusal: 403, the proxy names somebody whom nobody knows; 429.
    """
    settings = console.services.settings
    rate = settings.api_requests_per_second, settings.api_burst_requests
    keys = console.services.keys
    named = proxied_name(console, request)
    if named is not None:
        admission = keys.admit_name(named, *rate)
        if admission is None:
            raise Refusal(
                403,
                "you are logged in at the proxy, and no API key has the name that it gives, or more than one has",
                "Ask an operator to make one with: email-platform api-key add NAME --role …",
            )
    elif session.key_id is not None:
        admission = keys.admit_id(session.key_id, *rate)
    else:
        return None
    return None if admission is None else within_rate(console.services, admission)


def proxied_name(console: Console, request: Request) -> str | None:
    """The name in the proxy's header; None where there is none, or it does not come from the proxy.

    Raises:
        Refusal: 400, the header is there twice: one of them is not the proxy's.
    """
    header = console.services.settings.console_proxy_header
    peer = request.client.host if request.client else ""
    if not header or not is_within(console.proxies, peer):
        return None
    given = request.headers.getlist(header)
    if len(given) > 1:
        raise Refusal(400, f"the header {header} is there more than once", "The proxy must replace what browsers send.")
    return given[0].strip() or None if given else None


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, with line ends as they were before the browser changed them to CR LF.

    Raises:
        Refusal, HTTPException: it is no form, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "the body is no form", "Send the console's own forms.")
    body = await ExactRequest(request.scope, request.receive).body()
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:  # too many fields, or a text that is not UTF-8
        raise Refusal(400, "the form cannot be read", "Load its page again and send it once more.") from None
    return {name: _typed(value) for name, value in pairs}


async def _only_fields(request: Request) -> tuple[dict[str, str], None]:
    return await read_form(request), None


async def read_upload(request: Request) -> tuple[dict[str, str], UploadFile | None]:
    """The fields of a form that sends a file, and the file, which stands on disk where it is large.

    Raises:
        Refusal, HTTPException: it is no such form, or too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Refusal(415, "the body is no form with a file", "Send the console's own forms.")
    left_bytes = LARGEST_UPLOAD_BYTES

    async def receive() -> Message:
        nonlocal left_bytes
        message = await request.receive()
        left_bytes -= len(message.get("body", b""))
        if left_bytes < 0:
            raise HTTPException(
                413,
                f"the file is larger than {LARGEST_UPLOAD_BYTES >> 20} MB: "
                "import it with `email-platform lead import FILE`, or in parts",
            )
        return message

    try:
        stream = Request(request.scope, receive).stream()
        sent = await MultiPartParser(request.headers, stream, max_files=1, max_fields=_MOST_FIELDS).parse()
    except (MultiPartException, UnicodeDecodeError):
        raise Refusal(400, "the form cannot be read", "Load its page again and send it once more.") from None
    fields = {name: _typed(value) for name, value in sent.items() if isinstance(value, str)}
    return fields, next((value for value in sent.values() if isinstance(value, UploadFile)), None)


def _typed(value: str) -> str:
    return value.replace("\r\n", "\n").replace("\0", "")


def require_own_form(console: Console, session: Session, request: Request, form: Mapping[str, str]) -> None:
    """Refuse a form that another site has sent, or that was made for another session.

    Browsers name the origin of every POST in `Origin`, and say by `Sec-Fetch-Site` whether it is this site (Fetch
    standard; W3C Fetch Metadata). A request without both is judged by its token alone.

    Raises:
        Refusal: 403.
    """
    mend = "Load the page again and send the form once more."
    origin = request.headers.get("origin")
    wanted = console.services.settings.console_url
    if origin is not None:
        here = urlsplit(wanted).netloc if wanted else request.headers.get("host", "")
        same_scheme = wanted is None or urlsplit(origin).scheme == urlsplit(wanted).scheme
        if not here or urlsplit(origin).netloc.lower() != here.lower() or not same_scheme:
            raise Refusal(
                403,
                "the form comes from another site than this console",
                f"{mend} Behind a proxy, EMAIL_PLATFORM_CONSOLE_URL must be the address that browsers see.",
            )
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refusal(403, "the form comes from another site than this console", mend)
    if not console.sessions.is_token(session, form.get(TOKEN_FIELD, "")):
        raise Refusal(403, "the form was made for another login, or its page is too old", mend)


def failure_page(failure: Exception, visit: Visit | None) -> Response:
    """What a failure means, as a page."""
    refusal = refusal_of(failure)
    values = {"problem": refusal.problem}
    status = refusal.problem.status
    response = (
        page("failure.html.j2", {"caller": None, **values}, status)
        if visit is None
        else visit.page("failure.html.j2", values, status)
    )
    for name, value in refusal.headers.items():
        response.headers[name] = value
    return response


def refusal_of(failure: Exception) -> Refusal:
    """As the API has it, with advice for somebody at a browser."""
    match failure:
        case ValidationError():
            problems = field_problems([dict(one) for one in failure.errors(include_url=False)])
            for one in problems:
                one.mend = "Correct it."
            return Refusal(422, "; ".join(f"{one.field}: {one.problem}" for one in problems[:5]), "", problems)
        case CampaignNotFoundError():
            return Refusal(404, str(failure), "The list shows the campaigns that you may see.")
        case _:
            return refusal_for(failure)


def _to_login(request: Request) -> Response:
    """The login's page, from which one comes back to this one."""
    if request.method != "GET":
        over = "your login is over, and nothing was done"
        return failure_page(Refusal(401, over, "Log in, load the page again and send it once more."), None)
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = f"{HOME}/login?next={quote(back, safe='')}"
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-redirect": f"{HOME}/login"})
    return Response(status_code=303, headers={"location": target, "cache-control": "no-store"})
