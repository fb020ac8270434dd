"""``lorakit data``: what the data of a recipe is like, and what simple classifiers make of it, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.recipe.load import AnyRecipe, load_recipe
from lorakit.result import Result
from lorakit.tasks.baselines import Baseline, joined
from lorakit.tasks.survey import SplitSurvey, remarks, scripts_of, survey_split
from lorakit.workflow.baselines import measure_baselines
from lorakit.workflow.experts import assemble_with_experts
from lorakit.workflow.parts import Parts


@dataclass(frozen=True)
class DataReport(Result):
    """What data is like.

    Attributes:
        name: what people call the task.
        origin: where the rows come from.
        text: the columns of texts.
        label: the column of labels, or the columns of several with commas between them.
        regression: whether the label is a number to predict.
        model: whose tokens are counted, and whose frozen features a baseline uses.
        splits: what each is like, the training rows first.
        scripts: that the letters of the training texts are of, by their share.
        baselines: what simple classifiers get on the first validation split.
        metric: the task's main one.
        remarks: what to look at before training, a sentence each.
    """

    name: str
    origin: str
    text: tuple[str, ...]
    label: str
    regression: bool
    model: str
    splits: list[SplitSurvey]
    scripts: dict[str, float]
    baselines: list[Baseline]
    metric: str
    remarks: list[str]


def inspect_data(recipe: AnyRecipe, overrides: Sequence[str] = ()) -> DataReport:
    """Look at the data of a recipe, or at a file of texts and labels; nothing is trained or written.

    Args:
        recipe: a file of data, the name of a shipped recipe, a YAML file, a run's folder, a file of data, or a recipe that is loaded.
        overrides: ``KEY=VALUE`` each, which win over the recipe; ``evaluation.baselines=[]`` leaves the baselines out.

    Returns:
        Rows, classes, duplicates, texts with two labels, overlap between the splits, lengths, scripts, baselines.

    Raises:
        RecipeError: for a wrong recipe.
        DataError: for data that cannot be used, or columns that cannot be told.

    Example:
        >>> found = lorakit.inspect_data("reviews.csv")                        # doctest: +SKIP
        >>> found.splits[0].classes                                            # doctest: +SKIP
        {'bad': 212, 'good': 240}
    """
    loaded = load_recipe(recipe, overrides)
    loaded, parts = assemble_with_experts(loaded)
    with loaded.locating_errors():
        splits, scripts = survey(parts)
    task = parts.task
    return DataReport(
        name=task.known_as,
        origin=parts.data.origin,
        text=task.text,
        label=", ".join(task.label_columns) or task.label,
        regression=task.regression,
        model=loaded.recipe.model.name,
        splits=splits,
        scripts=scripts,
        baselines=measure_baselines(parts),
        metric=task.metrics[0],
        remarks=remarks(splits, scripts),
    )


def survey(parts: Parts) -> tuple[list[SplitSurvey], dict[str, float]]:
    """What the splits are like, the training rows first, and the scripts of their texts."""
    data, kept = parts.data, parts.max_length
    train = data.splits["train"]
    encoded = parts.encode(*data.splits)
    found = [
        survey_split(parts.task, name, rows, train, encoded[name].lengths, encoded[name].truncated, kept)
        for name, rows in data.splits.items()
    ]
    return found, scripts_of(joined(train))
