"""list, show and copy."""

import dataclasses
import json

import pytest

from lorakit.adapters.delta import deltas
from lorakit.adapters.method import methods
from lorakit.cli.show_key import EXAMPLE
from lorakit.recipe.keys import recipe_keys, section_keys
from lorakit.recipe.load import load_recipe, shipped_recipes
from lorakit.registry import find_registry
from lorakit.searching.allocator import allocators
from lorakit.training.update import updates


@pytest.mark.parametrize(
    ("kind", "key", "names"),
    [
        ("methods", "name", {"lora", "dora", "heterolora", "glora"}),
        ("deltas", "name", {"low_rank", "bottleneck", "diagonal"}),
        ("inits", "name", {"kaiming", "gaussian", "pissa"}),
        ("updates", "name", {"aflora", "drop_bp", "rose"}),
        ("optimizers", "name", {"adamw", "flora", "adamw_8bit"}),
        ("allocators", "name", {"heterolora", "adalora", "glora"}),
        ("combinations", "name", {"linear", "ties", "dare", "fisher", "lorahub"}),
        ("proxies", "name", {"gradnorm", "snip", "synflow", "alpha", "constant"}),
        ("tasks", "name", {"mrpc", "stsb", "rotten_tomatoes", "custom"}),
        ("recipes", "name", {"demo"}),
        ("models", "family", {"bundled:minilm", "bert", "llama"}),
    ],
)
def test_list_tells_all_there_is(cli, kind, key, names):
    rows = json.loads(cli("list", kind, "--json").out)[kind]
    assert names <= {row[key] for row in rows}
    ran = cli("list", kind)
    assert ran.code == 0
    assert all(name in ran.out for name in names)


def test_the_json_of_methods_is_their_whole_preset(cli):
    rows = json.loads(cli("list", "methods", "--json").out)["methods"]
    adapters = {row["name"]: row for row in rows if row["key"] == "adapter.method"}
    assert list(adapters) == methods.names()
    assert {row["name"] for row in rows if row["key"] == "search.method"} == {"glora", *allocators.names()}
    for name, method in methods.items():
        row = adapters[name]
        assert row["what"] == method.summary
        for field in dataclasses.fields(method):
            value = getattr(method, field.name)
            if field.name == "update_options":
                assert row[field.name] == dict(value)
            elif field.name not in ("summary", "options"):
                assert row[field.name] == (list(value) if isinstance(value, tuple) else value), (name, field.name)
        known = deltas.get(method.delta).options
        own = dict(method.options)
        assert list(row["options"]) == list(known)
        for key, option in known.items():
            told = row["options"][key]
            assert (told["default"], told["doc"]) == (option.default, option.doc)
            assert told["value"] == type(option.default)(own.get(key, option.default))
    table = cli("list", "methods").out
    assert "orthonormal A" in table
    assert "kaiming-uniform" not in table
    assert table.splitlines()[1].split() == ["name", "key", "what", "source"]


def test_every_shipped_recipe_says_what_it_is(cli):
    rows = json.loads(cli("list", "recipes", "--json").out)["recipes"]
    assert [row["name"] for row in rows] == sorted(shipped_recipes())
    assert all(row["what"] for row in rows)


def test_list_of_something_else_is_usage(cli):
    ran = cli("list", "method")
    assert ran.code == 2
    assert "proxies" in ran.err


def test_show_explains_every_key_and_prints_a_recipe_that_trains_the_same(cli, here):
    settings = ["search.method=none", "adapter.targets=[q, up]", "adapter.allocation={encoder.0.query: 4}"]
    ran = cli("show", "small.yaml", *settings)
    for key in recipe_keys().values():
        assert f"# {key.rule.doc}\n" in ran.out + "\n"
    (here / "again.yaml").write_text(ran.out)
    again = load_recipe("again.yaml").recipe
    assert again.adapter.allocation == {"encoder.0.query": 4}
    assert again == load_recipe("small.yaml", settings).recipe


EARLIER = {
    "deltas": ["methods"],
    "inits": ["methods", "deltas"],
    "optimizers": ["methods", "deltas", "inits", "updates"],
    "combinations": ["methods", "deltas", "inits", "updates", "optimizers"],
    "allocators": ["methods", "deltas", "inits", "updates", "optimizers", "combinations"],
    "proxies": ["methods", "deltas", "inits", "updates", "optimizers", "combinations", "allocators"],
}
"""What of the same name is shown first."""


@pytest.mark.parametrize("kind", ["deltas", "inits", "optimizers", "proxies", "allocators", "combinations"])
def test_show_prints_the_card_of_everything_registered(cli, kind):
    entries = find_registry(kind)
    for name in entries.names():
        ran = cli("show", name)
        assert ran.code == 0
        _, title, card = f"\n{ran.out}".partition(f"\n{name} ({entries.kind})\n")
        assert title
        assert ran.out.startswith(title.strip()) or any(name in find_registry(other) for other in EARLIER[kind])
        assert len(card.split()) > 10


