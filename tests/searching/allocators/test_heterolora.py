"""HeteroLoRA tick by tick on a tiny model: the record, the budget, what off means, its stream, and SNIP's lock-in."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.adapters.cases import evaluated
from support.search.scene import SECTION, Scene, loss, train
from support.thinned import crossed, thinned

from lorakit.errors import RunError
from lorakit.searching.allocators.heterolora import HeteroLoRA
from lorakit.searching.proxy import proxies

Make = Callable[..., Scene]
SHORTCUTS = ["res1", "res2", "mid"]
LIMITS: list[dict[str, Any]] = [{"pool": "separated", "enable": 0.5}, {"unit": "modules"}, {"parameters": 400}]
LORA, SHORT = SECTION.rank * 64, SECTION.shortcut_rank * 64  # rank (32 + 32): what q, v of width 32 and a shortcut cost


@pytest.fixture
def scene(make: Make) -> Scene:
    """BERT's two layers with q, v and shortcuts: 4 linear sites of 192 parameters, 5 shortcuts of 128."""
    return make("bert", targets=["q", "v"], shortcuts=SHORTCUTS)


def ticks(scene: Scene, allocator: HeteroLoRA, number: int, steps: int = 1) -> Iterator[Any]:
    """Ticks with AdamW steps in between."""
    optimizer = torch.optim.AdamW([tensor.parameter for tensor in scene.adapted.trained()], lr=1e-2)
    for tick in range(number):
        yield allocator.tick(tick * steps, tick / 5)
        train(scene, steps, optimizer)


def test_the_record_of_a_tick(scene: Scene) -> None:
    everything = 4 * LORA + 5 * SHORT
    before: list[str] = []
    for number, tick in enumerate(ticks(scene, scene.allocator(enable=0.4), 4, steps=2)):
        adapted = scene.adapted
        assert (tick.tick, tick.step, tick.epoch, tick.proxy) == (number, 2 * number, number / 5, "gradnorm")
        assert list(tick.scores) == [site.name for site in adapted.sites]
        assert tick.on == adapted.on
        assert tick.parameters == sum(SHORT if adapted.adapters[name].site.is_shortcut else LORA for name in tick.on)
        assert tick.budget == math.floor(0.4 * everything) >= tick.parameters
        off = [score for name, score in tick.scores.items() if name not in tick.on]
        assert tick.cut == min(tick.scores[name] for name in tick.on)
        assert tick.margin == tick.cut - max(off)
        gone = [name for name in before if name not in tick.on]
        assert tick.churn == (len(gone) / len(before) if before else 0)
        assert tick.seconds > 0
        before = tick.on


def test_what_a_tick_scores_is_said_at_the_first_one(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lorakit"):
        for _ in ticks(scene, scene.allocator(batches=2), 2):
            pass
    assert caplog.messages == ["scoring 9 sites on 2 batches of training rows"]


@pytest.mark.parametrize(("proxy", "search"), crossed(proxies.names(), LIMITS, turn=0))
def test_the_budget_holds_after_every_tick(scene: Scene, proxy: str, search: dict[str, Any]) -> None:
    allocator = scene.allocator(proxy=proxy, **search)
    for tick in ticks(scene, allocator, 3):
        assert 0 < scene.adapted.adapter_parameters() == tick.parameters <= tick.budget
        trained = [name for name, p in scene.adapted.model.named_parameters() if p.requires_grad]
        assert sum(dict(scene.adapted.model.named_parameters())[name].numel() for name in trained) == (
            tick.parameters + scene.adapted.head_parameters()
        )


def switched(scene: Scene, off: str) -> tuple[list[str], dict[str, torch.Tensor]]:
    """After two ticks and training: sites that were trained and went off, and their values when they did."""
    allocator = scene.allocator(proxy="constant", enable=0.4, off=off)
    first, second = ticks(scene, allocator, 2, steps=3)
    gone = [name for name in first.on if name not in second.on]
    assert gone
    values = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    return gone, values


def test_off_freeze_keeps_a_trained_site_in_the_function_without_training_it(scene: Scene) -> None:
    gone, values = switched(scene, "freeze")
    adapted = scene.adapted
    assert {adapted.states()[name] for name in gone} == {"frozen"}
    assert set(adapted.in_function) == {*adapted.on, *gone}
    assert_kept(scene, gone, values)


def test_off_drop_takes_it_out_of_the_function_and_keeps_its_values(scene: Scene) -> None:
    gone, values = switched(scene, "drop")
    adapted = scene.adapted
    assert adapted.in_function == adapted.on
    assert_kept(scene, gone, values)
    batch = {name: tensor for name, tensor in scene.batches()[0].items() if name != "labels"}
    out = evaluated(adapted.model, batch)
    for name in gone:
        torch.nn.init.zeros_(adapted.adapters[name].delta.B)
    assert torch.equal(evaluated(adapted.model, batch), out)


def assert_kept(scene: Scene, gone: list[str], values: dict[str, torch.Tensor]) -> None:
    """Training on leaves those that are off alone."""
    train(scene, 2)
    for name, tensor in scene.adapted.tensors().items():
        if any(name.startswith(f"{site}.") for site in gone):
            assert torch.equal(tensor, values[name])


def test_a_site_that_is_off_is_scored_with_the_others(scene: Scene) -> None:
    first, second = ticks(scene, scene.allocator(enable=0.4), 2)
    off = [name for name in first.scores if name not in first.on]
    assert all(second.scores[name] > 0 for name in off)


@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("train", True)])
def test_scoring_is_with_dropout_where_the_recipe_asks_for_it(scene: Scene, mode: str, training: bool) -> None:
    allocator, seen = scene.allocator(mode=mode), []

    def watched(model: Any, batch: Any) -> torch.Tensor:
        seen.extend(module.training for module in model.modules())
        return loss(model, batch)

    allocator.context = replace(allocator.context, loss=watched)
    allocator.tick(0, 0.0)
    assert set(seen) == {training}


