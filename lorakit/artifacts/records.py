"""JSON files of a folder that may come from anywhere: each is what lorakit writes, or one RunError that names it and what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import read_json
from lorakit.errors import RunError
from lorakit.tasks.task import Task


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """What goes wrong with the content of ``path``, which should be ``what``, becomes a RunError that names it."""
    try:
        yield
    except KeyError as error:
        raise RunError(f"is not {what}: {error.args[0]!r} is missing", where=str(path)) from None
    except RecursionError:
        raise RunError(f"is not {what}: it is nested too deeply", where=str(path)) from None
    except (OSError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise RunError(f"is not {what}: {error}", where=str(path)) from None


def words(value: Any, name: str) -> tuple[str, ...]:
    """A list of texts, each once."""
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise ValueError(f"{name} is no list of texts")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} has an entry twice")
    return tuple(value)


def number(value: Any, name: str, *, low: float = -math.inf, whole: bool = False) -> float:
    """A finite number, at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ValueError(f"{name} is no {'whole ' if whole else ''}number: {value!r:.60}")
    if not math.isfinite(value) or not low <= value <= 2**53:
        raise ValueError(f"{name} cannot be {value!r:.60}")
    return value


def read_record(path: Path, what: str) -> dict[str, Any]:
    """The object in the file ``path``, which is ``what``."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise RunError(f"is not {what}: it is no object", where=str(path))
    return value


def read_task(path: Path) -> Task:
    """What a run learns, from its task.json."""
    record = read_record(path, "a task")
    with reading(path, "a task"):
        values: Any = {
            field.name: words(record[field.name], field.name) if "tuple" in str(field.type) else record[field.name]
            for field in fields(Task)
            if field.name in record
        }
        task = Task(**values)
        if unknown := sorted(set(record) - {field.name for field in fields(Task)}):
            raise ValueError(f"a task has no {unknown[0]!r}")
        texts = [task.name, task.title, task.label, task.submission, task.called, task.label_separator]
        flags = [task.bundled, task.ordered, task.multi_label]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
            raise ValueError(
                "name, title, label, submission, called and label_separator are texts; bundled, ordered and multi_label are "
                "true or false"
            )
        if not 1 <= len(task.text) <= 2 or len(task.labels) == 1 or not task.metrics or not task.validation:
            raise ValueError("one or two texts, no or several labels, a metric and a validation split are needed")
        if (task.ordered or task.multi_label) and task.regression:
            raise ValueError("a number has no labels, neither several nor grades")
        if unknown := [name for name in task.metrics if name not in task.possible_metrics]:
            raise ValueError(f"it has no metric {unknown[0]!r}")
    return task


def read_summary(path: Path) -> dict[str, Any]:
    """What a run came to, from its summary.json."""
    summary = read_record(path, "a run's summary")
    with reading(path, "a run's summary"):
        check_summary(summary)
    return summary


def check_summary(summary: Mapping[str, Any]) -> None:
    """Refuse what is no summary, with KeyError, TypeError or ValueError."""
    if not all(isinstance(summary[name], str) for name in ("task", "metric")):
        raise ValueError("task and metric are texts")
    for which in ("last", "best"):
        if not isinstance(summary[which], dict):
            raise ValueError(f"{which} is no scores")
        for name, value in summary[which].items():
            number(value, f"{which}.{name}")
        if summary[which] and summary["metric"] not in summary[which]:
            raise ValueError(f"{which} has no {summary['metric']}")
    for name in ("steps", "adapter_parameters", "head_parameters"):
        number(summary[name], name, low=0, whole=True)
    for name in ("epochs", "seconds"):
        number(summary[name], name, low=0)
    warnings = summary.get("warnings", [])
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
        raise ValueError("warnings is no list of texts")
    for name in ("best_step", "carried_parameters", "budget", "search_seconds"):
        number(summary.get(name, 0), name, low=0)
