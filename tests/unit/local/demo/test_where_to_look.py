"""Does the demo end with addresses that work, and say what ends with it?"""

from __future__ import annotations

from pathlib import Path

from email_platform.local.demo.run import second_terminal_lines, summary_lines
from email_platform.settings import Settings

SETTINGS = Settings.checked(
    {
        "state_folder": "/tmp/x",
        "postgres_url": "postgresql://u:p@127.0.0.1:1/x",
        "clickhouse_url": "http://u:p@127.0.0.1:1/x",
        "s3_bucket": "bucket",
        "unsubscribe_secret": "0123456789abcdef",
        "api_port": 4321,
        "dagster_port": 4322,
    }
)


def test_the_end_names_report_console_and_a_command_and_what_ends_with_the_demo() -> None:
    lines = summary_lines(SETTINGS, 12.3, Path("/tmp/x/report.html"), keeps_running=False)
    shown = "\n".join(lines)
    for expected in (
        "file:///tmp/x/report.html",
        "http://127.0.0.1:4321/",
        "http://127.0.0.1:4322/",
        "email-platform ",
    ):
        assert expected in shown
    assert shown.count("make up") == 2
    kept = summary_lines(SETTINGS, 12.3, Path("/tmp/x/report.html"), keeps_running=True)
    assert not [line for line in kept if "make up" in line]


def test_there_is_something_to_type_meanwhile() -> None:
    assert any("status --watch" in line for line in second_terminal_lines(SETTINGS))
