"""Where data begins, as external assets: tables that applications fill, and what providers and recipients send us.

Nothing here is materialized by Dagster. The specs exist so that the lineage of a report ends at a table that somebody
knows, and not at the first asset of ours.
"""

from __future__ import annotations

import dagster as dg
from sqlalchemy import Table

from assets.catalog import DELIVERY_OWNERS, PII, SOURCES, holds_addresses
from email_platform.adapters.postgres import tables

POSTGRESQL = "postgresql"
WEBHOOKS = "webhooks"
OLD_DATABASE = "old_database"


def _columns(table: Table) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type=str(column.type).lower(),
                constraints=dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )


def _table(table: Table, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        [POSTGRESQL, table.name],
        description=description,
        group_name=SOURCES,
        owners=DELIVERY_OWNERS,
        tags=PII if holds_addresses(table.columns.keys()) else None,
        kinds={"postgres", "table"},
        metadata={
            "dagster/table_name": table.fullname,
            "dagster/column_schema": dg.MetadataValue.table_schema(_columns(table)),
        },
    )


lead_table = _table(
    tables.lead,
    "The people that campaigns may go to, as the application keeps them. Grain: lead. Where "
    "EMAIL_PLATFORM_LEAD_RELATION names another table or view, that one is read.",
)
campaign_table = _table(
    tables.campaign,
    "What is sent, to whom and when, with the campaign's status and its reason. Grain: campaign. Changed by the "
    "command line, the HTTP API and the runs themselves.",
)
sender_table = _table(
    tables.sender,
    "Who campaigns are from, and by which provider's account they go. Grain: sender.",
)
user_table = _table(
    tables.app_user,
    "The owners of campaigns and senders. Grain: user.",
)
suppression_table = _table(
    tables.suppression,
    "Who must not be mailed any more, and why. Grain: address and sender. Written from hard bounces, complaints and "
    "opt-outs by `warehouse_events`, and by operators.",
)

provider_events = dg.AssetSpec(
    [WEBHOOKS, "provider_events"],
    description="What providers report of messages: delivered, bounced, complained, opened, clicked. The receivers "
    "check each request's signature and answer 2xx once it lies in the inbox in S3. Grain: request.",
    group_name=SOURCES,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"webhook", "s3"},
)
unsubscribe_clicks = dg.AssetSpec(
    [WEBHOOKS, "unsubscribe"],
    description="Opt-outs by the link in a message, with one click (RFC 8058) or by the page. The receivers keep each "
    "in the inbox in S3 before they answer. Grain: request.",
    group_name=SOURCES,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"webhook", "s3"},
)
old_email_table = dg.AssetSpec(
    [OLD_DATABASE, "email"],
    description="The old system's table, one row per email that it sent. EMAIL_PLATFORM_LEGACY_URL says where "
    "it is; without that there is nothing to import.",
    group_name=SOURCES,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"postgres", "table"},
    metadata={"dagster/table_name": "email"},
)

lead_source_table = dg.AssetSpec(
    [OLD_DATABASE, "lead"],
    description="The table or view of a MySQL or MariaDB that leads are kept in step with. "
    "EMAIL_PLATFORM_LEAD_SOURCE_URL says where it is; without that leads are where EMAIL_PLATFORM_LEAD_RELATION says.",
    group_name=SOURCES,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"mysql", "table"},
)

external_assets = [
    lead_source_table,
    lead_table,
    campaign_table,
    sender_table,
    user_table,
    suppression_table,
    provider_events,
    unsubscribe_clicks,
    old_email_table,
]
