"""A recipe over a grid and over seeds: what is trained, how it is ranked, and what a mistake, a failure or a kill comes to."""

import csv
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from support import pretended
from support.pretended import log, pretend, score
from support.runs import Bench, records

import lorakit
from lorakit.artifacts.files import read_json, write_text
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, LorakitError, RecipeError, RunError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.workflow import train as running
from lorakit.workflow.experiments import request, workers
from lorakit.workflow.experiments.arms import essence
from lorakit.workflow.experiments.sweep import plan_sweep, sweep

GRID = ("training.lr=1e-4,1e-3,1e-2", "adapter.rank=2,4", "training.epochs=1")
SEEDS = (0, 1, 2)
RANKS = "adapter.rank=2,4"


def test_every_point_is_trained_with_every_seed_and_ranked(small, pretending, tmp_path):
    result = sweep(small, GRID, seeds=SEEDS, folder=tmp_path / "s", table=tmp_path / "all.csv")
    rates = {1e-4: "0.0001", 1e-3: "0.001", 1e-2: "0.01"}
    names = [f"small-lr{text}-rank{rank}" for text in rates.values() for rank in (2, 4)]
    assert log(tmp_path / "s") == [f"{name}-{seed}" for seed in SEEDS for name in names]  # seed by seed
    assert (result.failed, result.missing) == ([], [])
    expected = sorted(
        ((np.mean([score(lr, rank, seed) for seed in SEEDS]), lr, rank) for lr in rates for rank in (2, 4)),
        key=lambda row: (-row[0], row[2]),
    )
    assert [tuple(point.settings.values()) for point in result.points] == [(lr, rank) for _, lr, rank in expected]
    for (mean, lr, rank), point in zip(expected, result.points, strict=True):
        came_to, values = point.came_to, np.array([score(lr, rank, seed) for seed in SEEDS])
        assert point.name == f"small-lr{rates[lr]}-rank{rank}"
        assert (came_to.last.mean, came_to.last.sd) == pytest.approx((mean, values.std(ddof=1)))
        assert (came_to.best.mean, came_to.seconds) == pytest.approx((mean + 0.125, 11.0))
        assert (came_to.adapter_parameters, came_to.head_parameters) == (100 * rank, 66)
    told = read_json(tmp_path / "s" / "sweep.json")
    assert "packages" in told.pop("environment")
    assert told == result.to_dict()
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert len(rows) == 18
    assert {(row["side"], row["training.lr"], row["adapter.rank"]) for row in rows} == {
        (point.name, str(point.settings["training.lr"]), str(point.settings["adapter.rank"])) for point in result.points
    }
    assert result.figure == tmp_path / "s" / "sweep.png"
    assert result.figure.read_bytes().startswith(b"\x89PNG")


def test_the_line_trains_the_best_point_again(small, pretending, tmp_path):
    varying = ["training.lr=1e-3,1e-2", RANKS, "adapter.targets=[q],[q,v]", "training.epochs=1"]
    result = sweep(small, varying, seeds=[1, 2], folder=tmp_path)
    program, command, *words = shlex.split(result.best)
    assert (program, command, words[-2:]) == ("lorakit", "train", ["--seed", "1"])
    again = load_recipe(words[0], [*words[1:-2], "run.seed=1"]).recipe
    assert essence(again) == essence(load_recipe(Path(result.points[0].came_to.runs[0].path) / "recipe.yaml").recipe)
    assert (again.training.lr, again.adapter.rank) == (1e-3, 4)


@pytest.mark.slow
def test_a_loaded_recipe_is_swept_as_it_is(small, pretending, tmp_path):
    settings = ["training.epochs=1", "adapter.dropout=0.25"]
    result = sweep(load_recipe(small, settings), ["training.lr=1e-3,1e-2", RANKS], seeds=[1, 2], folder=tmp_path)
    assert (result.recipe, list(result.points[0].settings.values())) == (small, [1e-3, 4])
    program, command, recipe, *seed = shlex.split(result.best)
    assert (program, command, seed) == ("lorakit", "train", ["--seed", "1"])
    best = load_recipe(small, [*settings, "training.lr=1e-3", "adapter.rank=4"])
    assert essence(load_recipe(recipe, ["run.seed=1"]).recipe) == essence(best.recipe)


