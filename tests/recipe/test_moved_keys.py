"""Keys of old: a person is told where each went; a run's recipe that an older lorakit wrote means what it meant."""

import re
from pathlib import Path

import pytest

from lorakit.errors import RecipeError
from lorakit.recipe.keys import recipe_keys
from lorakit.recipe.load import load_recipe
from lorakit.recipe.moved import MOVED
from lorakit.searching.allocator import allocators
from lorakit.searching.proxy import proxies

GIVEN = [
    # old key, its value, what to try
    ("norm", "l1", "search.proxy_options: {norm: l1}"),
    ("untrained", "literal", "search.proxy_options: {untrained: literal}"),
    ("tolerance", "0.05", "search.proxy_options: {tolerance: 0.05}"),
    ("population", "4", "search.options: {population: 4}"),
    ("holdout", "0.2", "search.options: {holdout: 0.2}"),
    ("mutation", "[1]", "search.options: {mutation: 0.2}"),
    ("min_parameters", "", "search.options: {min_parameters: 0}"),
    ("generations", "20", "leave it out: that is its default"),
]


@pytest.mark.parametrize(("name", "value", "hint"), GIVEN)
def test_an_old_key_says_where_it_went(mistakes, name, value, hint):
    (problem,) = mistakes(f"search:\n  every: 0.5\n  {name}: {value}")
    assert (problem.where, problem.key, problem.hint) == ("mine.yaml:5", f"search.{name}", hint)
    assert re.match(r"has moved: it is an option of (proxy|allocator) \w+", problem.what)


@pytest.mark.parametrize("override", ["search.norm=l1", "search={norm: l1}"])
def test_on_the_command_line_too(mistakes, override):
    (problem,) = mistakes("", override)
    assert (problem.where, problem.key) == ("command line", "search.norm")
    assert problem.hint == "search.proxy_options={norm: l1}"


