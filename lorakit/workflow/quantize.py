"""``lorakit quantize``: a run on 4-bit weights, with the low-rank part of what they lose in its adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.quantisation_error import low_rank_error
from lorakit.artifacts.calibration_file import write_calibration
from lorakit.artifacts.combination import Factors, Update, nothing_at, truncated
from lorakit.artifacts.correction import RANK
from lorakit.artifacts.run import Run, new_run, open_run
from lorakit.backbone.quantised import GROUP, NONE, QuantisedLinear, check_installed
from lorakit.backbone.site import Site
from lorakit.errors import RunError, UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.result import Result
from lorakit.searching.input_statistics import seen_inputs
from lorakit.tasks.batching import Batch, Encoded
from lorakit.tasks.metrics import main_metric
from lorakit.training.evaluation import decide, predict_logits, score_logits
from lorakit.training.objective import Objective
from lorakit.training.seeds import generator
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.combine.combine import fill
from lorakit.workflow.combine.members import training_batches, updates_of
from lorakit.workflow.import_peft import write_run
from lorakit.workflow.memory import all_tensors
from lorakit.workflow.plain_lora import as_plain_lora, check_projections_alone, low_rank_factors
from lorakit.workflow.prepare import calibrate_first
from lorakit.workflow.restore import RestoredRun, restore_run
from lorakit.workflow.same_data import combined
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.verify import check_target

METHODS = ("lqer", "l2qer")
BITS = ("int4", "nf4")


@dataclass(frozen=True)
class Scored(Result):
    """The classifier in one state.

    Attributes:
        name: which one.
        bytes: of all its tensors, adapters and head too.
        error: the root of the mean squared difference of its logits to those of before, as a share of the root of their mean square.
        largest: the largest such difference.
        flips: labels that changed; 0 for a number to predict.
        score: the task's main metric; None where the rows have no labels.
    """

    name: str
    bytes: int
    error: float
    largest: float
    flips: int
    score: float | None


@dataclass(frozen=True)
class QuantizeResult(Result):
    """What was written, and what it costs and gives.

    Attributes:
        out: the new run's folder.
        source: the run it was made from.
        method: lqer or l2qer.
        bits: int4 or nf4.
        sites: weights that are quantised.
        rank: of the correction.
        ranks: the lowest and the highest of the new run's sites: that of the run's own update, where it has one, and the correction.
        rows: training rows looked at.
        metric: the task's main one.
        scored_rows: of the validation split.
        states: as it was, quantised, and corrected.
    """

    out: Path
    source: Path
    method: str
    bits: str
    sites: int
    rank: int
    ranks: tuple[int, int]
    rows: int
    metric: str
    scored_rows: int
    states: list[Scored]


def quantize(
    run: str | Path,
    *,
    method: str = "l2qer",
    bits: str = "int4",
    group: int = GROUP,
    rank: int = 32,
    rows: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    weights: str | None = None,
) -> QuantizeResult:
    """Put a finished run on 4-bit weights without training it, and give its adapters the low-rank part of what that loses.

    The result is a run with a plain LoRA over ``model.quantization``: the run's own update, exactly, and the correction. The
    temperature of its probabilities is fitted anew on the validation rows, where the run's recipe wants one.

    Args:
        run: the run's folder.
        method: lqer corrects the error of the weights, l2qer that of what they give for the inputs of training rows.
        bits: int4 or nf4.
        group: of int4: inputs that have a scale and a zero point in common.
        rank: of the correction, at every quantised weight.
        rows: of the run's training data, for l2qer.
        seed: which rows these are, and what is drawn to find the singular vectors of large matrices.
        out: the new run's folder; NAME-BITS-SEED beside the run by default.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run says by default.

    Returns:
        The new run, and its bytes, logits and score beside those of before, with and without the correction.

    Raises:
        UsageError: for arguments that make no sense, a folder that is no run, one that is quantised already, or where ``out`` exists.
        RecipeError: where bits needs a package that is not installed.
        RunError: for a model without plain Linear modules, and a run whose adapters are not updates of weights, of low rank.

    Example:
        >>> small = lorakit.quantize("runs/demo-0", rank=16)                   # doctest: +SKIP
        >>> small.states[-1].score, small.states[-1].bytes                     # doctest: +SKIP
    """
    check_arguments(method, bits, group, rank, rows)
    check_installed(bits)
    source = Path(run)
    check_source(source)
    restored = restore_run(source, weights)
    check_quantisable(restored)
    recipe = restored.loaded.recipe
    name = Path(out).resolve().name if out else f"{recipe.run.name}-{bits}"
    target = Path(out) if out else new_run(source.parent, name, recipe.run.seed).path
    check_target(target)
    held = restored.parts.task.validation[0]
    encoded, model = restored.parts.encode(held)[held], restored.adapted.model
    plainly = replace(recipe, training=replace(recipe.training, precision="fp32"))  # autocast's rounding tells nothing
    objective = put_on_device(model, plainly, regression=restored.parts.task.regression)
    before = predict_logits(model, encoded, objective, recipe.evaluation.batch_size)
    states = [scored("as it was", held_bytes(restored.adapted), restored, encoded, before, before)]
    sites = quantisable(restored)
    magnitudes: Mapping[str, torch.Tensor] = {}
    if method == "l2qer":
        magnitudes = input_magnitudes(model, sites, training_batches(restored, rows, seed), objective)
    updates, head = take_apart(restored)
    changed = on_quantised(restored, sites, updates, name, bits, group, rank)
    with changed.locating_errors():
        parts = assemble(changed, restored.parts.data)
        adapted = adapt(parts, statistics=None)
    own, whole = factors_of(restored, adapted, sites, updates, magnitudes, rank, seed)
    objective.accelerator.prepare_model(adapted.model)
    total = held_bytes(adapted)
    of_correction = sum(
        parameter.nbytes * (adapter.rank - len(own[name][1])) // adapter.rank
        for name, adapter in adapted.adapters.items()
        for parameter in adapter.parameters()
    )
    for state, taken, factors in (("quantised", total - of_correction, own), ("corrected", total, whole)):
        fill(adapted, factors, head)
        logits = predict_logits(adapted.model, encoded, objective, recipe.evaluation.batch_size)
        states.append(scored(state, taken, restored, encoded, logits, before))
    ranks = [adapter.rank for adapter in adapted.adapters.values()]
    fitted = calibrate_first(parts, {held: encoded}, {held: logits})
    calibration = {} if fitted is None else {"last": fitted}
    origin = {"quantised": str(source), "method": method, "bits": bits, RANK: rank}
    told = {"calibration": {name: asdict(each) for name, each in calibration.items()}}
    write_run(target, changed, parts.task, adapted, origin | told, combined([restored.run]))
    write_calibration(Run(target), calibration)
    return QuantizeResult(
        out=target,
        source=source,
        method=method,
        bits=bits,
        sites=len(sites),
        rank=rank,
        ranks=(min(ranks), max(ranks)),
        rows=rows if magnitudes else 0,
        metric=main_metric(parts.task),
        scored_rows=len(encoded),
        states=states,
    )


def check_arguments(method: str, bits: str, group: int, rank: int, rows: int) -> None:
    """UsageError for values that make no sense."""
    if method not in METHODS:
        raise UsageError(f"there is no method '{method}' to correct with", valid=", ".join(METHODS))
    if bits not in BITS:
        raise UsageError(f"weights cannot be quantised to '{bits}' here", valid=", ".join(BITS))
    if group < 2 or group % 2:
        raise UsageError(f"groups of {group} inputs cannot be had", valid="an even number, as 32")
    if group != GROUP and bits != "int4":
        raise UsageError(f"{bits} has no groups of inputs", hint="leave --group out")
    if rank < 1:
        raise UsageError(f"a rank of {rank} cannot be had", valid="1 or more")
    if rows < 1:
        raise UsageError(f"{rows} rows cannot be looked at", valid="1 or more")


def check_source(source: Path) -> None:
    """UsageError for a model's folder and for a step of a run: neither has the adapters of a finished run; for one in few bits already."""
    if (source / "recipe.yaml").exists():
        if (kind := load_recipe(open_run(source).recipe).recipe.model.quantization) != NONE:
            what = f"this run is in {kind} already"
            raise UsageError(what, where=str(source), valid="a run with model.quantization=none")
        return
    if (source / "config.json").is_file():
        what = "is a model, and no run, whose adapters could hold what rounding it loses"
        hint = f"the run that it was merged from; or a training over it: model.name={source} model.quantization=int4"
        raise UsageError(what, where=str(source), valid="the folder of a finished run", hint=hint)
    if source.parent.name == "checkpoints" and (source.parent.parent / "recipe.yaml").is_file():
        what = "is a step of a run, which is to be finished first"
        raise UsageError(what, where=str(source), valid=str(source.parent.parent))


