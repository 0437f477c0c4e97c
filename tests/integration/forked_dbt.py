"""dbt without its start: a server that has imported dbt and parsed the project forks a process for each command.

The start (imports, and reading what was parsed) takes dbt as long as the models of an empty warehouse, and the tests
run it some fifty times. Each command has a process of its own, as in production; what it prints is its own too.

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
from typing import Any


def run_dbt(
    arguments: Sequence[str], project: Path, target: Path, environment: Mapping[str, str]
) -> tuple[int, dict[str, str], str]:
    """Run dbt with nothing but this environment.

    Args:
        arguments: behind `dbt`, without folders.
        project: folder of the project, and of its profiles.
        target: folder for what dbt writes, its log included.
        environment: all of its variables.

    Returns:
        Its exit code, the status of each node by its id, and what it printed.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    folders = {"--project-dir": project, "--profiles-dir": project, "--target-path": target, "--log-path": target}
    request = {
        "arguments": [*arguments],
        "folders": [word for name, path in folders.items() for word in (name, str(path))],
        "environment": {**environment},
        "target": str(target),
    }
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    code = int(server.stdout.readline())
    statuses = json.loads((target / "statuses.json").read_text(encoding="utf-8"))
    return code, statuses, (target / "output.txt").read_text(encoding="utf-8")


@cache
def _server() -> subprocess.Popen[str]:
    """This process's own; it ends with it, since its input does."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve() -> None:
    """Fork for each line of the input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what parsing prints is no answer
    parsed: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        os.environ.clear()
        os.environ.update(request["environment"])
        key = os.environ["EMAIL_PLATFORM_DBT_SCHEMA"]  # the names of all relations begin with it
        if key not in parsed:
            parsed[key] = _parse(request)
        process_id = os.fork()
        if process_id == 0:
            os._exit(_be_dbt(request, parsed[key]))
        _, status = os.waitpid(process_id, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _parse(request: Mapping[str, Any]) -> Any:
    from dbt.cli.main import dbtRunner

    result = dbtRunner().invoke(["parse", "--quiet", "--no-write-json", *request["folders"]])
    if not result.success:
        raise RuntimeError("dbt cannot parse the project") from result.exception
    return result.result


def _be_dbt(request: Mapping[str, Any], parsed: Any) -> int:
    from dbt.cli.main import dbtRunner

    target = Path(request["target"])
    with Path(os.devnull).open("rb") as nothing, (target / "output.txt").open("wb") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    result = dbtRunner(manifest=parsed).invoke([*request["arguments"], *request["folders"]])
    found = getattr(result.result, "results", None) or []
    statuses = {one.node.unique_id: str(one.status) for one in found if hasattr(one, "node")}
    (target / "statuses.json").write_text(json.dumps(statuses), encoding="utf-8")
    if result.exception is not None:
        sys.stderr.write(f"{result.exception!r}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    return 0 if result.success else 1


if __name__ == "__main__":
    serve()
