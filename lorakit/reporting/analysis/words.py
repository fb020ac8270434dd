"""An analysis in plain words: each number with what chance gives, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from lorakit.reporting.analysis.kept_words import beside_words, kept_facts, kept_words
from lorakit.reporting.analysis.records import (
    Pair,
    RunAnalysis,
    SiteLikeness,
    SiteUpdate,
    by_role,
    mean_of_known,
)
from lorakit.reporting.summary import Passage, listed
from lorakit.reporting.tables import counted, percent

SIDE_WORDS = {
    "A": "the rows of A (LoRA paper)",
    "inputs": "dW's inputs",
    "outputs": "dW's outputs",
}
CONFINED = 0.99
"""phi of all directions from which two runs' are the same ones."""
PUBLISHED = "The DoRA paper's, of one large model: full fine-tuning -0.62, LoRA +0.83, DoRA -0.31."


def subtitle(runs: Sequence[RunAnalysis], model: str) -> str:
    """What the runs are."""
    return f"{model}; " + ", ".join(f"{run.name}: {run.method}, {run.weights} weights, seed {run.seed}" for run in runs)


def rounded_words(kind: str) -> str:
    """What W is where weights are quantised."""
    return f"W is the weight as the run has it, in {kind}: dW is the change of that."


def bias_words(count: int) -> str:
    """What is in no number."""
    return f"{counted(count, 'site')} change their bias too, which is in none of these numbers."


