"""P-tuning's network, written out."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.prompt_encoder import PromptEncoder
from lorakit.backbone.site import Site

SITE = Site("prompt", -1, "prompt", 6, 6, "input")


@pytest.mark.parametrize("hidden", [0, 4])
def test_two_hidden_layers_of_relu(hidden: int) -> None:
    delta = PromptEncoder(SITE, 3, {"hidden": hidden})
    delta.put_at_start(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for bias in (delta.b1, delta.b2, delta.b3):
            bias.normal_(generator=torch.Generator().manual_seed(len(bias)))
    t = {name: parameter.detach().double().numpy() for name, parameter in delta.named_parameters()}
    first = np.maximum(t["embeddings"] @ t["W1"].T + t["b1"], 0)
    second = np.maximum(first @ t["W2"].T + t["b2"], 0)
    assert first.shape == (3, hidden or 6)
    assert_close(delta.tokens().detach().double(), torch.from_numpy(second @ t["W3"].T + t["b3"]), rtol=1e-5, atol=1e-6)


def test_starts_as_torch_layers_do_with_biases_at_zero() -> None:
    delta = PromptEncoder(Site("prompt", -1, "prompt", 400, 400, "input"), 100, {"hidden": 100})
    delta.put_at_start(torch.Generator().manual_seed(0))
    for weight in (delta.W1, delta.W2, delta.W3):
        bound = weight.shape[1] ** -0.5
        assert weight.abs().max() <= bound
        assert_close(weight.std().item(), bound / 3**0.5, rtol=0.03, atol=0)
    assert not any(bias.any() for bias in (delta.b1, delta.b2, delta.b3))
    assert_close(delta.embeddings.std().item(), 1.0, rtol=0.02, atol=0)
