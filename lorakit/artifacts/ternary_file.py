"""An adapter on disk in ComPEFT's code (``ternary``): what training added to its start, in two or so bits an entry.

    lorakit.json                 as of every adapter, and under "ternary" the code's numbers and the start
    lorakit_model.safetensors    the code's three arrays, and the head whole

The start is not in the folder. Where the recipe draws it (``drawn``) it is drawn again when the adapter is read, and some of its entries
tell whether it is the same one. Else what the recipe's init fills counts from zero, as in the authors' code, and what has a start of its
own, such as a B of zeros or DoRA's norms of W, from that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import (
    OUR_TENSORS,
    OURS,
    TERNARY_FORMAT,
    copy_in,
    description,
    file_names,
    packed_state,
    put_states,
    read_tensors,
    save_tensors,
    told_adapter,
)
from lorakit.artifacts.files import write_json
from lorakit.artifacts.records import number, reading
from lorakit.artifacts.ternary import ARRAYS, Ternary, packed, unpacked
from lorakit.errors import RunError

FORM = "ternary"
SAMPLED = 32
"""Entries of the start that the folder tells."""
ROUNDING = 1e-4
"""What another machine may make of the same draw, as a part of the sampled entries' largest."""


def is_ternary(path: Path) -> bool:
    """Whether the adapter in ``path`` is coded."""
    return told_adapter(path).get("form") == FORM


def starts_drawn(path: Path) -> bool:
    """Whether it is, and its start has to be drawn to read it."""
    told = told_adapter(path)
    with reading(path / OURS, "the description of a coded adapter"):
        return told.get("form") == FORM and told[FORM]["start"] == "drawn"


def coded_names(adapted: AdaptedModel) -> list[str]:
    """The tensors that are coded, in the order in which they make one vector: those that are written, but the head."""
    names = [key for file in file_names(adapted, native=False).values() for key in file]
    return sorted(set(names) - set(adapted.new_parts))


def flat(adapted: AdaptedModel) -> torch.Tensor:
    """These tensors as they are now (d,), float32."""
    state = packed_state(adapted)
    return torch.cat([state[name].detach().cpu().float().reshape(-1) for name in coded_names(adapted)])


def sample(start: torch.Tensor) -> list[float]:
    """Some entries of a start, from its whole length."""
    where = torch.linspace(0, len(start) - 1, min(SAMPLED, len(start)), dtype=torch.float64).long()
    return [float(value) for value in start[where]]


def write_ternary(adapted: AdaptedModel, target: Path, *, code: Ternary, start: torch.Tensor, drawn: bool) -> None:
    """Write the adapter's files into an existing folder; start (d,): what the code is added to."""
    state = packed_state(adapted)
    save_tensors(packed(code) | {name: state[name] for name in adapted.new_parts}, target / OUR_TENSORS)
    told = code.record | {"start": "drawn" if drawn else "own", "sample": sample(start)}
    write_json(target / OURS, description(adapted) | {"format": TERNARY_FORMAT, "form": FORM, FORM: told})


def load_ternary(adapted: AdaptedModel, path: Path) -> None:
    """Put values and states from ``path`` into a model built from the same recipe, at its start. RunError where they do not fit."""
    told = put_states(adapted, path)
    start, tensors = flat(adapted), read_tensors(path / OUR_TENSORS)
    head = {name: name for name in adapted.new_parts}
    if foreign := sorted(set(tensors) - set(ARRAYS) - set(head)):
        raise RunError(f"tensor {foreign[0]} has no place in this model", where=str(path / OUR_TENSORS))
    with reading(path / OURS, "the description of a coded adapter"):
        check_start(told[FORM], start, path)
    with reading(path / OUR_TENSORS, "a coded adapter"):
        code = unpacked(tensors, told[FORM], len(start))
    state = packed_state(adapted)
    names = coded_names(adapted)
    parts = (start + code.vector()).split([state[name].numel() for name in names])
    found = {
        name: part.reshape(state[name].shape).to(state[name].dtype) for name, part in zip(names, parts, strict=True)
    }
    copy_in(adapted, tensors | found, head | {name: name for name in names}, path)


def check_start(told: dict[str, Any], start: torch.Tensor, path: Path) -> None:
    """RunError where the start is another one than the code was made from."""
    before = torch.tensor([number(value, "sample") for value in told["sample"]])
    now = torch.tensor(sample(start))
    if before.shape != now.shape or not torch.allclose(
        before, now, rtol=0.0, atol=ROUNDING * float(before.abs().max())
    ):
        raise RunError(
            "what this adapter adds to is not what its recipe draws here",
            where=str(path / OURS),
            hint="the version of PyTorch that the run's environment.json tells",
        )
