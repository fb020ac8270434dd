"""What each method does with what was learnt before: rows gone over again, LoRAs side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import StopAt, records

import lorakit
from lorakit.artifacts.memory_file import read_memory
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, RecipeError, RunError
from lorakit.training.checkpoint import kept_state
from lorakit.workflow.restore import restore_run
from lorakit.workflow.sequences.memory import choose, draw_keys
from lorakit.workflow.sequences.score_sequence import OneBackbone, choices, open_task

TWO = ("mood", "size")


@pytest.fixture(scope="module")
def beside(sequences):
    """O-LoRA over three tasks, with a lambda that leaves A nothing else."""
    recipe = sequences.recipe("o_lora")
    return sequences.learn(recipe, "continual.orthogonality=100", "adapter.alpha=4", "training.epochs=2", scored=False)


def factors(run: Path) -> dict[str, torch.Tensor]:
    adapted = restore_run(run, None, with_data=False).adapted
    return {name: tensor for name, tensor in adapted.tensors().items() if name not in adapted.new_parts}


def test_loras_lie_side_by_side_and_the_earlier_ones_stay(beside):
    first, second, third = map(factors, beside.runs)
    for name in first:
        axis = 0 if name.endswith(".A") else 1
        assert torch.equal(second[name].narrow(axis, 0, 2), first[name])
        assert torch.equal(third[name].narrow(axis, 0, 4), second[name])
        assert third[name].shape[axis] == 6
    adapted = [restore_run(run, None, with_data=False).adapted for run in beside.runs]
    assert {adapter.scale for each in adapted for adapter in each.adapters.values()} == {4 / 2}
    moved = [not torch.equal(third[name].narrow(1, 4, 2), torch.zeros(32, 2)) for name in first if name.endswith(".B")]
    assert all(moved)


def test_the_sum_of_the_updates_is_exact(beside):
    """W + s (B1 A1 + B2 A2 + B3 A3), each task's own factors, by hand."""
    adapted = restore_run(beside.runs[2], None, with_data=False).adapted
    name, adapter = next(iter(adapted.adapters.items()))
    weight = adapter.base_weight()
    update = torch.zeros_like(weight)
    for number, run in enumerate(beside.runs):
        own = factors(run)
        update += 2 * own[f"{name}.B"][:, 2 * number :] @ own[f"{name}.A"][2 * number :]
    torch.testing.assert_close(adapter.effective_weight(weight) - weight, update, rtol=1e-4, atol=1e-6)


def test_a_large_lambda_makes_a_orthogonal_to_the_earlier_ones(beside):
    """Against what random rows of these norms would have: their product of norms over the root of the width."""
    found, random = 0.0, 0.0
    for name, a in factors(beside.runs[2]).items():
        if name.endswith(".A"):
            found += (a[:4] @ a[4:].T).abs().sum()
            random += np.sqrt(2 / np.pi / a.shape[1]) * (a[:4].norm(dim=1).outer(a[4:].norm(dim=1))).sum()
    assert found < 0.5 * random


def test_a_task_goes_over_the_rows_of_those_before_it(sequences, tmp_path):
    recipe = sequences.recipe("replay", TWO)
    settings = ("continual.memory=6", "continual.memory_by=class")
    whole = sequences.learn(recipe, *settings, scored=False)
    memory = read_memory(whole.run_dir / "memory" / "2-size.jsonl")
    assert Counter(row["label"] for row in memory["1-mood"]) == {0: 3, 1: 3}
    labels = {(row["text"], row["label"]) for row in memory["1-mood"]}
    data = restore_run(whole.runs[0], None).parts.data.splits["train"]
    assert labels <= set(zip(data["text"], data["label"], strict=True))
    assert lorakit.load_recipe(whole.runs[1]).recipe.adapter.updates == ["replay"]
    begun = sequences.begun(whole.run_dir, tmp_path / "all")
    with pytest.raises(Interrupted):
        sequences.learn(begun, resume=True, hooks=[StopAt(2)])
    file = begun / "memory" / "2-size.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    with pytest.raises(RunError, match=r"2-size\.jsonl: holds other rows than the task was begun with"):
        sequences.learn(begun, resume=True)
    file.write_text("".join(lines))
    again = sequences.learn(begun, resume=True, scored=False)
    ours, theirs = records(again.runs[1]), records(whole.runs[1])
    assert ours.keys() == theirs.keys()
    assert ours == theirs


