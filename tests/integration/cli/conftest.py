"""What commands find around them: the stack's settings as variables, a wide terminal, and a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from email_platform.settings import Settings


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For a command that an operator types."""
    for name, value in settings.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
