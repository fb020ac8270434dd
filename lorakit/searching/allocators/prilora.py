"""PRILoRA: ranks that grow with depth, and A's least important entries zeroed again and again (Benedek & Wolf 2024, arXiv 2401.11316).

    r_l    proportional to first + (last - first) l / (L - 1), for the layers l = 0..L-1;  s = alpha / r_l
    score  of A's entry (i, j) = |A_ij| n_j        n_j: the norm of the site's input j, a moving average over training steps
    tick   in every row of A the `prune` lowest entries become zero

Ranks are given once, at step 0: `first` and `last` are shares, scaled so that the ranks spend the budget, at most `adapter.rank` a
site. With `adapter.rank=12`, `search.uniform_rank=8`, the ranks of 12 layers are 4 to 12. A unit is given to the site whose
rank is furthest below its share (Sainte-Lague's method), sites of one layer alike, ties drawn.
What is zeroed trains on from zero, so that every tick chooses anew. `zeros: held` keeps it at zero until the next tick: but
then it scores zero there too, so that the first choice stays for good.
n_j is the root of a moving average (`smooth`) of sums of x_j^2 over a step's tokens, padding left out, taken in the `search.batches`
steps before a tick alone; nothing of a step is kept but these sums.
Counted are the ranks' parameters: entries that are zero at the moment count as trained, as they are.
Differs from the paper: it prunes every few steps, here at the ticks (search.every).
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: deep models on small tasks, where upper layers change most.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.anchored import Anchored
from lorakit.adapters.json_tensors import pack_all, unpack_all
from lorakit.adapters.options import Option
from lorakit.errors import RecipeError
from lorakit.searching.allocator import Decision, SearchContext, allocators
from lorakit.searching.fixed_ranks import FixedRanks
from lorakit.searching.input_statistics import modules_of, seen_inputs
from lorakit.searching.over_processes import over_processes
from lorakit.searching.streaming import steps_before
from lorakit.searching.unit_allocator import Units
from lorakit.tasks.batching import IDLE, Batch, SummedLoss


class PRILoRA(FixedRanks):
    """Gives ranks by depth, and prunes A by magnitude times input norm at every tick."""

    name = "prilora"
    title = "PRILoRA"
    summary = "ranks grow with depth, A's least important entries are zeroed at every tick"
    source = "Benedek & Wolf 2024, arXiv 2401.11316"
    steady = False
    sees_tokens = True
    options: ClassVar = {
        "scale": replace(FixedRanks.options["scale"], default="own"),
        "first": Option(4.0, "share of the first layer in the ranks", low=0.0),
        "last": Option(12.0, "share of the last layer in the ranks", low=0.0),
        "prune": Option(0.5, "share of each row of A that a tick zeroes", low=0.0, high=1.0),
        "smooth": Option(0.9, "share of the squared norms so far in the new ones", low=0.0, high=0.9999),
        "zeros": Option(
            "free",
            "zeroed entries train on from zero (free), or stay there until the next tick (held)",
            choices=("free", "held"),
        ),
    }
    default_share = 2 / 3

    def __init__(self, context: SearchContext):
        super().__init__(context)
        for name, adapter in self.adapters.items():
            if isinstance(adapter.delta, Anchored) or pruned_tensor(adapter) is None:
                spec = adapter.spec
                raise RecipeError(
                    f"allocator 'prilora' zeroes entries of a trained A (rank x in), and delta '{spec.delta}' with init "
                    f"'{spec.init}' and trainable '{spec.trainable}' has none at {name} that would leave the function",
                    key="search.method",
                    valid="prilora with an adapter method such as lora, dora, trilora or flora",
                )
        self.steps = steps_before(context.ticks, context.search.batches)
        self.modules = modules_of(context.adapted)
        self.watching = False
        self.sums: dict[str, torch.Tensor] = {}  # of the current step
        self.squares: dict[str, torch.Tensor] = {}  # their moving average
        self.zeros: dict[str, torch.Tensor] = {}

    # -- ranks --------------------------------------------------------------------------------------------------------

    def unit_scores(self) -> Units:
        """Site -> share / (k + 1/2) of its unit k."""
        layers = [adapter.site.layer for adapter in self.adapters.values()]
        low, depth = min(layers), max(max(layers) - min(layers), 1)
        first, last = self.settings["first"], self.settings["last"]
        return {
            name: (first + (last - first) * (adapter.site.layer - low) / depth)
            / (torch.arange(adapter.rank, dtype=torch.double) + 0.5)
            for name, adapter in self.adapters.items()
        }

    def decide(self, step: int) -> Decision:
        """Ranks at first; from then on, prune."""
        decision = super().decide(step)
        if self.ticks_done:
            self.prune()
        return decision

    # -- pruning ------------------------------------------------------------------------------------------------------

    def before_forward(self, step: int) -> None:
        """Whether this step is looked at."""
        self.watching, self.sums = step in self.steps, {}

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss itself; inputs are seen on the way."""

        def watched(model: nn.Module, batch: Batch) -> torch.Tensor:
            if not self.watching or IDLE in batch:
                return loss(model, batch)
            with seen_inputs(self.context.adapted.model, self.modules, self.see):
                return loss(model, batch)

        return watched

    def see(self, name: str, x: torch.Tensor) -> None:
        """Count the squares of a site's inputs in."""
        squares = x.square().sum(dim=0)
        self.sums[name] = self.sums[name] + squares if name in self.sums else squares

    def after_backward(self, step: int) -> None:
        """Take the step's squares into the average."""
        share = self.settings["smooth"]
        for name, squares in self.sums.items():
            held = self.squares.get(name)
            self.squares[name] = squares if held is None else share * held + (1 - share) * squares
        self.sums = {}

    @torch.no_grad()
    def prune(self) -> None:
        """Zero the lowest entries of every live row."""
        self.zeros = {}
        for name, squares in self.squares.items():
            adapter = self.adapters[name]
            tensor = pruned_tensor(adapter)
            assert tensor is not None
            norms = over_processes(squares).sqrt().to(tensor.device)
            scores = tensor.abs() * norms
            number = int(self.settings["prune"] * scores.shape[1])
            lowest = scores.argsort(dim=1, stable=True)[:, :number]
            mask = torch.zeros_like(tensor, dtype=torch.bool).scatter_(1, lowest, True)
            mask[~adapter.units.mask.to(mask.device)] = False
            tensor.masked_fill_(mask, 0.0)
            if self.settings["zeros"] == "held":
                self.zeros[name] = mask

    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Hold at zero what is to be held."""
        for name, mask in self.zeros.items():
            tensor = pruned_tensor(self.adapters[name])
            assert tensor is not None
            tensor.masked_fill_(mask, 0.0)

    # -- its state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The average so far, and what is held."""
        return super().state_dict() | {"squares": pack_all(self.squares), "zeros": pack_all(self.zeros)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        device = next(self.context.adapted.model.parameters()).device
        self.squares = unpack_all(state["squares"], device)
        self.zeros = unpack_all(state["zeros"], device)


def pruned_tensor(adapter: Adapter) -> nn.Parameter | None:
    """A (rank x in), where it is the site's own and trains."""
    shape = (adapter.rank, adapter.site.in_features)
    return next((t for _, t, role in adapter.trained_tensors() if role == "A" and tuple(t.shape) == shape), None)


allocators.register(PRILoRA)
