"""FSDP version 2: the frozen matrices of the model in shards, one a process; all that trains whole on each.

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 2 -m lorakit train RECIPE

A layer's matrices are gathered for the layer's own passes, forward and backward, and freed again (torch's ``fully_shard``); so are those
of the token embedding, and what else the model has. Vectors (biases, norms), adapters and head stay whole, and so does a matrix that
stands at two places: switching, counting, scoring and saving are what they are in one process. Gradients of what trains are averaged
as under data parallel (``training.gradients``).

Accelerate launches the processes and gives devices and precision. Its own way with FSDP is not taken: it would shard what trains too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env, patch_environment
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.backbone.quantised import KEY, NONE, quantised_modules
from lorakit.errors import Problem, RecipeError, UsageError
from lorakit.recipe.schema import Recipe
from lorakit.searching.allocator import allocators
from lorakit.searching.proxy import proxies
from lorakit.training.update import chosen_updates
from lorakit.workflow.accelerator import FSDP, ROAD, this_process

OPTIONS = {
    ("FSDP_OFFLOAD_PARAMS", "true"): ("--fsdp_offload_params false", "model.dtype=bfloat16 halves what is sharded"),
    ("FSDP_RESHARD_AFTER_FORWARD", "false"): ("--fsdp_reshard_after_forward true", ""),
    ("FSDP_ACTIVATION_CHECKPOINTING", "true"): (
        "--fsdp_activation_checkpointing false",
        "training.gradient_checkpointing=true",
    ),
}
"""Accelerate's setting and its value that is refused -> what is valid, and what to try."""
LAYERS_LEFT_OUT = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")


@contextmanager
def launched_for_training() -> Iterator[bool]:
    """Whether this training shards its model; within it, Accelerate and transformers see plain data parallel.

    Raises UsageError for FSDP version 1, and for options of Accelerate's that are not followed.
    """
    if not parse_flag_from_env(FSDP):
        yield False
        return
    check_options()
    with patch_environment(**{FSDP: "false"}):
        yield this_process().num_processes > 1


def check_options() -> None:
    """UsageError for what `accelerate launch` was told and is not done here."""
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UsageError(
            f"training under FSDP version {version} is not possible: it makes one vector of what trains and what is frozen",
            valid="--fsdp_version 2",
            hint=ROAD,
        )
    for (name, value), (valid, hint) in OPTIONS.items():
        if os.environ.get(name, "").lower() == value:
            what = f"{name.lower()}={value} is not followed: each layer is gathered for its own passes, on the device"
            raise UsageError(f"{what}, and recomputed where the recipe says so", valid=valid, hint=hint)


def check_sharding(recipe: Recipe) -> None:
    """RecipeError for all of a recipe that needs frozen weights whole while it trains."""
    problems = []
    if recipe.model.quantization != NONE:
        problems.append(of_quantised(recipe.model.quantization))
    if recipe.training.freeze_below:
        problems.append(
            Problem(
                "frozen layers run for rows of their own on each process, and sharded ones run on all processes at once",
                key="training.freeze_below",
                valid="null with FSDP",
            )
        )
    search = recipe.search
    if search.method != "none":
        allocator = allocators.get(search.method)
        if allocator.needs_weight_gradients:
            problems.append(
                Problem(
                    f"allocator '{search.method}' looks at gradients of the frozen weights, which are sharded",
                    key="search.method",
                    valid="heterolora, adalora and others that look at the adapters' own",
                    hint="lorakit search RECIPE in one process writes a recipe with its ranks",
                )
            )
        if allocator.by_proxy and proxies.get(search.proxy).rewrites_weights:
            problems.append(
                Problem(
                    f"proxy '{search.proxy}' rewrites the frozen weights, and these are sharded",
                    key="search.proxy",
                    valid=", ".join(name for name, proxy in proxies.items() if not proxy.rewrites_weights),
                )
            )
    for kind, _ in chosen_updates(recipe):
        if kind.needs_whole_weights:
            what = f"update '{kind.name}' looks at the frozen weights, which are sharded"
            problems.append(Problem(what, key="adapter.updates", hint="data parallel, or one process"))
    if problems:
        raise RecipeError(problems)


def of_quantised(kind: str) -> Problem:
    """Why quantised weights are not sharded."""
    return Problem(
        f"weights quantised to {kind} are kept in buffers, which FSDP leaves whole on every process",
        key=KEY,
        valid=f"{NONE} with FSDP",
        hint="data parallel, where every process holds the few bits whole; or model.dtype=bfloat16 with FSDP",
    )


def check_model(model: nn.Module) -> None:
    """RecipeError for a model that cannot be sharded: quantised in its folder, or with layers that are left out at random."""
    if any(True for _ in quantised_modules(model)):
        raise RecipeError(of_quantised("few bits"))
    if dropped := [name for name in LAYERS_LEFT_OUT if getattr(model.config, name, None)]:
        raise RecipeError(
            f"the model leaves layers out at random ({dropped[0]}), others on each process, and all must gather the same ones",
            key="model.name",
            hint=f"{dropped[0]}: 0 in its config.json; or data parallel",
        )


def shard(adapted: AdaptedModel, accelerator: Accelerator) -> nn.Module:
    """Leave this process its shard of each frozen matrix, on the accelerator's device; the model, which is changed.

    Layer by layer: the device never holds more than one whole. What stays whole starts as it is on the first process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = accelerator.device
    model: nn.Module = accelerator.prepare_model(adapted.model, device_placement=False, evaluation_mode=True)
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    whole = kept_whole(adapted)
    for unit in units(adapted):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for tensor in adapted.tensors().values():
        torch.distributed.broadcast(tensor, src=0)
    return model


def unit_bytes(adapted: AdaptedModel) -> list[int]:
    """Bytes that are shared out of each layer, the token embedding and the rest. RecipeError for a model that is not shared."""
    check_model(adapted.model)
    counted, sizes = kept_whole(adapted), []
    for unit in units(adapted):
        mine = set(unit.parameters()) - counted
        counted |= mine
        sizes.append(sum(parameter.nbytes for parameter in mine))
    return sizes


def units(adapted: AdaptedModel) -> list[nn.Module]:
    """What is gathered by itself, the model for the rest last."""
    embedding = adapted.model.get_input_embeddings()  # type: ignore[operator]
    return [*(layer for _, layer in adapted.backbone.anatomy.layers), embedding, adapted.model]


def kept_whole(adapted: AdaptedModel) -> set[nn.Parameter]:
    """What every process keeps: the adapters' and all that trains, vectors, and matrices that stand at several places."""
    model = adapted.model
    held = [*adapted.adapters.values(), *adapted.shared.values()]
    places = Counter(parameter for _, parameter in model.named_parameters(remove_duplicate=False))
    return {
        *(parameter for module in held for parameter in module.parameters()),
        *(tensor.parameter for tensor in adapted.trained()),
        *(parameter for parameter, count in places.items() if count > 1 or parameter.ndim < 2),
    }
