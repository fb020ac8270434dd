"""Recipes over several seeds, trained where they are missing, and what the comparison says of them."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from support.runs import Bench, StopAt, records

import lorakit
from lorakit.artifacts.files import read_json, write_json
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, RunError, UsageError
from lorakit.workflow import train as running
from lorakit.workflow.experiments import request, workers
from lorakit.workflow.experiments.compare import Comparison, compare
from lorakit.workflow.experiments.request import unwatched
from lorakit.workflow.train import TrainResult

STEPS = ("training.max_steps=3", "evaluation.every_steps=1")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", autouse=True)
def without_figures(finished: TrainResult, searched: TrainResult) -> Iterator[None]:
    """A run's own figures would take half of the time; the runs that all tests share have them, so they come first."""
    with mock.patch.object(running, "draw"):
        yield


@pytest.fixture(scope="module")
def recipes(bench: Bench) -> dict[str, str]:
    """Three recipes as files: two of the same budget, and one with twice as many parameters."""
    made = {}
    for name, settings in {"even": "rank: 4", "found": "rank: 4, alpha: 64", "double": "rank: 8"}.items():
        base = bench.load(name="base").path
        made[name] = base.with_name(f"{name}.yaml")
        made[name].write_text(f"extends: {base}\nadapter: {{{settings}}}\n")
    return {name: str(path) for name, path in made.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def compared(recipes: dict[str, str], folder: Path) -> Comparison:
    """Trained from nothing. Not to be written into."""
    return compare([recipes["even"], recipes["found"]], STEPS, seeds=SEEDS, folder=folder, table=folder / "all.csv")


def no_training(*arguments, **settings) -> None:
    raise AssertionError("nothing was to be trained")


def test_what_is_missing_is_trained(compared: Comparison, folder: Path):
    assert (compared.failed, compared.missing) == ([], [])
    assert [(side.name, side.seeds) for side in compared.sides] == [("even", [0, 1, 2]), ("found", [0, 1, 2])]
    for name in ("even", "found"):
        for seed in SEEDS:
            assert Run(folder / f"{name}-{seed}").summary()["seed"] == seed
    assert compared.figure == folder / "comparison.png"
    assert compared.figure.read_bytes().startswith(b"\x89PNG")
    assert list(folder.glob("*.lock")) == []


def test_a_run_of_the_comparison_is_what_train_makes(compared: Comparison, recipes: dict[str, str], tmp_path: Path):
    alone = lorakit.train(lorakit.load_recipe(recipes["found"], [*STEPS, "run.seed=1"]), run_dir=tmp_path / "alone")
    assert records(alone.run_dir) == records(compared.folder / "found-1")


def test_numbers_are_those_of_the_summaries(compared: Comparison, folder: Path):
    for side in compared.sides:
        summaries = [read_json(folder / f"{side.name}-{seed}" / "summary.json") for seed in SEEDS]
        for which, told in (("last", side.last), ("best", side.best)):
            values = np.array([summary[which]["accuracy"] for summary in summaries])
            assert (told.n, told.mean, told.median) == (3, pytest.approx(values.mean()), np.median(values))
            assert told.sd == pytest.approx(values.std(ddof=1))
        assert side.seconds == pytest.approx(np.mean([summary["seconds"] for summary in summaries]))
        assert side.adapter_parameters == side.carried_parameters == side.budget == 4 * 4 * 64
        assert side.head_parameters == 2 * 32 + 2
        assert side.search_overhead == 0


def test_the_difference_is_paired_by_seed(compared: Comparison, folder: Path):
    first, second = compared.sides
    assert first.last_difference is first.best_difference is None
    for which, told in (("last", second.last_difference), ("best", second.best_difference)):
        gaps = np.array(
            [
                read_json(folder / f"found-{seed}" / "summary.json")[which]["accuracy"]
                - read_json(folder / f"even-{seed}" / "summary.json")[which]["accuracy"]
                for seed in SEEDS
            ]
        )
        assert (told.n, told.mean, told.wins) == (3, pytest.approx(gaps.mean()), (gaps > 0).sum())
        assert told.sd == pytest.approx(gaps.std(ddof=1))
        assert gaps.min() - 1e-12 <= told.low <= told.mean <= told.high <= gaps.max() + 1e-12


def test_only_what_matters_is_warned_of(compared: Comparison):
    collapsed = {  # tiny models after three steps: by the predictions that their summaries tell
        name: [seed for seed in SEEDS if read_json(compared.folder / f"{name}-{seed}" / "summary.json")["collapsed"]]
        for name in ("even", "found")
    }
    assert compared.warnings == [
        *(
            f"{name}: {len(seeds)} of 3 runs collapsed to one class for every validation row "
            f"(seed {', '.join(map(str, seeds))}), so differences to it mean little"
            for name, seeds in collapsed.items()
            if seeds
        ),
        "fewer than 5 seeds, read the intervals with care: even 3, found 3",
    ]


def test_json_and_csv_hold_every_run(compared: Comparison, folder: Path):
    told = read_json(folder / "comparison.json")
    assert "packages" in told.pop("environment")
    assert told == compared.to_dict()
    assert isinstance(told["figure"], str)
    rows = list(csv.DictReader((folder / "all.csv").open()))
    assert [(row["side"], int(row["seed"])) for row in rows] == [(s, n) for s in ("even", "found") for n in SEEDS]
    for row in rows:
        summary = read_json(Path(row["path"]) / "summary.json")
        assert float(row["last_accuracy"]) == summary["last"]["accuracy"]
        assert float(row["best_accuracy"]) == summary["best"]["accuracy"]
        for name in ("adapter_parameters", "head_parameters", "seconds", "search_seconds"):
            assert float(row[name]) == summary[name]


def test_finished_runs_are_used_and_seeds_added(compared: Comparison, recipes, monkeypatch, caplog):
    monkeypatch.setattr(workers, "train", no_training)
    with caplog.at_level(logging.INFO, logger="lorakit"):
        again = compare([recipes["even"], recipes["found"]], STEPS, seeds=SEEDS, folder=compared.folder)
    assert again.to_dict() == compared.to_dict()
    assert "6 of 6 runs are there, 0 to train" in caplog.text
    fewer = compare([recipes["even"], recipes["found"]], STEPS, seeds=[0, 9], folder=compared.folder, train=False)
    assert [side.seeds for side in fewer.sides] == [[0], [0]]
    assert [lost.run for lost in fewer.missing] == [str(compared.folder / f"{name}-9") for name in ("even", "found")]
    assert "one run does not tell how much a run varies: even, found" in fewer.warnings


def test_recipes_may_be_loaded_or_paths(compared: Comparison, recipes, monkeypatch):
    monkeypatch.setattr(workers, "train", no_training)
    arms = [lorakit.load_recipe(recipes["even"]), Path(recipes["found"])]
    assert compare(arms, STEPS, seeds=SEEDS, folder=str(compared.folder)).to_dict() == compared.to_dict()


def test_a_recipe_that_has_changed_is_refused(compared: Comparison, recipes):
    with pytest.raises(UsageError, match=r"even-0: .* differs in training\.max_steps\n.*another --folder"):
        compare([recipes["even"]], ["training.max_steps=2", STEPS[1]], seeds=[0], folder=compared.folder)


def test_an_unfinished_run_is_resumed(compared: Comparison, recipes, tmp_path, caplog):
    def stopping():
        return mock.MagicMock(__enter__=lambda context: StopAt(2), __exit__=lambda *problem: None)

    def call(watch):
        return compare([recipes["even"]], STEPS, seeds=[0], folder=tmp_path, watch=watch)

    with pytest.raises(Interrupted, match="stopped after step 2 of 3") as stopped:
        call(stopping)
    again = f"lorakit compare {recipes['even']} {' '.join(STEPS)} --seeds 0 --folder {tmp_path}"
    assert stopped.value.problems[0].hint == again
    with caplog.at_level(logging.INFO, logger="lorakit"):
        call(unwatched)
    assert "run 1 of 1: even, seed 0, from its newest checkpoint" in caplog.text
    assert records(tmp_path / "even-0") == records(compared.folder / "even-0")


def test_a_failing_side_does_not_lose_the_others(compared: Comparison, recipes, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"extends: {recipes['even']}\ntraining: {{lr: 1.0e+38, clip: 0}}\n")
    result = compare([str(bad), recipes["even"]], STEPS, seeds=[0, 1], folder=tmp_path / "runs")
    assert [Path(lost.run).name for lost in result.failed] == ["bad-0", "bad-1"]
    assert [(side.name, side.seeds) for side in result.sides] == [("even", [0, 1])]
    assert result.sides[0].last_difference is None
    assert "bad has no finished run" in result.warnings
    with pytest.raises(RunError, match="bad-0"):
        compare([str(bad)], STEPS, seeds=[0], folder=tmp_path / "alone")


def test_a_mistake_is_told_before_anything_is_trained(recipes, tmp_path):
    with pytest.raises(UsageError, match="nosuch"):
        compare([recipes["even"], recipes["found"]], ["adapter.targets=[nosuch]"], seeds=[0], folder=tmp_path)
    with pytest.raises(UsageError, match=r"not scored by 'f2'\n.*valid: accuracy"):
        compare([recipes["even"]], STEPS, seeds=[0], folder=tmp_path, metric="f2")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="no run is finished yet"):
        compare([recipes["even"]], STEPS, seeds=[0], folder=tmp_path, train=False)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["training.optimizer=flora"], "nothing that trains here is of that size"),
        (["adapter.method=loraprune", "adapter.update_options={share: 0.01}"], "0.01 of 48 channels is none"),
    ],
)
def test_what_only_the_adapted_model_can_tell_is_told_before_too(
    bench: Bench, tmp_path: Path, settings: list[str], match: str
):
    with pytest.raises(UsageError, match=match):
        compare([str(bench.load(name="told").path)], settings, seeds=[0], folder=tmp_path)


