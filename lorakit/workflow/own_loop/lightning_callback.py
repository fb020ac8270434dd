"""A search in the Trainer of Lightning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lorakit.errors import UsageError

if TYPE_CHECKING:
    from lorakit.workflow.own_loop.search import Search

HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def callback_of(search: Search) -> Any:
    """A callback of Lightning's own kind, which has to be installed."""
    from lightning.pytorch import Callback

    return type("SearchCallback", (SearchMoments, Callback), {})(search)


class SearchMoments:
    """Calls a search at Lightning's moments (``Search.lightning_callback``)."""

    def __init__(self, search: Search):
        self.search = search
        self.held: dict[str, Any] = {}  # of a checkpoint, which is read before the training begins

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Begin, or go on where the checkpoint was."""
        search, loader = self.search, trainer.train_dataloader
        if len(trainer.optimizers) != 1:
            raise UsageError(f"a search goes with one optimiser, and this module has {len(trainer.optimizers)}")
        size = None if loader.batch_size is None else loader.batch_size * trainer.world_size
        search.take_over(loader, size, HALVES.get(trainer.precision))
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        steps = trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UsageError("how long the training is to be is not known", hint="max_steps or max_epochs")
        search.begin(trainer.optimizers[0], steps=int(steps), steps_per_epoch=per_epoch)
        search.check_callback(clipped=False, scheduled=True)
        if trainer.global_step:
            if self.held.get("step") != trainer.global_step:
                raise UsageError(
                    f"the training goes on at step {trainer.global_step}, and the checkpoint has no search there"
                )
            search.load_state_dict(self.held)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Before the first pass of a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.search.before_step()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """The step's gradients are there, not yet clipped."""
        self.search.after_backward()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a pass, and after the step where it was its last."""
        if trainer.global_step > self.search.state.step:
            self.search.after_step()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """After the last step."""
        self.search.end()

    def state_dict(self) -> dict[str, Any]:
        """What Lightning writes into its checkpoint."""
        return self.search.state_dict() if self.search.hook is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the training begins."""
        self.held = state_dict
