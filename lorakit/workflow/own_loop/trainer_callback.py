"""A search in the Trainer of transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lorakit.adapters.gradient_checkpointing import recompute_layers
from lorakit.errors import UsageError
from lorakit.workflow.own_loop.passes import models_own_loss

if TYPE_CHECKING:
    from lorakit.workflow.own_loop.search import Search

CHECKPOINT, ADAPTER = "checkpoint", "adapter"


class SearchCallback(TrainerCallback, ExportableState):
    """Calls a search at the Trainer's moments (``Search.callback``)."""

    def __init__(self, search: Search | None = None):
        if search is None:
            what = "restore_callback_states_from_checkpoint makes callbacks anew, and a search cannot be made of a checkpoint"
            raise UsageError(what, hint="leave it out: search.callback() takes its state up by itself")
        self.search = search

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Begin, or go on where the checkpoint was."""
        search, loader, optimizer = self.search, parts["train_dataloader"], parts["optimizer"]
        if args.load_best_model_at_end:
            what = "load_best_model_at_end puts back earlier weights under the sites that the last tick left on"
            raise UsageError(what, hint="lorakit.attach_saved(model, 'checkpoint-N/adapter') has the sites of its step")
        if args.label_smoothing_factor and search.passes.loss is models_own_loss:
            what = "the Trainer smooths labels (label_smoothing_factor), and the model's own loss does not"
            raise UsageError(
                what, hint="lorakit.Search(..., loss=FUNCTION) with a (model, batch) -> loss that smooths them too"
            )
        precision = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        search.take_over(loader, args.train_batch_size * args.world_size, precision)
        per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
        search.begin(getattr(optimizer, "optimizer", optimizer), steps=state.max_steps, steps_per_epoch=per_epoch)
        search.check_callback(clipped=bool(args.max_grad_norm), scheduled=False)
        if getattr(search.adapted.model, "is_gradient_checkpointing", False):
            recompute_layers(search.adapted.inside)
        if state.global_step:
            self.go_on(state)

    def go_on(self, state: TrainerState) -> None:
        """Take up the state of the checkpoint. UsageError where it has none."""
        told: Any = state.stateful_callbacks
        kept = told.get(type(self).__name__)
        held = kept.get("attributes", {}).get("search") if isinstance(kept, dict) else None
        if not held or held["step"] != state.global_step:
            what = (
                f"the training goes on at step {state.global_step}, and the checkpoint has no state of the search there"
            )
            raise UsageError(
                what, hint="a checkpoint that was written with this callback; or a training from its beginning"
            )
        self.search.load_state_dict(held)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Before the first pass of a step."""
        self.search.before_step()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """The step's gradients are there, clipped."""
        self.search.after_backward()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """The optimiser has stepped."""
        self.search.after_step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """The adapter beside the Trainer's own checkpoint."""
        if state.is_world_process_zero:
            self.search.adapted.save(Path(str(args.output_dir)) / f"{CHECKPOINT}-{state.global_step}" / ADAPTER)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """After the last step."""
        self.search.end()

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into its checkpoint."""
        begun = self.search.hook is not None
        return {"args": {}, "attributes": {"search": self.search.state_dict() if begun else {}}}
