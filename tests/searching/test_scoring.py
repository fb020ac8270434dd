"""Scoring leaves no trace: everything that a training holds is as before, for every proxy, in both modes, also when it raises."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene, loss, train
from support.thinned import crossed, thinned
from torch import nn

from lorakit.searching.proxy import Probe, proxies
from lorakit.searching.scoring import without_trace

Make = Callable[..., Scene]
PROXIES = proxies.names()


@dataclass
class Midway:
    """A model in the middle of a training: sites on, frozen and dropped, moments, a pending gradient, modes all over the place."""

    scene: Scene
    optimizer: torch.optim.Optimizer
    pending: dict[str, torch.Tensor]


@pytest.fixture(params=["bert", "llama"])
def midway(request: pytest.FixtureRequest, make: Make) -> Midway:
    scene = make(request.param, targets=["q", "v"], shortcuts=["res1", "mid", "cut"], dropout=0.2)
    adapted = scene.adapted
    names = list(adapted.adapters)
    adapted.switch(names[:-1])  # the last stays untrained
    disturb_but_last(scene)
    optimizer = torch.optim.AdamW([tensor.parameter for tensor in adapted.trained()], lr=1e-3)
    train(scene, 2, optimizer)
    adapted.switch(names[::2], off="freeze")
    assert set(adapted.states().values()) == {"on", "frozen", "dropped"}
    loss(adapted.model, scene.batches()[0]).backward()  # accumulation has begun
    adapted.model.train()
    for module in list(adapted.model.modules())[::3]:
        module.training = False
    pending = {name: p.grad for name, p in adapted.model.named_parameters() if p.grad is not None}
    assert pending
    return Midway(scene, optimizer, pending)


def disturb_but_last(scene: Scene) -> None:
    *_, last = scene.adapted.adapters.values()
    disturb(scene.adapted)
    nn.init.zeros_(last.delta.B)


def snapshot(midway: Midway) -> dict[str, Any]:
    """All that could change, tensors as bytes, so that equal means bit for bit."""
    model = midway.scene.adapted.model
    numpy_state = np.random.get_state()
    return {
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "pending": {
            n: (id(p.grad), p.grad.numpy().tobytes()) for n, p in model.named_parameters() if p.grad is not None
        },
        "modes": {name: module.training for name, module in model.named_modules()},
        "forwards": {name: module.__dict__.get("forward") for name, module in model.named_modules()},
        "hooks": {name: hooks_of(module) for name, module in model.named_modules()},
        "sites": midway.scene.adapted.states(),
        "moments": repr(midway.optimizer.state_dict()),
        "moment bytes": [
            value.numpy().tobytes() for state in midway.optimizer.state.values() for value in state.values()
        ],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (numpy_state[1].tobytes(), *numpy_state[2:]),
        "python": random.getstate(),
        "autograd": torch.is_grad_enabled(),
    }


def hooks_of(module: nn.Module) -> list[str]:
    """The names of the functions hooked onto a module, in their order."""
    hooked = [*module._forward_pre_hooks.values(), *module._forward_hooks.values(), *module._backward_hooks.values()]
    return [getattr(hook, "func", hook).__name__ for hook in hooked]


def score(midway: Midway, proxy: str, *, train_mode: bool, seed: int = 3, **probe: Any) -> dict[str, float]:
    scene, known = midway.scene, proxies.get(proxy)
    settings = known.settings_from({"tolerance": "0.1"} if "tolerance" in known.options else {})
    with without_trace(scene.adapted, train_mode=train_mode, seed=seed):
        return known.score(replace(scene.probe(), settings=settings, **probe))


def restless(probe_loss: Callable[..., torch.Tensor], fail_at: int = -1) -> Callable[..., torch.Tensor]:
    """The same, but it draws from every stream, and fails at the call of that number."""
    calls: list[int] = []

    def called(model: nn.Module, batch: Any) -> torch.Tensor:
        result = probe_loss(model, batch)
        torch.rand(3), np.random.rand(3), random.random()
        calls.append(len(calls))
        if calls[-1] == fail_at:
            raise RuntimeError("out of luck")
        return result

    return called


@pytest.mark.parametrize(("proxy", "train_mode"), crossed(PROXIES, [False, True], turn=0))
def test_nothing_is_different_afterwards(midway: Midway, proxy: str, train_mode: bool) -> None:
    probe = midway.scene.probe()
    before = snapshot(midway)
    score(midway, proxy, train_mode=train_mode, loss=restless(probe.loss), logits=restless(probe.logits))
    after = snapshot(midway)
    for what, value in before.items():
        assert after[what] == value, what
    parameters = dict(midway.scene.adapted.model.named_parameters())
    assert all(parameters[name].grad is gradient for name, gradient in midway.pending.items())


@pytest.mark.parametrize("train_mode", [False, True])
@pytest.mark.parametrize(("proxy", "fail_at"), thinned([("gradnorm", 1), ("snip", 1), ("synflow", 0), ("alpha", 4)], 2))
def test_nor_when_the_proxy_raises(midway: Midway, proxy: str, fail_at: int, train_mode: bool) -> None:
    probe = midway.scene.probe()
    broken = {"loss": restless(probe.loss, fail_at), "logits": restless(probe.logits, fail_at)}
    before = snapshot(midway)
    with pytest.raises(RuntimeError, match="out of luck"):
        score(midway, proxy, train_mode=train_mode, **broken)
    after = snapshot(midway)
    for what, value in before.items():
        assert after[what] == value, what


def test_nor_whatever_a_proxy_does_to_what_it_was_given(midway: Midway) -> None:
    adapted = midway.scene.adapted
    before = snapshot(midway)
    with without_trace(adapted, train_mode=False, seed=0):
        adapted.switch([])
        adapted.model.train().requires_grad_(True)
        loss(adapted.model, midway.scene.batches()[0]).backward()
    after = snapshot(midway)
    for what, value in before.items():
        assert after[what] == value, what


def test_training_goes_on_as_if_nothing_had_been_scored(make: Make) -> None:
    """Two trainings with dropout, one of them scored in between with every proxy, end with the same bits."""
    ends = []
    for scored in (False, True):
        scene = make("bert", targets=["q", "v"], shortcuts=["res1"], dropout=0.2)
        optimizer = torch.optim.AdamW([tensor.parameter for tensor in scene.adapted.trained()], lr=1e-2)
        scene.adapted.model.train()
        torch.manual_seed(11)
        for step in range(3):
            if scored:
                for proxy in PROXIES:
                    score(Midway(scene, optimizer, {}), proxy, train_mode=bool(step % 2))
            train(scene, 1, optimizer)
        ends.append({name: tensor.clone() for name, tensor in scene.adapted.tensors().items()})
    assert all(torch.equal(ends[1][name], tensor) for name, tensor in ends[0].items())


@pytest.mark.parametrize("train_mode", [False, True])
def test_while_scoring_every_site_is_on_and_dropout_as_asked(midway: Midway, train_mode: bool) -> None:
    adapted = midway.scene.adapted
    with without_trace(adapted, train_mode=train_mode, seed=0):
        assert set(adapted.states().values()) == {"on"}
        assert {module.training for module in adapted.model.modules()} == {train_mode}
        assert all(parameter.grad is None for parameter in adapted.model.parameters())
        assert all(tensor.parameter.requires_grad for tensor in adapted.trained())


def test_only_dropout_makes_scores_depend_on_the_seed(midway: Midway) -> None:
    quiet = [score(midway, "gradnorm", train_mode=False, seed=seed) for seed in (1, 2)]
    noisy = [score(midway, "gradnorm", train_mode=True, seed=seed) for seed in (1, 2)]
    assert quiet[0] == quiet[1] != noisy[0] != noisy[1]
    torch.manual_seed(99)  # what the global stream holds is no matter
    assert score(midway, "gradnorm", train_mode=True, seed=1) == noisy[0]


def test_gradients_are_of_the_trained_tensors_alone_in_model_order(make: Make) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=["res1"], trainable="B")
    probe: Probe = scene.probe()
    table = probe.gradients()
    assert list(table) == [site.name for site in scene.adapted.sites]
    assert {tuple(tensors) for tensors in table.values()} == {("B",)}
    single = [probe.gradients([batch]) for batch in probe.batches]
    for site, tensors in table.items():
        torch.testing.assert_close(tensors["B"], sum(one[site]["B"] for one in single))
