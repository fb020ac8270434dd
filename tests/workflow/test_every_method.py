"""Every registered method down the whole line: a recipe, a search over its sites, a run, its evaluation, its merging."""

from __future__ import annotations

import shutil

import pytest
from support.runs import Bench, settings_of, trained_alone
from support.thinned import thinned

import lorakit
from lorakit.adapters.delta import deltas
from lorakit.adapters.method import Method, methods, resolve
from lorakit.errors import RunError
from lorakit.recipe.schema import AdapterSection

REFUSES_SEARCH = (
    *("aflora", "relora", "cola", "xgblora", "loraprune"),  # they decide themselves what trains
    "bilora",  # whose gradients are of two kinds of rows
    "longlora",  # whose norms and embeddings train in every step
    "intrinsic",  # whose sites have nothing of their own
)


@pytest.mark.parametrize("name", thinned(trained_alone(), 10))
def test_a_recipe_becomes_a_run_that_evaluates_and_merges(bench: Bench, name: str) -> None:
    method: Method = methods.get(name)
    unmergeable = deltas.get(resolve(AdapterSection(method=name)).delta).unmergeable
    settings = [f"adapter.method={name}", "adapter.dropout=0", "training.max_steps=4", *settings_of(name)]
    if name not in REFUSES_SEARCH and method.block != "prompt":  # a single site leaves nothing to choose
        settings += ["search.method=heterolora", "search.batches=1", "search.enable=0.9"]
    plan = lorakit.plan(bench.load(*settings))
    result = bench.train(*settings, name=f"every-{name}")
    assert result.adapter_parameters <= min(plan.budget, plan.adapter_parameters)
    assert plan.budget <= plan.adapter_parameters or name == "aflora"  # of whose square layers nothing ever trains
    assert 0 < result.sites_on <= result.sites_total
    evaluated = lorakit.evaluate(result.run_dir, task="custom")
    assert evaluated.scores == pytest.approx(result.last, abs=1e-9)
    if unmergeable:
        with pytest.raises(RunError, match="cannot be"):
            lorakit.merge(result.run_dir)
    else:
        assert lorakit.merge(result.run_dir).largest_difference < 1e-4
    shutil.rmtree(result.run_dir)
