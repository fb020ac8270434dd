"""What a task is: its columns, its labels, its metrics. No data and no heavy import here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from lorakit.errors import DataError, nearest
from lorakit.registry import Registry

if TYPE_CHECKING:
    from datasets import Dataset

    from lorakit.tasks.stored_rows import Source

CLASSIFICATION_METRICS = ("accuracy", "f1", "macro_f1", "matthews")
OWN_DATA = "your own data: "  # how the title of a task of own files begins, before their name
SPLIT_NAMES = ("train", "training", "data")
REGRESSION_METRICS = ("pearson", "spearman", "mse")


@dataclass(frozen=True)
class Task:
    """One thing to learn: text, or a pair of texts, to a label or a number.

    name: what a recipe calls it; title: one line for people; text: one or two source columns; label: the source column;
    labels: label names in the order of their ids, () for regression; metrics: the first is the main one; validation and
    test: names of the source's splits; hub: the arguments of ``datasets.load_dataset``; bundled: an installed package
    carries it, and ``data: auto`` reads it from there; submission: how GLUE's submission file writes a prediction, for
    GLUE tasks: a label's name, its id, or a score; called: what people call a task of their own files, see known_as.
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
        """Outputs of the head: one per class, 1 for regression."""
        return len(self.labels) or 1

    @property
    def pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text) == 2

    def with_metric(self, metric: str | None) -> Task:
        """The same task with ``metric`` as its main one; None keeps the task's own. Raises DataError if it does not suit."""
        if metric is None:
            return self
        kind = "regression"
        valid: tuple[str, ...] = REGRESSION_METRICS
        if not self.regression:
            # F1 is that of the second of two classes, as GLUE has it.
            kind = f"{len(self.labels)} classes"
            valid = tuple(name for name in CLASSIFICATION_METRICS if name != "f1" or len(self.labels) == 2)
        if metric not in valid:
            raise DataError(
                f"the metric '{metric}' does not suit task {self.name} ({kind})",
                key="task.metric",
                valid=", ".join(valid),
                hint=nearest(metric, valid),
            )
        return replace(self, metrics=(metric, *(name for name in self.metrics if name != metric)))


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
    ``text_pair`` (pairs only), ``label`` (int, or float for regression; absent where the split has none) and ``idx``
    (int, the row's number at its source). origin: where the rows came from, for people; sources: split -> the files of a custom
    task's rows.
    """

    task: Task
    splits: dict[str, Dataset]
    origin: str
    sources: Mapping[str, Source] = field(default_factory=dict)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of ``metric`` is the better one: true for all but mse."""
    return metric != "mse"
