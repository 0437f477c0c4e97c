"""No module changes the environment of its process, which every thread, step and child process of it reads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FOLDERS = ("email_platform", "assets", "sensors", "resources")
# It takes a secret out of its own process, whose SQL engine has children and functions that read the environment.
ALLOWED = {"email_platform/local/clickhouse_endpoint/__main__.py"}
_CHANGES = {"update", "setdefault", "pop", "popitem", "clear", "__setitem__", "__delitem__"}


def _is_environ(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in ("os.environ", "environ")


def changes_of_the_environment(text: str) -> list[int]:
    """The lines of a module that change ``os.environ``."""
    names_environ = "os.environ" in text or "import environ" in text
    lines = []
    for node in ast.walk(ast.parse(text)) if names_environ or "putenv" in text or "unsetenv" in text else ():
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _CHANGES and _is_environ(value):
                lines.append(node.lineno)
            case ast.Call(func=ast.Attribute(attr="putenv" | "unsetenv")):
                lines.append(node.lineno)
            case ast.Subscript(value=value, ctx=ast.Store() | ast.Del()) if _is_environ(value):
                lines.append(node.lineno)
            case ast.AugAssign(target=target) if _is_environ(target):
                lines.append(node.lineno)
    return lines


def test_no_module_changes_the_environment_of_its_process() -> None:
    paths = [path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))]
    found = {str(path.relative_to(PROJECT)): changes_of_the_environment(path.read_text("utf-8")) for path in paths}
    assert {name for name, lines in found.items() if lines} == ALLOWED


@pytest.mark.parametrize(
    "change",
    [
        "os.environ.update(a=1)",
        "os.environ['a'] = '1'",
        "del os.environ['a']",
        "os.environ |= {'a': '1'}",
        "os.environ.setdefault('a', '1')",
        "os.putenv('a', '1')",
    ],
)
def test_each_way_to_change_it_is_seen(change: str) -> None:
    assert changes_of_the_environment(f"import os\n{change}\n") == [2]
    assert changes_of_the_environment("import os\nvariables = {**os.environ}\nvariables['a'] = '1'\n") == []
