"""``lorakit analyze``: what a run's updates are like, how two runs' go together, and how far features have moved."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorakit.artifacts.correction import corrected
from lorakit.artifacts.files import write_text
from lorakit.artifacts.run import Run
from lorakit.errors import UsageError
from lorakit.recipe.load import load_recipe
from lorakit.reporting.analysis.drawings import drawings
from lorakit.reporting.analysis.measures import (
    directions_of,
    effective_rank,
    emphasis,
    random_update,
    rows_of,
)
from lorakit.reporting.analysis.records import BEST, Pair, RunAnalysis, SiteUpdate
from lorakit.reporting.analysis.tables import tables
from lorakit.reporting.analysis.words import bias_words, facts, passages, rounded_words, subtitle
from lorakit.reporting.figures import as_svg, save
from lorakit.reporting.page import Page, Picture, render
from lorakit.reporting.summary import Passage
from lorakit.reporting.tables import scores
from lorakit.result import Result
from lorakit.tasks.batching import Encoded
from lorakit.workflow.analysis.drift import drift_of
from lorakit.workflow.analysis.kept import Probes, RightRows, beside_each_other, kept_of
from lorakit.workflow.analysis.likeness import INPUTS, OUTPUTS, A, SiteDirections, likeness
from lorakit.workflow.analysis.moved import moved_weights
from lorakit.workflow.analysis.updates import WeightUpdate, left_out, moved_biases, updates_of
from lorakit.workflow.one_backbone import check_one_backbone, named_runs, open_finished
from lorakit.workflow.parts import encode_rows
from lorakit.workflow.records import read_run
from lorakit.workflow.restore import RestoredRun, restore_run
from lorakit.workflow.same_data import check_same_data

ROWS, PROBE_ROWS = 256, 500
STEM = "analysis"
LONGEST = 120  # bytes of what a file's name begins with
PLAIN = re.compile(r"[^\x00-\x1f/\\]*")
NOT_ASKED = "no rows were asked for"
SAME_WEIGHTS = (
    "model.revision",
    "model.dtype",
    "model.quantization",
    "model.quantization_group",
    "model.double_quant",
)


@dataclass(frozen=True)
class AnalysisResult(Result):
    """What runs have learnt.

    Attributes:
        runs: each run's own numbers.
        pairs: the first run beside each other one.
        page: all of it as one page, in the first run's folder.
        figures: its figures as files.
        summary: the page in plain words.
    """

    runs: list[RunAnalysis]
    pairs: list[Pair]
    page: Path
    figures: list[Path]
    summary: list[Passage]

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON, with the numbers that are made of others."""
        plain = super().to_dict()
        for told, run in zip(plain["runs"], self.runs, strict=True):
            told |= {"correlation": run.correlation, "random_correlation": run.random_correlation}
            names = ("role", "points", "correlation", "random_correlation")
            told["correlations"] = [dict(zip(names, each, strict=True)) for each in run.correlations()]
            for entry, site in zip(told["sites"], run.sites, strict=True):
                for name in ("relative", "amplification", "amplification_top", "amplification_random"):
                    entry[name] = getattr(site, name)
        for pair in plain["pairs"]:
            for side in pair["sides"]:
                for name in ("mean", "chance"):
                    side[name] = [[None if math.isnan(each) else each for each in line] for line in side[name]]
        return plain


