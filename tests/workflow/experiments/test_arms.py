"""Which arguments make which arms."""

from pathlib import Path

import pytest
from support.runs import Bench

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import Run
from lorakit.errors import LorakitError, UsageError
from lorakit.workflow.experiments.arms import check_same_data, gather


@pytest.fixture
def make(bench: Bench, tmp_path: Path):
    """Writes a finished run that was never trained."""

    def write(folder: str, *overrides: str, name: str = "small", last: dict | None = None) -> str:
        run = Run(tmp_path / folder)
        write_text(run.recipe, bench.load(*overrides, name=name).to_yaml())
        scores = {"accuracy": 0.5} if last is None else last
        counts = dict.fromkeys(("steps", "adapter_parameters", "head_parameters", "epochs", "seconds"), 1)
        told = {"task": "custom", "metric": "accuracy", "last": scores, "best": scores}
        write_json(run.path / "summary.json", told | counts)
        return str(run.path)

    return write


def test_a_recipe_is_an_arm_with_a_run_for_each_seed(bench: Bench, tmp_path: Path):
    path = bench.load(name="plain").path
    (arm,) = gather([str(path)], ["adapter.rank=3"], [4, 2], tmp_path)
    assert (arm.name, list(arm.entries)) == ("plain", [4, 2])
    entry = arm.entries[4]
    assert entry.run.path == tmp_path / "plain-4"
    run = entry.loaded.recipe.run
    assert (run.seed, run.name, run.folder, entry.loaded.recipe.adapter.rank) == (4, "plain", str(tmp_path), 3)


def test_offline_is_for_every_recipe(tmp_path: Path):
    for offline in (False, True):
        (arm,) = gather(["mrpc-lora"], [], [0], tmp_path, offline=offline)
        assert arm.entries[0].loaded.recipe.run.offline is offline


def test_without_seeds_there_are_five(bench: Bench, tmp_path: Path):
    (arm,) = gather([str(bench.load().path)], [], None, tmp_path)
    assert list(arm.entries) == [0, 1, 2, 3, 4]


def test_runs_that_differ_in_seed_and_name_alone_are_one_arm(make, tmp_path: Path):
    runs = [make("a-0", name="a"), make("b-3", "run.seed=3", name="b"), make("c-0", "adapter.rank=2", name="c")]
    arms = gather(runs, [], None, tmp_path)
    assert [(arm.name, sorted(arm.entries)) for arm in arms] == [("a", [0, 3]), ("c", [0])]


@pytest.mark.parametrize("first", ["run", "recipe"])
def test_a_run_of_a_recipe_that_is_compared_is_not_trained_again(bench: Bench, make, tmp_path: Path, first: str):
    run, path = make("mine", "run.seed=1", name="other"), str(bench.load(name="plain").path)
    (arm,) = gather([run, path] if first == "run" else [path, run], [], [0, 1], tmp_path)
    assert arm.name == "plain"
    assert {seed: entry.run.path.name for seed, entry in arm.entries.items()} == {0: "plain-0", 1: "mine"}


def test_a_run_of_another_recipe_with_an_arms_name_is_called_by_its_folder(bench: Bench, make, tmp_path: Path):
    run, path = make("mine", "adapter.rank=2", name="plain"), str(bench.load(name="plain").path)
    for arguments in ([run, path], [path, run]):
        assert {arm.name for arm in gather(arguments, [], [0], tmp_path)} == {"plain", run}


def test_mistakes_are_told(bench: Bench, make, tmp_path: Path):
    plain = str(bench.load(name="plain").path)
    unfinished = make("unfinished")
    (Path(unfinished) / "summary.json").unlink()
    cases = [
        ([], [], None, "there is nothing to compare"),
        ([plain, plain], [], None, "two recipes are called plain"),
        ([str(tmp_path)], [], None, "is not a run folder"),
        (["nosuchrecipe"], [], None, "there is no recipe of this name"),
        ([plain], ["run.seed=1"], None, "cannot be set for all runs"),
        ([plain], ["run.name=x"], None, "cannot be set for all runs"),
        ([plain], ["adapter.rnk=1"], None, "rnk"),
        ([make("a")], ["adapter.rank=1"], None, "is for recipes to train, and only runs are named"),
        ([make("b")], [], [0, 1], "--seeds is for recipes"),
        ([make("c"), make("d")], [], None, "two runs of one recipe with seed 0"),
        ([unfinished], [], None, "not trained to its end"),
        ([make("e", last={})], [], None, "no scores to compare"),
    ]
    for arguments, overrides, seeds, message in cases:
        with pytest.raises(LorakitError, match=message):
            gather(arguments, overrides, seeds, tmp_path / "folder")


def test_arms_that_are_scored_on_other_rows_are_refused(bench: Bench, make, tmp_path: Path):
    def check(*runs: str) -> None:
        check_same_data(gather(runs, [], None, tmp_path))

    plain = make("plain")
    check(plain, make("less", "task.max_train_rows=9", "task.max_length=8"))
    with pytest.raises(UsageError, match="max_eval_rows"):
        check(plain, make("fewer", "task.max_eval_rows=9"))
    with pytest.raises(UsageError, match=r"task\.validation"):
        check(plain, make("other", f"task.validation={bench.data()}/train.csv"))
    sst2 = tmp_path / "sst2.yaml"
    sst2.write_text(f"model: {{name: {bench.backbone()}}}\ntask: {{name: sst2}}\n")
    with pytest.raises(UsageError, match="sst2"):
        check_same_data(gather([plain, str(sst2)], [], [0], tmp_path))


def test_a_run_that_is_there_of_another_recipe_is_refused(bench: Bench, make, tmp_path: Path):
    make("folder/plain-0", "adapter.rank=2", "training.epochs=1", name="plain")
    make("folder/plain-1", "adapter.allocation={encoder.layer.0.attention.self.query: 4}", "run.seed=1", name="plain")
    (tmp_path / "folder" / "plain-2").mkdir()
    (tmp_path / "folder" / "plain-2" / "notes").write_text("")
    path = str(bench.load(name="plain").path)
    (arm,) = gather([path], [], [0, 1, 2, 3], tmp_path / "folder")
    for seed, message in ((0, "adapter.rank, training.epochs"), (1, "adapter.allocation"), (2, "is no run")):
        with pytest.raises(UsageError, match=message):
            arm.entries[seed].check_same_recipe()
    arm.entries[3].check_same_recipe()
