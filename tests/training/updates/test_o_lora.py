"""O-LoRA's penalty against the formula, and what stays."""

import pytest
import torch
from support.runs import Bench

from lorakit.errors import RecipeError
from lorakit.workflow.restore import restore_run


def test_the_penalty_is_the_papers(bench: Bench, tmp_path):
    """lambda times the sum of |a_i a_j|, whose slope in a_j is lambda sign(a_i a_j) a_i."""
    options = "adapter.update_options={earlier: 3, orthogonality: 0.25}"
    training = bench.prepare(tmp_path, "adapter.updates=[o_lora]", options, "adapter.dropout=0")
    (batch,) = training.loader.sample(1, generator=torch.Generator().manual_seed(0))
    plain = training.objective.summed(training.model, batch)
    found = (training.loss(training.model, batch) - plain) / len(batch["labels"])
    factors = [adapter.delta.A for adapter in training.adapted.adapters.values()]
    expected = sum((a[i] @ a[3]).abs().item() for a in factors for i in range(3))
    assert found.item() == pytest.approx(0.25 * expected, rel=1e-3)
    found.backward()
    for a in factors:
        slope = 0.25 * torch.sign(a[:3] @ a[3]) @ a[:3]
        torch.testing.assert_close(a.grad[3], slope.detach(), rtol=1e-3, atol=1e-5)
        assert not a.grad[:3].any()


def test_the_earlier_units_stay_to_the_bit(bench: Bench, tmp_path):
    settings = ("adapter.updates=[o_lora]", "adapter.update_options={earlier: 3}", "training.weight_decay=0.5")
    begun = bench.prepare(tmp_path, *settings).adapted
    ended = restore_run(bench.train(*settings).run_dir, None, with_data=False).adapted
    for name, adapter in ended.adapters.items():
        before = begun.adapters[name].delta
        assert torch.equal(adapter.delta.A[:3], before.A[:3])
        assert torch.equal(adapter.delta.B[:, :3], before.B[:, :3])
        assert not torch.equal(adapter.delta.A[3:], before.A[3:])


def test_some_unit_must_be_left(bench: Bench, tmp_path):
    with pytest.raises(RecipeError, match="keeps 4 rank units, and a site has 4"):
        bench.prepare(tmp_path, "adapter.updates=[o_lora]", "adapter.update_options={earlier: 4}")
