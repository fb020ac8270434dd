"""``lorakit search --method glora``: what it asks of the workflow, and what it prints."""

import json
from pathlib import Path

import pytest

import lorakit
from lorakit.workflow.glora.configurations import FoundSite
from lorakit.workflow.glora.evolution import Scored
from lorakit.workflow.glora.evolve import EvolutionResult, Progress

QUERY = {"A": "lora", "B": "none", "C": "vector", "D": "scalar", "E": "none"}
VALUE = QUERY | {"A": "none"}
SITES = [
    FoundSite("layer.0.query", "0.q", "q", 0, 4, 3457, QUERY),
    FoundSite("layer.1.query", "1.q", "q", 1, 4, 385, VALUE),
    FoundSite("layer.0.value", "0.v", "v", 0, 4, 12, {"A": "none", "B": "scalar"}),
]


@pytest.fixture
def asked(monkeypatch):
    """What was asked of the workflow, whose search has two generations."""
    calls = []

    def evolve(loaded, **settings):
        calls.append((loaded, settings))
        good, poor = (Scored(("lora",), 3842, fitness) for fitness in (0.8125, 0.75))
        settings["watch"](Progress(1, 2, 4, 0.625, poor, poor, "accuracy"))
        settings["watch"](Progress(2, 2, 4, 0.6875, good, good, "accuracy"))
        return EvolutionResult(
            folder=Path("runs/small-glora-0"),
            found=Path("runs/small-glora-0/found"),
            task="rotten_tomatoes",
            metric="accuracy",
            fitness=0.8125,
            whole=0.78,
            parameters=3842,
            lowest=0,
            highest=5000,
            held_out=60,
            generations=2,
            tried=8,
            best=[(0.8125, 3842), (0.75, 3842)],
            sites=SITES,
            supernet_seconds=45.0,
            seconds=30.0,
            emitted=settings["emit"],
        )

    monkeypatch.setattr(lorakit, "evolve", evolve, raising=False)
    return calls


GLORA = ("--method", "glora", "adapter.method=glora")


def test_it_shows_generations_then_choices_by_kind_of_site_and_what_to_type_next(cli, here, asked):
    ran = cli("search", "small.yaml", *GLORA, "--emit", "out.yaml", "--keep-weights")
    assert ran.code == 0
    ((loaded, settings),) = asked
    assert (loaded.recipe.search.method, loaded.recipe.adapter.method) == ("glora", "glora")
    assert (settings["emit"], settings["keep"], settings["resume"]) == (Path("out.yaml"), True, False)
    assert "generation 1/2: best 0.7500 with 3,842 parameters, mean 0.6250 of 4; so far 0.7500 with 3,842" in ran.err
    rows = [line.split() for line in ran.out.splitlines()]
    assert [
        "q",
        "2",
        "lora",
        "1,",
        "none",
        "1",
        "none",
        "2",
        "vector",
        "2",
        "scalar",
        "2",
        "none",
        "2",
        "3,842",
    ] in rows
    assert ["v", "1", "none", "1", "scalar", "1", "12"] in rows
    assert ["1", "0.8125", "3,842"] in rows
    assert ["found,", "accuracy", "0.8125", "on", "60", "rows", "held", "out", "of", "the", "training", "rows"] in rows
    assert ["parameters", "3,842", "in", "adapters,", "at", "most", "5,000"] in rows
    assert "lorakit train out.yaml\n" in ran.err
    assert "lorakit eval rotten_tomatoes --run runs/small-glora-0/found\n" in ran.err


def test_it_gives_json(cli, here, asked):
    data = json.loads(cli("search", "small.yaml", *GLORA, "--json").out)
    assert data["folder"] == "runs/small-glora-0"
    assert data["sites"][0]["configuration"] == QUERY


def test_quiet_is_quiet_and_a_recipe_may_name_the_method_itself(cli, here, asked):
    ran = cli("search", "small.yaml", "search.method=glora", "adapter.method=glora", "-q")
    assert ran.code == 0
    assert ran.err == ""
    assert len(asked) == 1


def test_a_search_goes_on_in_its_folder(cli, here, asked):
    folder = here / "begun"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(
        "model: {name: bundled:minilm}\ntask: {name: rotten_tomatoes}\nadapter: {method: glora}\nsearch: {method: glora}\n"
    )
    assert cli("search", "begun", "--resume").code == 0
    ((loaded, settings),) = asked
    assert (loaded.folder, settings["run_dir"], settings["resume"]) == (Path("begun"), None, True)


@pytest.mark.parametrize("option", ["--resume", "--keep-weights", "--run-dir=somewhere"])
def test_what_only_glora_has_is_refused_elsewhere(cli, here, asked, option):
    ran = cli("search", "small.yaml", option)
    assert ran.code == 2
    assert option.split("=")[0] in ran.err
    assert "--method glora" in ran.err
    assert asked == []


def test_a_finished_recipe_is_not_overwritten(cli, here, asked):
    (here / "out.yaml").write_text("mine")
    assert cli("search", "small.yaml", *GLORA, "--emit", "out.yaml").code == 2
    assert (here / "out.yaml").read_text() == "mine"
    assert asked == []


@pytest.mark.parametrize(("place", "code"), [("out.yaml/in.yaml", 1), ("folder", 2)])
def test_a_place_where_nothing_can_be_written_is_told_before_the_search(cli, here, asked, place, code):
    (here / "out.yaml").write_text("mine")
    (here / "folder").mkdir()
    ran = cli("search", "small.yaml", *GLORA, "--emit", place, "--force")
    assert (ran.code, asked) == (code, [])
    assert f"error: {place}: " in ran.err
