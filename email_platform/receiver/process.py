"""How each of our serving processes begins and ends: its log, and a wrong setting as a sentence."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence

from email_platform.errors import ConfigurationError

_logger = logging.getLogger(__name__)


def run_process(
    parse: Callable[[Sequence[str] | None], argparse.Namespace],
    serve: Callable[[argparse.Namespace, int], None],
    arguments: Sequence[str] | None,
) -> int:
    """Run until asked to stop; return the exit code: 0 after a clean stop, 2 for a wrong setting.

    Args:
        parse: reads the arguments.
        serve: serves until asked to stop; gets the options and the parent's id as read at the very start.
        arguments: of the command line; None for those of this process.
    """
    original_parent = os.getppid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "botocore", "boto3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    options = parse(arguments)
    try:
        serve(options, original_parent)
    except ConfigurationError as refusal:
        _logger.error("%s", refusal)
        return 2
    return 0
