"""LoRAPrune: the gradient of W by hand, the importance of two steps, how many go when, and the smaller model beside the masked one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.adapters.adapted_models import trained
from support.runs import Bench
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.deltas.masked import Masked
from lorakit.artifacts.channel_cut import channel_cuts
from lorakit.artifacts.merge import fold_later, save_merged
from lorakit.artifacts.run import Run
from lorakit.cli.merge import tell
from lorakit.errors import RecipeError, RunError
from lorakit.training import loop
from lorakit.training.updates.prune_channels import PruneChannels, weight_gradient
from lorakit.workflow.prepare import prepare
from lorakit.workflow.restore import restore_run
from lorakit.workflow.setup import assemble

OURS = ("adapter.method=loraprune", "adapter.alpha=8")  # 12 steps, s = 2
WIDTH = 48


def told(**options: Any) -> str:
    return f"adapter.update_options={{{', '.join(f'{name}: {value}' for name, value in options.items())}}}"


def masks(adapted: AdaptedModel, role: str = "up") -> list[torch.Tensor]:
    """Of each layer."""
    deltas = [adapter.delta for adapter in adapted.adapters.values() if adapter.site.role == role]
    return [delta.kept.detach() for delta in deltas if isinstance(delta, Masked)]


def test_the_gradient_of_the_weight_by_hand():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    of_a, of_b = torch.tensor([[0.5, -1.0]]), torch.tensor([[-2.0], [1.0]])
    # g_B A = [[-2, -4], [1, 2]], B g_A = [[1.5, -3], [2, -4]], g_B g_A = [[-1, 2], [0.5, -1]]
    assert_close(weight_gradient(a, b, of_a, of_b), torch.tensor([[0.5, -9.0], [2.5, -1.0]]))


def test_it_is_the_gradient_of_the_weight_where_b_is_zero_and_a_orthogonal():
    """Then g_A = 0 and g_B A = s (dL/dW) A^T A = s dL/dW."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    a = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0].requires_grad_()
    b = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    F.linear(x, weight + 1.5 * b @ a).tanh().square().sum().backward()
    assert weight.grad is not None
    assert a.grad is not None
    assert b.grad is not None
    assert_close(weight_gradient(a, b, a.grad, b.grad), 1.5 * weight.grad)


def score_by_hand(adapter: Any, width: int, *, of_inputs: bool) -> np.ndarray:
    """|G o (W + s B A)|, summed over rows, or columns, of ``width`` side by side, over its 2-norm."""
    w, a, b = (t.detach().numpy() for t in (adapter.base.weight, adapter.delta.A, adapter.delta.B))
    of_a, of_b = adapter.delta.A.grad.numpy(), adapter.delta.B.grad.numpy()
    numbers = np.abs((of_b @ a + b @ of_a - of_b @ of_a) * (w + 2 * b @ a))
    score = numbers.sum(axis=0 if of_inputs else 1)
    score = np.add.reduceat(score, range(0, len(score), width))
    return score / np.sqrt((score**2).sum())


