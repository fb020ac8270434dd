"""Diff pruning's two phases: gates pressed shut by a penalty, then the largest changes alone (Guo et al. 2021, section 3).

loss + penalty * sum of P(z != 0) over all gates of the sites that are on        until ``prune_at`` of the steps are done

Then the ``keep`` largest |z w| of all sites together stay, as one number of w each with its gate open for good; every other w is 0,
its gate shut, and the gates train no more.
Not checked against the authors' code, which was not read: follows section 3 of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.deltas.sparse import Sparse
from lorakit.adapters.options import Option
from lorakit.adapters.switching import ON, freeze_for_good
from lorakit.errors import RecipeError
from lorakit.tasks.batching import Batch, SummedLoss
from lorakit.training.hooks import TrainState
from lorakit.training.pruning import largest, part
from lorakit.training.schedule import steps_in
from lorakit.training.update import Update, UpdateContext, updates


class DiffPruning(Update):
    """Penalises open gates, then keeps the largest changes."""

    name: ClassVar = "diff_pruning"
    summary: ClassVar = "a penalty on open gates, then the largest changes alone"
    source: ClassVar = "Guo et al. 2021, section 3"
    fixes_entries = True
    options: ClassVar = {
        "penalty": Option(1.25e-7, "added to the loss for each gate that is expected to be open", low=0.0),
        "keep": Option(0.005, "share of the adapted weights that may differ in the end", low=0.0, high=1.0),
        "prune_at": Option(0.5, "share of the steps after which the others are put back", low=0.0, high=1.0),
    }

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """Raises RecipeError where there are no gates."""
        gated(adapted)
        return []

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.pruned = False
        self.gated = gated(context.adapted)

    def settled(self, state: TrainState) -> bool:
        """Whether the mask is fixed."""
        return self.pruned

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and, until the mask is fixed, the penalty for each of the batch's rows."""

        def penalised(model: nn.Module, batch: Batch) -> torch.Tensor:
            summed = loss(model, batch)
            if self.pruned:
                return summed
            rows = len(batch["labels"])
            open_gates = [delta.expected_open() for adapter, delta in self.gated if adapter.state == ON]
            return sum((rows * self.settings["penalty"] * number for number in open_gates), start=summed)

        return penalised

    def after_step(self, state: TrainState) -> None:
        """Fix the mask once its time has come."""
        if not self.pruned and state.step >= steps_in(self.settings["prune_at"], state.total_steps):
            self.prune()

    @torch.no_grad()
    def prune(self) -> None:
        """Keep the largest changes of all sites together; their optimiser's moments begin anew, as those of another task."""
        sizes = torch.cat([delta.dense().abs().flatten() for _, delta in self.gated])
        kept = largest(sizes, part(self.settings["keep"], len(sizes)))
        parts = kept.split([delta.w.numel() for _, delta in self.gated])
        for (_, delta), chosen in zip(self.gated, parts, strict=True):
            delta.keep_only(chosen.view_as(delta.w))
            self.context.optimizer.state.pop(delta.w, None)
        self.finish()

    def finish(self) -> None:
        """From here on gates neither train nor cost anything."""
        self.pruned = True
        for adapter, delta in self.gated:
            freeze_for_good(adapter, "gate")
            self.context.optimizer.state.pop(delta.gate, None)

    def state_dict(self) -> dict[str, Any]:
        """Whether the mask is fixed; the mask itself is the gates, which are saved with the adapters."""
        return super().state_dict() | {"pruned": self.pruned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue in the phase that was saved."""
        super().load_state_dict(state)
        if state["pruned"]:
            self.finish()


def gated(adapted: AdaptedModel) -> list[tuple[Adapter, Sparse]]:
    """The adapters with gates. Raises RecipeError where there are none."""
    found = [(each, each.delta) for each in adapted.adapters.values() if isinstance(each.delta, Sparse)]
    if not found:
        raise RecipeError(
            "diff_pruning shuts the gates of delta 'sparse', and no site has any",
            key="adapter.updates",
            hint="adapter.method=diff_pruning, or adapter.delta=sparse",
        )
    return found


updates.register(DiffPruning)
