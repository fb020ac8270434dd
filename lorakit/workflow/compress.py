"""``lorakit compress``: a finished run whose adapter takes less room, without training it again.

svd cuts each update to a lower rank (Jiang et al. 2024, BYOM: Building Your Own Multi-Task Model For Free, the part on LoRA); the result
is a plain LoRA. compeft codes what training changed by signs (Yadav et al. 2023, ComPEFT: ``lorakit.artifacts.ternary``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from lorakit.adapters.adapted_model import digest_of
from lorakit.adapters.init import inits
from lorakit.adapters.method import resolve
from lorakit.artifacts.adapter_file import packed_state, read_tensors, told_adapter
from lorakit.artifacts.channel_cut import channel_cuts
from lorakit.artifacts.combination import Factors, Update, truncated, update_of
from lorakit.artifacts.correction import corrected
from lorakit.artifacts.run import Run, new_run, open_run
from lorakit.artifacts.ternary_file import FORM, coded_names, flat, write_ternary
from lorakit.errors import LorakitError, RunError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import Recipe
from lorakit.result import Result
from lorakit.workflow.combine.combine import fill
from lorakit.workflow.combine.members import updates_of
from lorakit.workflow.evaluate import EvalResult, evaluate
from lorakit.workflow.import_peft import write_run
from lorakit.workflow.plain_lora import as_plain_lora, check_projections_alone, low_rank_factors, renamed
from lorakit.workflow.restore import RestoredRun, is_merged, restore_run
from lorakit.workflow.same_data import combined
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.verify import check_target

METHODS = ("svd", "compeft")
DENSITY = 0.2
MADE = "compressed"
"""How a run's summary says what it was compressed from."""


@dataclass(frozen=True)
class Size(Result):
    """name: of what; before, after: bytes."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class RoleError(Result):
    """Of the sites of a role: how many there are, and how far their updates moved, as a share of their Frobenius norm."""

    role: str
    sites: int
    error: float


@dataclass(frozen=True)
class Code(Result):
    """kept: entries that are not zero; start: what they are added to, as the recipe's init has ``drawn`` it, or the ``own`` start of those
    tensors that have one; from_zero: tensors that count from zero all the same, being nearer to it; scale: as used; nearest: the one with
    the smallest error of the tensors.
    """

    kept: int
    start: str
    from_zero: int
    scale: float
    nearest: float


@dataclass(frozen=True)
class Scores(Result):
    """The run's main metric on its own validation rows, with its adapter as it was and compressed."""

    metric: str
    rows: int
    before: float
    after: float


@dataclass(frozen=True)
class CompressResult(Result):
    """What was written, and what it costs.

    Attributes:
        out: the new run's folder.
        source: the run it was made from.
        method: svd or compeft.
        ranks: of svd, the lowest and the highest of the sites; None of compeft.
        code: of compeft, what is kept; None of svd.
        entries: adapter numbers that were compressed.
        sizes: of the adapter's tensors, of the head, which stays whole, and of their folder with all files.
        errors: of the updates, by role; empty where the adapters are no updates of weights.
        error: of all updates together; None where errors is empty.
        scores: None where they were not asked for.
    """

    out: Path
    source: Path
    method: str
    ranks: tuple[int, int] | None
    code: Code | None
    entries: int
    sizes: list[Size]
    errors: list[RoleError]
    error: float | None
    scores: Scores | None


