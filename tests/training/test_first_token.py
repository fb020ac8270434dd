"""Tokens that the head does not read are left out of training steps: every method's gradients are as with all tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.runs import Bench, settings_of, trained_alone
from support.thinned import thinned
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.method import methods
from lorakit.backbone.first_token import first_token
from lorakit.training.training import Training
from lorakit.training.update import updates


@pytest.mark.parametrize("name", thinned(trained_alone(), 6))
def test_gradients_are_those_of_all_tokens(bench: Bench, name: str, tmp_path: Path):
    settings = (f"adapter.method={name}", "adapter.dropout=0", *settings_of(name))
    training = bench.prepare(tmp_path, *settings)
    hooks = leaving_out(training)
    if not hooks:  # blocks, deltas that look at whole rows, and updates that look inside
        method = methods.get(name)
        inside = any(updates.get(update).sees_tokens for update in method.updates)
        assert method.block or inside or deltas.get(method.delta).pools_rows
        return
    compare(training)


def test_so_are_those_of_sites_that_are_watched_while_they_are_off(bench: Bench, tmp_path: Path):
    """What streaming scores are made of."""
    settings = ("search.method=heterolora", "search.scoring=streaming", "adapter.targets=[all]", "adapter.dropout=0")
    training = bench.prepare(tmp_path, *settings)
    training.adapted.switch(list(training.adapted.adapters)[::3])
    training.adapted.watch(True)
    assert leaving_out(training)
    assert len(compare(training)) > len(training.adapted.adapters)


def compare(training: Training) -> dict[str, torch.Tensor]:
    """The gradients, the same with and without the tokens."""
    for module in training.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fewer = gradients(training)
    for module, key in leaving_out(training):
        del module._forward_pre_hooks[key]
    every = gradients(training)
    assert fewer.keys() == every.keys()
    assert every
    for tensor, gradient in every.items():
        assert_close(fewer[tensor], gradient, rtol=1e-4, atol=1e-6, msg=tensor)
    return every


def leaving_out(training: Training) -> list[tuple[nn.Module, int]]:
    """The hooks that leave tokens out, and where they are."""
    return [
        (module, key)
        for module in training.model.modules()
        for key, hook in module._forward_pre_hooks.items()
        if hook is first_token
    ]


def gradients(training: Training) -> dict[str, torch.Tensor]:
    """Of all that trains, after one batch from the same draws."""
    torch.manual_seed(0)
    training.optimizer.zero_grad()
    (step_batch, *_) = training.loader.step_batches(0)
    training.loss(training.model.train(), step_batch.batches[0]).backward()
    return {name: p.grad.clone() for name, p in training.model.named_parameters() if p.grad is not None}
