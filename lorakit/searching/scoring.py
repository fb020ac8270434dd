"""Scoring sites without leaving a trace: the model, its gradients, its modes and every random stream are as before."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.gradient_checkpointing import recompute_in_eval_mode
from lorakit.adapters.switching import ON


@contextmanager
def streams_kept(devices: Sequence[torch.device] | None = None) -> Iterator[None]:
    """Whatever is drawn meanwhile, the random streams of torch (on ``devices`` too, None: on all), numpy and Python are as before."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def without_trace(adapted: AdaptedModel, *, train_mode: bool, seed: int, all_on: bool = True) -> Iterator[None]:
    """Every site on, dropout as asked, torch's randomness from ``seed``; afterwards everything is as it was, gradients included.

    With ``all_on=False`` every site is on or off as it was.
    """
    model = adapted.model
    states = adapted.states()
    modes = {module: module.training for module in model.modules()}
    pending = {parameter: parameter.grad for parameter in model.parameters() if parameter.grad is not None}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    devices = [parameter.device for parameter in model.parameters() if parameter.is_cuda][:1]
    try:
        with streams_kept(devices):
            torch.manual_seed(seed)
            for parameter in pending:
                parameter.grad = None
            if all_on:
                adapted.restore(dict.fromkeys(states, ON))
            model.train(train_mode)
            recompute_in_eval_mode(model)
            yield
    finally:
        adapted.restore(states)
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)
        for parameter in model.parameters():
            parameter.grad = pending.get(parameter)
        for module, training in modes.items():
            module.training = training
