"""What is predicted of a training's memory, by hand: which arrays a layer keeps, and how wide they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.models import SMALL
from support.runs import Bench

import lorakit
from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.errors import RecipeError, UsageError
from lorakit.workflow.memory import HOLES, Kept, estimate_footprint, footprint_of, measure, measure_kept
from lorakit.workflow.parts import Parts
from lorakit.workflow.setup import adapt, assemble

D, F, LAYERS, HEADS = (
    SMALL[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
)
RANK = 4
PLAIN = ("adapter.targets=[all]", "adapter.dropout=0", f"adapter.rank={RANK}")
RECOMPUTED = "training.gradient_checkpointing=true"
LINEAR = 4 * D * D + 2 * D * F
ADAPTERS = RANK * (4 * 2 * D + 2 * (D + F))


def made(bench: Bench, *settings: str, family: str = "bert") -> tuple[Parts, AdaptedModel]:
    parts = assemble(bench.load(*PLAIN, *settings, family=family))
    return parts, adapt(parts, statistics=None)


def of_bert(per_token: float) -> Kept:
    """Float32: with dropout after each of attention, table and MLP; the head keeps tanh, dropout's noise and the dropped."""
    return Kept(0, 4 * 3 * D, 4 * LAYERS * per_token, 4 * LAYERS * HEADS * 3)  # softmax, noise, dropped


def test_a_layer_of_bert(bench: Bench):
    """The input of q, k, v; these; o's input; noise, sum and output of the first norm; up's output, gelu's; noise and sum of the second;
    each norm's mean and deviation; and the r long product of every site."""
    per_token = 1 * D + 3 * D + 1 * D + 3 * D + 2 * F + 2 * D + 4 + 6 * RANK
    assert measure_kept(made(bench)[1], "fp32") == of_bert(per_token)


def test_with_few_sites_fewer_inputs_are_kept(bench: Bench):
    """o's, up's and down's are not needed; nor is q in the first layer, whose k wants no gradient."""
    per_token = 1 * D + 3 * D + 2 * D + 1 * F + 2 * D + 4 + 2 * RANK - D / LAYERS
    assert measure_kept(made(bench, "adapter.targets=[q,v]")[1], "fp32") == of_bert(per_token)


def test_an_adapters_dropout_keeps_its_noise_and_what_it_leaves(bench: Bench):
    """Both for each of the six sites, in the place of its own input; the first layer's wants no gradient: q, k, v keep no noise there."""
    inputs, before = 5 * D + F, 3 * D + F
    plain, dropped = (measure_kept(made(bench, f"adapter.dropout={p}")[1], "fp32") for p in (0, 0.1))
    assert dropped.per_token - plain.per_token == 4 * LAYERS * (2 * inputs - before) - 4 * 3 * D


def test_under_autocast_weights_are_kept_in_half_precision(bench: Bench):
    """All that is multiplied: the layers' and adapters', the pooler's and the head's."""
    _, adapted = made(bench, "training.precision=bf16")
    found = measure_kept(adapted, "bf16")
    assert found.constant == 2 * (LAYERS * (LINEAR + ADAPTERS) + D * D + 2 * D)
    assert (
        0.5 < found.per_token / measure_kept(adapted, "fp32").per_token < 0.8
    )  # sums, norms and dropout's noise stay float32


@pytest.mark.parametrize(("attention", "tables"), [("sdpa", 0), ("eager", 1)])
def test_the_quadratic_part_is_there_where_the_attention_stores_its_table(bench: Bench, attention: str, tables: int):
    """Llama has no dropout: the softmax alone."""
    found = measure_kept(made(bench, f"model.attention={attention}", family="llama")[1], "fp32")
    assert found.per_pair == 4 * LAYERS * HEADS * tables


def test_what_cannot_be_computed_in_half_precision_is_counted_in_float32(bench: Bench):
    _, adapted = made(bench, family="deberta")
    assert measure_kept(adapted, "bf16") == measure_kept(adapted, "fp32")


def test_recomputed_layers_keep_their_input(bench: Bench):
    _, adapted = made(bench, RECOMPUTED)
    found = measure_kept(adapted, "fp32", recomputed=True)
    assert found == Kept(0, 4 * 3 * D, 4 * LAYERS * D, 0)
    assert measure_kept(adapted, "fp32") == measure_kept(made(bench)[1], "fp32")
    assert all(layer.gradient_checkpointing for _, layer in adapted.backbone.anatomy.layers)


def test_the_parts_add_up(bench: Bench):
    """8 rows of 32 tokens in training, 16 in evaluation."""
    for settings in ((), (RECOMPUTED,), ("model.attention=eager",)):
        parts, adapted = made(bench, *settings)
        found = estimate_footprint(parts, adapted)
        trained = LAYERS * ADAPTERS + 2 * D + 2
        ids = sum(buffer.numel() * buffer.element_size() for buffer in adapted.model.buffers())
        assert found.weights == 4 * sum(p.numel() for p in adapted.model.parameters()) + ids
        assert found.learning == 12 * trained
        step = measure_kept(adapted, "fp32").bytes(8, 32)
        if RECOMPUTED in settings:
            step = step / LAYERS + measure_kept(adapted, "fp32", recomputed=True).bytes(8, 32)
        assert found.step == (1 if RECOMPUTED in settings else HOLES) * (step + 2 * 8 * 32 * 4 * F)
        table = 2 * 4 * HEADS * 32**2 if settings == ("model.attention=eager",) else 0
        assert found.evaluation == 16 * (32 * 4 * (2 * F + 3 * D) + table)
        assert found.total == int(found.weights + found.learning + max(found.step, found.evaluation))


