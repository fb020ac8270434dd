"""Reads a page as a browser would, to see whether it is well formed and what it would load."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """text: all that is shown; loads: every address that a browser would follow by itself; tags: how often each stands there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.loads: list[str] = []
        self.tags: dict[str, int] = {}
        self.labels: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
                self.loads.append(value)
            elif name == "aria-label":
                self.labels.append(value)
            elif name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data.replace("\N{NO-BREAK SPACE}", " "))


def read_page(page: str | Path) -> Reader:
    """The page, parsed to its end."""
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8") if isinstance(page, Path) else page)
    reader.close()
    assert reader.open == []
    return reader


def loads_nothing(reader: Reader) -> bool:
    """Whether all that the page refers to is in it, and it runs nothing."""
    return "script" not in reader.tags and all(address.startswith(("#", "data:image/")) for address in reader.loads)
