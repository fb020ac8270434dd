"""The prefix's network, written out."""

import numpy as np
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.prefix_encoder import PrefixEncoder
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site

SITE = Site("layer.0.prefix", 0, "prefix", 6, 4, "layer")
OPTIONS = {"hidden": 5}


def test_one_hidden_layer_of_tanh_and_the_first_embeddings() -> None:
    shared = Shared(PrefixEncoder.shared_shapes([SITE], 8, OPTIONS), PrefixEncoder)
    delta = PrefixEncoder(SITE, 3, OPTIONS, shared)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*delta.parameters(), *shared.parameters()):
            parameter.normal_(generator=generator)
    t = {name: p.detach().double().numpy() for held in (delta, shared) for name, p in held.named_parameters()}
    assert t["embeddings"].shape == (8, 6)
    hidden = np.tanh(t["embeddings"][:3] @ t["W1"].T + t["b1"])
    keys, values = (states.detach().double() for states in delta.states())
    assert_close(keys, torch.from_numpy(hidden @ t["Wk"].T + t["bk"]), rtol=1e-5, atol=1e-6)
    assert_close(values, torch.from_numpy(hidden @ t["Wv"].T + t["bv"]), rtol=1e-5, atol=1e-6)
    assert keys.shape == (3, 6)
    assert values.shape == (3, 4)


def test_starts_as_torch_layers_do_with_biases_at_zero() -> None:
    options = {"hidden": 400}
    wide = Site("0.prefix", 0, "prefix", 300, 300, "layer")
    shared = Shared(PrefixEncoder.shared_shapes([wide], 100, options), PrefixEncoder)
    delta = PrefixEncoder(wide, 100, options, shared)
    for held in (shared, delta):
        held.put_at_start(torch.Generator().manual_seed(0))
    for weight, inputs in ((shared.W1, 300), (delta.Wk, 400), (delta.Wv, 400)):
        assert weight.abs().max() <= inputs**-0.5
        assert_close(weight.std().item(), (3 * inputs) ** -0.5, rtol=0.03, atol=0)
    assert_close(shared.embeddings.std().item(), 1.0, rtol=0.02, atol=0)
    assert not any(bias.any() for bias in (shared.b1, delta.bk, delta.bv))
