"""What every optimiser owes, and how a recipe chooses one. What one of them computes: its own file in ``optimizers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench, StopAt, records

from lorakit.errors import Interrupted, RecipeError, UsageError
from lorakit.training.optim import make_optimizer, optimizer_bytes
from lorakit.training.optimizer import optimizers
from lorakit.workflow.setup import assemble

SHAPES = (
    (40, 24),
    (24, 40),
    (16, 16),
    (100, 8),
    (12,),
    (70, 70),
)  # more than a block of 256 numbers, and no whole number of them
OPTIONS: dict[str, dict[str, str]] = {"flora": {"rank": "12", "kappa": "10"}, "adamw_8bit": {"minimum": "300"}}
"""What lets it act on matrices as small as these."""
FULL = ("adapter.method=full", "adapter.dropout=0", "training.lr=0.001", "search.method=none")


def chosen(name: str) -> tuple[str, ...]:
    """A recipe's settings for this optimiser."""
    given = ", ".join(f"{key}: {value}" for key, value in OPTIONS.get(name, {}).items())
    return (*FULL, f"training.optimizer={name}", f"training.optimizer_options={{{given}}}")


def here(name: str) -> Any:
    """The optimiser of that name; the test is skipped where this machine does not run it."""
    kind = optimizers.get(name)
    try:
        kind.check(torch.device("cpu"))
    except RecipeError as error:
        pytest.skip(error.problems[0].what)
    return kind


def stepped(name: str, steps: int, *, stop: int = 0, seed: int = 0) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """Parameters after so many steps on made-up gradients, the last two without one for the first; taken down and made anew at ``stop``."""
    kind, draw = here(name), torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=draw) * 0.1 for shape in SHAPES]
    parameters = [torch.nn.Parameter(tensor) for tensor in start]

    def made() -> torch.optim.Optimizer:
        groups = [
            {"params": parameters[:2], "lr": 0.01, "weight_decay": 0.1},
            {"params": parameters[2:], "lr": 0.02, "weight_decay": 0.0},
        ]
        made: torch.optim.Optimizer = kind.make(groups, kind.settings_from(OPTIONS.get(name, {})), seed)
        return made

    optimizer = made()
    for step in range(steps):
        if step == stop:
            held = optimizer.state_dict()
            flat = {
                place: {name: torch.as_tensor(value).clone() for name, value in entry.items()}
                for place, entry in held["state"].items()
            }
            optimizer = made()
            optimizer.load_state_dict({"state": flat, "param_groups": held["param_groups"]})
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        if step >= steps - 2:
            parameters[0].grad = None
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
    return [parameter.detach() for parameter in parameters], optimizer


@pytest.mark.parametrize("name", optimizers.names())
def test_it_keeps_what_it_says(name: str):
    kind = here(name)
    parameters, optimizer = stepped(name, 2)
    settings = kind.settings_from(OPTIONS.get(name, {}))
    for parameter, place in zip(parameters, range(len(parameters)), strict=True):
        held = optimizer.state_dict()["state"].get(place, {})
        size = sum(value.nbytes for value in held.values() if isinstance(value, torch.Tensor) and value.ndim)
        assert size == (kind.state_bytes(parameter.shape, settings) if held else 0), tuple(parameter.shape)
    assert kind.refusals(SHAPES, settings) == []


@pytest.mark.parametrize("name", optimizers.names())
def test_stopped_at_any_step_it_goes_on_to_the_bit(name: str):
    whole, _ = stepped(name, 12)
    for stop in (1, 6, 11):
        resumed, _ = stepped(name, 12, stop=stop)
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("name", optimizers.names())
def test_it_finds_a_minimum(name: str):
    """Of |W - T|^2, whose gradient is 2 (W - T), from which it starts 1 away in every number."""
    kind, target = here(name), torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(target + 1)
    groups = [{"params": [weight], "lr": 0.0, "weight_decay": 0.0}]
    optimizer = kind.make(groups, kind.settings_from(OPTIONS.get(name, {})), 0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 200)
        weight.grad = 2 * (weight.detach() - target)
        optimizer.step()
    assert (weight.detach() - target).square().mean() < 0.05


@pytest.mark.parametrize("name", optimizers.names())
def test_a_group_of_rate_zero_stands_still(name: str):
    kind = here(name)
    still, moving = (torch.nn.Parameter(torch.ones(70, 70)) for _ in range(2))
    groups = [{"params": [still], "lr": 0.0, "weight_decay": 0.1}, {"params": [moving], "lr": 0.1, "weight_decay": 0.0}]
    optimizer = kind.make(groups, kind.settings_from(OPTIONS.get(name, {})), 0)
    still.grad = moving.grad = torch.full((70, 70), 2.0)
    optimizer.step()
    assert torch.equal(still, torch.ones(70, 70))
    assert (moving < 1).all()
    assert torch.equal(moving.grad, torch.full((70, 70), 2.0))  # searches look at it after the step


