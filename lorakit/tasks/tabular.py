"""``task.name: custom``: the user's own files, saved data sets, and data sets of the hub with any columns."""

from __future__ import annotations

import logging

from lorakit.errors import DataError, Problem
from lorakit.recipe.schema import CUSTOM, TaskSection
from lorakit.tasks.data_files import find_files
from lorakit.tasks.data_sets import DataSet, find_data_set
from lorakit.tasks.held_out import hold_out_of
from lorakit.tasks.label_sets import SAID, LabelSets
from lorakit.tasks.labels import INTEGER, LabelMap, fold, written
from lorakit.tasks.rows import Columns, Rows
from lorakit.tasks.splits import build_split
from lorakit.tasks.stored_rows import Source, read_rows
from lorakit.tasks.task import MULTI_LABEL_METRICS, ORDERED_METRICS, OWN_DATA, Task, TaskData, name_of_files

logger = logging.getLogger(__name__)

FRACTION = TaskSection.validation_fraction  # by default
SPLITS = ("train", "validation", "test")
SIBLINGS = (("1", "2"), ("_a", "_b"), ("premise", "hypothesis"))  # endings of two columns that are one example


def load_custom(section: TaskSection, *, seed: int, offline: bool = False) -> TaskData:
    """The custom task and its splits.

    Label names come from ``labels``, else from the training file: those of its own schema, integers in their order (0..n-1 stay
    as they are), other labels sorted. Without validation rows ``validation_fraction`` of the training rows is held out
    (``hold_out_of``); idx stays the row's number in its file. Raises DataError about anything wrong, with file and lines, and about
    data on the hub when ``offline``.
    """
    text, label = check_section(section)
    sources, told = find_sources(section, offline=offline)
    columns = {name: columns_of(section, text, label, name) for name in sources}
    rows = {name: read_source(source, columns[name], key=f"task.{name}") for name, source in sources.items()}
    told += dict.fromkeys(f"{read.path}: {note}" for read in rows.values() for note in read.notes)
    for line in told:
        logger.info("%s", line)
    if len(text) == 1:
        refuse_half_pair(rows["train"], text[0])
    labels = None if section.regression else label_map(section, rows["train"], label)
    if isinstance(labels, LabelSets) and labels.separator and section.label_separator is None:
        told.append(f"{rows['train'].path}: labels are separated by {SAID[labels.separator]}")
    task = custom_task(section, text, label, labels)
    hint = "" if section.labels or section.label_columns else "give all label names as task.labels"
    splits = {name: build_split(rows[name], columns[name], labels, label_hint=hint) for name in rows}
    if "validation" not in splits:
        splits = hold_out_of(splits.pop("train"), section, seed) | splits
    named = ", ".join(name for split in SPLITS if (name := getattr(section, split)) is not None)
    return TaskData(task, splits, "; ".join([named, *told]), sources)


def find_sources(section: TaskSection, *, offline: bool) -> tuple[dict[str, Source], list[str]]:
    """Where the rows of each split are, and what to tell about it.

    Validation and test that the section does not name are taken from the data set that its training rows are from, where that
    has such splits.
    """
    found: dict[str, Source] = {}
    told: list[str] = []
    whole: DataSet | None = None
    for split in SPLITS:
        named, key = getattr(section, split), f"task.{split}"
        if named is not None:
            source = find_data_set(named, key, offline=offline) or find_files(named, key, labelled=split != "test")
            found[split] = source.split(split, key) if isinstance(source, DataSet) else source
            whole = source if split == "train" and isinstance(source, DataSet) and not source.chosen else whole
        elif whole and (name := whole.name_of(split)):
            found[split] = whole.split(split, key)
            told.append(f"{whole.name}: its split '{name}' is the {split} rows")
    if "validation" in found and not section.validation and section.validation_fraction != FRACTION:
        wrong = f"has no effect: {found['validation'].name} holds the validation rows"
        raise DataError(wrong, key="task.validation_fraction", hint="leave it out, or name one split as task.train")
    return found, told


def columns_of(section: TaskSection, text: tuple[str, ...], label: str, split: str) -> Columns:
    """What is read of a split's file."""
    keys = ("task.text", "task.text_pair")
    columns = tuple(section.label_columns)
    label_key = "task.label_columns" if columns else "task.label"
    optional = split == "test"
    return Columns(
        text,
        label,
        section.regression,
        optional,
        keys=keys,
        label_key=label_key,
        multi_label=section.multi_label,
        label_columns=columns,
    )


