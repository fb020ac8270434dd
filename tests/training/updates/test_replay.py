"""What a memory adds to a step: the gradient of the earlier task's own model on its rows."""

from __future__ import annotations

import pytest
import torch
from support.runs import Bench
from support.sequences import Sequences
from torch.nn import functional as F

import lorakit
from lorakit.artifacts.memory_file import read_memory
from lorakit.artifacts.run import Run
from lorakit.errors import RecipeError, RunError
from lorakit.training.hooks import TrainState
from lorakit.workflow.prepare import prepare
from lorakit.workflow.restore import restore_run
from lorakit.workflow.setup import assemble

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def learnt(bench: Bench, tmp_path_factory):
    made = Sequences(bench, tmp_path_factory.mktemp("replay"))
    model = bench.backbone("bert", **WITHOUT_DROPOUT)
    settings = (f"model.name={model}", "adapter.dropout=0", "continual.memory=8")
    return made.learn(made.recipe("replay", ("mood", "size")), *settings, scored=False)


def test_the_gradient_is_that_of_the_earlier_model(learnt, tmp_path):
    """Where the second task begins its adapter is the first one's: the whole memory is a batch, and nothing is dropped."""
    memory = learnt.run_dir / "memory" / "2-size.jsonl"
    loaded = lorakit.load_recipe(learnt.runs[1], [f"adapter.update_options={{memory: {memory}, weight: 0.5}}"])
    training = prepare(loaded, assemble(loaded), Run(tmp_path / "again"))
    (update,) = [hook for hook in training.hooks if hook.name == "replay"]
    first = restore_run(learnt.runs[0], None)
    rows = read_memory(memory)["1-mood"]
    batch = first.parts.backbone.tokenizer(
        [row["text"] for row in rows], padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    loss = F.cross_entropy(first.adapted.model(**batch).logits, torch.tensor([row["label"] for row in rows]))
    loss.backward()
    theirs = {tensor.name: tensor.parameter for tensor in first.adapted.trained() if tensor.site}
    ours = {tensor.name: tensor.parameter for tensor in training.adapted.trained()}
    for parameter in ours.values():
        parameter.grad = torch.ones_like(parameter)
    update.after_backward(TrainState(total_steps=1, steps_per_epoch=1))
    for name, parameter in ours.items():
        added = 0.5 * theirs[name].grad if name in theirs else torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, 1 + added, rtol=1e-4, atol=1e-6)
    assert max(float(parameter.grad.abs().max()) for parameter in theirs.values()) > 1e-3


def test_a_recipe_of_one_task_has_no_memory(bench: Bench, learnt):
    with pytest.raises(RecipeError, match="a recipe of one task has none"):
        lorakit.plan(bench.load("adapter.updates=[replay]"))
    with pytest.raises(RunError, match=r"gone\.jsonl: is missing"):
        bench.prepare(learnt.run_dir, "adapter.updates=[replay]", "adapter.update_options={memory: gone.jsonl}")


def test_a_row_of_a_label_that_there_is_not_is_told_before_a_step(learnt, tmp_path):
    memory = learnt.run_dir / "memory" / "2-size.jsonl"
    other = memory.with_name("other.jsonl")
    other.write_text(memory.read_text().replace('"label": 1', '"label": 2'))
    loaded = lorakit.load_recipe(learnt.runs[1], [f"adapter.update_options={{memory: {other}}}"])
    with pytest.raises(RunError, match="a row of 1-mood has the label 2, and there are 2 labels, from 0"):
        prepare(loaded, assemble(loaded), Run(tmp_path / "again"))