def check_quantisable(restored: RestoredRun) -> None:
    """Refuse a model without anything to quantise, and adapters that are no updates of projections."""
    where = str(restored.run.path)
    if not quantisable(restored):
        raise RunError("this model has no plain Linear that could be quantised", where=where)
    check_projections_alone(
        restored, "is carried over", "a run without shortcuts, and with a method that updates weights"
    )


def quantisable(restored: RestoredRun) -> list[Site]:
    """The sites whose weight is that of a plain Linear."""
    model = restored.parts.backbone.model
    return [site for site in restored.parts.backbone.anatomy.sites if type(model.get_submodule(site.name)) is nn.Linear]


@torch.no_grad()
def input_magnitudes(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], objective: Objective
) -> dict[str, torch.Tensor]:
    """Site -> the mean of |x| (in,) over the tokens of the batches; the authors' code takes the largest mean of a batch."""
    totals = {site.name: torch.zeros(site.in_features) for site in sites}
    counts = dict.fromkeys(totals, 0)

    def see(name: str, x: torch.Tensor) -> None:
        totals[name] += x.abs().sum(dim=0).cpu()
        counts[name] += len(x)

    modules = {name: model.get_submodule(name) for name in totals}
    for batch in batches:
        with seen_inputs(model, modules, see):
            objective.logits(model, batch)
    return {name: total / max(counts[name], 1) for name, total in totals.items()}