def analyze(
    run: str | Path,
    *more: str | Path,
    weights: str | None = None,
    rows: int | None = None,
    others: Sequence[str | Path] = (),
    probe_rows: int | None = None,
    offline: bool = False,
) -> AnalysisResult:
    """Look into what runs have learnt, and write a page about it.

    Of each run: the norm of every site's update beside W's, its singular values and effective rank, how much it amplifies what W does in
    its directions, how far magnitude and direction of W's rows have moved, and how far features have. Of two runs: how alike the
    directions are that their updates go. Each number has beside it what chance gives. One site's matrices are in memory at a time; with
    others a random update of all sites too, in float32.

    Args:
        run: a finished run's folder, or ``NAME=FOLDER``.
        more: more of them, over the same backbone: of other ranks, seeds or methods.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that each run's training.select says by default.
        rows: held-out rows of each run on which features are compared, 256 by default; 0: none, and no data are read for that.
        others: tasks that a run has not learnt: names in the catalogue, recipes, or files of texts and labels. Of each, and of the run's
            own, a linear probe of the features is scored without the update, with it, and with a random one in its place.
        probe_rows: training rows that such a probe is fitted on, and held-out rows that it is scored on, at most; 500 by default.
        offline: never touch the network.

    Returns:
        The numbers, and where the page and its figures are: ``report/analysis.html`` in the first run's folder, with the others' names.

    Raises:
        UsageError: for what is no run, runs over another backbone or without a common site, where there is nothing to look at, and for
            another task that cannot be probed.
        RunError: for a run that is not finished, or whose files are damaged.
        DataError: where the rows are not those of the run any more.

    Example:
        >>> told = lorakit.analyze("runs/demo-0", "runs/demo-1", rows=0)       # doctest: +SKIP
        >>> told.runs[0].sites[0].amplification                                # doctest: +SKIP
        >>> told.pairs[0].sides[0].sites[0].first                              # doctest: +SKIP
        >>> kept = lorakit.analyze("runs/demo-0", others=["mrpc"]).runs[0].kept     # doctest: +SKIP
        >>> [(task.name, task.before, task.after) for task in kept.tasks]      # doctest: +SKIP
    """
    rows = ROWS if rows is None else rows
    if rows < 0:
        raise UsageError(f"{rows} rows cannot be looked at", valid="1 or more, or 0 for none")
    if probe_rows is not None and (probe_rows < 2 or not others):
        what = (
            "is for other tasks, and none is named"
            if not others
            else f"{probe_rows} rows are too few to fit a probe on"
        )
        raise UsageError(what, where="--probe-rows", valid="2 or more, with --others")
    named = {name: check_run(path) for name, path in named_runs([run, *more]).items()}
    first, *rest = named.values()
    for other in rest:
        check_one_backbone(first, other, SAME_WEIGHTS)
    first.check_own()
    probes = Probes.of(others, PROBE_ROWS if probe_rows is None else probe_rows, offline=offline)
    looked = [look_into(name, opened, weights, rows, probes, offline=offline) for name, opened in named.items()]
    analyses = [each.analysis for each in looked]
    if not any(run.sites or run.drift or (run.kept and run.kept.tasks) for run in analyses):
        raise nothing_there(analyses)
    pairs = [pair for other in looked[1:] if (pair := beside(looked[0], other))]
    return write_page(first, analyses, pairs)


def check_run(path: Path) -> Run:
    """A finished run whose updates are what it learnt. UsageError, RunError for another."""
    opened = open_finished(path)
    if corrected(opened):
        what = "its adapter holds what quantising the weights lost beside what was learnt, and the two cannot be told apart"
        raise UsageError(what, where=str(path), valid="the run that was quantised")
    return opened


@dataclass(frozen=True)
class Looked:
    """One run's numbers, and what is needed beside another run's: of each site, and of each task that was probed."""

    analysis: RunAnalysis
    directions: dict[str, SiteDirections]
    right: RightRows


def look_into(name: str, run: Run, weights: str | None, rows: int, probes: Probes | None, *, offline: bool) -> Looked:
    """All that is measured of one run."""
    split = run.task().validation[0]
    splits = (split,) if probes is None else ("train", split)
    with_data = rows > 0 or probes is not None
    restored = restore_run(
        run.path, weights, offline=offline, with_data=with_data, splits=splits, head=probes is not None
    )
    if with_data:
        with restored.loaded.locating_errors():
            check_same_data(run, restored.parts.data, splits)
    recipe, adapted = restored.loaded.recipe, restored.adapted
    encoded = held_out(restored, split, rows) if rows else None
    drift = NOT_ASKED if encoded is None else drift_of(restored, encoded)
    sites, directions, chance = [], {}, ChanceSpectra()
    for update in updates_of(adapted):
        numbers, own = measured(update, chance)
        sites.append(numbers)
        directions[update.site.name] = own
    told = [rounded_words(recipe.model.quantization)] if recipe.model.quantization != "none" else []
    told += [bias_words(count)] if (count := moved_biases(adapted, directions)) else []
    without, outcome = left_out(adapted, directions), read_run(run).outcome
    kept, right = (None, {}) if probes is None else kept_of(restored, probes, sites, without)
    moved, points, known = moved_weights(restored, {site.name: site.rank for site in sites})
    analysis = RunAnalysis(
        run=run.path,
        name=name,
        method=recipe.adapter.method,
        weights=restored.weights,
        seed=recipe.run.seed,
        sites=sites,
        left_out=without,
        notes=[*told, *known],
        moved=moved,
        points=points,
        drift=[] if isinstance(drift, str) else drift,
        rows=0 if encoded is None or isinstance(drift, str) else len(encoded),
        without_drift=drift if isinstance(drift, str) else "",
        kept=kept,
        score=scores(outcome.best if restored.weights == BEST else outcome.last),
        warnings=list(outcome.warnings),
    )
    return Looked(analysis, directions, right)


def held_out(restored: RestoredRun, split: str, rows: int) -> Encoded:
    """The first ``rows`` of a run's validation split."""
    parts, found = restored.parts, restored.parts.data.splits[split]
    return encode_rows(found.select(range(min(rows, len(found)))), parts.backbone, parts.cut, split)