def test_a_reservoir_keeps_every_row_equally_often():
    labels = [np.zeros(10, np.int64), np.ones(30, np.int64)]
    kept = Counter(
        place
        for seed in range(400)
        for place in choose([draw_keys(10, seed, "1-a"), draw_keys(30, seed, "2-b")], labels, 8, "reservoir")
    )
    assert sum(kept.values()) == 400 * 8
    share = np.array([kept[task, row] for task, rows in ((0, 10), (1, 30)) for row in range(rows)]) / 400
    assert np.abs(share - 8 / 40).max() < 5 * np.sqrt(0.2 * 0.8 / 400)


def test_a_memory_by_class_keeps_as_many_of_each():
    labels = [np.array([0] * 9 + [1]), np.array([0, 1, 2] * 5)]
    kept = choose([draw_keys(10, 0, "1-a"), draw_keys(15, 0, "2-b")], labels, 11, "class")
    assert Counter((task, int(labels[task][row])) for task, row in kept) == {
        (0, 0): 2,
        (0, 1): 1,
        (1, 0): 2,
        (1, 1): 2,
        (1, 2): 2,
    }


@pytest.mark.parametrize(
    ("method", "setting", "said"),
    [
        ("replay", "continual.memory=1 continual.memory_by=class", "less than one of each of the 2 classes"),
        ("replay", "training.precision=fp16", "without the scaled loss that float16 needs"),
        ("replay", "model.readout=auto", "the heads of all tasks read the same"),
        ("replay", "continual.orthogonality=1", "is for method o_lora, and this one is replay"),
        ("o_lora", "adapter.method=dora", "a magnitude in common would scale them"),
        ("o_lora", "adapter.init=pissa", "adds rank units that change nothing at first"),
        ("o_lora", "adapter.method=vera", "keeps what it needs in delta 'low_rank'"),
        ("o_lora", "training.average=0.2", "a mean over steps would undo that"),
        ("o_lora", "adapter.rank=17", "times 2 LoRAs with continual.method=o_lora: adapter.rank: rank 34 does not fit"),
        ("o_lora", "adapter.updates=[replay]", "a recipe of one task has none"),
        ("am_lora", "adapter.method=vera", "'vera' is more than B A: with continual.method=am_lora"),
        ("am_lora", "adapter.method=dora", "'dora' is more than B A"),
        ("am_lora", "adapter.method=lora_fa", r"of 'lora_fa' B\+magnitude alone trains"),
        ("am_lora", "adapter.updates=[am_lora]", "has 'am_lora', which comes by itself"),
        ("am_lora", "continual.loras=2", "is for method online_lora, and this one is am_lora"),
        ("online_lora", "adapter.shortcut_rank=2", "ranks are those of several LoRAs"),
        ("online_lora", "model.readout=auto", "the heads of all tasks read the same"),
    ],
)
def test_what_a_method_does_not_go_with_is_refused(sequences, method, setting, said):
    with pytest.raises(RecipeError, match=said):
        lorakit.plan_sequence(sequences.recipe(method, TWO), setting.split())


@pytest.mark.slow
def test_the_frozen_features_choose_who_answers(sequences):
    """Of tasks without a label in common: right is who was chosen rightly, and is right then."""
    settings = ("continual.prototypes=2", "training.select=best", "evaluation.every_steps=1")
    result = sequences.learn(sequences.recipe("color", TWO), *settings)
    assert result.final == result.runs
    tasks = [open_task(Run(run)) for run in result.runs]
    chosen = choices(tasks, 2, OneBackbone(tasks))
    assert [len(each) for each in chosen] == [1, 2]
    for place, task in enumerate(tasks):
        texts = task.data.splits["validation"]["text"]
        labels = [task.data.task.labels[label] for label in task.data.splits["validation"]["label"]]
        answers = [answer.label for answer in lorakit.load(result.runs[place]).predict(list(texts))]
        right = np.array(answers) == np.array(labels)
        assert result.scores.known.matrix[1][place] == right.mean()
        assert result.scores.unknown.matrix[1][place] == np.mean(right & (chosen[1][place] == place))


