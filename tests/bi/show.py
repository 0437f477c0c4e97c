"""`make bi-show`: the dashboards in a Superset of their own, on the warehouse of the settings, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from email_platform.errors import EmailPlatformError
from email_platform.settings import Settings, state_folder_of
from tests.bi.superset import running_superset

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    try:
        settings = Settings.load(state_folder=state_folder_of(os.environ))
    except EmailPlatformError as error:
        Console(stderr=True).print(f"{error}; start a warehouse first, as with `make demo KEEP=1`", markup=False)
        return 1
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    console.print("starting Superset; it takes a minute or two")
    with (
        tempfile.TemporaryDirectory(prefix="superset-") as folder,
        running_superset(Path(folder) / "home", settings.clickhouse_url.get_secret_value()) as superset,
    ):
        console.print(f"open {superset.url}/dashboard/list/ as {superset.user}, password {superset.password}")
        console.print("Ctrl-C ends it and removes what it made")
        while not stopped.wait(1):  # a signal that another thread gets ends no wait without a limit
            pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