class ChanceSpectra:
    """The singular values of a Gaussian update of a shape and rank, drawn once each."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int, int], torch.Tensor] = {}

    def __call__(self, out: int, inside: int, rank: int) -> torch.Tensor:
        """Those of an (out x inside) one (rank,), largest first."""
        if (out, inside, rank) not in self.known:
            drawn = random_update((out, inside), rank, torch.Generator().manual_seed(0))
            self.known[out, inside, rank] = torch.linalg.svdvals(drawn)[:rank]
        return self.known[out, inside, rank]


def measured(update: WeightUpdate, chance: ChanceSpectra) -> tuple[SiteUpdate, SiteDirections]:
    """The numbers of one update, and its directions."""
    site, found = update.site, directions_of(update.compact)
    shape, leading = (site.out_features, site.in_features), found.values[: found.count]
    drawn = chance(*shape, found.rank)
    beneath = None if update.weight is None else emphasis(update.weight, found)
    numbers = SiteUpdate(
        name=site.name,
        layer=site.layer,
        role=site.role,
        shape=shape,
        rank=found.rank,
        directions=found.count,
        values=leading.tolist(),
        chance_values=(drawn[: found.count] * (leading[0] / drawn[0])).tolist(),
        norm=float(found.values.norm()),
        leading_norm=float(leading.norm()),
        effective_rank=effective_rank(found.values),
        chance_rank=effective_rank(drawn),
        weight_norm=None if update.weight is None else float(update.weight.norm()),
        in_own=beneath.own if beneath else None,
        in_top=beneath.top if beneath else None,
        in_random=beneath.chance if beneath else None,
    )
    sides = {INPUTS: found.v, OUTPUTS: found.u} | ({} if update.rows is None else {A: rows_of(update.rows)})
    return numbers, SiteDirections(site.layer, site.role, {side: each.float() for side, each in sides.items()})


def beside(first: Looked, other: Looked) -> Pair | None:
    """Two runs' directions at the sites that both have, and the tasks that were probed with both; None where one has no directions and
    there are no such tasks. UsageError for directions at other sites, where there are no such tasks.
    """
    ours, theirs = first.directions, other.directions
    tasks = beside_each_other(first.right, other.right)
    if not (tasks or (ours and theirs)):
        return None
    if not (tasks or ours.keys() & theirs.keys()):
        names = [f"{each.analysis.name} has {next(iter(each.directions), 'none')}" for each in (first, other)]
        what = f"the two runs update no site in common: {' and '.join(names)}"
        raise UsageError(what, where=str(other.analysis.run), valid="runs with the same adapter.targets, or one run")
    return Pair(
        first=first.analysis.name,
        second=other.analysis.name,
        sides=likeness(ours, theirs),
        only_first=[name for name in ours if name not in theirs],
        only_second=[name for name in theirs if name not in ours],
        same_seed=first.analysis.seed == other.analysis.seed,
        tasks=tasks,
    )


def nothing_there(runs: Sequence[RunAnalysis]) -> UsageError:
    """The message about runs that have neither an update of a matrix nor features to look at."""
    reasons = dict.fromkeys(reason for run in runs for reason in [*run.left_out, run.without_drift])
    hint = "--rows 256 looks at features" if runs[0].without_drift == NOT_ASKED else ""
    return UsageError(f"there is nothing to look at: {'; '.join(reasons)}", where=str(runs[0].run), hint=hint)


def stem_of(others: Sequence[str]) -> str:
    """What the names of a page's files begin with: the other runs' names, or what stands for them where they make no file's name."""
    stem = "-".join([STEM, *others])
    if len(stem.encode()) <= LONGEST and PLAIN.fullmatch(stem):
        return stem
    return f"{STEM}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def write_page(first: Run, runs: list[RunAnalysis], pairs: list[Pair]) -> AnalysisResult:
    """The page and its figures, in the first run's folder."""
    stem = stem_of([run.name for run in runs[1:]])
    words, paths, pictures = passages(runs, pairs), [], []
    for drawing in drawings(runs, pairs):
        paths.append(save(drawing.figure, first.report / f"{stem}-{drawing.name}.png"))
        pictures.append(Picture(drawing.title, as_svg(drawing.figure, drawing.name), drawing.alt, drawing.caption))
    page = Page(
        title=" and ".join(run.name for run in runs) + ": what was learnt",
        subtitle=subtitle(runs, load_recipe(first.recipe).recipe.model.name),
        facts=facts(runs, pairs),
        passages=words,
        parts=[*pictures, *tables(runs, pairs)],
        command="lorakit analyze",
    )
    target = first.report / f"{stem}.html"
    write_text(target, render(page))
    return AnalysisResult(runs, pairs, target, paths, words)
