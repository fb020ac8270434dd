"""What a sweep varies: ``KEY=VALUE,VALUE`` is an axis, ``KEY=LOW..HIGH`` a range; one value of each is a point, with a name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from lorakit.errors import UsageError
from lorakit.recipe.keys import recipe_keys, section_keys
from lorakit.recipe.overlays import COMMAND_LINE, read_overrides
from lorakit.recipe.problems import Problems
from lorakit.recipe.values import FLOAT, UNREADABLE, written
from lorakit.reporting.sweep_figure import FAR

QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""")
DIGITS = 4  # of a number drawn from a range: no learning rate needs more, and names stay short
LONGEST = 40  # characters of a value in a folder's name


@dataclass(frozen=True)
class Axis:
    """The values of a key, as they were typed and as the recipe reads them."""

    key: str
    texts: list[str]
    values: list[Any]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included. whole: whether the key wants whole ones."""

    key: str
    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        """Whether it is drawn by the logarithm, so that every power is as likely."""
        return self.low > 0 and self.high / self.low >= FAR

    def rounded(self, value: float) -> float:
        """``value`` with the digits that count, within the range."""
        return int(value) if self.whole else min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{', by the logarithm' if self.log else ''}"


@dataclass(frozen=True)
class Point:
    """One value of every key that varies: texts as on the command line, values as the recipe reads them."""

    texts: dict[str, str]
    values: dict[str, Any]

    @property
    def overrides(self) -> list[str]:
        """KEY=VALUE of what varies."""
        return [f"{key}={text}" for key, text in self.texts.items()]

    def named(self, base: str) -> str:
        """``demo-lr0.0001-rank4``: what varies, behind ``base``."""
        names = short_names(list(self.values))
        return "-".join([base, *(f"{names[key]}{mark(value)}" for key, value in self.values.items())])


@dataclass(frozen=True)
class Space:
    """fixed: KEY=VALUE of every point; axes and ranges: what varies."""

    fixed: list[str]
    axes: list[Axis] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)

    def points(self) -> list[Point]:
        """The product of the axes, the last one fastest."""
        choices = [list(zip(axis.texts, axis.values, strict=True)) for axis in self.axes]
        return [self.point(dict(zip(self.keys, chosen, strict=True))) for chosen in product(*choices)]

    def corners(self) -> list[Point]:
        """Points that have both ends of every range and every value of an axis."""
        ends = {span.key: [(repr(end), end) for end in (span.low, span.high)] for span in self.ranges}
        known = {axis.key: list(zip(axis.texts, axis.values, strict=True)) for axis in self.axes} | ends
        most = max(len(values) for values in known.values())
        return [self.point({key: values[row % len(values)] for key, values in known.items()}) for row in range(most)]

    def point(self, chosen: Mapping[str, tuple[str, Any]]) -> Point:
        """The point with these (text, value) pairs by key."""
        return Point(
            {key: text for key, (text, _) in chosen.items()}, {key: value for key, (_, value) in chosen.items()}
        )

    @property
    def keys(self) -> list[str]:
        """The keys that vary."""
        return [*(axis.key for axis in self.axes), *(span.key for span in self.ranges)]


def read_space(overrides: Sequence[str]) -> Space:
    """Sort KEY=VALUE into what is fixed and what varies. UsageError that tells everything that cannot vary as it is written."""
    space, problems, seen = Space([]), Problems(), set[str]()
    for override in overrides:
        key, _, text = override.partition("=")
        key, texts = key.strip(), split_values(text)
        if key in seen:
            problems.add(
                "is given twice", where=COMMAND_LINE, key=key, valid=f"all values in one word: {key}=VALUE,VALUE"
            )
        seen.add(key)
        if span := read_range(key, text):
            space.ranges.append(span)
            if span.low >= span.high:
                problems.add(
                    f"{text} is not a range upwards",
                    where=COMMAND_LINE,
                    key=key,
                    valid="LOW..HIGH, the lower end first",
                )
        elif len(texts) == 1:
            space.fixed.append(override)
        else:
            space.axes.append(read_axis(key, texts, problems))
    if problems:
        raise UsageError(problems)
    return space


def read_axis(key: str, texts: list[str], problems: Problems) -> Axis:
    """The values of ``key``; those that the recipe cannot read are told when it is loaded."""
    if key in section_keys():
        problems.add("a section cannot vary", where=COMMAND_LINE, key=key, valid=f"a key in it: {key}.KEY=VALUE,VALUE")
    if "" in texts:
        problems.add(
            "has an empty value between commas",
            where=COMMAND_LINE,
            key=key,
            hint="quotes around a value with a comma in it",
        )
    values: list[Any] = []
    for text in texts:
        value = read_overrides([f"{key}={text}"], Problems()).values.get(key, UNREADABLE)
        if value is not UNREADABLE and value in values:
            problems.add(f"the value {text} is given twice", where=COMMAND_LINE, key=key, valid="each value once")
        values.append(value)
    return Axis(key, texts, values)


def read_range(key: str, text: str) -> Range | None:
    """``LOW..HIGH`` of a key that is one number, else None."""
    known = recipe_keys().get(key)
    ends = [end.strip() for end in text.split("..")]
    if known is None or known.shape != "one" or known.kind not in (int, float):
        return None
    if len(ends) != 2 or not all(FLOAT.fullmatch(end) for end in ends):
        return None
    low, high = map(float, ends)
    whole = known.kind is int
    if whole and not (low.is_integer() and high.is_integer()):
        what, valid = f"{text} is not a range of whole numbers", "whole numbers at both ends"
        raise UsageError(what, where=COMMAND_LINE, key=key, valid=valid)
    return Range(key, int(low), int(high), whole) if whole else Range(key, low, high, whole)


def split_values(text: str) -> list[str]:
    """``text`` at its commas, but for those inside brackets, braces, parentheses and quotes."""
    pieces, depth, start, place, before = list[str](), 0, 0, 0, ","
    while place < len(text):
        char = text[place]
        quoted = QUOTED.match(text, place) if before in ",[{(:" else None
        if quoted is None:
            depth += (char in "[{(") - (char in "]})")
            if char == "," and depth <= 0:
                pieces.append(text[start:place])
                start = place + 1
        before = before if char.isspace() else char
        place = quoted.end() if quoted else place + 1
    return [piece.strip() for piece in (*pieces, text[start:])]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last part where no other has the same, else the whole key."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def mark(value: Any) -> str:
    """A value in a folder's name; where that is not the whole value, with a hash of it."""
    plain = "+".join(words(value))
    safe = re.sub(r"[^\w.+:=-]+", "-", plain)[:LONGEST]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def words(value: Any) -> Iterator[str]:
    """A value's parts as text."""
    if isinstance(value, dict):
        yield from (f"{key}={item}" for key, item in value.items())
    elif isinstance(value, list):
        yield from map(str, value)
    else:
        yield written(value) if value is None or isinstance(value, bool) else str(value)


def is_number(value: Any) -> bool:
    """Whether it is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
