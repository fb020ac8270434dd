"""GLoRA's configurations as an evolution sees them: a gene for each letter of each site, and what each choice trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.adapters.budget import resolve_budget
from lorakit.adapters.counting import count_parameters
from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.glora import NONE, GLoRA, choices_on
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.rules import BUDGETS
from lorakit.result import Result
from lorakit.tasks.metrics import main_metric
from lorakit.tasks.task import higher_is_better
from lorakit.training.seeds import derive_seed
from lorakit.workflow.glora.evolution import Candidate, Evolution, Gene, Rules
from lorakit.workflow.parts import Parts


@dataclass(frozen=True)
class FoundSite(Result):
    """A site with the configuration that was found for it.

    Attributes:
        name: its module in the model.
        label: its short name, ``3.q``.
        role: which projection it is.
        layer: its layer, from 0.
        rank: of its adapter.
        parameters: what that trains.
        configuration: letter -> choice.
    """

    name: str
    label: str
    role: str
    layer: int
    rank: int
    parameters: int
    configuration: dict[str, str]


def check_searchable(loaded: LoadedRecipe) -> None:
    """Refuse a recipe whose adapters have no configurations to search, or have been given theirs."""
    adapter, problems = loaded.recipe.adapter, []
    delta = resolve(adapter).delta
    if deltas.get(delta) is not GLoRA:
        what = f"the search is for configurations of GLoRA, and the adapters are of delta '{delta}'"
        problems.append(Problem(what, key="adapter.method", valid="glora", hint="adapter.method=glora"))
    if adapter.site_options:
        what, hint = "gives what a search is to find", "the recipe that this one was made from"
        problems.append(Problem(what, key="adapter.site_options", valid="no site_options", hint=hint))
    if problems:
        raise RecipeError(problems)


def start_evolution(loaded: LoadedRecipe, parts: Parts, settings: Mapping[str, Any]) -> Evolution:
    """An evolution of the sites' configurations within the recipe's limits. RecipeError for limits that none keeps."""
    search, costs = loaded.recipe.search, parts.costs
    given = [key for key in BUDGETS if getattr(search, key.partition(".")[2]) is not None]
    budget = resolve_budget(search, parts.sites, parts.linear, parts.shortcut).parameters if given else None
    rules = Rules(
        population=settings["population"],
        parents=settings["parents"],
        mutation=settings["mutation"],
        fixed=sum(costs[site.name] for site in parts.sites if site.is_shortcut),
        lowest=settings["min_parameters"],
        highest=budget,
        maximise=higher_is_better(main_metric(parts.task)),
    )
    genes = [gene for site in parts.sites if not site.is_shortcut for gene in genes_on(parts, site)]
    evolution = Evolution(
        genes, rules, lambda number: derive_seed(loaded.recipe.run.seed, f"search/generation {number}")
    )
    fewest, most = max(rules.fixed, rules.lowest), evolution.most()
    if fewest > most or (budget is not None and budget < fewest):
        raise RecipeError(
            f"no configuration has parameters within the limits: at least {rules.lowest:,}"
            + ("" if budget is None else f", at most {budget:,}"),
            key=given[0] if given and fewest <= most else "search.options",
            valid=f"limits within {rules.fixed:,} to {most:,}",
        )
    return evolution


def genes_on(parts: Parts, site: Site) -> list[Gene]:
    """What is to be chosen on ``site``, and what each choice trains."""
    nothing = dict.fromkeys(choices_on(site), NONE) | {"mode": "fixed"}
    rank = parts.rank_of(site)
    return [
        Gene(
            f"{site.name}/{letter}",
            {
                choice: count_parameters(parts.linear.with_options({**nothing, letter: choice}), site, rank)
                for choice in choices
            },
        )
        for letter, choices in choices_on(site).items()
    ]


def configuration_of(evolution: Evolution, candidate: Candidate) -> dict[str, dict[str, str]]:
    """Site -> letter -> choice, of a candidate."""
    found: dict[str, dict[str, str]] = {}
    for gene, choice in zip(evolution.genes, candidate, strict=True):
        site, _, letter = gene.name.rpartition("/")
        found.setdefault(site, {})[letter] = choice
    return found


def describe_site(parts: Parts, site: Site, chosen: dict[str, str]) -> FoundSite:
    """The site as it was found."""
    rank = parts.rank_of(site)
    parameters = count_parameters(parts.linear.with_options({**chosen, "mode": "fixed"}), site, rank)
    return FoundSite(site.name, site.label, site.role, site.layer, rank, parameters, chosen)
