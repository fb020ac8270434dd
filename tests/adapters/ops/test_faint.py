"""Its value to the bit, and a share of its gradient."""

from __future__ import annotations

import torch

from lorakit.adapters.ops.faint import Faint


def test_the_tensor_itself_and_a_share_of_its_gradient() -> None:
    tensor = torch.tensor([0.1, -3.0], requires_grad=True)
    out = Faint.apply(tensor, torch.tensor([0.25]))
    assert torch.equal(out, tensor)
    (gradient,) = torch.autograd.grad(out, tensor, torch.tensor([8.0, 1.0]))
    assert gradient.tolist() == [2.0, 0.25]
