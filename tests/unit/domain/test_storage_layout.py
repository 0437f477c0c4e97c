"""Keys of the bucket: what is written under one is found by it."""

from __future__ import annotations

from uuid import UUID

import pytest

from email_platform.domain.storage_layout import (
    deliveries_key,
    delivery_parts,
    eligible_campaign,
    eligible_key,
    excluded_key,
    is_eligible_key,
    kind_of_key,
    manifest_prefix,
)

_PREFIX = manifest_prefix(42, UUID(int=7))


@pytest.mark.parametrize(("campaign_id", "chunk_index"), [(1, 0), (42, 99_999), (10**17, 123_456)])
def test_campaign_and_chunk_are_read_from_the_key_of_deliveries(campaign_id: int, chunk_index: int) -> None:
    key = deliveries_key(campaign_id, chunk_index)
    assert delivery_parts(key) == (campaign_id, chunk_index)
    assert kind_of_key(key) == ("delivery", campaign_id)


def test_the_campaign_is_read_from_the_key_of_a_list_of_recipients() -> None:
    assert eligible_campaign(eligible_key(_PREFIX)) == 42
    assert is_eligible_key(eligible_key(_PREFIX))


@pytest.mark.parametrize(
    "key",
    [
        excluded_key(_PREFIX),
        "manifests/campaign=x/00000000-0000-0000-0000-000000000007/eligible.parquet",
        "deliveries/campaign=1/chunk-00000.parquet.tmp",
        "deliveries/campaign=01/chunk-00000.parquet",
        "deliveries/campaign=1/chunk-last.parquet",
        "x/deliveries/campaign=1/chunk-00000.parquet",
    ],
)
def test_a_key_of_somebody_else_gives_no_campaign(key: str) -> None:
    assert eligible_campaign(key) is None
    assert delivery_parts(key) is None
