"""AdamW in 8 bits, whose moments may leave a full GPU for main memory (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, section 3).

    as `adamw_8bit`, its moments in CUDA's unified memory: pages go to main memory where the GPU has no room, and come back for a step

What is in pages are tensors of at least 100,000 numbers; smaller ones stay on the GPU. A longest batch then slows down in place of
running out of memory. With CUDA alone: elsewhere bitsandbytes would go on without pages, and that is refused.
Checked against the authors' code. It is theirs.
When to use it: on a GPU that is nearly full. Where there is room it costs nothing and saves nothing beside `adamw_8bit`.
"""

from __future__ import annotations

import torch

from lorakit.errors import RecipeError
from lorakit.recipe.schema import ADAMW
from lorakit.training.optimizer import KEY, Groups, OptimizerKind, Settings, optimizers
from lorakit.training.optimizers.adamw_8bit import (
    OPTIONS,
    check_installed,
    refusals_of,
    saved_flat,
    state_bytes,
)


def make(groups: Groups, settings: Settings, seed: int) -> torch.optim.Optimizer:
    """bitsandbytes' paged AdamW of 8 bits; it draws nothing."""
    return saved_flat("PagedAdamW8bit")(groups, min_8bit_size=settings["minimum"])  # type: ignore[call-arg]


def check(device: torch.device) -> None:
    """RecipeError where there are no pages, or no bitsandbytes."""
    if device.type != "cuda":
        raise RecipeError(
            f"no CUDA for paged optimisers: moments go between a GPU and main memory, and this device is {device.type}",
            key=KEY,
            valid=f"{ADAMW}, adamw_8bit or flora on this device",
            hint=f"{KEY}=adamw_8bit",
        )
    check_installed()


optimizers.register(
    OptimizerKind(
        name="paged_adamw_8bit",
        summary="adamw_8bit whose moments go to main memory where the GPU is full",
        source="Dettmers et al. 2023, QLoRA, section 3; bitsandbytes",
        make=make,
        state_bytes=state_bytes,
        options=OPTIONS,
        refusals=refusals_of("paged_adamw_8bit"),
        check=check,
    )
)
