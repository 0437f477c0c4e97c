"""`email-platform user …` and `email-platform sender …`: who owns campaigns, and from which address they are sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, Column, Row, print_json, say, show_rows, visible
from email_platform.domain.addresses import mailable_address
from email_platform.domain.typed_address import address_problem
from email_platform.errors import CommandRefusedError
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.adapters.postgres.accounts import OwnedSender, PostgresAccounts, User

user_app = typer.Typer(no_args_is_help=True, help="People who own senders and campaigns: add, list.")
sender_app = typer.Typer(no_args_is_help=True, help="Addresses that campaigns are sent from: add, list, verify.")

_USER_COLUMNS = (
    Column("user_id", "id", kind="id"),
    Column("email", "address"),
    Column("name", "name"),
    Column("created_at", "since"),
)
_SENDER_COLUMNS = (
    Column("sender_id", "id", kind="id"),
    Column("from_address", "from"),
    Column("from_name", "name"),
    Column("provider", "provider", show=lambda row: f"{row['provider']}/{row['provider_account']}"),
    Column("owner_email", "owner", below=True),
    Column("reply_to", "replies to", below=True),
)

_VERDICTS = {
    "verified": ("verified", "green"),
    "not_verified": ("NOT verified", "red"),
    "unknown": ("not known", "yellow"),
}


@contextmanager
def _accounts() -> Iterator[PostgresAccounts]:
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.accounts import PostgresAccounts

    with open_oltp(Settings.load()) as engine:
        yield PostgresAccounts(engine)


def checked_address(value: str | None) -> str | None:
    """A checked address in the form that is mailed."""
    if value is None:
        return None
    if problem := address_problem(value):
        raise typer.BadParameter(f"{visible(value)!r}: {problem}")
    return mailable_address(value)


Email = Annotated[str, typer.Argument(help="The address.", show_default=False, callback=checked_address)]


@user_app.command("add")
def add_user(
    email: Email, name: Annotated[str, typer.Option(help="The user's name.")], as_json: AsJson = False
) -> None:
    """Make a user, who can own senders and campaigns."""
    with _accounts() as accounts:
        user = accounts.add_user(email, name)
    if as_json:
        print_json(_user(user))
    else:
        say(f"user {user.user_id}: {visible(user.name)}, {user.email}")


@user_app.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List every user."""
    with _accounts() as accounts:
        rows = [_user(one) for one in accounts.users()]
    show_rows(_USER_COLUMNS, rows, as_json=as_json, nothing="there is no user yet")


@sender_app.command("add")
def add_sender(
    from_address: Email,
    name: Annotated[str, typer.Option(help="The name that recipients see.")],
    owner: Annotated[str, typer.Option(help="The address of the user who owns it.", callback=checked_address)],
    reply_to: Annotated[
        str | None, typer.Option(help="Where answers go; to the sender by default.", callback=checked_address)
    ] = None,
    provider: Annotated[str, typer.Option(help="Which provider sends it: simulator, ses, sendgrid, …")] = "simulator",
    account: Annotated[
        str, typer.Option(help="Which account of the provider, as in its EMAIL_PLATFORM_… variables.")
    ] = "default",
    as_json: AsJson = False,
) -> None:
    """Make a sender: an address, and the provider account that sends for it."""
    from email_platform.adapters.postgres.accounts import NewSender
    from email_platform.adapters.providers import account_problem

    if problem := account_problem(provider, account):
        raise typer.BadParameter(problem.text, param_hint=f"--{problem.field}")
    with _accounts() as accounts:
        made = accounts.add_sender(NewSender(owner, from_address, name, reply_to, provider, account))
    if as_json:
        print_json(_sender(made))
    else:
        sender_id = made.sender.sender_id
        say(f"sender {sender_id}: {visible(name)} <{from_address}>, through {provider}/{account}")


@sender_app.command("list")
def list_senders(as_json: AsJson = False) -> None:
    """List every sender."""
    with _accounts() as accounts:
        rows = [_sender(one) for one in accounts.senders()]
    show_rows(_SENDER_COLUMNS, rows, as_json=as_json, nothing="there is no sender yet")


@sender_app.command("verify")
def verify_sender(
    sender_id: Annotated[int, typer.Argument(help="The sender's id.", min=1, max=2**63 - 1, show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Ask the provider whether it would take mail from a sender's address; sends nothing.

    SES, SendGrid, Resend and Mailgun can be asked; of others it says that it cannot know. Exit code 0 for a yes only.
    """
    from email_platform.adapters.assembly import ask_about_sender

    settings = Settings.load()
    with _accounts() as accounts:
        owned = next(iter(accounts.senders(sender_id)), None)
    if owned is None:
        raise CommandRefusedError(f"there is no sender {sender_id}; `email-platform sender list` shows them")
    sender = owned.sender
    checked = ask_about_sender(settings, sender, os.environ)
    if as_json:
        print_json({**_sender(owned), "verdict": checked.verdict, "says": checked.says})
    else:
        words, style = _VERDICTS[checked.verdict]
        say(f"sender {sender_id}, {visible(sender.from_address)}: {words}; {visible(checked.says)}", style=style)
    if checked.verdict != "verified":
        raise typer.Exit(ExitCode.REFUSED)


def _user(user: User) -> Row:
    return {"user_id": user.user_id, "email": user.email, "name": user.name, "created_at": user.created_at}


def _sender(owned: OwnedSender) -> Row:
    sender = owned.sender
    return {
        "sender_id": sender.sender_id,
        "from_address": sender.from_address,
        "from_name": sender.from_name,
        "reply_to": sender.reply_to,
        "provider": sender.provider,
        "provider_account": sender.provider_account,
        "owner_email": owned.owner_email,
    }
