"""HiddenKey: masks and losses by hand, the same function without draws, and nothing of it in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench
from support.thinned import thinned
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.training.hooks import TrainState
from lorakit.training.updates.hidden_key import HiddenKey, hide, like, visible

STATE = TrainState(total_steps=12, steps_per_epoch=6)
FAMILIES = (
    "bert",
    "roberta",
    "deberta",
    "deberta_v2",
    "distilbert",
    "opt",
    "opt_postnorm",
    "gpt2",
    "gpt_neox",
    "llama",
    "gemma2",
)


def hidden(bench: Bench, folder: Path, options: str, *overrides: str, **kind: str) -> tuple[Any, HiddenKey]:
    settings = ("adapter.method=hidden_key", "adapter.targets=[q,v]", f"adapter.update_options={{{options}}}")
    training = bench.prepare(folder, *settings, "adapter.dropout=0", *overrides, **kind)
    (update,) = training.hooks
    assert isinstance(update, HiddenKey)
    update.on_train_begin(STATE)
    return training, update


def batch_of(training: Any, rows: Any = range(6)) -> dict[str, torch.Tensor]:
    return training.loader.encoded.collate(rows)


# -- the loss ------------------------------------------------------------------------------------------------------------


def test_the_loss_by_hand(bench: Bench, tmp_path: Path):
    """[CE1 + CE2 + beta (KL(p1 || p2) + KL(p2 || p1)) / 2] / 2, summed over rows, of the two halves that the model gave."""
    training, _ = hidden(bench, tmp_path, "keys: 0.3, hidden: 0.3, beta: 0.7")
    batch = batch_of(training)
    seen: list[torch.Tensor] = []
    training.adapted.model.register_forward_hook(lambda module, args, output: seen.append(output.logits.detach()))
    loss = training.loss(training.model, batch)
    (logits,) = seen
    first, second = logits[:6].double(), logits[6:].double()
    assert not torch.allclose(first, second)
    p, q = torch.distributions.Categorical(logits=first), torch.distributions.Categorical(logits=second)
    kl = torch.distributions.kl_divergence
    cross = -p.log_prob(batch["labels"]).sum() - q.log_prob(batch["labels"]).sum()
    expected = (cross + 0.7 * (kl(p, q) + kl(q, p)).sum() / 2) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_of_a_number_the_kl_is_that_of_normal_distributions(bench: Bench, tmp_path: Path):
    training, _ = hidden(bench, tmp_path, "keys: 0.3, hidden: 0.3, beta: 0.7", kind="number")
    batch = batch_of(training)
    seen: list[torch.Tensor] = []
    training.adapted.model.register_forward_hook(lambda module, args, output: seen.append(output.logits.detach()))
    loss = training.loss(training.model, batch)
    first, second = seen[0][:6, 0].double(), seen[0][6:, 0].double()
    p, q = torch.distributions.Normal(first, 1.0), torch.distributions.Normal(second, 1.0)
    kl = torch.distributions.kl_divergence
    squared = sum(((half - batch["labels"]) ** 2).sum() for half in (first, second))
    expected = (squared + 0.7 * (kl(p, q) + kl(q, p)).sum() / 2) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_of_several_labels_the_kl_is_that_of_each_by_itself(bench: Bench, tmp_path: Path):
    training, _ = hidden(bench, tmp_path, "keys: 0.3, hidden: 0.3, beta: 0.7", kind="several")
    batch = batch_of(training)
    seen: list[torch.Tensor] = []
    training.adapted.model.register_forward_hook(lambda module, args, output: seen.append(output.logits.detach()))
    loss = training.loss(training.model, batch)
    p, q = (torch.distributions.Bernoulli(logits=half.double()) for half in seen[0].chunk(2))
    kl, labels = torch.distributions.kl_divergence, batch["labels"].double()
    cross = -p.log_prob(labels).mean(-1).sum() - q.log_prob(labels).mean(-1).sum()
    expected = (cross + 0.7 * (kl(p, q) + kl(q, p)).mean(-1).sum() / 2) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("family", thinned(FAMILIES, 3))
def test_without_draws_it_is_the_plain_loss(bench: Bench, tmp_path: Path, family: str):
    """keys so small that none is hidden: the masks go through DropKey all the same, and change nothing; both passes agree."""
    training, _ = hidden(bench, tmp_path, "keys: 1e-12, hidden: 0, beta: 3", family=family)
    for rows in (range(6), [3, 3]):  # with padding, and without any
        batch = batch_of(training, rows)
        plain = training.objective.summed(training.model, batch)
        assert_close(training.loss(training.model, batch), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", thinned(["sdpa", "eager"], 2))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_under_every_attention_and_precision(bench: Bench, tmp_path: Path, attention: str, precision: str, family: str):
    settings = (f"model.attention={attention}", f"training.precision={precision}")
    training, _ = hidden(bench, tmp_path, "keys: 0.5, hidden: 0.5, beta: 1", *settings, family=family)
    for rows in (range(6), [3, 3]):
        loss = training.loss(training.model, batch_of(training, rows))
        assert torch.isfinite(loss)
        loss.backward()
    gradients = [t.parameter.grad for t in training.adapted.trained() if t.role == "B"]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


# -- DropKey -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta_v2"])
def test_hidden_keys_are_out_of_the_attention(bench: Bench, tmp_path: Path, family: str):
    """Columns that are drawn have no weight in any head and query, the others sum to one; other rows hide other keys."""
    training, update = hidden(bench, tmp_path, "keys: 0.4, hidden: 0, beta: 0", "model.attention=eager", family=family)
    model = training.adapted.model
    update.active = True
    batch = {name: tensor for name, tensor in batch_of(training, range(8)).items() if name != "labels"}
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions
    update.active = False
    real = batch["attention_mask"].bool()
    layers = weights[1:] if family == "gpt2" else weights  # of a causal model the second half
    if family == "gpt2":
        unseen = (weights[0] == 0) & real[:, None, None, :] & torch.ones(real.shape[1], real.shape[1]).tril().bool()
        assert not (unseen & real[:, None, :, None]).any()
    columns = []
    for each in layers:
        assert_close(each.sum(-1)[:, :, 0], torch.ones(each.shape[:2]))
        last = each[
            torch.arange(len(real)), :, real.sum(1) - 1
        ]  # the last real query sees every key: (rows, heads, keys)
        gone = (last == 0).all(1) & real
        assert torch.equal((last == 0) & real[:, None], gone[:, None].expand_as(last))  # the same in every head
        for row in range(len(real)):
            for query in range(int(real[row].sum())):
                line = each[row, :, query]
                if (line[:, gone[row]] != 0).any():  # it would have lost all of its keys
                    assert family == "gpt2"
                    assert gone[row, : query + 1].all()
        columns.append(gone)
    share = torch.stack(columns).sum() / (len(columns) * real.sum())
    assert 0.2 < share < 0.6
    assert len({tuple(row.tolist()) for row in columns[0]}) > 1
    if len(columns) > 1:
        assert not torch.equal(columns[0], columns[1])  # each layer its own


def test_a_query_that_would_lose_every_key_keeps_its_own():
    allowed = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    keep = torch.tensor([False, True, False])[None, None, None]
    assert hide(allowed, keep)[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert torch.equal(hide(allowed, torch.zeros_like(keep)), allowed)


def test_masks_of_every_form_mean_the_same():
    x = torch.zeros(2, 3, 4)
    seen = torch.tensor([[True, True, False], [True, False, False]])[:, None, None]
    added = torch.zeros(2, 1, 1, 3).masked_fill(~seen, torch.finfo(torch.float32).min)
    for mask in (seen, seen.int(), added, added.masked_fill(~seen, float("-inf"))):
        assert torch.equal(visible(mask, x, causal=True), seen)
        assert torch.equal(visible(like(seen, mask, x, sdpa=True), x, causal=True), seen)
        assert like(seen, mask, x, sdpa=True).dtype == mask.dtype
    assert visible(None, x, causal=True)[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert visible(None, x, causal=False).all()
    assert like(seen, None, x, sdpa=True).dtype == torch.bool
    assert like(seen, None, x, sdpa=False).dtype == torch.float32


# -- HiddenCut -----------------------------------------------------------------------------------------------------------


def test_hidden_units_are_dropped_and_the_rest_made_up_for(bench: Bench, tmp_path: Path):
    training, update = hidden(bench, tmp_path, "keys: 0, hidden: 0.25, beta: 0")
    module = update.sites[0]
    seen: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    batch = batch_of(training)
    training.objective.summed(training.model, batch)
    training.loss(training.model, batch)
    plain, cut = seen
    assert plain.shape[-1] == 48
    dropped = cut == 0
    assert 0.15 < dropped[plain != 0].float().mean() < 0.35
    assert_close(cut[~dropped], plain[~dropped] / 0.75)


# -- and nothing else ----------------------------------------------------------------------------------------------------


def test_evaluation_knows_nothing_of_it(bench: Bench, tmp_path: Path):
    training, update = hidden(bench, tmp_path, "keys: 0.5, hidden: 0.5, beta: 1")
    plain = bench.prepare(tmp_path / "plain", "adapter.targets=[q,v]", "adapter.dropout=0")
    batch = batch_of(training)
    expected = plain.objective.logits(plain.model, batch)
    random = torch.get_rng_state()
    assert torch.equal(training.objective.logits(training.model, batch), expected)
    assert torch.equal(torch.get_rng_state(), random)
    training.loss(training.model, batch).backward()
    update.after_backward(STATE)
    assert torch.equal(training.objective.logits(training.model, batch), expected)


def test_afterwards_the_model_is_as_it_was(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path, "adapter.method=hidden_key")
    (update,) = training.hooks

    def hooks() -> list[list[Any]]:
        modules: list[nn.Module] = list(training.adapted.model.modules())
        return [[*module._forward_hooks.values(), *module._forward_pre_hooks.values()] for module in modules]

    before = hooks()
    update.on_train_begin(STATE)
    assert sum(map(len, hooks())) == sum(map(len, before)) + 1 + 2 + 2  # the model, two layers, two FFNs
    update.on_train_end(STATE)
    assert hooks() == before


def test_with_beta_zero_there_is_one_pass(bench: Bench, tmp_path: Path):
    training, _ = hidden(bench, tmp_path, "keys: 0, hidden: 0, beta: 0")
    rows: list[int] = []
    training.adapted.model.register_forward_hook(lambda module, args, output: rows.append(len(output.logits)))
    batch = batch_of(training)
    logits = training.objective.logits(training.model, batch)
    assert_close(training.loss(training.model, batch), F.cross_entropy(logits, batch["labels"], reduction="sum"))
    assert rows == [6, 6]


def test_what_cannot_be_masked_is_refused(bench: Bench, tmp_path: Path):
    training, update = hidden(bench, tmp_path, "beta: 0")
    training.recipe.model.attention = "flash_attention_2"
    with pytest.raises(RecipeError, match="needs an attention that takes a mask"):
        HiddenKey(update.context)
