"""dbt without its start: a server that has imported it forks a process for each command.

An interpreter that imports dbt takes two to three seconds of processor, as much as the models of an empty warehouse; the
tests run dbt some fifty times. Each command has a process of its own, as in production; what it prints is its own too.

`python tests/integration/forked_dbt.py` is the server: a line of JSON to its input for each command, the exit code in a
line of its output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path


def run_dbt(arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> int:
    """Run dbt with these arguments and nothing but this environment; returns its exit code.

    Args:
        arguments: behind `dbt`.
        environment: all of its variables.
        output: the file that gets what it prints, both streams.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    request = {"arguments": [*arguments], "environment": {**environment}, "output": str(output)}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@cache
def _server() -> subprocess.Popen[str]:
    """This process's own; it ends with it, since its input does."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve() -> None:
    """Fork for each line of the input until it ends."""
    import dbt.adapters.clickhouse
    import dbt.cli.main  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        process_id = os.fork()
        if process_id == 0:
            os._exit(_be_dbt(request))
        _, status = os.waitpid(process_id, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def _be_dbt(request: Mapping[str, object]) -> int:
    from dbt.cli.main import cli

    with open(os.devnull, "rb") as nothing, open(str(request["output"]), "wb") as output:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    try:
        cli(request["arguments"], prog_name="dbt")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 2
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
