"""What the keys of ``task`` must be together: where own data is, of which kind it is, and what is held out of it."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.errors import Problem
from lorakit.recipe.draft import Draft
from lorakit.recipe.keys import recipe_keys
from lorakit.recipe.schema import CUSTOM
from lorakit.recipe.values import written


def custom_task(draft: Draft) -> Iterator[Problem]:
    """A custom task says where its rows and columns are, and says nothing twice."""
    if draft["task.name"] != CUSTOM:
        return
    for name in ("train", "text", "label"):
        if draft[f"task.{name}"] is None and not (name == "label" and draft["task.label_columns"]):
            doc = recipe_keys()[f"task.{name}"].rule.doc.removeprefix("custom: ")
            yield draft.problem("must be given for a custom task", f"task.{name}", doc)
    columns: dict[str, str] = {}
    for path in ("task.text", "task.text_pair", "task.label"):
        column = draft[path]
        if column is not None and column in columns:
            yield draft.problem(f"is column '{column}', which is also {columns[column]}", path, "another column")
        columns.setdefault(column, path)
    yield from kind_of_task(draft)
    if draft["task.regression"] and draft["task.labels"]:
        yield draft.problem("names labels, but the label is a number (regression)", "task.labels", "one of the two")
    if len(draft["task.labels"]) == 1:
        yield draft.problem("is a single label: there is nothing to tell apart", "task.labels", "two or more labels")
    if draft["task.validation"] is not None and draft.changed("task.validation_fraction"):
        yield draft.problem(
            "has no effect: task.validation names the rows", "task.validation_fraction", "one of the two"
        )
    yield from folds_fit(draft)
    if draft["task.validation"] is not None and not draft["task.holdout"] and draft.changed("task.split_seed"):
        yield draft.problem("has no effect: task.validation names the rows", "task.split_seed", "one of the two")
    if draft.changed("task.data"):
        yield draft.problem("has no effect on a custom task", "task.data", "auto", "task.train: FILE")


def kind_of_task(draft: Draft) -> Iterator[Problem]:
    """A custom task is of one kind, and has the keys of that kind alone."""
    kinds = [path for path in ("task.regression", "task.multi_label", "task.ordered") if draft[path]]
    for path in kinds[1:]:
        yield draft.problem(f"cannot be true with {kinds[0]} ({draft.where(kinds[0])})", path, "one of them")
    several = draft["task.multi_label"]
    for path in ("task.label_columns", "task.label_separator"):
        if not several and draft.changed(path):
            yield draft.problem("is for several labels a row", path, "none", "task.multi_label: true")
    columns = draft["task.label_columns"]
    for path in ("task.label", "task.labels", "task.label_separator"):
        if columns and draft.changed(path):
            yield draft.problem("has no effect: task.label_columns names the labels", path, "one of the two")
    if len(columns) == 1:
        yield draft.problem(
            "is a single label", "task.label_columns", "two or more; one alone is a task of two classes"
        )
    for path in ("task.text", "task.text_pair"):
        if draft[path] is not None and draft[path] in columns:
            yield draft.problem(f"is column '{draft[path]}', which is also a label", path, "another column")


def folds_fit(draft: Draft) -> Iterator[Problem]:
    """A fold is one of several, and is what is held out."""
    folds, fold = draft["task.folds"], draft["task.fold"]
    if folds is None and fold is None:
        return
    if folds is None or fold is None:
        given = "task.fold" if folds is None else "task.folds"
        yield draft.problem(
            "says one half of it", given, "task.folds and task.fold, or neither", "lorakit train --folds"
        )
        return
    if fold > folds:
        yield draft.problem(f"is not one of the {folds} folds", "task.fold", f"1 to {folds}")
    if draft["task.validation"] is not None:
        yield draft.problem("has no effect: task.validation names the rows", "task.folds", "one of the two")
    if draft.changed("task.validation_fraction"):
        yield draft.problem("has no effect: a fold is held out", "task.validation_fraction", "one of the two")


def held_out_rows_are_one_kind(draft: Draft) -> Iterator[Problem]:
    """A fold that is held out is to be scored."""
    if draft["task.holdout"] is not None and draft["task.folds"] is not None:
        what = "takes the place of the validation rows, and with task.folds a fold is those"
        yield draft.problem(what, "task.holdout", "one of the two")


def only_custom(draft: Draft) -> Iterator[Problem]:
    """Files and columns are for a custom task."""
    name = draft["task.name"]
    if name == CUSTOM:
        return
    for path, key in recipe_keys().items():
        if key.rule.doc.startswith("custom: ") and draft.changed(path):
            yield draft.problem(
                f"is for a custom task only, and the task is '{name}' ({draft.where('task.name')})",
                path,
                f"{written(key.default)}, its default",
                "task.name: custom",
            )


TASK_RULES = (custom_task, held_out_rows_are_one_kind, only_custom)
