"""A memory: a few training rows of the tasks before, which a run goes over again (``continual.method: replay``).

A line a row: the run whose head answers it, by the name of its folder beside that of the memory, the text or the two, the label's number.

    runs/topics-0/memory/2-amazon.jsonl      {"run": "1-dbpedia", "text": "...", "label": 3}
    runs/topics-0/tasks/1-dbpedia/
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import read_jsonl, write_jsonl
from lorakit.artifacts.records import number, reading
from lorakit.artifacts.run import TASKS, Run
from lorakit.errors import RunError

MEMORY = "memory"
WHAT = "the memory of a sequence"


def write_memory(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows, in one step."""
    write_jsonl(path, rows)


def read_memory(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Run -> its rows, in order. RunError where the file is missing or broken."""
    if not path.is_file():
        raise RunError(
            "is missing, and the run goes over its rows",
            where=str(path),
            hint="the sequence's folder, whole, where it was begun",
        )
    found: dict[str, list[dict[str, Any]]] = {}
    with reading(path, WHAT):
        for row in read_jsonl(path):
            texts = [row["text"], row.get("text_pair", ""), row["run"]]
            if not all(isinstance(text, str) for text in texts) or Path(row["run"]).name != row["run"]:
                raise ValueError("a row has no text, or names no run")
            number(row["label"], "label", low=0, whole=True)
            found.setdefault(row["run"], []).append(row)
        if not found:
            raise ValueError("it has no rows")
    return found


def run_of_memory(path: Path, name: str) -> Run:
    """The run that a row of the memory ``path`` names."""
    return Run(path.parent.parent / TASKS / name)