# -- the search's own stream -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", ["constant", "gradnorm"])
def test_the_same_seed_chooses_the_same_and_another_one_does_not(make: Make, proxy: str) -> None:
    def history(seed: int) -> list[tuple[Any, list[str]]]:
        scene = make("bert", targets=["q", "v"], shortcuts=SHORTCUTS)
        torch.manual_seed(torch.seed())  # whatever the global stream holds
        return [(tick.scores, tick.on) for tick in ticks(scene, scene.allocator(seed, proxy=proxy), 4)]

    assert history(1) == history(1) != history(2)


@pytest.mark.parametrize("proxy", ["constant", "gradnorm"])
@pytest.mark.parametrize("off", ["drop", "freeze"])
def test_a_saved_allocator_continues_identically(make: Make, proxy: str, off: str) -> None:
    def build(seed: int) -> tuple[Scene, HeteroLoRA]:
        scene = make("bert", targets=["q", "v"], shortcuts=SHORTCUTS)
        return scene, scene.allocator(seed, proxy=proxy, off=off, enable=0.4, mode="train")

    def history(allocator: HeteroLoRA) -> list[Any]:
        return [{**allocator.tick(step, 0.0).to_dict(), "seconds": None} for step in (20, 30, 40)]

    scene, allocator = build(seed=1)
    list(ticks(scene, allocator, 2))
    saved = json.loads(json.dumps(allocator.state_dict(), allow_nan=False))
    values = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}

    resumed, again = build(seed=2)
    resumed.adapted.load_tensors(values)
    again.load_state_dict(saved)
    assert resumed.adapted.states() == scene.adapted.states()
    assert again.state_dict() == saved
    assert history(again) == history(allocator)


# -- the rows that are scored ------------------------------------------------------------------------------------------


def drawn(scene: Scene, allocator: HeteroLoRA, number: int) -> list[list[tuple[Any, ...]]]:
    """What each tick scores, as (tokens without padding, label) of every row."""
    batches = [
        allocator.context.draw(allocator.context.search.batches, allocator.context.generator) for _ in range(number)
    ]
    return [[row for batch in tick for row in unpadded(batch)] for tick in batches]


def unpadded(batch: Any) -> Iterator[tuple[Any, ...]]:
    for tokens, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        yield *tokens[mask.bool()].tolist(), int(label)


def test_sampled_rows_are_fresh_and_never_twice_in_a_tick(scene: Scene) -> None:
    rows = list(unpadded(scene.encoded.collate(range(len(scene.encoded)))))
    found = drawn(scene, scene.allocator(batches=2), 30)
    assert all(len(set(tick)) == len(tick) == 16 and set(tick) <= set(rows) for tick in found)
    assert len(set(map(tuple, map(sorted, found)))) == 30
    assert set().union(*found) == set(rows)


def test_more_batches_than_there_are_give_every_row_once(scene: Scene) -> None:
    rows = list(unpadded(scene.encoded.collate(range(len(scene.encoded)))))
    for data in ("sampled", "first"):
        (found,) = drawn(scene, scene.allocator(batches=99, data=data), 1)
        assert sorted(found) == sorted(rows)


def test_first_is_always_the_start_of_the_file(scene: Scene) -> None:
    rows = list(unpadded(scene.encoded.collate(range(16))))
    assert drawn(scene, scene.allocator(batches=2, data="first"), 2) == [rows, rows]


# -- what literal SNIP does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", thinned(["snip", "synflow"], 2))
def test_with_literal_zeros_the_first_random_choice_stays_forever(make: Make, proxy: str) -> None:
    chosen = set()
    for seed in range(4):
        scene = make("bert", targets=["q", "v"])
        allocator = scene.allocator(seed, proxy=proxy, proxy_options={"untrained": "literal"}, enable=0.5)
        history = list(ticks(scene, allocator, 4, steps=2))
        assert set(history[0].scores.values()) == {0.0}
        assert len({tuple(tick.on) for tick in history}) == 1
        assert {name for name, score in history[-1].scores.items() if score > 0} == set(history[0].on)
        chosen.add(tuple(history[0].on))
    assert len(chosen) > 1


def test_with_expected_magnitudes_the_first_choice_is_by_score_and_does_not_stay(make: Make) -> None:
    histories = set()
    for seed in range(3):
        scene = make("bert", targets=["q", "v"], shortcuts=["res1"])
        allocator = scene.allocator(
            seed, proxy="snip", proxy_options={"untrained": "expected"}, enable=0.5, data="first"
        )
        history = list(ticks(scene, allocator, 6))
        assert all(score > 0 for tick in history for score in tick.scores.values())
        histories.add(tuple(tuple(tick.on) for tick in history))
    (chosen,) = histories  # whatever the seed: there is nothing to draw
    assert len(set(chosen)) > 1


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_model_that_has_blown_up_is_not_searched(scene: Scene) -> None:
    with torch.no_grad():
        next(iter(scene.adapted.adapters.values())).delta.B.fill_(math.inf)
    before = scene.adapted.states()
    with pytest.raises(RunError, match="no finite score"):
        scene.allocator().tick(0, 0.0)
    assert scene.adapted.states() == before
