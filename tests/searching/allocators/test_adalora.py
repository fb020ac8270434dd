"""AdaLoRA: its importances, scores, masks, loss and trainings against PEFT's, and by hand on other adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from peft.tuners.adalora.layer import RankAllocator
from support.adapters.cases import disturb
from support.search.scene import Scene
from support.search.unit_contract import STEPS, TICKS, summed, unit_contract
from support.thinned import thinned
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.searching.penalty import unlike_orthonormal

RANK, TARGET, ALPHA = 6, 2, 9.0
THEIRS = {"A": "lora_A", "B": "lora_B", "g": "lora_E"}
Make = Callable[..., Scene]

test_contract = unit_contract("adalora")


# -- next to PEFT ------------------------------------------------------------------------------------------------------


class Twins:
    """The same model with our adapter and allocator, and with PEFT's; all sites are 32 x 32, so that ranks are parameters."""

    def __init__(
        self,
        make: Make,
        *,
        total: int,
        first: int,
        last: int,
        every: int,
        orthogonality: float = 0.0,
        gates: float = 1.0,
    ):
        section = {"method": "adalora", "rank": RANK, "alpha": ALPHA}
        self.scene = make("bert", targets=["q", "k", "v", "o"], **section)
        adapted = self.scene.adapted
        config = peft.AdaLoraConfig(
            init_r=RANK,
            target_r=TARGET,
            tinit=first,
            tfinal=last,
            deltaT=every,
            total_step=total,
            lora_alpha=int(ALPHA),
            orth_reg_weight=orthogonality,
            target_modules=list(adapted.adapters),
        )
        model: Any = copy.deepcopy(self.scene.pretrained)
        self.peft: Any = peft.get_peft_model(model, config).base_model
        self.allocator = self.scene.allocator(
            method="adalora",
            total_steps=total,
            ticks=[step for step in range(total) if step % every == 0 and first <= step <= total - last],
            warmup=first / total,
            tail=last / total,
            uniform_rank=TARGET,
            options={"orthogonality": str(orthogonality)},
        )
        disturb(adapted)
        self.pairs = {
            f"{site}.{name}": (tensor, self.twin(site, name))
            for site, adapter in adapted.adapters.items()
            for name, tensor, _ in adapter.tensors()
        }
        with torch.no_grad():
            for adapter in adapted.adapters.values():
                adapter.delta.g.mul_(gates)
            for ours, theirs in self.pairs.values():
                theirs.copy_(ours.view_as(theirs))
            for name in adapted.new_parts:
                head = model.get_parameter(name)
                head.requires_grad_(True).copy_(adapted.model.get_parameter(name))

    def be_exact(self) -> None:
        """Double precision, and PEFT's scale without its 1e-5: what is left of a difference would be one of the method."""
        for model in (self.scene.adapted.model, self.peft):
            model.double()
        for averages in (self.allocator.importance, self.allocator.uncertainty):
            averages.update({name: average.double() for name, average in averages.items()})
        for site in self.scene.adapted.adapters:
            self.peft.model.get_submodule(site).ranknum["default"].data.sub_(1e-5)

    def twin(self, site: str, name: str) -> torch.nn.Parameter:
        parameter: torch.nn.Parameter = getattr(self.peft.model.get_submodule(site), THEIRS[name])["default"]
        return parameter

    def theirs(self, averages: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        site, _, letter = name.rpartition(".")
        return averages[f"{site}.{THEIRS[letter]}.default"].view_as(self.pairs[name][0])

    def their_masks(self) -> dict[str, list[bool]] | None:
        pattern = self.peft.peft_config["default"].rank_pattern
        return pattern and {name.removesuffix(".lora_E.default"): mask for name, mask in pattern.items()}

    def our_masks(self) -> dict[str, list[bool]]:
        return {name: adapter.units.mask.tolist() for name, adapter in self.scene.adapted.adapters.items()}


def their_unit_scores(peft_allocator: RankAllocator, site: str) -> torch.Tensor:
    """From PEFT's averages by PEFT's functions: ``mask_to_budget`` does not give its scores away."""
    parts = {letter: peft_allocator._element_score(f"{site}.{name}.default") for letter, name in THEIRS.items()}
    vectors = torch.stack([parts["A"].mean(dim=1), parts["B"].mean(dim=0)], dim=1)
    scores: torch.Tensor = peft_allocator._combine_ipt(parts["g"], vectors)
    return scores


@pytest.mark.parametrize(("every", "first", "last"), thinned([(1, 6, 10), (3, 6, 9), (1, 0, 1)], 3))
def test_identical_numbers_and_gradients_give_peft_s_averages_scores_and_masks(
    make: Make, every: int, first: int, last: int
) -> None:
    total = 40 if every == 1 else 42
    twins = Twins(make, total=total, first=first, last=last, every=every)
    allocator, peft_allocator = twins.allocator, twins.peft.rankallocator
    generator = torch.Generator().manual_seed(3)
    allocations = 0
    for step in range(1, total - last + 1):
        for ours, theirs in twins.pairs.values():
            for slot in ("data", "grad"):
                value = torch.randn(ours.shape, generator=generator) ** 3
                setattr(ours, slot, value)
                setattr(theirs, slot, value.clone().view_as(theirs))
        allocator.after_step(step)
        peft_allocator.update_ipt = watched(peft_allocator, twins)
        twins.peft.peft_config["default"].rank_pattern = None
        twins.peft.update_and_allocate(step)
        if step in allocator.context.ticks:
            allocator.tick(step, 0.0)
        allocated = twins.their_masks()
        assert (allocated is not None) == (step in allocator.context.ticks and step > first)
        if allocated is not None:
            assert allocated == twins.our_masks()
            allocations += 1
    assert allocations == len([tick for tick in allocator.context.ticks if tick > first])
    assert sum(map(sum, twins.our_masks().values())) == TARGET * len(twins.our_masks())
    assert len({sum(mask) for mask in twins.our_masks().values()}) > 1


def watched(peft_allocator: RankAllocator, twins: Twins) -> Callable[[Any], None]:
    """PEFT's ``update_ipt``, with a look at what it made before it is forgotten."""

    def update(model: Any) -> None:
        RankAllocator.update_ipt(peft_allocator, model)
        for name in twins.pairs:
            for ours, theirs in (
                (twins.allocator.importance, peft_allocator.exp_avg_ipt),
                (twins.allocator.uncertainty, peft_allocator.exp_avg_unc),
            ):
                assert_close(ours[name], twins.theirs(theirs, name), rtol=1e-5, atol=1e-6)
        for site, scores in twins.allocator.unit_scores().items():
            assert_close(scores, their_unit_scores(peft_allocator, site), rtol=1e-5, atol=1e-6)

    return update


def test_the_loss_and_its_gradients_are_peft_s_orthogonality_included(make: Make) -> None:
    """Up to PEFT's scale alpha / (rank + 1e-5)."""
    twins = Twins(make, total=10, first=1, last=1, every=1, orthogonality=0.3)
    batch = twins.scene.batches()[0]
    plain, objective = summed(twins.scene.adapted.model, batch), twins.allocator.around_loss(summed)
    ours = objective(twins.scene.adapted.model, batch) / len(batch["labels"])
    theirs = twins.peft(**batch).loss
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (ours - plain / len(batch["labels"])).item() > 0.1
    ours.backward()
    theirs.backward()
    for own, other in twins.pairs.values():
        assert other.grad is not None
        assert_close(own.grad, other.grad.view_as(own), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("lr", "tolerance"), thinned([(0.02, 1e-9), (0.4, 1e-3)], 2))
def test_a_training_is_peft_s_step_by_step(make: Make, lr: float, tolerance: float) -> None:
    """Plain gradient steps, a choice after each: the gates of closed units move and are shut again in both, and A and B stand still.

    At the lower rate no unit comes back. One that does begins at a gate of zero, where PEFT keeps the step that brought it back.
    """
    total, first, last = 30, 4, 8
    twins = Twins(make, total=total, first=first, last=last, every=1, gates=0.0)
    twins.be_exact()
    scene, allocator, batches = twins.scene, twins.allocator, twins.scene.batches(4)
    optimizers = [
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
        for model in (scene.adapted.model, twins.peft.model)
    ]
    reopened, before = 0, twins.our_masks()
    for step in range(total):
        if step in allocator.context.ticks:
            allocator.tick(step, 0.0)
            now = twins.our_masks()
            reopened += sum(n and not b for name in now for n, b in zip(now[name], before[name], strict=True))
            before = now
        ours, theirs = (
            summed(scene.adapted.model, batches[step % 4]) / len(batches[step % 4]["labels"]),
            twins.peft(**batches[step % 4]).loss,
        )
        assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        ours.backward()
        theirs.backward()
        for optimizer in optimizers:
            optimizer.step()
        allocator.after_step(step + 1)
        twins.peft.update_and_allocate(step + 1)
        if (masks := twins.their_masks()) is not None and step + 1 in allocator.context.ticks:
            our_masks = {name: units.tolist() for name, units in would_keep(allocator, step + 1).items()}
            assert our_masks == masks
        for optimizer in optimizers:
            optimizer.zero_grad()
    assert bool(reopened) == (lr > 0.1)
    allocator.finish()
    for own, other in twins.pairs.values():
        assert_close(own, other.view_as(own), rtol=tolerance, atol=tolerance)


def would_keep(allocator: Any, step: int) -> dict[str, torch.Tensor]:
    """The units that a tick at ``step`` would keep."""
    flat = torch.cat(list(allocator.unit_scores().values()))
    price = next(iter(allocator.adapters.values())).parameters_at(1)
    number = allocator.allowed(step) // price
    cut = flat.sort(descending=True).values[number - 1] if number else torch.inf
    return {name: scores >= cut for name, scores in allocator.unit_scores().items()}


# -- by hand -----------------------------------------------------------------------------------------------------------

SLICES: dict[str, dict[str, Callable[[torch.Tensor, int], torch.Tensor]]] = {
    "low_rank": {"A": lambda t, i: t[i], "B": lambda t, i: t[:, i]},
    "core": {"A": lambda t, i: t[i], "B": lambda t, i: t[:, i], "G": lambda t, i: torch.stack([t[i], t[:, i]])},
    "vectors": {"A": lambda t, i: t[i], "B": lambda t, i: t[:, i], "d": lambda t, i: t[i]},
}
"""Delta -> tensor -> what of it belongs to unit i: in a core a row and a column, each with a mean of its own."""


@pytest.mark.parametrize("delta", SLICES)
def test_a_unit_s_score_is_the_sum_of_its_slices_means(make: Make, delta: str) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=["res1"], delta=delta)
    beta1, beta2 = 0.6, 0.9
    options = {"beta1": str(beta1), "beta2": str(beta2), "orthogonality": "0"}
    allocator = scene.allocator(method="adalora", total_steps=STEPS, ticks=TICKS, enable=0.5, options=options)
    generator = torch.Generator().manual_seed(1)
    averages: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for step in range(1, 4):
        for adapter in scene.adapted.adapters.values():
            for _, tensor, _ in adapter.tensors():
                tensor.data = torch.randn(tensor.shape, generator=generator)
                tensor.grad = torch.randn(tensor.shape, generator=generator)
                mean, unsure = averages.get(id(tensor), (torch.zeros_like(tensor), torch.zeros_like(tensor)))
                value = (tensor * tensor.grad).abs().detach()
                mean = beta1 * mean + (1 - beta1) * value
                averages[id(tensor)] = mean, beta2 * unsure + (1 - beta2) * (value - mean).abs()
        allocator.after_step(step)
    for name, scores in allocator.unit_scores().items():
        adapter = scene.adapted.adapters[name]
        tensors = {key: tensor for key, tensor, _ in adapter.tensors()}
        for unit in range(adapter.rank):
            expected = 0.0
            for key, part in SLICES[delta].items():
                mean, unsure = averages[id(tensors[key])]
                slices = part(mean * unsure, unit)
                expected += float(slices.mean()) * (2 if key == "G" else 1)
            assert float(scores[unit]) == pytest.approx(expected, rel=1e-5)


