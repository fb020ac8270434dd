"""AdamW whose moments are kept in 8 bits, by blocks of 256 numbers (Dettmers et al. 2022, 8-bit optimizers via block-wise quantization).

    m ~ s_block code[q]        s: the block's largest absolute value; q: 8 bits, a place in a table of 256 that is densest near 0; so is v

A step makes a tensor's moments dense, takes AdamW's step with them and rounds them again; on a CPU that takes 20 bytes a number of the
largest tensor, for a moment. 2 bytes a trained number and 8 a block, in place of AdamW's 8 a number. Tensors of fewer than `minimum`
numbers keep both moments in 32 bits, as bitsandbytes has it: they cost little, and are often norms and biases. LoRA's factors are among
them where rank x width is below 4,096, and a training of nothing else is refused. bitsandbytes does it, on a GPU and from 0.50 on a CPU
too; the table is not saved, and a resumed run goes on to the bit.
Checked against the authors' code. It is theirs.
When to use it: full fine-tuning, or adapters of many parameters, in a quarter of AdamW's state.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import torch

from lorakit.adapters.options import Option
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import ADAMW
from lorakit.training.optimizer import KEY, WHOLE, Groups, OptimizerKind, Settings, no_use, optimizers, parameters_of

BLOCK = 256
"""Numbers that have a scale in common."""
TABLES = ("qmap1", "qmap2")
"""What bitsandbytes holds in every state, and is the same in all."""
OPTIONS = {"minimum": Option(4096, "numbers of the smallest tensor whose moments are kept in 8 bits", low=1)}


@cache
def saved_flat(name: str) -> type[torch.optim.Optimizer]:
    """bitsandbytes' optimiser of that name, whose ``state_dict`` has numbers and tensors alone, and none of them twice."""
    from bitsandbytes import optim

    theirs: Any = getattr(optim, name)

    class SavedFlat(theirs):
        """State of a tensor: step, state1 and state2, and absmax1 and absmax2 where these are in 8 bits."""

        def state_dict(self) -> dict[str, Any]:
            """Without the tables, and not nested as theirs is for FSDP."""
            held = torch.optim.Optimizer.state_dict(self)
            entries = held["state"].items()
            flat = {place: {key: v for key, v in entry.items() if key not in TABLES} for place, entry in entries}
            return {**held, "state": flat}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Continue from ``state_dict()``; moments go where fresh ones would be, paged ones too."""
            torch.optim.Optimizer.load_state_dict(self, {**state_dict, "state": {}})
            parameters, entries = parameters_of(self), state_dict["state"]
            places = [(g, p) for g, group in enumerate(self.param_groups) for p in range(len(group["params"]))]
            for place, entry in entries.items():
                parameter, (group, nth) = parameters[place], places[place]
                self.init_state(self.param_groups[group], parameter, group, nth)
                if parameter.is_cuda:
                    torch.cuda.synchronize(parameter.device)  # paged memory is being filled with zeros
                fresh = self.state[parameter]
                fresh["step"] = int(entry["step"])
                for key in entry.keys() - {"step"}:
                    fresh[key].copy_(entry[key])

    return SavedFlat


def make(groups: Groups, settings: Settings, seed: int) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW of 8 bits; it draws nothing."""
    return saved_flat("AdamW8bit")(groups, min_8bit_size=settings["minimum"])  # type: ignore[call-arg]


def check(device: torch.device) -> None:
    """RecipeError where bitsandbytes is missing, or has no such step on this device: one is taken, of a tensor nobody needs."""
    check_installed()
    tensor = torch.nn.Parameter(torch.zeros(4096, device=device))
    tensor.grad = torch.zeros_like(tensor)
    try:
        make([{"params": [tensor]}], {"minimum": 1}, 0).step()
    except (RuntimeError, AttributeError) as error:  # torch has no kernel of that name, or the library none
        from importlib.metadata import version

        raise RecipeError(
            f"bitsandbytes {version('bitsandbytes')} has no 8-bit AdamW on this device ({device.type})",
            key=KEY,
            valid=f"{ADAMW} or flora here",
            hint="pip install 'bitsandbytes>=0.50', which has one on CPUs too; or a machine with CUDA",
        ) from error


def check_installed() -> None:
    """RecipeError where bitsandbytes is not."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "moments in 8 bits need the package bitsandbytes, which is not installed",
            key=KEY,
            valid=f"{ADAMW} or flora, without it",
            hint="pip install 'lorakit[quantized]'",
        )


def is_kept_in_8_bits(shape: Sequence[int], settings: Settings) -> bool:
    """Whether the moments of such a tensor are in 8 bits."""
    return bool(prod(shape) >= settings["minimum"])


def refusals_of(name: str) -> Callable[[Sequence[Sequence[int]], Settings], list[Problem]]:
    """Of an optimiser of 8 bits: where no tensor is large enough."""

    def refusals(shapes: Sequence[Sequence[int]], settings: Settings) -> list[Problem]:
        where = f"tensors of at least {settings['minimum']:,} numbers (smaller ones keep moments in 32 bits)"
        return [] if any(is_kept_in_8_bits(shape, settings) for shape in shapes) else [no_use(name, where)]

    return refusals


def state_bytes(shape: Sequence[int], settings: Settings) -> int:
    """Two codes a number and two scales a block, or AdamW's."""
    numbers = prod(shape)
    return 2 * numbers + 2 * WHOLE * -(-numbers // BLOCK) if is_kept_in_8_bits(shape, settings) else 2 * WHOLE * numbers


def step_bytes(shape: Sequence[int], device: torch.device) -> int:
    """On a CPU both moments, the gradient and two more in the making are whole for a moment; a GPU has one kernel for all."""
    return 5 * WHOLE * prod(shape) if device.type == "cpu" else 0


optimizers.register(
    OptimizerKind(
        name="adamw_8bit",
        summary="AdamW with moments in 8 bits, by blocks; in 32 bits for small tensors",
        source="Dettmers et al. 2022, 8-bit optimizers, arXiv 2110.02861; bitsandbytes",
        make=make,
        state_bytes=state_bytes,
        step_bytes=step_bytes,
        options=OPTIONS,
        refusals=refusals_of("adamw_8bit"),
        check=check,
    )
)
