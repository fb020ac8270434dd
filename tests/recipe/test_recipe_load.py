"""Reading, extending, overriding, finding, writing."""

import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

import lorakit.recipe.load as loading
from lorakit.adapters.method import methods, resolve
from lorakit.errors import DataError, Problem, RecipeError, RunError
from lorakit.recipe.keys import plain_values, recipe_keys
from lorakit.recipe.load import LoadedRecipe, find_recipe, load_recipe
from lorakit.recipe.schema import SEARCH_PRESETS, Recipe
from lorakit.recipe.values import written


def test_values_get_the_type_of_their_key(load):
    recipe = load(
        "adapter: {targets: all, alpha: 8, rank: 1_0}\n"
        "training: {lr: 5e-4, epochs: 3, warmup: .5, max_steps: null, length_grouping: no}\n"
        "model: {name: 42, revision: 5e4}\n"
        "run: {offline: Yes, name: 2024-01-01, trackers: tensorboard}\n",
        head="task: {name: mrpc}\n",
    ).recipe
    assert isinstance(recipe, Recipe)
    assert recipe.adapter.targets == ["all"]
    assert (recipe.adapter.alpha, type(recipe.adapter.alpha)) == (8.0, float)
    assert (recipe.adapter.rank, type(recipe.adapter.rank)) == (10, int)
    assert recipe.training.lr == 0.0005
    assert recipe.training.warmup == 0.5
    assert recipe.training.max_steps is None
    assert recipe.training.length_grouping is False
    assert (recipe.model.name, recipe.model.revision) == ("42", "5e4")
    assert (recipe.run.offline, recipe.run.name, recipe.run.trackers) == (True, "2024-01-01", ["tensorboard"])


def test_a_setting_may_be_true_or_false(load):
    """Its type is its owner's, as that of a number is."""
    first = load("adapter: {method: intrinsic, options: {per_layer: False, seed: 3}}\n").recipe
    again = load(f"adapter: {written(asdict(first.adapter))}\n").recipe
    assert first.adapter.options == again.adapter.options == {"per_layer": "false", "seed": "3"}
    assert resolve(first.adapter).settings == {"per_layer": False, "seed": 3}


def test_defaults_are_the_schema_s(load):
    loaded = load("adapter:\nsearch: {}\n")
    expected = Recipe()
    expected.model.name, expected.task.name, expected.run.name = "bundled:minilm", "mrpc", "mine"
    usual = methods.get("lora")
    expected.adapter = replace(expected.adapter, targets=["q", "v"], rank=8, alpha=16.0, in_full=[])
    expected.training = replace(expected.training, lr=usual.lr)
    assert loaded.recipe == expected
    assert (loaded.name, loaded.path) == ("mine", Path("mine.yaml"))


def test_recipes_share_nothing_that_can_be_changed(load):
    first, second = load(), load()
    first.recipe.adapter.shortcuts.append("res1")
    first.recipe.adapter.options["block"] = "4"
    first.recipe.training.epochs = 99.0
    assert second.recipe == load().recipe
    assert (load().recipe.adapter.shortcuts, load().recipe.adapter.options) == ([], {})
    assert load().recipe.training.epochs == 3.0


def test_byte_order_mark_and_windows_lines(folder):
    Path("mine.yaml").write_bytes(b"\xef\xbb\xbfmodel: {name: x}\r\ntask:\r\n  name: rte\r\n")
    assert load_recipe("mine.yaml").where("task.name") == "mine.yaml:3"


def test_extends_a_chain_of_files_and_a_shipped_recipe(folder):
    Path("deep").mkdir()
    Path("deep/base.yaml").write_text("extends: demo\nadapter:\n  rank: 4\n  alpha: 32\n")
    Path("deep/middle.yaml").write_text("extends: base\nadapter:\n  alpha: 64\n")
    Path("top.yaml").write_text("extends: deep/middle.yaml\nrun: {seed: 3}\n")
    loaded = load_recipe("top.yaml", ["run.seed=5"])
    recipe = loaded.recipe
    assert (recipe.model.name, recipe.adapter.rank, recipe.adapter.alpha) == ("bundled:minilm", 4, 64.0)
    assert (recipe.run.seed, recipe.run.name) == (5, "top")
    assert loaded.where("adapter.alpha") == "deep/middle.yaml:3"
    assert loaded.where("adapter.rank") == "deep/base.yaml:3"
    assert loaded.where("run.seed") == "command line"
    assert loaded.where("model.name").rpartition(":")[0].endswith("demo.yaml")


