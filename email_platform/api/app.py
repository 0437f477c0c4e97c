"""The application: routers, failures outside them, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp

from email_platform.adapters.health.serving import HEALTH_PATH, serving_health
from email_platform.api import accounts, campaign_actions, campaigns, erasures, people, reports
from email_platform.api.problems import Problem, Refusal, response_for
from email_platform.api.services import OpenServices, Services

VERSION = "1"
_PAGES = "/console"
_MODULES = (campaigns, campaign_actions, accounts, people, erasures, reports)
# As many as the pools of database connections have, so that no request waits for one of these.
_THREADS = 10
_DESCRIPTION = """\
Leads, campaigns, suppressions and reports for other applications. docs/api.md has it step by step.

Failures are `application/problem+json` (RFC 9457): `errors` names the fields, `mend` says what to do.
"""


Pages = Callable[[Callable[[], Services]], ASGIApp]
"""Makes an application of pages for people; it is given what looks the services up."""


def create_app(open_services: OpenServices, pages: Pages | None = None) -> FastAPI:
    """The application; what it works with is opened when it starts to serve.

    Args:
        open_services: opens it.
        pages: what is served under `/console`; None for nothing.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        with (
            open_services() as services,
            # Without PostgreSQL no request gets an answer: keys are there.
            serving_health(services.settings, {"PostgreSQL"}, warehouse=True) as health,
        ):
            app.state.services = services
            app.state.health = health
            yield

    app = FastAPI(
        title="Email platform",
        version=VERSION,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # their scripts come from a CDN
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        exception_handlers={HTTPException: _problem, RequestValidationError: _problem, Exception: _problem},
    )
    for module in _MODULES:
        app.include_router(module.router)

    @app.get("/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        return {"status": "serves"}

    @app.get(HEALTH_PATH, include_in_schema=False)
    async def healthz() -> JSONResponse:
        found = await app.state.health.read()
        return JSONResponse(found.body, found.status)

    if pages is not None:
        app.mount(_PAGES, pages(lambda: app.state.services))
        app.add_route(_PAGES, lambda _: RedirectResponse(f"{_PAGES}/"), include_in_schema=False)

    original = app.openapi

    def openapi() -> dict[str, object]:
        """FastAPI's document, with our problems in the place of its own."""
        document = original()
        schemas = document["components"]["schemas"]
        if "Problem" not in schemas:
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs") | {"Problem": schema}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _problem(request: Request, failure: Exception) -> JSONResponse:
    if isinstance(failure, HTTPException) and failure.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        methods = ", ".join(sorted(_methods_of(request.url.path)))
        return response_for(
            Refusal(405, f"here one can {methods} only", "See /openapi.json.", headers={"Allow": methods})
        )
    return response_for(failure)


def _methods_of(path: str) -> set[str]:
    """Of every endpoint at this path; the framework's own answer names those of the first one only."""
    routes = [route for module in _MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    return {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