def facts(runs: Sequence[RunAnalysis], pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """The numbers at the top."""
    found = []
    for run in runs:
        whose = f" of {run.name}" if len(runs) > 1 else ""
        if run.sites:
            found.append((f"dW / W{whose}", percent_of(mean_of_known(site.relative for site in run.sites))))
            own, random = (
                fmean(getattr(site, name) for site in run.sites) for name in ("effective_rank", "chance_rank")
            )
            found.append((f"effective rank{whose}", f"{own:.1f} (random {random:.1f})"))
        if run.correlation is not None and run.random_correlation is not None:
            told = f"{run.correlation:+.2f} (random {run.random_correlation:+.2f})"
            found.append((f"correlation of dM and dD{whose}", told))
        if run.drift:
            found.append(
                (f"CKA of the last layer{whose}", f"{run.drift[-1].cka:.3f} (random {run.drift[-1].chance:.2f})")
            )
        found += kept_facts(run, whose)
    for pair in (each for each in pairs if each.sides):
        first, chance, _, _ = means(pair.sides[-1].sites)
        found.append((f"phi of the first direction with {pair.second}", f"{first:.2f} (random {chance:.3f})"))
    return found


def passages(runs: Sequence[RunAnalysis], pairs: Sequence[Pair]) -> list[Passage]:
    """The page in words."""
    found = []
    moved, drifted, kept = (
        next((run for run in runs if getattr(run, name)), None) for name in ("moved", "drift", "kept")
    )
    for run in runs:
        whose = f"{run.name}: " if len(runs) > 1 else ""
        if run.sites:
            found.append(Passage(f"{whose}Where the update is", [*place_words(run), *left_words(run), *run.notes]))
            found.append(Passage(f"{whose}Its directions", direction_words(run.sites)))
        else:
            found.append(Passage(f"{whose}No update of a matrix", left_words(run)))
        if run.moved:
            found.append(Passage(f"{whose}Magnitude and direction", moved_words(run, told=run is not moved)))
        found.append(Passage(f"{whose}Features", drift_words(run, told=run is not drifted)))
        if run.kept is not None:
            found.append(Passage(f"{whose}Its own task and others", kept_words(run.kept, told=run is not kept)))
    found += [Passage(f"{pair.first} beside {pair.second}", pair_words(pair)) for pair in pairs]
    found.append(Passage("What to trust", trust_words(runs)))
    return found


def place_words(run: RunAnalysis) -> list[str]:
    """How large the update is, and which roles and layers carry it."""
    relative = [site.relative for site in run.sites if site.relative is not None]
    words = []
    if relative:
        words.append(
            f"||dW|| is {percent(fmean(relative))} of ||W|| on the average over {counted(len(relative), 'site')}, "
            f"{percent(min(relative))} to {percent(max(relative))} (Frobenius norms)."
        )
    roles = shares(run.sites)
    if len(roles) > 1:
        told = [f"{role} {percent(share)} (even: {percent(even)})" for role, share, even in roles[:3]]
        words.append(
            f"The largest shares of ||dW||^2 are in {listed(told)}; even: if it were spread evenly over all entries."
        )
    layers = sorted({site.layer for site in run.sites if site.layer >= 0})
    if len(layers) > 2:
        high = set(layers[-(len(layers) // 3) :])
        share = within(run.sites, high)
        even = entries(run.sites, high)
        words.append(
            f"The highest {counted(len(high), 'layer')} of {len(layers)} have {percent(share)} of it (even: {percent(even)})."
        )
    return words


def shares(sites: Sequence[SiteUpdate]) -> list[tuple[str, float, float]]:
    """(role, its share of ||dW||^2, its share of the entries), the largest first."""
    total, size = sum(site.norm**2 for site in sites), sum(site.shape[0] * site.shape[1] for site in sites)
    found = [
        (role, sum(s.norm**2 for s in own) / total, sum(s.shape[0] * s.shape[1] for s in own) / size)
        for role, own in by_role(sites, lambda site: site.role)
    ]
    return sorted(found, key=lambda each: -each[1])


def within(sites: Sequence[SiteUpdate], layers: set[int]) -> float:
    """The share of ||dW||^2 that is in these layers."""
    return sum(site.norm**2 for site in sites if site.layer in layers) / sum(site.norm**2 for site in sites)


def entries(sites: Sequence[SiteUpdate], layers: set[int]) -> float:
    """The share of the updates' entries that is in these layers."""
    sizes = [(site.layer, site.shape[0] * site.shape[1]) for site in sites]
    return sum(size for layer, size in sizes if layer in layers) / sum(size for _, size in sizes)


def left_words(run: RunAnalysis) -> list[str]:
    """Which sites have no update to look at, and why."""
    return [f"{counted(len(names), 'site')} left out: {reason}." for reason, names in run.left_out.items()]


def direction_words(sites: Sequence[SiteUpdate]) -> list[str]:
    """Effective rank and amplification."""
    own, chance, ranks = ([getattr(site, name) for site in sites] for name in ("effective_rank", "chance_rank", "rank"))
    lower = fmean(own) < 0.9 * fmean(chance)
    words = [
        f"Its effective rank is {fmean(own):.1f} on the average ({min(own):.1f} to {max(own):.1f}), of a rank of {fmean(ranks):.0f}; a "
        f"random update of the same rank has {fmean(chance):.1f}. "
        + (
            "A few directions carry most of it."
            if lower
            else "Its directions are used about as evenly as chance uses them."
        )
    ]
    known = [site for site in sites if site.amplification is not None]
    if not known:
        return [*words, "There is no W beneath these sites: nothing is amplified."]
    ours, top, random = (
        median(getattr(site, name) or 0.0 for site in known)
        for name in ("amplification", "amplification_top", "amplification_random")
    )
    return [
        *words,
        f"In its own directions dW is {ours:.3g} times as large as W is there (median); {top:.3g} times if they were W's strongest, "
        f"{random:.3g} times if they were random.",
        amplified_words(ours, top, random),
    ]


def amplified_words(ours: float, top: float, random: float) -> str:
    """Where the amplification lies between its two controls, on a scale of factors."""
    if ours > 2 * random:
        return "That is above random directions: dW goes where W does less than chance would have it."
    if ours > 0.8 * random:
        return "That is as for random directions: where dW goes has nothing to do with what W does."
    if ours < (top * random) ** 0.5:
        return "That is nearer to W's strongest directions than to random ones: dW changes mostly what W does already."
    return (
        "That is above W's strongest and below random ones, as in the LoRA paper: dW goes where W does something, but "
        "stresses what W does not."
    )


def moved_words(run: RunAnalysis, *, told: bool) -> list[str]:
    """dM against dD; told: whether it has been said how to read that."""
    where = f"{counted(len(run.moved), 'point')} ({listed(run.points)})"
    if run.correlation is None:
        return [f"{where} are too few, or too much alike, for a correlation of dM and dD."]
    random = run.random_correlation
    words = [
        f"dM and dD correlate at {run.correlation:+.2f} over {where}; random updates of the same sizes at "
        + ("no value." if random is None else f"{random:+.2f}.")
    ]
    roles = [f"{role} {value:+.2f}" for role, _, value, _ in run.correlations() if value is not None]
    if len(roles) > 1:
        words.append(f"Within one kind of matrix: {listed(roles)}.")
    if told:
        return words
    return [
        *words,
        "Above 0: rows that turn more also change their length more; below 0: either, not both. A value is telling as far as it is not "
        "what random updates have.",
        PUBLISHED,
    ]


def drift_words(run: RunAnalysis, *, told: bool) -> list[str]:
    """CKA, layer by layer; told: whether it has been said how to read that."""
    if not run.drift:
        return [f"Features were not compared: {run.without_drift}."]
    least = min(run.drift, key=lambda layer: layer.cka)
    chance = fmean(layer.chance for layer in run.drift)
    words = [
        f"On {counted(run.rows, 'held-out row')} the last layer's output has a linear CKA of {run.drift[-1].cka:.3f} with that before the "
        f"training; the least is {least.cka:.3f}, in layer {least.layer}.",
        f"Rows that do not belong together have {chance:.3f}.",
    ]
    return words if told else [*words, "1: the same but for a rotation and a scale."]


def pair_words(pair: Pair) -> list[str]:
    """How alike two runs' directions are, where they have sites in common; and what they leave of tasks."""
    tasks = [beside_words(task, pair.first, pair.second) for task in pair.tasks]
    if not pair.sides:
        return ["They have no site in common whose directions could be compared.", *tasks]
    words = []
    for side in pair.sides:
        first, chance, whole, whole_chance = means(side.sites)
        k = fmean(site.directions for site in side.sites)
        words.append(
            f"Of {SIDE_WORDS[side.side]}, the first direction has phi = {first:.2f} (random: {chance:.3f}), the first {k:.0f} together "
            f"{whole:.2f} (random: {whole_chance:.3f}), over {counted(len(side.sites), 'site')}."
        )
    words.append("phi is the mean squared cosine of principal angles: 1 for the same subspace, 0 for orthogonal ones.")
    fixed = [SIDE_WORDS[side.side] for side in pair.sides if means(side.sites)[2] > CONFINED]
    if fixed:
        words.append(
            f"In {listed(fixed)} both are confined to the same directions: the runs are one, or their method fixes these, which "
            "then are nothing learnt."
        )
    first, chance, whole, _ = means(pair.sides[-1].sites)
    if first > whole + 0.1 and first > 10 * chance:
        words.append(
            "The first direction is shared more than the rest, as in the LoRA paper: what the runs agree on is of low rank."
        )
    if pair.same_seed:
        words.append(
            "Both runs have one seed, so that adapters with a random start began alike: likeness of A and inputs may be the start's. "
            "Another seed tells."
        )
    words += tasks
    for name, only in ((pair.first, pair.only_first), (pair.second, pair.only_second)):
        if only:
            words.append(f"{counted(len(only), 'site')} only {name} has: left out.")
    return words


def means(sites: Sequence[SiteLikeness]) -> tuple[float, float, float, float]:
    """First direction, its chance, all directions, their chance: means over sites."""
    names = ("first", "first_chance", "whole", "whole_chance")
    first, chance, whole, whole_chance = (fmean(getattr(site, name) for site in sites) for name in names)
    return first, chance, whole, whole_chance


def trust_words(runs: Sequence[RunAnalysis]) -> list[str]:
    """What such numbers cannot say."""
    words = []
    for run in runs:
        scored = (
            f"{run.name} has {run.score} on its validation rows" if run.score else f"{run.name} has not been scored"
        )
        words.append(". ".join([scored, *(warning[:1].upper() + warning[1:] for warning in run.warnings)]) + ".")
    if len(runs) == 1:
        words.append("This is one run: what of it is chance, a run with another seed beside it tells.")
    return [
        *words,
        "All this describes what was learnt, not whether it is good: lorakit eval and compare tell that.",
    ]


def percent_of(share: float | None) -> str:
    """A share that may not be there."""
    return "none" if share is None else percent(share)
