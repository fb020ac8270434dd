"""What ``lorakit compare`` passes on and prints."""

import json
from pathlib import Path

import pytest

import lorakit
from lorakit.artifacts.files import write_json
from lorakit.cli.progress import ProgressHook
from lorakit.reporting.stats import paired_difference, summarise
from lorakit.workflow.experiments.compare import Comparison
from lorakit.workflow.experiments.elsewhere import Submitted
from lorakit.workflow.experiments.totals import ComparedArm, ComparedRun
from lorakit.workflow.experiments.workers import Missing

A, B = [0.80, 0.82, 0.81], [0.78, 0.83, 0.76]


def arm(name: str, values: list[float], parameters: int, against: list[float] | None) -> ComparedArm:
    runs = [
        ComparedRun(
            s, f"runs/{name}-{s}", {"f1": v}, {"f1": v}, parameters, parameters, 770, parameters, 3.0, 90.0, 18.0
        )
        for s, v in enumerate(values)
    ]
    gap = None if against is None else paired_difference(values, against)
    return ComparedArm(
        name=name,
        model="bundled:minilm",
        seeds=[0, 1, 2],
        adapter_parameters=parameters,
        carried_parameters=parameters,
        head_parameters=770,
        budget=parameters,
        epochs=3.0,
        last=summarise(values),
        best=summarise(values),
        last_difference=gap,
        best_difference=gap,
        seconds=90.0,
        search_overhead=0.25 if against else 0.0,
        runs=runs,
    )


@pytest.fixture
def compared(workflow, monkeypatch):
    """What was asked; ``changes`` are made to the answer."""
    calls, changes = [], {}

    def compare(*args, **kwargs):
        calls.append((args, kwargs))
        values = {
            "folder": Path("runs/compare"),
            "task": "mrpc",
            "metric": "f1",
            "best_by": "accuracy",
            "higher_is_better": True,
            "sides": [arm("lora", A, 125952, None), arm("found", B, 124000, A)],
            "failed": [],
            "missing": [],
            "warnings": ["fewer than 5 seeds"],
            "figure": Path("runs/compare/comparison.png"),
        }
        return Comparison(**(values | changes))

    monkeypatch.setattr(lorakit, "compare", compare, raising=False)
    compare.calls, compare.changes = calls, changes
    return compare


def test_arguments_are_sorted_and_passed_on(cli, here, compared):
    (here / "a=b.yaml").write_text("")
    ran = cli(
        *("compare", "mrpc-lora", "adapter.rank=4", "a=b.yaml", "training.epochs=3", "runs/x-0", "--seeds", "0,1, 5"),
        *(
            "--folder",
            "f",
            "--metric",
            "f1",
            "--no-train",
            "--no-wait",
            "--figure",
            "x.png",
            "--csv",
            "x.csv",
            "--offline",
            "--workers",
            "3",
        ),
    )
    assert ran.code == 0, ran.err
    ((arguments, overrides), settings) = compared.calls[0]
    assert arguments == ["mrpc-lora", "a=b.yaml", "runs/x-0"]
    assert overrides == ["adapter.rank=4", "training.epochs=3"]
    watch = settings.pop("watch")
    assert isinstance(watch(), ProgressHook)
    assert settings == {
        "seeds": [0, 1, 5],
        "folder": Path("f"),
        "metric": "f1",
        "train": False,
        "wait": False,
        "figure": Path("x.png"),
        "table": Path("x.csv"),
        "offline": True,
        "workers": 3,
        "on": None,
        "slurm": [],
    }


def test_the_table_has_what_was_asked_for(cli, here, compared):
    ran = cli("compare", "a", "b")
    assert compared.calls[0][1]["seeds"] is None
    lora, found, last, best = (
        " ".join(line.split()) for line in ran.out.splitlines() if line.lstrip()[:4] in ("lora", "foun")
    )
    assert lora == "lora 3 0.8100 ± 0.0100 0.8100 0.8100 ± 0.0100 0.8100 125,952 770 1 min 30 s"
    assert found == "found 3 0.7900 ± 0.0361 0.7800 0.7900 ± 0.0361 0.7800 124,000 770 1 min 30 s +25%"
    assert last == "found last 3 -0.0200 -0.0500 to +0.0100 1 of 3"
    assert best == last.replace("last", "best")
    assert "difference to lora, paired by seed" in ran.out
    assert "best accuracy on the validation split itself" in ran.out
    assert "warning: fewer than 5 seeds" in ran.err
    assert "wrote runs/compare/comparison.png" in ran.err


