"""The folder of the embedded parts: their data, logs and secrets.

Invariant: the folder, and each file directly in it, can be read and changed by its owner alone.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from email_platform.errors import ConfigurationError
from email_platform.settings import variable_of


def make_state_folder(state_folder: Path) -> None:
    """Make the folder if it is missing, and whatever is there private.

    Raises:
        ConfigurationError: it cannot be made, or belongs to another user.
    """
    try:
        state_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as failure:
        raise ConfigurationError(
            f"cannot make the state folder {state_folder} ({failure.strerror}): set {variable_of('state_folder')}"
        ) from failure
    # One that was there may be open to others, who could read addresses and leads, or put files of their own into it.
    found = state_folder.stat()
    if found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"the state folder {state_folder} belongs to another user, who could read and change everything in it: set "
            f"{variable_of('state_folder')} to a folder of your own"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        state_folder.chmod(0o700)
    for file in state_folder.iterdir():
        # An earlier release's, or copied here: private by itself too, wherever it is moved or archived.
        if file.is_file() and not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            file.chmod(0o600)


def private(path: str, flags: int) -> int:
    """An opener for `open`: a new file is its owner's alone."""
    return os.open(path, flags, 0o600)
