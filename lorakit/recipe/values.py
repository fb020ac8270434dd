"""One written value against its key: the typed value, or what is wrong with it and how it is spelt right.

Scalars are read as people mean them: ``5e-4`` is a number; ``010``, ``1:30`` and dates are text; as in YAML 1.1 the bare words
yes, no, on and off are true and false, which is said where text is wanted instead of passing a boolean on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import yaml

from lorakit.errors import nearest
from lorakit.recipe.document import Place
from lorakit.recipe.keys import NOUNS, Key
from lorakit.recipe.problems import Problems, spaced

NULLS = ("", "~", "null", "Null", "NULL")
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
SPELT = {form for word in TRUTHS for form in (word, word.title(), word.upper())}
INT = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*(_[0-9]+)*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
LONGEST = 40  # characters of a number
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
CORE = "tag:yaml.org,2002:"
NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")  # what no name, path or column has in it
UNREADABLE: Final = object()  # stands for a value that has a problem


def scalar_kind(node: yaml.ScalarNode) -> type | None:
    """What a scalar is as written: str, int, float, bool, or None for null."""
    text = node.value
    if node.style is not None:
        return str
    if text in NULLS:
        return None
    if text in SPELT:
        return bool
    if len(text) > LONGEST:
        return str
    if INT.fullmatch(text):
        return int
    return float if FLOAT.fullmatch(text) or NOT_FINITE.fullmatch(text) else str


def described(node: yaml.Node) -> str:
    """What stands there, for messages: ``the text 'four'``."""
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if not isinstance(node, yaml.ScalarNode):
        return "a mapping (KEY: VALUE)"
    text = node.value if len(node.value) <= 60 else node.value[:57] + "..."
    kind = scalar_kind(node)
    if kind is None:
        return text or "an empty value"
    if kind is str:
        return f"the text '{text}'" + (" in quotes" if node.style in ("'", '"') else "")
    if kind is bool:
        return f"{text}, which YAML reads as {str(TRUTHS[text.lower()]).lower()}"
    return f"the number {text}"


def read_value(key: Key, node: yaml.Node, place: Place, problems: Problems) -> Any:
    """The value of ``key`` as its type, or UNREADABLE with at least one problem added."""

    def refuse(what: str, at: yaml.Node = node, hint: str = "", valid: str | None = None) -> Any:
        where = place(at.start_mark.line + 1)
        problems.add(what, where=where, key=key.path, valid=key.valid() if valid is None else valid, hint=hint)
        return UNREADABLE

    if isinstance(node, yaml.ScalarNode) and node.tag == CORE + "str" and scalar_kind(node) is None:
        if key.optional:
            return None
        hint = "leave the key out" + ("" if key.mandatory else f" for its default: {written(key.default)}")
        return refuse("is empty" if node.value == "" else f"cannot be {node.value}", hint=hint)
    if key.shape == "list":
        return read_list(key, node, refuse)
    if key.shape == "mapping":
        return read_mapping(key, node, refuse)
    if key.rule.mapping is not None and isinstance(node, yaml.MappingNode):
        return read_mapping(key.as_mapping(), node, refuse)
    return read_scalar(key, node, refuse)


def read_list(key: Key, node: yaml.Node, refuse: Callable[..., Any]) -> Any:
    """A list of scalars without repetition. A single scalar stands for a list of one."""
    if isinstance(node, yaml.ScalarNode):
        parts = re.split(r"[,\s]+", node.value.strip())
        if len(parts) > 1 and all(re.fullmatch(r"[\w.]+", part) for part in parts):
            return refuse(f"'{node.value}' is one text, not a list", hint=f"[{', '.join(parts)}]")
        items = [node]
    elif isinstance(node, yaml.SequenceNode):
        items = node.value
    else:
        return refuse(f"wants a list, not {described(node)}")
    values: dict[Any, None] = {}
    for item in items:
        value = read_scalar(key, item, refuse)
        if value is not UNREADABLE and value in values:
            value = refuse(f"'{value}' is given twice", at=item, valid="each entry once")
        values[value] = None
    return UNREADABLE if UNREADABLE in values else list(values)


def read_mapping(key: Key, node: yaml.Node, refuse: Callable[..., Any]) -> Any:
    """A mapping from names to scalars."""
    if not isinstance(node, yaml.MappingNode):
        return refuse(f"wants a mapping, not {described(node)}")
    values: dict[str, Any] = {}
    for name, item in node.value:
        if not isinstance(name, yaml.ScalarNode) or NO_TEXT.search(name.value):
            values[""] = refuse("has a key that is not a plain name", at=name)
        elif ":" in name.value and isinstance(item, yaml.ScalarNode) and scalar_kind(item) is None:
            values[name.value] = refuse(f"'{name.value}' has no value", at=name, hint=spaced(name.value))
        elif name.value in values:
            values[name.value] = refuse(f"'{name.value}' is given twice", at=name, valid="each name once")
        else:
            values[name.value] = read_scalar(key, item, refuse)
    return UNREADABLE if UNREADABLE in values.values() else values


def read_scalar(key: Key, node: yaml.Node, refuse: Callable[..., Any]) -> Any:
    """One value of the key's kind, within its bounds, choices and pattern."""
    if node.tag not in (CORE + "str", CORE + "seq", CORE + "map"):
        return refuse(f"has the tag {node.tag.replace(CORE, '!!')}, which a recipe does not use", at=node)
    if not isinstance(node, yaml.ScalarNode):
        return refuse(f"wants {NOUNS[key.kind]}, not {described(node)}", at=node)
    kind = scalar_kind(node)
    if key.kind is str:
        return read_words(key, node, kind, refuse)
    if kind is bool and key.kind is bool:
        return TRUTHS[node.value.lower()]
    if kind is str and node.value in key.rule.words:
        return node.value
    if kind is key.kind or (kind is int and key.kind is float):
        value = math.nan if NOT_FINITE.fullmatch(node.value) else key.kind(node.value)
        if not math.isfinite(value):
            return refuse(f"{node.value} is not a finite number", at=node)
        outside = out_of_bounds(key, value)
        return refuse(f"{node.value} is not {outside}", at=node) if outside else value
    hint = respelt(key, node.value) or (nearest(node.value.lower(), key.rule.words) if kind is str else "")
    return refuse(f"wants {NOUNS[key.kind]}, not {described(node)}", at=node, hint=hint)