def compress(
    run: str | Path,
    *,
    method: str = "svd",
    rank: int | None = None,
    energy: float | None = None,
    density: float | None = None,
    scale: float | None = None,
    score: bool = False,
    out: str | Path | None = None,
    weights: str | None = None,
) -> CompressResult:
    """Make a smaller run of a finished one, whose adapter is its low-rank part, or its largest changes as signs.

    The head stays whole. No temperature is fitted to the new run's probabilities.

    Args:
        run: the run's folder.
        method: svd replaces each update by the nearest one of a lower rank; compeft keeps the largest changes of the adapter's tensors,
            each as a sign times one number.
        rank: of svd: the highest that a site keeps.
        energy: of svd, instead of a rank: the share of the squared singular values that every site keeps at least.
        density: of compeft: the share of the entries that is kept, 0.2 where none is given.
        scale: of compeft: the kept entries' size, in standard deviations of all entries. The one that is nearest to the entries themselves
            where none is given; the paper chooses it by validation scores.
        score: whether to score the run before and after on its own validation rows.
        out: the new run's folder; NAME-METHOD-SEED beside the run by default.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run says by default.

    Returns:
        The new run, what it weighs and how far its updates are from the run's.

    Raises:
        UsageError: for arguments that make no sense, a rank above the run's, a run that is compressed already, or where ``out`` exists.
        DataError: where it is to be scored, and its data cannot be used or have changed.
        RunError: for adapters that the method does not go with.

    Example:
        >>> small = lorakit.compress("runs/demo-0", method="svd", rank=2)      # doctest: +SKIP
        >>> small.error, small.sizes[0].after                                  # doctest: +SKIP
    """
    check_arguments(method, rank, energy, density, scale)
    source = Path(run)
    recipe = check_source(source)
    start = start_of(source, recipe) if method == "compeft" else "none"
    name = Path(out).resolve().name if out else f"{recipe.run.name}-{method}"
    target = Path(out) if out else new_run(source.parent, name, recipe.run.seed).path
    check_target(target)
    before = evaluate(source, weights=weights) if score else None
    restored = restore_run(source, weights, with_data=False, start=start)
    if not restored.adapted.in_function:
        raise RunError("this run has no adapter in its function", where=str(run))
    state = packed_state(restored.adapted)
    entries = sum(state[key].numel() for key in coded_names(restored.adapted))
    head = sum(state[key].nbytes for key in restored.adapted.new_parts)
    origin = {MADE: str(source), "digest": digest_of(state), "method": method}
    if method == "svd":
        write_svd(restored, target, name, origin, rank, energy)
    else:
        write_compeft(restored, target, name, origin, density or DENSITY, scale, start)
    small = restore_run(target, "last", with_data=False)
    errors, error = update_errors(restored, small)
    folders = restored.run.weights(restored.weights), Run(target).weights("last")
    code = told_adapter(folders[1]).get(FORM)
    ranks = [adapter.rank for adapter in small.adapted.adapters.values()]
    return CompressResult(
        out=target,
        source=source,
        method=method,
        ranks=(min(ranks), max(ranks)) if code is None else None,
        code=None if code is None else code_of(code),
        entries=entries,
        sizes=[
            Size("adapter", *(tensor_bytes(folder) - head for folder in folders)),
            Size("head", head, head),
            Size("all files", *(sum(path.stat().st_size for path in folder.iterdir()) for folder in folders)),
        ],
        errors=errors,
        error=error,
        scores=None if before is None else compared(before, evaluate(target)),
    )


def check_arguments(
    method: str, rank: int | None, energy: float | None, density: float | None, scale: float | None
) -> None:
    """UsageError for values that make no sense."""
    if method not in METHODS:
        raise UsageError(f"there is no method '{method}' to compress with", valid=", ".join(METHODS))
    of_another = {"svd": {"density": density, "scale": scale}, "compeft": {"rank": rank, "energy": energy}}[method]
    if given := [name for name, value in of_another.items() if value is not None]:
        other = next(name for name in METHODS if name != method)
        raise UsageError(f"{method} has no {given[0]}", hint=f"--method {other} has one")
    if method == "svd" and (rank is None) == (energy is None):
        raise UsageError("svd wants a rank or an energy, and one of them", hint="--rank 2, or --energy 0.9")
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} cannot be had", valid="1 or more")
    for name, share in (("energy", energy), ("density", density)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"{name} {share:g} is no share", valid="above 0, at most 1")
    if scale is not None and not (scale > 0 and math.isfinite(scale)):
        raise UsageError(f"a scale of {scale:g} cannot be had", valid="above 0")


def check_source(source: Path) -> Recipe:
    """The recipe of the run. UsageError for a folder that is none, or holds what cannot be compressed, or is already."""
    where = str(source)
    if is_merged(source):
        what = "is a merged folder: its adapters are in the weights"
        raise UsageError(what, where=where, valid="the run that was merged")
    run = open_run(source)
    if run.finished and (earlier := run.summary().get(MADE)):
        raise UsageError(f"is compressed already, from {earlier}", where=where, hint="compress that one")
    if corrected(run):
        what = "its adapters hold what quantising lost, which is no update that training made"
        raise UsageError(what, where=where, hint="compress the run that was quantised, then lorakit quantize")
    return load_recipe(run.recipe).recipe


def start_of(source: Path, recipe: Recipe) -> Literal["own", "drawn"]:
    """Whether the recipe's init draws what training began with, so that it can be drawn again, or looks at a model or data.

    RunError for adapters whose start is beside them, and for mixtures of finished runs, whose experts no training changed.
    """
    if recipe.adapter.experts:
        what = "its experts are adapters of other runs, of which its training changed nothing: as signs they would be others"
        raise RunError(what, where=str(source), hint="compress these runs, and mix what comes out")
    init = inits.get(resolve(recipe.adapter).init)
    if init.anchors or init.quantises:
        raise RunError(
            f"init '{init.name}' keeps its start beside the adapter: of both as signs little of their difference would be left",
            where=str(source),
            hint="" if init.quantises else "--method svd",
        )
    return "drawn" if init.needs == "nothing" else "own"


