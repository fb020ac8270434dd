"""Everything a training needs to go on as if it had never stopped: trained tensors, optimiser, schedule, streams, hooks.

checkpoints/step-N/model.safetensors       adapters and head (the frozen backbone is not in it)
checkpoints/step-N/optimizer.safetensors   AdamW's moments
checkpoints/step-N/streams.safetensors     the states of torch's generators
checkpoints/step-N/state.json              counters, best epoch, schedule, hooks, sha256 of the three files
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorakit.artifacts.adapter_file import read_tensors, save_tensors
from lorakit.artifacts.files import folder, read_json, write_json
from lorakit.errors import RunError

if TYPE_CHECKING:
    from lorakit.training.loop import Training

MODEL, OPTIMIZER, STREAMS = "model.safetensors", "optimizer.safetensors", "streams.safetensors"


def save_checkpoint(training: Training, keep: int) -> Path:
    """Write ``step-N``, whole or not at all, then delete all but the newest ``keep``."""
    root = training.run.checkpoints
    path = root / f"step-{training.state.step}"
    with folder(path) as target:
        save_tensors(training.adapted.state(), target / MODEL)
        optimizer = training.optimizer.state_dict()
        moments = {
            f"{index}.{name}": torch.as_tensor(value)
            for index, entry in optimizer["state"].items()
            for name, value in entry.items()
        }
        save_tensors(moments, target / OPTIMIZER)
        save_tensors(stream_states(), target / STREAMS)
        record = {
            "train": asdict(training.state),
            "losses": [float(loss) for loss in training.losses],
            "groups": optimizer["param_groups"],
            "scheduler": training.scheduler.state_dict(),
            "scaler": training.accelerator.scaler.state_dict() if training.accelerator.scaler else None,
            "hooks": {type(hook).__name__: state for hook in training.hooks if (state := hook.state_dict())},
            "sha256": {name: digest(target / name) for name in (MODEL, OPTIMIZER, STREAMS)},
        }
        write_json(target / "state.json", record)
    for old in all_checkpoints(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_checkpoint(training: Training) -> Path:
    """Continue from the newest checkpoint that is whole, and forget the records made after it. RunError where there is none."""
    for path in reversed(all_checkpoints(training.run.checkpoints)):
        if intact(path):
            restore(training, path)
            return path
    raise RunError(
        "there is no checkpoint to resume from", where=str(training.run.path), hint="train anew, without --resume"
    )


def restore(training: Training, path: Path) -> None:
    """Put everything back."""
    record: dict[str, Any] = read_json(path / "state.json")
    for name, value in record["train"].items():
        setattr(training.state, name, value)
    training.losses[:] = [torch.tensor(loss, device=training.accelerator.device) for loss in record["losses"]]
    training.adapted.load_state(read_tensors(path / MODEL))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in read_tensors(path / OPTIMIZER).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = tensor
    training.optimizer.load_state_dict({"state": moments, "param_groups": record["groups"]})
    training.scheduler.load_state_dict(record["scheduler"])
    if record["scaler"] is not None:
        training.accelerator.scaler.load_state_dict(record["scaler"])
    for hook in training.hooks:
        if type(hook).__name__ in record["hooks"]:
            hook.load_state_dict(record["hooks"][type(hook).__name__])
    restore_streams(read_tensors(path / STREAMS))
    if training.accelerator.is_main_process:
        training.run.rewind(training.state.step)


def all_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(root.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def intact(path: Path) -> bool:
    """Whether every file is there with the bytes that were written."""
    try:
        sums = read_json(path / "state.json")["sha256"]
        return all(digest(path / name) == value for name, value in sums.items())
    except (OSError, RunError, KeyError, TypeError):
        return False


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stream_states() -> dict[str, torch.Tensor]:
    """The states of torch's generators (dropout draws from them)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_streams(states: dict[str, torch.Tensor]) -> None:
    """Put torch's generators back."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda{index}"], index)
