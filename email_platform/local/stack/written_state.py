"""What a supervisor wrote down of its parts, for other processes: which there are, and whose processes they are.

Invariant: a process's id alone is never believed; it may have been given to another one since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from email_platform.local.stack.state_folder import private
from email_platform.local.stack.supervisor import Supervisor

STATE_FILE = "stack.json"


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One line of the table.

    Attributes:
        process_id: None where the part does not run.
        started_at: when that process began, in seconds since 1970.
    """

    name: str
    address: str
    process_id: int | None
    data_folder: str
    log_file: str
    started_at: float | None = None


def statuses(state_folder: Path) -> list[PartStatus]:
    """The parts of this state folder as their supervisor last wrote them down, with their present processes."""
    found = []
    for each in read_state(state_folder):
        guard = process_of(each["guard_id"], each["guard_started_at"])
        try:
            children = guard.children() if guard is not None else []
        except psutil.NoSuchProcess:
            children = []
        own = min(children, key=lambda child: child.pid, default=None)
        process_id = None if own is None else own.pid
        data_folder = each["data_folder"] or ""
        found.append(
            PartStatus(each["name"], each["address"], process_id, data_folder, each["log_file"], _started_at(own))
        )
    return found


def write_state(state_folder: Path, supervisor: Supervisor) -> None:
    """Write down all parts with their guards; the file is replaced as a whole."""
    state = []
    for each in supervisor.started_parts():
        try:
            started_at = psutil.Process(each.guard_id).create_time()
        except psutil.NoSuchProcess:
            continue
        state.append(
            {
                "name": each.part.name,
                "address": each.part.address,
                "guard_id": each.guard_id,
                "guard_started_at": started_at,
                "data_folder": str(each.part.data_folder) if each.part.data_folder else None,
                "log_file": str(each.part.log_file),
            }
        )
    unfinished = state_folder / f"{STATE_FILE}.unfinished"
    with open(unfinished, "w", encoding="utf-8", opener=private) as file:
        file.write(json.dumps(state, indent=1))
    unfinished.replace(state_folder / STATE_FILE)


def read_state(state_folder: Path) -> Sequence[dict[str, Any]]:
    """What was written last; nothing where there is no file, or half of one."""
    try:
        state: list[dict[str, Any]] = json.loads((state_folder / STATE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return state


def _started_at(process: psutil.Process | None) -> float | None:
    try:
        return None if process is None else process.create_time()
    except psutil.NoSuchProcess:
        return None


def process_of(process_id: int, started_at: float) -> psutil.Process | None:
    """The process of this id, unless the id was given to another one since."""
    try:
        process = psutil.Process(process_id)
        return process if abs(process.create_time() - started_at) < 1.0 else None
    except psutil.NoSuchProcess:
        return None
