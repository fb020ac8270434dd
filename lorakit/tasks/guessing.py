"""Which columns of somebody's file hold the texts and the labels: by their names where they tell, else by what is in them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lorakit.errors import DataError
from lorakit.tasks.columns import SCALARS
from lorakit.tasks.labels import FRACTION, INTEGER, MANY, written
from lorakit.tasks.rows import Columns
from lorakit.tasks.stored_rows import Source
from lorakit.tasks.table import CHUNK, SHOWN_COLUMNS, clipped, no_column

LOOKED_AT = 20_000  # rows
FEW = 20  # different numbers that may be classes, grades say
TEXT_NAMES = (
    *("text", "sentence", "review", "content", "body", "comment", "tweet", "message", "document", "utterance", "post"),
    *("question", "query", "description", "abstract", "article", "title", "headline", "input"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "category", "target", "sentiment", "verdict", "intent", "topic", "polarity", "y"),
    *("rating", "stars", "grade", "score", "tag", "output"),
)
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2")),
    *(("text_a", "text_b"), ("sentence_a", "sentence_b"), ("text", "text_pair"), ("question", "sentence")),
)
NO_LABELS = ("id", "idx", "index", "uuid", "guid", "key", "")


@dataclass(frozen=True)
class Profile:
    """What is in a column. rows: of them looked at; texts: values that are text with letters; words: of these, the mean number;
    values: different ones as labels, ``None`` where a value could be none; numbers: whether all of those are numbers; lists: whether
    each value is a list, as several labels are.
    """

    name: str
    rows: int
    texts: int
    words: float
    values: frozenset[str] | None
    numbers: bool
    lists: bool

    @property
    def fractions(self) -> bool:
        """Whether the values are numbers of which some have a fraction."""
        return self.numbers and any(FRACTION.fullmatch(value) for value in self.values or ())

    @property
    def classes(self) -> bool:
        """Whether the values could be classes: few, and most of them met more than once."""
        return self.values is not None and 2 <= len(self.values) <= min(MANY, self.rows / 2) and not self.fractions

    @property
    def amounts(self) -> bool:
        """Whether the values are numbers to predict rather than classes."""
        return self.numbers and (self.fractions or len(self.values or ()) > FEW)


@dataclass(frozen=True)
class Guess:
    """The columns of a task. text: one or two; label: None where columns of 0 and 1 are given; regression: the label is a number to
    predict; multi_label: it is a list of labels; told: why these, a sentence each; rows: how many there are; characters: of the texts,
    the length that 98 of 100 keep within.
    """

    text: tuple[str, ...]
    label: str | None
    regression: bool
    multi_label: bool
    rows: int
    characters: int
    told: list[str] = field(default_factory=list)


def guess_columns(
    source: Source,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    label_columns: Sequence[str] = (),
) -> Guess:
    """The columns of texts and labels; those that are given are taken. Raises DataError with the choices where several would do.

    label_columns: of 0 and 1, one for each of several labels a row, in place of the label.
    """
    columns, rows = sample(source)
    for name, key in ((text, "task.text"), (text_pair, "task.text_pair"), (label, "task.label")):
        if name is not None and name not in columns:
            raise no_column(source.name, name, columns, key)
    if not rows:
        raise DataError("the file has a header but no rows", where=source.name)
    profiles = {name: profile(name, values) for name, values in columns.items()}
    told: list[str] = []
    texts = tuple(filter(None, (text, text_pair)))
    if not text:
        texts = find_texts(source, profiles, label)
        told.append(f"texts: {' and '.join(map(quoted, texts))}")
    if label is None and not label_columns:
        label = find_label(source, profiles, texts)
        if not text:
            refuse_row_as_header(source, texts, profiles[label])
        told.append(f"labels: {quoted(label)}")
    left = [name for name in columns if name not in (*texts, label, *label_columns)]
    if told and left:
        told.append(f"not used: {', '.join(map(quoted, left[:SHOWN_COLUMNS]))}")
    lengths = sorted(len(value) for name in texts for value in columns[name] if isinstance(value, str))
    longest = lengths[int(0.98 * (len(lengths) - 1))] * len(texts) if lengths else 0
    found = None if label is None else profiles[label]
    return Guess(texts, label, bool(found and found.amounts), bool(found and found.lists), rows, longest, told)


def sample(source: Source) -> tuple[dict[str, list[Any]], int]:
    """The values of every column in the first LOOKED_AT rows, and how many rows there are."""
    first = next(iter(source.tables(Columns(("",), "", label_optional=True))))
    names = tuple(first.names)
    tables = source.tables(Columns(("",), "", label_optional=True, others=names))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    rows = 0
    for table in tables:
        if rows < LOOKED_AT:
            for name in names:
                columns[name] += table.columns.get(name, [None] * len(table))
        rows += len(table)
    return columns, rows


def profile(name: str, values: Sequence[Any]) -> Profile:
    """What is in a column of these values."""
    texts = [value for value in values if isinstance(value, str) and any(map(str.isalpha, value))]
    words = sum(len(text.split()) for text in islice(texts, CHUNK)) / max(1, min(len(texts), CHUNK))
    different: set[str] | None = None
    if all(isinstance(value, SCALARS) for value in values):
        different = {label for value in values if (label := written(value)) is not None}
    numbers = bool(different) and all(
        INTEGER.fullmatch(value) or FRACTION.fullmatch(value) for value in different or ()
    )
    lists = all(isinstance(value, list) for value in values)
    return Profile(
        name, len(values), len(texts), words, None if different is None else frozenset(different), numbers, lists
    )


def find_texts(source: Source, profiles: dict[str, Profile], label: str | None) -> tuple[str, ...]:
    """The column of texts, or the two of pairs: by name, else the one with the longest texts, where it is clearly that."""
    able = {name: found for name, found in profiles.items() if name != label and found.texts > found.rows / 2}
    for first, second in PAIRS:
        names = [name for known in (first, second) for name in able if name.lower() == known]
        if len(names) == 2:
            return tuple(names)
    if named := first_named(TEXT_NAMES, able):
        return (named,)
    able = {name: found for name, found in able.items() if found.words > 1 or not found.classes}
    ordered = sorted(able, key=lambda name: -able[name].words)
    if not ordered:
        raise unclear(source, "holds texts", "text", list(profiles))
    if len(ordered) > 1 and able[ordered[1]].words > able[ordered[0]].words / 2:
        raise unclear(source, "holds the texts", "text", ordered)
    return (ordered[0],)


def find_label(source: Source, profiles: dict[str, Profile], texts: tuple[str, ...]) -> str:
    """The column of labels: by name, else the only one whose values could be classes."""
    able = {name: found for name, found in profiles.items() if name not in texts and name.lower() not in NO_LABELS}
    if named := first_named(LABEL_NAMES, {name: found for name, found in able.items() if found.values or found.lists}):
        return named
    classes = [name for name, found in able.items() if found.classes or found.lists]
    if len(classes) == 1:
        return classes[0]
    if not classes:
        raise unclear(
            source, "holds labels: two to fifty different values, each in several rows", "label", list(profiles)
        )
    raise unclear(
        source, "holds the labels", "label", classes, several=[name for name in classes if binary(able[name])]
    )


def refuse_row_as_header(source: Source, texts: Sequence[str], label: Profile) -> None:
    """DataError where the names of the columns look like a row: the first row of a file without a header would be lost."""
    if (written(label.name) or "") in (label.values or ()) and all(" " in name.strip() for name in texts):
        raise DataError(
            f"its first line looks like a row and not like a header: {quoted(label.name)} is a label too",
            where=source.name,
            valid="a first line with the names of the columns, such as text and label",
            hint=f"write one above it; if these are the names: {shlex.join([f'task.text={texts[0]}', f'task.label={label.name}'])}",
        )


def first_named(known: Sequence[str], able: dict[str, Profile]) -> str | None:
    """The first of the names that people give such a column that there is."""
    return next((name for word in known for name in able if name.lower() == word), None)


def binary(column: Profile) -> bool:
    """Whether a column has two values that could be no and yes."""
    return {value.lower() for value in column.values or ()} in ({"0", "1"}, {"false", "true"})


def unclear(source: Source, what: str, option: str, names: Sequence[str], several: Sequence[str] = ()) -> DataError:
    """A DataError about columns that leave it open which one is meant; several: those that could be labels together."""
    together = f"task.multi_label=true 'task.label_columns=[{', '.join(several[:SHOWN_COLUMNS])}]'"
    return DataError(
        f"no column clearly {what}",
        where=source.name,
        key=f"task.{option}",
        valid=", ".join(map(clipped, names[:SHOWN_COLUMNS])),
        hint=f"task.{option}=COLUMN" + f"; where a row may have several labels: {together}" * (len(several) > 1),
    )


def quoted(name: str) -> str:
    """A column's name in quotes."""
    return f"'{clipped(name)}'"