def test_a_batch_that_is_cut_keeps_the_rows_of_a_part(bench: Bench):
    """70 tokens are two rows of 32; but a search that scores by passes of its own makes them over whole batches."""
    settings = ("training.micro_tokens=70", "search.method=heterolora")
    for scoring, rows in ((("search.method=none",), 2), (("search.scoring=streaming",), 2), ((), 8)):
        parts, adapted = made(bench, *settings, *scoring)
        found = estimate_footprint(parts, adapted).step
        assert found == HOLES * (measure_kept(adapted, "fp32").bytes(rows, 32) + 2 * rows * 32 * 4 * F)


@pytest.mark.parametrize(
    ("settings", "dense"),
    [
        (("model.quantization=mixed",), True),
        (("model.quantization=int4", "adapter.init=qpissa"), True),
        (("model.quantization=int4",), False),
    ],
)
def test_weights_that_are_dense_before_they_are_quantised_are_planned_so(
    bench: Bench, settings: tuple[str, ...], dense: bool
):
    parts, adapted = made(bench, "training.batch_size=1", "evaluation.batch_size=1", *settings)
    found = estimate_footprint(parts, adapted)
    whole = estimate_footprint(*made(bench)).weights
    assert found.loading == (whole if dense else 0)
    assert found.weights < whole
    assert replace(found, learning=0, step=0, evaluation=0).total == (whole if dense else found.weights)


def test_what_an_update_makes_of_the_largest_weight(bench: Bench):
    """LoRAPrune's score: the weight, its product with its gradient, and its size, of an MLP's matrix."""
    assert measure(*made(bench, "adapter.method=loraprune")).least == 3 * 4 * D * F
    assert measure(*made(bench)).least < 3 * 4 * D * F


def test_copies_of_what_trains_are_planned(bench: Bench):
    """Of LoRA's A and B 16 snapshots; of the head the sum; of both what an evaluation puts back, or what trial steps do."""
    heads, adapters = 2 * D + 2, LAYERS * ADAPTERS
    usual = measure(*made(bench)).learning
    ids = sum(buffer.nbytes for buffer in made(bench)[1].model.buffers())
    assert measure(*made(bench, "training.average=0.4")).learning - usual == 4 * (17 * adapters + 2 * heads)
    factors = ("training.average=0.4", "training.average_of=factors")
    assert measure(*made(bench, *factors)).learning - usual == 4 * 2 * (adapters + heads)
    for quantised in ((), ("model.quantization=int4",)):
        assert measure(*made(bench, "training.lr=auto", *quantised)).learning - usual == 4 * (adapters + heads) + ids


def test_rows_that_are_passed_twice_take_twice_as_much(bench: Bench):
    """HiddenKey's two passes, which one batch of twice the rows is."""
    once, twice = (measure(*made(bench, *more)) for more in ((), ("adapter.updates=[hidden_key]",)))
    rate = "adapter.update_options={beta: 0}"
    alone = measure(*made(bench, "adapter.updates=[hidden_key]", rate))
    assert (twice.kept, twice.made) == (once.kept * 2, once.made * 2)
    assert (alone.kept, alone.made) == (once.kept, once.made)


def test_nothing_is_left_changed(bench: Bench):
    _, adapted = made(bench, RECOMPUTED)
    states, random = adapted.states(), torch.get_rng_state()
    measure_kept(adapted, "fp32")
    assert adapted.states() == states
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in adapted.model.modules())
    assert all(p.grad is None for p in adapted.model.parameters())


def test_processes_that_share_the_weights_out(bench: Bench):
    """Of the frozen matrices each of 3 has a third; a step of 8 rows is 3 a process, beside two layers that are whole."""
    parts, adapted = made(bench)
    alone, shared = measure(parts, adapted), measure(parts, adapted, fsdp=3)
    embedding = adapted.model.get_input_embeddings().weight.nbytes
    matrices = sum(p.nbytes for name, p in adapted.model.named_parameters() if p.ndim > 1 and not p.requires_grad)
    layers = [4 * LINEAR] * LAYERS
    rest = matrices - embedding - sum(layers)  # positions, types of tokens and the pooler
    assert rest >= 4 * D * D
    assert alone.weights - shared.weights == matrices - -(-matrices // 3)
    assert (shared.dense, shared.least) == (sum(layers[:2]) + rest, 2 * embedding + rest)
    assert shared.rows_at_once(parts.recipe) == 3
    small, large = shared.at(0, 1), shared.at(3, 16)
    assert (small.step, small.evaluation) == (shared.dense, shared.dense + shared.scored)
    assert replace(shared, least=10**9).at(0, 1).step == 10**9
    assert large.step == HOLES * (shared.kept.bytes(3, 32) + 3 * 2 * 32 * 4 * F) + shared.dense
    assert footprint_of(parts.recipe, shared) == large


@pytest.mark.parametrize("setting", ["search.method=heterolora", "adapter.method=bilora"])
def test_whole_batches_are_passed_on_every_process(bench: Bench, setting: str):
    parts, adapted = made(bench, setting)
    assert measure(parts, adapted, fsdp=3).rows_at_once(parts.recipe) == parts.recipe.training.batch_size


def test_only_what_can_be_shared_out_is_planned_so(bench: Bench):
    with pytest.raises(RecipeError, match=r"training\.freeze_below"):
        lorakit.plan(bench.load("training.freeze_below=1"), fsdp=2)
    with pytest.raises(UsageError, match="--fsdp"):
        lorakit.plan(bench.load(), fsdp=0)
    found = lorakit.plan(bench.load(), fit="1GB", fsdp=2)
    assert found.fit.tried[0].peak == found.memory_bytes < lorakit.plan(bench.load()).memory_bytes
    assert found.fit.settings == []