def test_a_loaded_recipe_that_is_stopped_has_no_command_line(small, monkeypatch, tmp_path):
    def stop(loaded, **rest) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "train", stop)
    with pytest.raises(Interrupted) as stopped:
        sweep(load_recipe(small), [RANKS], seeds=[0], folder=tmp_path)
    assert stopped.value.problems[0].hint == "the same call again"


def test_lower_is_better_where_the_metric_says_so(bench: Bench, monkeypatch, tmp_path):
    def errors(loaded, *, run_dir, **rest) -> None:
        pretend(loaded, run_dir=run_dir, **rest)
        scores = {"mse": float(loaded.recipe.adapter.rank)}
        Run(run_dir).write_summary(Run(run_dir).summary() | {"last": scores, "best": scores, "metric": "mse"})

    monkeypatch.setattr(workers, "train", errors)
    path = str(bench.load(name="small", kind="number").path)
    result = sweep(path, ["adapter.rank=4,2,8"], seeds=[0], folder=tmp_path, metric="mse")
    assert not result.higher_is_better
    assert [point.settings["adapter.rank"] for point in result.points] == [2, 4, 8]


def test_what_to_be_wary_of_is_told(small, pretending, tmp_path):
    warnings = "\n".join(sweep(small, ["training.lr=1e-4,1e-3,1e-2"], seeds=[0, 1], folder=tmp_path).warnings)
    assert "the best of 3 points is chosen by the validation split" in warnings
    assert "--holdout 0.2 chooses by training rows" in warnings
    assert "2 seeds tell little" in warnings
    assert "was tried" not in warnings
    edge = sweep(small, ["adapter.rank=2,3,4"], seeds=[0], folder=tmp_path / "edge").warnings
    assert "the best adapter.rank, 4, is the largest that was tried: there may be better ones beyond" in edge
    assert sweep(small, [], seeds=[0], folder=tmp_path / "one").warnings == []


def test_points_closer_than_their_seeds_scatter_are_told(small, monkeypatch, tmp_path):
    monkeypatch.setattr(pretended, "score", lambda lr, rank, seed: seed / 4 + rank / 1024)
    monkeypatch.setattr(workers, "train", pretend)
    told = sweep(small, ["adapter.rank=2,4"], seeds=[0, 1], folder=tmp_path).warnings
    assert "small-rank4 and small-rank2 are closer than their seeds scatter" in told


def test_a_sweep_goes_on_where_it_stopped(small, monkeypatch, tmp_path):
    def stop_at_third(loaded, *, run_dir, **rest) -> None:
        if (run_dir.parent / "log").exists() and len(log(run_dir.parent)) == 2:
            raise KeyboardInterrupt
        pretend(loaded, run_dir=run_dir, **rest)

    monkeypatch.setattr(workers, "train", stop_at_third)
    with pytest.raises(Interrupted, match="finished runs are kept") as stopped:
        sweep(small, [RANKS, "training.epochs=1"], seeds=SEEDS, folder=tmp_path, metric="accuracy")
    line = f"lorakit sweep {small} {RANKS} training.epochs=1 --seeds 0,1,2 --folder {tmp_path} --metric accuracy"
    assert stopped.value.problems[0].hint == line
    monkeypatch.setattr(workers, "train", pretend)
    result = sweep(small, [RANKS, "training.epochs=1"], seeds=SEEDS, folder=tmp_path)
    assert sorted(log(tmp_path)) == sorted(f"small-rank{rank}-{seed}" for rank in (2, 4) for seed in SEEDS)
    wider = sweep(small, ["adapter.rank=2,4,8", "training.epochs=1"], seeds=[0], folder=tmp_path)
    assert log(tmp_path)[6:] == ["small-rank8-0"]
    assert {point.name for point in result.points} < {point.name for point in wider.points}


