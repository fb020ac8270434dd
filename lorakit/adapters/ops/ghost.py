"""A term that is not there: it adds nothing to a sum, and receives the sum's gradient all the same."""

from __future__ import annotations

from typing import Any

import torch


class Ghost(torch.autograd.Function):
    """``Ghost.apply(sum, term)`` is the sum, to the bit; going back, sum and term both get its gradient.

    It tells what a site that is off would learn from a step without being in the function, for the price of its own path alone.
    """

    @staticmethod
    def forward(ctx: Any, total: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
        """The first of the two, copied: some models go on to change it in place, which autograd forbids for a view made here."""
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The same gradient for both."""
        return gradients[0], gradients[0]
