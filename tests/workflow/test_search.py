"""``lorakit search`` and searched trainings end to end: a tiny model, a task of csv files, every proxy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import VOCABULARY, WORDS, tiny_model
from support.runs import in_quotes
from support.thinned import thinned

import lorakit
from lorakit.artifacts.run import Run
from lorakit.errors import RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.searching.proxy import Probe, Proxy, proxies
from lorakit.workflow.search import SearchResult
from lorakit.workflow.setup import adapt, assemble

SEARCH = "search: {method: heterolora, enable: 0.4, batches: 2}"
MARK = "dog"  # in every validation text, in no training text
WIDTH, RANK, SHORTCUT_RANK = 32, 3, 2
COST = {
    "q": RANK * 2 * WIDTH,
    "v": RANK * 2 * WIDTH,
    "res1": SHORTCUT_RANK * 2 * WIDTH,
    "mid": SHORTCUT_RANK * 2 * WIDTH,
}
EVERYTHING = 2 * COST["q"] + 2 * COST["v"] + 2 * COST["res1"] + COST["mid"]  # two layers; mid has no site in the first


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its model and its rows: validation texts and labels are such that a glance at one is seen."""
    folder = tmp_path_factory.mktemp("searching")
    tiny_model("bert", folder / "bert")
    tiny_model("opt_postnorm", folder / "opt")
    rng = np.random.default_rng(0)
    plain = [word for word in WORDS if word.isalpha() and word != MARK]
    for split, rows, first in (("train", 60, []), ("validation", 20, [MARK])):
        lines = [" ".join([*first, *rng.choice(plain, rng.integers(2, 9))]) for _ in range(rows)]
        (folder / f"{split}.csv").write_text("text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(lines)))
    there = in_quotes(folder)
    (folder / "recipe.yaml").write_text(
        f"""
model: {{name: "{there}/bert"}}
task: {{name: custom, train: "{there}/train.csv", validation: "{there}/validation.csv", text: text, label: label}}
adapter:
  {{targets: [q, v], rank: {RANK}, alpha: 6, shortcuts: [res1, mid], shortcut_rank: {SHORTCUT_RANK}, shortcut_alpha: 3}}
{SEARCH}
training: {{epochs: 1, batch_size: 8}}
evaluation: {{baselines: []}}
run: {{offline: true, seed: 3}}
"""
    )
    return folder


def search(place: Path, *overrides: str, emit: Path | None = None) -> SearchResult:
    return lorakit.search(load_recipe(place / "recipe.yaml", overrides), emit=emit)


@pytest.mark.parametrize("proxy", thinned(proxies.names(), 3))
def test_search_ranks_chooses_and_emits_a_recipe_that_trains_exactly_that(
    place: Path, tmp_path: Path, proxy: str
) -> None:
    emitted = tmp_path / "found.yaml"
    result = search(place, f"search.proxy={proxy}", emit=emitted)
    scores = [site.score for site in result.ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(result.ranked) == 7
    assert all(site.parameters == COST[site.role] for site in result.ranked)
    assert all(site.rank == (RANK if site.role in "qv" else SHORTCUT_RANK) for site in result.ranked)
    chosen = {site.name: site.rank for site in result.ranked if site.on}
    assert result.budget == int(0.4 * EVERYTHING)
    assert result.used == sum(site.parameters for site in result.ranked if site.on) <= result.budget
    cheapest_off = min(site.parameters for site in result.ranked if not site.on)
    assert result.budget - result.used < cheapest_off
    assert (result.proxy, result.emitted) == (proxy, emitted)
    assert result.note == f"where B = 0: {proxies.get(proxy).at_zero}"

    loaded = load_recipe(emitted, ["training.max_steps=2"])
    assert loaded.recipe.adapter.allocation == chosen
    assert (loaded.recipe.search.method, loaded.name) == ("none", "found")
    plan = lorakit.plan(loaded)
    assert {site.name: site.rank for site in plan.sites} == chosen
    trained = lorakit.train(loaded, run_dir=tmp_path / "run")
    assert trained.steps == 2
    assert trained.sites_on == trained.sites_total == len(chosen)
    assert trained.adapter_parameters == result.used == plan.adapter_parameters


def test_the_best_by_score_are_on_where_all_cost_the_same(place: Path) -> None:
    result = search(place, "adapter.shortcuts=[]", "search.enable=0.5")
    assert [site.on for site in result.ranked] == [True, True, False, False]


def test_the_same_seed_finds_the_same(place: Path) -> None:
    def found(*overrides: str) -> list[tuple[str, float, bool]]:
        return [(site.name, site.score, site.on) for site in search(place, *overrides).ranked]

    assert found() == found()
    assert found("search.proxy=constant") == found("search.proxy=constant")
    others = {tuple(found("search.proxy=constant", f"run.seed={seed}")) for seed in range(5)}
    assert len(others) > 1


@pytest.mark.parametrize(
    "settings",
    [
        (),
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                ("search.method=gradsvd", "adapter.shortcuts=[]", "search.options={start: svd}"),
                ("search.method=eva", "adapter.method=eva", "adapter.shortcuts=[]"),
            )
        ),
    ],
)
def test_two_halves_score_apart_and_change_nothing(
    place: Path, settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search(place, *settings)
    assert found.stability.rows == 2 * 8  # search.batches of training.batch_size
    assert -1 <= found.stability.correlation <= 1
    assert search(place, *settings, "search.batches=100").stability.rows == 60 // 2  # all rows, half of them each
    monkeypatch.setattr("lorakit.workflow.search.on_two_halves", lambda *arguments: found.stability)
    assert search(place, *settings).ranked == found.ranked


def test_a_recipe_without_a_search_is_searched_with_the_defaults(place: Path) -> None:
    with_method = search(place)
    without = search(place, "search.method=none")
    assert without.ranked == with_method.ranked
    assert without.budget == with_method.budget


def test_a_budget_that_holds_nothing_is_told_with_its_place(place: Path) -> None:
    with pytest.raises(RecipeError, match=r"command line: search.parameters: a budget of 10 parameters holds no site"):
        search(place, "search.parameters=10")


def test_a_recipe_with_an_allocation_has_nothing_to_search(place: Path, tmp_path: Path) -> None:
    search(place, emit=tmp_path / "found.yaml")
    with pytest.raises(RecipeError, match=r"found.yaml:\d+: adapter.allocation: gives the ranks"):
        lorakit.search(load_recipe(tmp_path / "found.yaml"))


@pytest.mark.parametrize("proxy", ["gradnorm", "constant"])
def test_the_static_search_is_the_first_tick_of_a_searched_training(place: Path, tmp_path: Path, proxy: str) -> None:
    settings = [f"search.proxy={proxy}", "search.mode=train", "training.max_steps=1"]
    static = search(place, *settings)
    run = Run(lorakit.train(load_recipe(place / "recipe.yaml", settings), run_dir=tmp_path / "run").run_dir)
    (tick,) = run.timeline()
    assert tick["scores"] == {site.name: site.score for site in static.ranked}
    assert set(tick["on"]) == {site.name for site in static.ranked if site.on}
    assert (tick["parameters"], tick["budget"]) == (static.used, static.budget)


# -- only training rows ------------------------------------------------------------------------------------------------


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """A proxy ``spy`` that scores as gradnorm does and keeps the batches of every tick."""
    kept: list[list[Any]] = []
    gradnorm: Proxy = proxies.get("gradnorm")

    def score(probe: Probe) -> dict[str, float]:
        kept.append(list(probe.batches))
        return gradnorm.score(probe)

    monkeypatch.setitem(proxies._entries, "spy", replace(gradnorm, name="spy", score=score))
    return kept


def texts(batch: Any) -> set[tuple[Any, ...]]:
    """Rows as (words, label), without padding and special tokens."""
    words = {number: word for word, number in VOCABULARY.items()}
    rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
    return {(" ".join(words[token] for token in tokens if token > 3), label) for tokens, label in rows}


def training_rows(place: Path) -> set[tuple[str, int]]:
    lines = (place / "train.csv").read_text().splitlines()[1:]
    return {(text, int(label)) for text, _, label in (line.partition(",") for line in lines)}


@pytest.mark.parametrize("data", ["sampled", "first"])
def test_a_searched_training_scores_training_rows_alone(
    place: Path, tmp_path: Path, spied: list[list[Any]], data: str
) -> None:
    settings = ["search.proxy=spy", f"search.data={data}", "search.batches=5", "search.every=0.25"]
    result = lorakit.train(load_recipe(place / "recipe.yaml", settings), run_dir=tmp_path / "run")
    ticks = [set().union(*map(texts, batches)) for batches in spied]
    assert len(ticks) == len(Run(result.run_dir).timeline()) == 4
    assert set().union(*ticks) <= training_rows(place)
    assert not any(MARK in text for tick in ticks for text, _ in tick)
    assert len(set(map(frozenset, ticks))) == (4 if data == "sampled" else 1)


def test_what_validation_holds_changes_no_choice(place: Path, tmp_path: Path) -> None:
    """Other validation texts with all labels turned round: the same scores and the same weights in the end."""
    turned = tmp_path / "turned.csv"
    lines = (place / "validation.csv").read_text().splitlines()[1:]
    turned.write_text("text,label\n" + "".join(f"cat {line[:-1]}{1 - int(line[-1])}\n" for line in lines))
    found = []
    for number, file in enumerate((place / "validation.csv", turned)):
        loaded = load_recipe(place / "recipe.yaml", ["search.proxy=alpha", f"task.validation={file}"])
        run = Run(lorakit.train(loaded, run_dir=tmp_path / str(number)).run_dir)
        found.append([(tick["scores"], tick["on"]) for tick in run.timeline()])
        found.append((run.weights("last") / "adapter_model.safetensors").read_bytes())
    assert found[:2] == found[2:]


# -- searched trainings ------------------------------------------------------------------------------------------------


def test_the_papers_preset_runs_as_the_authors_code_does(place: Path, tmp_path: Path) -> None:
    """Post-norm OPT with their four shortcuts: of 4 + 7 sites, floor(1) + round(1.75) are on, five times an epoch."""
    settings = [
        f"model.name={place}/opt",
        "adapter.shortcuts=[res1, res2, in, mid]",
        "training={epochs: 2, batch_size: 2, schedule: constant, warmup: 0, clip: 0, length_grouping: false}",
    ]
    recipe = (place / "recipe.yaml").read_text().replace(SEARCH, "search: {method: heterolora, preset: paper}")
    (tmp_path / "paper.yaml").write_text(recipe)
    result = lorakit.train(load_recipe(tmp_path / "paper.yaml", settings), run_dir=tmp_path / "run")
    ticks = Run(result.run_dir).timeline()
    assert [tick["step"] for tick in ticks] == [0, 6, 12, 18, 24, 30, 36, 42, 48, 54]
    assert {len(tick["on"]) for tick in ticks} == {3}
    assert (result.sites_on, result.sites_total) == (3, 11)
    assert all(tick["parameters"] <= tick["budget"] == result.budget for tick in ticks)


@pytest.mark.slow
def test_a_searched_training_twice_gives_the_same_timeline(place: Path, tmp_path: Path) -> None:
    def timeline(name: str, *overrides: str) -> list[dict[str, Any]]:
        loaded = load_recipe(place / "recipe.yaml", ["search.mode=train", "adapter.dropout=0.2", *overrides])
        run = Run(lorakit.train(loaded, run_dir=tmp_path / name).run_dir)
        return [{**tick, "seconds": None} for tick in run.timeline()]

    assert timeline("a") == timeline("b") != timeline("c", "run.seed=4")


@pytest.mark.parametrize("method", ["gradsvd", "eva"])
def test_an_emitted_recipe_has_the_ranks_and_the_scale_of_the_search(place: Path, tmp_path: Path, method: str) -> None:
    settings = (
        "adapter.shortcuts=[]",
        "adapter.targets=[q, down]",
        "adapter.rank=9",
        f"search.method={method}",
        "search.enable=null",
    )
    settings = (*settings, "search.uniform_rank=4")
    result = search(place, *settings, emit=tmp_path / "found.yaml")
    ranks = {site.name: site.rank for site in result.ranked if site.on}
    assert 9 not in ranks.values()  # so that a scale by the own rank would be another one
    assert result.used <= result.budget
    found = load_recipe(tmp_path / "found.yaml")
    assert found.recipe.adapter.allocation == ranks
    adapted = adapt(assemble(found))
    assert {name: adapter.rank for name, adapter in adapted.adapters.items()} == ranks
    assert {adapter.scale for adapter in adapted.adapters.values()} == {6 / 9}
