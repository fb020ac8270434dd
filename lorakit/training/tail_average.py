"""The weights that a run ends with as the mean over its last steps (Izmailov et al. 2018, Averaging Weights Leads to Wider Optima).

    t = 1/K (B_1 A_1 + ... + B_K A_K)           over K snapshots of a site's factors, evenly spaced over the tail of the training
    B A = the nearest product of t's rank r     by QR and SVD of the stacked factors (Eckart and Young 1936), sigma shared by the two

The mean is one of *functions'* weights: B_i A_i is the same for (B_i R, R^-1 A_i), and the mean of the factors is not. Products are
averaged where a delta can be any product (LoRA, and those with a core, a diagonal or vectors in it) and all of its tensors train, by
their live rank units. All else that trains is averaged tensor by tensor: heads, biases, norms, magnitudes, what sites share, and deltas of
another form; which is the same thing where the update is linear in what trains (LoRA-FA's B, LoRA-XS's core, (IA)3's vectors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.anchored import Anchored
from lorakit.adapters.delta import Delta
from lorakit.adapters.switching import ON
from lorakit.artifacts.combination import truncated
from lorakit.errors import RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.allocator import allocators
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.schedule import Schedule, steps_in
from lorakit.training.update import chosen_updates

SNAPSHOTS, FEWEST = 16, 4
COLUMNS = 256
"""Of the stacked factors: where ranks are so high that all snapshots would have more, there are fewer, but ``FEWEST``."""
PRODUCTS, MAGNITUDE = "products", "magnitude"
KEY = "training.average"

Tensor = torch.Tensor


class TailAverage(Hook):
    """Takes the snapshots, and puts their mean in the place of the weights for every evaluation in the tail, and at the end for good.

    Begins anew where which sites or rank units are on has changed. planned: the steps after which there is a snapshot; taken: of these,
    those that are in the mean; told: of the mean put in last, the first and the last of them, how many they were, and what share of the
    products' squared norm was cut.
    """

    name = "average"

    def __init__(self, adapted: AdaptedModel, recipe: Recipe, schedule: Schedule):
        self.adapted = adapted
        self.of_products = recipe.training.average_of == PRODUCTS
        widest = max((adapter.rank for adapter in adapted.adapters.values()), default=1)
        self.planned = set(snapshot_steps(recipe.training.average or 0.0, schedule.total_steps, widest))
        self.begin({})
        self.held: dict[str, Tensor] = {}
        self.told: dict[str, float] = {}

    def begin(self, choice: Mapping[str, Any]) -> None:
        """Forget all snapshots: from now on ``choice`` is what is on."""
        self.choice, self.taken = choice, list[int]()
        self.sums: dict[str, Tensor] = {}
        self.products: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def after_step(self, state: TrainState) -> None:
        """A snapshot, where one is due."""
        if state.step in self.planned:
            if self.choice != (choice := self.present_choice()):
                self.begin(choice)
            self.take(state.step)

    def before_evaluation(self, state: TrainState) -> None:
        """The mean so far in the place of the weights. One snapshot alone is no mean."""
        if len(self.taken) > 1 and self.choice == self.present_choice():
            self.held = {name: tensor.clone() for name, tensor in self.adapted.tensors().items()}
            self.told = {
                "first": self.taken[0],
                "last": self.taken[-1],
                "snapshots": len(self.taken),
                "cut": self.put(),
            }

    def on_evaluation(self, state: TrainState) -> None:
        """The weights as they were, to go on with; the mean stays where the training ends here."""
        own, self.held = self.held, {}
        if state.stopped or state.step == state.total_steps:
            self.told = self.told if own else {"snapshots": len(self.taken)}
            self.begin({})
        elif own:
            self.adapted.load_tensors(own)

    # -- the snapshots ------------------------------------------------------------------------------------------------

    def present_choice(self) -> dict[str, Any]:
        """Which sites train, and which of their rank units, ready for JSON."""
        return {name: a.units.mask.tolist() for name, a in self.adapted.adapters.items() if a.state == ON}

    def averaged_as_products(self) -> dict[str, Adapter]:
        """Site -> its adapter, of those that train and are averaged by their products."""
        training = {name: self.adapted.adapters[name] for name in self.choice}
        return {name: adapter for name, adapter in training.items() if self.of_products and is_whole_product(adapter)}

    @torch.no_grad()
    def take(self, step: int) -> None:
        """A snapshot of what trains."""
        products = self.averaged_as_products()
        for name, adapter in products.items():
            b, a = live_factors(adapter)
            self.products.setdefault(name, []).append((b.clone(), a.clone()))
        for tensor in self.adapted.trained():
            factor = tensor.site in products and tensor.role != MAGNITUDE
            if not factor and (tensor.site is None or tensor.site in self.choice):
                value = tensor.parameter.detach()
                self.sums[tensor.name] = self.sums[tensor.name] + value if tensor.name in self.sums else value.clone()
        self.taken.append(step)

    @torch.no_grad()
    def put(self) -> float:
        """Make the weights the mean. The share of the mean products' squared norm that their ranks do not hold, of all sites together."""
        weights = self.adapted.tensors()
        for name, total in self.sums.items():
            weights[name].copy_(total / len(self.taken))
        lost = whole = 0.0
        for name, snapshots in self.products.items():
            adapter = self.adapted.adapters[name]
            stacked = torch.cat([b for b, _ in snapshots], dim=1), torch.cat([a for _, a in snapshots])
            b, a = (factor.double().cpu() for factor in stacked)
            (b, a), cut, norm = truncated((b / len(snapshots), a), snapshots[0][1].shape[0])
            if norm:  # else it has not moved, and keeps the start that can still be trained
                set_live_factors(adapter, b, a)
            lost, whole = lost + adapter.scale**2 * cut, whole + adapter.scale**2 * norm
        return lost / whole if whole else 0.0

    # -- its state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Which snapshots there are, and what was told."""
        return {"choice": self.choice, "taken": self.taken, "told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.begin(state["choice"])
        self.taken, self.told = state["taken"], state["told"]

    def tensor_state(self) -> dict[str, Tensor]:
        """The sums, and the factors of every snapshot."""
        factors = {
            f"{place}.{half}.{name}": factor
            for name, snapshots in self.products.items()
            for place, pair in enumerate(snapshots)
            for half, factor in zip("ba", pair, strict=True)
        }
        return {f"sum.{name}": total for name, total in self.sums.items()} | factors

    def load_tensor_state(self, tensors: dict[str, Tensor]) -> None:
        """Continue from ``tensor_state()``."""
        device = next(tensor.parameter for tensor in self.adapted.trained()).device
        here = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.sums = {name.removeprefix("sum."): total for name, total in here.items() if name.startswith("sum.")}
        self.products = {
            name: [(here[f"{place}.b.{name}"], here[f"{place}.a.{name}"]) for place in range(len(self.taken))]
            for name in self.averaged_as_products()
        }


def snapshot_steps(share: float, total: int, widest: int) -> list[int]:
    """The steps after which there is a snapshot: evenly spaced over the last ``share`` of ``total`` steps, to the last one.

    widest: the highest rank of all sites.
    """
    tail = steps_in(share, total)
    number = min(most_snapshots(widest), tail)
    return [total - tail + math.ceil(tail * (place + 1) / number) for place in range(number)]


def most_snapshots(widest: int) -> int:
    """How many there are where the tail has as many steps; widest: the highest rank of all sites."""
    return min(max(COLUMNS // widest, FEWEST), SNAPSHOTS)


def average_bytes(adapted: AdaptedModel, recipe: Recipe) -> int:
    """What the recipe's average keeps with every site on: factors of all snapshots, sums of all else, and the weights to go on with."""
    if not recipe.training.average:
        return 0
    everything = sum(tensor.parameter.nbytes for tensor in adapted.trained())
    kept = 2 * everything
    if recipe.training.average_of == PRODUCTS:
        most = most_snapshots(max((adapter.rank for adapter in adapted.adapters.values()), default=1))
        whole = [live_factors(adapter) for adapter in adapted.adapters.values() if is_whole_product(adapter)]
        kept += (most - 1) * sum(factor.nbytes for pair in whole for factor in pair)
    return kept


def is_whole_product(adapter: Adapter) -> bool:
    """Whether its update can be any product of its rank, with nothing of it frozen."""
    live = moving(adapter)
    return live.takes_factors and all(adapter.spec.trains(role) for _, _, role in live.tensors())


def moving(adapter: Adapter) -> Delta:
    """Its delta; where the start is subtracted, the part that trains."""
    return adapter.delta.live if isinstance(adapter.delta, Anchored) else adapter.delta


def live_factors(adapter: Adapter) -> tuple[Tensor, Tensor]:
    """b (out x live) and a (live x in) of the rank units that are live."""
    b, a = cast(tuple[Tensor, Tensor], moving(adapter).factors())
    units = adapter.units
    return (b, a) if units.is_cut or units.mask.all() else (b[:, units.mask], a[units.mask])


def set_live_factors(adapter: Adapter, b: Tensor, a: Tensor) -> None:
    """Make the product of the live rank units b a, for b (out x live) and a (live x in); those that are closed stay so."""
    delta, units = moving(adapter), adapter.units
    whole_b, whole_a = b.new_zeros(len(b), adapter.rank), a.new_zeros(adapter.rank, a.shape[1])
    whole_b[:, units.mask], whole_a[units.mask] = b, a
    delta.set_factors(whole_b, whole_a)
    if not (units.is_cut or units.mask.all()):
        units.keep(units.mask)


def check_average(recipe: Recipe) -> None:
    """RecipeError for a recipe whose updates or search decide on single entries or units in between, which a mean would undo."""
    if not recipe.training.average:
        return
    wrong = [f"update '{kind.name}'" for kind, _ in chosen_updates(recipe) if kind.fixes_entries]
    if recipe.search.method != "none" and allocators.get(recipe.search.method).empties:
        wrong.append(f"search '{recipe.search.method}'")
    if wrong:
        raise RecipeError(
            f"{' and '.join(wrong)} puts numbers to zero, or freezes them, between steps: a mean over steps would undo that",
            key=KEY,
            valid="0 with it",
            hint=f"{KEY}=0",
        )
