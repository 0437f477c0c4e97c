"""The HTTP face put together: which path is answered by what, behind which authorization.

The invariant: no call and no path of the admin API is answered without the API key, and nothing before the log is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.admin import ADMIN_ROUTES, AdminAnswer
from email_platform.local.provider_simulator.answers import error_answer, unauthorized_answer
from email_platform.local.provider_simulator.bulk_endpoint import answer_bulk_call
from email_platform.local.provider_simulator.settings import SimulatorSettings
from email_platform.local.provider_simulator.simulator import Simulator


class _BulkEndpoint:
    """``POST /v1/bulk`` as a bare ASGI endpoint: the hot path, and the one that resets connections."""

    def __init__(self, holder: SimulatorHolder) -> None:
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer_bulk_call(self._holder.simulator, scope, receive, send)


class _AdminAuthorization:
    """Guards the admin API with the same key: a web page must not steer a server on loopback."""

    def __init__(self, app: ASGIApp, holder: SimulatorHolder) -> None:
        self._app = app
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"].startswith("/admin/")
            and not self._holder.simulator.is_authorized(scope)
        ):
            await unauthorized_answer()(scope, receive, send)
            return
        await self._app(scope, receive, send)


class SimulatorHolder:
    """Where the app finds its simulator, which can only be built once an event loop runs."""

    def __init__(self) -> None:
        self._simulator: Simulator | None = None

    @property
    def simulator(self) -> Simulator:
        """The running simulator."""
        if self._simulator is None:
            raise ConfigurationError("the simulator has not started")
        return self._simulator

    def hold(self, simulator: Simulator | None) -> None:
        """Set or clear the simulator."""
        self._simulator = simulator

    def stop(self) -> None:
        """Stop the simulator where one runs."""
        if self._simulator is not None:
            self._simulator.stop()


def create_app(settings: SimulatorSettings, holder: SimulatorHolder) -> Starlette:
    """Return the ASGI app; its lifespan opens the log and delivers webhooks."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        simulator = Simulator(settings)
        holder.hold(simulator)
        delivery = asyncio.create_task(simulator.dispatcher.run(), name="webhook-delivery")
        try:
            yield
        finally:
            simulator.stop()
            # Bounded by the webhook timeout; what is cut off here is sent again at the next start.
            await asyncio.wait((delivery,), timeout=1.0)
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)
            simulator.reader.close()
            simulator.writer.close()

    def admin(answer: AdminAnswer) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                return await answer(holder.simulator, request)
            except ConfigurationError as refusal:
                return error_answer(400, "ValidationError", str(refusal))

        return endpoint

    return Starlette(
        routes=[
            Route("/v1/bulk", _BulkEndpoint(holder), methods=["POST"]),
            *(Route(path, admin(answer), methods=[method]) for method, path, answer in ADMIN_ROUTES),
        ],
        middleware=[Middleware(_AdminAuthorization, holder=holder)],
        lifespan=lifespan,
    )
