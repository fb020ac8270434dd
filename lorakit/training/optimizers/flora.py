"""Flora: momentum kept as its random projection to a low rank, and a factored second moment (Hao, Cao & Mou 2024, arXiv 2402.03293).

    V    <- b_t V + (1 - b_t) g^2 as its row and column means          b_t = 1 - t^-0.8; step t counts from 1 (Adafactor's)
    u    =  g / sqrt(V)            w = (1 - beta) u + beta P' M         M: r x n, the momentum;  P: r x m, N(0, 1 / r);  g: m x n, m <= n
    M    <- beta M + (1 - beta) P u                                     every kappa steps before it: M <- P_new P_old' M
    p    <- (1 - lr decay) p - lr w / max(1, RMS(w))                    of an m > n the other side is projected: M = u P', m x r

E P' P = I, so that w has the momentum on average; the mean squared error of P' P x is (m + 1) / r |x|^2, and a new P now and then keeps
it from adding up. A change of P multiplies what is left of older errors by 1 + (m + 1) / r, which must be forgotten until the next:
beta^(2 kappa) (1 + (m + 1) / r) above 1 diverges, and is refused. P is never kept: it is drawn again from run.seed, the tensor's place
and t / kappa, and a resumed run goes on to the bit. A matrix has a projected momentum where both sides are longer than r and neither is
more than four times the other, which leaves out embeddings. Any other keeps its momentum whole beside the factored V; biases and norms
keep both whole, as with AdamW. Bytes of state: 4 (r n + m + n), 4 (m n + m + n), 8 n. First steps are a tenth as long, for there is no
bias correction; gradients are not projected, and accumulating them costs what it did.
`scale: parameter` multiplies a step by RMS(p), or 1e-3 where that is more, as Adafactor and the authors do: the rate is then a share of
the tensor. With `none` it means what it does with AdamW, whose steps are of about the same length.
Differs from the authors' code in: theirs (flora_opt, PyTorch) scales by the parameter and has no momentum unless told otherwise, projects
sides of length r too, and can keep its state in 8 bits.
When to use it: full fine-tuning in little memory. LoRA's factors are too long and thin to be projected, and small anyway. In a training
of fewer steps than kappa P never changes. Whether that matters is open: on a quadratic of 24 x 40 numbers, at rank 6, 600 steps left 0.33
of the squared error with kappa 1000 and 0.07 with 50; on MiniLM at rank 32 (3,200 rows of film reviews, one seed) the loss at step 90 of
100 was 0.453 with 1000, 0.471 with 20 and 0.448 with AdamW. AdamW's state is twice the weights, this one's rank / width of them, and the
embeddings once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, log, prod, sqrt
from typing import Any

import torch

from lorakit.adapters.options import Option
from lorakit.errors import Problem
from lorakit.training.optimizer import (
    OPTIONS_KEY,
    WHOLE,
    Groups,
    OptimizerKind,
    Settings,
    no_use,
    optimizers,
    parameters_of,
)
from lorakit.training.seeds import derive_seed

DECAY = 0.8
TINY, LEAST_SCALE = 1e-30, 1e-3
LONGEST = 4
"""Sides of a matrix that is projected: the longer over the shorter, at most."""
PARAMETER = "parameter"


class Flora(torch.optim.Optimizer):
    """settings: those of the recipe; seed: of the run's optimisers, from which projections have their own.

    State of a tensor: step, momentum (whole, or projected), and second, or row and column where it is a matrix.
    """

    def __init__(self, groups: Groups, settings: Settings, seed: int):
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0})
        self.settings, self.seed = settings, derive_seed(seed, f"flora/{settings['seed']}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every tensor that has a gradient."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, place, group["lr"], group["weight_decay"])
                place += 1

    def move(self, parameter: torch.nn.Parameter, place: int, lr: float, decay: float) -> None:
        """One step of a tensor, the one at ``place`` of all."""
        state, gradient, weight = self.state[parameter], parameter.grad, parameter.float()
        assert gradient is not None
        state["step"] = state.get("step", 0) + 1
        update = self.with_momentum(normalised(gradient.float(), state), state, place)
        rate = lr * rms(weight).clamp(min=LEAST_SCALE) if self.settings["scale"] == PARAMETER else lr
        weight.mul_(1 - rate * decay).addcmul_(update, rate / rms(update).clamp(min=1.0), value=-1)
        if weight is not parameter:
            parameter.copy_(weight)

    def with_momentum(self, update: torch.Tensor, state: dict[str, Any], place: int) -> torch.Tensor:
        """``(1 - beta) u + beta momentum``, the momentum as it was before; which then takes u in."""
        beta, step, kappa = self.settings["beta"], state["step"], self.settings["kappa"]
        if not is_projected(update.shape, self.settings):
            return kept(state, "momentum", update, *update.shape).lerp_(update, 1 - beta)
        tall = update.shape[0] >= update.shape[1]
        wide = update.T if tall else update  # whose shorter side comes first
        before, now = ((step - 1) // kappa, step // kappa)
        basis = self.projection(len(wide), place, before, update.device)
        momentum = kept(state, "momentum", update, self.settings["rank"], wide.shape[1])
        smooth = wide * (1 - beta) + beta * (basis.T @ momentum)
        if now != before:
            fresh = self.projection(len(wide), place, now, update.device)
            momentum.copy_(fresh @ (basis.T @ momentum))
            basis = fresh
        momentum.lerp_(basis @ wide, 1 - beta)
        return smooth.T if tall else smooth

    def projection(self, side: int, place: int, number: int, device: torch.device) -> torch.Tensor:
        """P (r x side): the projection of that number of the tensor at ``place``."""
        rank = self.settings["rank"]
        drawn = torch.Generator(device).manual_seed(derive_seed(self.seed, f"{place}/{number}"))
        return torch.randn(rank, side, generator=drawn, device=device) / sqrt(rank)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from ``state_dict()``, whose numbers stay as wide as they are."""
        super().load_state_dict(state_dict | {"state": {}})
        parameters = parameters_of(self)
        for place, held in state_dict["state"].items():
            parameter = parameters[place]
            self.state[parameter] = {name: value.to(parameter.device) for name, value in held.items() if name != "step"}
            self.state[parameter]["step"] = int(held["step"])


