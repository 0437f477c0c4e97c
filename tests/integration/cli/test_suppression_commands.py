"""`email-platform suppression …` on the real table: files go in and come out the same, nothing is dropped unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select
from typer.testing import CliRunner, Result

from email_platform.adapters.postgres.tables import app_user, sender, suppression
from email_platform.cli.app import app
from tests.integration.campaign_rows import unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


@pytest.fixture
def sender_id(oltp_engine: Engine) -> int:
    with oltp_engine.begin() as connection:
        owner = connection.execute(
            insert(app_user).values(email=f"{unique('csv')}@example.com", name="CSV").returning(app_user.c.id)
        ).scalar_one()
        return connection.execute(
            insert(sender).values(owner_id=owner, from_address="a@example.com", from_name="A").returning(sender.c.id)
        ).scalar_one()


@pytest.fixture
def tag() -> str:
    return unique("csv")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["suppression", *(str(argument) for argument in arguments)])


def rows_of(engine: Engine, tag: str) -> list[tuple[str, int | None, str, str, str]]:
    columns = suppression.c
    statement = (
        select(columns.address, columns.sender_id, columns.reason, columns.source, columns.created_at)
        .where(columns.address.like(f"%{tag}%"))
        .order_by(columns.address, columns.sender_id)
    )
    with engine.connect() as connection:
        return [(*row[:4], row[4].isoformat()) for row in connection.execute(statement)]


def test_a_file_is_imported_with_scope_source_and_time_and_its_bad_lines_are_kept_to_be_mended(
    oltp_engine: Engine, tag: str, sender_id: int
) -> None:
    file = Path("list.csv")
    file.write_text(
        "address,sender_id,reason,source,created_at\n"
        f"A-{tag}@example.com,,complaint,old system,2020-02-29T12:00:00+00:00\n"
        f"b-{tag}@example.com,{sender_id},unsubscribe,old system,2021-01-01T00:00:00+00:00\n"
        f"c-{tag}example.com,,manual,,\n"
        f"d-{tag}@example.com,999999,manual,,\n"
        f"a-{tag}@example.com,,manual,again,\n"
    )
    result = run("import", file)
    assert result.exit_code == 1
    assert "line 4: no address" in result.output
    assert "line 5: there is no sender with this sender_id" in result.output
    assert "5 lines: 2 new, 1 known before, 2 rejected" in result.output
    expected = [
        (f"a-{tag}@example.com", None, "complaint", "old system", "2020-02-29T12:00:00+00:00"),
        (f"b-{tag}@example.com", sender_id, "unsubscribe", "old system", "2021-01-01T00:00:00+00:00"),
    ]
    assert rows_of(oltp_engine, tag) == expected

    rejects = Path("list.csv.rejects.csv")
    assert rejects.read_text().splitlines() == [
        "line,problem,address,sender_id,reason,source,created_at",
        f"4,no address,c-{tag}example.com,,manual,,",
        f"5,there is no sender with this sender_id,d-{tag}@example.com,999999,manual,,",
    ]
    rejects.write_text(rejects.read_text().replace(f"c-{tag}example", f"c-{tag}@example").replace("999999", ""))
    mended = run("import", rejects)
    assert mended.exit_code == 0, mended.output
    assert "2 lines: 2 new, 0 known before, 0 rejected" in mended.output
    assert not Path("list.csv.rejects.csv.rejects.csv").exists()


def test_what_is_exported_is_imported_as_it_was(oltp_engine: Engine, tag: str, sender_id: int) -> None:
    for address, *options in (
        (f"+a-{tag}@example.com",),
        (f"b-{tag}@example.com", "--sender", sender_id, "--reason", "unsubscribe"),
        (f"b-{tag}@example.com", "--reason", "hard_bounce", "--source", "a phone call"),
    ):
        assert run("add", address, *options).exit_code == 0
    before = rows_of(oltp_engine, tag)
    assert len(before) == 3
    exported = run("export", "all.csv")
    assert exported.exit_code == 0
    assert not Path("all.csv.unfinished").exists()
    for address in {row[0] for row in before}:
        assert run("remove", address).exit_code == 0
    assert rows_of(oltp_engine, tag) == []
    result = run("import", "all.csv")
    assert result.exit_code == 0, result.output
    assert "3 new" in result.output
    assert rows_of(oltp_engine, tag) == before


def test_an_address_is_added_listed_and_removed_for_one_sender_or_for_all(
    oltp_engine: Engine, tag: str, sender_id: int
) -> None:
    address = f"Ann-{tag}@example.com"
    assert "suppressed" in run("add", address, "--sender", sender_id).output
    assert "was suppressed before" in run("add", address, "--sender", sender_id).output
    assert run("add", address).exit_code == 0
    listed = run("list", "--address", address).output
    assert "every" in listed
    assert str(sender_id) in listed
    assert address.lower() in run("list", "--limit", 5).output
    as_json = json.loads(run("list", "--address", address, "--json").stdout)
    assert {(row["address"], row["sender_id"], row["reason"]) for row in as_json} == {
        (address.lower(), None, "manual"),
        (address.lower(), sender_id, "manual"),
    }
    assert all(row["created_at"].endswith("+00:00") for row in as_json)

    assert "removed 1" in run("remove", address, "--sender", sender_id).output
    assert [row[1] for row in rows_of(oltp_engine, tag)] == [None]
    assert run("remove", address).exit_code == 0
    nothing = run("remove", address)
    assert nothing.exit_code == 1
    assert "is not suppressed" in nothing.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("add", "nobody"), "nobody: no address"),
        (("add", "a@example.com", "--sender", 999_999), "there is no sender with this sender_id"),
        (("import", "absent.csv"), "absent.csv"),
        (("export", "absent/all.csv"), "absent"),
    ],
)
def test_a_mistake_ends_in_one_line(arguments: tuple[object, ...], expected: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert expected in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_file_of_more_than_one_transaction_is_imported_whole(tag: str) -> None:
    file = Path("large.csv")
    with file.open("w") as lines:
        lines.write("address\n")
        lines.writelines(f"{number}-{tag}@example.com\n" for number in range(20_001))
    result = run("import", file)
    assert result.exit_code == 0, result.output
    assert "20,001 lines: 20,001 new, 0 known before, 0 rejected" in result.output
