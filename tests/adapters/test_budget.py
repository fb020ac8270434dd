"""Budgets against the arithmetic of HeteroLoRA's search space: OPT-350M, q and v, and the authors' four shortcuts."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, OPTConfig

from lorakit.adapters.budget import Budget, enabled_modules, resolve_budget
from lorakit.adapters.counting import uniform_cost
from lorakit.adapters.method import resolve, shortcut_spec
from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection, SearchSection

PAPER = ["res1", "res2", "in", "mid"]  # the authors' residual_1, residual_2, shortcut_sa, shortcut_ffn


@pytest.fixture(scope="module")
def opt_350m() -> tuple[list[Site], list[Site]]:
    """The linear sites (q and v) and the shortcuts of OPT-350M, without its weights."""
    config = OPTConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        ffn_dim=4096,
        num_attention_heads=16,
        word_embed_proj_dim=512,
        do_layer_norm_before=False,
    )
    with torch.device("meta"):
        anatomy = Anatomy(AutoModelForSequenceClassification.from_config(config))
    return anatomy.select(["q", "v"]), anatomy.shortcuts(PAPER)


def budget(sites: list[Site], section: AdapterSection, **search: object) -> Budget:
    return resolve_budget(SearchSection(**search), sites, resolve(section), shortcut_spec(section))  # type: ignore[arg-type]


def test_the_papers_search_space_has_143_places_of_which_36_are_on(opt_350m: tuple[list[Site], list[Site]]) -> None:
    linear, shortcuts = opt_350m
    assert (len(linear), len(shortcuts)) == (48, 95)
    assert enabled_modules(0.25, linear + shortcuts) == (12, 24)
    assert enabled_modules(0.25, linear) == (12, 0)
    halves = [enabled_modules(0.25, shortcuts[:number])[1] for number in (2, 6, 10, 14)]
    assert halves == [0, 2, 2, 4]  # Python's round of 0.5, 1.5, 2.5 and 3.5, as the authors count


@pytest.mark.parametrize(
    ("combined", "rank", "parameters"), [(True, 8, 589_824), (True, 32, 2_359_296), (False, 8, 196_608)]
)
def test_unit_modules_is_the_papers_budget(
    opt_350m: tuple[list[Site], list[Site]], combined: bool, rank: int, parameters: int
) -> None:
    linear, shortcuts = opt_350m
    sites = linear + shortcuts if combined else linear
    found = budget(sites, AdapterSection(rank=rank), unit="modules", enable=0.25)
    assert found.parameters == parameters
    assert found.source.startswith("36 of 143" if combined else "12 of 48")


@pytest.mark.parametrize(("rank", "lora", "everything"), [(2, 196_608, 585_728), (8, 786_432, 2_342_912)])
def test_uniform_ranks_cost_what_the_paper_counts(
    opt_350m: tuple[list[Site], list[Site]], rank: int, lora: int, everything: int
) -> None:
    linear, shortcuts = opt_350m
    section = AdapterSection(rank=32)
    assert budget(linear, section, uniform_rank=rank).parameters == lora
    assert budget(linear + shortcuts, section, uniform_rank=rank).parameters == everything
    assert uniform_cost(linear + shortcuts, resolve(section), shortcut_spec(section), 32) == 9_371_648


SITES = [
    Site("a", 0, "q", 10, 10, "linear"),
    Site("b", 0, "up", 10, 40, "linear"),
    Site("c", 0, "res1", 10, 10, "shortcut"),
    Site("d", 1, "down", 40, 10, "conv1d"),
]
SECTION = AdapterSection(rank=4, shortcut_rank=2)  # 4 * 20 + 4 * 50 + 2 * 20 + 4 * 50 = 520 parameters in all


@pytest.mark.parametrize(
    ("search", "parameters", "share"),
    [
        ({}, 130, 0.25),
        ({"enable": 0.4}, 208, 0.4),
        ({"enable": 1.0}, 520, 1.0),
        ({"parameters": 333}, 333, 333 / 520),
        ({"parameters": 10_000}, 520, 1.0),
        ({"uniform_rank": 1}, 20 + 50 + 20 + 50, 140 / 520),
        ({"uniform_rank": 64}, 520, 1.0),
        ({"parameters": 40}, 40, 40 / 520),
    ],
)
def test_the_three_forms(search: dict[str, object], parameters: int, share: float) -> None:
    found = budget(SITES, SECTION, **search)
    assert found.parameters == parameters
    assert math.isclose(found.share, share)
    assert found.source


@pytest.mark.parametrize(
    ("sites", "search", "key"),
    [
        (SITES, {"parameters": 39}, "search.parameters"),
        (SITES, {"enable": 0.05}, "search.enable"),
        (SITES, {"enable": 0.1, "unit": "modules"}, "search.enable"),
        (SITES[1:2], {"parameters": 199}, "search.parameters"),
        ([], {}, "adapter.targets"),
    ],
)
def test_a_budget_that_holds_nothing_is_refused(sites: list[Site], search: dict[str, object], key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        budget(sites, SECTION, **search)
    assert caught.value.problems[0].key == key


def test_shares_are_of_decimal_numbers() -> None:
    """0.29 of 100 is 29, though 0.29 * 100 is a little less in binary."""
    hundred = [Site(str(i), 0, "q", 1, 1, "linear") for i in range(100)]
    assert enabled_modules(0.29, hundred) == (29, 0)
    assert budget(hundred, AdapterSection(rank=1), enable=0.29).parameters == 58


def test_the_smallest_uniform_rank_holds_at_least_one_site() -> None:
    dora = AdapterSection(method="dora", rank=1)
    assert budget(SITES[:1], dora, uniform_rank=1).parameters == 10 + 10 + 10
