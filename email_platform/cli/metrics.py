"""`email-platform metrics …`: the figures that Prometheus watches.

Invariant: nothing here changes anything.
"""

from __future__ import annotations

from typing import Annotated

import typer

from email_platform.settings import variable_of

app = typer.Typer(no_args_is_help=True, help="Serve the figures that Prometheus watches.")


@app.callback()
def main() -> None:
    """Serve the figures that Prometheus watches."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; there is no login.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, envvar=variable_of("metrics_port"), help="Where Prometheus asks.")
    ] = 18090,
) -> None:
    """Answer Prometheus at /metrics until Ctrl-C; Dagster's part needs DAGSTER_HOME."""
    from email_platform.metrics import __main__ as server

    raise typer.Exit(server.main(["--host", host, "--port", str(port)]))
