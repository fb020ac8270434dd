"""eval, merge and plan."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import lorakit
from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.cli.plan import at_steps
from lorakit.tasks.calibration import Reliability
from lorakit.workflow.evaluate import Trust
from lorakit.workflow.fit import Fit, Tried
from lorakit.workflow.rank_curve import RankCurve


def test_eval_hands_everything_on_and_prints_the_interval(cli, here, workflow):
    ran = cli(
        *("eval", "mrpc", "--run", "runs/a", "--split", "test", "--weights", "best", "--rank", "2"),
        *("--predictions", "p.tsv", "--offline"),
    )
    _, (run,), settings = workflow.call
    assert run == Path("runs/a")
    assert settings == {
        "task": "mrpc",
        "model": None,
        "split": "test",
        "file": None,
        "by": None,
        "weights": "best",
        "predictions": Path("p.tsv"),
        "offline": True,
        "rank": 2,
    }
    assert "accuracy  0.7892  (95 % interval 0.7525 to 0.8260)" in ran.out
    assert "f1        0.8512\n" in ran.out


def test_eval_of_an_unlabelled_split_has_no_scores(cli, here, workflow):
    workflow.changes = {"scores": {}, "interval": None, "predictions": Path("p.tsv")}
    ran = cli("eval", "mrpc", "--split", "test")
    assert "none: this split has no labels" in ran.out
    assert "p.tsv" in ran.out


def test_eval_tells_how_good_the_probabilities_are(cli, here, workflow):
    used, plain = Reliability(0.4, 0.02), Reliability(0.5, 0.1)
    workflow.changes = {"trust": Trust(1.8, used, plain, fitted_here=True)}
    ran = cli("eval", "mrpc")
    assert (
        "calibration error  0.0200  (0.1000 without the temperature of 1.8, which was fitted on these rows)" in ran.out
    )
    workflow.changes = {"trust": Trust(1.0, plain, plain, fitted_here=False)}
    assert "log-loss           0.5000\n" in cli("eval", "mrpc").out


def test_eval_at_several_ranks_is_a_line_for_each(cli, here, monkeypatch):
    points = [RankPoint(4, 4096, {"accuracy": 0.875}, 0.31), RankPoint(1, 1024, {"accuracy": 0.75}, 0.52)]
    curve = RankCurve(Path("runs/a"), "mrpc", "validation", 408, "last", "accuracy", points, "nothing is chosen")
    asked = []
    monkeypatch.setattr(lorakit, "rank_curve", lambda *args, **named: asked.append((args, named)) or curve)
    ran = cli("eval", "--run", "runs/a", "--ranks", "1,4", "--weights", "best", "--offline")
    assert asked == [((Path("runs/a"), "1,4"), {"split": None, "weights": "best", "offline": True})]
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "4 4,096 0.3100 0.8750" in lines
    assert "1 1,024 0.5200 0.7500" in lines
    assert lines[-1] == "nothing is chosen"
    assert json.loads(cli("eval", "--run", "runs/a", "--ranks", "1,4", "--json").out)["points"][1]["log_loss"] == 0.52
    refused = cli("eval", "--run", "runs/a", "--ranks", "1,4", "--rank", "2")
    assert refused.code == 2
    assert "--ranks and --rank exclude each other" in refused.err


@pytest.mark.parametrize(("command", "key"), [(("eval", "mrpc"), "scores"), (("merge", "runs/a"), "folded")])
def test_results_come_as_json(cli, here, workflow, command, key):
    assert key in json.loads(cli(*command, "--json").out)


def test_merge_tells_the_proof_and_what_is_kept_beside(cli, here, workflow):
    ran = cli("merge", "runs/a", "--out", "m", "--weights", "best", "--tolerance", "0.01", "--force", "--rank", "2")
    _, args, settings = workflow.call
    assert args == (Path("runs/a"),)
    assert settings == {"out": Path("m"), "weights": "best", "tolerance": 0.01, "force": True, "rank": 2}
    assert "128 rows: largest logit difference 3.1e-06 (allowed 0.001, largest logit 2.5), 0 labels changed" in ran.out
    assert "1 site that a plain checkpoint cannot hold: encoder.1.res1" in ran.out
    assert "lorakit alone: of any other loader, it would leave out the shortcuts" in ran.out
    assert "lorakit.load('runs/mrpc-0/merged')" in ran.err


def test_merge_takes_the_newest_run(cli, here, workflow, monkeypatch):
    module = ModuleType("lorakit.artifacts.run")
    module.newest_run = lambda folder, task: SimpleNamespace(path=folder / "newest")
    monkeypatch.setitem(sys.modules, "lorakit.artifacts.run", module)
    assert cli("merge").code == 0
    assert workflow.call[1] == (Path("runs/newest"),)


def test_plan_lists_sites_and_schedule(cli, here, workflow):
    ran = cli("plan", "small.yaml", "training.epochs=2", "--seed", "1")
    (loaded,) = workflow.call[1]
    assert (loaded.recipe.training.epochs, loaded.recipe.run.seed) == (2.0, 1)
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["0.q", "encoder.0.query", "384x384", "8", "6,144"] in rows
    assert ["head", "770", "parameters,", "not", "in", "the", "budget"] in rows
    first = next(place for place, row in enumerate(rows) if row[:1] == ["0.q"])
    assert first > max(
        place for place, line in enumerate(ran.out.splitlines()) if "the last epoch" in line or "texts too" in line
    )
    for text in (
        "705, 235 an epoch, 42 of warm-up",
        "about 17 % on top",
        "keeps 12 MiB",
        "about 3.0 GiB",
        "the last epoch is short",
    ):
        assert text in ran.out


def test_plan_says_what_finding_a_rate_costs(cli, here, workflow):
    assert "learning rate" not in cli("plan", "small.yaml").out
    workflow.changes = {"rate_overhead": 4.6}
    assert "found before the first step: about 5 % on top of training" in cli("plan", "small.yaml").out


def test_plan_says_what_makes_it_fit(cli, here, workflow):
    tried = [
        Tried([], 30 * 2**30, False),
        Tried(["model.quantization=nf4"], None, False, "this model has none"),
        Tried(["training.micro_tokens=512"], 7 * 2**30, True),
    ]
    workflow.changes = {"fit": Fit(2**33, tried, ["training.micro_tokens=512"])}
    ran = cli("plan", "small.yaml", "--fit", "8.5GiB")
    assert workflow.call[2] == {"fit": "8.5GiB", "fsdp": 1}
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["as", "it", "is", "30.0", "GiB", "no"] in rows
    assert ["model.quantization=nf4", "-", "this", "model", "has", "none"] in rows
    assert ["training.micro_tokens=512", "7.0", "GiB", "yes"] in rows
    assert ran.out.endswith("it fits with training.micro_tokens=512\n")
    workflow.changes = {"fit": Fit(2**33, tried[:2], None)}
    assert "nothing that was tried fits" in cli("plan", "small.yaml", "--fit", "8.5GiB").out
    workflow.changes = {"fit": Fit(2**33, tried[2:], [])}
    assert cli("plan", "small.yaml", "--fit", "8.5GiB").out.endswith("it fits as it is\n")


def test_plan_gives_json(cli, here, workflow):
    data = json.loads(cli("plan", "small.yaml", "--json").out)
    assert (len(data["sites"]), data["budget"]) == (3, 4608)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([], "none"),
        ([0], "1, at step 0"),
        ([0, 5], "2, at steps 0, 5"),
        (list(range(0, 100, 10)), "10, at steps 0, 10, 20, 30, 40, 50, 60, ..., 90"),
    ],
)
def test_long_lists_of_steps_are_cut(steps, told):
    assert at_steps(steps) == told


def test_predictions_take_the_place_of_a_file_only_with_force(cli, here, workflow):
    (here / "mine.csv").write_text("text,label\n")
    ran = cli("eval", "--run", "runs/a", "--file", "mine.csv", "--predictions", "mine.csv")
    assert (ran.code, workflow.calls) == (2, [])
    assert "exists already" in ran.err
    assert (here / "mine.csv").read_text() == "text,label\n"
    assert cli("eval", "--run", "runs/a", "--predictions", "mine.csv", "--force").code == 0
