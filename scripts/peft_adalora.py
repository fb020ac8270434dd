"""PEFT's AdaLoRA in lorakit's loop conditions: same model, rows, batches, optimiser, learning-rate schedule and evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import peft
import torch

from lorakit.recipe.load import load_recipe
from lorakit.training.dropout import fast_dropout
from lorakit.training.evaluation import score_splits
from lorakit.training.loader import TrainLoader
from lorakit.training.objective import Objective
from lorakit.training.optim import make_scheduler
from lorakit.training.schedule import make_schedule
from lorakit.training.seeds import derive_seed
from lorakit.workflow.accelerator import make_accelerator
from lorakit.workflow.prepare import seed_dropout
from lorakit.workflow.setup import assemble


def train_peft(recipe: Path, seed: int, target: int, shrinking: dict[str, float]) -> dict[str, Any]:
    """Train a recipe of lorakit's `adalora` with PEFT's instead; its scores, parameters and seconds.

    target: the rank left on average; shrinking: warmup and tail as shares of the steps, every in epochs, as the recipe's search has them.
    """
    loaded = load_recipe(str(recipe), [f"run.seed={seed}"])
    settings = loaded.recipe.training
    parts = assemble(loaded)
    encoded = parts.encode("train", *parts.task.validation)
    schedule = make_schedule(loaded.recipe, len(encoded["train"]))
    linear, total = parts.linear, schedule.total_steps
    torch.manual_seed(derive_seed(seed, "init"))
    config = peft.AdaLoraConfig(
        init_r=linear.rank,
        target_r=target,
        tinit=round(shrinking["warmup"] * total),
        tfinal=round(shrinking["tail"] * total),
        deltaT=max(1, round(shrinking["every"] * schedule.steps_per_epoch)),
        total_step=total,
        lora_alpha=int(linear.alpha),
        target_modules=[site.name for site in parts.sites],
        modules_to_save=sorted({name.split(".")[0] for name in parts.backbone.new_parts}),
        task_type="SEQ_CLS",
    )
    model: Any = peft.get_peft_model(parts.backbone.model, config)  # type: ignore[arg-type]
    accelerator = make_accelerator(loaded.recipe)
    accelerator.prepare_model(model)
    if accelerator.device.type == "cpu":
        fast_dropout(model)  # as lorakit's sides have it
    objective = Objective(accelerator, parts.task.regression)
    loader = TrainLoader(encoded["train"], settings, derive_seed(seed, "data"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": settings.lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    scheduler = make_scheduler(optimizer, settings, schedule)
    seed_dropout(loaded.recipe)
    scores: list[float] = []
    step, begun = 0, time.perf_counter()
    model.train()
    while step < total:
        for step_batch in loader.step_batches(step // schedule.steps_per_epoch):
            with accelerator.autocast():
                output = model(
                    **{name: tensor.to(accelerator.device) for name, tensor in step_batch.batches[0].items()}
                )
            output.loss.backward()  # PEFT adds its orthogonality term to the model's own loss
            torch.nn.utils.clip_grad_norm_(trained, settings.clip)
            optimizer.step()
            scheduler.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step in schedule.evaluations:
                splits = {name: encoded[name] for name in parts.task.validation}
                found = score_splits(model, parts.task, splits, objective, loaded.recipe.evaluation.batch_size)
                scores.append(found["accuracy"])
            if step == total:
                break
    ranks = [int((layer.lora_E["default"] != 0).sum()) for layer in adalora_layers(model)]
    widths = [layer.in_features + layer.out_features + 1 for layer in adalora_layers(model)]
    return {
        "last": scores[-1],
        "best": max(scores),
        "parameters": sum(rank * width for rank, width in zip(ranks, widths, strict=True)),
        "ranks": ranks,
        "seconds": time.perf_counter() - begun,
    }


def adalora_layers(model: Any) -> list[Any]:
    """Its adapted modules."""
    return [module for module in model.modules() if hasattr(module, "lora_E") and len(module.lora_E)]
