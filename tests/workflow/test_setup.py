"""From a recipe to its parts: what only the model and the data can tell is checked before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.runs import Bench

import lorakit
from lorakit.adapters import spectrum
from lorakit.errors import LorakitError, RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.workflow.setup import adapt, assemble


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["adapter.rank=33"], "adapter.rank"),
        (["adapter.shortcuts=[res1]", "adapter.shortcut_rank=33"], "adapter.shortcut_rank"),
        (["adapter.targets=[gate]"], "adapter.targets"),
        (["adapter.allocation={bert.encoder.layer.7.attention.self.query: 2}"], "adapter.allocation"),
        (["search.method=heterolora", "search.parameters=10"], "search.parameters"),
        (["search.method=heterolora", "search.every=0.1"], "search.every"),
        (["search.method=heterolora", "search.off=freeze", "adapter.method=tied_lora"], "search.off"),
        (["search.method=squeeze", "adapter.method=pissa"], "search.method"),
        (["search.method=squeeze", "adapter.method=roselora"], "search.method"),
        (["search.method=squeeze", "search.tail=0.2"], "search.tail"),
        (["task.max_length=4", "task.text_pair=second", "task.text=first"], "task.max_length"),
        (["training.precision=fp16"], "training.precision"),
        (["model.dtype=float16"], "training.precision"),
        (["run.trackers=[wandb]"], "run.trackers"),
        (["model.name=/nowhere"], "model.name"),
        (["task.train=/nowhere.csv"], "task.train"),
        (["task.label=nothing"], "task.label"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_where_it_says_so(
    bench: Bench, tmp_path: Path, overrides: list[str], key: str
):
    if key == "training.precision" and torch.cuda.is_available():
        pytest.skip("fp16 is fine on a GPU")
    loaded = bench.load(*overrides)
    with pytest.raises(LorakitError) as caught:
        lorakit.train(loaded, run_dir=tmp_path / "run")
    problem = caught.value.problems[0]
    assert (problem.key, caught.value.exit_code) == (key, 2)
    assert problem.where == loaded.where(key) != ""
    assert not (tmp_path / "run").exists()


def test_the_place_is_the_line_of_the_file(bench: Bench, tmp_path: Path):
    text = bench.load().to_yaml().replace("rank: 4", "rank: 40")
    (tmp_path / "mine.yaml").write_text(text)
    line = next(number for number, line in enumerate(text.splitlines(), start=1) if "rank: 40" in line)
    with pytest.raises(RecipeError, match="rank 40 does not fit site") as caught:
        lorakit.plan(load_recipe(tmp_path / "mine.yaml"))
    assert caught.value.problems[0].where.endswith(f"mine.yaml:{line}")


def test_an_allocation_is_these_sites_at_these_ranks(bench: Bench):
    names = [f"bert.encoder.layer.{layer}.attention.self.{role}" for layer, role in ((0, "query"), (1, "value"))]
    parts = assemble(bench.load(f"adapter.allocation={json.dumps(dict(zip(names, (3, 5), strict=True)))}"))
    assert {site.name: parts.rank_of(site) for site in parts.sites} == dict(zip(names, (3, 5), strict=True))
    adapted = adapt(parts)
    assert [adapter.delta.A.shape for adapter in adapted.adapters.values()] == [(3, 32), (5, 32)]
    assert parts.costs == {names[0]: 3 * 64, names[1]: 5 * 64}
    assert parts.budget.parameters == 8 * 64


def test_a_site_starts_the_same_whatever_other_sites_there_are(bench: Bench):
    few = adapt(assemble(bench.load("adapter.targets=[v]")))
    many = adapt(assemble(bench.load("adapter.targets=[all]", "adapter.shortcuts=[res1]")))
    other = adapt(assemble(bench.load("adapter.targets=[v]", "run.seed=1")))
    for name, adapter in few.adapters.items():
        assert torch.equal(adapter.delta.A, many.adapters[name].delta.A)
        assert not torch.equal(adapter.delta.A, other.adapters[name].delta.A)
    starts = [adapter.delta.A for adapter in few.adapters.values()]
    assert not torch.equal(starts[0], starts[1])
    heads = [few.tensors()[name] for name in few.new_parts]
    assert all(torch.equal(head, many.tensors()[name]) for head, name in zip(heads, many.new_parts, strict=True))


def test_an_adapter_that_could_never_move_is_refused(bench: Bench):
    with pytest.raises(RecipeError, match=r"adapter\.trainable: 'B' starts at zero and does not train") as caught:
        lorakit.plan(bench.load("adapter.trainable=A"))
    assert "command line" in str(caught.value)


@pytest.mark.parametrize("wanted", ["exact", "randomised"])
def test_the_recipe_says_how_large_matrices_are_decomposed(bench: Bench, monkeypatch: pytest.MonkeyPatch, wanted: str):
    """Matrices of 32 counted as large ones, and the range of one product: what is found is not the best."""
    for name, value in {"SMALL": 8, "THIN": 1, "PASSES": 0}.items():
        monkeypatch.setattr(spectrum, name, value)
    parts = assemble(bench.load("adapter.init=pissa", "adapter.targets=[q]", f"adapter.init_svd={wanted}"))
    adapter = next(iter(adapt(parts).adapters.values()))
    u, s, v = torch.linalg.svd(adapter.base_weight(), full_matrices=False)
    start = adapter.scale * (adapter.delta.live.B @ adapter.delta.live.A).detach()
    best = (u[:, :4] * s[:4]) @ v[:4]
    assert ((start - best).norm() < 1e-5 * best.norm()) == (wanted == "exact")


def test_products_in_half_precision_are_refused_where_transformers_cannot_compute_with_them(bench: Bench):
    with pytest.raises(RecipeError, match="deberta models do not compute") as caught:
        assemble(bench.load("training.precision=bf16", family="deberta"))
    assert caught.value.problems[0].key == "training.precision"
    assert assemble(bench.load("training.precision=bf16", family="deberta_v2"))
