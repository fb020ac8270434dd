"""An adapter on disk in ComPEFT's code (``ternary``): what training added to its start, in two or so bits an entry.

    lorakit.json                 as of every adapter, and under "ternary" the code's numbers, the start, and the sha256 of the tensors:
                                 one wrong bit would move every later entry to another place
    lorakit_model.safetensors    the code's three arrays, and the head whole

The start is not in the folder. Where the recipe draws it (``drawn``) it is drawn again when the adapter is read, and some of its entries
tell whether it is the same one. Else (``own``) there is only what tensors start from by themselves, such as zeros in B or DoRA's norms of
W, and zero for the others. A tensor that is nearer to zero than to its start, as one that was drawn anew, counts from zero too.

Where every tensor counts from its start, all are one vector, as the paper has it. The authors' code does the same with LoRA's tensors
counted from zero, where A's entries are so much larger than B's that of few none are B's; here each tensor is coded by itself then.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from lorakit.artifacts.ternary import ARRAYS, SIZES, packed, ternary, unpacked
from lorakit.errors import RunError
from lorakit.tasks.cache import sha256_of

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
    """The tensors that are coded, in order: those that are written, but the head."""
    names = [key for file in file_names(adapted, native=False).values() for key in file]
    return sorted(set(names) - set(adapted.new_parts))


def flat(adapted: AdaptedModel) -> list[torch.Tensor]:
    """A copy of each of these tensors as it is now (d,), float32."""
    state = packed_state(adapted)
    return [state[name].detach().cpu().to(torch.float32, copy=True).reshape(-1) for name in coded_names(adapted)]


def sample(start: Sequence[torch.Tensor]) -> list[float]:
    """Some entries of a start, from its whole length."""
    whole = torch.cat(list(start))
    where = torch.linspace(0, len(whole) - 1, min(SAMPLED, len(whole)), dtype=torch.float64).long()
    return [float(value) for value in whole[where]]


def write_ternary(
    adapted: AdaptedModel,
    target: Path,
    *,
    start: Sequence[torch.Tensor],
    drawn: bool,
    density: float,
    alpha: float | None,
) -> None:
    """Write the adapter's files into an existing folder.

    start: of each tensor, flat, what it was before; alpha: as of ``ternary``, by default the one with the smallest error.
    """
    values = flat(adapted)
    from_zero = [
        number
        for number, (value, begin) in enumerate(zip(values, start, strict=True))
        if value.norm() < (value - begin).norm()
    ]
    changes = [value - begin for value, begin in zip(values, without(start, from_zero), strict=True)]
    if drawn and not from_zero:
        changes = [torch.cat(changes)]
    ones = ternary(changes, density, 1.0).changes()
    nearest = float(ones @ torch.cat(changes) / ones.square().sum().clamp_min(1e-30))  # by least squares
    scale = nearest if alpha is None else alpha
    code, state = ternary(changes, density, scale), packed_state(adapted)
    save_tensors(packed(code) | {name: state[name] for name in adapted.new_parts}, target / OUR_TENSORS)
    found = {"scale": scale, "nearest": nearest, "sha256": sha256_of(target / OUR_TENSORS)}
    told = {"start": "drawn" if drawn else "own", "from_zero": from_zero, "sample": sample(start), **found}
    write_json(target / OURS, description(adapted) | {"format": TERNARY_FORMAT, "form": FORM, FORM: code.record | told})


def without(start: Sequence[torch.Tensor], from_zero: Sequence[int]) -> list[torch.Tensor]:
    """The start with zeros in the place of these tensors."""
    return [torch.zeros_like(begin) if place in set(from_zero) else begin for place, begin in enumerate(start)]


@torch.no_grad()
def load_ternary(adapted: AdaptedModel, path: Path) -> None:
    """Put values and states from ``path`` into a model built from the same recipe, at its start. RunError where they do not fit."""
    told = put_states(adapted, path)
    start, tensors = flat(adapted), read_tensors(path / OUR_TENSORS)
    head = {name: name for name in adapted.new_parts}
    if foreign := sorted(set(tensors) - set(ARRAYS) - set(head)):
        raise RunError(f"tensor {foreign[0]} has no place in this model", where=str(path / OUR_TENSORS))
    with reading(path / OURS, "the description of a coded adapter"):
        written = told[FORM].get("sha256")  # an older version's adapters have none
        if written is not None and written != sha256_of(path / OUR_TENSORS):
            what = "the code is not the one that was written"
            raise RunError(what, where=str(path / OUR_TENSORS), hint="a copy of the run")
        check_start(told[FORM], start, path)
        from_zero = [int(number(each, "from_zero", low=0, whole=True)) for each in told[FORM]["from_zero"]]
        if beyond := [place for place in from_zero if place >= len(start)]:
            raise ValueError(f"it counts tensor {beyond[0]} from zero, and there are {len(start)}")
        begins = without(start, from_zero)
    lengths = [len(begin) for begin in begins]
    with reading(path / OUR_TENSORS, "a coded adapter"):
        code = unpacked(tensors, told[FORM], [sum(lengths)] if tensors[SIZES].numel() == 1 else lengths)
    state, names = packed_state(adapted), coded_names(adapted)
    found = {
        name: (begin + change).reshape(state[name].shape).to(state[name].dtype)
        for name, begin, change in zip(names, begins, code.changes().split(lengths), strict=True)
    }
    copy_in(adapted, tensors | found, head | {name: name for name in names}, path)


def check_start(told: dict[str, Any], start: Sequence[torch.Tensor], path: Path) -> None:
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
