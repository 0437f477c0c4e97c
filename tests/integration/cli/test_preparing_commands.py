"""From nothing to a campaign without SQL: users, senders, leads and campaigns as an operator makes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, func, select
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_parts
from email_platform.adapters.postgres.tables import campaign, lead
from email_platform.cli.app import app
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.sending.ledger import CampaignTotals
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, queue_campaign, row_of, seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]
EXAMPLES = Path(__file__).parents[3] / "examples"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def as_json(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def leads_of(engine: Engine, city: str) -> dict[str, Any]:
    with engine.connect() as connection:
        rows = connection.execute(select(lead).where(lead.c.city == city).order_by(lead.c.id)).all()
    return {row.email: row for row in rows}


def test_a_user_a_sender_and_a_campaign_from_the_example_files(oltp_engine: Engine) -> None:
    address = f"{unique('owner')}@example.com"
    user = as_json("user", "add", address, "--name", "Owner [/b]")
    assert user["email"] == address
    again = run("user", "add", address, "--name", "Owner")
    assert (again.exit_code, "already" in again.stderr) == (1, True)
    listed = run("user", "list")
    assert "Owner [/b]" in listed.output

    from_address = f"{unique('news')}@example.com"
    sender = as_json("sender", "add", from_address, "--name", "News", "--owner", address)
    assert (sender["provider"], sender["provider_account"]) == ("simulator", "default")
    assert run("sender", "add", from_address, "--name", "N", "--owner", address).exit_code == 1
    unowned = run("sender", "add", "x@example.com", "--name", "N", "--owner", "nobody@example.com")
    assert "email-platform user add nobody@example.com" in unowned.stderr
    assert from_address in run("sender", "list").output

    file = Path("campaign.yaml")
    example = (EXAMPLES / "campaign.yaml").read_text(encoding="utf-8")
    file.write_text(example.replace("news@example.com", from_address.upper()), encoding="utf-8")
    for name in ("newsletter.html", "newsletter.txt", "condition.json"):
        Path(name).write_bytes((EXAMPLES / name).read_bytes())
    campaign_id = as_json("campaign", "create", "--file", file)["campaign_id"]
    with oltp_engine.connect() as connection:
        row = connection.execute(select(campaign).where(campaign.c.id == campaign_id)).one()
    assert (row.status, row.owner_id, row.sender_id) == ("draft", user["user_id"], sender["sender_id"])
    assert row.html_template == (EXAMPLES / "newsletter.html").read_text(encoding="utf-8")
    assert row.condition == json.loads((EXAMPLES / "condition.json").read_bytes())
    assert (row.inline_css, row.mjml, row.on_unknown) == (True, False, "hold")
    Path("other.json").write_text('{"all": []}', encoding="utf-8")
    other = as_json("campaign", "create", "--file", file, "--condition", "other.json")["campaign_id"]
    with oltp_engine.connect() as connection:
        assert connection.execute(select(campaign.c.condition).where(campaign.c.id == other)).scalar_one() == {
            "all": []
        }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "campaign.yaml, line"),
        ("- a", "must be a mapping"),
        (
            "name: A\nsender: a@example.com\nsubject: s\nhtlm: x\ncondition: {all: []}",
            "line 4: htlm: unknown key; known: name",
        ),
        (
            "name: A\nsender: a@example.com\nsubject: 7\nhtml: x\ncondition: {all: []}",
            "line 3: subject: must be a text",
        ),
        ("name: A\nsender: a@example.com\nsubject: s\ncondition: {all: []}", "needs a body"),
        (
            "name: A\nsender: a@example.com\nsubject: s\nhtml: x\nhtml_file: y\ncondition: {all: []}",
            "give html or html_file",
        ),
        (
            "name: A\nsender: a@example.com\nsubject: s\nhtml: x",
            'needs condition or condition_file; {"all": []} is everybody',
        ),
        (
            "name: A\nsender: a@example.com\nsubject: s\nhtml: x\ncondition: {field: contry, op: eq, value: x}",
            "country",
        ),
        ("name: A\nsender: a@example.com\nsubject: s\nhtml: '{{ frist_name }}'\ncondition: {all: []}", "frist_name"),
        (
            "name: A\nsender: nobody@example.com\nsubject: s\nhtml: x\ncondition: {all: []}",
            "no sender nobody@example.com",
        ),
        (
            "name: A\nsender: a@example.com\nsubject: s\nhtml_file: gone.html\ncondition: {all: []}",
            "gone.html: No such file",
        ),
        (
            "name: A\nsender: a@example.com\nsubject: s\nhtml: x\ncondition_file: bad.json",
            "bad.json, line 1, column 2: is no JSON",
        ),
    ],
)
def test_a_wrong_campaign_file_is_refused_with_the_place_and_the_mend(
    oltp_engine: Engine, text: str, words: str
) -> None:
    Path("campaign.yaml").write_text(text, encoding="utf-8")
    Path("bad.json").write_text("{x", encoding="utf-8")
    with oltp_engine.connect() as connection:
        before = connection.execute(select(func.count()).select_from(campaign)).scalar_one()
    result = run("campaign", "create", "--file", "campaign.yaml")
    assert result.exit_code == 1, result.output
    assert words in result.stderr
    with oltp_engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(campaign)).scalar_one() == before


def test_an_import_adds_changes_and_leaves_out_and_never_touches_an_opt_out(oltp_engine: Engine) -> None:
    tag = unique("lead")
    city = seed_leads(
        oltp_engine,
        [
            {
                "email": f"Known-{tag}@example.com",
                "attributes": {"old": 1, "price": 5},
                "unsubscribed_at": "2026-01-01T00:00:00Z",
            },
            {"email": f"other-{tag}@example.com", "attributes": {}, "unsubscribed_at": None},
        ],
    )
    lines = [
        ["E-Mail", "first_name", "city", "price", "ignored"],
        [f" known-{tag}@EXAMPLE.com\u00a0", "", city, "20.00", "x"],
        [f"new-{tag}@example.com", "Nele", city, "", "x"],
        [f"NEW-{tag}@example.com", "Again", city, "1", "x"],
        ["no-at-sign", "Bad", city, "1", "x"],
        [f"bad-{tag}@example.com", "Bad", city, "cheap", "x"],
    ]
    with Path("leads.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(lines)
    options = ("--map", "E-Mail=email", "--map", "ignored=", "--number", "price")
    dry = run("lead", "import", "leads.csv", *options, "--dry-run", "--json")
    document = {
        "added": 1,
        "changed": 1,
        "rejected": 2,
        "repeated": [4],
        "erased": [],
        "went_on_after": None,
        "dry_run": True,
    }
    assert json.loads(dry.stdout) == document
    assert len(leads_of(oltp_engine, city)) == 2

    result = run("lead", "import", "leads.csv", *options)
    assert result.exit_code == 1, "rows were left out"
    assert "1 leads added, 1 changed" in result.output
    assert "1 rows repeat an address or key, 2 cannot be kept" in result.output
    same = run("lead", "import", "leads.csv", *options, "--rejects", "./leads.csv")
    assert (same.exit_code, "the file itself" in same.stderr) == (2, True)
    found = leads_of(oltp_engine, city)
    assert set(found) == {f"Known-{tag}@example.com", f"other-{tag}@example.com", f"new-{tag}@example.com"}
    known = found[f"Known-{tag}@example.com"]
    assert (known.first_name, known.unsubscribed_at is not None) == ("Ada", True)
    with oltp_engine.connect() as connection:
        texts = connection.execute(select(func.cast(lead.c.attributes, lead.c.email.type)).where(lead.c.id == known.id))
        assert texts.scalar_one() == '{"old": 1, "price": 20.00}'
    with Path("leads.csv.rejects.csv").open(encoding="utf-8", newline="") as file:
        rejected = list(csv.reader(file))
    assert rejected[1][1].startswith("email: no address that can be mailed: ")
    assert [row[:2] for row in rejected] == [
        ["row", "problem"],
        ["5", rejected[1][1]],
        ["6", "price: is no number such as 17 or 20.00"],
    ]
    mended = [rejected[0], [*rejected[2][:5], "3", rejected[2][6]]]
    with Path("mended.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(mended)
    assert run("lead", "import", "mended.csv", *options).exit_code == 0
    assert len(leads_of(oltp_engine, city)) == 4


def test_a_damaged_parquet_file_is_refused_with_a_sentence_and_changes_nothing(oltp_engine: Engine) -> None:
    table = pa.table({"email": [f"damaged{number}@example.com" for number in range(1_000)]})
    pq.write_table(table, "damaged.parquet")
    whole = Path("damaged.parquet").read_bytes()
    Path("damaged.parquet").write_bytes(whole[:4] + b"\xff" + whole[5:])
    result = run("lead", "import", "damaged.parquet")
    assert result.exit_code != 0
    assert "is the file whole?" in " ".join(result.stderr.split())
    assert isinstance(result.exception, SystemExit), "a sentence, no traceback"
    with oltp_engine.connect() as connection:
        assert not connection.scalar(select(func.count()).where(lead.c.email.startswith("damaged")))


def test_a_parquet_file_is_imported_as_well(oltp_engine: Engine) -> None:
    city, tag = unique("city"), unique("lead")
    table = pa.table({"email": [f"a-{tag}@example.com", None], "city": [city, city], "age": [41, 2]})
    pq.write_table(table, "leads.parquet")
    result = run("lead", "import", "leads.parquet", "--json")
    assert json.loads(result.stdout)["rejected"] == 1
    assert [row.age for row in leads_of(oltp_engine, city).values()] == [41]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"address\na@example.com\n", "no column means `email`"),
        (b"email\n\xff@example.com\n", "is no UTF-8"),
        (b'email\n"a@example.com\n', "line"),
    ],
)
def test_a_file_that_cannot_be_read_changes_nothing(oltp_engine: Engine, content: bytes, words: str) -> None:
    Path("leads.csv").write_bytes(content)
    with oltp_engine.connect() as connection:
        before = connection.execute(select(func.count()).select_from(lead)).scalar_one()
    result = run("lead", "import", "leads.csv")
    assert result.exit_code == 1, result.output
    assert words in result.stderr
    with oltp_engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(lead)).scalar_one() == before


def test_a_test_message_is_marked_and_leaves_no_trace_in_the_campaign(oltp_engine: Engine, settings: Settings) -> None:
    address = f"{unique('me')}@example.com"
    city = seed_leads(
        oltp_engine,
        [
            {"email": f"{unique('lead')}@example.com", "first_name": "Nele"},
            {"email": f"{unique('lead')}@example.com", "first_name": None},
        ],
    )
    named, nameless = (row.id for row in leads_of(oltp_engine, city).values())
    campaign_id = queue_campaign(oltp_engine, in_city(city), status="draft")
    result = run("campaign", "test", campaign_id, "--to", address, "--as-lead", named)
    assert result.exit_code == 0, result.output
    assert f"sent to {address}: [Test] Hello Nele" in result.output
    log = AcceptedLog(Path(settings.state_folder) / "provider")
    mine = [row for row in log.rows("0") if row.recipient == address]
    assert len(mine) == 1
    with open_parts(settings) as parts:
        assert parts.manifests.find(campaign_id) is None
        assert parts.ledger.totals(campaign_id) == CampaignTotals()
    assert row_of(oltp_engine, campaign_id).status == "draft"
    assert log.summary(str(campaign_id)).accepted_rows == 0

    blocked = run("campaign", "test", campaign_id, "--to", f"{unique('x')}@blocked.example", "--as-lead", named)
    assert (blocked.exit_code, "BlockedDomain" in blocked.stderr) == (1, True)
    without_name = run("campaign", "test", campaign_id, "--to", address, "--as-lead", nameless)
    assert "first_name is missing" in without_name.stderr
    for nobody in ((2**62, named), (campaign_id, 2**62)):
        assert run("campaign", "test", nobody[0], "--to", address, "--as-lead", nobody[1]).exit_code == 1
    assert run("campaign", "test", campaign_id, "--to", "no-at-sign", "--as-lead", named).exit_code == 2
