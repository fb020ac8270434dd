"""A product that counts more than it learns: its value, and its gradients, against the sum written out."""

from __future__ import annotations

import pytest
import torch
from support.adapters.products import SITE
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.pushed import Pushed
from lorakit.adapters.method import resolve
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

PUSH, SCALE = 1.7, 0.6


def pushed() -> Pushed:
    """Begun at random factors, which have moved since."""
    generator = torch.Generator().manual_seed(1)
    delta = deltas.get("pushed")(SITE, 3).double()
    assert isinstance(delta, Pushed)
    for move in (True, False):
        for name in ("A", "B"):
            delta.get_parameter(name).data.normal_(generator=generator)
        if move:
            delta.begin(PUSH)
    return delta


def test_it_is_the_product_and_its_change_times_the_push() -> None:
    delta = pushed()
    now, then = delta.B @ delta.A, delta.B_start @ delta.A_start
    expected = (now + PUSH * (now - then)).detach()
    b, a = delta.factors()
    assert (b.shape, a.shape) == ((7, 6), (6, 5))
    assert_close(delta.dense(), expected)
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert_close(delta(x, SCALE), SCALE * x @ expected.T)


def test_the_factors_learn_as_if_the_push_were_a_constant_and_the_input_does_not() -> None:
    delta = pushed()
    weights = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    results = []
    for by_hand in (False, True):
        x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
        now = delta.B @ delta.A
        whole = now + PUSH * (now - delta.B_start @ delta.A_start).detach()
        out = SCALE * x @ whole.T if by_hand else delta(x, SCALE)
        results.append(torch.autograd.grad((out * weights).sum(), [x, delta.A, delta.B]))
    assert_close(results[0], results[1])


def test_what_is_kept_cannot_be_what_trains() -> None:
    with pytest.raises(RecipeError, match="does not name the tensors of delta 'pushed'"):
        resolve(AdapterSection(method="delta_lora", trainable="start"))
    with pytest.raises(RecipeError, match="'B' starts at zero and does not train"):
        resolve(AdapterSection(method="delta_lora", trainable="A"))
