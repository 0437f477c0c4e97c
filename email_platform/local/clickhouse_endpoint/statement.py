"""Reads as much of a statement as the HTTP protocol needs: its kind, its FORMAT clause, where an INSERT's data begins.

The invariant: quotes, comments and brackets are never mistaken for clauses, so text inside a string cannot change
how a statement is run. Text that is not recognised goes to the engine unchanged, and the engine judges it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_TOKEN = re.compile(
    rb"""
      (?P<blank>\s+|--[^\n]*\n?|//[^\n]*\n?|\#[!\ ][^\n]*\n?|/\*.*?\*/
        # Blanks beyond ASCII, the byte order mark among them, as the engine's lexer skips them.
        |\xc2[\x85\xa0]|\xe1\x9a\x80|\xe1\xa0\x8e|\xe2\x80[\x80-\x8f\xa8\xa9\xaf]|\xe2\x81[\x9f\xa0]
        |\xe3\x80\x80|\xef\xbb\xbf)
    | (?P<string>'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<heredoc>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    # A word may hold dollar signs, and then no heredoc begins in it.
    | (?P<word>[A-Za-z_$][\w$]*)
    | (?P<number>[0-9]\w*)
    | (?P<symbol>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)|(``)|(\"\")", re.DOTALL)
_ESCAPES = {
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"0": b"\0",
    b"a": b"\a",
    b"v": b"\v",
    b"N": b"",
}
_OPENING = (b"(", b"[", b"{")
_CLOSING = (b")", b"]", b"}")
# Behind these, an INSERT has its rows from elsewhere.
_WITHOUT_DATA = ("SELECT", "WITH", "FROM", "INFILE", "WATCH", "EXPLAIN", ";")
_BEGINS_A_LONGER_TOKEN = (b"'", b"`", b'"', b"$", b"/", b"-", b"#")
_READING = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "FROM", "VALUES", "("})


class Kind(Enum):
    """How a statement is run."""

    READ = "returns rows"
    INSERT = "inserts"
    SESSION = "changes the session that it runs in"
    OTHER = "anything else: DDL, KILL, OPTIMIZE"


@dataclass(frozen=True, slots=True)
class Token:
    """One word, literal or symbol; `depth` counts the brackets around it."""

    kind: str
    text: bytes
    start: int
    end: int
    depth: int

    @property
    def keyword(self) -> str:
        """The word in upper case; empty for anything that cannot be a keyword."""
        if self.kind == "word" or self.kind == "symbol":
            return self.text.decode("latin-1").upper()
        return ""

    @property
    def identifier(self) -> str:
        """The name that a word or a quoted identifier stands for; empty for anything else."""
        if self.kind == "word":
            return self.text.decode("latin-1")
        if self.kind == "quoted":
            return _ESCAPED.sub(_unescaped, self.text[1:-1]).decode("latin-1")
        return ""

    @property
    def is_beyond_ascii(self) -> bool:
        """Nothing that a statement needs outside quotes; the engine reads some, such as curly quotes, as ASCII."""
        return self.kind == "symbol" and self.text >= b"\x80"


@dataclass(frozen=True, slots=True)
class InsertHead:
    """An INSERT statement whose data follows it.

    Attributes:
        statement: the text before FORMAT or VALUES.
        format: the data's format.
        data_start: offset of the data's first byte.
    """

    statement: bytes
    format: str
    data_start: int


@dataclass(frozen=True, slots=True)
class OutputClause:
    """Where a reading statement's output is described.

    Attributes:
        format: the name after FORMAT, or None.
        insert_at: offset at which an INTO OUTFILE clause belongs.
        has_outfile: the statement writes a file of its own accord.
        has_totals: the output may have parts besides its rows.
        more_statements: another statement follows, which the protocol does not allow.
    """

    format: str | None
    insert_at: int
    has_outfile: bool
    has_totals: bool
    more_statements: bool


class IncompleteStatementError(Exception):
    """The bytes at hand end before the question is answered."""


def _unescaped(found: re.Match[bytes]) -> bytes:
    """What an escape inside a quoted identifier stands for (ClickHouse's documentation, Syntax, "String")."""
    escape = found[1]
    if escape is None:
        return found.group()[:1]
    return bytes.fromhex(escape[1:].decode()) if len(escape) == 3 else _ESCAPES.get(escape, escape)


def tokens(text: bytes) -> Iterator[Token]:
    """Yield the tokens of a statement, without blanks and comments."""
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "symbol"
        if kind == "tag":
            kind = "heredoc"
        if kind == "blank":
            continue
        found = match.group()
        if found in _CLOSING:
            depth = max(0, depth - 1)
        yield Token(kind, found, match.start(), match.end(), depth)
        if found in _OPENING:
            depth += 1