def test_jobs_that_are_only_submitted_are_told(cli, here, workflow, monkeypatch):
    calls = []

    def submit_compare(*args, **kwargs):
        calls.append((args, kwargs))
        return Submitted(Path("runs/compare"), ["job 17_0"], Path("logs"), True, "lorakit compare a b --on slurm")

    monkeypatch.setattr(lorakit, "submit_compare", submit_compare, raising=False)
    ran = cli("compare", "a", "b", "adapter.rank=4", "--on", "slurm", "--workers", "2", "--submit-only")
    (((arms, overrides), settings),) = calls
    assert (arms, overrides) == (["a", "b"], ["adapter.rank=4"])
    assert (settings["on"], settings["workers"], settings["train"]) == ("slurm", 2, True)
    assert ran.code == 0
    assert "not done yet: job 17_0" in ran.out


def test_a_narrow_terminal_cuts_no_number(cli, here, compared, monkeypatch):
    monkeypatch.setattr("lorakit.cli.output.PIPE_WIDTH", 80)
    ran = cli("compare", "a", "b")
    for number in ("0.8100 ± 0.0100", "125,952", "1 min 30 s", "+25%"):
        assert number in ran.out
    assert max(map(len, ran.out.splitlines()[:20])) <= 80


def test_json_is_all_that_is_on_standard_output(cli, here, compared):
    ran = cli("compare", "a", "b", "--json", "--quiet")
    told = json.loads(ran.out)
    assert told["sides"][1]["last_difference"]["n"] == 3
    assert told["sides"][0]["runs"][0]["last"] == {"f1": 0.80}
    assert ran.err == "warning: fewer than 5 seeds\n"


def test_one_side_has_no_differences(cli, here, compared):
    compared.changes |= {"sides": [arm("lora", A, 10, None)], "higher_is_better": False}
    ran = cli("compare", "a")
    assert "difference" not in ran.out
    assert "lower is better" in ran.out


def test_what_failed_is_told_after_the_table_and_the_code_is_1(cli, here, compared):
    compared.changes |= {
        "failed": [Missing("runs/compare/b-1", "the loss is nan")],
        "missing": [Missing("runs/compare/b-2", "another worker trains it")],
    }
    ran = cli("compare", "a", "b")
    assert ran.code == 1
    assert "0.8100" in ran.out
    assert "missing: runs/compare/b-2: another worker trains it" in ran.err
    assert ran.err.endswith("error: runs/compare/b-1: the loss is nan\n")


@pytest.mark.parametrize("seeds", ["a,b", "1.5", "", "0,", "0,0", "-1"])
def test_wrong_seeds_are_one_message(cli, here, compared, seeds):
    ran = cli("compare", "a", f"--seeds={seeds}")
    assert (ran.code, compared.calls) == (2, [])
    assert "--seeds" in ran.err
    assert "valid: such as 0,1,2,3,4" in ran.err


def test_without_anything_to_compare_it_is_usage(cli, here, compared):
    assert cli("compare").code == 2


def test_runs_that_are_there_are_compared_for_real(cli, here, tmp_path):
    """From the command line down to the files, without any training."""
    summary = {"task": "rotten_tomatoes", "metric": "accuracy", "head_parameters": 770, "epochs": 1.0, "seconds": 9.0}
    summary["steps"] = 9
    for name, rank, values in (("a", 4, A), ("b", 8, B)):
        for seed, value in enumerate(values):
            run = here / f"{name}-{seed}"
            run.mkdir()
            recipe = (
                f"{(here / 'small.yaml').read_text()}adapter: {{rank: {rank}}}\nrun: {{name: {name}, seed: {seed}}}\n"
            )
            (run / "recipe.yaml").write_text(recipe)
            scores = {"last": {"accuracy": value}, "best": {"accuracy": value}}
            write_json(run / "summary.json", summary | scores | {"adapter_parameters": 100 * rank})
    ran = cli("compare", *(f"{name}-{seed}" for name in "ab" for seed in (2, 0, 1)), "--json", "--csv", "all.csv")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["sides"][1]["last_difference"] == paired_difference(B, A).to_dict()
    assert "warning: b has 800 adapter parameters, and a 400: the budgets differ" in ran.err
    assert len((here / "all.csv").read_text().splitlines()) == 7
    assert (here / "runs" / "compare" / "comparison.png").is_file()
