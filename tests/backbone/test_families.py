"""What must hold for every family: sites, weights, head, padding and residual sums of a tiny random checkpoint."""

import pytest
import torch
from safetensors.torch import load_file
from support.models import FAMILIES
from torch import nn
from transformers import AutoModelForSequenceClassification

from lorakit.backbone.families import families

SEPARATE = ["q", "k", "v", "o", "up", "down"]
FUSED = ["qkv", "o", "up", "down"]
GATED = ["q", "k", "v", "o", "gate", "up", "down"]
# family -> (registered family, the roles of one layer, prefix of the layers, whether its blocks are post-norm)
EXPECTED = {
    "bert": ("bert", SEPARATE, "bert.encoder.layer", True),
    "roberta": ("roberta", SEPARATE, "roberta.encoder.layer", True),
    "deberta": ("deberta", [*FUSED, "other", "other"], "deberta.encoder.layer", True),
    "deberta_v2": ("deberta_v2", [*SEPARATE, "other", "other"], "deberta.encoder.layer", True),
    "distilbert": ("distilbert", SEPARATE, "distilbert.transformer.layer", True),
    "electra": ("electra", SEPARATE, "electra.encoder.layer", True),
    "opt": ("opt", SEPARATE, "model.decoder.layers", False),
    "opt_postnorm": ("opt", SEPARATE, "model.decoder.layers", True),
    "gpt2": ("gpt2", FUSED, "transformer.h", False),
    "gpt_neox": ("gpt_neox", FUSED, "gpt_neox.layers", None),
    "gpt_neox_serial": ("gpt_neox", FUSED, "gpt_neox.layers", False),
    "llama": ("llama", GATED, "model.layers", False),
    "mistral": ("llama", GATED, "model.layers", False),
    "qwen2": ("llama", GATED, "model.layers", False),
    "gemma": ("gemma", GATED, "model.layers", False),
    "gemma2": ("gemma", GATED, "model.layers", False),
    "mpnet": ("mpnet", SEPARATE, "mpnet.encoder.layer", None),
}
# (in, out) of each role in the tiny models: width 32, MLP 48, and two of four key and value heads where the MLP is gated.
SHAPES = {"q": (32, 32), "k": (32, 32), "v": (32, 32), "qkv": (32, 96), "o": (32, 32), "other": (32, 32)}
SHAPES |= {"up": (32, 48), "gate": (32, 48), "down": (48, 32)}
TEXTS = ["a good film", "the plot was never dull , and the cast likes the old joke !", "bad"]

every_family = pytest.mark.parametrize("family", FAMILIES)
with_streams = pytest.mark.parametrize("family", [name for name, row in EXPECTED.items() if row[3] is not None])


@every_family
def test_sites(family, tiny, load):
    registered, roles, prefix, _ = EXPECTED[family]
    backbone = load(tiny(family))
    anatomy = backbone.anatomy
    assert anatomy.family == registered
    assert (registered in families) == (family != "mpnet")
    for layer in (0, 1):
        sites = [site for site in anatomy.sites if site.layer == layer]
        assert sorted(site.role for site in sites) == sorted(roles)
        assert all(site.name.startswith(f"{prefix}.{layer}.") for site in sites)
        narrow = roles == GATED
        for site in sites:
            expected = (32, 16) if narrow and site.role in ("k", "v") else SHAPES[site.role]
            assert (site.in_features, site.out_features) == expected, site
            module = backbone.model.get_submodule(site.name)
            assert site.kind == ("linear" if isinstance(module, nn.Linear) else "conv1d")
            assert module(torch.zeros(1, site.in_features)).shape == (1, site.out_features)
    assert len(anatomy.sites) == 2 * len(roles)
    names = [name for name, _ in backbone.model.named_modules()]
    assert [site.name for site in anatomy.sites] == sorted((s.name for s in anatomy.sites), key=names.index)
    owners = {part.rpartition(".")[0] for part in backbone.new_parts}
    assert owners.isdisjoint(site.name for site in anatomy.sites)


@every_family
def test_weights_and_new_parts(family, tiny, load):
    model, new_parts = (backbone := load(tiny(family))).model, backbone.new_parts
    _, info = AutoModelForSequenceClassification.from_pretrained(
        tiny(family), num_labels=2, dtype=torch.float32, output_loading_info=True
    )
    assert set(new_parts) == set(info["missing_keys"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == new_parts
    saved = load_file(tiny(family) / "model.safetensors")
    prefix = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        if name not in new_parts:
            assert torch.equal(parameter, saved[name.removeprefix(prefix)]), name
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.label2id == {"no": 0, "yes": 1}
    assert not model.config.use_cache
    assert not model.training


@every_family
def test_a_row_is_the_same_alone_and_in_a_padded_batch(family, tiny, load):
    backbone = load(tiny(family))
    tokenizer = backbone.tokenizer
    together = tokenizer(TEXTS, padding=True, return_tensors="pt")
    lengths = together["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) == 3
    assert tokenizer.padding_side == "right"
    assert backbone.model.config.pad_token_id == tokenizer.pad_token_id
    with torch.no_grad():
        batch = backbone.model(**together).logits
        for row, text in enumerate(TEXTS):
            alone = backbone.model(**tokenizer(text, return_tensors="pt")).logits[0]
            torch.testing.assert_close(batch[row], alone, rtol=1e-4, atol=1e-6)
    assert (batch[0] - batch[1]).abs().max() > 1e-5


@with_streams
def test_the_residual_sums_are_where_the_family_says(family, tiny, load):
    backbone = load(tiny(family))
    anatomy = backbone.anatomy
    assert [sums.post_norm for sums in anatomy.residual_sums] == [EXPECTED[family][3]] * 2
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def record(module, inputs, output):
        flat = [(x[0] if isinstance(x, tuple) else x).reshape(-1, 32) for x in (inputs, output)]
        seen[module] = (flat[0], flat[1])

    branches = []
    for sums in anatomy.residual_sums:
        inner = {site.role: site.name for site in anatomy.sites if site.name.startswith(f"{sums.path}.")}
        branch = [backbone.model.get_submodule(inner["o"]), backbone.model.get_submodule(inner["down"])]
        if family == "gemma2":  # it normalises each branch before it is added
            branch = [sums.layer.post_attention_layernorm, sums.layer.post_feedforward_layernorm]
        branches.append(branch)
        for module in (sums.layer, sums.attention_norm, sums.output_norm, branch[0]):
            if module is not None:
                module.register_forward_hook(record)
        branch[1].register_forward_hook(lambda m, i, o: seen.__setitem__(m, (None, o.reshape(-1, 32))))
    with torch.no_grad():
        backbone.model(**backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    previous = None
    for sums, (attention, mlp) in zip(anatomy.residual_sums, branches, strict=True):
        layer_in, layer_out = seen[sums.layer]
        attention_sum, normed = seen[sums.attention_norm]
        torch.testing.assert_close(attention_sum, layer_in + seen[attention][1])
        if sums.output_norm is not None:
            mlp_sum, normed_output = seen[sums.output_norm]
            torch.testing.assert_close(mlp_sum, normed + seen[mlp][1])
            assert torch.equal(normed_output, layer_out)
        else:
            torch.testing.assert_close(layer_out, attention_sum + seen[mlp][1])
        if previous is not None:
            assert torch.equal(previous, layer_in)
        previous = layer_out


def test_every_registered_family_is_tried_here():
    assert {row[0] for row in EXPECTED.values()} - {"mpnet"} == set(families.names())
    assert set(EXPECTED) == set(FAMILIES)