def test_the_orthogonality_term_is_for_each_row_and_for_what_has_a_gate(make: Make) -> None:
    scene = make("bert", targets=["q", "up"], shortcuts=["res1"], method="adalora")
    allocator = scene.allocator(method="adalora", enable=0.5, options={"orthogonality": "0.4"})
    disturb(scene.adapted)
    scene.adapted.switch(list(scene.adapted.adapters)[1:])
    errors = []
    for name in scene.adapted.on:
        a, b = scene.adapted.adapters[name].delta.A, scene.adapted.adapters[name].delta.B
        errors += [(a @ a.T - torch.eye(len(a))).norm(), (b.T @ b - torch.eye(len(a))).norm()]
    batch = scene.batches()[0]
    added = allocator.around_loss(summed)(scene.adapted.model, batch) - summed(scene.adapted.model, batch)
    assert_close(added, len(batch["labels"]) * 0.4 * sum(errors) / len(errors), rtol=1e-4, atol=1e-4)
    assert scene.allocator(method="adalora", options={"orthogonality": "0"}).around_loss(summed) is summed
    assert unlike_orthonormal(make("bert", targets=["q"]).adapted.adapters.values()) == []


def test_a_step_that_overflowed_tells_nothing(make: Make) -> None:
    """As float16's first steps do: the optimiser leaves them out."""
    scene = make("bert", targets=["q"], method="adalora")
    allocator = scene.allocator(method="adalora", total_steps=STEPS, ticks=TICKS, enable=0.5)
    for value in (1.0, torch.inf, torch.nan):
        for tensor in allocator.ranked.values():
            tensor.grad = torch.full_like(tensor, value)
        allocator.after_step(1)
    assert all(scores.isfinite().all() for scores in allocator.unit_scores().values())


@pytest.mark.parametrize(
    ("section", "search", "message"),
    [
        ({"method": "ia3"}, {"enable": 1.0}, "takes single rank units, and delta 'rescaling' has none"),
        ({"method": "loretta_rep"}, {"enable": 1.0}, "has none to take"),
        ({}, {"options": {"beta1": "1"}}, "beta1: 1 cannot be used here"),
        ({}, {"options": {"beta": "0.5"}}, "no option 'beta'"),
    ],
)
def test_what_is_refused(make: Make, section: dict[str, Any], search: dict[str, Any], message: str) -> None:
    scene = make("bert", targets=["k", "v"], **section)
    with pytest.raises(RecipeError, match=message):
        scene.allocator(method="adalora", **search)