def is_statement(text: bytes) -> bool:
    """Whether the text can be a statement at all: its first token is a word or a bracket.

    The engine answers bytes that begin with no token of its language (a compressed body whose Content-Encoding was
    lost), and nothing but blanks and comments, with an empty result, as if they had been run.
    """
    first = next(tokens(text), None)
    return first is not None and (first.kind == "word" or first.text == b"(")


def kind_of(text: bytes) -> Kind:
    """Return how a statement is run, judged by its first words."""
    words: list[str] = []
    for token in tokens(text):
        if token.depth == 0 or not words:
            words.append(token.keyword)
        # WITH stands before INSERT INTO as well as before SELECT.
        if words[0] != "WITH" and len(words) == 2:
            break
        if words[-2:] == ["INSERT", "INTO"]:
            return Kind.INSERT
    first = words[0] if words else ""
    if first in _READING:
        return Kind.READ
    if first == "INSERT":
        return Kind.INSERT
    if first in ("SET", "USE") or words[:2] == ["CREATE", "TEMPORARY"]:
        return Kind.SESSION
    return Kind.OTHER


def insert_head(text: bytes, *, whole: bool) -> InsertHead | None:
    """Return where an INSERT's data begins, or None for a statement that carries no data.

    Args:
        text: the beginning of the statement.
        whole: nothing follows `text`.

    Raises:
        IncompleteStatementError: more text is needed (never when `whole`).
    """
    # Of "insert into [table|function] [database.]name ...", what has been read so far.
    state = "insert"
    format_word: Token | None = None
    for token in tokens(text):
        if not whole and (token.end == len(text) or token.text in _BEGINS_A_LONGER_TOKEN):
            raise IncompleteStatementError
        if format_word is not None:
            return InsertHead(text[: format_word.start], token.text.decode("latin-1"), _data_start(text, token.end))
        word = token.keyword
        if state == "insert" and word != "INSERT":
            return None
        if state != "named":
            state = _after(state, word)
        elif token.depth == 0:
            if word == ".":
                state = "dotted"
            elif word == "FORMAT":
                format_word = token
            elif word == "VALUES":
                return InsertHead(text[: token.start], "Values", token.end)
            elif word in _WITHOUT_DATA:
                return None
    if not whole:
        raise IncompleteStatementError
    return None


def _after(state: str, word: str) -> str:
    """The state behind a word, while the table's name is not complete."""
    if state == "insert":
        return "into"
    return "into" if state == "into" and word in ("INTO", "TABLE", "FUNCTION") else "named"


def _data_start(text: bytes, position: int) -> int:
    """Skip what ClickHouse's parser skips after a format's name: blanks and one line end."""
    while text[position : position + 1] in (b" ", b"\t", b"\f"):
        position += 1
    if text[position : position + 1] == b"\r":
        position += 1
    if text[position : position + 1] == b"\n":
        position += 1
    return position


def output_clause(text: bytes) -> OutputClause:
    """Return where and how a reading statement describes its output."""
    level = [token for token in tokens(text) if token.depth == 0]
    while level and level[-1].text == b";":
        level.pop()
    end = level[-1].end if level else 0
    words = [token.keyword for token in level]
    insert_at, name = end, None
    for index in range(len(level) - 2, 0, -1):
        if words[index] == "FORMAT" and level[index + 1].kind == "word" and level[index - 1].text not in (b",", b"."):
            following = words[index + 2] if index + 2 < len(words) else "SETTINGS"
            if following == "SETTINGS":
                insert_at, name = level[index].start, level[index + 1].text.decode("latin-1")
            break
    return OutputClause(name, insert_at, "OUTFILE" in words, bool({"TOTALS", "EXTREMES"} & {*words}), ";" in words)


def quote(text: str) -> str:
    """Return a text as an SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_identifier(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


# clickhouse-connect asks so, to see whether the version that it names is honoured: it reads the answer's bytes and
# stays with version 0 where no head is before them (driver/client.py of 0.15, driver/_backend/orchestration.py of
# 1.12). Before 1.0, the releases that Apache Superset 6.1 asks for, it cannot connect where the question is refused.
_PROTOCOL_QUESTION = (b"SELECT", b"1", b"AS", b"CHECK", b"FORMAT", b"NATIVE")


def asks_for_the_version(statement: bytes) -> bool:
    """Whether it is the question by which a client sees whether the protocol version that it names is honoured."""
    return tuple(token.text.upper() for token in tokens(statement)) == _PROTOCOL_QUESTION
