"""Campaigns' report pages in the bucket, where Dagster links to them.

Invariant: a link holds no credential: whoever opens it needs rights to the bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from email_platform.adapters.assembly import open_store
from email_platform.adapters.clickhouse.report_frames import read_campaign
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.domain.storage_layout import report_page_key
from email_platform.reporting.campaign_report import campaign_figures, campaign_report
from email_platform.settings import Settings


@dataclass(frozen=True, slots=True)
class KeptPage:
    """A page in the bucket.

    Attributes:
        key: its key in the bucket.
        link: where a browser opens it, given rights: at the endpoint of the settings, or in AWS's console.
        summary: the most important figures as a small Markdown table.
    """

    key: str
    link: str
    summary: str


def keep_campaign_page(settings: Settings, warehouse: ClickHouseWarehouse, campaign_id: int) -> KeptPage:
    """Write a campaign's report into the bucket, replacing an older one.

    Raises:
        CommandRefusedError: the reports have no such campaign.
        ConfigurationError, PartUnavailableError: ClickHouse or S3.
    """
    frames = read_campaign(warehouse, campaign_id)
    key = report_page_key(campaign_id)
    store = open_store(settings)
    try:
        store.put(key, campaign_report(frames).encode(), "text/html; charset=utf-8")
    finally:
        store.close()
    figures = campaign_figures(frames.summary.iloc[0])
    rows = "".join(f"| {name} | {figure} |\n" for name, figure in figures.items())
    return KeptPage(key, _link(settings, key), f"| | |\n| --- | --- |\n{rows}")


def _link(settings: Settings, key: str) -> str:
    path = quote(key, safe="/")
    if settings.s3_endpoint_url:
        return f"{str(settings.s3_endpoint_url).rstrip('/')}/{settings.s3_bucket}/{path}"
    return f"https://{settings.s3_region}.console.aws.amazon.com/s3/object/{settings.s3_bucket}?prefix={path}"
