"""Runs that an older lorakit began: their recipes spell out keys that have become options since."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import SEARCH, Bench, StopAt, records

import lorakit
from lorakit.errors import Interrupted, UsageError
from lorakit.workflow.restore import restore_run

LITERAL = (*SEARCH, "search.proxy=snip", "search.proxy_options={untrained: literal}", "search.every=0.5")
OLD = "  norm: l2\n  untrained: literal\n  tolerance: 0.01\n  population: 50\n  generations: 20\n  parents: 10\n"
OLD += "  mutation: 0.2\n  holdout: 0.1\n  min_parameters: 0\n"


def spelt_as_before(run: Path) -> None:
    """The run's recipe as it was written when proxies and GLoRA's search had no options."""
    text = (run / "recipe.yaml").read_text()
    now = "  proxy_options:\n    untrained: literal\n"
    assert now in text
    (run / "recipe.yaml").write_text(text.replace(now, "").replace("\ntraining:\n", f"{OLD}\ntraining:\n"))


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Path:
    """A run that nothing happened to."""
    return bench.train(*LITERAL, name="literal").run_dir


def begun(bench: Bench, run: Path) -> Path:
    """The same, stopped on its way, by an older lorakit."""
    with pytest.raises(Interrupted):
        bench.train(*LITERAL, "run.checkpoint_every=0.5", name="literal", run_dir=run, hooks=[StopAt(7)])
    spelt_as_before(run)
    return run


def test_it_goes_on_with_its_own_recipe(bench: Bench, whole: Path, tmp_path: Path) -> None:
    lorakit.train(begun(bench, tmp_path / "run"), resume=True)
    assert records(tmp_path / "run") == records(whole)


def test_it_goes_on_with_the_recipe_in_the_words_of_today_and_no_other(
    bench: Bench, whole: Path, tmp_path: Path
) -> None:
    run, often = begun(bench, tmp_path / "run"), "run.checkpoint_every=0.5"
    with pytest.raises(UsageError, match=r"has changed since this run began: search\.proxy_options\.untrained"):
        bench.train(*LITERAL, often, "search.proxy_options={}", name="literal", run_dir=run, resume=True)
    bench.train(*LITERAL, often, name="literal", run_dir=run, resume=True)
    assert records(run) == records(whole)


@pytest.mark.usefixtures("unrendered")
def test_it_is_restored_and_reported(bench: Bench, tmp_path: Path) -> None:
    run = bench.train(*LITERAL, name="literal", run_dir=tmp_path / "run").run_dir
    spelt_as_before(run)
    assert restore_run(run, "last").loaded.recipe.search.proxy_options == {"untrained": "literal"}
    assert lorakit.report(run)
