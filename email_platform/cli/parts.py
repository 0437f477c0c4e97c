"""`email-platform migrate`, `roles`, `events`, `dagster-yaml`, `code-server`, `worker`: what production runs.

Invariant: nothing here needs the embedded engines. Drivers are imported inside the commands, so that help and shell
completion do not wait for them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from email_platform.cli.output import note, say
from email_platform.settings import Settings, variable_of

app = typer.Typer()


@app.command()
def migrate(
    clickhouse_grants: Annotated[
        bool,
        typer.Option(
            "--clickhouse-grants",
            help="Then make ClickHouse's roles of deploy/grants, too; for a user with access management.",
        ),
    ] = False,
) -> None:
    """Bring the database's and the warehouse's tables to this release; safe to repeat, and side by side."""
    from email_platform.adapters.preparation import give_clickhouse_rights, prepare

    settings = Settings.load()
    prepare(settings)
    say("the schemas are up to date")
    if clickhouse_grants:
        for role in give_clickhouse_rights(settings):
            say(f"ClickHouse's {role} has the rights of its file")


@app.command()
def roles(
    folder: Annotated[
        Path | None, typer.Option(help="Where the roles' files are; deploy/roles by default.", file_okay=False)
    ] = None,
) -> None:
    """Make PostgreSQL's roles for each kind of process, with the rights of their files; safe to repeat.

    For a user who owns the tables and may create roles. Run it again after `migrate`; `doctor` says where a right
    differs.
    """
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.roles import ROLES_FOLDER, apply_roles

    with open_oltp(Settings.load()) as engine:
        for role in apply_roles(engine, folder or ROLES_FOLDER):
            say(f"{role} has the rights of its file")


@app.command()
def events(
    host: Annotated[str, typer.Option(help="The address to listen on; put a TLS proxy in front for any other.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int,
        typer.Option(
            min=1, max=65535, envvar=variable_of("receiver_port"), help="Where providers and recipients reach us."
        ),
    ] = 18080,
    share_port: Annotated[
        bool, typer.Option("--share-port", help="Several of these commands listen on the same port.")
    ] = False,
) -> None:
    """Receive providers' signed events and recipients' unsubscriptions until Ctrl-C."""
    from email_platform.receiver import __main__ as receiver

    share = ["--share-port"] if share_port else []
    raise typer.Exit(receiver.main(["--host", host, "--port", str(port), *share]))


@app.command("dagster-yaml")
def dagster_yaml(
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write the file here, unless one of your own is there; without it, print it.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Print production's dagster.yaml for these settings, or write it.

    Dagster takes no whole number of this file from a variable, so EMAIL_PLATFORM_MAX_CONCURRENT_RUNS gets into it
    here: run this before Dagster's processes start, as the image does.
    """
    from email_platform.adapters.dagster_yaml import production_dagster_yaml, write_production_dagster_yaml
    from email_platform.adapters.launchers import launcher_of, require_possible

    settings = Settings.load()
    if output is None:
        typer.echo(production_dagster_yaml(settings.max_concurrent_runs), nl=False)
        return
    if not write_production_dagster_yaml(output, settings.max_concurrent_runs):
        note(f"{output} is a file of your own (it lacks our first line) and was left as it is")
    require_possible(launcher_of(output), settings.steps)


@app.command("code-server")
def code_server(
    host: Annotated[str, typer.Option(help="The address to listen on; it has no login.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=1, max=65535, envvar=variable_of("code_server_port"), help="Where daemon and webserver ask it."
        ),
    ] = 4000,
    ready_file: Annotated[
        Path | None, typer.Option(help="Made when the server listens, and removed when it ends.")
    ] = None,
) -> None:
    """Serve the definitions to Dagster and start its runs until Ctrl-C or SIGTERM.

    A run's process is forked from a server that has the definitions loaded. After a change of the code start it again.
    """
    options = [
        *("--host", host, "--port", str(port)),
        *(["--ready-file", str(ready_file.absolute())] if ready_file is not None else []),
    ]
    # In place of this process, so that a signal reaches the server itself.
    os.execv(sys.executable, [sys.executable, "-m", "assets.code_server", *options])  # noqa: S606


@app.command()
def worker(
    slots: Annotated[
        int | None, typer.Option(min=1, envvar=variable_of("worker_slots"), help="Steps side by side; 2 by default.")
    ] = None,
    pool: Annotated[
        Literal["prefork", "solo"],
        typer.Option(help="`solo` for whole runs of the CeleryRunLauncher: one at a time, in this process."),
    ] = "prefork",
    ready_file: Annotated[
        Path | None, typer.Option(help="Made when the worker takes steps, and removed when it is asked to end.")
    ] = None,
) -> None:
    """Take steps of campaigns from Celery's broker until Ctrl-C or SIGTERM; any number, on any machine.

    For EMAIL_PLATFORM_STEPS=celery. A worker needs the settings, its provider accounts, and nothing on disk. Asked to
    end, it sees its calls in flight to their end and hands its steps on.
    """
    from email_platform.adapters.launchers import require_celery

    require_celery()
    options = [
        *(["--slots", str(slots)] if slots is not None else []),
        *("--pool", pool),
        *(["--ready-file", str(ready_file.absolute())] if ready_file is not None else []),
    ]
    # In place of this process, so that a signal reaches Celery itself.
    os.execv(sys.executable, [sys.executable, "-m", "assets.celery_worker", *options])  # noqa: S606
