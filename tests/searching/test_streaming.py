"""Scores from training steps: the same numbers as passes of their own where both see the same, and by hand where they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.adapters.cases import evaluated
from support.search.scene import Scene, loss, train
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.searching.allocators.heterolora import HeteroLoRA
from lorakit.searching.scoring import without_trace
from lorakit.searching.streaming import Streaming

Make = Callable[..., Scene]
WINDOW = 2


@pytest.fixture
def scene(make: Make) -> Scene:
    """BERT's two layers with every projection and shortcuts."""
    return make("bert", shortcuts=["res1", "res2", "mid", "in", "cut"])


def one_step(scene: Scene, allocator: Any, step: int, batches: list[Any]) -> None:
    """What the loop does up to the gradients, over one window of batches; the weights stay."""
    allocator.before_forward(step)
    for batch in batches:
        (loss(scene.adapted.model, batch) / len(batches)).backward()
    allocator.after_backward(step)


def streamed(scene: Scene, batches: list[Any], accumulate: int = 1) -> dict[str, dict[str, torch.Tensor]]:
    """The gradients of ``batches``, gathered in training steps."""
    windows = [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]
    streaming = Streaming(scene.adapted, ticks=[0, len(windows)], window=len(windows))
    for step, window in enumerate(windows):
        one_step(scene, streaming, step, window)
        scene.adapted.model.zero_grad(set_to_none=True)
    found = streaming.take()
    assert found is not None
    return {site: dict(tensors) for site, tensors in found.items()}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt_postnorm"])
@pytest.mark.parametrize("proxy", ["gradnorm", "snip"])
def test_both_ways_agree_on_the_same_batches_and_state(make: Make, family: str, proxy: str) -> None:
    """Nothing that is off has been trained, so that a model with all sites on computes the same."""
    scene = make(family, shortcuts=["res1", "res2"])
    scene.adapted.model.eval()
    on = list(scene.adapted.adapters)[::3]
    scene.adapted.switch(on)
    train(scene, 1)
    batches = scene.batches(3)
    expected = scene.scores(proxy, scene.probe(batches))
    allocator = scene.allocator(proxy=proxy, scoring="streaming", batches=3)
    found = allocator.proxy.of_gradients(scene.adapted, streamed(scene, batches), allocator.context.search)
    assert list(found) == list(expected)
    for site, score in expected.items():
        assert found[site] == pytest.approx(score, rel=1e-4, abs=1e-7), site


def test_accumulated_batches_count_as_their_mean(scene: Scene) -> None:
    scene.adapted.model.eval()
    scene.adapted.switch(list(scene.adapted.adapters)[::2])
    batches = scene.batches(4)
    singly, together = streamed(scene, batches), streamed(scene, batches, accumulate=2)
    for site, tensors in singly.items():
        for name, gradient in tensors.items():
            assert_close(together[site][name], gradient / 2, rtol=1e-4, atol=1e-6)


def test_a_trained_site_that_is_off_is_scored_outside_the_function(scene: Scene) -> None:
    """dB = s g^T (A x) and dA = s (g B)^T x, with the layer's own x and g."""
    adapted = scene.adapted
    train(scene, 2)
    off = next(name for name, a in adapted.adapters.items() if not a.site.is_shortcut and a.site.layer == 1)
    adapted.switch([name for name in adapted.adapters if name != off])
    adapted.model.eval()
    adapter, batch = adapted.adapters[off], scene.batches(1)[0]
    seen: dict[str, torch.Tensor] = {}
    handles = [
        adapter.base.register_forward_hook(lambda module, args, output: seen.update(x=args[0].detach())),
        adapter.base.register_full_backward_hook(lambda module, into, out: seen.update(g=out[0])),
    ]
    loss(adapted.model, batch).backward()
    for handle in handles:
        handle.remove()
    x, g = seen["x"].flatten(0, -2), seen["g"].flatten(0, -2)
    a, b = adapter.delta.A.detach(), adapter.delta.B.detach()
    adapted.model.zero_grad(set_to_none=True)
    found = streamed(scene, [batch])[off]
    assert b.any()
    assert_close(found["B"], adapter.scale * g.T @ (x @ a.T), rtol=1e-4, atol=1e-6)
    assert_close(found["A"], adapter.scale * (g @ b).T @ x, rtol=1e-4, atol=1e-6)


