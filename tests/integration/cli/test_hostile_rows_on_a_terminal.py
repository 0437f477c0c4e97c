"""Every command that prints texts of rows, with hostile texts in all of them: none acts on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import Engine, insert, select, text, update
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.postgres.tables import app_user, campaign, lead, send_call, sender, suppression
from email_platform.cli.app import app
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads
from tests.integration.own_databases import own_settings

pytestmark = pytest.mark.integration

HOSTILE = "Sale [/b] \x1b[31m\r\n99999  spoofed  sent \u202e\x07\u2028\x9b2J"
ACTS = set("\x1b\r\u202e\x07\u2028\x9b\t")


@dataclass(frozen=True, slots=True)
class World:
    """A draft, and a campaign in the middle of its sending; every text of theirs is hostile."""

    engine: Engine
    draft: int
    sending: int
    lead: int
    excluded: int
    sender: int
    address: str

    def row(self, status: str) -> int:
        """Another campaign, in this status."""
        return queue_campaign(self.engine, in_city("nowhere"), status=status, name=HOSTILE, status_reason=HOSTILE)


@pytest.fixture(scope="module")
def hostile(stack: Settings) -> Iterator[tuple[Settings, World]]:
    settings = own_settings(stack, "terminal")
    with open_oltp(settings) as engine, open_parts(settings) as parts:
        city = seed_leads(engine, [{**row, "first_name": HOSTILE} for row in [*numbered(2), {"email": HOSTILE}]])
        values: dict[str, Any] = {
            "name": HOSTILE,
            "status_reason": HOSTILE,
            "subject_template": "Hello [/b] {{ first_name }}",
            "text_template": "Hello {{ first_name }}\n",
            "owner": {"name": HOSTILE},
        }
        draft = queue_campaign(engine, in_city(city), status="draft", **values)
        sending = queue_campaign(engine, in_city(city), **values)
        freeze_audience(parts, sending)
        send_chunk(parts, sending, 0, holder="terminal")
        with engine.begin() as connection:
            # As if a provider had not answered, with words of its own.
            connection.execute(
                update(send_call)
                .where(send_call.c.campaign_id == sending)
                .values(state="unknown", receipt=None, receipt_at=None, error=HOSTILE)
            )
            connection.execute(update(campaign).where(campaign.c.id == sending).values(status_reason=HOSTILE))
            ids = list(connection.execute(select(lead.c.id).where(lead.c.city == city).order_by(lead.c.id)).scalars())
            address = str(connection.scalar(select(lead.c.email).where(lead.c.id == ids[0])))
            owner = connection.scalar(select(app_user.c.id).limit(1))
            sender_id = connection.execute(
                insert(sender)
                .values(owner_id=owner, from_address=f"{HOSTILE}@example.com", from_name=HOSTILE, reply_to=HOSTILE)
                .returning(sender.c.id)
            ).scalar_one()
            connection.execute(insert(suppression).values(address=address, reason="manual", source=HOSTILE))
        with open_warehouse(settings) as warehouse:
            warehouse.client.insert(
                "delivery",
                [[sending, ids[0], 1, address, HOSTILE, "rejected", HOSTILE, HOSTILE]],
                column_names=[
                    *("campaign_id", "lead_id", "owner_id", "email", "provider_message_id", "status"),
                    *("error_code", "error_message"),
                ],
            )
        yield settings, World(engine, draft, sending, ids[0], ids[2], sender_id, address)


def file_with(content: str, name: str) -> str:
    Path(name).write_text(content, encoding="utf-8")
    return name


def campaign_file(world: World) -> str:
    with world.engine.connect() as connection:
        sender_id = connection.scalar(select(campaign.c.sender_id).where(campaign.c.id == world.draft))
    name = r'"Sale [/b] \x1b[31m\r\n99999  spoofed \u202e"'
    return file_with(f"name: {name}\nsender: {sender_id}\nsubject: A\nhtml: B\ncondition: {{all: []}}\n", "it.yaml")


def owner(world: World) -> str:
    with world.engine.connect() as connection:
        return str(connection.scalar(select(app_user.c.email).limit(1)))


PRINTS_ROWS: dict[str, Callable[[World], list[object]]] = {
    "user add": lambda world: [f"new-{world.draft}@example.com", "--name", HOSTILE],
    "user list": lambda _: [],
    "sender add": lambda world: [f"s{world.draft}@example.com", "--name", HOSTILE, "--owner", owner(world)],
    "sender list": lambda _: [],
    "sender verify": lambda world: [world.sender],
    "campaign list": lambda _: [],
    "campaign preview": lambda world: [world.draft, "--samples", 2],
    "campaign plan": lambda world: [world.draft],
    "campaign show": lambda world: [world.sending],
    "campaign watch": lambda world: [world.row("cancelled")],
    "campaign test": lambda world: [world.draft, "--to", "me@example.com", "--as-lead", world.lead],
    "campaign queue": lambda world: [world.row("draft")],
    "campaign pause": lambda world: [world.row("queued"), "--reason", HOSTILE],
    "campaign resume": lambda world: [world.row("paused")],
    "campaign cancel": lambda world: [world.row("paused"), "--reason", HOSTILE],
    "campaign unknown": lambda world: [world.sending],
    "campaign retry-rejected": lambda world: [world.sending],
    "campaign create": lambda world: ["--file", campaign_file(world)],
    "campaign edit": lambda world: [world.draft, "--version", 1, "--file", campaign_file(world)],
    "campaign clone": lambda world: [world.draft],
    "api-key add": lambda _: [HOSTILE, "--role", "reader"],
    "api-key list": lambda _: [],
    "explain": lambda world: ["--campaign", world.sending, "--lead", world.excluded],
    "suppression list": lambda _: [],
    "suppression add": lambda world: [world.address],
    "warehouse find": lambda world: ["--lead", world.lead],
    "campaign decide": lambda world: ["abandon", world.sending][::-1],
    "suppression remove": lambda world: [world.address],
}
PRINTS_NO_ROWS = {
    **dict.fromkeys(
        ("up", "demo", "status", "down", "legacy generate", "legacy system"), "parts of this machine and figures"
    ),
    **dict.fromkeys(("migrate", "roles", "doctor", "dagster-yaml", "warehouse ddl"), "names of parts, roles, tables"),
    **dict.fromkeys(("events", "metrics serve", "api"), "they serve; their log is JSON or a line for each request"),
    "worker": "Celery's log: names and ids of steps",
    "code-server": "Dagster's log: names and ids of runs",
    **dict.fromkeys(("report show", "report export", "suppression export"), "they write files, and say how much"),
    "dbt": "dbt's own output",
    **dict.fromkeys(("retention run", "retention restore"), "ids, counts and fixed reasons"),
    **dict.fromkeys(("segment add", "segment list", "segment show"), "names of letters and digits; conditions as JSON"),
    **dict.fromkeys(("api-key revoke", "adopt check"), "ids; names of a database's columns"),
    "adopt shadow": "counts; addresses go to a file, and an old status is the name of a group",
    **dict.fromkeys(("alert list", "alert test"), "sentences of ours, cleaned before they are kept"),
    "lead erase": "hashes, names of tables, counts and fixed reasons",
    **dict.fromkeys(("lead import", "suppression import"), "numbers of lines, fixed reasons and counts"),
}


def commands() -> Iterator[str]:
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        path, each = waiting.pop()
        below = getattr(each, "commands", None)
        if below is None:
            yield path.strip()
        else:
            waiting += [(f"{path} {name}", command) for name, command in below.items()]


def test_every_command_is_known_to_print_texts_of_rows_or_not_to() -> None:
    assert set(commands()) == PRINTS_ROWS.keys() | PRINTS_NO_ROWS.keys()
    assert not PRINTS_ROWS.keys() & PRINTS_NO_ROWS.keys()


def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Result:
    for name, value in settings.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "400")
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", PRINTS_ROWS)
def test_no_text_of_a_row_acts_on_the_terminal_or_passes_for_another_line(
    hostile: tuple[Settings, World], command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, world = hostile
    monkeypatch.chdir(tmp_path)
    result = run(settings, monkeypatch, *command.split(), *PRINTS_ROWS[command](world))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "[/b]" in result.output, "the text is printed at all"
    assert not set(result.output) & ACTS
    assert not [line for line in result.output.splitlines() if line.startswith("99999")]
    assert "Traceback" not in result.output


def test_an_export_of_suppressions_is_exact_for_a_program_and_escaped_on_a_terminal(
    hostile: tuple[Settings, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, world = hostile
    with world.engine.begin() as connection:
        connection.execute(
            text("insert into suppression (address, reason, source) values ('z', 'manual', :s)"), {"s": HOSTILE}
        )
    exact = run(settings, monkeypatch, "suppression", "export", "-")
    assert {"\x1b", "\u202e", "\x07"} <= set(exact.stdout_bytes.decode())
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    shown = run(settings, monkeypatch, "suppression", "export", "-")
    assert "[/b]" in shown.output
    assert not set(shown.output) & ACTS
