"""What targets all stands for: everything that computes as a Linear does and that the rank fits; the rest is named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from support.every_family import tiny_classifier

from lorakit.backbone.load import Backbone, load_backbone
from lorakit.recipe.schema import AdapterSection, ModelSection, Recipe
from lorakit.workflow.sites import choose_sites


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A Qwen 2 mixture of experts: fused experts, a router, and a gate with one output."""
    folder: Path = tiny_classifier("qwen2_moe", tmp_path_factory.mktemp("qwen2_moe"))
    return load_backbone(ModelSection(name=str(folder)), labels=("a", "b"), regression=False, seed=0)


@pytest.fixture
def chosen(experts: Backbone, caplog: pytest.LogCaptureFixture) -> Callable[..., set[str]]:
    """The last names of the sites that these targets choose at this rank."""

    def choose(rank: int, *targets: str) -> set[str]:
        caplog.clear()
        section = AdapterSection(targets=list(targets), rank=rank)
        with caplog.at_level(logging.INFO, "lorakit"):
            sites, _ = choose_sites(Recipe(adapter=section), experts)
        return {site.name.rpartition(".")[2] for site in sites}

    return choose


PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_gates_that_are_too_narrow_are_left_out_of_all_and_named(chosen, caplog):
    assert chosen(2, "all") == PROJECTIONS
    assert "2 modules are too narrow for rank 2" in caplog.text
    assert "layers.0.mlp.shared_expert_gate (1x32)" in caplog.text
    assert "mlp.experts.gate_up_proj (4x96x32)" in caplog.text


def test_they_stay_where_the_rank_fits_or_they_are_named(chosen, caplog):
    assert chosen(1, "all") == PROJECTIONS | {"shared_expert_gate"}
    assert "too narrow" not in caplog.text
    assert chosen(2, "shared_expert_gate") == {"shared_expert_gate"}  # refused when it is adapted
    assert not caplog.text


def test_a_projection_that_the_rank_does_not_fit_is_not_left_out(chosen):
    assert chosen(17, "all") == PROJECTIONS  # k and v are 16 wide: the rank is refused when they are adapted
