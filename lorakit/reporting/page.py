"""One HTML file that needs nothing else: no scripts, no network, light and dark, for a screen of any width."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.reporting.page_style import STYLE
from lorakit.reporting.summary import Passage

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing but what is written in it."""


@dataclass(frozen=True)
class Picture:
    """A drawn figure. svg: the element as ``figures.as_svg`` gives it; alt: what it shows, for who does not see it."""

    title: str
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Numbers:
    """A table under its title: columns, and rows of text; the first column is of names, the others of numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What is on the page, from its top to its bottom.

    facts: (name, value) pairs; fold: (title, text) pairs that are shut at first; notice: a warning in a box, or nothing; command: what
    wrote it.
    """

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    passages: Sequence[Passage]
    parts: Sequence[Picture | Numbers]
    fold: Sequence[tuple[str, str]] = ()
    notice: str = ""
    command: str = "lorakit report"


def escape(text: str) -> str:
    """The text as HTML; a number stays on one line with its percent sign."""
    return html.escape(text).replace(" %", "&nbsp;%")


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped here; of a picture's svg, which lorakit drew itself, nothing is."""
    body = [
        f"<header><h1>{escape(page.title)}</h1><p class='muted'>{escape(page.subtitle)}</p></header>",
        f"<p class='notice' role='note'>{escape(page.notice)}</p>" if page.notice else "",
        facts(page.facts),
        "<section aria-label='Summary'>" + "".join(map(passage, page.passages)) + "</section>",
        *(picture(part) if isinstance(part, Picture) else numbers(part) for part in page.parts),
        *(
            f"<details><summary>{escape(title)}</summary><pre tabindex='0'>{escape(text)}</pre></details>"
            for title, text in page.fold
        ),
        f"<footer class='muted'>Written by {escape(page.command)}.</footer>",
    ]
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta name='color-scheme' content='light dark'>\n"
        f"<title>{escape(page.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """The key numbers."""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f"<dl class='facts'>{cells}</dl>"


def passage(words: Passage) -> str:
    """A heading and its sentences, as a list."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in words.sentences)
    return f"<h2>{escape(words.title)}</h2><ul>{items}</ul>"


def picture(drawn: Picture) -> str:
    """A figure with its heading and caption; on a screen below 20 rem it is moved sideways rather than shrunk beyond reading."""
    label = escape(drawn.alt)
    svg = drawn.svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return (
        f"<section><h2>{escape(drawn.title)}</h2><figure><div class='scroll' tabindex='0' role='group' "
        f'aria-label="{escape(drawn.title)}, figure">{svg}</div>'
        f"<figcaption class='muted'>{escape(drawn.caption)}</figcaption></figure></section>"
    )


def numbers(table: Numbers) -> str:
    """A table with its heading."""
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in table.rows
    )
    note = f"<p class='muted'>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<section><h2>{escape(table.title)}</h2><div class='scroll' tabindex='0' role='group' "
        f'aria-label="{escape(table.title)}, table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{note}</section>"
    )
