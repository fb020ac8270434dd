"""A task's scores in random subspaces of growing dimension: the smallest that is enough, the curve, and both in plain words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from statistics import fmean

from lorakit.reporting.figures import INK, LINES, MUTED, bare, canvas, unmarked
from lorakit.reporting.page import Numbers
from lorakit.reporting.page_figures import Drawing
from lorakit.reporting.score_axis import score_limits
from lorakit.reporting.summary import Passage, listed
from lorakit.reporting.tables import counted, percent

SHARE = 0.9
"""Of full fine-tuning's score, that a subspace must come to: that of d90."""
TITLES = {"said": "SAID, a scalar a layer", "did": "DID, without"}


@dataclass(frozen=True)
class Subspace:
    """Trainings in one subspace. kind: said or did; dimension: d; scores: seed -> score."""

    kind: str
    dimension: int
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        """Of all seeds."""
        return fmean(self.scores.values())


@dataclass(frozen=True)
class IntrinsicCurve:
    """Scores after the last epoch on the first validation split, in subspaces and in full.

    Attributes:
        task: its name.
        metric: of which more is better.
        full: seed -> what full fine-tuning comes to.
        full_parameters: what it trains beside the head.
        head_parameters: of the head, which trains beside every subspace too.
        majority: what the most common label comes to, a mean over seeds; None where it is not known.
        frozen: what logistic regression on the pretrained model's features comes to, in place of a subspace of 0; None likewise.
        subspaces: by kind, the smallest dimension first.
        absent: (kind, dimension) of subspaces that were asked for and have no finished run.
    """

    task: str
    metric: str
    full: dict[int, float]
    full_parameters: int
    head_parameters: int
    majority: float | None
    frozen: float | None
    subspaces: list[Subspace]
    absent: list[tuple[str, int]] = field(default_factory=list)

    @property
    def aim(self) -> float | None:
        """90 % of full fine-tuning's mean; None where that is not above 0."""
        return aim_of(fmean(self.full.values()))

    @property
    def aim_of_gain(self) -> float | None:
        """The frozen features' score and 90 % of what full fine-tuning gains over it; None where it gains nothing."""
        whole = fmean(self.full.values())
        return None if self.frozen is None or self.frozen >= whole else self.frozen + SHARE * (whole - self.frozen)

    @property
    def without_any(self) -> dict[str, float]:
        """What is not below 90 % of full fine-tuning's mean without a subspace, by name: then d90 says nothing."""
        aim, known = self.aim, {"frozen": self.frozen, "majority": self.majority}
        return {name: score for name, score in known.items() if aim is not None and score is not None and score >= aim}

    def kinds(self) -> dict[str, list[Subspace]]:
        """Kind -> its subspaces."""
        return {kind: self.of(kind) for kind in dict.fromkeys(each.kind for each in self.subspaces)}

    def of(self, kind: str) -> list[Subspace]:
        """Those of one kind."""
        return [each for each in self.subspaces if each.kind == kind]

    def lost(self, kind: str) -> list[int]:
        """The dimensions of one kind that are absent."""
        return [dimension for other, dimension in self.absent if other == kind]


def aim_of(score: float) -> float | None:
    """90 % of full fine-tuning's ``score``; None where it is not above 0, and 90 % of it would be no less."""
    return SHARE * score if score > 0 else None


def smallest(subspaces: Sequence[Subspace], aim: float | None, seed: int | None = None) -> int | None:
    """The smallest dimension whose mean, or score of one seed, is not below ``aim``; None where none is, or there is no aim."""
    if aim is None:
        return None
    for each in sorted(subspaces, key=lambda each: each.dimension):
        score = each.mean if seed is None else each.scores.get(seed)
        if score is not None and score >= aim:
            return each.dimension
    return None


# -- in words ----------------------------------------------------------------------------------------------------------


def intrinsic_words(curve: IntrinsicCurve, rates: str = "") -> list[Passage]:
    """What the curve says, and what it does not. rates: a sentence on how learning rates were chosen."""
    return [
        Passage("How small a subspace is enough", enough_words(curve)),
        Passage("What this is worth", [*worth_words(curve), *([rates] if rates else [])]),
    ]


