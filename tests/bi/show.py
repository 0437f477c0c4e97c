"""`make bi-show`: the dashboards in a Superset of their own, on the warehouse of the settings, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from email_platform.errors import EmailPlatformError
from email_platform.settings import Settings, state_folder_of

from tests.bi.superset import running_superset


def main() -> int:
    try:
        settings = Settings.load(state_folder=state_folder_of(os.environ))
    except EmailPlatformError as error:
        print(f"{error}; start a warehouse first, as with `make demo KEEP=1`", file=sys.stderr)
        return 1
    print("starting Superset; it takes a minute or two")
    with (
        tempfile.TemporaryDirectory(prefix="superset-") as folder,
        running_superset(Path(folder) / "home", settings.clickhouse_url.get_secret_value()) as superset,
    ):
        print(f"open {superset.url}/dashboard/list/ as {superset.user}, password {superset.password}")
        print("Ctrl-C ends it and removes what it made")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
