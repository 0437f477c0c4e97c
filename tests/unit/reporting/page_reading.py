"""Reads a report's page as a screen reader would: the tables by section, and what the page refers to."""

from __future__ import annotations

from html.parser import HTMLParser


class PageText(HTMLParser):
    """The page's tables and attributes.

    Attributes:
        tables: rows of texts by the section's id, without the headings.
        texts: every text that is shown.
        tags: every element with its attributes.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._section = ""
        self._in_cell = self._in_body = False

    @classmethod
    def of(cls, html: str) -> PageText:
        page = cls()
        page.feed(html)
        page.close()
        return page

    def row(self, section: str, label: str) -> list[str]:
        [row] = [row for row in self.tables[section] if row[0] == label]
        return row

    def sum(self, section: str, column: int) -> int:
        return sum(int(row[column].replace(",", "")) for row in self.tables[section])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "section":
            self._section = given["aria-labelledby"] or ""
        elif tag == "tbody":
            self._in_body = True
            self.tables[self._section] = []
        elif tag == "tr" and self._in_body:
            self.tables[self._section].append([])
        elif tag in ("td", "th") and self._in_body:
            self._in_cell = True
            self.tables[self._section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self._in_body = False
        elif tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_cell:
            self.tables[self._section][-1][-1] += data
