"""`email-platform segment …`: conditions with a name, which campaigns' conditions can use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from email_platform.cli.output import AsJson, Column, print_json, say, show_rows, visible, visible_lines
from email_platform.errors import CommandRefusedError, InvalidConditionError
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.adapters.postgres.segments import PostgresSegments

app = typer.Typer(no_args_is_help=True, help="Conditions with a name: add, list, show.")

_COLUMNS = (
    Column("name", "name"),
    Column("changed_at", "changed"),
    Column("condition", "condition", below=True, show=lambda row: json.dumps(row["condition"], ensure_ascii=False)),
)
Name = Annotated[str, typer.Argument(help="The segment's name.", show_default=False)]


@contextmanager
def _segments() -> Iterator[PostgresSegments]:
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.segments import PostgresSegments

    with open_oltp(Settings.load()) as engine:
        yield PostgresSegments(engine)


@app.callback()
def main() -> None:
    """Conditions with a name: add, list, show."""


@app.command()
def add(
    name: Name,
    condition: Annotated[Path, typer.Option(help="The condition as JSON (docs/conditions.md).", dir_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Change a segment that is there.")] = False,
) -> None:
    """Keep a condition under a name; {"segment": "NAME"} stands for it in other conditions.

    A campaign whose audience is frozen keeps the condition that it was frozen with.
    """
    try:
        raw = json.loads(condition.read_text(encoding="utf-8-sig"))
    except OSError as failure:
        raise CommandRefusedError(
            f"{condition}: {failure.strerror}; --condition names a file that holds the condition as JSON"
        ) from None
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise CommandRefusedError(f"{condition}: is no JSON that can be read{where}") from None
    with _segments() as segments:
        try:
            is_new = segments.put(name, raw, replace=replace)
        except InvalidConditionError as error:
            raise CommandRefusedError(f"{condition}: {error}") from None
    say(f"segment {visible(name)}: {'added' if is_new else 'changed'}")


@app.command("list")
def list_segments(as_json: AsJson = False) -> None:
    """List every segment with its condition."""
    with _segments() as segments:
        rows = [{"name": one.name, "changed_at": one.changed_at, "condition": one.condition} for one in segments.all()]
    show_rows(_COLUMNS, rows, as_json=as_json, nothing="there is no segment yet")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one segment: its condition as it is kept, and with the segments in it resolved."""
    from email_platform.audience.conditions.segments import resolve_segments

    with _segments() as segments:
        conditions = segments.conditions()
    if name not in conditions:
        raise CommandRefusedError(f"there is no segment {name!r}; see: email-platform segment list")
    try:
        resolved = resolve_segments({"segment": name}, conditions)
    except InvalidConditionError as error:
        raise CommandRefusedError(f"segment {name!r}: {error}") from None
    if as_json:
        print_json({"name": name, "condition": conditions[name], "resolved": resolved})
        return
    say(visible_lines(json.dumps(conditions[name], indent=2, ensure_ascii=False)))
    if resolved != conditions[name]:
        say("with the segments in it resolved:")
        say(visible_lines(json.dumps(resolved, indent=2, ensure_ascii=False)))
