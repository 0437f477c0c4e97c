"""What a command does when it cannot do what was asked of it.

Invariant: an expected failure ends in one sentence on standard error that names what to change, and an exit code of
`ExitCode`; never in a traceback. A traceback is a fault of ours.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from email_platform.cli.output import complain
from email_platform.errors import ConfigurationError, EmailPlatformError


class ExitCode(IntEnum):
    """How a command ends; `email-platform --help` shows the same list."""

    DONE = 0
    REFUSED = 1
    """It could not be done, or the answer is no: the message says why."""
    WRONG_USE = 2
    """A setting, an option or an argument is wrong: change it and run the command again."""
    NEEDS_OPERATOR = 3
    """Of `status` and `doctor`: everything works, and something waits for an operator."""


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 it could not be done, or the answer is no (a part does not fit, nothing runs, lines were "
    "rejected); 2 a setting, option or argument is wrong; 3 everything works and something waits for an operator "
    "(status, doctor); 128 + n ended by signal n before it had begun."
)


class CommandLine(TyperGroup):
    """The top of the command line: every command's expected failures come through here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn an expected failure into its sentence and exit code."""
        try:
            return super().invoke(ctx)
        except EmailPlatformError as failure:
            complain(str(failure))
            wrong_use = isinstance(failure, ConfigurationError)
            raise typer.Exit(ExitCode.WRONG_USE if wrong_use else ExitCode.REFUSED) from None
        except OSError as failure:
            # A file that the operator named; a reader that left (`… | head`) is click's to end in silence.
            if failure.filename is None or failure.errno == errno.EPIPE:
                raise
            complain(f"{failure.filename}: {failure.strerror}")
            raise typer.Exit(ExitCode.REFUSED) from None
