import json
from pathlib import Path

import pytest

from lorakit.artifacts.readout_file import ReadoutChoice
from lorakit.cli.progress import ProgressHook
from lorakit.tasks.calibration import Calibration, Reliability
from lorakit.training.rate import FoundRate


def test_train_calls_the_workflow_and_says_what_came_of_it(cli, here, workflow):
    ran = cli("train", "small.yaml", "adapter.rank=4", "--seed", "3")
    name, (loaded,), settings = workflow.call
    assert name == "train"
    assert (loaded.recipe.adapter.rank, loaded.recipe.run.seed) == (4, 3)
    assert (settings["run_dir"], settings["resume"]) == (None, False)
    assert isinstance(settings["hooks"][0], ProgressHook)
    assert ran.code == 0
    facts = dict(line.split("  ", 1) for line in ran.out.splitlines())
    assert facts["last, step 705"].strip() == "accuracy 0.8123"
    assert facts["best, step 470"].strip() == "accuracy 0.8201  (chosen by accuracy on the validation split)"
    assert facts["parameters"].strip() == "4,608 in adapters, 770 in the head"
    assert facts["sites on"].strip() == "2 of 3"
    assert facts["time"].strip() == "3 min 20 s, 12 % of it search"
    for line in (
        "lorakit eval rotten_tomatoes --run runs/demo-0",
        "lorakit merge runs/demo-0",
        "lorakit predict runs/demo-0 FILE",
    ):
        assert f"  {line}\n" in ran.err


@pytest.mark.parametrize(("method", "merges"), [("dora", True), ("lora_moe", False), ("houlsby", False)])
def test_merging_comes_next_where_that_can_be(cli, here, workflow, method, merges):
    said = cli("train", "small.yaml", f"adapter.method={method}").err
    assert ("lorakit merge" in said, "lorakit predict" in said) == (merges, True)


def test_an_early_end_the_chosen_weights_and_the_calibration_are_told(cli, here, workflow):
    before, after = Reliability(0.5, 0.1), Reliability(0.4, 0.02)
    told = {"best": Calibration(1.8, 872, before, after), "last": Calibration(1.0, 872, before, before, "too few rows")}
    workflow.changes = {"stopped": "stopped at step 7 of 9: why", "selected": "best", "calibration": told}
    ran = cli("train", "small.yaml")
    assert "stopped at step 7 of 9: why" in ran.err
    text = " ".join(ran.out.split())
    assert "the best weights, which the validation rows chose" in text
    assert "error 0.1000 -> 0.0200, log-loss 0.5000 -> 0.4000" in text
    assert "temperature 1.8, fitted on these 872 validation rows" in text
    workflow.changes["selected"] = "last"
    text = " ".join(cli("train", "small.yaml").out.split())
    assert "calibration none: too few rows" in text
    assert "which the validation rows chose" not in text


def test_what_the_head_reads_is_told_where_it_was_found(cli, here, workflow):
    workflow.changes = {"readout": ReadoutChoice("mean", {"own": 0.5, "mean": 0.25}, "log-loss", 500)}
    text = " ".join(cli("train", "demo").out.split())
    assert "readout mean, by log-loss over folds of 500 training rows: mean 0.2500, own 0.5000" in text
    workflow.changes = {"readout": ReadoutChoice("own", {}, "log-loss", 0, "it is what the trained head reads")}
    assert "readout own: it is what the trained head reads" in " ".join(cli("train", "demo").out.split())


def test_a_rate_that_was_found_is_told(cli, here, workflow):
    assert "learning rate" not in cli("train", "demo").out
    found = FoundRate(lr=0.0042, target=0.5, share=1.0, exponent=1.5, rates=[0.002], falls=[0.4])
    workflow.changes = {"rate": found, "rate_seconds": 3.2}
    assert "learning rate 0.0042, found in 3.2 s" in " ".join(cli("train", "demo").out.split())


def test_options_win_over_overrides(cli, here, workflow):
    cli(
        "train",
        "small.yaml",
        "run.seed=1",
        "run.offline=false",
        "--seed",
        "2",
        "--offline",
        "--run-dir",
        "x",
        "--resume",
    )
    _, (loaded,), settings = workflow.call
    assert (loaded.recipe.run.seed, loaded.recipe.run.offline) == (2, True)
    assert (settings["run_dir"], settings["resume"]) == (Path("x"), True)


def test_json_is_one_object_on_stdout_and_the_talk_goes_to_stderr(cli, here, workflow):
    ran = cli("train", "small.yaml", "--json")
    assert json.loads(ran.out)["best_step"] == 470
    assert "loading bundled:minilm and rotten_tomatoes" in ran.err


def test_quiet_says_nothing_but_the_result(cli, here, workflow):
    ran = cli("train", "small.yaml", "--quiet")
    assert ran.err == ""
    assert "runs/demo-0" in ran.out


def test_a_run_folder_is_trained_where_it_is(cli, here, workflow):
    folder = here / "runs" / "small-0"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text((here / "small.yaml").read_text())
    cli("train", "runs/small-0", "--resume")
    _, (loaded,), settings = workflow.call
    assert (loaded.folder, settings["run_dir"]) == (Path("runs/small-0"), None)


def test_a_folder_that_is_no_run_is_refused(cli, here, workflow):
    (here / "empty").mkdir()
    ran = cli("train", "empty")
    assert ran.code == 2
    assert "empty" in ran.err
    assert "no recipe.yaml" in ran.err
    assert workflow.calls == []


def test_dry_run_shows_recipe_and_plan_and_writes_nothing(cli, here, workflow):
    before = sorted(here.rglob("*"))
    ran = cli("train", "small.yaml", "--dry-run")
    assert workflow.call[0] == "plan"
    assert "name: bundled:minilm" in ran.out
    assert "search.enable 0.25" in ran.out
    data = json.loads(cli("train", "small.yaml", "--dry-run", "--json").out)
    assert data["recipe"]["task"]["name"] == "rotten_tomatoes"
    assert data["plan"]["total_steps"] == 705
    assert sorted(here.rglob("*")) == before


def test_a_dry_run_of_folds_is_of_the_first(cli, here, workflow):
    (here / "films.csv").write_text("text,label\n" + "a fine film,good\na dull film,bad\n" * 3)
    data = json.loads(cli("train", "films.csv", "--folds", "3", "--dry-run", "--json").out)
    assert (data["recipe"]["task"]["folds"], data["recipe"]["task"]["fold"]) == (3, 1)


def test_other_processes_of_a_launch_are_silent(cli, here, workflow, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    ran = cli("train", "small.yaml", "--json")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
