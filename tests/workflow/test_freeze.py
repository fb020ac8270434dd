"""Which lower layers are frozen, what then has adapters, and what does not go with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import Bench, StopAt, records

import lorakit
from lorakit.errors import Interrupted, RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.workflow import freeze
from lorakit.workflow.freeze import lower_part
from lorakit.workflow.setup import assemble


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def four_layers(bench: Bench) -> tuple[str, str]:
    return f"model.name={bench.backbone(num_hidden_layers=4)}", "training.epochs=1"


@pytest.mark.parametrize(
    ("gains", "count"),
    [
        ([1, 1, 4, 4], 1),  # 9 of 10 above
        ([0.9, 1.1, 4, 4], 1),  # 8 of 10 are too few
        ([0, 0, 0, 1], 3),
        ([1, 0, 0, 0], 0),
        ([0, 0, 0, 0], 0),
        ([0.5, 0.5, 0, 9], 3),
    ],
)
def test_the_smallest_upper_part_with_nine_tenths_of_the_gains(gains: list[float], count: int):
    assert lower_part(np.array(gains, dtype=np.float64)) == count


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What auto finds in layers 0 to 3: squared norms of gradients, q and v alike."""
    found = [1.0, 2.0, 13.0, 14.0]

    def measure(parts: Any, encoded: Any, what: str, whose: str, stream: str) -> dict[str, dict[str, torch.Tensor]]:
        assert (what, whose) == ("gradient", "training.freeze_below: auto")
        assert parts.recipe.training.freeze_below == "auto"
        return {s.name: {"gradient": torch.full((2, 1), (found[s.layer] / 4) ** 0.5)} for s in parts.sites}

    monkeypatch.setattr(freeze, "measure", measure)
    return found


def test_auto_becomes_a_number_in_the_run(bench: Bench, tmp_path: Path, gains: list[float]):
    """Its sites and budget are those of that number, also where it is resumed or evaluated."""
    settings = (*four_layers(bench), "training.freeze_below=auto")
    result = bench.train(*settings, run_dir=tmp_path / "run")
    assert (result.frozen["layers"], result.frozen["of"]) == (2, 4)
    assert load_recipe(str(tmp_path / "run")).recipe.training.freeze_below == 2
    numbered = bench.train(*four_layers(bench), "training.freeze_below=2", run_dir=tmp_path / "numbered")
    assert (result.sites_total, result.budget) == (numbered.sites_total, numbered.budget) == (4, 4 * 4 * 64)
    assert lorakit.evaluate(tmp_path / "run", task="custom").scores[result.metric] == result.last[result.metric]
    gains[:] = [1.0, 0.0, 0.0, 0.0]  # looked at no more
    with pytest.raises(Interrupted):
        bench.train(*four_layers(bench), "training.freeze_below=2", run_dir=tmp_path / "cut", hooks=[StopAt(4)])
    bench.train(*settings, run_dir=tmp_path / "cut", resume=True)
    assert records(tmp_path / "cut")["metrics"] == records(tmp_path / "numbered")["metrics"]


def test_auto_may_find_that_all_layers_are_wanted(bench: Bench, tmp_path: Path, gains: list[float]):
    gains[:] = [8.0, 1.0, 1.0, 1.0]
    result = bench.train(*four_layers(bench), "training.freeze_below=auto", run_dir=tmp_path / "run")
    bench.train(*four_layers(bench), run_dir=tmp_path / "plain")
    assert (result.frozen, result.sites_total) == ({}, 8)
    found, expected = records(tmp_path / "run"), records(tmp_path / "plain")
    assert found["metrics"] == expected["metrics"]


def test_real_gradients_are_looked_at_without_a_trace(bench: Bench, tmp_path: Path):
    """The training is that of the number that was found."""
    result = bench.train("training.freeze_below=auto", "model.head_start=fitted", run_dir=tmp_path / "auto")
    found = load_recipe(str(tmp_path / "auto")).recipe.training.freeze_below
    assert result.frozen.get("layers", 0) == int(found or 0)
    bench.train(f"training.freeze_below={found}", "model.head_start=fitted", run_dir=tmp_path / "number")
    assert records(tmp_path / "auto")["metrics"] == records(tmp_path / "number")["metrics"]


def test_what_belongs_to_no_layer_is_below_where_it_is_computed_first(bench: Bench):
    """BitFit: the embeddings' norm is left out, what stands behind the layers is not."""
    sites = {s.name for s in assemble(bench.load("adapter.method=bitfit", "adapter.dropout=0")).sites}
    above = {
        s.name
        for s in assemble(bench.load("adapter.method=bitfit", "adapter.dropout=0", "training.freeze_below=1")).sites
    }
    assert sites - above == {name for name in sites if "embeddings" in name or "layer.0." in name}
    assert any("layer.1." in name for name in above)


@pytest.mark.parametrize(
    ("overrides", "key", "what"),
    [
        (["training.freeze_below=2"], "training.freeze_below", "has 2 layers, and 2 of them cannot be frozen"),
        (["training.freeze_below=1", "adapter.method=prompt_tuning", "adapter.dropout=0"], "training.freeze_below", "trains what is below"),
        (["training.freeze_below=1", "adapter.targets=['.*r.0.*query']"], "training.freeze_below", "no target is at layer 1"),
        (["training.freeze_below=1", "adapter.updates=[drop_bp]"], "training.freeze_below", "update 'drop_bp'"),
        (["training.freeze_below=auto", "adapter.method=bitfit", "adapter.dropout=0"], "training.freeze_below", "on no projections"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_it_is_said_before_anything_is_written(
    bench: Bench, tmp_path: Path, overrides: list[str], key: str, what: str
):
    with pytest.raises(RecipeError, match=what) as caught:
        bench.train(*overrides, run_dir=tmp_path / "run")
    assert [(p.key, p.where) for p in caught.value.problems] == [(key, "command line")]
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match=what):
        lorakit.plan(bench.load(*overrides))


def test_the_plan_tells_what_is_frozen_and_its_size(bench: Bench):
    plan = lorakit.plan(bench.load("training.freeze_below=1"))
    assert {site.layer for site in plan.sites} == {1}
    assert any(
        note.startswith("1 of 2 layers are frozen: they run once a row, which takes about 0.00 GiB")
        for note in plan.notes
    )
    once = lorakit.plan(bench.load("training.freeze_below=1", "training.epochs=1")).notes
    assert "1 of 2 layers are frozen: every row is seen once, so nothing is kept" in once
    full = lorakit.plan(bench.load("training.freeze_below=1", "training.freeze_cache=0")).notes
    assert any("more than training.freeze_cache allows, so they run in every step" in note for note in full)
    auto = lorakit.plan(bench.load("training.freeze_below=auto"))
    assert any("is found before the first step" in note for note in auto.notes)
    assert {site.layer for site in auto.sites} == {0, 1}
