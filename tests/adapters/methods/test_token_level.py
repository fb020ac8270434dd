"""Token-level adaptation (Belofsky 2023): nothing but the head trains; a row's weights are a softmax of cosines with E centroids."""

from __future__ import annotations

import math

import torch
from support.adapters.cases import Fresh, adapt, batch_for, evaluated
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.adapters.deltas.centroid_experts import CentroidExperts
from lorakit.recipe.schema import AdapterSection

test_contract = contract(
    "token_level",
    parameters=lambda rank, inside, outside: 0,
    families=("bert", "gpt2", "llama"),
    options={"experts": "3"},
)


def test_the_weights_are_a_softmax_of_cosines_of_the_mean_state_padding_left_out() -> None:
    states = torch.tensor([[[3.0, 0.0], [0.0, 3.0], [9.0, 9.0]], [[4.0, 0.0], [0.0, 0.0], [0.0, 7.0]]])
    text = torch.tensor([[True, True, False], [True, False, False]])
    centroids = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    found = CentroidExperts.weights({"C": centroids}, {"temperature": 0.5}, states, text, training=False)
    one, zero = math.exp(1 / 0.5), math.exp(0.0)
    by_row = torch.tensor([[0.5, 0.5], [one / (one + zero), zero / (one + zero)]])
    assert_close(found, by_row[:, None, None].expand(2, 3, 1, 2))


def test_a_text_takes_the_expert_of_the_texts_it_is_like(fresh: Fresh) -> None:
    """At a low temperature, with a row's own mean state for a centroid: the other expert could be any."""
    section = AdapterSection(method="token_level", options={"experts": "2", "temperature": "1e-4"})
    adapted = adapt(fresh("bert"), section)
    batch = batch_for(adapted.model)
    states = evaluated_states(fresh, batch)
    (shared,) = adapted.shared.values()
    with torch.no_grad():
        shared.C[0], shared.C[1] = states[0].mean(dim=0), -states[0].mean(dim=0)
    first = {name: tensor[:1] for name, tensor in batch.items()}
    before = evaluated(adapted.model, first)
    with torch.no_grad():
        for adapter in adapted.adapters.values():
            adapter.delta.B[:, adapter.rank :].add_(1.0)  # the second expert's
    assert_close(evaluated(adapted.model, first), before)
    with torch.no_grad():
        shared.C.neg_()
    assert not torch.allclose(evaluated(adapted.model, first), before, rtol=1e-2, atol=1e-2)


def evaluated_states(fresh: Fresh, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return fresh("bert").model.base_model(**batch).last_hidden_state