def read_words(key: Key, node: yaml.ScalarNode, kind: type | None, refuse: Callable[..., Any]) -> Any:
    """Text, as it is written: a number is taken letter by letter, and so is true or false among settings, whose types are their owner's; a
    bare yes or no is refused.
    """
    text = node.value
    choices = key.choices
    if key.shape == "mapping" and text.lower() in ("true", "false"):
        return text.lower()
    if kind is bool:
        hint = f'"{text}", in quotes' if not choices or text in choices else nearest(text.lower(), choices)
        if key.shape == "mapping":
            hint = f"{str(TRUTHS[text.lower()]).lower()}, or {hint}"
        return refuse(f"wants text, not {described(node)}", at=node, hint=hint)
    if kind is None or not text.strip():
        return refuse("has an empty text", at=node)
    if found := NO_TEXT.search(text):
        return refuse(f"has the character {ord(found[0]):#06x}, which is not text", at=node)
    if "${" in text or text == "???":
        return refuse(f"'{text}' is not filled in: a recipe has plain values", at=node)
    if choices and text not in choices:
        hint = nearest(text.lower(), choices)
        return refuse(f"'{text}' is not one of the choices", at=node, hint=hint)
    if key.rule.pattern and not re.fullmatch(key.rule.pattern[0], text):
        return refuse(f"'{text}' cannot be used here", at=node)
    return text


def out_of_bounds(key: Key, value: float) -> str:
    """The bounds in words where ``value`` breaks one of them, else an empty string."""
    rule = key.rule
    broken = (
        (rule.low is not None and value < rule.low)
        or (rule.above is not None and value <= rule.above)
        or (rule.high is not None and value > rule.high)
        or (rule.below is not None and value >= rule.below)
    )
    return key.bounds() if broken else ""


def respelt(key: Key, text: str) -> str:
    """The right spelling of a misspelt number or truth value: ``5 e-4``, ``"8"``, ``8.0``, ``0,1``, ``6%``; else nothing."""
    plain = re.sub(r"\s+", "", text).replace("−", "-").replace("–", "-")
    if key.kind is bool:
        return f"{key.name}: {plain.lower()}, without quotes" if plain.lower() in TRUTHS else ""
    percent = plain.endswith("%")
    plain = plain.removesuffix("%")
    if re.fullmatch(r"[-+]?\d+,\d+", plain):
        plain = plain.replace(",", ".")
    if not (INT.fullmatch(plain) or FLOAT.fullmatch(plain)):
        return ""
    number = float(plain)
    if percent:
        number, plain = number / 100, f"{number / 100:g}"
    if key.kind is int:
        if not number.is_integer():
            return ""
        plain = str(int(number))
    if not math.isfinite(number) or out_of_bounds(key, number):
        return ""
    return f"{key.name}: {plain}" + (", without quotes" if plain == text else "")


class OneLine(yaml.SafeDumper):
    """Writes text with a line break in it in double quotes, where the break is escaped."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A scalar that needs no second line."""
        return self.represent_scalar(CORE + "str", text, style='"' if len(f"{text}.".splitlines()) > 1 else None)


OneLine.add_representer(str, OneLine.represent_text)


def written(value: Any) -> str:
    """A value as YAML on one line: ``[q, v]``, ``0.0005``, ``null``."""
    return written_word(value) if type(value) is str else dumped(value)


def dumped(value: Any) -> str:
    """What ``written`` gives, by PyYAML."""
    text: str = yaml.dump(value, Dumper=OneLine, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


@lru_cache(maxsize=1024)
def written_word(text: str) -> str:
    """The same of text: two thirds of a recipe's values are a few words and the names of keys, again and again."""
    return dumped(text)