@pytest.mark.parametrize("name", [name for name in optimizers.names() if name != "adamw"])  # whose are elsewhere
def test_a_training_is_resumed_to_the_bit(bench: Bench, tmp_path: Path, name: str):
    """Over a step at which Flora draws anew, its fifth; and by no other optimiser."""
    here(name)
    overrides = (*chosen(name), "training.max_steps=7")
    if name == "flora":
        overrides += ("training.optimizer_options={rank: 24, kappa: 5}",)
    whole = records(bench.train(*overrides).run_dir)
    with pytest.raises(Interrupted):
        bench.train(*overrides, run_dir=tmp_path / "run", hooks=[StopAt(3)])
    with pytest.raises(UsageError, match=r"changed since this run began: .*training\.optimizer"):
        bench.train(*FULL, "training.max_steps=7", run_dir=tmp_path / "run", resume=True)
    bench.train(*overrides, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == whole


@pytest.mark.parametrize("name", optimizers.names())
def test_its_card_and_its_options_are_told(name: str):
    kind = optimizers.get(name)
    assert kind.name == name
    assert kind.summary
    assert kind.source
    assert all(option.doc for option in kind.options.values())


def test_adamw_is_the_default_and_is_torchs(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path)
    assert training.recipe.training.optimizer == "adamw"
    assert type(training.optimizer) is torch.optim.AdamW
    assert all(group["fused"] for group in training.optimizer.param_groups)
    trained = sum(tensor.parameter.numel() for tensor in training.adapted.trained())
    assert optimizer_bytes(training.adapted, training.recipe.training) == 8 * trained


def test_the_seed_is_the_runs(bench: Bench, tmp_path: Path):
    """And not the one that everything else draws from."""
    made = []
    for seed in (0, 1):
        training = bench.prepare(tmp_path / str(seed), *chosen("flora"), f"run.seed={seed}")
        made.append(training.optimizer)
        again = make_optimizer(training.adapted, training.recipe.training, 0.001, seed=seed)
        assert again.seed == training.optimizer.seed  # type: ignore[attr-defined]
    assert made[0].seed != made[1].seed  # type: ignore[attr-defined]


def test_what_it_keeps_is_in_the_plan(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    import lorakit

    plain, compressed = (lorakit.plan(bench.load(*chosen(name))) for name in ("adamw", "flora"))
    assert plain.optimizer_bytes == 8 * (plain.adapter_parameters + plain.head_parameters)
    assert compressed.optimizer_bytes < plain.optimizer_bytes
    assert plain.memory_bytes - compressed.memory_bytes == plain.optimizer_bytes - compressed.optimizer_bytes


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        (("training.optimizer=flroa",), "training.optimizer", "did you mean 'flora'"),
        (("training.optimizer_options={rank: 8}",), "training.optimizer_options", "optimiser 'adamw' has no option"),
        (("training.optimizer=flora", "training.optimizer_options={rank: 0}"), "training.optimizer_options", "rank: 0"),
    ],
)
def test_what_a_recipe_cannot_say(bench: Bench, settings: tuple[str, ...], key: str, what: str):
    with pytest.raises(RecipeError) as caught:
        bench.load(*settings)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "who"),
    [
        (("adapter.method=relora",), "update 'restart'"),
        (("search.method=squeeze",), "allocator 'squeeze'"),
        (("search.method=heterolora", "search.options={moments: reset}"), "allocator 'heterolora'"),
        (("search.method=lora_drop", "search.options={restart: all}"), "allocator 'lora_drop'"),
    ],
)
def test_what_changes_adams_moments_needs_some(bench: Bench, settings: tuple[str, ...], who: str):
    with pytest.raises(RecipeError, match=f"{who} changes Adam's moments") as caught:
        assemble(bench.load(*settings, "training.optimizer=flora"))
    problem = caught.value.problems[0]
    assert (problem.key, problem.valid) == ("training.optimizer", "adamw with it")


def test_without_its_reset_a_restart_takes_any(bench: Bench):
    """Deleting whole states is no change of moments."""
    reset = "adapter.update_options={reset: new}"
    parts = assemble(bench.load("adapter.method=relora", reset, "training.optimizer=flora"))
    assert parts.recipe.training.optimizer == "flora"


def test_an_optimiser_that_would_change_nothing_is_refused(bench: Bench, tmp_path: Path):
    """LoRA's factors of rank 4 on a width of 32 are eight times as long as wide, and the head has two rows."""
    import lorakit

    recipe = bench.load("training.optimizer=flora", "training.optimizer_options={rank: 2}")
    for use in (lorakit.plan, lambda loaded: lorakit.train(loaded, run_dir=tmp_path / "run")):
        with pytest.raises(RecipeError, match="nothing that trains here is of that size") as caught:
            use(recipe)
        assert "both sides above its rank of 2 and neither more than 4 times the other" in str(caught.value)
