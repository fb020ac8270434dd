"""Virtual tokens on the models' input: what stands where, and what heads read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated, hooks
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.block import blocks
from lorakit.backbone.load import Backbone
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

N = 3
ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta", "deberta_v2")
DECODERS = ("opt", "opt_postnorm", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "gemma", "gemma2")
FAMILIES = (*ENCODERS, *DECODERS)


def disturbed(backbone: Backbone, method: str = "prompt_tuning", rank: int = N) -> AdaptedModel:
    adapted = adapt(backbone, AdapterSection(method=method, rank=rank))
    disturb(adapted)
    return adapted


def embeddings(adapted: AdaptedModel) -> torch.nn.Parameter:
    (adapter,) = adapted.adapters.values()
    return adapter.delta.get_parameter("embeddings")


def speak(adapted: AdaptedModel, words: torch.Tensor) -> None:
    """Make the virtual tokens these words."""
    with torch.no_grad():
        embeddings(adapted).copy_(adapted.model.get_input_embeddings()(words))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(fresh: Fresh, family: str) -> None:
    model = disturbed(fresh(family)).model
    batch = batch_for(model)
    length = int(batch["attention_mask"][1].sum())
    assert length < batch["input_ids"].shape[1]
    alone = {name: tensor[1:, :length] for name, tensor in batch.items()}
    assert_close(evaluated(model, batch)[1:], evaluated(model, alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "mistral", "qwen2", "gemma", "gemma2"])
def test_virtual_tokens_that_are_words_are_those_words(fresh: Fresh, family: str) -> None:
    """With rotary positions the text behind them reads as one text with them; the head then pools the right token."""
    adapted = disturbed(fresh(family))
    words = torch.tensor([8, 21, 40])
    speak(adapted, words)
    batch = batch_for(adapted.model)
    whole = {
        "input_ids": torch.cat([words.expand(2, -1), batch["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones(2, N, dtype=torch.long), batch["attention_mask"]], dim=1),
    }
    plain = fresh(family, shared=True).model
    assert_close(evaluated(adapted.model, batch), evaluated(plain, whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "gpt2", "opt", "opt_postnorm"])
def test_the_text_keeps_its_positions(fresh: Fresh, family: str) -> None:
    """The same words put in by hand, each at the first position, between or behind the text's own."""
    adapted = disturbed(fresh(family))
    words = torch.tensor([8, 21, 40])
    speak(adapted, words)
    batch = batch_for(adapted.model)
    plain = fresh(family, shared=True).model
    ids, mask = batch["input_ids"], batch["attention_mask"]
    first = plain.config.pad_token_id + 1 if family == "roberta" else 0
    positions = torch.arange(first, first + ids.shape[1]).expand(2, -1)
    ones, starts = torch.ones(2, N, dtype=torch.long), torch.full((2, N), first)
    behind = (
        1 if family in ENCODERS else 0
    )  # an encoder may have them behind [CLS]: the order is in the positions alone

    def inserted(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return torch.cat([own[:, :behind], theirs, own[:, behind:]], dim=1)

    whole = {
        "input_ids": inserted(ids, words.expand(2, -1)),
        "attention_mask": inserted(mask, ones),
        "position_ids": inserted(positions, starts),
    }
    assert_close(evaluated(adapted.model, batch), evaluated(plain, whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_full_length_still_fits(fresh: Fresh, family: str) -> None:
    model = disturbed(fresh(family)).model
    tokens = torch.randint(4, 60, (1, 64), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    assert evaluated(model, batch).isfinite().all()


@pytest.mark.parametrize("family", ["bert", "deberta", "gpt2"])
def test_segments_grow_with_them(fresh: Fresh, family: str) -> None:
    model = disturbed(fresh(family)).model
    batch = batch_for(model)
    if family == "deberta":  # as tokenizers give them, though this one has no table for them
        segments = torch.zeros_like(batch["input_ids"])
        assert torch.equal(evaluated(model, batch | {"token_type_ids": segments}), evaluated(model, batch))
        return
    segments = (torch.arange(7) > 3).long().expand(2, -1)
    seen: list[dict[str, Any]] = []
    model.base_model.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    out = evaluated(model, batch | {"token_type_ids": segments})
    assert torch.equal(seen[0]["token_type_ids"], torch.cat([torch.zeros(2, N, dtype=torch.long), segments], dim=1))
    assert not torch.allclose(out, evaluated(model, batch))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_off_means_no_hooks(fresh: Fresh, family: str) -> None:
    backbone = fresh(family)
    before = hooks(backbone.model)
    adapted = disturbed(backbone)
    assert hooks(adapted.model) > before
    adapted.switch([])
    assert hooks(adapted.model) == before


def test_starts_at_words_that_depend_on_the_seed_alone(fresh: Fresh) -> None:
    section = AdapterSection(method="prompt_tuning", rank=N)
    one, same, other = (embeddings(adapt(fresh("bert"), section, seed=seed)) for seed in (1, 1, 2))
    table = fresh("bert", shared=True).model.get_input_embeddings().weight
    assert all((table == token).all(dim=1).any() for token in one)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_embeddings_are_as_wide_as_the_models_table(fresh: Fresh) -> None:
    widths = {
        family: blocks.get("prompt").sites(fresh(family, shared=True))[0].in_features
        for family in ("bert", "electra", "opt_postnorm")
    }
    assert widths == {"bert": 32, "electra": 16, "opt_postnorm": 16}


def test_a_family_whose_positions_are_not_known_is_refused(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="mpnet") as caught:
        blocks.get("prompt").sites(fresh("mpnet", shared=True))
    assert caught.value.problems[0].key == "adapter.method"


def test_the_network_sits_on_the_same_place(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="prompt_tuning", delta="prompt_encoder", rank=N))
    (adapter,) = adapted.adapters.values()
    assert {name for name, _, _ in adapter.tensors()} == {"embeddings", "W1", "b1", "W2", "b2", "W3", "b3"}
