"""AM-LoRA's penalty against the formula, and what stays."""

import pytest
import torch
from support.runs import Bench

from lorakit.errors import RecipeError
from lorakit.workflow.restore import restore_run

TWO = ("adapter.updates=[am_lora]", "adapter.delta=attended", "adapter.options={each: 2}")
KEPT = "adapter.update_options={earlier: 1, sparsity: 0.25}"


def test_the_penalty_is_the_l1_norm(bench: Bench, tmp_path):
    training = bench.prepare(tmp_path, *TWO, KEPT, "adapter.dropout=0")
    (batch,) = training.loader.sample(1, generator=torch.Generator().manual_seed(0))
    plain = training.objective.summed(training.model, batch)
    found = (training.loss(training.model, batch) - plain) / len(batch["labels"])
    rows = [adapter.delta.R for adapter in training.adapted.adapters.values()]
    assert {row.shape for row in rows} == {(2, 32)}
    expected = 0.25 * sum(abs(value) for row in rows for value in row.flatten().tolist())
    assert found.item() == pytest.approx(expected, rel=1e-3)
    found.backward()
    for row in rows:
        torch.testing.assert_close(row.grad, 0.25 * row.detach().sign(), rtol=1e-3, atol=1e-5)


def test_the_earlier_loras_stay_to_the_bit_and_the_attention_learns(bench: Bench, tmp_path):
    settings = (*TWO, KEPT, "training.weight_decay=0.5")
    begun = bench.prepare(tmp_path, *settings).adapted
    ended = restore_run(bench.train(*settings).run_dir, None, with_data=False).adapted
    for name, adapter in ended.adapters.items():
        before = begun.adapters[name].delta
        assert torch.equal(adapter.delta.A[:2], before.A[:2])
        assert torch.equal(adapter.delta.B[:, :2], before.B[:, :2])
        assert not torch.equal(adapter.delta.A[2:], before.A[2:])
        assert not torch.equal(adapter.delta.R, before.R)


def test_what_it_cannot_hold_for_is_refused(bench: Bench, tmp_path):
    with pytest.raises(RecipeError, match="keeps 2 LoRAs, and a site has 2"):
        bench.prepare(tmp_path, *TWO, "adapter.update_options={earlier: 2}")
    for more, said in (
        ("adapter.delta=low_rank", "in delta 'attended', and these adapters are made of 'low_rank'"),
        ("adapter.trainable=A+B", "'A\\+B' alone trains"),
        ("search.method=heterolora", "a search takes sites out"),
    ):
        with pytest.raises(RecipeError, match=said):
            bench.prepare(tmp_path, *TWO[:2], more)
