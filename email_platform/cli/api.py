"""`email-platform api` and `email-platform api-key …`: the HTTP API's process, and who may use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from email_platform.cli.output import AsJson, Column, Row, print_json, say, show_rows, visible
from email_platform.cli.people import checked_address
from email_platform.settings import Settings, variable_of

if TYPE_CHECKING:
    from email_platform.adapters.postgres.api_keys import ApiKey, PostgresApiKeys

app = typer.Typer()
key_app = typer.Typer(no_args_is_help=True, help="Keys of the HTTP API: add, list, revoke.")


class KeyRole(StrEnum):
    """What a key may do."""

    OWNER = "owner"
    OPERATOR = "operator"
    READER = "reader"


_KEY_COLUMNS = (
    Column("key_id", "id", kind="id"),
    Column("name", "name"),
    Column("prefix", "begins with"),
    Column("role", "role"),
    Column("user_email", "user", show=lambda row: row["user_email"] or "every"),
    Column("last_used_at", "last used"),
    Column("revoked_at", "revoked"),
)


@app.command()
def api(
    host: Annotated[str, typer.Option(help="The address to listen on; put a TLS proxy in front for any other.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option(min=1, max=65535, envvar=variable_of("api_port"), help="Where applications reach it.")
    ] = 18081,
) -> None:
    """Serve the HTTP API and the console (at /console/) until Ctrl-C; see docs/api.md and docs/console.md."""
    from email_platform.api import __main__ as process

    raise typer.Exit(process.main(["--host", host, "--port", str(port)]))


@key_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="What it is for; it is in the audit log.", show_default=False)],
    role: Annotated[
        KeyRole,
        typer.Option(
            help="owner: one user's campaigns; operator: everything; reader: everything, and changes nothing."
        ),
    ],
    user: Annotated[
        str | None,
        typer.Option(help="The address of the user: for an owner, or a reader of his only.", callback=checked_address),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: nobody can look it up later."""
    if not name.strip() or len(name) > 200 or "\0" in name:
        raise typer.BadParameter("must have 1 to 200 characters, none of them NUL", param_hint="NAME")
    with _keys() as keys:
        made = keys.add(name, role.value, user)
    if as_json:
        print_json({**_row(made.api_key), "key": made.secret})
        return
    say(f"key {made.api_key.key_id} '{visible(name)}', {role}; keep it now, it is shown this once:")
    typer.echo(made.secret)


@key_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List every key, revoked ones too; of the key itself only its beginning is known."""
    with _keys() as keys:
        rows = [_row(one) for one in keys.all()]
    show_rows(_KEY_COLUMNS, rows, as_json=as_json, nothing="there is no API key yet")


@key_app.command("revoke")
def revoke_key(
    key_id: Annotated[int, typer.Argument(help="The key's id.", min=1, max=2**63 - 1, show_default=False)],
) -> None:
    """Let a key do nothing more, from its next request on; safe to repeat."""
    with _keys() as keys:
        keys.revoke(key_id)
    say(f"key {key_id} is revoked")


@contextmanager
def _keys() -> Iterator[PostgresApiKeys]:
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.api_keys import PostgresApiKeys

    with open_oltp(Settings.load()) as engine:
        yield PostgresApiKeys(engine)


def _row(key: ApiKey) -> Row:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "prefix": key.prefix,
        "role": key.role,
        "user_email": key.user_email,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }
