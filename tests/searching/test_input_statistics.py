"""What sites see, where a batch's rows are not the rows that layers see."""

from __future__ import annotations

import pytest
import torch
from support.models import TinyModels

from lorakit.backbone.load import load_backbone
from lorakit.recipe.schema import ModelSection
from lorakit.searching.input_statistics import input_means

FIRST = ["a good film", "the plot was never dull , and the cast likes the old joke !"]
SECOND = ["the joke is old", "bad"]


@pytest.mark.parametrize("readout", ["own", "pair"])
def test_padding_is_left_out_of_joined_texts_and_of_texts_read_apart(tiny: TinyModels, readout: str) -> None:
    section = ModelSection(name=str(tiny("distilbert")), readout=readout)
    backbone = load_backbone(section, labels=("no", "yes"), regression=False, seed=0)
    tokenizer, model = backbone.tokenizer, backbone.model
    site = next(site for site in backbone.anatomy.sites if site.layer == 1)
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(site.name).register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for rows in zip(FIRST, SECOND, strict=True):
        for texts in [[text] for text in rows] if readout == "pair" else [rows]:
            model.base_model(**tokenizer(*texts, return_tensors="pt"))
    handle.remove()
    tokens = torch.cat(seen)
    batch = tokenizer(FIRST, SECOND, padding=True, return_tensors="pt")
    means = input_means(model, [site], [batch], lambda model, batch: model(**batch).logits)[site.name]
    torch.testing.assert_close(means["mean"], tokens.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means["covariance"], tokens.T @ tokens / len(tokens), rtol=1e-4, atol=1e-5)
