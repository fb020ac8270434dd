"""JSON without what it leaves open: no key twice, no NaN, no half a character, no nesting without end."""

from __future__ import annotations

import json
import math
import re
from typing import Any

LONE = re.compile(r"\\u[dD][89a-fA-F]")  # half a character, as JSON may spell it


def parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError where it is none, or not plain."""
    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=no_number, parse_float=finite, parse_int=whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if LONE.search(text):
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose keys is given once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def no_number(text: str) -> float:
    """Refuse NaN and Infinity."""
    raise ValueError(f"{text} is no number")


def whole(text: str) -> int:
    """A whole number of 64 bits."""
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"{text:.30} is too large")
    return int(text)


def finite(text: str) -> float:
    """A number that is not too large."""
    if not math.isfinite(float(text)):
        no_number(text)
    return float(text)
