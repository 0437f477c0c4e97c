"""A closed name is refused however it is written: statements put together at random from what the engine's lexer knows.

What the kernel refuses as well would not show: so an answer that the engine could not open the file counts as a miss.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.clickhouse_process import running

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BEGINNINGS = (
    *("", "1, ", "$$a$$, ", "x$$, ", "'a\\'', ", '"a\\"", ', "`a``b`, ", "\"a''b\", ", "$a$ $$ $a$, ", "/* */ "),
    *("1$$, ", "1a$, ", "0x1$$, ", "'a\\\\', ", "\u2018a\u2019, ", "\u2018a', ", '\u201ca", ', "1.$$, ", "_$$, "),
    *("1e$$, ", "1 as `$$`, ", "'$$', ", '1 as "$$", ', "--$$\n ", "1 as \u00e9, ", "$\u00e9$, ", "$1$ x $1$, "),
    *("$ $, ", "b'01', ", "x'66', ", "N'a', ", "//$$\n"),
)
NAMES = (
    *("file", "FILE", "`file`", '"file"', '"\\x66ile"', "`f\\ile`", "\u201cfile\u201d", "fi\\le", "`fi``le`"),
    *('"f\\x69le"', "file$", "$file", '"fil\\e"', "'file'", "file\u200b", "{file}", "default.file", '"\\146ile"'),
    *('"file\\N"', "`\\Nfile`", "`file\\0`"),
)
BLANKS = (
    *("", " ", "\n", "/**/", "/*/**/", "--x\n", "# x\n", "#!x\n", "//x\n", "\u00a0", "\u2028", "\u180e", "\u0085"),
    *("\u200e", "\u2060", "\ufeff", "\x0b", "\x0c", "\\", "\x00", "$$", "$a$", "\u3000", "\u205f", "\u1680"),
    *("/*x", "*/", "\u2212\u2212x\n", "\x1c"),
)
ENDS = ("", " from system.one", ", $$ b $$", " $$", ", 'x'", " as y$$", " /* ", " --", ', "x"', " \u201c", " as `z$$`")


def test_no_way_of_writing_a_closed_name_gets_as_far_as_the_file(tmp_path: Path) -> None:
    secret = tmp_path / "credentials"
    secret.write_text("what-only-the-file-holds")
    chance = random.Random(20261128)
    with running(tmp_path / "data") as endpoint:
        for _ in range(400):
            blanks = "".join(chance.choices(BLANKS, k=chance.choice((1, 1, 2))))
            name, end = chance.choice(NAMES), chance.choice(ENDS)
            statement = f"select {chance.choice(BEGINNINGS)}{name}{blanks}('{secret}'){end}"
            _, _, answer = endpoint.ask(body=statement.encode(chance.choice(("utf-8", "utf-8", "latin-1")), "replace"))
            assert b"what-only-the-file-holds" not in answer, statement
            assert b"Cannot open file" not in answer, statement
        assert endpoint.ask(query="select 1")[2] == b"1\n"
