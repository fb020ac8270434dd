"""Prefixes inside the models' attention: what PEFT's own cases do not cover."""

from __future__ import annotations

import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.block import blocks
from lorakit.adapters.blocks.prefix import prefixes_in
from lorakit.backbone.load import Backbone
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

N = 3
SECTION = {"method": "prefix_tuning", "rank": N}
FAMILIES = (
    *("bert", "roberta", "distilbert", "electra", "opt", "opt_postnorm", "gpt2", "gpt_neox"),
    *("llama", "mistral", "qwen2", "gemma", "gemma2"),
)


def disturbed(backbone: Backbone) -> AdaptedModel:
    adapted = adapt(backbone, AdapterSection(**SECTION))  # type: ignore[arg-type]
    disturb(adapted)
    return adapted


def attentions(adapted: AdaptedModel) -> list[nn.Module]:
    """The modules that hold the prefixes, layer by layer."""
    held = {id(adapter): name for name, adapter in adapted.adapters.items()}
    found = {
        held[id(child)]: module
        for module in adapted.model.modules()
        for child in module.children()
        if id(child) in held
    }
    return [found[name] for name in adapted.adapters]


@pytest.mark.parametrize("family", FAMILIES[:-1])  # Gemma 2 caps its scores, and has no sdpa for that
def test_sdpa_and_eager_agree(fresh: Fresh, family: str) -> None:
    eager = fresh(family)
    eager.model.set_attn_implementation("eager")
    ours, theirs = disturbed(fresh(family)), disturbed(eager)
    assert ours.model.config._attn_implementation == "sdpa"
    batch = batch_for(ours.model)
    assert_close(evaluated(ours.model, batch), evaluated(theirs.model, batch), rtol=1e-4, atol=1e-5)
    unpadded = {"input_ids": batch["input_ids"][:1]}  # sdpa gets no mask here
    assert_close(evaluated(ours.model, unpadded), evaluated(theirs.model, unpadded), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(fresh: Fresh, family: str) -> None:
    model = disturbed(fresh(family)).model
    batch = batch_for(model)
    length = int(batch["attention_mask"][1].sum())
    assert length < batch["input_ids"].shape[1]
    alone = {name: tensor[1:, :length] for name, tensor in batch.items()}
    assert_close(evaluated(model, batch)[1:], evaluated(model, alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_decoder_still_does_not_look_ahead(fresh: Fresh, family: str, attention: str) -> None:
    backbone = fresh(family)
    backbone.model.set_attn_implementation(attention)
    base = disturbed(backbone).model.base_model
    tokens = batch_for(backbone.model)["input_ids"][:1]
    other = tokens.clone()
    other[0, 4] = (tokens[0, 4] + 1) % 60
    with torch.no_grad():
        before, after = base(tokens).last_hidden_state, base(other).last_hidden_state
    assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_distilbert_by_hand(fresh: Fresh) -> None:
    """PEFT has no prefix for it: softmax over prefix and text, written out."""
    adapted = disturbed(fresh("distilbert"))
    batch = batch_for(adapted.model)
    module, adapter = attentions(adapted)[1], list(adapted.adapters.values())[1]
    seen: list[torch.Tensor] = []
    module.register_forward_hook(lambda m, args, kwargs, out: seen.extend([args[0], out[0]]), with_kwargs=True)
    evaluated(adapted.model, batch)
    hidden, out = seen

    expected = torch.empty_like(hidden)
    for row in range(len(hidden)):
        real = batch["attention_mask"][row].bool()
        query, key, value = (
            F.linear(hidden[row], layer.weight, layer.bias) for layer in (module.q_lin, module.k_lin, module.v_lin)
        )
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            keys = torch.cat([adapter.delta.keys[:, part], key[real][:, part]])
            values = torch.cat([adapter.delta.values[:, part], value[real][:, part]])
            scores = query[:, part] @ keys.T / 8**0.5
            expected[row, :, part] = scores.softmax(-1) @ values
    expected = F.linear(expected, module.out_lin.weight, module.out_lin.bias)
    real = batch["attention_mask"].bool()
    assert_close(out[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_layer_that_is_off_knows_nothing_of_it(fresh: Fresh, family: str) -> None:
    adapted = disturbed(fresh(family))
    config = adapted.model.config
    lower, upper = attentions(adapted)
    names = list(adapted.adapters)
    assert [lower.config is config, upper.config is config] == [False, False]
    adapted.switch(names[1:])
    assert [lower.config is config, upper.config is config] == [True, False]
    assert prefixes_in(lower) == []
    adapted.switch(names, off="freeze")
    adapted.switch([])
    assert all(attention.config is config for attention in (lower, upper))


def test_two_prefixes_are_one_long_prefix(fresh: Fresh) -> None:
    backbone = fresh("llama")
    first, second = disturbed(backbone), disturbed(backbone)
    long = adapt(fresh("llama"), AdapterSection(method="prefix_tuning", rank=2 * N))
    for name, adapter in long.adapters.items():
        with torch.no_grad():
            for tensor, parameter, _ in adapter.tensors():
                parameter.copy_(torch.cat([a.tensors()[f"{name}.{tensor}"] for a in (second, first)]))
    batch = batch_for(backbone.model)
    assert_close(evaluated(backbone.model, batch), evaluated(long.model, batch), rtol=1e-4, atol=1e-5)


def test_keys_are_as_wide_as_the_layers_own(fresh: Fresh) -> None:
    widths = {
        family: {
            (site.in_features, site.out_features) for site in blocks.get("prefix").sites(fresh(family, shared=True))
        }
        for family in ("bert", "gpt2", "gpt_neox", "llama")
    }
    assert widths == {"bert": {(32, 32)}, "gpt2": {(32, 32)}, "gpt_neox": {(32, 32)}, "llama": {(16, 16)}}


@pytest.mark.parametrize("family", ["deberta", "deberta_v2", "mpnet"])
def test_an_attention_of_its_own_is_refused(fresh: Fresh, family: str) -> None:
    with pytest.raises(RecipeError, match="no way into the attention") as caught:
        blocks.get("prefix").sites(fresh(family, shared=True))
    assert caught.value.problems[0].key == "adapter.method"


def test_another_attention_function_is_refused(fresh: Fresh) -> None:
    backbone = fresh("llama")
    backbone.model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(RecipeError, match="flash_attention_2") as caught:
        blocks.get("prefix").sites(backbone)
    assert caught.value.problems[0].key == "model.attention"
    assert caught.value.problems[0].valid == "sdpa, eager"


@pytest.mark.parametrize(
    ("method", "delta"), [("layer_norm", "prefix"), ("prompt_tuning", "prefix"), ("lora", "prompt")]
)
def test_it_goes_nowhere_else(fresh: Fresh, method: str, delta: str) -> None:
    with pytest.raises(RecipeError, match=f"delta '{delta}' cannot sit on"):
        adapt(fresh("bert"), AdapterSection(method=method, delta=delta, rank=N))
