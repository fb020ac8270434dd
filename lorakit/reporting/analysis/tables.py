"""The tables of an analysis: what its figures show, in numbers, by role."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from lorakit.reporting.analysis.kept_words import kept_tables
from lorakit.reporting.analysis.measures import MOST
from lorakit.reporting.analysis.records import Pair, RunAnalysis, by_role, mean_of_known
from lorakit.reporting.analysis.words import means, percent_of, shares
from lorakit.reporting.page import Numbers
from lorakit.reporting.tables import percent

ROLE_COLUMNS = (
    "role",
    "sites",
    "dW / W",
    "share of dW",
    "even share",
    "rank",
    "effective rank",
    "random rank",
    "amplified",
    "if W's strongest",
    "if random",
)


def tables(runs: Sequence[RunAnalysis], pairs: Sequence[Pair]) -> list[Numbers]:
    """All of them."""
    found = [role_table(run, f"{run.name}: roles" if len(runs) > 1 else "Roles") for run in runs if run.sites]
    found += [pair_table(pair) for pair in pairs if pair.sides]
    return [*kept_tables(runs), *found, *moved_tables(runs), *drift_tables(runs)]


def role_table(run: RunAnalysis, title: str) -> Numbers:
    """A row for each role: means over its sites."""
    shared = {role: (share, even) for role, share, even in shares(run.sites)}
    rows = []
    for role, own in by_role(run.sites, lambda site: site.role):
        factors = [
            mean_of_known(getattr(site, name) for site in own)
            for name in ("amplification", "amplification_top", "amplification_random")
        ]
        rows.append(
            [
                role,
                str(len(own)),
                percent_of(mean_of_known(site.relative for site in own)),
                *map(percent, shared[role]),
                f"{fmean(site.rank for site in own):.0f}",
                f"{fmean(site.effective_rank for site in own):.1f}",
                f"{fmean(site.chance_rank for site in own):.1f}",
                *("" if factor is None else f"{factor:.3g}" for factor in factors),
            ]
        )
    note = (
        "dW / W: Frobenius norms. Share of dW: of ||dW||^2 over all sites; even: spread evenly over entries. Effective "
        "rank: exp of the entropy of the singular values (Roy and Vetterli 2007); random: of a Gaussian update of its shape and rank. "
        "Amplified: ||dW|| / ||U^T W V|| (Hu et al. 2021, 7.3) in dW's own directions, and what it would be in W's strongest and in "
        f"random ones; of the first {MOST} where it has more."
    )
    return Numbers(title, ROLE_COLUMNS, rows, note)


def pair_table(pair: Pair) -> Numbers:
    """A row for each side and role."""
    rows = []
    for side in pair.sides:
        for role, own in by_role(side.sites, lambda site: site.role):
            first, chance, whole, whole_chance = means(own)
            k = f"{fmean(site.directions for site in own):.0f}"
            rows.append(
                [f"{side.side}, {role}", str(len(own)), *(f"{each:.3f}" for each in (first, chance)), k]
                + [f"{each:.3f}" for each in (whole, whole_chance)]
            )
    columns = ("side, role", "sites", "phi of the first", "random", "k", "phi of the first k", "random")
    note = "phi(i, j) = ||U_i^T V_j||^2 / min(i, j) (Hu et al. 2021, section 7.2); random: the mean over subspaces, max(i, j) / width."
    return Numbers(f"{pair.first} beside {pair.second}", columns, rows, note)


def moved_tables(runs: Sequence[RunAnalysis]) -> list[Numbers]:
    """Correlations by run and role, where there are some."""
    rows = []
    for run in runs:
        for role, points, value, random in run.correlations():
            rows.append([f"{run.name}, {role}", str(points), signed(value), signed(random)])
        if run.moved and len(run.correlations()) > 1:
            rows.append(
                [f"{run.name}, all", str(len(run.moved)), *map(signed, (run.correlation, run.random_correlation))]
            )
    if not rows:
        return []
    note = (
        "Pearson's correlation of dM, the mean change of rows' norms, and dD, the mean of 1 - cos of its turn (Liu et al. 2024, 3.2), "
        "over sites and points of the training; random: of Gaussian updates of the same ranks and norms."
    )
    return [Numbers("Magnitude and direction", ("run, role", "points", "correlation", "random"), rows, note)]


def drift_tables(runs: Sequence[RunAnalysis]) -> list[Numbers]:
    """CKA by layer and run, where it was looked at."""
    drifted = [run for run in runs if run.drift]
    if not drifted:
        return []
    columns = ["layer", *(name for run in drifted for name in (f"CKA of {run.name}", "random"))]
    deepest = max(len(run.drift) for run in drifted)
    rows = [[str(layer)] + [cell for run in drifted for cell in features_of(run, layer)] for layer in range(deepest)]
    note = "Linear CKA (Kornblith et al. 2019) of a layer's outputs before and after, means over tokens; random: of rows in another order."
    return [Numbers("Features by layer", columns, rows, note)]


def features_of(run: RunAnalysis, layer: int) -> tuple[str, str]:
    """CKA of a layer and of rows in another order; empty where the run has no such layer."""
    if layer >= len(run.drift):
        return "", ""
    return f"{run.drift[layer].cka:.4f}", f"{run.drift[layer].chance:.4f}"


def signed(value: float | None) -> str:
    """A correlation that may not be there."""
    return "" if value is None else f"{value:+.2f}"
