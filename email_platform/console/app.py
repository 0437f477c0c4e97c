"""The console's addresses; the API's process serves it under `/console`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from email_platform.api.route import editor, operator
from email_platform.api.services import Services
from email_platform.console import campaigns, editing, leads, login, looking, senders, suppressions
from email_platform.console.pages import HEADERS
from email_platform.console.visit import Console, Handler, failure_page, visited

_CAMPAIGN = "/campaigns/{campaign_id:int}"
_PAGES: Sequence[tuple[str, Handler]] = (
    ("/", campaigns.list_campaigns),
    ("/rows", campaigns.list_rows),
    (_CAMPAIGN, campaigns.show_campaign),
    (f"{_CAMPAIGN}/progress", campaigns.show_progress),
    (f"{_CAMPAIGN}/plan", looking.show_plan),
    (f"{_CAMPAIGN}/preview", editing.show_preview),
    (f"{_CAMPAIGN}/report", looking.show_report),
    (f"{_CAMPAIGN}/report.html", looking.report_document),
    (f"{_CAMPAIGN}/recipients", looking.show_recipients),
    (f"{_CAMPAIGN}/explanation", looking.show_explanation),
    (f"{_CAMPAIGN}/unknown", campaigns.show_unknown),
    ("/suppressions", suppressions.show_suppressions),
    ("/senders", senders.show_senders),
)
"""For every role; each shows the caller's own only."""
_FORM_PAGES: Sequence[tuple[str, Handler]] = (
    ("/campaigns/new", editing.show_new),
    (f"{_CAMPAIGN}/edit", editing.show_edit),
)
_FORMS: Sequence[tuple[str, Handler]] = (
    ("/campaigns/new", editing.create),
    ("/campaigns/new/preview", editing.preview_new),
    (f"{_CAMPAIGN}/edit", editing.edit),
    (f"{_CAMPAIGN}/preview", editing.preview_typed),
    (f"{_CAMPAIGN}/queue", campaigns.queue),
    (f"{_CAMPAIGN}/pause", campaigns.pause),
    (f"{_CAMPAIGN}/resume", campaigns.resume),
    (f"{_CAMPAIGN}/cancel", campaigns.cancel),
    (f"{_CAMPAIGN}/copy", campaigns.copy),
    (f"{_CAMPAIGN}/test", campaigns.send_test),
    (f"{_CAMPAIGN}/unknown", campaigns.decide_unknown),
    ("/suppressions", suppressions.add),
    ("/senders/{sender_id:int}/verify", senders.verify),
)
"""Not for readers."""
_OPERATORS_FORMS: Sequence[tuple[str, Handler]] = (
    ("/suppressions/{suppression_id:int}/lift", suppressions.lift),
    ("/senders", senders.add_sender),
    ("/users", senders.add_user),
)


def create_console(services_of: Callable[[], Services]) -> Starlette:
    """The console's application.

    Args:
        services_of: what it works with; asked when the first page is.
    """

    @lru_cache(maxsize=1)
    def console() -> Console:
        return Console.of(services_of())

    routes: list[BaseRoute] = [
        Route("/login", login.show_login, methods=["GET"]),
        Route("/login", login.log_in, methods=["POST"]),
        Route("/logout", visited(login.log_out), methods=["POST"]),
        *(Route(path, visited(handler), methods=["GET"]) for path, handler in _PAGES),
        *(Route(path, visited(handler, editor), methods=["GET"]) for path, handler in _FORM_PAGES),
        *(Route(path, visited(handler, editor), methods=["POST"]) for path, handler in _FORMS),
        *(Route(path, visited(handler, operator), methods=["POST"]) for path, handler in _OPERATORS_FORMS),
        Route("/leads", visited(leads.show_leads, operator), methods=["GET"]),
        Route("/leads", visited(leads.import_file, operator, uploads=True), methods=["POST"]),
        Route("/audit", visited(looking.show_audit, operator), methods=["GET"]),
        Mount("/static", _Static(directory=Path(__file__).with_name("static"))),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _failure, Exception: _failure})
    app.state.console = console
    return app


class _Static(StaticFiles):
    """Files of ours, with the headers of every page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file; browsers ask each time whether it has changed, which costs a line."""
        response = await super().get_response(path, scope)
        response.headers.update({**HEADERS, "cache-control": "no-cache"})
        return response


async def _failure(_: Request, failure: Exception) -> Response:
    return failure_page(failure, None)
