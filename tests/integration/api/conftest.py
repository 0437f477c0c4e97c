"""The HTTP API as it runs in production, on the real parts, with keys of each role."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine, insert

from email_platform.adapters.postgres.api_keys import PostgresApiKeys, Role
from email_platform.adapters.postgres.tables import app_user, sender
from email_platform.api.app import create_app
from email_platform.api.services import open_services
from email_platform.console.app import create_console
from email_platform.receiver.__main__ import Server, listen
from email_platform.settings import Settings
from tests.integration.campaign_rows import unique


@dataclass(frozen=True, slots=True)
class Owner:
    """A user with a sender of his own."""

    user_id: int
    email: str
    sender_id: int


@dataclass(frozen=True, slots=True)
class Api:
    """A running API."""

    url: str
    engine: Engine
    settings: Settings

    def key(self, role: Role, user: str | None = None) -> str:
        return PostgresApiKeys(self.engine).add(unique("key"), role, user).secret

    def client(self, key: str) -> Client:
        return Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def owner(self, **of_sender: Any) -> Owner:
        email = f"{unique('owner')}@example.com"
        values = {"from_address": f"{unique('news')}@example.com", "from_name": "News", **of_sender}
        with self.engine.begin() as connection:
            new = insert(app_user).values(email=email, name="Owner").returning(app_user.c.id)
            user_id = connection.execute(new).scalar_one()
            made = insert(sender).values(owner_id=user_id, **values).returning(sender.c.id)
            return Owner(user_id, email, connection.execute(made).scalar_one())


class Client(httpx.Client):
    """Sends an Idempotency-Key of its own with whatever makes something."""

    def make(self, path: str, body: object, key: str | None = None) -> httpx.Response:
        return self.post(path, json=body, headers={"Idempotency-Key": key or str(uuid4())})


@pytest.fixture(scope="session")
def api(stack: Settings, oltp_engine: Engine) -> Iterator[Api]:
    settings = stack.model_copy(update={"api_requests_per_second": 10_000.0, "api_burst_requests": 100_000})
    with served(settings) as url:
        yield Api(url, oltp_engine, settings)


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The API of these settings on a free port."""
    app = create_app(lambda: open_services(settings, os.environ), create_console)
    server = Server(uvicorn.Config(app, lifespan="on", ws="none", log_config=None, access_log=False))
    server.capture_signals = _no_signals  # type: ignore[method-assign]  # only a main thread has them
    with listen("127.0.0.1", 0, share_port=False) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@pytest.fixture
def owner(api: Api) -> Owner:
    return api.owner()


@pytest.fixture
def operator(api: Api) -> Iterator[Client]:
    with api.client(api.key("operator")) as client:
        yield client


@pytest.fixture
def of_owner(api: Api, owner: Owner) -> Iterator[Client]:
    with api.client(api.key("owner", owner.email)) as client:
        yield client


@pytest.fixture
def reader(api: Api) -> Iterator[Client]:
    with api.client(api.key("reader")) as client:
        yield client


def campaign(owner: Owner, **values: Any) -> dict[str, Any]:
    return {
        "name": unique("Spring"),
        "sender_id": owner.sender_id,
        "subject": "Hello {{ first_name }}",
        "html": "<p>Hello {{ first_name }}</p><a href='{{ unsubscribe_url }}'>unsubscribe</a>",
        "condition": {"all": []},
        **values,
    }
