"""Logging in with an API key, and out."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from email_platform.api.problems import Refusal
from email_platform.api.route import admitted, note_answer
from email_platform.console.pages import HEADERS, HOME, page, see_other
from email_platform.console.session import Session
from email_platform.console.visit import Console, Visit, failure_page, read_form, require_own_form

_logger = logging.getLogger("email_platform.console")

FORM_NAME = "api_key"


async def show_login(request: Request) -> Response:
    """The login's form."""
    console: Console = request.app.state.console()
    session = console.sessions.of(request)
    response = _login_page(console, session, request.query_params.get("next", ""))
    if session.is_new:
        console.sessions.write(response, session)
    return response


async def log_in(request: Request) -> Response:
    """Begin a session of the key that was sent; the key itself is not kept."""
    console: Console = request.app.state.console()
    session = console.sessions.of(request)
    try:
        form = await read_form(request)
        back = form.get("next", "")
        require_own_form(console, session, request, form)
        caller = await run_in_threadpool(admitted, console.services, f"Bearer {form.get(FORM_NAME, '').strip()}")
        path = request.url.path
        entry_id = await run_in_threadpool(console.services.requests.note, caller.key_id, "POST", path)
    except ClientDisconnect:
        return Response(status_code=400)
    except Refusal as refusal:
        if refusal.problem.status != 401:
            return failure_page(refusal, None)
        _logger.warning("a login with a key that nobody has was refused")
        return _login_page(console, session, back, "Nobody has this API key, or it was revoked.", 401)
    except Exception as failure:  # said on a page, whatever it is
        return failure_page(failure, None)
    response = RedirectResponse(back_to(back), 303, headers={**HEADERS, "cache-control": "no-store"})
    console.sessions.write(response, console.sessions.begun(caller.key_id))
    await run_in_threadpool(note_answer, console.services, entry_id, response.status_code)
    return response


def log_out(visit: Visit) -> Response:
    """Have the browser forget the session."""
    response = see_other("/login")
    visit.console.sessions.end(response)
    return response


def back_to(wanted: str) -> str:
    """Where one comes from, where that is a page of this console; otherwise the list."""
    parts = urlsplit(wanted)
    is_ours = not parts.scheme and not parts.netloc and f"{parts.path}/".startswith(f"{HOME}/")
    plain = wanted.isprintable() and "\\" not in wanted and "//" not in parts.path and ".." not in parts.path
    return wanted if is_ours and plain else f"{HOME}/"


def _login_page(console: Console, session: Session, back: str, problem: str = "", status: int = 200) -> Response:
    values = {"caller": None, "token": console.sessions.token(session), "next": back, "problem": problem}
    return page("login.html.j2", values, status)
