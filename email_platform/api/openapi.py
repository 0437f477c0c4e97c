"""Writes the OpenAPI document: ``python -m email_platform.api.openapi FILE``; a test compares the file with it."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

from email_platform.api.app import create_app
from email_platform.api.services import Services


def openapi_text() -> str:
    """The document as the file has it."""
    app = create_app(lambda: cast("AbstractContextManager[Services]", nullcontext()))
    return json.dumps(app.openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(openapi_text(), encoding="utf-8")
