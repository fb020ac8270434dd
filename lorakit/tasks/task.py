"""What a task is: its columns, its labels, its metrics. No data and no heavy import here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lorakit.errors import DataError, nearest
from lorakit.registry import Registry

if TYPE_CHECKING:
    from datasets import Dataset

    from lorakit.tasks.stored_rows import Source

CLASSIFICATION_METRICS = ("accuracy", "f1", "macro_f1", "matthews")
ORDERED_METRICS = ("quadratic_kappa", "mae")  # of classes that are grades, besides those of all classes
MULTI_LABEL_METRICS = ("micro_f1", "macro_f1", "subset_accuracy")
OWN_DATA = "your own data: "  # how the title of a task of own files begins, before their name
SPLIT_NAMES = ("train", "training", "data")
REGRESSION_METRICS = ("pearson", "spearman", "mse", "mae", "r2")
ERRORS = ("mse", "mae")  # of these less is better


@dataclass(frozen=True)
class Task:
    """One thing to learn: text, or a pair of texts, to a label, any number of labels, or a number.

    name: what a recipe calls it; title: one line for people; text: one or two source columns; label: the source column;
    labels: label names in the order of their ids, () for regression; metrics: the first is the main one; validation and
    test: names of the source's splits; hub: the arguments of ``datasets.load_dataset``; bundled: an installed package
    carries it, and ``data: auto`` reads it from there; submission: how GLUE's submission file writes a prediction, for
    GLUE tasks: a label's name, its id, or a score; called: what people call a task of their own files, see known_as; ordered: the
    classes are grades, from the lowest to the highest; multi_label: a row has any number of the labels, none too; label_columns: then
    these may be columns of their own, in place of ``label``; label_separator: what separates labels in a text, empty where nothing does.
    """

    name: str
    title: str
    text: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: tuple[str, ...] = ("validation",)
    test: tuple[str, ...] = ("test",)
    hub: tuple[str, ...] = ()
    bundled: bool = False
    submission: Literal["", "name", "id", "score"] = ""
    called: str = ""
    ordered: bool = False
    multi_label: bool = False
    label_columns: tuple[str, ...] = ()
    label_separator: str = ""

    @property
    def known_as(self) -> str:
        """What people call it: its name, or of own files, which are all called custom, theirs."""
        if not self.called and self.title.startswith(OWN_DATA):  # a run that is older than these names
            return name_of_files(self.title.removeprefix(OWN_DATA)) or self.name
        return self.called or self.name

    @property
    def regression(self) -> bool:
        """Whether the label is a number rather than a class."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of the head: one per class or label, 1 for regression."""
        return len(self.labels) or 1

    @property
    def pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text) == 2

    @property
    def possible_metrics(self) -> tuple[str, ...]:
        """The metrics that suit what it learns."""
        if self.regression:
            return REGRESSION_METRICS
        if self.multi_label:
            return MULTI_LABEL_METRICS
        # F1 is that of the second of two classes, as GLUE has it.
        of_classes = tuple(name for name in CLASSIFICATION_METRICS if name != "f1" or len(self.labels) == 2)
        return of_classes + (ORDERED_METRICS if self.ordered else ())

    @property
    def kind(self) -> str:
        """What it learns, in words."""
        if self.regression:
            return "regression"
        if self.multi_label:
            return f"any of {len(self.labels)} labels"
        return f"{len(self.labels)} {'grades' if self.ordered else 'classes'}"

    def with_metric(self, metric: str | None) -> Task:
        """The same task with ``metric`` as its main one; None keeps the task's own. Raises DataError if it does not suit."""
        if metric is None:
            return self
        valid = self.possible_metrics
        if metric not in valid:
            ordered = metric in ORDERED_METRICS and not self.regression and not self.multi_label
            raise DataError(
                f"the metric '{metric}' does not suit task {self.name} ({self.kind})",
                key="task.metric",
                valid=", ".join(valid),
                hint="task.ordered=true, where the classes are grades" if ordered else nearest(metric, valid),
            )
        return replace(self, metrics=(metric, *(name for name in self.metrics if name != metric)))


def named_labels(task: Task, there: Iterable[Any]) -> list[str]:
    """The names of the labels whose 0 or 1 of ``there`` (labels,) is 1."""
    return [name for name, one in zip(task.labels, there, strict=True) if one]


def name_of_files(named: str) -> str:
    """What people call the data in the files ``named``: reviews of reviews.csv.gz, agnews of agnews/train.csv or hub:fancy/agnews.

    A name that only tells a split is no name of data, so the folder's is taken then.
    """
    parts = [
        part for part in re.split(r"[/\\]", named.removeprefix("hub:").strip()) if part not in ("", ".", "..", "~")
    ]
    stems = [re.sub(r"[^\w-]+", "-", part.lstrip(".").split(".")[0]).strip("-_") for part in reversed(parts)]
    telling = [stem for stem in stems[:2] if stem and stem.lower() not in SPLIT_NAMES]
    return next(iter(telling), "") or next(filter(None, stems), "")


tasks: Registry[Task] = Registry("task", "lorakit.tasks.catalogue")


@dataclass
class TaskData:
    """A task and its rows.

    splits: "train", the task's validation splits, and its test splits where there are any. Their columns are ``text``,
    ``text_pair`` (pairs only), ``label`` (int, float for regression, a 0 or 1 for each label of a multi-label task; absent where the
    split has none) and ``idx``
    (int, the row's number at its source). origin: where the rows came from, for people; sources: split -> the files of a custom
    task's rows.
    """

    task: Task
    splits: dict[str, Dataset]
    origin: str
    sources: Mapping[str, Source] = field(default_factory=dict)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of ``metric`` is the better one: true for all but the errors."""
    return metric not in ERRORS