def test_an_extended_recipe_is_a_persons_too(folder):
    Path("base.yaml").write_text("model: {name: x}\ntask: {name: rte}\nsearch: {untrained: literal}\n")
    Path("mine.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(RecipeError, match=r"base.yaml:3: search.untrained: has moved"):
        load_recipe("mine.yaml")


def test_they_are_options_now_with_the_same_defaults_and_no_keys():
    assert len(MOVED) == 9
    assert not set(MOVED) & set(recipe_keys())
    for path, moved in MOVED.items():
        registry = {"search.proxy": proxies, "search.method": allocators}[moved.owner]
        for owner in moved.owners:
            assert str(registry.get(owner).options[path.partition(".")[2]].default) == moved.default


RENAMED = [
    # old key, its value, what, what to try
    ("pooling", "mean", "is called model.readout now", "model.readout{}mean"),
    ("pooling", "default", "is called model.readout now", "model.readout{}own"),
    ("pooling", "", "is called model.readout now", "model.readout{}VALUE"),
    ("head", "probe", "'probe' has moved: it is a value of model.head_start now", "model.head_start{}fitted"),
]


@pytest.mark.parametrize(("name", "value", "what", "hint"), RENAMED)
def test_a_key_that_is_called_otherwise_says_how(folder, name, value, what, hint):
    Path("mine.yaml").write_text(f"model:\n  name: x\n  {name}: {value}\ntask: {{name: rte}}\n")
    Path("other.yaml").write_text("model: {name: x}\ntask: {name: rte}\n")
    for recipe, override, where, equals in (
        ("mine.yaml", [], "mine.yaml:3", ": "),
        ("other.yaml", [f"model.{name}={value}"], "command line", "="),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe, override)
        (problem,) = caught.value.problems
        assert (problem.where, problem.key) == (where, f"model.{name}")
        assert (problem.what, problem.hint) == (what, hint.format(equals))


OLD_HEADS = [
    # what a run of old said, what it means
    ("head: null, pooling: default", (None, "random", "own")),
    ("head: probe, pooling: mean", (None, "fitted", "mean")),
    ("head: keep, pooling: mean", ("keep", "random", "mean")),
    ("head: probe", (None, "fitted", "own")),
]


@pytest.mark.parametrize(("said", "meant"), OLD_HEADS)
def test_a_runs_head_is_what_it_was(folder, said, meant):
    path = old_run("  method: none\n")
    path.write_text(path.read_text().replace("{name: x}", f"{{name: x, {said}}}"))
    model = load_recipe(path).recipe.model
    assert (model.head, model.head_start, model.readout) == meant


def test_a_runs_recipe_that_says_nonsense_is_told_where(folder):
    path = old_run("  method: none\n")
    path.write_text(path.read_text().replace("{name: x}", "{name: x, pooling: soup}"))
    with pytest.raises(RecipeError, match="'soup' is not one of the choices"):
        load_recipe(path)


# -- in a run's folder -------------------------------------------------------------------------------------------------

SPELT = {
    "norm": "l2",
    "untrained": "expected",
    "tolerance": "0.01",
    "population": "50",
    "generations": "20",
    "parents": "10",
    "mutation": "0.2",
    "holdout": "0.1",
    "min_parameters": "0",
}
"""What every recipe in a run's folder had."""


def old_run(search: str, **changed: str) -> Path:
    """The recipe of a run that an older lorakit made, with every default spelt out."""
    Path("runs/old-0").mkdir(parents=True, exist_ok=True)
    Path("runs/old-0/environment.json").write_text("{}")
    path = Path("runs/old-0/recipe.yaml")
    lines = [f"  {key}: {value}\n" for key, value in {**SPELT, **changed}.items()]
    path.write_text(f"model: {{name: x}}\ntask: {{name: rte}}\nsearch:\n{search}{''.join(lines)}")
    return path


HETERO = "  method: heterolora\n  proxy: {}\n  preset: {}\n  options: {{}}\n"
MEANT = [
    # proxy, preset, what was set, its proxy's options now
    ("gradnorm", "null", {}, {}),
    ("gradnorm", "null", {"norm": "l1", "untrained": "literal", "tolerance": "0.5", "population": "4"}, {"norm": "l1"}),
    ("snip", "null", {"untrained": "literal"}, {"untrained": "literal"}),
    ("alpha", "null", {"tolerance": "0.05", "norm": "l1"}, {"tolerance": "0.05"}),
    ("constant", "null", {"norm": "l1"}, {}),
    ("gradnorm", "paper", {"untrained": "literal"}, {"norm": "l2"}),
    ("gradnorm", "paper", {"untrained": "literal", "norm": "l1"}, {"norm": "l1"}),
    ("snip", "paper", {"untrained": "literal"}, {"untrained": "literal"}),
    ("snip", "paper", {}, {"untrained": "expected"}),  # said by the recipe against its preset
]


@pytest.mark.parametrize(("proxy", "preset", "changed", "options"), MEANT)
def test_a_runs_recipe_means_what_it_meant(folder, proxy, preset, changed, options):
    loaded = load_recipe(old_run(HETERO.format(proxy, preset), **changed))
    assert loaded.recipe.search.proxy_options == options
    assert loaded.recipe.search.options == {}
    kind = proxies.get(proxy)
    meant = {name: value for name, value in {**SPELT, **changed}.items() if name in kind.options}
    assert {name: str(value) for name, value in kind.settings_from(options).items()} == meant
    Path("again.yaml").write_text(loaded.to_yaml())
    assert load_recipe("again.yaml").recipe.search == loaded.recipe.search


def test_it_is_the_recipe_that_a_person_would_write_now(folder):
    """So that a run which was begun by an older lorakit goes on with the recipe it was begun with."""
    old = load_recipe(old_run("  method: heterolora\n  proxy: snip\n  preset: paper\n", untrained="literal")).recipe
    text = "model: {name: x}\ntask: {name: rte}\nsearch: {method: heterolora, proxy: snip, preset: paper}\n"
    Path("mine.yaml").write_text(text)
    assert load_recipe("mine.yaml").recipe.search == old.search


def test_gloras_search_keeps_its_settings_and_gets_no_others(folder):
    changed = {"population": "4", "min_parameters": "1000", "norm": "l1"}
    search = load_recipe(old_run("  method: glora\n  options: {smooth: 0.5}\n", **changed)).recipe.search
    assert search.options == {"population": "4", "min_parameters": "1000"}
    assert search.proxy_options == {"norm": "l1"}
    assert load_recipe(old_run("  method: glora\n")).recipe.search.options == {}


def test_another_allocator_keeps_its_own(folder):
    search = load_recipe(old_run("  method: sora\n  options: {penalty: 0.5}\n", population="4")).recipe.search
    assert search.options == {"penalty": "0.5"}


def test_the_command_line_says_it_as_a_person_does(folder):
    path = old_run("  method: heterolora\n", norm="l1")
    assert load_recipe(path, ["search.proxy_options={}"]).recipe.search.proxy_options == {}
    with pytest.raises(RecipeError, match=r"command line: search.norm: has moved"):
        load_recipe(path, ["search.norm=l2"])


def test_a_file_of_that_name_elsewhere_is_a_persons(folder):
    Path("recipe.yaml").write_text("model: {name: x}\ntask: {name: rte}\nsearch: {norm: l1}\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:3: search.norm: has moved"):
        load_recipe("recipe.yaml")