def test_different_budgets_and_epochs_are_warned_of(compared: Comparison, recipes, tmp_path, caplog):
    run = str(compared.folder / "even-0")
    settings = ["training.max_steps=2"]
    result = compare([run, recipes["double"]], settings, seeds=[0], folder=tmp_path)
    assert "budgets differ: double has 2,048 adapter parameters, and even 1,024" in caplog.text
    assert "double has 2,048 adapter parameters, and even 1,024: the budgets differ" in result.warnings
    assert any(line.startswith("double has 0.33") and "epochs" in line for line in result.warnings)


def test_seeds_that_only_one_side_has_are_not_paired(compared: Comparison, recipes):
    runs = [str(compared.folder / name) for name in ("even-0", "even-1", "found-0", "found-2")]
    result = compare(runs, folder=compared.folder.parent / "mixed")
    assert [side.seeds for side in result.sides] == [[0, 1], [0, 2]]
    last = [read_json(Path(run) / "summary.json")["last"]["accuracy"] for run in (runs[2], runs[0])]
    assert (result.sides[1].last_difference.n, result.sides[1].last_difference.mean) == (1, last[0] - last[1])
    assert "found has other seeds than even: the difference is over 0" in result.warnings
    apart = compare([runs[0], runs[3]], folder=compared.folder.parent / "mixed")
    assert apart.sides[1].last_difference is None
    assert any("none in common" in line for line in apart.warnings)