def normalised(gradient: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    """``g / sqrt(V)``, after V has taken g in."""
    new = state["step"] ** -DECAY
    if gradient.ndim != 2:
        square = gradient.square().add_(TINY)
        return kept(state, "second", square, *square.shape).lerp_(square, new).rsqrt().mul_(gradient)
    row, column = (gradient.norm(dim=side, keepdim=True).square_() / gradient.shape[side] + TINY for side in (1, 0))
    row = kept(state, "row", row, *row.shape).lerp_(row, new)
    column = kept(state, "column", column, *column.shape).lerp_(column, new)
    return (gradient * (row / row.mean()).rsqrt_()).mul_(column.rsqrt())


def kept(state: dict[str, Any], name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
    """What the state has of that name, zeros of that shape at first."""
    if name not in state:
        state[name] = like.new_zeros(shape)
    tensor: torch.Tensor = state[name]
    return tensor


def rms(tensor: torch.Tensor) -> torch.Tensor:
    """The root of the mean square."""
    return tensor.norm() / sqrt(tensor.numel())


def is_projected(shape: Sequence[int], settings: Settings) -> bool:
    """Whether the momentum of such a tensor is kept projected."""
    return len(shape) == 2 and settings["rank"] < min(shape) and max(shape) <= LONGEST * min(shape)


def state_bytes(shape: Sequence[int], settings: Settings) -> int:
    """The momentum, and the second moment."""
    momentum = settings["rank"] * max(shape) if is_projected(shape, settings) else prod(shape)
    return WHOLE * (momentum + (sum(shape) if len(shape) == 2 else prod(shape)))


def least_kappa(shape: Sequence[int], settings: Settings) -> int:
    """The fewest steps between two projections with which the momentum's error does not grow from one to the next."""
    growth = 1 + (min(shape) + 1) / settings["rank"]
    return ceil(log(growth) / (-2 * log(settings["beta"])))


def refusals(shapes: Sequence[Sequence[int]], settings: Settings) -> list[Problem]:
    """Where nothing is projected, and where that is done too often."""
    rank, kappa = settings["rank"], settings["kappa"]
    projected = [shape for shape in shapes if is_projected(shape, settings)]
    if not projected:
        where = f"matrices with both sides above its rank of {rank} and neither more than {LONGEST} times the other"
        return [no_use("flora", where)]
    least = max(least_kappa(shape, settings) for shape in projected)
    if kappa >= least:
        return []
    what = f"with another projection to rank {rank} every {kappa} steps the momentum's error grows faster than it is forgotten"
    return [Problem(what, key=OPTIONS_KEY, valid=f"kappa: at least {least}", hint="or a higher rank, or a lower beta")]


optimizers.register(
    OptimizerKind(
        name="flora",
        summary="momentum by random projection to a low rank, drawn anew now and then; a factored second moment",
        source="Hao, Cao & Mou 2024, Flora, arXiv 2402.03293",
        make=Flora,
        state_bytes=state_bytes,
        step_bytes=lambda shape, device: WHOLE * prod(shape),
        options={
            "rank": Option(128, "r, of the projected momentum", low=1),
            "kappa": Option(1000, "steps after which another projection is drawn", low=1),
            "beta": Option(0.9, "share of the momentum that stays at a step", above=0.0, below=1.0),
            "scale": Option("none", "what a step is multiplied by beside the rate", choices=("none", PARAMETER)),
            "seed": Option(0, "other projections at the same run.seed"),
        },
        refusals=refusals,
    )
)
