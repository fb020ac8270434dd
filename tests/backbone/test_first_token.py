"""Leaving out the tokens that a head does not read changes no logit and no gradient."""

import pytest
import torch
from support.models import FAMILIES
from torch import nn
from torch.nn.functional import cross_entropy

from lorakit.backbone.first_token import compute_first_token_only

TEXTS = ["a good film", "the plot was never dull , and the cast likes the old joke !", "bad"]
READ_ONE = ("bert", "roberta", "electra")


def outcome(model, batch):
    """Logits, and the gradient of every parameter."""
    model.zero_grad()
    logits = model(**batch).logits
    cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", READ_ONE)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_gradients_are_those_of_all_tokens(family, attention, tiny, load):
    backbone = load(tiny(family), attention=attention)
    model = backbone.model.requires_grad_(True).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    rows = {site.role: 0 for site in backbone.anatomy.sites if site.layer == 1}

    def count(role):
        return lambda module, args: rows.__setitem__(role, args[0][..., 0].numel())

    for site in backbone.anatomy.sites:
        if site.layer == 1:
            model.get_submodule(site.name).register_forward_pre_hook(count(site.role))
    batch = backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
    every = batch["input_ids"].numel()
    logits, gradients = outcome(model, batch)
    assert rows == dict.fromkeys(("q", "k", "v", "o", "up", "down"), every)
    handle = compute_first_token_only(model, backbone.anatomy)
    fewer_logits, fewer_gradients = outcome(model, batch)
    assert rows == {"q": every, "k": every, "v": every, "o": 3, "up": 3, "down": 3}
    torch.testing.assert_close(fewer_logits, logits, rtol=1e-5, atol=1e-6)
    assert fewer_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fewer_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    outcome(model.eval(), batch)
    assert rows == dict.fromkeys(rows, every)
    handle.remove()
    assert torch.equal(outcome(model, batch)[0], logits)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(READ_ONE)))
def test_other_families_stay_whole(family, tiny, load):
    backbone = load(tiny(family))
    assert compute_first_token_only(backbone.model, backbone.anatomy) is None


def test_code_that_is_not_transformers_stays_whole(tiny, load):
    backbone = load(tiny("bert"))
    own = type("MeanPooling", (type(backbone.model),), {"__module__": "transformers_modules.theirs"})
    backbone.model.__class__ = own
    assert compute_first_token_only(backbone.model, backbone.anatomy) is None