def test_show_prints_a_task(cli):
    out = cli("show", "mrpc").out
    assert "sentence1, sentence2" in out
    assert "f1" in out


def test_show_of_something_unknown_names_the_nearest(cli):
    ran = cli("show", "gradnrom")
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean 'gradnorm'?" in ran.err


def test_show_explains_a_key(cli):
    out = cli("show", "training.lr").out
    facts = dict(line.split("  ", 1) for line in out.splitlines()[2:])
    assert {name: value.strip() for name, value in facts.items()} == {
        "meaning": recipe_keys()["training.lr"].rule.doc,
        "type": "a number, or auto, or null",
        "bounds": "above 0",
        "default": "null",
        "elsewhere called": "learning_rate",
    }
    told = json.loads(cli("show", "training.schedule", "--json").out)
    assert (told["choices"], told["default"], told["type"]) == (["linear", "cosine", "constant"], "linear", "text")
    assert "none: every recipe gives it" in cli("show", "model.name").out
    assert "a list, each text" in cli("show", "task.labels").out


def test_show_lists_the_keys_of_a_section(cli, here):
    (here / "training").mkdir()  # does not hide it
    for name in section_keys():
        told = json.loads(cli("show", name, "--json").out)
        assert [key["key"] for key in told["keys"]] == [f"{name}.{key}" for key in section_keys()[name]]
    assert "passes over the training rows" in cli("show", "training").out


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("training.lrr", "training.lr"),
        ("learning_rate", "training.lr"),
        ("adapter.targts", "adapter.targets"),
        ("trianing", "training"),
    ],
)
def test_a_wrong_key_gets_the_right_one(cli, wrong, right):
    ran = cli("show", wrong)
    assert ran.code == 2
    assert f"did you mean '{right}'?" in ran.err


def test_show_custom_tells_how_own_data_are_learnt(cli, here):
    out = cli("show", "custom").out
    for key in recipe_keys().values():
        if key.rule.doc.startswith("custom: "):
            assert f" {key.path} " in out
            assert key.rule.doc.removeprefix("custom: ") in out
    assert "lorakit train reviews.csv" in out
    (here / "own.yaml").write_text(f"extends: demo\n{EXAMPLE}\n")
    task = load_recipe("own.yaml").recipe.task
    assert (task.name, task.train, task.text, task.label) == ("custom", "reviews.csv", "review", "verdict")


def test_a_model_goes_with_the_card_of_a_method_only(cli, here):
    for name in ("demo", "gradnorm", "ties"):
        ran = cli("show", name, "--model", "bundled:minilm")
        assert (ran.code, ran.out) == (2, "")
        assert "--model goes with the card of a method" in ran.err


def test_a_folder_of_the_same_name_does_not_hide_a_card(cli, here):
    (here / "ties").mkdir()
    assert cli("show", "ties").out.startswith("ties (combination)")
    assert "is not a run" in cli("show", "./ties").err


def test_copy_makes_folders_and_keeps_what_is_there(cli, here):
    ran = cli("copy", "demo", "new/mine.yaml")
    assert ran.code == 0
    assert "lorakit train new/mine.yaml" in ran.err
    copied, original = load_recipe("new/mine.yaml").recipe, load_recipe("demo").recipe
    copied.run.name = original.run.name
    assert copied == original
    (here / "new" / "mine.yaml").write_text("edited")
    ran = cli("copy", "demo", "new/mine.yaml")
    assert ran.code == 2
    assert (here / "new" / "mine.yaml").read_text() == "edited"
    assert cli("copy", "demo", "new/mine.yaml", "--force").code == 0
    assert (here / "new" / "mine.yaml").read_text() != "edited"


def test_copy_to_a_place_that_cannot_be_is_one_message(cli, here):
    ran = cli("copy", "demo", "small.yaml/inside.yaml")
    assert ran.code == 1
    assert ran.err.startswith("error: small.yaml/inside.yaml: cannot be written")


def test_copy_into_a_folder_keeps_the_name(cli, here):
    assert cli("copy", "demo", ".").code == 0
    assert (here / "demo.yaml").is_file()


@pytest.mark.parametrize("name", updates.names())
def test_show_tells_an_update_and_its_settings(cli, name):
    """Also where a method has the same name."""
    ran = cli("show", name)
    assert ran.code == 0
    assert f"{name} (training update)\n" in ran.out
    for key, option in updates.get(name).options.items():
        assert f"    {key} = {option.default}: {option.doc}\n" in ran.out + "\n"
