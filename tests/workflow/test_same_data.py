"""A run remembers what it was made of, and says so where that is no longer what lies there."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.runs import StopAt, make_rows, write_rows

import lorakit
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.artifacts.provenance import read_provenance
from lorakit.errors import DataError, Interrupted, RunError
from lorakit.recipe.load import load_recipe

ROWS = make_rows(60, seed=7)
NO_SHORTCUTS = ("training.max_steps=2", "training.epochs=1")


@pytest.fixture
def own(bench, tmp_path):
    """Trains on a file of its own, part of which is held out."""

    class Own:
        file = tmp_path / "own.csv"

        def settings(self, *more):
            return (f"task.train={self.file}", "task.validation=null", "task.test=null", *NO_SHORTCUTS, *more)

        def train(self, *more, name="run", resume=False):
            return bench.train(*self.settings(*more), run_dir=tmp_path / name, resume=resume).run_dir

    write_rows(Own.file, ROWS)
    return Own()


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def held(path):
    return read_provenance(path).held_out


def test_the_run_keeps_what_its_data_was(own):
    run = own.train()
    told = read_json(run / "data.json")
    count = {label: sum(row["label"] == label for row in ROWS) for label in ("happy", "plain")}
    train, validation = told["splits"]["train"], told["splits"]["validation"]
    assert (train["rows"], validation["rows"]) == (54, 6)
    assert {label: train["classes"][label] + validation["classes"][label] for label in count} == count
    assert told["labels"] == ["happy", "plain"]
    assert (told["text"], told["label"]) == (["sentence"], "label")
    assert train["file"] == validation["file"] == str(own.file)
    assert [*told["base"]] == ["model.safetensors"]
    texts = [row["text"] for row in read_jsonl(run / "proof_rows.jsonl")]
    assert len(texts) == 6
    assert set(texts) <= {row["sentence"] for row in ROWS}


def test_runs_of_other_seeds_hold_out_the_same_rows(own):
    assert np.array_equal(held(own.train()), held(own.train("run.seed=1", name="other")))


def test_other_labels_in_the_file_are_refused_and_a_merge_keeps_the_runs_names(own):
    run = own.train()
    edit(own.file, "happy", "merry")
    with pytest.raises(DataError) as caught:
        lorakit.evaluate(run)
    said = str(caught.value)
    assert str(own.file) in said
    assert "its labels are merry, plain now, and the run's happy, plain" in said
    lorakit.merge(run)
    labels = read_json(run / "merged" / "config.json")["id2label"]
    assert [*labels.values()] == ["happy", "plain"]
    lorakit.export(run)


def test_merge_and_export_need_no_data_file(own):
    run = own.train()
    own.file.unlink()
    assert lorakit.merge(run).rows == 6
    assert lorakit.export(run).rows == 6


def test_a_file_with_more_rows_is_refused_by_eval_and_combine(own):
    run, other = own.train(), own.train("run.seed=1", name="other")
    before = lorakit.evaluate(run).rows
    write_rows(own.file, ROWS + make_rows(40, seed=8))
    with pytest.raises(
        DataError, match=r"own\.csv has changed since the run .* was trained: validation has 10 rows now, and had 6"
    ):
        lorakit.evaluate(run)
    with pytest.raises(DataError, match="train has 90 rows now, and had 54"):
        lorakit.combine([run, other], method="regmean", rows=4)
    lorakit.combine([run, other])  # which looks at no rows
    write_rows(own.file, ROWS)
    assert lorakit.evaluate(run).rows == before


def test_swapped_labels_are_refused(own):
    run = own.train()
    swap = {"happy": "plain", "plain": "happy"}
    write_rows(own.file, [row | {"label": swap[row["label"]]} for row in ROWS])
    with pytest.raises(DataError, match="has changed since"):
        lorakit.evaluate(run)


def test_a_column_that_is_not_used_may_change(own):
    run = own.train()
    before = lorakit.evaluate(run).scores
    write_rows(own.file, [row | {"number": 0} for row in ROWS])
    assert lorakit.evaluate(run).scores == before


def test_resume_goes_on_with_the_same_rows_alone(own, bench, tmp_path):
    with pytest.raises(Interrupted):
        bench.train(*own.settings("training.max_steps=4"), hooks=[StopAt(2)], run_dir=tmp_path / "run")
    write_rows(own.file, [*ROWS[:-1], ROWS[-1] | {"sentence": "another one"}])
    with pytest.raises(DataError, match="has changed since"):
        own.train("training.max_steps=4", resume=True)
    write_rows(own.file, ROWS)
    own.train("training.max_steps=4", resume=True)


def test_other_base_weights_are_refused(own, bench, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bench.backbone(), base)
    run = own.train(f"model.name={base}")
    tensors = load_file(base / "model.safetensors")
    name = sorted(tensors)[0]
    (tmp_path / "new").mkdir()
    save_file({**tensors, name: tensors[name] + 1}, tmp_path / "new" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "new" / "model.safetensors").replace(base / "model.safetensors")
    for use in (lorakit.evaluate, lorakit.load, lorakit.merge, lorakit.export):
        with pytest.raises(RunError, match=r"was trained on other weights: model\.safetensors"):
            use(run)


def test_rows_that_another_run_trained_on_are_told_by_combine_and_start(own, caplog):
    first, leaky = own.train(), own.train("task.split_seed=1", name="leaky")
    shared = np.intersect1d(held(first), read_provenance(leaky).trained)
    own_rows = read_provenance(first).own
    expected = len(np.setdiff1d(shared, own_rows))
    assert expected
    both = lorakit.combine([first, leaky])
    assert both.seen == read_json(both.out / "summary.json")["seen"] == expected
    assert f"trained on {expected} of the {len(held(first))} texts that are held out" in caplog.text
    caplog.clear()
    lorakit.evaluate(both.out)
    assert "trained on" in caplog.text
    caplog.clear()
    started = own.train(f"adapter.start={leaky}", name="started")
    assert read_json(started / "summary.json")["seen"] == expected
    assert f"adapter.start {leaky}: its weights were trained on {expected} of" in caplog.text
    further = own.train(f"adapter.start={started}", name="further")  # what was seen is handed on
    assert read_json(further / "summary.json")["seen"] == expected


def test_runs_of_one_split_have_nothing_to_tell(own, caplog):
    first, second = own.train(), own.train("run.seed=1", name="second")
    assert lorakit.combine([first, second]).seen == 0
    own.train(f"adapter.start={first}", name="started")
    assert "held out" not in caplog.text


def test_a_run_of_an_older_version_scores_the_rows_it_held_out(own, bench, tmp_path):
    run = own.train("run.seed=3", "task.split_seed=null")
    new = lorakit.evaluate(run)
    edit(run / "recipe.yaml", "  split_seed: null\n", "")
    for name in ("data.json", "data_rows.safetensors", "proof_rows.jsonl"):
        (run / name).unlink()
    assert load_recipe(run).recipe.task.split_seed is None
    assert lorakit.evaluate(run).scores == new.scores
    assert lorakit.merge(run).rows == 6
    edit(own.file, "happy", "merry")
    with pytest.raises(DataError, match="its labels are merry, plain now"):
        lorakit.evaluate(run)


@pytest.mark.parametrize("file", ["data.json", "data_rows.safetensors", "proof_rows.jsonl"])
def test_a_damaged_record_is_one_error(own, file):
    run = own.train()
    (run / file).write_text(json.dumps([{"text": 1}]) + "\n")
    with pytest.raises(RunError):
        lorakit.merge(run)
