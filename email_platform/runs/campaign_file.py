"""A campaign as a YAML file: what it says, checked, with the place and the mend of whatever is wrong.

Invariant: nothing is read but the file and the files beside it that it names; a campaign that passes here has a
condition and templates that a run can use.

| key | meaning |
| --- | --- |
| name | required |
| sender | required: a sender's id, or the address that it sends from |
| subject | required: a template |
| html or html_file | the body as a template, or a file with it; at least one of html and text |
| text or text_file | likewise |
| condition or condition_file | required: the audience, as docs/conditions.md has it |
| mjml, inline_css | true or false; false by default |
| on_unknown | hold (the default) or resend |
| scheduled_at | not before this time, with its zone: 2026-12-01 09:00 Europe/Berlin; none by default |
| version | of the campaign that an edit is made of, as `campaign show` gives it; a new campaign has none |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from email_platform.audience.conditions.segments import check_without_segments
from email_platform.content.compile import check_content, compile_content
from email_platform.content.prepare import prepared_content
from email_platform.domain.campaigns import CampaignContent, OnUnknown
from email_platform.domain.local_time import scheduled_time
from email_platform.errors import CommandRefusedError, InvalidConditionError, wrong_value

_LONGEST_BYTES = 8 << 20
_GREATEST_VERSION = 2**31 - 1


def _moment(written: object) -> object:
    """YAML reads some ways to write a time as a time itself: with an offset, or without any zone."""
    if isinstance(written, datetime) and written.tzinfo is not None:
        written = f"{written.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    elif isinstance(written, date):
        written = str(written)
    return scheduled_time(written) if isinstance(written, str) else written


class _CampaignModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=500)
    sender: int | str
    subject: str = Field(min_length=1)
    html: str | None = None
    html_file: str | None = None
    text: str | None = None
    text_file: str | None = None
    condition: dict[str, Any] | None = None
    condition_file: str | None = None
    mjml: bool = False
    inline_css: bool = False
    on_unknown: Literal["hold", "resend"] = "hold"
    scheduled_at: Annotated[datetime | None, BeforeValidator(_moment)] = None
    version: int | None = Field(default=None, ge=1, le=_GREATEST_VERSION)


@dataclass(frozen=True, slots=True)
class CampaignFile:
    """What a file says of a campaign.

    Attributes:
        condition: as parsed JSON, valid.
        scheduled_at: in UTC; None for as soon as it is queued.
        version: of the campaign that the file is an edit of; None where the file does not say.
    """

    name: str
    sender: int | str
    content: CampaignContent
    condition: object
    on_unknown: OnUnknown
    scheduled_at: datetime | None = None
    version: int | None = None


def read_campaign_file(path: Path, overrides: Mapping[str, Path] | None = None) -> CampaignFile:
    """Read and check a campaign's file.

    Args:
        path: of the YAML file; files that it names are looked for beside it.
        overrides: files that stand for ``html``, ``text`` or ``condition``, whatever the campaign's file says.

    Raises:
        CommandRefusedError: names the file, the line or key, and what to change.
        InvalidTemplateError: a template cannot be used; names the part and the line.
        OSError: a file cannot be read; names it.
    """
    text = _text_of(path)
    try:
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise CommandRefusedError(f"{place}: is no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CommandRefusedError(f"{path}: is no YAML: {type(error).__name__}") from None
    if not isinstance(document, dict):
        raise CommandRefusedError(f"{path}: must be a mapping with the keys name, sender, subject, …")
    try:
        model = _CampaignModel.model_validate(document)
    except ValidationError as error:
        raise CommandRefusedError("; ".join(_problems(path, text, error))) from None
    given = overrides or {}
    html = _part(path, "html", model.html, model.html_file, given.get("html"))
    body = _part(path, "text", model.text, model.text_file, given.get("text"))
    if not html and not body:
        raise CommandRefusedError(f"{path}: needs a body: html, html_file, text or text_file")
    condition = _condition(path, model, given.get("condition"))
    content = CampaignContent(model.subject, html, body, model.mjml, model.inline_css)
    check_content(compile_content(prepared_content(content)))
    return CampaignFile(
        model.name, model.sender, content, condition, model.on_unknown, model.scheduled_at, model.version
    )


def _problems(path: Path, text: str, error: ValidationError) -> list[str]:
    lines = {key.value: key.start_mark.line + 1 for key, _ in yaml.compose(text, yaml.SafeLoader).value}
    found = []
    for one in error.errors():
        key = str(one["loc"][0]) if one["loc"] else ""
        place = f", line {lines[key]}" if key in lines else ""
        what = wrong_value(one["type"], one["msg"], one.get("ctx", {}))
        if one["type"] == "extra_forbidden":
            what = f"unknown key; known: {', '.join(_CampaignModel.model_fields)}"
        elif one["type"] == "string_type":
            what += ": put it in quotes"
        found.append(f"{path}{place}: {key}: {what}")
    return found


def _part(path: Path, name: str, text: str | None, file: str | None, override: Path | None) -> str:
    if text is not None and file is not None:
        raise CommandRefusedError(f"{path}: give {name} or {name}_file, not both")
    if override is not None:
        return _text_of(override)
    return _text_of(path.parent / file) if file is not None else text or ""


def _condition(path: Path, model: _CampaignModel, override: Path | None) -> object:
    if model.condition is not None and model.condition_file is not None:
        raise CommandRefusedError(f"{path}: give condition or condition_file, not both")
    condition: object = model.condition
    source = path
    if override is not None or model.condition_file is not None:
        source = override or path.parent / str(model.condition_file)
        try:
            condition = json.loads(_text_of(source))
        except json.JSONDecodeError as error:
            raise CommandRefusedError(
                f"{source}, line {error.lineno}, column {error.colno}: is no JSON: {error.msg}"
            ) from None
        except (RecursionError, ValueError):
            raise CommandRefusedError(f"{source}: is nested too deeply, or has a number of too many digits") from None
    if condition is None:
        raise CommandRefusedError(f'{path}: needs condition or condition_file; {{"all": []}} is everybody')
    try:
        check_without_segments(condition)
    except InvalidConditionError as error:
        raise CommandRefusedError(f"{source}: {error}") from None
    return condition


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_LONGEST_BYTES + 1)
    if len(raw) > _LONGEST_BYTES:
        raise CommandRefusedError(f"{path}: is larger than {_LONGEST_BYTES >> 20} MB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandRefusedError(f"{path}: is no UTF-8 at byte {error.start}; save it as UTF-8") from None
    if "\0" in text:
        raise CommandRefusedError(f"{path}: holds a NUL character; remove it")
    return text
