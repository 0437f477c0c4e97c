"""No module and no definition grows past what one sitting can read, unless it says in its docstring why it must."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FOLDERS = ("email_platform", "assets", "sensors", "resources", "bench")
MODULE_LINES = 400
DEFINITION_LINES = 150
# A line of the module's or the definition's own docstring, with a reason behind it.
REASON = re.compile(r"^\s*Length: \S.{9,}", re.MULTILINE)


def too_long(path: Path, text: str) -> dict[str, int]:
    """What in a module is over its limit and gives no reason, with its lines."""
    tree = ast.parse(text)
    found: dict[str, int] = {}
    lines = len(text.splitlines())
    if lines > MODULE_LINES and not has_reason(tree):
        found[str(path)] = lines
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            length = (node.end_lineno or node.lineno) - first + 1
            if length > DEFINITION_LINES and not has_reason(node):
                found[f"{path}::{node.name}"] = length
    return found


def has_reason(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return bool(REASON.search(ast.get_docstring(node) or ""))


def modules() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py"))


def test_no_module_and_no_definition_is_too_long_without_a_reason() -> None:
    found: dict[str, int] = {}
    for path in modules():
        found |= too_long(path.relative_to(PROJECT), path.read_text(encoding="utf-8"))
    assert len(modules()) > 150, "the folders were found"
    named = [f"{name}: {lines} lines" for name, lines in found.items()]
    assert not named, "split these, or give the reason in the docstring ('Length: ...'):\n" + "\n".join(named)


LONG_BODY = "\n".join(["    x = 1"] * DEFINITION_LINES)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("x = 1\n" * MODULE_LINES, 0),
        ("x = 1\n" * (MODULE_LINES + 1), 1),
        ('"""Much.\n\nLength: one statement for each of the many."""\n' + "x = 1\n" * MODULE_LINES, 0),
        ('"""Much.\n\nLength:"""\n' + "x = 1\n" * MODULE_LINES, 1),
        (f"def f():\n{LONG_BODY}\n", 1),
        (f"class A:\n{LONG_BODY}\n", 1),
        (f"async def f():\n{LONG_BODY}\n", 1),
        (f'def f():\n    """It.\n\n    Length: one branch for each format.\n    """\n{LONG_BODY}\n', 0),
        (f"@d\ndef f():\n{LONG_BODY.removesuffix(chr(10) + '    x = 1')}\n", 1),
    ],
)
def test_the_measure_counts_lines_and_takes_a_reason(text: str, count: int) -> None:
    assert len(too_long(Path("m.py"), text)) == count
