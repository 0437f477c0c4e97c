"""Reports of one campaign over HTTP, from marts that dbt built in a real warehouse."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from email_platform.adapters.clickhouse import recipients
from email_platform.adapters.clickhouse.recipients import ReportReader
from email_platform.errors import PartUnavailableError
from tests.integration.api.conftest import Api, Client, Owner, campaign, served
from tests.integration.dbt_project.test_dbt_reports import NOON, Reports, delivery, reports

pytestmark = pytest.mark.integration

__all__ = ["reports"]  # the fixture


def test_before_the_first_report_the_answer_says_so(api: Api, reports: Reports) -> None:
    settings = api.settings.model_copy(update={"clickhouse_url": reports.settings.clickhouse_url})
    with served(settings) as url, replace(api, url=url).client(api.key("reader")) as client:
        for path in ("recipients", "export"):
            answer = client.get(f"/v1/campaigns/1/{path}")
            assert (answer.status_code, "no report yet" in answer.json()["detail"]) == (404, True)


def test_a_campaign_s_recipients_come_in_pages_and_as_a_whole(
    api: Api, reports: Reports, operator: Client, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = operator.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    rows = [
        delivery(made, 0, "accepted", NOON, email="=cmd()@example.org"),
        delivery(made, 3, "accepted", NOON),
        delivery(made, 5, "rejected", NOON, error_code="550", error_message='no "such", user\nhere'),
        delivery(made, 8, "unknown", NOON),
        delivery(made, 9, "accepted", NOON),
    ]
    reports.load_deliveries(made, rows)
    reports.load_deliveries(made + 1, [delivery(made + 1, 4, "accepted", NOON)])
    reports.dbt("run", "--select", "+campaign_recipients")
    settings = api.settings.model_copy(update={"clickhouse_url": reports.settings.clickhouse_url})
    monkeypatch.setattr(recipients, "EXPORT_PAGE_ROWS", 2)
    key = api.key("owner", owner.email)
    with served(settings) as url, replace(api, url=url).client(key) as client:
        path = f"/v1/campaigns/{made}"
        found = pages(client, f"{path}/recipients")
        assert [one["lead_id"] for one in found] == [0, 3, 5, 8, 9]
        assert (found[2]["outcome"], found[2]["error"]) == ("rejected", '550: no "such", user\nhere')
        assert (found[0]["occurred_at"], found[0]["provider_message_id"]) == ("2026-03-28T12:00:00Z", f"p-{made}-0")
        rejected = client.get(f"{path}/recipients", params={"status": "rejected"}).json()["items"]
        assert [one["lead_id"] for one in rejected] == [5]

        exported = client.get(f"{path}/export")
        assert exported.headers["content-type"] == "text/csv; charset=utf-8"
        lines = list(csv.DictReader(exported.text.splitlines()))
        assert [line["lead_id"] for line in lines] == ["0", "3", "5", "8", "9"]
        assert (lines[0]["email"], lines[2]["error"]) == ("'=cmd()@example.org", '550: no "such", user here')
        as_json = client.get(f"{path}/export", params={"format": "ndjson"}).text
        assert [json.loads(line)["lead_id"] for line in as_json.splitlines()] == [0, 3, 5, 8, 9]

        assert client.get(f"/v1/campaigns/{made + 1}/export").status_code == 404
        with replace(api, url=url).client(api.key("reader")) as sees_all:
            assert sees_all.get(f"/v1/campaigns/{made + 1}/recipients").json()["items"][0]["lead_id"] == 4
            assert sees_all.get(f"/v1/campaigns/{2**62}/recipients").status_code == 404
            assert sees_all.get(f"/v1/campaigns/{2**62}/export").status_code == 404
        breaks_off_half_way(client, f"{path}/export", monkeypatch)


def pages(client: Client, path: str) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        page = client.get(path, params={"limit": 2, **({} if after is None else {"after": after})}).json()
        found += page["items"]
        after = page["next"]
        if after is None:
            return found


def breaks_off_half_way(client: Client, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warehouse goes away after the first page: nobody takes what came for the whole."""
    whole = ReportReader.recipients

    def goes_away(
        self: ReportReader, campaign_id: int, after: int, limit: int, status: str | None
    ) -> Sequence[Mapping[str, Any]]:
        if after >= 0:
            raise PartUnavailableError("ClickHouse does not answer")
        return whole(self, campaign_id, after, limit, status)

    monkeypatch.setattr(ReportReader, "recipients", goes_away)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(path)
