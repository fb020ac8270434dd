"""A recipe file as YAML nodes: every value keeps the line it stands on. Nothing here knows what the keys mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import yaml

from lorakit.errors import nearest
from lorakit.recipe.problems import Problems

Place = Callable[[int], str]  # a line, counted from 1 -> where a person finds it
LARGEST = 1_000_000  # bytes; a file above this is no recipe
SUFFIXES = (".yaml", ".yml")


def shown(path: Path) -> str:
    """``path`` as people write it: from the current folder where it lies inside."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def read_text(path: Path, problems: Problems) -> str | None:
    """The text of a recipe file, or None with a problem: a folder, not UTF-8, a control character, far too large."""
    where = shown(path)
    try:
        if path.is_dir():
            what, valid = "this folder is not a run: it has no recipe.yaml", "a YAML file, or a run's folder"
            problems.add(what, where=where, valid=valid, hint="lorakit list recipes")
            return None
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            problems.add(f"is larger than {LARGEST:,} bytes: this is no recipe", where=where, valid="a YAML file")
            return None
    except OSError as error:
        problems.add(f"cannot be read: {error.strerror}", where=where)
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add(
            f"byte {data[error.start]:#04x} is not UTF-8 text", where=f"{where}:{line}", hint="save the file as UTF-8"
        )
        return None


def parse(text: str, place: Place, problems: Problems) -> yaml.Node | None:
    """The YAML node of ``text``, scalars unresolved, or None: with a problem that names line and column, or where it is empty."""
    try:
        return compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        source = text.splitlines()[line - 1] if mark and line <= len(text.splitlines()) else ""
        what = " ".join(part for part in (error.context, error.problem) if part)
        problems.add(f"is not valid YAML: column {column}: {what}", where=place(line), hint=syntax_hint(source, what))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.add(f"character {error.character:#06x} has no place in a text file", where=place(line))
    except RecursionError:
        problems.add("is nested too deeply to be a recipe", where=place(1))
    return None


@lru_cache(maxsize=16)
def compose(text: str) -> yaml.Node | None:
    """PyYAML's node, not to be changed. One command reads a run's recipe several times over, which is most of a restoring."""
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.BaseLoader)
    return node


def syntax_hint(line: str, what: str) -> str:
    """What to try for the usual slips: a tab, a bare ``*`` or ``%``, a second colon, a bracket left open."""
    if "\t" in line:
        return "spaces instead of the tab"
    if "alias" in what or "cannot start any token" in what or "directive" in what:
        return "quotes around the value"
    if "mapping values are not allowed" in what:
        return "the same indentation for all keys of a section, and quotes around a value with a colon"
    if "flow sequence" in what or "flow mapping" in what or "stream end" in what or "end of stream" in what:
        return "a closing bracket or quote"
    if "another document" in what:
        return "one recipe a file, without '---' in between"
    if "could not find expected ':'" in what:
        return "KEY: VALUE, with a space behind the colon"
    return ""


def missing_file(name: str, shipped: dict[str, Path], folder: Path) -> tuple[str, str]:
    """For a recipe that is not there: what is valid, and the near names among shipped recipes and those in ``folder``."""
    beside = (
        [path.name for path in sorted(folder.glob("*")) if path.suffix in SUFFIXES] if os.path.isdir(folder) else []
    )
    wanted = Path(name)
    stem = wanted.stem if wanted.suffix in SUFFIXES else wanted.name
    hint = nearest(stem, shipped) or nearest(wanted.name, beside)
    return "a YAML file, or a shipped recipe: " + ", ".join(shipped), hint