def test_a_search_has_its_overhead(searched: TrainResult, tmp_path):
    (side,) = compare([str(searched.run_dir)], folder=tmp_path).sides
    assert side.search_overhead == pytest.approx(searched.search_seconds / (searched.seconds - searched.search_seconds))
    assert side.adapter_parameters < side.budget + 1


@pytest.mark.slow
def test_another_metric_can_be_asked_for(bench: Bench, tmp_path):
    settings = ("training.max_steps=1", "run.folder=" + str(tmp_path))
    runs = [bench.train(*settings, f"adapter.rank={rank}", kind="number").run_dir for rank in (1, 2)]
    result = compare([str(run) for run in runs], folder=tmp_path / "out", metric="mse")
    assert (result.metric, result.best_by, result.higher_is_better) == ("mse", "pearson", False)
    assert result.sides[0].last.mean == read_json(runs[0] / "summary.json")["last"]["mse"]
    by_mse = bench.train(*settings, "task.metric=mse", kind="number").run_dir
    with pytest.raises(UsageError, match="different metrics"):
        compare([str(runs[0]), str(by_mse)], folder=tmp_path / "out")
    assert compare([str(runs[0]), str(by_mse)], folder=tmp_path / "out", metric="mse").best_by == "pearson or mse"


def test_an_imported_run_is_one_message(compared: Comparison, finished: TrainResult, copied: Path, tmp_path):
    summary = read_json(copied / "summary.json") | {"last": {}, "best": {}}
    write_json(copied / "summary.json", summary)
    with pytest.raises(UsageError, match="no scores to compare"):
        compare([str(finished.run_dir), str(copied)], folder=tmp_path)


def test_several_processes_of_one_launch_are_refused(recipes, tmp_path, monkeypatch):
    monkeypatch.setattr(request, "this_process", lambda: mock.Mock(num_processes=2))
    with pytest.raises(UsageError, match="one process"):
        compare([recipes["even"]], folder=tmp_path)