def test_watching_changes_no_step(make: Make) -> None:
    """The weights after a few steps are the same bytes, watched or not; what is off neither moves nor has moments."""
    after = {}
    for watched in (True, False):
        scene = make("bert", shortcuts=["res1", "in"])
        scene.adapted.model.eval()
        scene.adapted.switch(list(scene.adapted.adapters)[::2])
        optimizer = torch.optim.AdamW([tensor.parameter for tensor in scene.adapted.trained()], lr=1e-2)
        streaming = Streaming(scene.adapted, ticks=[4] if watched else [], window=4)
        for step, batch in enumerate(scene.batches(4)):
            one_step(scene, streaming, step, [batch])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        off = [t.parameter for t in scene.adapted.trained() if t.site and t.site not in scene.adapted.on]
        assert not any(parameter in optimizer.state for parameter in off)
        after[watched] = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    assert all(torch.equal(after[True][name], tensor) for name, tensor in after[False].items())


def test_only_the_steps_before_a_tick_are_watched(scene: Scene) -> None:
    streaming = Streaming(scene.adapted, ticks=[0, 5, 6, 12], window=3)
    assert streaming.steps == {2, 3, 4, 5, 9, 10, 11}
    scene.adapted.switch([])
    for step in (1, 2):
        streaming.before_forward(step)
        assert ("watched" in scene.adapted.states().values()) == (step == 2)
        streaming.after_backward(step)
        assert set(scene.adapted.states().values()) == {"dropped"}


def test_frozen_sites_are_scored_in_the_function_and_stay(scene: Scene) -> None:
    train(scene, 1)
    scene.adapted.switch(list(scene.adapted.adapters)[::2], off="freeze")
    states, batch = scene.adapted.states(), scene.batches(1)[0]
    before = evaluated(scene.adapted.model, batch)
    scene.adapted.model.eval()
    found = streamed(scene, [batch])
    assert scene.adapted.states() == states
    assert torch.equal(evaluated(scene.adapted.model, batch), before)
    with without_trace(scene.adapted, train_mode=False, seed=0):
        expected = scene.probe([batch]).gradients()
    for site, tensors in expected.items():
        for name, gradient in tensors.items():
            assert_close(found[site][name], gradient, rtol=1e-4, atol=1e-6)


def test_the_sums_of_half_a_window_go_on_after_a_restart(scene: Scene) -> None:
    batches = scene.batches(2)
    whole = streamed(scene, batches)
    first, second = (Streaming(scene.adapted, ticks=[2], window=2) for _ in range(2))
    one_step(scene, first, 0, [batches[0]])
    scene.adapted.model.zero_grad(set_to_none=True)
    second.load_state_dict(first.state_dict())
    one_step(scene, second, 1, [batches[1]])
    scene.adapted.model.zero_grad(set_to_none=True)
    found = second.take()
    assert found is not None
    assert all(torch.equal(found[site][name], g) for site, tensors in whole.items() for name, g in tensors.items())
    assert second.take() is None


def test_the_first_tick_makes_passes_of_its_own(scene: Scene) -> None:
    one, other = scene.allocator(scoring="streaming", batches=2), scene.allocator(scoring="separate", batches=2)
    assert one.score() == other.score()


@pytest.mark.parametrize("proxy", ["synflow", "alpha"])
def test_a_proxy_that_needs_passes_of_its_own_is_refused(scene: Scene, proxy: str) -> None:
    with pytest.raises(
        RecipeError, match=r"passes of its own[\s\S]*separate, or one of the proxies constant, gradnorm, snip"
    ):
        scene.allocator(proxy=proxy, scoring="streaming")


def test_scores_per_parameter_role_smoothed_and_with_an_edge(scene: Scene) -> None:
    names = list(scene.adapted.adapters)
    scores = {name: float(place + 1) for place, name in enumerate(names)}
    costs = scene.allocator().context.costs

    def weighed(**options: str) -> dict[str, float]:
        allocator: HeteroLoRA = scene.allocator(options=options)
        return allocator.weighed(scores)

    assert weighed() == scores
    assert weighed(per="parameter") == {name: score / costs[name] for name, score in scores.items()}
    by_role = weighed(per="role")
    for role in {site.role for site in scene.adapted.sites}:
        own = [by_role[site.name] for site in scene.adapted.sites if site.role == role]
        assert sum(own) / len(own) == pytest.approx(1)
    allocator: HeteroLoRA = scene.allocator(options={"smooth": "0.75", "inertia": "0.5"})
    allocator.weighed(dict.fromkeys(names, 4.0))
    scene.adapted.switch(names[:1])
    allocator.ticks = 1
    second = allocator.weighed(dict.fromkeys(names, 8.0))
    assert second[names[0]] == (0.75 * 4 + 0.25 * 8) * 1.5
    assert second[names[1]] == 0.75 * 4 + 0.25 * 8
