"""ALoRA: rank units that the model can do without go, and sites that lost none get them (Liu et al. 2024, arXiv 2403.16187).

    dW = s sum_i g_i b_i a_i       g_i: 1 where unit i of the site is live, 0 where it is not;  a_i: in, b_i: out
    IS(i) = -S(M without i) + S(M with i alone)       S = - mean loss on `search.batches` batches of training rows, drawn for each tick

1. every site starts with the largest rank that the budget holds on all of them (`search.uniform_rank`); `adapter.rank` is the most that
   a site can come to     2. a tick scores all live units and closes the lowest, `per_site` for each site on average
3. the sites that lost none get what is free, one unit each in turn, those with the best mean score first

The total stays the budget. A site without any unit left gets none. What fits nowhere else goes back to the best of the units just
closed. A new unit adds nothing at first (B = 0, or whatever closes the delta's units) and is one that was never live while there is
one, with A as drawn. s never changes.
How the formula is read here: "alone" means that every other unit of the model is masked, the head staying as it is; `alone: site` masks
those of the unit's own site only. The paper scores on one batch of 32 held-out rows, here on training rows: validation rows
are never seen. Its rounds are at 1 epoch and then every quarter of one, 8 in all: search.warmup, search.every=0.25, `rounds`.
Nothing is scored at step 0, where no unit has learnt anything.
Costs two forward passes over the batches for each live unit and tick, without a trace: 48 sites of rank 8 and 2 batches are 1536 passes
of one batch. Keep search.batches and the number of ticks small.
Differs from the paper: sites of different size compete by units and pay by parameters, so that a few may stay unspent; Adam's moments go
on.
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: short trainings of few sites, where gradients are no good guide and passes are cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.options import Option
from lorakit.adapters.rank_units import axes_of
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Decision, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.scoring import without_trace
from lorakit.searching.selection import check_finite
from lorakit.searching.unit_allocator import UnitAllocator, Units, rank_for_all
from lorakit.tasks.batching import Batch

USUAL_RANK = 4
Values = list[tuple[torch.Tensor, torch.Tensor]]
"""Tensors, each with a copy of its values."""


class ALoRA(UnitAllocator):
    """Moves rank units between sites by what their absence, and their presence alone, does to the loss."""

    name = "alora"
    title = "ALoRA"
    summary = "rank units by ablation: the least needed move to sites that lost none"
    source = "Liu et al. 2024, arXiv 2403.16187"
    options: ClassVar = {
        "per_site": Option(1.0, "units closed at a tick, for each site on average", low=0.0),
        "rounds": Option(8, "ticks that move units; the later ones record", low=1),
        "alone": Option(
            "model",
            "what is masked around a unit alone: the rest of the model or of its site",
            choices=("model", "site"),
        ),
    }
    default_share = 0.5

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.limit = context.budget.parameters - self.common
        start = rank_for_all(context)
        self.rounds = 0
        self.keep({name: torch.arange(adapter.rank) < start for name, adapter in self.adapters.items()})
        self.fresh = {name: ~adapter.units.mask for name, adapter in self.adapters.items()}  # never live so far

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """Two forward passes for each unit; a site has ``search.uniform_rank`` of them, or the usual number where that is not given."""
        rounds = min(sum(tick > 0 for tick in ticks), cls.settings_from(search.options)["rounds"])
        units = len(cost_model.sites) * (search.uniform_rank or USUAL_RANK)
        return 2 * units * rounds * cost_model.forward()

    def allowed(self, step: int) -> int:
        """The budget, from the start."""
        return self.context.budget.parameters

    def decide(self, step: int) -> Decision:
        """Close the units that are needed least, and open as many where none was closed."""
        if step == 0 or self.rounds == self.settings["rounds"]:
            return Decision(self.context.search.method)
        scores = self.unit_scores()
        live = {name: adapter.units.mask.clone() for name, adapter in self.adapters.items()}
        check_finite({f"{name}[{unit}]": float(scores[name][unit]) for name, unit in units_of(live)})
        told = {name: float(values[live[name]].sum()) for name, values in scores.items()}
        self.keep(self.moved(scores, live))
        self.rounds += 1
        return Decision(self.context.search.method, told)

    def moved(self, scores: Units, live: Units) -> Units:
        """What is live afterwards."""
        drawn = units_of(live)
        order = [drawn[place] for place in torch.randperm(len(drawn), generator=self.context.generator).tolist()]
        order.sort(key=lambda unit: float(scores[unit[0]][unit[1]]))
        closed = order[: round(self.settings["per_site"] * len(live))]
        means = {name: -float(scores[name][units].mean()) for name, units in live.items() if units.any()}
        live = {name: units.clone() for name, units in live.items()}
        for name, unit in closed:
            live[name][unit] = False
        losers = {name for name, _ in closed}
        growing = sorted((name for name in means if name not in losers), key=lambda name: means[name])
        left = self.limit - sum(self.adapters[name].parameters_at(int(units.sum())) for name, units in live.items())
        given = True
        while given:
            given = False
            for name in growing:
                price = self.price(name, live[name])
                if not live[name].all() and price <= left:
                    live[name][self.next_unit(name, live[name])] = given = True
                    left -= price
        for name, unit in reversed(closed):
            if (price := self.price(name, live[name])) <= left:
                live[name][unit] = True
                left -= price
        return live

    def price(self, name: str, live: torch.Tensor) -> int:
        """What one more unit costs a site."""
        adapter, count = self.adapters[name], int(live.sum())
        return adapter.parameters_at(count + 1) - adapter.parameters_at(count)

    def next_unit(self, name: str, live: torch.Tensor) -> int:
        """The unit to open: the first that was never live, else the first that is closed."""
        fresh = self.fresh[name] & ~live
        unit = int((fresh if fresh.any() else ~live).nonzero()[0])
        self.fresh[name][unit] = False
        return unit

    @torch.no_grad()
    def unit_scores(self) -> Units:
        """IS of every live unit, 0 for the others."""
        context = self.context
        seed = context.seed()
        batches = context.batches()
        live = {name: adapter.units.mask.clone() for name, adapter in self.adapters.items()}
        scores = {name: torch.zeros(adapter.rank, dtype=torch.double) for name, adapter in self.adapters.items()}
        values = {name: copied(adapter) for name, adapter in self.adapters.items()}
        with without_trace(context.adapted, train_mode=context.search.mode == "train", seed=seed, all_on=False):
            for name, unit in units_of(live):
                scores[name][unit] += self.loss_with({name: one_of(self.adapters[name], unit, False)}, values, batches)
            everything = {name: torch.zeros_like(units) for name, units in live.items()}
            around = everything if self.settings["alone"] == "model" else {}
            for name, unit in units_of(live):
                alone = around | {name: one_of(self.adapters[name], unit, True)}
                scores[name][unit] -= self.loss_with(alone, values, batches)
        return scores

    def loss_with(self, units: Units, values: Mapping[str, Values], batches: list[Batch]) -> float:
        """The mean loss with no more than these units in the sites that are named; their tensors are as before afterwards."""
        for name, kept in units.items():
            self.adapters[name].delta.close(~kept)
        model = self.context.adapted.model
        losses = [float(self.context.loss(model, batch)) for batch in batches]
        for name in units:
            for tensor, value in values[name]:
                tensor.copy_(value)
        return sum(losses) / len(losses)

    def state_dict(self) -> dict[str, Any]:
        """How many rounds there were, and which units were never live, too."""
        fresh = {name: units.tolist() for name, units in self.fresh.items()}
        return super().state_dict() | {"rounds": self.rounds, "fresh": fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.rounds = state["rounds"]
        self.fresh = {name: torch.tensor(units) for name, units in state["fresh"].items()}


def units_of(live: Units) -> list[tuple[str, int]]:
    """(site, unit) of every live unit."""
    return [(name, unit) for name, units in live.items() for unit in units.nonzero().flatten().tolist()]


def one_of(adapter: Adapter, unit: int, value: bool) -> torch.Tensor:
    """``value`` at ``unit``, the opposite elsewhere."""
    return (torch.arange(adapter.rank) == unit) == value


def copied(adapter: Adapter) -> Values:
    """The tensors that closing touches, with their values."""
    return [
        (tensor.data, tensor.detach().clone()) for name, tensor, _ in adapter.tensors() if axes_of(adapter.delta, name)
    ]


allocators.register(ALoRA)
