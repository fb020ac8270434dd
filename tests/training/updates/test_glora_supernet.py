"""The supernet of GLoRA: what is drawn, what gets a gradient, and what an evaluation sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.runs import Bench

from lorakit.adapters.adapted_model import HEAD
from lorakit.adapters.deltas.glora import CHOICES, GLoRA
from lorakit.errors import RecipeError
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loop import Training, step
from lorakit.training.updates.glora_supernet import GLoRASupernet

SUPERNET = ("adapter.method=glora", "adapter.dropout=0", "adapter.updates=[glora_supernet]")
MODE = "adapter.options={mode: supernet}"
WHOLE = {letter: choices[0] for letter, choices in CHOICES.items()}


class Watch(Hook):
    """The configurations at the moments that matter, and which tensors got a gradient."""

    training: Training

    def __init__(self) -> None:
        self.drawn: list[list[dict[str, str]]] = []
        self.between: list[list[dict[str, str]]] = []
        self.gradients: list[set[str]] = []
        self.used: list[set[str]] = []

    def configurations(self) -> list[dict[str, str]]:
        return [layer.configuration for layer in layers(self.training)]

    def before_forward(self, state: TrainState) -> None:
        self.drawn.append(self.configurations())

    def before_optimizer_step(self, state: TrainState) -> None:
        tensors = [t for t in self.training.adapted.trained() if t.role != HEAD]
        self.gradients.append({t.name for t in tensors if t.parameter.grad is not None and t.parameter.grad.any()})
        parts = {f"{layer.site.name}.{name}" for layer in layers(self.training) for name in layer.used()}
        self.used.append(parts)

    def after_step(self, state: TrainState) -> None:
        self.between.append(self.configurations())

    on_evaluation = after_step


def layers(training: Training) -> list[GLoRA]:
    found = [adapter.delta for adapter in training.adapted.adapters.values()]
    assert all(isinstance(delta, GLoRA) for delta in found)
    return found  # type: ignore[return-value]


def prepared(bench: Bench, folder: Path, *overrides: str, **options: str) -> tuple[Training, Watch]:
    watch = Watch()
    training = bench.prepare(folder, *SUPERNET, MODE, "adapter.targets=[q,v]", *overrides, hooks=[watch], **options)
    watch.training = training
    return training, watch


def test_a_step_trains_what_was_drawn_and_between_steps_there_is_the_recipes_configuration(
    bench: Bench, tmp_path: Path
) -> None:
    training, watch = prepared(bench, tmp_path, "training.accumulate=2")
    training.optimizer.param_groups[0]["lr"] = 1e-2
    for epoch in range(3):
        for step_batch in training.loader.step_batches(epoch):
            step(training, step_batch)
    assert len({tuple(layer.values()) for drawn in watch.drawn for layer in drawn}) > len(watch.drawn)
    assert all(layer == WHOLE for between in watch.between for layer in between)
    for got, used in zip(watch.gradients, watch.used, strict=True):
        # an Xu gets no gradient while its Xd is zero, and a key's bias none at all
        assert got <= used
        assert {name for name in used if name.endswith(".Bd")} <= got


def test_every_choice_of_every_layer_is_drawn_alike_and_apart(bench: Bench, tmp_path: Path) -> None:
    training, watch = prepared(bench, tmp_path)
    (update,) = [hook for hook in training.hooks if isinstance(hook, GLoRASupernet)]
    times = 3000
    for _ in range(times):
        update.before_forward(training.state)
        watch.before_forward(training.state)
    for place in range(len(layers(training))):
        for letter, choices in CHOICES.items():
            counted = Counter(drawn[place][letter] for drawn in watch.drawn)
            assert set(counted) == set(choices)
            share = 1 / len(choices)
            allowed = 5 * (times * share * (1 - share)) ** 0.5
            assert all(abs(number - times * share) < allowed for number in counted.values())
    same = sum(drawn[0]["A"] == drawn[1]["A"] for drawn in watch.drawn)
    assert abs(same - times / 4) < 5 * (times * 3 / 16) ** 0.5


def test_without_a_bias_only_a_and_b_are_drawn(bench: Bench, tmp_path: Path) -> None:
    training, _ = prepared(bench, tmp_path, family="llama")
    (update,) = [hook for hook in training.hooks if isinstance(hook, GLoRASupernet)]
    update.before_forward(training.state)
    assert all({layer.configuration[letter] for letter in "CDE"} == {"none"} for layer in layers(training))


def test_there_must_be_configurations_to_draw_from(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="mode: supernet") as told:
        bench.prepare(tmp_path, *SUPERNET)
    assert told.value.problems[0].key == "adapter.updates"