def enough_words(curve: IntrinsicCurve) -> list[str]:
    """The aim, and the smallest dimension of each kind."""
    whole, aim = fmean(curve.full.values()), curve.aim
    full = f"Full fine-tuning comes to {whole:.4f} {curve.metric} ({spread(curve.full)})"
    if aim is None:
        told = [f"{full}, which is not above 0: there is no d90 of that."]
    else:
        told = [
            f"{full}; 90 % of that is {aim:.4f}.",
            *(word for kind in curve.kinds() for word in kind_words(curve, kind, aim)),
            *(f"{TITLES[kind]}: no run is there." for kind in dict(curve.absent) if not curve.of(kind)),
        ]
    if curve.aim_of_gain is not None:
        gained = {kind: smallest(own, curve.aim_of_gain) for kind, own in curve.kinds().items()}
        each = listed([f"{number or 'none of these'} ({kind.upper()})" for kind, number in gained.items()])
        told.append(
            f"Of what full fine-tuning gains over the frozen features, {curve.frozen:.4f} to {whole:.4f}, 90 % are reached at {each}."
        )
    return told


def kind_words(curve: IntrinsicCurve, kind: str, aim: float) -> list[str]:
    """One kind's d90, and those of single seeds."""
    own = curve.of(kind)
    told = [f"{TITLES[kind]}: {reached(own, aim, curve.lost(kind))}"]
    if len(curve.full) > 1:
        found = [smallest(own, aim_of(score), seed) for seed, score in curve.full.items()]
        each = listed([str(number) if number else "none" for number in found])
        told.append(f"{TITLES[kind]}: of each seed's runs alone d90 is {each}.")
    return told


def reached(subspaces: Sequence[Subspace], aim: float, absent: Sequence[int] = ()) -> str:
    """A sentence on one kind's d90, and one on the dimensions whose absence may have changed it."""
    found, tried = smallest(subspaces, aim), [each.dimension for each in subspaces]
    unknown = sorted(dimension for dimension in absent if found is None or dimension < found)
    left = f" No run of {listed([*map(str, unknown)])} is there, which may be enough." if unknown else ""
    if found is None:
        best = max(subspaces, key=lambda each: each.mean)
        return f"no subspace of up to {max(tried)} is enough; the best, of {best.dimension}, has {best.mean:.4f}.{left}"
    mean = next(each.mean for each in subspaces if each.dimension == found)
    sentence = f"d90 is {found}, with {mean:.4f}"
    if found == min(tried):
        sentence += ", the smallest that was tried: it may be lower"
    below = [each.dimension for each in subspaces if each.dimension > found and each.mean < aim]
    return sentence + (f". Larger ones are below that again: {listed([*map(str, below)])}." if below else ".") + left


def worth_words(curve: IntrinsicCurve) -> list[str]:
    """What to know before believing it."""
    told = [
        f"The head, {curve.head_parameters:,} numbers, trains beside every subspace. Embeddings, norms and biases stand still in them, "
        f"and are among the {curve.full_parameters:,} numbers of full fine-tuning."
    ]
    enough = curve.without_any
    if "frozen" in enough:
        told.append(
            f"Logistic regression on the frozen features has {curve.frozen:.4f}, which is 90 % of full fine-tuning already: "
            "no subspace is needed for that, and d90 says nothing of this task."
        )
    if "majority" in enough:
        told.append(f"The most common label alone has {curve.majority:.4f}: d90 says nothing of this task.")
    for kind, own in curve.kinds().items():
        falls = [(low, high) for low, high in pairwise(own) if high.mean < low.mean]
        if falls:
            low, high = max(falls, key=lambda pair: pair[0].mean - pair[1].mean)
            told.append(
                f"{TITLES[kind]}: scores do not rise throughout, from {low.dimension} to {high.dimension} they fall by "
                f"{low.mean - high.mean:.4f}, which chance, or a rate that suits one better, can do."
            )
    every = {seed for scores in (curve.full, *(each.scores for each in curve.subspaces)) for seed in scores}
    fewer = [f"full without {seeds_of(every - curve.full.keys())}"] if every - curve.full.keys() else []
    fewer += [
        f"{each.kind.upper()} {each.dimension} without {seeds_of(every - each.scores.keys())}"
        for each in curve.subspaces
        if every - each.scores.keys()
    ]
    if fewer:
        told.append(f"Means are not all over the same seeds: {listed(fewer)}.")
    if len(curve.full) < 3:
        told.append(f"{counted(len(curve.full), 'seed')}: one more can move d90 by a step of the grid.")
    return told


