"""The budget: one number of adapter parameters, the head not counted, however the recipe states it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorakit.adapters.counting import costs, shared_cost, uniform_cost
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.site import Site
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import SearchSection


@dataclass(frozen=True)
class Budget:
    """What may be on at once."""

    parameters: int
    """The most adapter parameters that may train after any tick."""
    share: float
    """Of all sites' parameters, what they share left out, or of the sites where modules are counted (1.0 = everything)."""
    source: str
    """How the recipe said it, for people."""


def resolve_budget(
    search: SearchSection,
    sites: Sequence[Site],
    linear: AdapterSpec,
    shortcut: AdapterSpec,
    *,
    default_share: float = 0.25,
    by: str = "site",
) -> Budget:
    """The recipe's budget in parameters; ``default_share`` of all where it gives none.

    Raises RecipeError where there is no site, or nothing that the budget can hold: a site, or by ``unit`` a site's first rank unit.
    """
    if not sites:
        raise RecipeError("there is no site to adapt", key="adapter.targets", hint="targets such as [q, v]")
    site_costs = costs(sites, linear, shortcut)
    common = shared_cost(sites, linear, shortcut)
    everything = sum(site_costs.values()) + common
    if search.uniform_rank is not None:
        key, source = "search.uniform_rank", f"what rank {search.uniform_rank} costs on all {len(sites)} sites"
        parameters = uniform_cost(sites, linear, shortcut, search.uniform_rank)
    elif search.parameters is not None:
        key, source = "search.parameters", "given in parameters"
        parameters = search.parameters
    else:
        share = default_share if search.enable is None else search.enable
        if search.unit == "modules":
            return _module_budget(share, sites, site_costs, common)
        key, source = "search.enable", f"{share:.0%} of the {everything:,} parameters of all {len(sites)} sites"
        parameters = portion(share, everything)
    smallest = costs(sites, linear, shortcut, {site.name: 1 for site in sites}) if by == "unit" else site_costs
    cheapest = min(smallest.values()) + common
    if parameters < cheapest:
        raise RecipeError(
            Problem(
                f"a budget of {parameters:,} parameters holds no site: the smallest costs {cheapest:,}",
                key=key,
                valid=f"{cheapest:,} to {everything:,} parameters",
                hint="a larger budget, or a smaller adapter.rank",
            )
        )
    of_sites = min(1.0, (parameters - common) / (everything - common)) if everything > common else 1.0
    return Budget(min(parameters, everything), of_sites, source)


def portion(share: float, total: int) -> int:
    """``share`` of ``total``, rounded down as on paper: 0.29 of 100 is 29, though 0.29 * 100 is a little less in binary."""
    return math.floor(round(share * total, 6))


def enabled_modules(share: float, sites: Sequence[Site]) -> tuple[int, int]:
    """(linear sites, shortcuts) that the authors' rule enables: floor of the share, and the share rounded, halves to the even number."""
    linear = sum(not site.is_shortcut for site in sites)
    return portion(share, linear), round(round(share * (len(sites) - linear), 6))


def _module_budget(share: float, sites: Sequence[Site], site_costs: Mapping[str, int], common: int) -> Budget:
    """The authors' budget counts modules; in parameters that is at most the dearest ones."""
    total = sum(enabled_modules(share, sites))
    if total == 0:
        raise RecipeError(
            Problem(f"{share:.0%} of {len(sites)} sites is not one module", key="search.enable", hint="a larger share")
        )
    dearest = sorted(site_costs.values(), reverse=True)[:total]
    return Budget(sum(dearest) + common, share, f"{total} of {len(sites)} modules")
