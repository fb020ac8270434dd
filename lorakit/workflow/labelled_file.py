"""``lorakit eval --file``: any labelled file as a split of a run's task, by the run's columns and labels."""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.errors import DataError, UsageError
from lorakit.tasks.columns import values_of
from lorakit.tasks.data_files import find_files
from lorakit.tasks.data_sets import DataSet, find_data_set
from lorakit.tasks.label_sets import LabelSets
from lorakit.tasks.labels import LabelMap, fold, written
from lorakit.tasks.rows import Columns, Rows
from lorakit.tasks.splits import build_split
from lorakit.tasks.stored_rows import Source, read_rows
from lorakit.tasks.table import no_column
from lorakit.tasks.task import Task, TaskData

NONE = "(none)"  # the value of a row that has none in the column
MOST_SLICES = 1_000


@dataclass(frozen=True)
class LabelledFile:
    """The rows of a file as the one split of a task. name: that of the split; values: of the column that slices them, if any."""

    data: TaskData
    name: str
    values: list[str] | None


def read_labelled(task: Task, named: str, by: str | None, *, offline: bool) -> LabelledFile:
    """The rows of ``named``. DataError about a column, a label or a text that does not fit, with the rows."""
    found = find_data_set(named, "--file", offline=offline)
    source: Source = (
        found.split("test", "--file") if isinstance(found, DataSet) else found or find_files(named, "--file")
    )
    columns = Columns(
        task.text,
        task.label,
        task.regression,
        keys=("", ""),
        label_key="",
        multi_label=task.multi_label,
        label_columns=task.label_columns,
    )
    rows = read_rows(source, columns)
    if not len(rows):
        raise DataError("the file has a header but no rows", where=source.name)
    split = build_split(rows, columns, labels_by_name(task, rows))
    values = None if by is None else read_values(source, columns, by)
    return LabelledFile(TaskData(task, {source.name: split}, source.name), source.name, values)


def labels_by_name(task: Task, rows: Rows) -> LabelMap | LabelSets | None:
    """Labels by their names; in files of a task of the catalogue, which are written so, all of them may be ids."""
    if task.regression:
        return None
    if task.multi_label:
        return LabelSets.of_names(task.labels, task.label_separator or None)
    if task.hub or task.bundled:
        return LabelMap.of_names(task.labels, rows)
    return LabelMap(task.labels, {fold(written(name) or name): place for place, name in enumerate(task.labels)})


def read_values(source: Source, columns: Columns, by: str) -> list[str]:
    """What each row has in the column ``by``, as text."""
    wanted = Columns((by,), columns.label if by != columns.label else columns.text[0])  # a column is named once
    values: list[str] = []
    for table in source.tables(wanted):
        if by not in table.names:
            raise no_column(table.path, by, table.names, "--by")
        values += [NONE if (text := written(value)) is None else text for value in values_of(table, by)]
    if (number := len(set(values))) > MOST_SLICES:
        raise UsageError(
            f"column '{by}' has {number:,} different values",
            where="--by",
            valid=f"a column with at most {MOST_SLICES:,}",
        )
    return values
