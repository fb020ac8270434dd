"""``lorakit.attach_saved``: a saved adapter on a model again, of ``Adapted.save`` or of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lorakit.adapters.attach import NO_SITE_STATISTICS
from lorakit.artifacts.adapter_file import OURS, load_adapter, told_adapter
from lorakit.artifacts.provenance import read_provenance
from lorakit.artifacts.records import number, reading, words
from lorakit.artifacts.ternary_file import is_ternary, load_ternary, starts_drawn
from lorakit.backbone.load import DTYPES
from lorakit.backbone.model_folder import find_checkpoint, weight_digests
from lorakit.backbone.own_model import check_plain, frozen_tensors
from lorakit.backbone.quantised import NONE
from lorakit.backbone.readout import OWN
from lorakit.backbone.trained_head import Outputs
from lorakit.errors import LorakitError, RunError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import ModelSection, Recipe
from lorakit.workflow.own_loop.adapt import adapt_by
from lorakit.workflow.own_loop.adapted import Adapted, digests_of
from lorakit.workflow.own_loop.settings import read_settings
from lorakit.workflow.restore import open_trained
from lorakit.workflow.same_data import run_of

CALL = "lorakit.attach_saved"
UNCHECKED = "check_base=False where you know that it is the same model"


@dataclass(frozen=True)
class Saved:
    """An adapter on disk: the folder of its tensors, what lorakit.json there tells, how it was made, and the run, where it is one's."""

    place: Path
    told: Mapping[str, Any]
    recipe: Recipe
    seed: int
    run: Path | None = None


def attach_saved(
    model: nn.Module, folder: str | Path, *, weights: str | None = None, check_base: bool = True
) -> Adapted:
    """Put a saved adapter on a model, and its trained head into it: the logits are those of before, bit for bit.

    Args:
        model: the one that the adapter was trained on, as it was loaded then: the same weights in the same dtype, nothing attached. It
            keeps its device and its modes, and can be trained on.
        folder: what ``Adapted.save`` wrote; or a run of `lorakit train`, or its ``adapter`` or ``best`` folder.
        weights: of a run, the ``last`` or the ``best``; those that its training.select says by default.
        check_base: whether to compare the model's weights with those of then: tensor by tensor with what ``Adapted.save`` wrote; of a
            run the weight files of the model's folder, for a run keeps no other digests. A model whose weights were changed after it
            was loaded is not told from another by its files.

    Returns:
        As of ``lorakit.adapt``: the sites, states and ranks are the saved ones.

    Raises:
        RunError: for a folder that is damaged or another library's, for other weights or labels, and for a run whose model is more than
            a checkpoint with adapters (quantised weights, another read-out, stretched positions): ``lorakit.load`` reads those.
        UsageError: for a model that is adapted or wrapped already.

    Example:
        >>> adapted = lorakit.attach_saved(model, "runs/demo-0")               # doctest: +SKIP
    """
    check_plain(model)
    saved = read_saved(Path(folder), weights)
    new_parts = [str(name) for name in saved.told.get("new_parts", [])]
    if lost := sorted(set(new_parts) - {name for name, _ in model.named_parameters()}):
        raise RunError(
            f"this {type(model).__name__} has no {lost[0]}, which trained with the adapter", where=str(folder)
        )
    check_outputs(model, saved)
    if check_base:
        check_weights(model, saved, new_parts)
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    start = NO_SITE_STATISTICS if starts_drawn(saved.place) else None
    adapted = adapt_by(saved.recipe, model, new_parts, saved.seed, lambda sites, spec, backbone: start)
    try:
        (load_ternary if is_ternary(saved.place) else load_adapter)(adapted.inside, saved.place)
        adapted.put_buffers(saved.place, saved.told.get("buffers", []))
    except LorakitError:
        adapted.take_away()
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)
        raise
    return adapted