def check_section(section: TaskSection) -> tuple[tuple[str, ...], str]:
    """The text columns and the label column. Raises DataError with everything that is wrong in the section itself."""
    problems = [
        Problem(f"a custom task needs {what}", key=f"task.{key}", hint=f"task.{key}={example}")
        for key, what, example in (
            ("train", "a training file", "train.csv"),
            ("text", "the name of its text column", "sentence"),
            ("label", "the name of its label column", "label"),
        )
        if not getattr(section, key) and not (key == "label" and section.label_columns)
    ]
    problems += several_problems(section)
    if section.data != "auto":
        problems.append(Problem("a custom task reads task.train, not task.data", key="task.data", hint="leave it out"))
    if section.text and section.text == section.text_pair:
        problems.append(
            Problem(f"both texts are the column '{section.text}'", key="task.text_pair", valid="another column")
        )
    if section.label and section.label in (section.text, section.text_pair):
        problems.append(
            Problem(f"column '{section.label}' is both text and label", key="task.label", valid="another column")
        )
    if section.labels and section.regression:
        problems.append(Problem("a number to predict has no label names", key="task.labels", hint="leave it out"))
    if section.labels and (len({fold(written(name) or name) for name in section.labels}) < max(2, len(section.labels))):
        problems.append(Problem("not a list of names", key="task.labels", valid="two or more, all different"))
    if not section.validation and not 0 < section.validation_fraction < 1:
        wrong = f"{section.validation_fraction} of the rows cannot be held out"
        problems.append(Problem(wrong, key="task.validation_fraction", valid="more than 0, less than 1"))
    if problems:
        raise DataError(problems)
    columns = (section.text, section.text_pair) if section.text_pair else (section.text,)
    return tuple(str(column) for column in columns), section.label or ""


def several_problems(section: TaskSection) -> list[Problem]:
    """What is wrong with the keys of several labels a row, and of grades."""
    problems, columns = [], section.label_columns
    for key, given in (("label_columns", bool(columns)), ("label_separator", section.label_separator is not None)):
        if given and not section.multi_label:
            problems.append(Problem("is for several labels a row", key=f"task.{key}", hint="task.multi_label=true"))
    if columns and (section.label or section.labels or section.label_separator is not None):
        wrong = "name the labels already: no other column, name or separator is read"
        problems.append(Problem(wrong, key="task.label_columns", valid="without label, labels and label_separator"))
    if columns and (len(set(columns)) < max(2, len(columns)) or {section.text, section.text_pair} & set(columns)):
        valid = "two or more, all different, and none of them a text"
        problems.append(Problem("not a list of label columns", key="task.label_columns", valid=valid))
    kinds = [key for key in ("regression", "multi_label", "ordered") if getattr(section, key)]
    if len(kinds) > 1:
        which = " and ".join(kinds)
        problems.append(Problem(f"a task cannot be {which}", key=f"task.{kinds[-1]}", valid="one of them"))
    return problems


def read_source(source: Source, columns: Columns, *, key: str) -> Rows:
    """The rows of one split. Raises DataError where they are broken, or none."""
    rows = read_rows(source, columns)
    if not len(rows):
        raise DataError("the file has a header but no rows", where=source.name, key=key)
    return rows


def refuse_half_pair(rows: Rows, text: str) -> None:
    """Raise DataError where ``text`` looks like one half of a pair and the other half lies beside it."""
    for first, second in SIBLINGS:
        for ending, other in ((first, second), (second, first)):
            sibling = text.removesuffix(ending) + other
            if text.endswith(ending) and sibling in rows.names:
                pair = (text, sibling) if ending == first else (sibling, text)
                raise DataError(
                    f"{rows.path} holds pairs ('{pair[0]}' and '{pair[1]}'), and only '{text}' is used",
                    key="task.text_pair",
                    hint=f"task.text={pair[0]} task.text_pair={pair[1]}; to use one of them alone, rename it in the file",
                )


def label_map(section: TaskSection, train: Rows, label: str) -> LabelMap | LabelSets:
    """From the labels in the files to ids: by the names given, else as found in the training file."""
    if section.multi_label:
        if section.label_columns:
            return LabelSets.of_names(section.label_columns)
        if section.labels:
            return LabelSets.of_names(section.labels, section.label_separator).with_ids(train)
        return LabelSets.found_in(train, label, section.label_separator)
    if section.labels:
        return LabelMap.of_names(section.labels, train)
    found = LabelMap.found_in(train, label)
    if section.ordered and not train.classes and not all(INTEGER.fullmatch(name) for name in found.names):
        what = f"{train.path}: nothing tells the order of the grades {', '.join(found.names)}"
        raise DataError(what, key="task.ordered", hint="task.labels names them from the lowest to the highest")
    return found


def custom_task(section: TaskSection, text: tuple[str, ...], label: str, labels: LabelMap | LabelSets | None) -> Task:
    """The Task of a custom section; labels: None for regression."""
    names = labels.names if labels else ()
    if section.regression:
        metrics: tuple[str, ...] = ("pearson", "spearman", "mse")
    elif section.multi_label:
        metrics = MULTI_LABEL_METRICS
    else:
        metrics = ("accuracy", "f1" if len(names) == 2 else "macro_f1", *(ORDERED_METRICS if section.ordered else ()))
    return Task(
        CUSTOM,
        f"{OWN_DATA}{section.train}",
        text,
        label,
        names,
        metrics,
        called=name_of_files(str(section.train)),
        ordered=section.ordered,
        multi_label=section.multi_label,
        label_columns=tuple(section.label_columns),
        label_separator=(labels.separator or "") if isinstance(labels, LabelSets) else "",
    ).with_metric(section.metric)
