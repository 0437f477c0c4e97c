"""docs/api.md is true: its lines, run as they stand there by a shell with curl."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.api.conftest import Api

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[3] / "docs" / "api.md"


@pytest.mark.slow
def test_every_line_of_the_page_does_what_it_says(api: Api) -> None:
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    environment = {
        **api.settings.variables(),
        "API": api.url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shown = ended.stdout
    assert '"added":1' in shown
    assert '"subject":"[Test] Hello Ada"' in shown
    assert '"status":"draft","version":2' in shown
    assert '"waits_for":"time"' in shown
    assert '"status_reason":"the sale is off"' in shown
    assert "event: end" in shown
    assert '"verdict":"not_frozen"' in shown
    assert '"reason":"complaint"' in shown
    assert '"path":"/v1/suppressions","status":201' in shown