def test_a_changed_recipe_is_refused(small, pretending, tmp_path):
    sweep(small, [RANKS], seeds=[0], folder=tmp_path)
    with pytest.raises(UsageError, match=r"small-rank2-0: .* differs in training\.epochs\n.*another --folder"):
        sweep(small, [RANKS, "training.epochs=1"], seeds=[0], folder=tmp_path)


def test_a_failed_point_is_told_and_the_others_are_ranked(small, monkeypatch, tmp_path):
    def fail(loaded, **rest) -> None:
        if loaded.recipe.adapter.rank == 4 and loaded.recipe.run.seed < 1 + (loaded.recipe.training.lr == 1e-2):
            raise RunError("the loss is nan")
        pretend(loaded, **rest)

    monkeypatch.setattr(workers, "train", fail)
    result = sweep(small, ["training.lr=1e-3,1e-2", "adapter.rank=2,4"], seeds=[0, 1], folder=tmp_path)
    assert [Path(lost.run).name for lost in result.failed] == [
        "small-lr0.001-rank4-0",
        "small-lr0.01-rank4-0",
        "small-lr0.01-rank4-1",
    ]
    assert [point.name for point in result.points] == [
        "small-lr0.001-rank2",
        "small-lr0.01-rank2",
        "small-lr0.001-rank4",  # of one seed of two
        "small-lr0.01-rank4",
    ]
    assert result.points[-1].came_to is None
    assert "small-lr0.01-rank4 has no finished run" in result.warnings
    assert "small-lr0.001-rank4 has 1 of 2 seeds" in result.warnings
    with pytest.raises(RunError, match="the loss is nan"):
        sweep(small, ["training.lr=1e-2,2e-2", "adapter.rank=4"], seeds=[0], folder=tmp_path / "alone")