def test_a_copy_of_a_shipped_recipe_may_extend_it_by_name(folder):
    Path("demo.yaml").write_text("extends: demo\nadapter: {rank: 3}\n")
    assert load_recipe("demo.yaml").recipe.adapter.rank == 3
    assert load_recipe("demo").recipe.adapter.rank == 8


@pytest.mark.parametrize("step", ["a.yaml", "b"])
def test_extends_in_a_circle(folder, step):
    Path("a.yaml").write_text("run: {seed: x}\nextends: b.yaml\n")
    Path("b.yaml").write_text(f"extends: {step}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("a.yaml")
    wrong_seed, circle = caught.value.problems
    assert wrong_seed.where == "a.yaml:1"
    assert (circle.where, circle.key) == ("b.yaml:1", "extends")
    names = "a.yaml -> b.yaml -> a.yaml" if step == "a.yaml" else "b.yaml -> b.yaml"
    assert circle.what == f"goes in a circle: {names}"


def test_extends_what_is_not_there(folder):
    Path("mine.yaml").write_text("extends: mrpc-lroa\nadapter: {rnak: 8}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("mine.yaml")
    unknown, missing = caught.value.problems  # and nothing of keys that the missing recipe may give
    assert unknown.key == "adapter.rnak"
    assert (missing.where, missing.key, missing.hint) == ("mine.yaml:1", "extends", "did you mean 'mrpc-lora'?")
    assert "mrpc-heterolora" in missing.valid


def test_extends_with_a_name_that_no_file_can_have(mistakes):
    assert [problem.key for problem in mistakes("extends: " + "x" * 5000)] == ["extends"]


@pytest.mark.parametrize("value", ["[a, b]", "", "null", "{a: b}"])
def test_extends_must_be_one_name(mistakes, value):
    (problem,) = mistakes(f"extends: {value}")
    assert (problem.where, problem.key, problem.valid) == ("mine.yaml:3", "extends", "one recipe's name or path")


def test_overrides(load):
    loaded = load(
        "search: {enable: 0.25}\n",
        "run.name=a=b",  # split at the first =
        "run.folder=/my files/it's #1, ü",  # no comment, as it would be in a file
        "adapter.targets=[q, v, '.*dense$']",
        "adapter.allocation={a.b: 4}",
        "search={method: none, proxy: snip}",
        "search.enable=null",
        "training.lr=1e-3",
        "training.max_steps=",
        "run.seed=1",
        "run.seed=2",  # the last one counts
    )
    recipe = loaded.recipe
    assert recipe.run.name == "a=b"
    assert recipe.run.folder == "/my files/it's #1, ü"
    assert recipe.adapter.targets == ["q", "v", ".*dense$"]
    assert recipe.adapter.allocation == {"a.b": 4}
    assert (recipe.search.proxy, recipe.search.enable) == ("snip", None)
    assert (recipe.training.lr, recipe.training.max_steps, recipe.run.seed) == (0.001, None, 2)
    assert loaded.where("search.enable") == "command line"


def test_a_later_layer_may_state_the_budget_in_another_way(load):
    search = load("search: {enable: 0.25}\n", "search.uniform_rank=2").recipe.search
    assert (search.enable, search.uniform_rank, search.parameters) == (None, 2, None)


def test_preset_is_below_everything_explicit(load):
    text = "search:\n  method: heterolora\n  preset: paper\n  batches: 4\n"
    loaded = load(text, "search.mode=eval")
    expected = dict(SEARCH_PRESETS["paper"]) | {
        "search.batches": 4,
        "search.mode": "eval",
        "search.proxy_options": {"norm": "l2"},  # the default proxy, gradnorm, has no `untrained`
    }
    for path, value in expected.items():
        section, name = path.split(".")
        assert getattr(getattr(loaded.recipe, section), name) == value, path
    assert loaded.where("search.data") == "mine.yaml:5"
    assert loaded.where("search.batches") == "mine.yaml:6"
    assert loaded.where("search.mode") == "command line"


@pytest.mark.parametrize(
    ("proxy", "options"),
    [
        ("gradnorm", {"norm": "l2"}),
        ("snip", {"untrained": "literal"}),
        ("synflow", {"untrained": "literal"}),
        ("alpha", {"tolerance": "0.005"}),
        ("constant", {}),
    ],
)
def test_a_preset_sets_those_options_that_the_proxy_has(load, proxy, options):
    text = f"search: {{method: heterolora, preset: paper, proxy: {proxy}}}\n"
    assert load(text).recipe.search.proxy_options == options
    other = {"snip": "untrained: expected", "gradnorm": "norm: l1"}.get(proxy, "")
    given = load(text, f"search.proxy_options={{{other}}}").recipe.search
    assert given.proxy_options == dict([other.split(": ")] if other else [])  # what the recipe says takes their place


def test_preset_of_an_extended_recipe_and_another_budget(folder):
    Path("base.yaml").write_text("model: {name: x}\ntask: {name: rte}\nsearch: {preset: paper, batches: 5}\n")
    Path("mine.yaml").write_text("extends: base.yaml\nsearch: {unit: parameters, uniform_rank: 2}\n")
    search = load_recipe("mine.yaml").recipe.search
    assert (search.batches, search.data, search.enable, search.uniform_rank) == (5, "first", None, 2)
    assert load_recipe("mine.yaml", ["search.preset=null"]).recipe.search.data == "sampled"


def test_preset_keys_exist():
    assert set(SEARCH_PRESETS["paper"]) <= set(recipe_keys())


def test_where_falls_back_to_the_section_and_the_file(load):
    loaded = load("adapter:\n  allocation:\n    a.b: 4\n")
    assert loaded.where("adapter.allocation.a.b") == "mine.yaml:5"
    assert loaded.where("adapter.allocation.c") == "mine.yaml:4"
    assert loaded.where("adapter.rank") == "mine.yaml:3"
    assert loaded.where("training.lr") == "mine.yaml"
    assert loaded.where("run.name") == "mine.yaml"


def test_locate_completes_problems_and_keeps_the_class(load):
    loaded = load("adapter:\n  targets: [zzz]\n")
    error = DataError(
        [Problem("a", key="adapter.targets"), Problem("b", where="x.csv:3", key="task.train"), Problem("c")]
    )
    located = loaded.locate(error)
    assert type(located) is DataError
    assert [problem.where for problem in located.problems] == ["mine.yaml:4", "x.csv:3", ""]
    assert str(located).startswith("mine.yaml:4: adapter.targets: a\n")
    assert type(loaded.locate(RunError("x"))) is RunError


HARD = [
    "adapter.targets=['.*\\.query$', \"it's\", '#1']",
    "adapter.allocation={'bert.encoder.layer.0.attention.self.query': 4, 'off': 2, '1e3': 1}",
    "model.name='no'",
    "model.revision='1e10'",
    "run.name='null'",
    "run.folder='a: b #c'",
    "training.lr=1e-17",
    "search.preset=paper",
    "run.seed=4294967295",
    "task.data='é ~ {}'",
]


def test_round_trip_of_hard_values(load, folder):
    loaded = load("", *HARD)
    Path("again.yaml").write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe("again.yaml").recipe == loaded.recipe


def test_to_yaml_spells_out_every_key(load):
    text = load().to_yaml()
    assert text.startswith("# mine")
    for section, values in asdict(Recipe()).items():
        assert f"\n{section}:\n" in text
        for name in values:
            assert f"\n  {name}: " in text.replace("'", ""), name


def test_a_loaded_recipe_can_be_made_from_python(folder):
    recipe = Recipe()
    recipe.model.name, recipe.task.name, recipe.run.name = "x", "mrpc", "p"
    recipe.adapter = replace(recipe.adapter, targets=["k"], rank=3, alpha=1.0, in_full=[])
    recipe.training.lr = 0.1
    Path("p.yaml").write_text(LoadedRecipe(recipe, "p", Path("p.yaml")).to_yaml())
    assert load_recipe("p.yaml").recipe == recipe


def test_recipes_are_found_in_a_wheel_and_in_a_checkout(folder, monkeypatch):
    monkeypatch.setattr(loading, "__file__", str(folder / "site" / "lorakit" / "recipe" / "load.py"))
    (folder / "site" / "recipes").mkdir(parents=True)
    (folder / "site" / "recipes" / "beside.yaml").touch()
    assert list(loading.shipped_recipes()) == ["beside"]
    (folder / "site" / "lorakit" / "recipes").mkdir(parents=True)
    (folder / "site" / "lorakit" / "recipes" / "inside.yaml").touch()
    assert list(loading.shipped_recipes()) == ["inside"]
    assert find_recipe("inside.yaml") == find_recipe("inside") == loading.shipped_recipes()["inside"]


def test_a_path_wins_over_a_shipped_recipe_and_a_name_does_not(folder):
    Path("demo.yaml").touch()
    Path("other.yaml").touch()
    assert find_recipe("demo.yaml") == Path("demo.yaml")
    assert find_recipe("demo") == loading.shipped_recipes()["demo"]
    assert find_recipe("rte-lora.yaml") == loading.shipped_recipes()["rte-lora"]
    assert find_recipe("other") == Path("other.yaml")


def test_every_key_is_documented_and_its_default_is_valid():
    assert {path.split(".")[0] for path in recipe_keys()} == {entry.name for entry in fields(Recipe)}
    for key in recipe_keys().values():
        assert key.rule.doc, key.path
        assert key.valid(), key.path
        items = [] if key.mandatory or key.default is None or key.shape != "one" else [key.default]
        for value in items:
            assert not key.choices or value in key.choices, key.path
            assert isinstance(value, key.kind) or value in key.rule.words, key.path
            if key.kind in (int, float):
                assert math.isfinite(value), key.path
                assert key.rule.low is None or value >= key.rule.low, key.path
                assert key.rule.above is None or value > key.rule.above, key.path


# -- whatever names a recipe -------------------------------------------------------------------------------------------


def test_a_recipe_is_a_name_a_file_a_run_folder_or_a_loaded_one(load, folder):
    loaded = load("adapter: {rank: 3}\n")
    run = folder / "runs" / "mine-0"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(loaded.to_yaml())
    assert load_recipe(loaded) is loaded
    assert load_recipe("mine").recipe == load_recipe(Path("mine.yaml")).recipe == loaded.recipe
    for named in (run, str(run), "runs/mine-0"):
        assert load_recipe(named).recipe == loaded.recipe
        assert load_recipe(named).folder == Path(named)
    assert loaded.folder is load_recipe(run / "recipe.yaml").folder is load_recipe("demo").folder is None


def test_a_folder_without_a_recipe_does_not_hide_a_shipped_one(folder):
    Path("demo").mkdir()
    assert load_recipe("demo").name == "demo"


def test_a_loaded_recipe_is_overridden_like_its_file(load):
    text, settings = "adapter: {rank: 3}\n", ("training.lr=0.01", "search.method=heterolora", "search.enable=0.5")
    changed = load_recipe(load(text), settings)
    assert changed.recipe == load(text, *settings).recipe
    other_budget = load_recipe(changed, ["search.uniform_rank=2"])
    assert (other_budget.recipe.search.enable, other_budget.recipe.search.uniform_rank) == (None, 2)
    assert other_budget.where("search.uniform_rank") == "command line"
    assert other_budget.where("adapter.rank") == "mine.yaml:3"
    with pytest.raises(RecipeError) as caught:
        load_recipe(changed, ["adapter.rank=0", "training.epoch=3"])
    assert {problem.key for problem in caught.value.problems} == {"adapter.rank", "training.epoch"}


@pytest.mark.parametrize("override", ["adapter.method=bitfit", "search.preset=paper", "adapter.method=vera"])
def test_what_a_loaded_recipe_left_open_is_still_open(load, override):
    """A method's usual values and a preset's come with the override, as if the file were read anew."""
    assert load_recipe(load(), [override]).recipe == load("", override).recipe


def test_a_changed_recipe_keeps_its_changes(load):
    loaded = load()
    changed = replace(loaded, recipe=replace(loaded.recipe, adapter=replace(loaded.recipe.adapter, rank=5)))
    assert load_recipe(changed, ["training.epochs=1"]).recipe.adapter.rank == 5


def test_offline_is_a_key(load):
    load()
    assert load_recipe("mine.yaml", offline=True).recipe == load("", "run.offline=true").recipe


def test_settings_for_trackers_are_flat(load):
    values = plain_values(load("adapter: {allocation: {a: 1, b: 2}, targets: [q, v]}\n").recipe)
    assert (values["adapter.allocation.a"], values["adapter.allocation.b"]) == (1, 2)
    assert "adapter.allocation" not in values
    assert (values["adapter.targets"], values["model.revision"]) == ("['q', 'v']", "None")
    assert values["adapter.dropout"] == Recipe().adapter.dropout


def test_errors_get_the_place_of_their_key(load):
    loaded = load("adapter: {rank: 3}\n")
    cause = ValueError("why")
    with pytest.raises(RecipeError) as caught, loaded.locating_errors():
        raise RecipeError("is wrong", key="adapter.rank") from cause
    assert caught.value.problems[0].where == "mine.yaml:3"
    assert caught.value.__cause__ is cause