CHANNEL = {"up": 1, "gate": 1, "down": 1}
HEAD = {"v": 8, "k": 8, "q": 16, "o": 16}  # two heads of queries look at each of keys and values, all of width 8


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_importance_and_masks_of_two_steps_by_hand(bench: Bench, tmp_path: Path, family: str):
    heads = 0.5 if family == "qwen2" else 0
    options = told(share=0.75, heads=heads, begin=0, settle=0.5, every=1, beta=0.8)
    loaded = bench.load(*OURS, options, "training.max_steps=4", "training.lr=0.05", family=family)
    training = prepare(loaded, assemble(loaded), Run(tmp_path))
    (update,) = training.hooks
    assert isinstance(update, PruneChannels)
    adapters = {a.site.role: a for a in training.adapted.adapters.values() if a.site.layer == 1}
    expected = {"channels": np.zeros(WIDTH), "heads": np.zeros(2)}
    score = update.before_optimizer_step

    def beside(state: Any) -> None:
        for kind, sizes in (("channels", CHANNEL), ("heads", HEAD)):
            found = [
                score_by_hand(adapters[role], size, of_inputs=role in ("down", "o"))
                for role, size in sizes.items()
                if role in adapters and (kind == "channels" or heads)
            ]
            expected[kind] = 0.8 * expected[kind] + 0.2 * np.sum(found, axis=0)
        score(state)

    update.before_optimizer_step = beside  # type: ignore[method-assign]
    batches = list(training.loader.step_batches(0))
    # of 48 channels 12 stay at last: 12 + 36 (1 - t)^3 is 16.5 at t = 1/2, and 12 at t = 1; of 2 heads 1 + 1/8 and 1
    for step, left in ((1, 17), (2, 12)):
        before = masks(training.adapted)[1].clone()
        loop.step(training, batches[step - 1])
        for kind in ("channels", "heads") if heads else ("channels",):
            assert_close(update.importance[kind, 1].double().numpy(), expected[kind], rtol=1e-4, atol=1e-7)
        order = np.argsort(-np.where(before.numpy() > 0, expected["channels"], -1), kind="stable")[:left]
        assert sorted(order) == masks(training.adapted)[1].nonzero().flatten().tolist()
    assert [int(mask.sum()) for mask in masks(training.adapted)] == [12, 12]
    if heads:
        better = int(expected["heads"].argmax())
        assert masks(training.adapted, "v")[1].tolist() == [float(place // 8 == better) for place in range(16)]


def test_how_many_are_left_when(bench: Bench, tmp_path: Path):
    """From step 2 of 12 (a tenth, rounded up) to step 11 (nine tenths), every 4: 48 (1/2 + (1 - t)^3 / 2), t = 4/9, 8/9, 1."""
    training = bench.prepare(tmp_path, *OURS, told(every=4))
    seen = []
    for _ in range(2):
        for batch in training.loader.step_batches(0):
            loop.step(training, batch)
            now = masks(training.adapted)
            if seen:
                assert all(((new == 0) | (old == 1)).all() for old, new in zip(seen[-1], now, strict=True))
            seen.append([mask.clone() for mask in now])
    left = [[int(mask.sum()) for mask in step] for step in seen]
    assert [counts[0] for counts in left] == [48] * 5 + [28] * 4 + [24] * 3
    assert all(counts[0] == counts[1] for counts in left)


@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen2"])
def test_the_masked_model_is_the_smaller_one(bench: Bench, tmp_path: Path, family: str):
    adapted = trained(bench, *OURS, family=family)
    generator = torch.Generator().manual_seed(1)
    for mask in masks(adapted):
        mask[torch.randperm(WIDTH, generator=generator)[:31]] = 0
    if own_heads := family == "qwen2":
        first, second = masks(adapted, "v")
        first[:8], second[8:] = 0, 0
    adapted.model.eval()
    ids = torch.randint(4, 40, (3, 9), generator=generator)
    with torch.no_grad():
        expected = adapted.model(input_ids=ids).logits
    cuts = channel_cuts(adapted)
    assert [(cut.kind, cut.before, cut.after) for cut in cuts] == [("channels", 48, 17), ("heads", 2, 1)][
        : 1 + own_heads
    ]
    _, tensors = fold_later(adapted)
    whole = sum(parameter.numel() for parameter in adapted.model.parameters())
    for cut in cuts:
        tensors = cut.cut(tensors, adapted.model)
    save_merged(adapted, tmp_path, [], 32, closed=False, folded=tensors)
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_close(small(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert whole - small.num_parameters() == sum(cut.parameters for cut in cuts)


@pytest.fixture(scope="module")
def run(bench: Bench) -> Path:
    """Half of the channels gone, and scores that fall while they go: of equals the first would be the best."""
    settings = (told(every=3), "training.lr=0.02", "evaluation.every_steps=2")
    return bench.train(*OURS, *settings, name="pruned").run_dir


def test_a_run_merges_into_a_plain_smaller_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]):
    merged = lorakit.merge(run)
    assert merged.plain
    assert merged.largest_difference < 1e-5
    config = json.loads((merged.out / "config.json").read_text())
    assert config["intermediate_size"] == 24
    pruned = merged.pruned
    assert pruned is not None
    assert (pruned.left, pruned.before) == ({"channels": 24}, {"channels": 48})
    assert pruned.parameters == AutoModelForSequenceClassification.from_pretrained(merged.out).num_parameters()
    assert pruned.parameters_before - pruned.parameters == 2 * 24 * (32 + 1 + 32)
    assert pruned.weight_bytes == (merged.out / "model.safetensors").stat().st_size
    tell(merged)
    assert "24 channels a layer, 48 before; 17,394 parameters, 20,514 before; " in capsys.readouterr().out


def test_the_best_weights_have_the_whole_share_gone_and_peft_has_no_form_for_them(run: Path):
    for weights in ("best", "last"):
        assert [int(mask.sum()) for mask in masks(restore_run(run, weights).adapted)] == [24, 24]
    with pytest.raises(RunError, match="PEFT cannot express that 24 of 48 channels of every layer are gone"):
        lorakit.export(run)


def test_closed_channels_are_not_coded_as_signs(run: Path, tmp_path: Path):
    with pytest.raises(RunError, match="would be open again"):
        lorakit.compress(run, method="compeft", out=tmp_path / "coded")
    assert not (tmp_path / "coded").exists()


def test_the_plan_tells_how_small_the_model_will_be(bench: Bench):
    notes = lorakit.plan(bench.load(*OURS, told(share=0.25))).notes
    (note,) = [note for note in notes if "prune_channels" in note]
    assert note.startswith(
        "update 'prune_channels': the model goes from 48 channels a layer to 36, 20,514 parameters to 18,954,"
    )


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (("search.method=heterolora",), "a search takes sites and ranks out"),
        (("adapter.method=lora", "adapter.updates=[prune_channels]"), "keeps what it needs in delta 'masked'"),
        (("training.average=0.5",), "a mean over steps would undo that"),
        (("adapter.start=elsewhere",), "would write over what it has kept"),
        (("adapter.init=pissa",), "gives factors B and A, which delta 'masked' cannot take"),
        (("adapter.decomposition=magnitude",), "is no sum W"),
        (("adapter.trainable=B",), "scores by the gradients of A and B"),
        (("model.quantization=int4",), "reads the dense weights"),
        (("training.freeze_below=1",), "frozen lower layers have no adapters"),
    ],
)
def test_refusals_when_the_recipe_is_read(bench: Bench, settings: tuple[str, ...], match: str):
    with pytest.raises(RecipeError, match=match):
        assemble(bench.load(*OURS, *settings))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (("adapter.targets=[q,up]",), "output.dense has no adapter"),
        ((told(begin=0.5, settle=0.5),), "has no time to prune"),
        ((told(share=0.01),), "0.01 of 48 channels is none"),
        ((told(share=0),), "its shares are 0"),
        ((told(heads=0.5),), "its config has no width of a head"),
    ],
)
def test_refusals_when_it_is_planned(bench: Bench, settings: tuple[str, ...], match: str):
    with pytest.raises(RecipeError, match=match):
        lorakit.plan(bench.load(*OURS, *settings))


def test_a_training_that_is_too_short_is_refused(bench: Bench, tmp_path: Path):
    with pytest.raises(RecipeError, match="begin after step 1 and end at step 1"):
        bench.prepare(tmp_path, *OURS, "training.max_steps=1")
