"""From scores and a budget to the sites that are on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.budget import Budget, enabled_modules, portion
from lorakit.backbone.site import Site
from lorakit.errors import RunError
from lorakit.recipe.schema import SearchSection


@dataclass(frozen=True)
class Allocation:
    """A choice.

    on: names in the order of the sites; cut: the lowest score that is on; margin: by how much it beats the best one off (None where
    nothing is off). The margin is negative where a dearer site was passed over, or a pool's share was spent.
    """

    on: list[str]
    cut: float
    margin: float | None


def allocate(
    scores: Mapping[str, float],
    sites: Sequence[Site],
    costs: Mapping[str, int],
    budget: Budget,
    search: SearchSection,
    generator: torch.Generator,
) -> Allocation:
    """Give the budget to the best sites, from the best down; one that does not fit is passed over for the next that does.

    `pool: separated` ranks linear sites and shortcuts apart, each with its share of the budget. `unit: modules` counts places as
    the authors do: floor(share * linear) + round(share * shortcuts). Ties are drawn from ``generator``. Raises RunError for scores
    that are not numbers, and where no pool's share holds a site.
    """
    check_finite(scores)
    kinds = [[site for site in sites if not site.is_shortcut], [site for site in sites if site.is_shortcut]]
    pools = [pool for pool in kinds if pool] if search.pool == "separated" else [list(sites)]
    chosen: set[str] = set()
    for pool in pools:
        order = ranked(scores, pool, generator)
        if search.unit == "modules":
            chosen.update(order[: sum(enabled_modules(budget.share, pool))])
        else:
            chosen.update(fill(order, costs, portion(budget.share, sum(costs[site.name] for site in pool))))
    if not chosen:
        raise RunError(
            f"a budget of {budget.parameters:,} parameters, shared between linear sites and shortcuts, holds no site of either",
            hint="search.pool=combined, or a larger budget",
        )
    cut = min(scores[name] for name in chosen)
    best_off = max((scores[site.name] for site in sites if site.name not in chosen), default=None)
    margin = None if best_off is None else cut - best_off
    return Allocation([site.name for site in sites if site.name in chosen], cut, margin)


def allocate_units(
    scores: Mapping[str, torch.Tensor],
    adapters: Mapping[str, Adapter],
    limit: int,
    generator: torch.Generator,
    *,
    per_parameter: bool = False,
) -> dict[str, torch.Tensor]:
    """Site -> which of its rank units are live: the best of all sites together whose parameters fit into ``limit``.

    scores: site -> a score for each rank unit; per_parameter: a unit counts by its score over its parameters. The first unit of a site
    also pays for what the site trains beside its units. A unit that does not fit is passed over. Ties are drawn from ``generator``.
    Raises RunError for scores that are not numbers.
    """
    names = list(scores)
    owner = torch.cat([torch.full((len(scores[name]),), place) for place, name in enumerate(names)])
    unit = torch.cat([torch.arange(len(scores[name])) for name in names])
    values = torch.cat([scores[name].detach().double().cpu() for name in names])
    check_finite({f"{names[int(o)]}[{int(u)}]": v for o, u, v in zip(owner, unit, values.tolist(), strict=True)})
    if per_parameter:
        cost_model = torch.tensor([adapters[name].parameters_at(1) for name in names], dtype=torch.double)
        values = values / cost_model[owner]
    shuffled = torch.randperm(len(values), generator=generator)
    order = shuffled[values[shuffled].argsort(descending=True, stable=True)]
    chosen: dict[str, list[int]] = {name: [] for name in names}
    totals = {name: [adapters[name].parameters_at(rank) for rank in range(adapters[name].rank + 1)] for name in names}
    left = limit
    for place, number in zip(owner[order].tolist(), unit[order].tolist(), strict=True):
        name = names[place]
        taken = len(chosen[name])
        price = totals[name][taken + 1] - totals[name][taken]
        if price <= left:
            chosen[name].append(number)
            left -= price
    live = {name: torch.zeros(adapters[name].rank, dtype=torch.bool) for name in names}
    for name, units in chosen.items():
        live[name][units] = True
    return live


def largest_uniform_rank(adapters: Iterable[Adapter], limit: int) -> int:
    """The largest rank that all ``adapters`` can have at once within ``limit`` parameters, one below it keeping its own; 0: none."""
    adapters = list(adapters)
    highest = max(adapter.rank for adapter in adapters)
    fitting = (
        rank
        for rank in range(highest, 0, -1)
        if sum(adapter.parameters_at(min(rank, adapter.rank)) for adapter in adapters) <= limit
    )
    return next(fitting, 0)


def ranked(scores: Mapping[str, float], sites: Sequence[Site], generator: torch.Generator) -> list[str]:
    """Site names, best first; equal scores in an order drawn from ``generator``."""
    shuffled = torch.randperm(len(sites), generator=generator).tolist()
    return sorted((sites[place].name for place in shuffled), key=lambda name: -scores[name])


def fill(order: Sequence[str], costs: Mapping[str, int], limit: int) -> list[str]:
    """The names taken from ``order`` while they fit into ``limit`` parameters."""
    taken, left = [], limit
    for name in order:
        if costs[name] <= left:
            taken.append(name)
            left -= costs[name]
    return taken


def check_finite(scores: Mapping[str, float]) -> None:
    """Refuse to decide on scores that are not numbers."""
    broken = [name for name, score in scores.items() if not math.isfinite(score)]
    if broken:
        raise RunError(
            f"the proxy gave {len(broken)} of {len(scores)} sites no finite score, the first being {broken[0]}",
            hint="a lower learning rate, or training.precision=fp32; another proxy with search.proxy",
        )
