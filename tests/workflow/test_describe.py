"""The card of a method: its count on a model from the papers' formulas, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import tiny_model

from lorakit.adapters.method import methods
from lorakit.cli.app import main
from lorakit.recipe.schema import ModelSection
from lorakit.workflow.describe import describe

WIDTH, LAYERS = 32, 2  # of tests/support/models.py


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSection:
    """A tiny BERT."""
    return ModelSection(name=str(tiny_model("bert", tmp_path_factory.mktemp("bert"))))


FORMULAS = {
    "lora": (8, 2 * LAYERS * 8 * 2 * WIDTH),
    "vera": (256, 2 * LAYERS * (256 + WIDTH)),
    "layer_norm": (8, (2 * LAYERS + 1) * 2 * WIDTH),
    "trilora": (8, 2 * LAYERS * (8 * 2 * WIDTH + 8)),
}


@pytest.mark.parametrize("method", FORMULAS)
def test_the_count_is_the_paper_s_formula(model: ModelSection, method: str) -> None:
    card = describe(method, model)
    assert card.count is not None
    assert (card.count.rank, card.count.parameters) == FORMULAS[method]
    assert sum(site.parameters for site in card.count.sites) + card.count.shared == card.count.parameters


def test_every_method_has_a_whole_card(model: ModelSection) -> None:
    for name in methods.names():
        card = describe(name, model)
        assert "When to use it:" in card.text, name
        assert card.source, name
        assert card.title, name
        assert all(card.updates.values()), name
        assert card.count is not None or card.no_count, name
        assert any(not reason for reason in card.composes["init"].values()), name


def test_what_does_not_go_together_has_its_reason(model: ModelSection) -> None:
    composes = describe("ia3", model).composes
    assert composes["decomposition"]["none"] == ""
    assert "no sum" in composes["decomposition"]["magnitude"]
    assert "pissa" in composes["init"]


@pytest.mark.parametrize("model", ["nobody/nothing", "bundled:nothing", "./nowhere"])
def test_a_named_model_must_be_here(capsys: pytest.CaptureFixture[str], model: str) -> None:
    assert main(["show", "lora", "--model", model, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert model in err
    card = describe("lora", ModelSection(name=model))
    assert card.count is None
    assert model in card.no_count


def test_the_card_for_people(model: ModelSection, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "lora", "--model", model.name]) == 0
    out = capsys.readouterr().out
    assert "Low-rank adaptation" in out
    assert "2,048" in out
    assert "A 8x32" in out


def test_a_rank_is_told_where_there_is_one(model: ModelSection, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "lora", "--model", model.name]) == 0
    assert ", rank 8" in "".join(capsys.readouterr().out.split("counted on")[1].split("parameters")[0].splitlines())
    assert main(["show", "bitfit", "--model", model.name]) == 0
    assert "rank" not in capsys.readouterr().out.split("counted on")[1]


def test_a_card_takes_no_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["show", "lora", "adapter.rank=4"]) == 2
    assert "KEY=VALUE changes a recipe" in capsys.readouterr().err
