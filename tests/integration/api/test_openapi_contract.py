"""The OpenAPI document: kept in the repository, and kept by the API, which schemathesis asks on the real database."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from email_platform.api.openapi import openapi_text
from tests.integration.api.conftest import Api, Client, Owner, campaign

pytestmark = pytest.mark.integration

FILE = Path(__file__).parents[3] / "docs" / "openapi.json"
EXPLANATION = "/v1/campaigns/{campaign_id}/leads/{lead_id}/explanation"
WATCH = "/v1/campaigns/{campaign_id}/watch"  # an answer without an end; tested by itself


def test_the_openapi_file_is_what_the_api_serves(reader: Client) -> None:
    assert FILE.read_text(encoding="utf-8") == openapi_text(), "run: make openapi"
    assert reader.get("/openapi.json").json() == json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_schemathesis_finds_no_answer_that_the_document_does_not_allow(
    api: Api, operator: Client, owner: Owner, tmp_path: Path
) -> None:
    """Left out of its checks: that whatever fits the document is taken. It cannot say what a template may hold."""
    draft = operator.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        f'[parameters]\n"path.campaign_id" = {draft}\n"body.sender_id" = {owner.sender_id}\n'
        # The id above also takes the place of wrong ids, whose acceptance it would report; with a second id in the
        # path nothing wrong is left in the request. That wrong ids are refused is tested by the other operations.
        f'[[operations]]\ninclude-name = "GET {EXPLANATION}"\nchecks.negative_data_rejection.enabled = false\n'
    )
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(config), "run", str(FILE), "--url", api.url, "--exclude-path", WATCH),
        *("--header", operator.headers["authorization"].replace("Bearer", "Authorization: Bearer", 1)),
        *("--exclude-checks", "positive_data_acceptance", "--max-examples", "2"),
        *("--phases", "examples,coverage,fuzzing"),  # bounded by the number of cases: a slow machine asks as many
        *("--seed", "1", "--generation-database", "none", "--no-color"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    operations = sum(len(methods) for methods in json.loads(FILE.read_text(encoding="utf-8"))["paths"].values())
    assert f"Tested: {operations - 1}\n" in ended.stdout, ended.stdout
