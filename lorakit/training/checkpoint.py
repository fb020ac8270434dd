"""Everything a training needs to go on as if it had never stopped: trained tensors, optimiser, schedule, streams, hooks.

checkpoints/step-N/model.safetensors       adapters and head (the frozen backbone is not in it)
checkpoints/step-N/optimizer.safetensors   the optimiser's state
checkpoints/step-N/streams.safetensors     the states of every process's torch generators
checkpoints/step-N/state.json              counters, best epoch, schedule, hooks
checkpoints/step-N/hooks.safetensors       what hooks remember that is too large for JSON, where there is anything
checkpoints/step-N/sums.json               sha256 of the others
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from lorakit.artifacts.adapter_file import read_tensors, save_tensors
from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.files import folder, read_json, remove_folder, write_json
from lorakit.artifacts.records import reading
from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import STATE, all_checkpoints
from lorakit.errors import RunError, UsageError, command_line
from lorakit.tasks.cache import sha256_of
from lorakit.training.hooks import Hook

if TYPE_CHECKING:
    from lorakit.training.training import Training

logger = logging.getLogger(__name__)

MODEL, OPTIMIZER, STREAMS = "model.safetensors", "optimizer.safetensors", "streams.safetensors"
HOOKS = "hooks.safetensors"
SUMS = "sums.json"
FORMAT = 2
"""Of state.json. 1, which does not say so, kept the states of hooks under the names of their classes."""
SEARCH = "search"
SUMMED = (MODEL, OPTIMIZER, STREAMS, STATE)


def save_checkpoint(training: Training, keep: int) -> Path:
    """Write ``step-N``, whole or not at all, then delete all but the newest ``keep``. Every process takes part, the main one writes."""
    root = training.run.checkpoints
    path = root / f"step-{training.state.step}"
    streams, losses = all_stream_states(training.accelerator), pending_losses(training)
    if not training.accelerator.is_main_process:
        return path
    with folder(path) as target:
        optimizer = training.optimizer.state_dict()
        moments = {
            f"{index}.{name}": torch.as_tensor(value)
            for index, entry in optimizer["state"].items()
            for name, value in entry.items()
        }
        files = {MODEL: training.adapted.tensors(), OPTIMIZER: moments, STREAMS: streams}
        if remembered := remembered_tensors(training):
            files[HOOKS] = remembered
        for name, tensors in files.items():
            with FaultPoint("checkpoint's tensors"):
                save_tensors(tensors, target / name)
        record = {
            "format": FORMAT,
            "train": asdict(training.state),
            "processes": training.accelerator.num_processes,
            "losses": losses,
            "groups": optimizer["param_groups"],
            "scheduler": training.scheduler.state_dict(),
            "scaler": training.accelerator.scaler.state_dict() if training.accelerator.scaler else None,
            "hooks": {name: hook.state_dict() for name, hook in stateful(training).items()},
        }
        write_json(target / STATE, record)
        write_json(target / SUMS, {name: sha256_of(target / name) for name in (*files, STATE)})
    prune(root, keep)
    return path


def prune(root: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``."""
    for old in all_checkpoints(root)[:-keep]:
        remove_folder(old)


@FaultPoint("resuming")
def load_checkpoint(training: Training) -> Path:
    """Continue from the newest checkpoint that is whole, and forget the records made after it. RunError where there is none."""
    for path in reversed(all_checkpoints(training.run.checkpoints)):
        if intact(path):
            with reading(path / STATE, "the state of this training"):
                restore(training, path)
            return path
        logger.warning("%s is damaged or was only half written: going on from the one before", path)
    raise RunError(
        "there is no checkpoint to resume from", where=str(training.run.path), hint="train anew, without --resume"
    )


