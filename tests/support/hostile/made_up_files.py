"""Data files of every kind as strategies: right ones with what they hold, and right ones with something broken."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

Rows = list[tuple[str, str]]
"""Text and label of each row."""

LETTERS = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
ODD = [
    "\ufeff",
    "\u2028",
    "\x0b",
    "\x1c",
    "\x85",
    "\u200b",
    "\U0001f600",
    "\u0301",
    "\ufffd",
    '"',
    ",",
    "\t",
    "'",
    "\\",
    "\r",
    "\n",
]
TEXTS = st.text(st.sampled_from([*"ab 1", *ODD]) | LETTERS, max_size=12)
LINES = st.text(st.sampled_from([*"ab 1,", *ODD[:11]]) | LETTERS, max_size=12).map(
    lambda text: text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
)
LABELS = st.sampled_from(["no", "yes", "1", "0", "-1", "nan", " no ", "", "\u2028", "a,b", 'say "x"', "1.0"])


def tables(texts: st.SearchStrategy[str] = TEXTS, labels: st.SearchStrategy[str] = LABELS) -> st.SearchStrategy[Rows]:
    """Rows of any text and label, blank ones among them."""
    return st.lists(st.tuples(texts, labels), min_size=1, max_size=8)


def as_csv(rows: Rows, separator: str = ",") -> bytes:
    """RFC 4180, every field quoted: a bare blank line would be no row."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *rows])
    return file.getvalue().encode()


def as_tsv(rows: Rows) -> bytes:
    """Without quoting: for texts without tabs and line breaks."""
    return "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows]).encode()


def as_jsonl(rows: Rows) -> bytes:
    """One object a line."""
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()


def as_json(rows: Rows, before: str = "", after: str = "") -> bytes:
    """An array of objects, each on a line of its own."""
    lines = ",".join("\n" + json.dumps({"text": text, "label": label}) for text, label in rows)
    return f"{before}[{lines}\n]{after}".encode()


def as_parquet(rows: Rows) -> bytes:
    """Two columns of text."""
    return parquet_of(text=[text for text, _ in rows], label=[label for _, label in rows])


def parquet_of(**columns: Any) -> bytes:
    """A parquet file's bytes."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def zipped(content: bytes, name: str = "rows.csv") -> bytes:
    """An archive of one file, with what macOS puts beside it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"data/{name}", content)
        archive.writestr(f"__MACOSX/data/._{name}", b"junk")
    return file.getvalue()


@dataclass(frozen=True)
class Kind:
    """How files of one kind are made: texts that they can hold, rows as bytes, and what is done to those bytes afterwards."""

    texts: st.SearchStrategy[str]
    plain: Callable[[Rows], bytes]
    pack: Callable[[bytes], bytes] = bytes

    def write(self, rows: Rows) -> bytes:
        """The file."""
        return self.pack(self.plain(rows))


KINDS = {
    "csv": Kind(TEXTS, as_csv),
    "tsv": Kind(LINES, as_tsv),
    "jsonl": Kind(TEXTS, as_jsonl),
    "parquet": Kind(TEXTS, as_parquet),
    "json": Kind(TEXTS, as_json),
    "wrapped.json": Kind(TEXTS, partial(as_json, before='{"version": [1], "rows": ', after=', "more": {"a": 1}}')),
    "lines.json": Kind(TEXTS, as_jsonl),
    "semicolons.csv": Kind(TEXTS, partial(as_csv, separator=";")),
    "bars.csv": Kind(TEXTS, partial(as_csv, separator="|")),
    "tabs.csv": Kind(TEXTS, partial(as_csv, separator="\t")),
    "utf16.csv": Kind(TEXTS, as_csv, lambda content: content.decode().encode("utf-16")),
    "utf16be.json": Kind(TEXTS, as_json, lambda content: b"\xfe\xff" + content.decode().encode("utf-16-be")),
    "csv.gz": Kind(TEXTS, as_csv, partial(gzip.compress, mtime=0)),
    "tsv.bz2": Kind(LINES, as_tsv, bz2.compress),
    "jsonl.xz": Kind(TEXTS, as_jsonl, lzma.compress),
    "zip": Kind(TEXTS, as_csv, zipped),
    "parquet.zip": Kind(TEXTS, as_parquet, partial(zipped, name="rows.parquet")),
}
"""By the end of a file's name."""

PIECES = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r\n",
        b"\n",
        b"\r",
        b"\n\n",
        b'"',
        b'""',
        b",",
        b"\t",
        b"{",
        b"}",
        b"[" * 3000,
        b"NaN",
        b"null",
        b"\\ud800",
        b'"text":1,',
        b"9" * 5000,
        b"text",
        b"label",
        b"x" * 200_000,
        b"",
    ]
) | st.binary(max_size=6)


@st.composite
def broken(draw: st.DrawFn, kind: str) -> bytes:
    """A file of this kind with a few bytes put in, taken out or cut off."""
    content = KINDS[kind].write(draw(tables(KINDS[kind].texts)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.sampled_from([start, start + 1, start + 4, len(content)]))
        content = content[:start] + draw(PIECES) + content[end:]
    return content


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["yes", "no", 10**30]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
KEYS = st.sampled_from(["text", "label", "text", "label", "other", ""])
OBJECTS = st.lists(st.lists(st.tuples(KEYS, VALUES), max_size=4), min_size=1, max_size=5)


def jsonl_of(objects: list[list[tuple[str, Any]]]) -> bytes:
    """Objects as written by hand: keys may be there twice, and surrogates may be halves."""
    lines = (
        "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}" for pairs in objects
    )
    return "\n".join(lines).encode()
