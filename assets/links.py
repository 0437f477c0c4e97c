"""Where an operator goes on reading, as metadata of Dagster: pages outside it that are about one campaign.

Invariant: no link holds a credential, and none leads nowhere: without an address in the settings there is no link.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from resources.settings import SettingsResource


def campaign_links(settings: SettingsResource, campaign_id: int) -> Mapping[str, dg.MetadataValue]:
    """The campaign's page in the console, where its address is set."""
    console_url = settings.load().console_url
    return (
        {}
        if console_url is None
        else {"console": dg.MetadataValue.url(f"{console_url.rstrip('/')}/console/campaigns/{campaign_id}")}
    )