def test_the_mistakes_of_all_points_are_told_at_once_and_nothing_is_trained(small, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "train", None)
    with pytest.raises(RecipeError) as caught:
        sweep(small, ["adapter.rank=4,x,0", "training.lr=1e-3,-1", "training.epoch=3"], folder=tmp_path / "s")
    told = {problem.key: (problem.where, problem.what) for problem in caught.value.problems}
    places = sorted((problem.where, problem.key) for problem in caught.value.problems)
    assert places == [
        ("command line", "training.epoch"),
        ("command line (at adapter.rank=0)", "adapter.rank"),
        ("command line (at adapter.rank=x)", "adapter.rank"),
        ("command line (at training.lr=-1)", "training.lr"),
    ]
    assert "no key 'epoch'" in told["training.epoch"][1]
    with pytest.raises(LorakitError) as caught:  # what only the model can tell
        sweep(small, ["adapter.targets=[q],[nosuch],[other]", "adapter.rank=2,4"], folder=tmp_path / "s")
    assert [problem.where.partition("(")[2] for problem in caught.value.problems] == [
        "at adapter.targets=[nosuch])",
        "at adapter.targets=[other])",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["run.seed=1,2"], {}, "--seeds gives the seeds"),
        (["training.lr=1e-5..1e-3"], {}, r"is a range, and a grid wants values\n.*\n.*--trials N"),
        (["adapter.rank=2,4"], {"storage": "x"}, "--storage: is for --trials"),
        (["task.max_eval_rows=9,8"], {}, "scores cannot be compared"),
        (["adapter.rank=2,4"], {"metric": "f2"}, "not scored by 'f2'"),
        (["adapter.rank=2,4"], {"trials": 0}, r"--trials: 0 is not a number of trials\n.*valid: a whole number from 1"),
        (["adapter.rank=2"], {"trials": 3}, r"--trials: there is nothing to draw\n.*valid: KEY=LOW\.\.HIGH"),
    ],
)
def test_what_makes_no_sweep_is_refused(small, tmp_path, overrides, options, message):
    with pytest.raises(UsageError, match=message):
        sweep(small, overrides, folder=tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_without_optuna_trials_are_refused_with_what_to_install(small, tmp_path, monkeypatch):
    for name in ("optuna", "optuna.storages"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (sweep, plan_sweep):
        with pytest.raises(UsageError, match=r"Optuna .*not installed\n *try: pip install optuna"):
            call(small, ["training.lr=1e-5..1e-3"], folder=tmp_path / "s", trials=2)


def test_several_processes_of_one_launch_are_refused(small, monkeypatch):
    monkeypatch.setattr(request, "this_process", lambda: mock.Mock(num_processes=2))
    with pytest.raises(UsageError, match="one process"):
        sweep(small)


def test_a_plan_has_every_point_with_its_parameters_and_writes_nothing(small, pretending, tmp_path, monkeypatch):
    planned = plan_sweep(small, ["adapter.rank=2,4", "adapter.targets=[q],[q,v]"], seeds=SEEDS, folder=tmp_path / "s")
    assert [(point.name, point.budget, point.head_parameters, point.finished) for point in planned.points] == [
        (f"small-rank{rank}-targets{targets}", 2 * sites * rank * 64, 66, [])  # 2 layers, A and B of width 32
        for rank in (2, 4)
        for targets, sites in (("q", 1), ("q+v", 2))
    ]
    assert not (tmp_path / "s").exists()
    sweep(small, ["adapter.rank=2,4"], seeds=[0], folder=tmp_path / "s")
    planned = plan_sweep(small, ["adapter.rank=2,4,8"], seeds=SEEDS, folder=tmp_path / "s")
    assert [point.finished for point in planned.points] == [[0], [0], []]
    monkeypatch.chdir(tmp_path)
    planned = plan_sweep(small)
    assert (planned.folder, planned.seeds) == (Path("runs/sweep-small"), [0, 1, 2])


def test_a_run_folder_is_a_recipe_too(small, pretending, tmp_path):
    first = sweep(small, ["adapter.rank=4"], seeds=[0], folder=tmp_path / "s")
    run = first.points[0].came_to.runs[0].path
    result = sweep(run, ["adapter.rank=2,4"], seeds=[0], folder=tmp_path / "t")
    assert [point.name for point in result.points] == ["small-rank4", "small-rank2"]


def work(small, folder, doomed, meet) -> None:
    """A worker of a sweep; a doomed one is killed in its first training, while the other one is in its own."""
    own = []

    def train(loaded, *, run_dir, **rest) -> None:
        if not own:
            meet.wait()
        own.append(run_dir)
        if doomed:
            write_text(Run(run_dir).recipe, loaded.to_yaml())
            os.kill(os.getpid(), signal.SIGKILL)
        pretend(loaded, run_dir=run_dir, **rest)

    workers.train = train
    sweep(small, ["training.lr=1e-3,1e-2", RANKS], seeds=SEEDS, folder=folder)


@pytest.mark.slow
def test_two_workers_share_a_grid_and_lose_nothing_when_one_is_killed(small, pretending, tmp_path):
    context = multiprocessing.get_context("fork")
    meet = context.Barrier(2, timeout=60)
    two = [context.Process(target=work, args=(small, tmp_path, doomed, meet)) for doomed in (True, False)]
    for worker in two:
        worker.start()
    for worker in two:
        worker.join(120)
    assert [worker.exitcode for worker in two] == [-signal.SIGKILL, 0]
    done = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert {int(pid) for pid, _ in done} == {two[1].pid}
    assert len({name for _, name in done}) == len(done) == 12  # the killed one's among them, and each once
    assert list(tmp_path.glob("*.lock")) == []
    told = read_json(tmp_path / "sweep.json")
    assert [len(point["came_to"]["runs"]) for point in told["points"]] == [3] * 4


@pytest.mark.slow
def test_drawn_points_are_trained_like_those_of_a_grid(small, pretending, tmp_path):
    pytest.importorskip("optuna", reason="optional")
    varying = ["training.lr=1e-5..1e-1", "adapter.rank=2,4", "training.epochs=1"]
    result = sweep(small, varying, seeds=[0, 1], folder=tmp_path, trials=3)
    assert sorted(log(tmp_path)) == sorted(f"{point.name}-{seed}" for point in result.points for seed in (0, 1))
    assert len(result.points) == len(result.trials) == 3
    best = max(result.trials, key=lambda trial: trial.value)
    assert result.points[0].settings == best.settings
    lr, rank = best.settings["training.lr"], best.settings["adapter.rank"]
    assert best.value == pytest.approx(np.mean([score(lr, rank, seed) for seed in (0, 1)]))
    assert result.points[0].came_to.last.mean == best.value
    assert not any("was tried" in line for line in result.warnings)  # an end of what was drawn is no end of the range
    told = read_json(tmp_path / "sweep.json")
    assert [trial["settings"] for trial in told["trials"]] == [trial.settings for trial in result.trials]
    again = sweep(small, varying, seeds=[0, 1], folder=tmp_path, trials=3)
    assert again.to_dict() == result.to_dict()
    with pytest.raises(UsageError, match=r"another sweep; it differs in training\.epochs"):
        sweep(small, [*varying[:2], "training.epochs=2"], seeds=[0, 1], folder=tmp_path, trials=3)
    planned = plan_sweep(small, varying, seeds=[0], folder=tmp_path, trials=3)
    assert planned.ranges == {"training.lr": "1e-05..0.1, by the logarithm"}
    assert [point.settings["training.lr"] for point in planned.points] == [1e-5, 1e-1]


@pytest.mark.slow
def test_a_failed_drawn_point_is_told(small, monkeypatch, tmp_path):
    pytest.importorskip("optuna", reason="optional")

    def fail(loaded, **rest) -> None:
        if loaded.recipe.training.lr > 1e-3:
            raise RunError("the loss is nan")
        pretend(loaded, **rest)

    monkeypatch.setattr(workers, "train", fail)
    result = sweep(small, ["training.lr=1e-5..1e-1"], seeds=[0], folder=tmp_path, trials=6)
    too_high = {trial.name for trial in result.trials if trial.settings["training.lr"] > 1e-3}
    assert 0 < len(too_high) < 6
    assert {point.name for point in result.points if point.came_to is None} == too_high
    assert len(result.failed) == len(too_high)
    assert all("the loss is nan" in lost.why for lost in result.failed)


def test_a_run_of_a_sweep_is_what_train_makes(small, tmp_path):
    with mock.patch.object(running, "draw"):
        result = sweep(small, ["training.max_steps=1", "adapter.rank=2"], seeds=[1], folder=tmp_path / "s")
        words = shlex.split(result.best)[3:-2]
        alone = lorakit.train(load_recipe(small, [*words, "run.seed=1"]), run_dir=tmp_path / "alone")
    assert records(alone.run_dir) == records(Path(result.points[0].came_to.runs[0].path))


@pytest.mark.slow
def test_a_killed_process_loses_nothing(small, tmp_path):
    """The command itself, twice on one folder, with real trainings; one of them killed in a training."""
    words = [
        sys.executable,
        "-m",
        "lorakit",
        "sweep",
        small,
        "adapter.rank=2,4,8",
        "training.epochs=6",
        "--seeds",
        "0,1",
    ]
    words += ["--folder", str(tmp_path / "s"), "--json", "run.checkpoint_every=0.5"]
    two = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for line in two[0].stderr:
        if line.startswith("epoch 3"):
            two[0].kill()
            break
    out, err = two[1].communicate(timeout=600)
    assert two[0].wait(60) == -signal.SIGKILL
    assert two[1].returncode == 0, err
    assert "taken over from process" in err
    assert "from its newest checkpoint" in err
    assert '"missing": []' in out
    assert sum(1 for _ in (tmp_path / "s").glob("*/summary.json")) == 6
    assert list((tmp_path / "s").glob("*.lock")) == []