def read_saved(path: Path, weights: str | None) -> Saved:
    """What ``path`` names. RunError for what cannot be put on a model that somebody loaded."""
    if (path / OURS).is_file() and "adapter" in (told := told_adapter(path)):
        with reading(path / OURS, "the description of an adapter"):
            words(told["new_parts"], "new_parts")
            seed = int(number(told["seed"], "seed", whole=True))
            words(told.get("buffers", []), "buffers")
            if not all(isinstance(text, str) for text in told["frozen"].values()):
                raise ValueError("frozen names no digests")
            return Saved(path, told, read_settings(CALL, told["adapter"]), seed)
    run = run_of(path)
    if run is None:
        hint = "lorakit import makes a run of an adapter of PEFT" if (path / "adapter_config.json").is_file() else ""
        raise RunError("is neither a saved adapter nor a run", where=str(path), hint=hint)
    place = path
    if run.path == path:
        run, which = open_trained(path, weights)
        place = run.weights(which)
    recipe = load_recipe(run.recipe).recipe
    refuse_more(recipe, path)
    return Saved(place, told_adapter(place), recipe, recipe.run.seed, run.path)


def refuse_more(recipe: Recipe, path: Path) -> None:
    """RunError for a run whose model is not what transformers loads."""
    model = recipe.model
    more = {
        f"its weights are quantised (model.quantization: {model.quantization})": model.quantization != NONE,
        f"its head reads another thing (model.readout: {model.readout})": model.readout != OWN,
        f"its positions are stretched (model.rope_scaling: {model.rope_scaling})": model.rope_scaling is not None,
    }
    if reasons := [why for why, so in more.items() if so]:
        raise RunError(
            f"this run's model is not as transformers loads it: {reasons[0]}", where=str(path), hint="lorakit.load"
        )


def check_outputs(model: nn.Module, saved: Saved) -> None:
    """RunError where the model names its outputs, and names others than those that were trained."""
    own, trained = Outputs.of(getattr(model, "config", None)), tuple(saved.told.get("labels", ()))
    if not trained or not own.number:
        return
    usual = tuple(f"LABEL_{place}" for place in range(own.number))
    if own.number != len(trained) or (own.names not in ((), usual, trained) and trained != usual):
        what = f"the head was trained for {', '.join(trained)}, and this model's outputs are {', '.join(own.names) or own.number}"
        raise RunError(what, where=str(saved.place), hint=f"from_pretrained(..., num_labels={len(trained)})")


def check_weights(model: nn.Module, saved: Saved, new_parts: Sequence[str]) -> None:
    """RunError where the model's frozen weights are not those that the adapter was trained on, as far as that was written down."""
    hint = f"{saved.told.get('model')} as it was loaded then, in the same dtype; {UNCHECKED}"
    if saved.run is None:
        then, now = saved.told["frozen"], digests_of(frozen_tensors(model, new_parts))
        if other := sorted(name for name in {*then, *now} if then.get(name) != now.get(name)):
            what = f"was trained on other weights: {len(other)} tensors of {len({*then, *now})} are not as they were, such as {other[0]}"
            raise RunError(what, where=str(saved.place), hint=hint)
        return
    provenance = read_provenance(saved.run)
    if provenance is None or not provenance.told["base"]:
        return
    kinds = {parameter.dtype for name, parameter in model.named_parameters() if name not in set(new_parts)}
    if DTYPES[saved.recipe.model.dtype] not in kinds:
        what = f"was trained on weights in {saved.recipe.model.dtype}, and these are in {', '.join(map(str, kinds))}"
        raise RunError(what, where=str(saved.run), hint=hint)
    name = str(getattr(model, "name_or_path", ""))
    try:
        files = weight_digests(find_checkpoint(ModelSection(name=name), offline=True))
    except LorakitError:
        what = (
            f"nothing tells whether this model is the one that {saved.run} was trained on: it has no files at '{name}'"
        )
        raise RunError(what, valid=hint, hint=UNCHECKED) from None
    before = provenance.told["base"]
    if other := sorted(name for name in {*before, *files} if before.get(name) != files.get(name)):
        raise RunError(
            f"was trained on other weights: {', '.join(other)} has another content", where=str(saved.run), hint=hint
        )