def take_apart(restored: RestoredRun) -> tuple[dict[str, Update], dict[str, torch.Tensor]]:
    """The run's updates and head. Its adapters are in float64 afterwards."""
    adapted = restored.adapted
    state = adapted.tensors()
    head = {name: state[name].detach().cpu().clone() for name in adapted.new_parts}
    adapted.model.cpu()
    updates = updates_of(restored, "carried over")
    why = ", and a plain LoRA cannot carry it over"
    low_rank_factors(updates, restored, why, valid="a run of lora, or of another sum of low rank")
    return updates, head


def on_quantised(
    restored: RestoredRun,
    sites: Sequence[Site],
    updates: Mapping[str, Update],
    name: str,
    bits: str,
    group: int,
    rank: int,
) -> LoadedRecipe:
    """The run's recipe with quantised weights, and a plain LoRA wherever there is an update or a correction."""
    corrected = {site.name for site in sites}
    ranks = {}
    for site in restored.parts.backbone.anatomy.sites:
        wanted = (updates[site.name].rank if site.name in updates else 0) + rank * (site.name in corrected)
        if wanted:
            ranks[site.name] = min(wanted, site.in_features, site.out_features)
    model = replace(restored.loaded.recipe.model, quantization=bits, quantization_group=group)
    return as_plain_lora(restored, name, ranks, model=model)


@torch.no_grad()
def factors_of(
    restored: RestoredRun,
    adapted: AdaptedModel,
    sites: Sequence[Site],
    updates: Mapping[str, Update],
    magnitudes: Mapping[str, torch.Tensor],
    rank: int,
    seed: int,
) -> tuple[dict[str, Factors], dict[str, Factors]]:
    """Site -> factors of the run's own update, and of that with the correction of the quantised weight."""
    corrected = {site.name for site in sites}
    own: dict[str, Factors] = {}
    whole: dict[str, Factors] = {}
    for name, adapter in adapted.adapters.items():
        update = updates.get(name) or nothing_at(adapter.site)
        assert update.factors is not None
        own[name] = truncated(update.factors, adapter.rank)[0]
        whole[name] = own[name]
        if name in corrected:
            module = adapter.base
            assert isinstance(module, QuantisedLinear)
            weight = restored.parts.backbone.model.get_submodule(name).get_parameter("weight")
            error = weight.double() - module.weight.double()
            drawn = generator(seed, f"quantize/{name}")
            b, a = low_rank_error(error, min(rank, *error.shape), drawn, magnitudes.get(name))
            both = torch.cat([own[name][0], b], dim=1), torch.cat([own[name][1], a])
            whole[name] = truncated(both, adapter.rank)[0]
    return own, whole


def held_bytes(adapted: AdaptedModel) -> int:
    """Of all tensors of the model, adapters and head too."""
    return sum(tensor.nbytes for tensor in all_tensors(adapted.model))


def scored(
    name: str,
    taken: int,
    restored: RestoredRun,
    encoded: Encoded,
    logits: np.ndarray,
    before: np.ndarray,
) -> Scored:
    """What became of the logits; taken: bytes."""
    task = restored.parts.task
    moved = np.abs(logits - before)
    metric = main_metric(task)
    return Scored(
        name=name,
        bytes=taken,
        error=float(np.sqrt(np.mean(moved**2) / max(np.mean(before**2), np.finfo(np.float32).tiny))),
        largest=float(moved.max()),
        flips=0 if task.regression else int((decide(task, logits) != decide(task, before)).sum()),
        score=None if encoded.labels is None else score_logits(task, logits, encoded)[metric],
    )
