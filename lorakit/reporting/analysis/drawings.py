"""The figures of an analysis with what they show in words, in the page's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lorakit.reporting.analysis.figures import (
    UNMOVED,
    amplification_figure,
    drift_figure,
    likeness_figure,
    moved_figure,
    spectrum_figure,
)
from lorakit.reporting.analysis.kept_figure import kept_figure
from lorakit.reporting.analysis.kept_words import points
from lorakit.reporting.analysis.records import Likeness, Pair, RunAnalysis
from lorakit.reporting.figures import heat_map
from lorakit.reporting.page_figures import Drawing
from lorakit.reporting.tables import percent


def drawings(runs: Sequence[RunAnalysis], pairs: Sequence[Pair]) -> Iterator[Drawing]:
    """All that the runs have the numbers for, in the page's order."""
    probed = [run for run in runs if run.kept is not None and run.kept.tasks]
    if probed:
        yield kept_drawing(probed)
    alike = [pair for pair in pairs if pair.sides]
    for number, pair in enumerate(alike, 1):
        yield likeness_drawing(pair, f"likeness{number if len(alike) > 1 else ''}")
    moved = [run for run in runs if run.moved]
    if moved:
        yield moved_drawing(moved)
    if any(run.drift for run in runs):
        yield drift_drawing([run for run in runs if run.drift])
    for number, run in enumerate(runs, 1):
        if run.sites:
            prefix, whose = (f"run{number}-", f"{run.name}: ") if len(runs) > 1 else ("", "")
            yield from own_drawings(run, prefix, whose)


def own_drawings(run: RunAnalysis, prefix: str, whose: str) -> Iterator[Drawing]:
    """Those of one run's updates."""
    weighed = [site for site in run.sites if site.relative is not None]
    if weighed:
        values = [site.relative or 0.0 for site in weighed]
        most = max(weighed, key=lambda site: site.relative or 0.0)
        yield Drawing(
            f"{prefix}norms",
            heat_map(
                weighed,
                values,
                "||dW|| / ||W|| in percent",
                top=max(values),
                form="{:.1%}" if max(values) >= 0.01 else "{:.2%}",
            ),
            f"{whose}Which sites carry the update",
            f"Layers by roles, updates' norms in percent of the weights'. The largest: {most.name}, {percent(most.relative or 0.0)}.",
            "Frobenius norms, in percent of the pretrained weight's, with means over roles and layers.",
        )
        yield Drawing(
            f"{prefix}amplification",
            amplification_figure([site for site in weighed if site.amplification]),
            f"{whose}What the update amplifies",
            "A panel per role: over the layers, how many times as large dW is as W in its own directions, W's strongest and random ones.",
            "How many times as large dW is as W in dW's own directions. It would be at the lower line if these were W's strongest "
            "directions, at the upper one if they were random. Logarithmic.",
        )
    yield Drawing(
        f"{prefix}ranks",
        heat_map(
            run.sites,
            [site.effective_rank for site in run.sites],
            f"effective rank\nrandom ones of the same rank: {np.mean([site.chance_rank for site in run.sites]):.1f}",
            top=max(site.effective_rank for site in run.sites),
            form="{:.1f}",
        ),
        f"{whose}How many directions each update uses",
        "Layers by roles, the effective rank of each update.",
        "exp of the entropy of the singular values: k for k equal ones. Random: Gaussian updates of the same shapes and ranks.",
    )
    yield Drawing(
        f"{prefix}spectra",
        spectrum_figure(run.sites),
        f"{whose}Singular values",
        "A panel per role with a falling line for each layer: its singular values as parts of the largest.",
        "Each line is a layer, dark ones are the higher: the singular values as parts of the largest. Dashed: a random update of the "
        "same shape and rank. Logarithmic.",
    )


def kept_drawing(runs: Sequence[RunAnalysis]) -> Drawing:
    """The change on the runs' own tasks, and on others."""
    told = [
        f"{run.name}: " + ", ".join(f"{task.name} {points(task.change.mean)}" for task in run.kept.tasks)
        for run in runs
        if run.kept is not None
    ]
    return Drawing(
        "kept",
        kept_figure(runs),
        "What was learnt, and what was kept",
        f"A row for each task, a point for each run: the change in points, with its interval. {'; '.join(told)}.",
        "How many more held-out rows a linear probe of the features gets right with the update than without it, with 95 % intervals. "
        "Learnt: its own task. Another task lost by it where the interval lies to the left of the line. Hollow: a random update of the "
        "same norms and ranks.",
    )


def moved_drawing(runs: Sequence[RunAnalysis]) -> Drawing:
    """dM against dD, a panel a run."""
    told = [
        f"{run.name} ({run.method}) " + ("has none" if run.correlation is None else f"{run.correlation:+.2f}")
        for run in runs
    ]
    return Drawing(
        "moved",
        moved_figure(runs),
        "Magnitude and direction",
        f"A panel per run: the change of magnitude against that of direction, of every site and point. Correlations: {', '.join(told)}.",
        "Each point is a site at one point of the training; its line is the least-squares one through all. Grey: random updates of the "
        "same ranks and norms.",
    )


def drift_drawing(runs: Sequence[RunAnalysis]) -> Drawing:
    """1 - CKA over the layers."""
    ends = ", ".join(f"{run.name} {run.drift[-1].cka:.3f}" for run in runs)
    return Drawing(
        "drift",
        drift_figure(runs),
        "How far features have moved",
        f"1 less the linear CKA of each layer's output before and after the training. CKA at the last layer: {ends}.",
        f"0, drawn as {UNMOVED:g}: the same but for a rotation and a scale. A text's features are the mean over its tokens. Logarithmic.",
    )


def likeness_drawing(pair: Pair, name: str) -> Drawing:
    """phi(i, j) of every side, and of random subspaces beside it."""
    return Drawing(
        name,
        likeness_figure(pair),
        f"Which directions {pair.first} and {pair.second} share",
        f"For each side a tile for each pair of i and j, coloured by phi(i, j). {corner(pair.sides[-1])}",
        "phi(i, j) from 0 (white) to 1 (dark), the mean over sites: how far i directions of one lie in j of the other. On "
        "the right what random subspaces of the same width have.",
    )


def corner(side: Likeness) -> str:
    """The first entry in words."""
    return f"Of the outputs' first directions it is {side.mean[0][0]:.2f}, of random ones {side.chance[0][0]:.3f}."