def restore(training: Training, path: Path) -> None:
    """Put everything back. UsageError where it was written by another number of processes, whose dropout cannot go on in these."""
    record: dict[str, Any] = read_json(path / STATE)
    processes, here = record["processes"], training.accelerator.num_processes
    if processes != here:
        raise UsageError(
            f"this run was begun with {processes} process{'es' * (processes > 1)}, and this is {here}",
            where=str(path),
            hint=f"accelerate launch --num_processes {processes} -m {command_line('train', training.run.path, '--resume')}",
        )
    for name, value in record["train"].items():
        setattr(training.state, name, value)
    share, device = float(training.accelerator.is_main_process), training.accelerator.device  # the others add nothing
    training.losses[:] = [torch.tensor(loss * share, device=device) for loss in record["losses"]]
    training.norms[:] = [torch.zeros_like(loss) for loss in training.losses]  # looked at before they were saved
    training.adapted.load_tensors(read_tensors(path / MODEL))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in read_tensors(path / OPTIMIZER).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = tensor
    training.optimizer.load_state_dict({"state": moments, "param_groups": record["groups"]})
    training.scheduler.load_state_dict(record["scheduler"])
    if record["scaler"] is not None:
        training.accelerator.scaler.load_state_dict(record["scaler"])
    restore_hooks(training, record, path)
    restore_streams(read_tensors(path / STREAMS), training.accelerator.process_index)
    if training.accelerator.is_main_process:
        training.run.rewind(training.state.step)
        for damaged in all_checkpoints(path.parent)[::-1]:
            if damaged == path:
                break
            remove_folder(damaged)
        # A kill may have come before the last ones were deleted.
        prune(path.parent, training.recipe.run.keep_checkpoints)


def kept_state(run: Run, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """What the hook ``name`` of another training kept at its newest whole checkpoint, and its tensors; None where there is nothing."""
    for path in reversed(all_checkpoints(run.checkpoints)):
        if intact(path):
            with reading(path / STATE, "the state of a training"):
                state = read_json(path / STATE)["hooks"].get(name)
            return None if state is None else (state, tensors_of(name, path))
    return None


def tensors_of(name: str, path: Path) -> dict[str, torch.Tensor]:
    """What a hook remembers in tensors, by its own names."""
    held = read_tensors(path / HOOKS) if (path / HOOKS).is_file() else {}
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in held.items() if key.startswith(f"{name}/")}


def stateful(training: Training) -> dict[str, Hook]:
    """Name -> hook, of those whose state is kept."""
    named = [hook for hook in training.hooks if hook.name]
    found = {hook.name: hook for hook in named}
    if len(found) < len(named):
        raise ValueError(f"two hooks of this training have one name: {', '.join(hook.name for hook in named)}")
    return found


def restore_hooks(training: Training, record: Mapping[str, Any], path: Path) -> None:
    """Every hook goes on from its state. RunError where one has none, or where there is a state that belongs to none."""
    hooks, states = stateful(training), dict(record["hooks"])
    if record.get("format", 1) < FORMAT:  # states were kept under the names of classes
        states = {hook.name: states[kind] for hook in hooks.values() if (kind := type(hook).__name__) in states}
        if "policy" in states.get(SEARCH, {}):
            states[SEARCH]["allocator"] = states[SEARCH].pop("policy")
    for problem, names in (("has no state of", hooks.keys() - states), ("has the state of", states.keys() - hooks)):
        if names:
            raise RunError(
                f"the checkpoint {problem} {', '.join(sorted(names))}, and this training has {', '.join(hooks) or 'none'}",
                where=str(path),
                hint="go on with the recipe and the hooks that the run was begun with, or train anew",
            )
    for name, hook in hooks.items():
        hook.load_state_dict(states[name])
    for name, hook in hooks.items():
        if own := tensors_of(name, path):
            hook.load_tensor_state(own)


def remembered_tensors(training: Training) -> dict[str, torch.Tensor]:
    """``<hook>/<its name for it>`` -> what hooks remember in tensors."""
    hooks = stateful(training).items()
    return {f"{name}/{key}": tensor for name, hook in hooks for key, tensor in hook.tensor_state().items()}


def intact(path: Path) -> bool:
    """Whether every file is there with the bytes that were written."""
    try:
        sums = read_json(path / SUMS)
        held = [name for name in (*SUMMED, HOOKS) if name in SUMMED or name in sums]
        return bool({name: sha256_of(path / name) for name in held} == sums)
    except (OSError, RunError):
        return False


def pending_losses(training: Training) -> list[float]:
    """The loss of every step since the last log line, of all processes together."""
    if not training.losses:
        return []
    summed: Any = training.accelerator.reduce(torch.stack(training.losses))
    values: list[float] = summed.tolist()
    return values


def all_stream_states(accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """``<process>.<device>`` -> the state of that process's torch generator there (dropout draws from them)."""
    states = {f"{accelerator.process_index}.cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        states[f"{accelerator.process_index}.cuda"] = torch.cuda.get_rng_state(accelerator.device)
    if accelerator.num_processes == 1:
        return states
    return dict(gather_object(list(states.items())))


def restore_streams(states: dict[str, torch.Tensor], process: int) -> None:
    """Put this process's generators back."""
    torch.set_rng_state(states[f"{process}.cpu"])
    if torch.cuda.is_available() and f"{process}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{process}.cuda"])
