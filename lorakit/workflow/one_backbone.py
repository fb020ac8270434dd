"""Whether runs stand on one backbone, so that one copy of its frozen tensors serves all of them; and what each is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lorakit.adapters.init import inits
from lorakit.adapters.method import resolve
from lorakit.artifacts.provenance import read_provenance
from lorakit.artifacts.run import Run, open_run
from lorakit.artifacts.standing import standing
from lorakit.backbone.quantised import MIXED
from lorakit.backbone.rope_scaling import KEY as ROPE_SCALING
from lorakit.errors import RunError, UsageError, command_line
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import AUTO, Recipe
from lorakit.workflow.ensembles import is_ensemble, members_of
from lorakit.workflow.restore import is_merged

COMPARED = (
    "model.revision",
    "model.dtype",
    "model.quantization",
    "model.quantization_group",
    "model.double_quant",
    "model.compute_dtype",
    "model.attention",
    "training.precision",
)
TRAINED = ("finished", "untrained")


def named_runs(runs: Iterable[str | Path | Mapping[str, str | Path]]) -> dict[str, Path]:
    """Name -> folder of folders, ``NAME=FOLDER`` and mappings; a folder alone has its own name. UsageError where two have one name."""
    found: dict[str, Path] = {}
    for given in runs:
        if not isinstance(given, (str, Path, Mapping)):
            raise UsageError(
                f"{given!r} names no run", valid="a folder, NAME=FOLDER, or a mapping from names to folders"
            )
        for name, folder in given.items() if isinstance(given, Mapping) else [split_name(given)]:
            if name in found:
                what = f"two runs are called {name}"
                raise UsageError(what, where=str(folder), valid="a name for each", hint=f"{name}2={folder}")
            found[name] = Path(folder)
    if not found:
        raise UsageError("there is no run to open", valid="RUN RUN, or NAME=RUN")
    return found


def split_name(given: str | Path) -> tuple[str, Path]:
    """``NAME=FOLDER`` taken apart; a folder that is there is one, whatever its name."""
    name, equals, folder = str(given).partition("=")
    if isinstance(given, Path) or not equals or not name or Path(given).exists():
        return Path(given).resolve().name, Path(given)
    return name, Path(folder)


def open_finished(path: Path) -> Run:
    """The run in ``path``. UsageError for what is none, or has a backbone of its own; RunError where it is not finished."""
    if is_merged(path):
        what = "is a merged model: its adapters are folded into weights that no other run has"
        raise UsageError(what, where=str(path), valid="the run it was made from")
    if is_ensemble(path):
        members = " ".join(str(member) for member in members_of(path))
        raise UsageError("is an ensemble of runs", where=str(path), valid="one adapter a name", hint=members)
    run = open_run(path)
    state = standing(run)
    if state.state not in TRAINED:
        hint = f"{command_line('train', path, '--resume')} finishes it"
        raise RunError(f"the run is not finished: {state}", where=str(path), hint=hint)
    return run


def check_one_backbone(first: Run, other: Run, compared: Sequence[str] = COMPARED) -> None:
    """UsageError where the two do not stand on the same frozen tensors, or one has some of its own choice.

    compared: the keys that have to be the same, beside the model.
    """
    ours, theirs = (load_recipe(run.recipe).recipe for run in (first, other))
    for run, recipe in ((first, ours), (other, theirs)):
        check_as_loaded(run, recipe)
    pairs: list[tuple[str, object, object]] = [
        ("model.name", base_name(ours), base_name(theirs)),
        (ROPE_SCALING, scaling(ours), scaling(theirs)),
    ]
    pairs += [(key, value(ours, key), value(theirs, key)) for key in compared]
    for key, own, found in pairs:
        if own != found:
            raise another(first, other, f"{key} is {told(found)} here, and {told(own)} in {first.path}")
    before, now = (read_provenance(run.path) for run in (first, other))
    if before is not None and now is not None and before.told["base"] != now.told["base"]:
        raise another(first, other, f"it was trained on other weights of {ours.model.name} than {first.path}")


def check_as_loaded(run: Run, recipe: Recipe) -> None:
    """UsageError where the run, of this recipe, stands on quantised weights of its own choice."""
    if inits.get(resolve(recipe.adapter).init).quantises or recipe.model.quantization == MIXED:
        what = "its quantised weights were chosen in its own training, and no other run stands on them"
        raise UsageError(what, where=str(run.path), valid="runs on weights as they are loaded", hint="each by itself")


def another(first: Run, other: Run, what: str) -> UsageError:
    """The message about a run on another backbone."""
    return UsageError(what, where=str(other.path), valid=f"runs on the backbone of {first.path}", hint="each by itself")


def base_name(recipe: Recipe) -> str:
    """The model's name, or its folder."""
    return str(Path(recipe.model.name).resolve()) if Path(recipe.model.name).is_dir() else recipe.model.name


def scaling(recipe: Recipe) -> object:
    """By what rotary positions are divided, and for how long rows where these decide it."""
    given = recipe.model.rope_scaling
    return f"{given} for rows of {recipe.task.max_length} tokens" if given == AUTO else given


def value(recipe: Recipe, key: str) -> object:
    """What a recipe has under ``SECTION.KEY``."""
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def told(given: object) -> str:
    """A value in words."""
    return " ".join(map(str, given)) if isinstance(given, tuple) else str(given)
