"""``lorakit plan --fit``: settings for a training that is too large for a machine."""

from __future__ import annotations

import pytest
from support.runs import SEARCH, Bench

import lorakit
from lorakit.errors import UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.workflow.fit import OTHERS, STEPS, Fit, find_fit, measured, read_size
from lorakit.workflow.memory import Footprint, estimate_footprint
from lorakit.workflow.setup import adapt, assemble, drop_unused_work


def peak(loaded: LoadedRecipe, *settings: str) -> Footprint:
    parts = assemble(load_recipe(loaded, settings))
    adapted = adapt(parts, statistics=None)
    drop_unused_work(parts, adapted)
    return estimate_footprint(parts, adapted)


def fit(loaded: LoadedRecipe, size: int) -> Fit:
    return find_fit(loaded, measured(loaded), size)


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("16 GiB", 2**34), ("800MB", 8 * 10**8), ("1.5G", 1.5e9)]
)
def test_amounts_of_memory(text: str, size: float):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["24", "a lot", "-3GB", "0GB", "500MB", "1e3GB"])
def test_what_is_no_amount(text: str):
    with pytest.raises(UsageError, match="--fit"):
        read_size(text)


def test_a_training_that_fits_is_left_as_it_is(bench: Bench):
    loaded = bench.load()
    found = fit(loaded, OTHERS + peak(loaded).total)
    assert (found.settings, [tried.peak for tried in found.tried]) == ([], [peak(loaded).total])


def test_a_batch_is_cut_first(bench: Bench):
    """Of the largest parts that fit, and of at least a quarter of the batch; what is promised is what a plan of it says."""
    loaded = bench.load("training.batch_size=16", "evaluation.batch_size=4")
    whole, tokens = peak(loaded), loaded.recipe.task.max_length
    half = peak(loaded, f"training.micro_tokens={8 * tokens}")
    found = fit(loaded, OTHERS + (whole.total + half.total) // 2)
    assert found.settings == [f"training.micro_tokens={8 * tokens}"]
    assert found.tried[0].peak == half.total
    assert half.total == peak(loaded, *found.settings).total < whole.total


@pytest.mark.parametrize("settings", [SEARCH, ("adapter.method=bilora",), ("adapter.updates=[sparse_mask]",)])
def test_a_batch_that_is_passed_whole_is_not_cut(bench: Bench, settings: tuple[str, ...]):
    """Passes of a search's or an update's own are of whole batches: parts would be promised a peak that they do not have."""
    loaded = bench.load(*settings, "training.batch_size=16", "evaluation.batch_size=4")
    whole = peak(loaded).total
    if settings != ("adapter.method=bilora",):  # which refuses parts
        assert whole == peak(loaded, f"training.micro_tokens={loaded.recipe.task.max_length}").total
    found = fit(loaded, OTHERS + whole - 1)
    assert (found.tried[0].settings, found.tried[0].peak, found.tried[0].fits) == ([], whole, False)
    assert found.settings
    assert peak(loaded, *found.settings).total < whole


def test_evaluations_take_fewer_rows_where_they_are_what_is_too_large(bench: Bench):
    loaded = bench.load("training.batch_size=1", "evaluation.batch_size=256")
    found = fit(loaded, OTHERS + peak(loaded, "evaluation.batch_size=64").total)
    assert found.settings == ["evaluation.batch_size=64"]


def test_what_changes_more_is_tried_later(bench: Bench):
    """Parts of less than a quarter of the batch are not what is taken as long as something else can be tried."""
    loaded = bench.load("training.batch_size=16", "evaluation.batch_size=1")
    limit = peak(loaded, *STEPS[:2], f"training.micro_tokens={4 * loaded.recipe.task.max_length}").total
    found = fit(loaded, OTHERS + limit)
    quarter = 4 * loaded.recipe.task.max_length
    sizes = [int(tried.settings[-1].removeprefix("training.micro_tokens=")) for tried in found.tried]
    assert all(size < quarter for size in sizes[:-1])
    assert sizes[-1] >= quarter
    assert (
        found.settings
        == found.tried[-1].settings
        == [*STEPS[: len(found.tried) - 1], f"training.micro_tokens={sizes[-1]}"]
    )
    assert len(found.tried) > 1
    assert peak(loaded, *found.settings).total <= limit


def test_where_nothing_fits_all_is_told(bench: Bench):
    found = fit(bench.load(), OTHERS + 1)
    assert found.settings is None
    assert len(found.tried) == 1 + len(STEPS)
    assert not any(tried.fits for tried in found.tried)


def test_what_a_model_refuses_is_told_and_left_out(bench: Bench):
    """GPT-2 has no plain Linear to quantise."""
    found = fit(bench.load(family="gpt2"), OTHERS + 1)
    assert "no layer of this gpt2 model has a plain Linear" in found.tried[-1].why
    assert found.tried[-1].peak is None


def test_a_plan_has_it_where_it_was_asked_for(bench: Bench):
    assert lorakit.plan(bench.load()).fit is None
    assert lorakit.plan(bench.load(), fit="8GB").fit.settings == []
