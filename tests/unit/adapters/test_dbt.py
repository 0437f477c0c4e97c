"""dbt finds what it parsed before, wherever the build before had its folder."""

from __future__ import annotations

import os
from pathlib import Path

from email_platform.adapters.dbt import newest_parse


def kept(folder: Path, at_seconds: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "partial_parse.msgpack"
    path.write_bytes(b"")
    os.utime(path, (at_seconds, at_seconds))
    return path


def test_the_newest_parse_is_taken_of_the_project_s_folder_and_of_each_build_s(tmp_path: Path) -> None:
    assert newest_parse(tmp_path / "none", tmp_path) is None
    by_hand = kept(tmp_path, 10)
    of_a_build = kept(tmp_path / "dbt_report_models-1", 20)
    kept(tmp_path / "dbt_report_models-2", 15)
    (tmp_path / "dbt_report_models-3").mkdir()
    assert newest_parse(tmp_path) == of_a_build
    os.utime(by_hand, (30, 30))
    assert newest_parse(tmp_path / "none", tmp_path) == by_hand
