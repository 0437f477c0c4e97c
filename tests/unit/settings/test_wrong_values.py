"""Does the error about a wrong value use plain words, whichever way the value comes?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from email_platform.api.campaign_models import CampaignBody
from email_platform.api.problems import problem_words
from email_platform.errors import CommandRefusedError, ConfigurationError
from email_platform.runs.campaign_file import read_campaign_file
from email_platform.settings import Settings

GOOD: dict[str, Any] = {"name": "A", "sender_id": 1, "subject": "S", "html": "B", "condition": {"all": []}}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("sender_id", "x", "must be a whole number"),
        ("mjml", "maybe", "must be true or false"),
        ("on_unknown", "retry", "must be 'hold' or 'resend'"),
        ("name", "", "must not be empty"),
        ("name", None, "must be a text"),
        ("subject", "a\0b", "must hold no NUL character"),
        ("scheduled_at", "tomorrow", "'tomorrow' is no time; write it as '2026-12-01 09:00 Europe/Berlin'"),
        ("nam", "A", "is no field of this request"),
    ],
)
def test_a_wrong_field_of_a_request_says_what_it_must_be(field: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        CampaignBody.model_validate({**GOOD, field: value})
    [error] = refused.value.errors()
    assert error["loc"] == (field,)
    assert problem_words(error).startswith(words)


def test_a_wrong_line_of_a_campaign_s_file_says_what_it_must_be(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("name: A\nsender: x\nsubject: 17\nmjml: maybe\nhtml: B\ncondition: {all: []}\n", encoding="utf-8")
    with pytest.raises(CommandRefusedError) as refused:
        read_campaign_file(file)
    for expected in ("line 3: subject: must be a text: put it in quotes", "line 4: mjml: must be true or false"):
        assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("chunk_rows", "abc", "EMAIL_PLATFORM_CHUNK_ROWS: must be a whole number"),
        ("alert_late_seconds", "-1", "EMAIL_PLATFORM_ALERT_LATE_SECONDS: must be greater than 0"),
        ("api_port", "70000", "EMAIL_PLATFORM_API_PORT: must be at most 65535"),
        ("s3_bucket", "b", "EMAIL_PLATFORM_S3_BUCKET: must have at least 3 characters"),
    ],
)
def test_a_wrong_setting_says_what_it_must_be(field: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.checked({"state_folder": "/tmp/x", field: value})
    assert words in str(refused.value).splitlines()