def test_an_attention_weighs_what_each_task_learnt(sequences):
    weighed = sequences.learn(sequences.recipe("am_lora", TWO))
    sites, heads = (
        4 * 2 * (2 * (32 + 32) + 32),
        2 * (32 * 2 + 2),
    )  # on each of four sites two LoRAs of rank 2, a row for each
    assert weighed.scores.parameters == sites + heads
    for place, run in enumerate(weighed.runs):
        assert weighed.scores.known.matrix[place][place] == Run(run).summary()["last"]["accuracy"]
    first, second = map(factors, weighed.runs)
    for name in first:
        axis = 1 if name.endswith(".B") else 0
        assert second[name].shape[axis] == 2 * first[name].shape[axis]
        earlier = second[name].narrow(axis, 0, first[name].shape[axis])
        assert torch.equal(earlier, first[name]) != name.endswith(".R")
    final = [restore_run(run, None, with_data=False).adapted for run in weighed.final]
    assert {adapter.scale for each in final for adapter in each.adapters.values()} == {16 / 2}
    with pytest.raises(RunError, match="its LoRAs are weighed anew for every token"):
        lorakit.merge(weighed.final[0])


def test_a_stream_goes_on_over_tasks_and_through_a_kill(sequences, tmp_path):
    """Two of three LoRAs are used up by the first task; which rows are hard goes on into the second, and so does what is important."""
    recipe = sequences.recipe("online_lora", TWO)
    settings = ("continual.loras=3", "continual.window=2", "continual.loss_variance=9", "continual.hard_rows=2")
    whole = sequences.learn(recipe, *settings, scored=False)
    (first, omega), (second, _) = (kept_state(Run(run), "online_lora") for run in whole.runs)
    assert (first["active"], first["number"]) == (1, 1)
    assert {row["run"] for row in first["hard"]} == {0}
    assert {row["run"] for row in second["hard"]} <= {0, 1}
    assert second["number"] >= 1
    assert any(tensor.any() for tensor in omega.values())
    before, after = map(factors, whole.runs)
    for name in before:
        axis = 1 if name.endswith(".B") else 0
        assert torch.equal(before[name].narrow(axis, 0, 2), after[name].narrow(axis, 0, 2))
        assert not torch.equal(before[name].narrow(axis, 2, 2), after[name].narrow(axis, 2, 2))
    adapted = restore_run(whole.runs[1], None, with_data=False).adapted
    assert {(adapter.scale, adapter.rank) for adapter in adapted.adapters.values()} == {(16 / 2, 6)}
    begun = sequences.begun(whole.run_dir, tmp_path / "all")
    with pytest.raises(Interrupted):
        sequences.learn(begun, resume=True, hooks=[StopAt(2)])
    again = sequences.learn(begun.rename(tmp_path / "moved"), resume=True, scored=False)
    assert records(again.runs[1]) == records(whole.runs[1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["separate", "color", "sequential", "replay", "o_lora", "am_lora"])
def test_a_folder_that_moved_after_a_kill_goes_on_as_if_nothing_had_been(sequences, tmp_path, method):
    whole = sequences.learn(sequences.recipe(method, TWO), run_dir=tmp_path / "whole", scored=False)
    begun = sequences.begun(whole.run_dir, tmp_path / "begun")
    with pytest.raises(Interrupted):
        sequences.learn(begun, resume=True, hooks=[StopAt(2)])
    again = sequences.learn(begun.rename(tmp_path / "moved"), resume=True, scored=False)
    assert records(again.runs[1]) == records(whole.runs[1])
