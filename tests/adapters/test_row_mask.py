"""What modules of a model are given: rows, or something that only has their shape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lorakit.adapters.row_mask import TOKENS, not_given_rows

GIVEN = {
    "rows": lambda x: [x],
    "flattened": lambda x: [x.flatten(0, 1)],
    "with an axis more": lambda x: [x[:, None]],
    "twice": lambda x: [x, 2 * x],
    "tokens before rows": lambda x: [x.transpose(0, 1)],
    "positions": lambda x: [torch.ones(1, TOKENS, x.shape[-1])],
    "as many positions as tokens": lambda x: [torch.ones(1, 2 * TOKENS, x.shape[-1])],
    "rows, then positions": lambda x: [x, torch.ones(1, 2 * TOKENS, x.shape[-1])],
    "rows that are mixed": lambda x: [x.flip(0)],
    "parts of rows": lambda x: [x[:, ::2]],
}


class Model(nn.Module):
    """Gives its one module what is asked for."""

    def __init__(self, given: Any):
        super().__init__()
        self.config, self.given = SimpleNamespace(is_encoder_decoder=False), given
        self.words, self.site = nn.Embedding(3, 4), nn.Linear(4, 4)

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        for x in self.given(self.words(input_ids)):
            self.site(x)


@pytest.mark.parametrize("what", GIVEN)
def test_only_rows_of_tokens_are_rows(what: str) -> None:
    model = Model(GIVEN[what])
    found = not_given_rows(model, {"site": model.site})
    assert found == ("" if what in [*GIVEN][:4] else "site")
    assert model.training
    assert not model._forward_pre_hooks
    assert not model.site._forward_pre_hooks
