"""Which sites of the backbone get adapters, with which ranks and settings, and how much of them the budget allows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.adapters.block import blocks
from lorakit.adapters.budget import Budget, resolve_budget
from lorakit.adapters.counting import costs, shared_cost
from lorakit.adapters.delta import deltas
from lorakit.adapters.method import methods, resolve
from lorakit.adapters.spec import AdapterSpec, read_options
from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.guessing import left_out
from lorakit.backbone.load import Backbone
from lorakit.backbone.lower_layers import KEY as FREEZE_KEY
from lorakit.backbone.lower_layers import modules_below
from lorakit.backbone.site import Site
from lorakit.errors import Problem, RecipeError, nearest
from lorakit.recipe.schema import Recipe
from lorakit.searching.allocator import allocators

logger = logging.getLogger(__name__)

ALL = "all"
SHOWN = 4  # modules that one line names


def choose_sites(recipe: Recipe, backbone: Backbone) -> tuple[list[Site], dict[str, int]]:
    """The sites of the recipe's targets and shortcuts, or the allocation's of these with their ranks; and what trains in full."""
    adapter, anatomy = recipe.adapter, backbone.anatomy
    method = methods.get(adapter.method)
    if method.block and adapter.targets != list(method.targets):
        where = blocks.get(method.block).summary
        logger.info("adapter.targets has no effect: %s sits on %s", method.name, where)
    wanted = method.sites(backbone, adapter.targets)
    if ALL in (adapter.targets or method.targets) and not method.block:
        wanted = without_gates(recipe, wanted)
        tell_left_out(anatomy)
    wanted = above(recipe, backbone, wanted)
    full = method.sites_in_full(backbone, adapter.in_full)
    candidates = [*wanted, *anatomy.shortcuts(adapter.shortcuts)]
    if not adapter.allocation:
        return [*candidates, *full], {}
    known = {site.name for site in candidates}
    problems = [
        Problem(
            f"there is no site '{name}' among the targets and shortcuts",
            key="adapter.allocation",
            valid="names as `lorakit plan` lists them",
            hint=nearest(name, known),
        )
        for name in adapter.allocation
        if name not in known
    ]
    if problems:
        raise RecipeError(problems)
    ranks = {name: rank for name, rank in adapter.allocation.items() if rank > 0}
    return [*(site for site in candidates if site.name in ranks), *full], ranks


def frozen_layers(recipe: Recipe) -> int:
    """How many lower layers the recipe freezes; 0 where it does not, and where that has not been found yet."""
    given = recipe.training.freeze_below
    return given if isinstance(given, int) else 0


def above(recipe: Recipe, backbone: Backbone, sites: list[Site]) -> list[Site]:
    """The sites that are not below the layers that train. RecipeError where there is none, or one that must be at the bottom."""
    count = frozen_layers(recipe)
    if not count:
        return sites
    below = {id(module) for module in modules_below(backbone, count)}
    if any(site.kind == "input" for site in sites):
        what = f"method '{recipe.adapter.method}' trains what is below layer {count}"
        raise RecipeError(what, key=FREEZE_KEY, valid="null with it")
    kept = [
        site
        for site in sites
        if site.layer >= count or (site.layer < 0 and id(backbone.model.get_submodule(site.name)) not in below)
    ]
    if not kept:
        raise RecipeError(f"no target is at layer {count} or above", key=FREEZE_KEY, valid="a smaller number")
    return kept


def without_gates(recipe: Recipe, sites: list[Site]) -> list[Site]:
    """The sites that ``all`` stands for: those without a role that are too narrow for the rank (a gate has one output) are none."""
    spec = resolve(recipe.adapter)
    delta = deltas.get(spec.delta)
    narrow = {
        site.name
        for site in sites
        if site.role == "other" and (limit := delta.highest_rank(site)) is not None and limit < spec.rank
    }
    if narrow:
        first = next(site for site in sites if site.name in narrow)
        logger.info(
            "targets all: %d modules are too narrow for rank %d and are left out, such as %s (%dx%d)",
            len(narrow),
            spec.rank,
            first.name,
            first.out_features,
            first.in_features,
        )
    return [site for site in sites if site.name not in narrow]


def tell_left_out(anatomy: Anatomy) -> None:
    """Say what ``all`` does not reach: matrices that are no Linear module."""
    if found := left_out(anatomy.layers):
        shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        logger.info("targets all: what is no plain Linear module is not adapted: %s", shown)


def read_site_options(recipe: Recipe, linear: AdapterSpec, sites: Sequence[Site]) -> dict[str, dict[str, Any]]:
    """Site name -> its own settings, read from ``adapter.site_options``. Raises RecipeError for a site that is not there."""
    known = {site.name for site in sites}
    read = {}
    for name, text in recipe.adapter.site_options.items():
        if name not in known:
            raise RecipeError(
                Problem(f"there is no site '{name}'", key="adapter.site_options", hint=nearest(name, known))
            )
        pairs = dict(pair.split("=", 1) for pair in text.split(","))
        read[name] = read_options(linear.delta, pairs, "adapter.site_options")
    return read


def choose_budget(
    recipe: Recipe,
    sites: Sequence[Site],
    linear: AdapterSpec,
    shortcut: AdapterSpec,
    ranks: Mapping[str, int],
    options: Mapping[str, Mapping[str, Any]],
) -> Budget:
    """What may be on at once: all sites where nothing is searched, else what the recipe gives its allocator."""
    if recipe.search.method == "none":
        everything = sum(costs(sites, linear, shortcut, ranks, options).values())
        everything += shared_cost(sites, linear, shortcut, ranks)
        return Budget(everything, 1.0, f"all {len(sites)} sites")
    allocator = allocators.get(recipe.search.method)
    return resolve_budget(
        recipe.search, sites, linear, shortcut, default_share=allocator.default_share, by=allocator.by
    )
