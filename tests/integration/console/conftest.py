"""The console on the API's process, as browsers without scripts see it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping

import httpx
import pytest

from tests.integration.api.conftest import Api, Owner, api, owner

__all__ = ["api", "owner"]

_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')


class Visitor(httpx.Client):
    """Keeps cookies, and sends forms with the hidden fields of the page that they are on."""

    def log_in(self, key: str, **more: str) -> httpx.Response:
        return self.send_form("/console/login", "/console/login", {"api_key": key, **more})

    def send_form(self, page: str, action: str, fields: Mapping[str, str]) -> httpx.Response:
        return self.post(action, data={**self.hidden(page), **fields})

    def hidden(self, page: str) -> dict[str, str]:
        answer = self.get(page)
        assert answer.status_code == 200, answer.text
        return {name: html.unescape(value) for name, value in _HIDDEN.findall(answer.text)}

    def post(self, url: httpx.URL | str, **values: object) -> httpx.Response:  # type: ignore[override]
        headers = {"Origin": str(self.base_url).rstrip("/"), **(values.pop("headers", None) or {})}  # type: ignore[dict-item]
        return super().post(url, headers=headers, **values)  # type: ignore[arg-type]


def visitor(api: Api) -> Visitor:
    return Visitor(base_url=api.url, timeout=60)


@pytest.fixture
def operator(api: Api) -> Iterator[Visitor]:
    with visitor(api) as browser:
        assert browser.log_in(api.key("operator")).status_code == 303
        yield browser


@pytest.fixture
def of_owner(api: Api, owner: Owner) -> Iterator[Visitor]:
    with visitor(api) as browser:
        assert browser.log_in(api.key("owner", owner.email)).status_code == 303
        yield browser


@pytest.fixture
def reader(api: Api) -> Iterator[Visitor]:
    with visitor(api) as browser:
        assert browser.log_in(api.key("reader")).status_code == 303
        yield browser


def campaign_form(owner: Owner, **values: str) -> dict[str, str]:
    return {
        "name": "Spring",
        "sender_id": str(owner.sender_id),
        "subject": "Hello {{ first_name }}",
        "html": "<p>Hello {{ first_name }}</p><a href='{{ unsubscribe_url }}'>unsubscribe</a>",
        "text": "",
        "condition": '{"all": []}',
        "on_unknown": "hold",
        "at": "",
        "zone": "UTC",
        **values,
    }


def made(browser: Visitor, owner: Owner, **values: str) -> str:
    """The path of a new campaign."""
    answer = browser.send_form("/console/campaigns/new", "/console/campaigns/new", campaign_form(owner, **values))
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]
