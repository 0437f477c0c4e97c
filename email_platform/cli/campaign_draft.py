"""`email-platform campaign edit` and `campaign clone`: what is done to a campaign before it is queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from email_platform.cli.campaign import CampaignId
from email_platform.cli.output import AsJson, print_json, say, visible
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.adapters.postgres.drafts import PostgresDrafts

app = typer.Typer()


@app.command()
def edit(
    campaign_id: CampaignId,
    file: Annotated[Path, typer.Option(help="All that it is to say, as YAML; see `campaign create`.", dir_okay=False)],
    html: Annotated[Path | None, typer.Option(help="Its HTML template, instead of the file's.", dir_okay=False)] = None,
    text: Annotated[Path | None, typer.Option(help="Its text template, likewise.", dir_okay=False)] = None,
    condition: Annotated[Path | None, typer.Option(help="Its audience as JSON, likewise.", dir_okay=False)] = None,
    version: Annotated[
        int | None,
        typer.Option(
            help="The version that you have edited, as `campaign show` gives it; instead of the file's.",
            min=1,
            max=2**31 - 1,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a draft to what a file says; refused where somebody else has edited it since.

    From the second edit on, say which version you have edited: with --version, or as `version` in the file. What the
    file leaves out gets its default.
    """
    from email_platform.adapters.postgres.accounts import NewCampaign
    from email_platform.runs.campaign_file import read_campaign_file

    given = {"html": html, "text": text, "condition": condition}
    read = read_campaign_file(file, {name: path for name, path in given.items() if path is not None})
    new = NewCampaign(read.name, read.sender, read.content, read.condition, read.on_unknown, read.scheduled_at)
    with _drafts() as drafts:
        now = drafts.edit(campaign_id, new, version if version is not None else read.version)
    if as_json:
        print_json({"campaign_id": campaign_id, "name": read.name, "status": "draft", "version": now})
    else:
        say(f"campaign {campaign_id} '{visible(read.name)}': draft, version {now}")


@app.command()
def clone(
    campaign_id: CampaignId,
    name: Annotated[str | None, typer.Option(help="Its name; 'Copy of …' by default.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Make a draft that says what another campaign says; without its time, and with an audience of its own."""
    if name is not None and (not name.strip() or len(name) > 500 or "\0" in name):
        raise typer.BadParameter("must have 1 to 500 characters, none of them NUL", param_hint="--name")
    with _drafts() as drafts:
        new_id, new_name = drafts.clone(campaign_id, name)
    if as_json:
        print_json({"campaign_id": new_id, "name": new_name, "status": "draft", "version": 1})
    else:
        say(f"campaign {new_id} '{visible(new_name)}': draft, from campaign {campaign_id}")


@contextmanager
def _drafts() -> Iterator[PostgresDrafts]:
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.drafts import PostgresDrafts

    with open_oltp(Settings.load()) as engine:
        yield PostgresDrafts(engine)
