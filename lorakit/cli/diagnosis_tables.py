"""Where a model is wrong, as facts and tables: of classes, of several labels a row, of numbers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lorakit.reporting.tables import Column, count, table
from lorakit.tasks.diagnosis import Diagnosis
from lorakit.tasks.label_diagnosis import LabelDiagnosis
from lorakit.tasks.number_diagnosis import NumberDiagnosis
from lorakit.tasks.table import clipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from lorakit.tasks.diagnosis import ClassScores, Slice
    from lorakit.tasks.label_diagnosis import LabelScores
    from lorakit.tasks.number_diagnosis import NumberError

RATES = ("precision", "recall", "f1")
WIDEST = 20  # classes that a table of class against class takes; --json has them all
AnyDiagnosis = Diagnosis | LabelDiagnosis | NumberDiagnosis


def diagnosis_facts(found: AnyDiagnosis) -> list[tuple[str, str]]:
    """What is one number over all rows."""
    if isinstance(found, NumberDiagnosis):
        return [
            ("mean absolute error", f"{found.mae:.4f}  (mean error {found.bias:+.4f})"),
            ("R2", f"{found.r2:.4f}"),
        ]
    if isinstance(found, LabelDiagnosis):
        over = "  (mean over labels)"
    else:
        over = "" if len(found.classes) == 2 else "  (mean over classes, each against the rest)"
    pairs = (("ROC-AUC", found.roc_auc), ("average precision", found.average_precision))
    return [(name, f"{value:.4f}{over}") for name, value in pairs if value is not None]


def diagnosis_tables(found: AnyDiagnosis) -> list[Table]:
    """Where the model is wrong: by class or label, class against class, by length, and its worst errors."""
    if isinstance(found, NumberDiagnosis):
        tables, errors = [], number_errors(found)
    elif isinstance(found, LabelDiagnosis):
        tables, errors = [label_table(found)], label_errors(found)
    else:
        tables, errors = class_tables(found), class_errors(found)
    if found.by_length:
        tables.append(slice_table(found.by_length, "by length"))
    return [*tables, errors] if found.errors else tables


def class_tables(found: Diagnosis) -> list[Table]:
    """A line for each class, and class against class."""
    names = [row.label for row in found.classes]
    tables = [table(found.classes, score_columns("class"), title="by class")]
    if len(names) <= WIDEST:
        columns = [Column("labelled", lambda row: row[0])]
        columns += [Column(name, partial(cell, place), right=True) for place, name in enumerate(names)]
        rows = zip(names, found.confusion, strict=True)
        tables.append(table(rows, columns, title="confusion: labelled (down), predicted (across)"))
    return tables


def label_table(found: LabelDiagnosis) -> Table:
    """A line for each label."""
    columns = score_columns("label")
    columns.insert(-1, Column("average precision", partial(measured, "average_precision"), right=True))
    columns += [
        Column("best from", partial(measured, "best_threshold"), right=True),
        Column("f1 there", partial(measured, "best_f1"), right=True),
    ]
    return table(
        found.labels, columns, title="by label, given from 0.5 on; the best threshold was chosen on these rows"
    )


def score_columns(what: str) -> list[Column]:
    """The scores of a class or label."""
    return [
        Column(what, lambda row: row.label),
        *(Column(name, partial(rate, name), right=True) for name in RATES),
        Column("rows", lambda row: count(row.support), right=True),
    ]


def class_errors(found: Diagnosis) -> Table:
    """The rows with a wrong class that the classifier was surest of."""
    columns = [
        Column("sure", lambda row: f"{row.probability:.3f}", right=True),
        Column("predicted", lambda row: row.predicted),
        Column("labelled", lambda row: row.label),
    ]
    return table(found.errors, columns + ROW_AND_TEXT, title="most confident errors")


def label_errors(found: LabelDiagnosis) -> Table:
    """The rows with a label too many or too few that the classifier was surest of."""
    columns = [
        Column("surest error", lambda row: f"{row.label} {row.probability:.3f}"),
        Column("predicted", lambda row: ", ".join(row.predicted)),
        Column("labelled", lambda row: ", ".join(row.labels)),
    ]
    return table(found.errors, columns + ROW_AND_TEXT, title="most confident errors")


def number_errors(found: NumberDiagnosis) -> Table:
    """The rows whose number is farthest off."""
    columns = [
        Column("off by", off_by, right=True),
        Column("predicted", lambda row: f"{row.predicted:.4g}", right=True),
        Column("labelled", lambda row: f"{row.label:.4g}", right=True),
    ]
    return table(found.errors, columns + ROW_AND_TEXT, title="largest errors")


ROW_AND_TEXT = [
    Column("row", lambda row: row.row, right=True),
    Column("text", lambda row: clipped(row.text)),
]


def slice_table(slices: Sequence[Slice], title: str) -> Table:
    """A line for each part of the rows."""
    columns = [
        Column("part", lambda row: row.name),
        Column("rows", lambda row: count(row.rows), right=True),
        *(
            [Column("errors", lambda row: "" if row.errors is None else count(row.errors), right=True)]
            if any(row.errors is not None for row in slices)
            else []
        ),
        *(Column(name, partial(slice_score, name), right=True) for name in slices[0].scores),
    ]
    return table(slices, columns, title=title)


def rate(name: str, row: ClassScores) -> str:
    """One number of a class."""
    return f"{getattr(row, name):.4f}"


def measured(name: str, row: LabelScores) -> str:
    """A number of a label, where it has one."""
    value = getattr(row, name)
    return "" if value is None else f"{value:.4f}"


def off_by(row: NumberError) -> str:
    """How far a number is off, and to which side."""
    return f"{row.predicted - row.label:+.4g}"


def cell(place: int, row: tuple[str, list[int]]) -> str:
    """One number of a line of the confusion matrix."""
    return count(row[1][place])


def slice_score(name: str, row: Slice) -> str:
    """One score of a slice."""
    return f"{row.scores[name]:.4f}"
