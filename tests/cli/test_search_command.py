import json
from pathlib import Path

from lorakit.cli.search import recipe_or_default


def test_search_ranks_draws_and_says_what_to_type_next(cli, here, workflow):
    ran = cli("search", "small.yaml", "--proxy", "snip", "--emit", "out.yaml")
    name, (loaded,), settings = workflow.call
    assert (name, loaded.recipe.search.proxy, settings) == ("search", "snip", {"emit": Path("out.yaml")})
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["0.q", "0.5", "█" * 20, "8", "6,144", "on"] in rows
    assert ["1.res1", "0.25", "█" * 10, "8", "6,144", "on"] in rows
    assert ["1.q", "0", "8", "6,144"] in rows
    assert ["layer", "0", "8"] in rows
    assert ["layer", "1", "·", "8"] in rows
    assert ["budget", "12,288", "of", "12,288", "used"] in rows
    assert "gradnorm: reads the gradient" in ran.err
    told = " ".join(ran.out.split())
    assert "of 256 training rows each: scores correlate by 0.83, 0.40 within a role" in told
    assert "50% of the scores of the other, shuffled ones 45% (p = 0.200): a shuffled ranking would do" in told
    assert "  lorakit train out.yaml\n" in ran.err


def test_search_gives_json(cli, here, workflow):
    data = json.loads(cli("search", "small.yaml", "--json").out)
    assert [site["label"] for site in data["ranked"]] == ["0.q", "1.res1", "1.q"]


def test_an_existing_file_is_overwritten_only_with_force(cli, here, workflow):
    (here / "out.yaml").write_text("mine")
    ran = cli("search", "small.yaml", "--emit", "out.yaml")
    assert ran.code == 2
    assert "--force" in ran.err
    assert workflow.calls == []
    assert cli("search", "small.yaml", "--emit", "out.yaml", "--force").code == 0


def test_without_a_recipe_the_one_here_is_taken_else_the_demo(here):
    assert recipe_or_default(None, []) == ("demo", [])
    assert recipe_or_default("adapter.rank=4", ["run.seed=1"]) == ("demo", ["adapter.rank=4", "run.seed=1"])
    assert recipe_or_default("small.yaml", ["run.seed=1"]) == ("small.yaml", ["run.seed=1"])
    (here / "recipe.yaml").write_text("")
    assert recipe_or_default(None, []) == ("recipe.yaml", [])
    (here / "a=b.yaml").write_text("")
    assert recipe_or_default("a=b.yaml", []) == ("a=b.yaml", [])


def test_options_name_the_model_as_they_do_for_a_training(cli, here, workflow):
    assert cli("search", "small.yaml", "--model", "another", "--seed", "4").code == 0
    _, (loaded,), _ = workflow.call
    assert (loaded.recipe.model.name, loaded.recipe.run.seed) == ("another", 4)
