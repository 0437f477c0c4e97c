"""`api-key …` as an operator types it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from email_platform.adapters.postgres.api_keys import PostgresApiKeys
from email_platform.cli.app import app
from tests.integration.campaign_rows import unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_key_is_shown_once_works_and_is_revoked(oltp_engine: Engine) -> None:
    keys, name = PostgresApiKeys(oltp_engine), unique("shop")
    made = json.loads(run("api-key", "add", name, "--role", "operator", "--json").stdout)
    assert keys.admit(made["key"], 1, 10).caller.name == name
    listed = run("api-key", "list", "--json").stdout
    (row,) = [one for one in json.loads(listed) if one["name"] == name]
    assert (row["role"], row["user_email"], row["revoked_at"]) == ("operator", None, None)
    assert made["key"] not in listed
    assert run("api-key", "revoke", made["key_id"]).exit_code == 0
    assert keys.admit(made["key"], 1, 10) is None


def test_a_key_can_be_taken_from_standard_output_alone() -> None:
    result = run("api-key", "add", unique("shop"), "--role", "reader")
    assert result.stdout.splitlines()[-1].startswith("ep_")


def test_a_role_that_does_not_fit_is_refused_with_the_mend() -> None:
    alone = run("api-key", "add", "shop", "--role", "owner")
    assert (alone.exit_code, "name the user" in alone.stderr) == (1, True)
    nobody = run("api-key", "add", "shop", "--role", "owner", "--user", "nobody@example.com")
    assert (nobody.exit_code, "user add nobody@example.com" in nobody.stderr) == (1, True)
    assert run("api-key", "add", " ", "--role", "reader").exit_code == 2
    assert run("api-key", "revoke", 2**62).exit_code == 1