def seeds_of(seeds: Collection[int]) -> str:
    """``seeds 1 and 2``."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([*map(str, sorted(seeds))])}"


def spread(scores: Mapping[int, float]) -> str:
    """``3 seeds, 0.8612 to 0.8702``."""
    if len(scores) == 1:
        return "1 seed"
    return f"{len(scores)} seeds, {min(scores.values()):.4f} to {max(scores.values()):.4f}"


# -- on the page -------------------------------------------------------------------------------------------------------


def intrinsic_facts(curve: IntrinsicCurve) -> list[tuple[str, str]]:
    """The key numbers."""
    told = [("full fine-tuning", f"{fmean(curve.full.values()):.4f}")]
    told += [("frozen features", f"{curve.frozen:.4f}")] if curve.frozen is not None else []
    without = " (and without any)" if curve.without_any else ""
    return told + [
        (f"d90, {kind.upper()}", f"{smallest(own, curve.aim) or 'none'}{without}")
        for kind, own in curve.kinds().items()
    ]


def intrinsic_table(curve: IntrinsicCurve) -> Numbers:
    """A row for each dimension, d = 0 by the frozen features and the whole model among them."""
    kinds, whole = curve.kinds(), fmean(curve.full.values())
    means: dict[str, dict[str, float]] = {}
    if curve.frozen is not None:
        means["0 (frozen features)"] = dict.fromkeys(kinds, curve.frozen)
    for each in sorted(curve.subspaces, key=lambda each: each.dimension):
        means.setdefault(f"{each.dimension:,}", {})[each.kind] = each.mean
    means[f"{curve.full_parameters:,} (full)"] = dict.fromkeys(kinds, whole)
    rows = []
    for name, own in means.items():
        cells = [
            (f"{own[kind]:.4f}", percent(own[kind] / whole) if whole > 0 else "") if kind in own else ("", "")
            for kind in kinds
        ]
        rows.append([name, *chain.from_iterable(cells)])
    columns = ["d", *(text for kind in kinds for text in (kind.upper(), "of full"))]
    return Numbers("Scores by dimension", columns, rows, f"{curve.metric}, means over seeds.")


def intrinsic_figure(curve: IntrinsicCurve) -> Drawing:
    """Scores against the dimension, by its logarithm, beside full fine-tuning, 90 % of it, and the frozen features."""
    figure = canvas(6.4, 4.2)
    axes = figure.add_subplot()
    for (kind, own), colour in zip(curve.kinds().items(), LINES, strict=False):
        places = [each.dimension for each in own for _ in each.scores]
        heights = [score for each in own for score in each.scores.values()]
        axes.scatter(places, heights, s=14, color=colour, alpha=0.4, linewidths=0, zorder=2)
        axes.plot(
            [each.dimension for each in own],
            [each.mean for each in own],
            "D-",
            color=colour,
            markersize=4.5,
            label=TITLES[kind],
        )
    lines = [("full", fmean(curve.full.values()), "-", INK)]
    lines += [("90 % of full", curve.aim, "--", INK)] if curve.aim is not None else []
    lines += [("frozen features", curve.frozen, ":", MUTED)] if curve.frozen is not None else []
    for label, height, style, colour in lines:
        axes.axhline(height, linestyle=style, color=colour, linewidth=1.0, label=label, zorder=1)
    values = sorted({each.dimension for each in curve.subspaces})
    axes.set_xscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    heights = [score for each in curve.subspaces for score in each.scores.values()]
    if limits := score_limits([*heights, *(height for _, height, _, _ in lines)]):
        axes.set_ylim(*limits)
    axes.set_xlabel("dimension d of the subspace", color=INK)
    axes.set_ylabel(f"{unmarked(curve.metric)}, last epoch", color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    bare(axes)
    d90 = [f"{kind.upper()} {smallest(own, curve.aim) or 'none'}" for kind, own in curve.kinds().items()]
    return Drawing(
        "intrinsic",
        figure,
        "Scores by dimension",
        f"Scores against the dimension of the subspace. d90: {listed(d90)}.",
        "Dots: runs; marks: their means. Lines: full fine-tuning, 90 % of it, and what frozen features come to.",
    )