def write_svd(
    restored: RestoredRun, target: Path, name: str, origin: dict[str, Any], rank: int | None, energy: float | None
) -> None:
    """Write the run with a plain LoRA of lower ranks. RunError for updates that are not of low rank."""
    other = "--method compeft takes any adapter"
    check_projections_alone(restored, "svd compresses", other)
    state = packed_state(restored.adapted)
    head = {key: state[key].clone() for key in restored.adapted.new_parts}
    products = ": svd compresses products of two factors"
    factors = low_rank_factors(updates_of(restored, "compressed"), restored, products, hint=other)
    highest = max(min(b.shape[0], *a.shape) for b, a in factors.values())
    if rank is not None and rank > highest:
        raise UsageError(f"this run has no rank {rank}", where=str(restored.run.path), valid=f"1 to {highest}")
    wanted = {key: rank or rank_for(pair, energy or 1.0) for key, pair in factors.items()}
    cut = {key: truncated((b, a), min(wanted[key], b.shape[0], *a.shape))[0] for key, (b, a) in factors.items()}
    loaded = as_plain_lora(restored, name, {key: len(a) for key, (_, a) in cut.items()})
    parts = assemble(loaded, restored.parts.data)
    adapted = adapt(parts, statistics=None)
    fill(adapted, cut, head)
    told = {"rank": rank} if energy is None else {"energy": energy}
    write_run(target, loaded, parts.task, adapted, origin | told, combined([restored.run]))


def rank_for(factors: Factors, energy: float) -> int:
    """The lowest rank that keeps this share of the squared singular values of b a."""
    squares = torch.linalg.svdvals(core(*factors)).square()
    return int((squares.cumsum(0) < energy * squares.sum() * (1 - 1e-12)).sum()) + 1


def core(b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """A matrix no larger than the rank each way, with the singular values of b a."""
    return torch.linalg.qr(b)[1] @ torch.linalg.qr(a.T)[1].T


def write_compeft(
    restored: RestoredRun,
    target: Path,
    name: str,
    origin: dict[str, Any],
    density: float,
    scale: float | None,
    start: str,
) -> None:
    """Write the run with its adapter coded. RunError where training changed nothing, or closed what signs would open again."""
    assert restored.start is not None
    if cuts := channel_cuts(restored.adapted):
        what = f"its adapters close {cuts[0].kind} of the model, which as signs times one number would be open again"
        raise RunError(what, where=str(restored.run.path), hint="lorakit merge cuts them out")
    if all(map(torch.equal, flat(restored.adapted), restored.start)):
        raise RunError("its adapter is as it was at its start: there is nothing to code", where=str(restored.run.path))
    write = partial(write_ternary, start=restored.start, drawn=start == "drawn", density=density, alpha=scale)
    told = {"density": density, "scale": scale or "nearest"}
    loaded, task = renamed(restored, name), restored.parts.task
    write_run(target, loaded, task, restored.adapted, origin | told, combined([restored.run]), write)


def code_of(told: Mapping[str, Any]) -> Code:
    """What the record of a coded adapter tells."""
    return Code(told["kept"], told["start"], len(told["from_zero"]), told["scale"], told["nearest"])


def update_errors(before: RestoredRun, after: RestoredRun) -> tuple[list[RoleError], float | None]:
    """How far the updates moved, by role and in all; nothing where they are none of weights. The adapters are in float64 afterwards."""
    totals: dict[str, list[tuple[float, float]]] = {}
    for adapted in (before.adapted, after.adapted):
        for holder in (*adapted.adapters.values(), *adapted.shared.values()):
            holder.double()
    try:
        for name in before.adapted.in_function:
            was, now = (update_of(each.adapted.adapters[name], "compared") for each in (before, after))
            role = before.adapted.adapters[name].site.role
            totals.setdefault(role, []).append((distance(was, now) ** 2, distance(was) ** 2))
    except LorakitError:
        return [], None
    errors = [RoleError(role, len(found), share(found)) for role, found in totals.items()]
    return errors, share([pair for found in totals.values() for pair in found])


def share(squares: list[tuple[float, float]]) -> float:
    """The root of the sum of the first numbers over that of the second."""
    lost, whole = map(sum, zip(*squares, strict=True))
    return math.sqrt(lost / whole) if whole else 0.0


@torch.no_grad()
def distance(was: Update, now: Update | None = None) -> float:
    """The Frobenius norm of the difference of two updates, or of one."""
    if was.factors is None or (now is not None and now.factors is None):
        return float((was.dense if now is None else was.dense - now.dense).norm())
    b, a = was.factors
    if now is not None and now.factors is not None:
        b, a = torch.cat([b, -now.factors[0]], dim=1), torch.cat([a, now.factors[1]])
    return float(core(b, a).norm())


def compared(before: EvalResult, after: EvalResult) -> Scores:
    """The main metric of the run and of what was made of it."""
    return Scores(before.metric, before.rows, before.scores[before.metric], after.scores[before.metric])


def tensor_bytes(folder: Path) -> int:
    """Of all tensors in an adapter's folder."""
    return sum(tensor.nbytes for path in folder.glob("*.safetensors") for tensor in read_tensors(path).values())
