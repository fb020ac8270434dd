"""What Accelerate decides: which process this is, its device and precision, trackers; and what it would leave out without a word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from torch import nn

from lorakit.errors import Problem, RecipeError, UsageError
from lorakit.recipe.keys import plain_values
from lorakit.recipe.schema import AUTO, Recipe
from lorakit.training.losses import ClassLoss, LabelLoss
from lorakit.training.objective import Objective
from lorakit.training.optimizer import optimizers

DATA_PARALLEL = ("MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU")
FSDP = "ACCELERATE_USE_FSDP"
"""What tells that the processes were launched to shard."""
ROAD = "accelerate launch --use_fsdp --fsdp_version 2 --num_processes 2 -m lorakit train RECIPE"
ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}
"""What tells that the processes were launched for another engine -> its name."""
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""``training.precision`` -> Accelerate's name of it."""


class OwnPrecision(Accelerator):
    """An accelerator that keeps its precision: Accelerate has one for the whole process, that of the accelerator made last."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.own: str = self.state.mixed_precision

    @property
    def mixed_precision(self) -> str:
        """Accelerate's name of it."""
        return self.own

    @contextmanager
    def autocast(self, autocast_handler: Any = None) -> Iterator[None]:
        """Within it products are computed in this precision."""
        self.state._mixed_precision = self.own
        with super().autocast(autocast_handler):
            yield

    def prepare_model(self, *args: Any, **kwargs: Any) -> Any:
        """The model on its device, computing in this precision."""
        self.state._mixed_precision = self.own
        return super().prepare_model(*args, **kwargs)


def this_process() -> PartialState:
    """Which of the processes this is; Accelerate's own default misses `accelerate launch --cpu` where nothing was made before."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def core_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_accelerator(recipe: Recipe, folder: Path | None = None) -> Accelerator:
    """The device and precision of the recipe, and its trackers where a run's folder is given.

    Raises UsageError for engines that shard what trains, and for FSDP where nothing would be sharded (``sharding``).
    """
    refuse_elsewhere()
    for switch, engine in ENGINES.items():
        if parse_flag_from_env(switch):
            raise not_possible(engine)
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = OwnPrecision(
        mixed_precision=PRECISIONS[recipe.training.precision],
        log_with=recipe.run.trackers if folder and recipe.run.trackers else None,
        project_dir=str(folder) if folder else None,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.distributed_type.value not in ("NO", *DATA_PARALLEL):
        raise not_possible(accelerator.distributed_type.value)
    if folder and recipe.run.trackers:
        accelerator.init_trackers("lorakit", config=dict(plain_values(recipe)))
    return accelerator


def refuse_elsewhere() -> None:
    """UsageError where FSDP is asked for and nothing would be sharded: in every command but `lorakit train`."""
    if parse_flag_from_env(FSDP):
        raise UsageError("only lorakit train shards a model", valid=ROAD, hint="the same command without --use_fsdp")


def not_possible(engine: str) -> UsageError:
    """Of an engine that shards what trains."""
    return UsageError(
        f"training under {engine} is not possible: adapters are switched, counted and saved whole",
        valid="data parallel, on any number of machines, or FSDP version 2: it shards the frozen model alone",
        hint=f"accelerate launch --multi_gpu; in less memory: {ROAD}",
    )


def put_on_device(model: nn.Module, recipe: Recipe, *, regression: bool, multi_label: bool = False) -> Objective:
    """Move a model, one that is not trained, to the recipe's device; what computes its logits and losses there."""
    loss = LabelLoss() if multi_label else ClassLoss()
    objective = Objective(make_accelerator(recipe), regression, loss, recipe.task.window_pooling)
    objective.accelerator.prepare_model(model)
    return objective


def check_precision(recipe: Recipe) -> None:
    """Gradients through float16 weights vanish unless the loss is scaled, which mixed precision does."""
    if recipe.model.dtype == "float16" and recipe.training.precision != "fp16":
        raise RecipeError(
            "weights in float16 train with scaled losses only",
            key="training.precision",
            valid="fp16",
            hint="or model.dtype=bfloat16",
        )


def check_device(recipe: Recipe) -> None:
    """Accelerate trains in plain float32, and says nothing, where float16 is asked for and there is no GPU.

    Steps in float16 depend on how its loss scale was found, which steps that are undone again must not touch.
    """
    if recipe.training.precision == "fp16" and recipe.training.lr == AUTO:
        raise RecipeError(
            "no rate can be found in float16", key="training.lr", valid="a number; or training.precision=bf16"
        )
    if recipe.training.precision == "fp16" and this_process().device.type == "cpu":
        raise RecipeError(
            "float16 needs a GPU, and there is none here", key="training.precision", valid="fp32, or bf16 on a CPU too"
        )


def check_optimizer_runs(recipe: Recipe) -> None:
    """RecipeError where the recipe's optimiser needs another device than this one, or a package that is not there."""
    optimizers.get(recipe.training.optimizer).check(this_process().device)


def check_trackers(recipe: Recipe) -> None:
    """Refuse trackers whose package is missing: Accelerate would leave them out silently. ``all`` is whatever is installed."""
    installed = [str(name) for name in get_available_trackers()]
    problems = [
        Problem(
            f"tracker '{name}' is not installed",
            key="run.trackers",
            valid=", ".join(installed) or "none is installed",
            hint=f"pip install {name}",
        )
        for name in recipe.run.trackers
        if name not in ("all", *installed)
    ]
    if problems:
        raise RecipeError(problems)
