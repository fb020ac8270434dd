"""Merge and restart: a product is finished, and a new one is trained on top of it, again and again (ReLoRA, COLA, XGBLoRA).

    at the end of a link:   W <- W + s B A      A: drawn anew, B = 0      optimiser and learning rate: see below

W itself is not written: finished products are kept beside it (delta `chain`, whose option `links` says how many there are in all), so the
function is to rounding what merging would have given, a quantised W will do, and the result is one LoRA of their summed rank.

    every     steps of a link; 0: links of equal length
    reset     what of AdamW's moments of A and B goes, and their step counts with it: `magnitude`, of both moments the entries where the
              first is smallest; `random`, entries at random; `keep`, nothing; `new`: all, of the head too, as a new optimiser has it
    pruned    the share of the entries that `magnitude` and `random` put to zero
    rate      `rewarm`: from 0 back up to the schedule, within `rewarm` steps (below 1 a share of the link's); `anew`: every link has the
              whole schedule, warm-up and all; `steady`: the schedule goes on
    layers    so many layers train in a link, drawn anew for each (below 1 a share of them; 0: all)

The order of a link's last step: AdamW, then this. It decides what trains, so it does not go with a search.
Differs from the authors' code in: ReLoRA's merges into W; it aims its re-warming at the cosine's value at the restart, ours at that where
it ends; it prunes each moment by itself and keeps step counts. A first moment whose second is gone is then divided by nearly nothing,
for A has no gradient while B is 0, and steps are too long where moments are gone and counts are not. No code of the others was found.
When to use it: for updates of a higher rank than can be trained at once; long trainings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.deltas.chain import Chain
from lorakit.adapters.init import fresh_delta
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.switching import ON
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.training.hooks import RateCurve, TrainState
from lorakit.training.optim import moments_of, rate_curve
from lorakit.training.pruning import largest
from lorakit.training.schedule import share_or_steps, steps_in
from lorakit.training.update import Update, UpdateContext, needs_delta, starts_fresh, updates

NEW, MAGNITUDE, RANDOM, KEEP = "new", "magnitude", "random", "keep"
REWARM, ANEW, STEADY = "rewarm", "anew", "steady"


class Restart(Update):
    """begins: the step before which each link starts, the first at 0."""

    name = "restart"
    summary = "finished products are kept as part of W, and new ones start on top of them"
    source = "Lialin et al. 2023, ReLoRA, arXiv 2307.05695; Xia et al. 2024, COLA, arXiv 2401.04151"
    fixes_entries = True
    options: ClassVar = {
        "every": Option(0, "steps of a link; 0: links of equal length", low=0),
        "reset": Option(
            MAGNITUDE, "what of the optimiser's moments a restart puts to zero", choices=(NEW, MAGNITUDE, RANDOM, KEEP)
        ),
        "pruned": Option(0.99, "the share of the moments that magnitude and random put to zero", low=0, high=1),
        "rate": Option(REWARM, "the learning rate after a restart", choices=(REWARM, ANEW, STEADY)),
        "rewarm": Option(0.1, "steps until the rate is back, below 1 a share of the link's", low=0),
        "layers": Option(0.0, "random layers that train in a link, below 1 a share of them; 0: all", low=0),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs its delta, and goes with no search."""
        problems = [*needs_delta(cls.name, Chain.name, spec), *starts_fresh(cls.name, recipe)]
        if recipe.search.method != "none":
            what = "update 'restart' decides itself what trains, and starts it anew behind a search's back"
            problems.append(Problem(what, key="search.method", valid="none"))
        return problems

    @classmethod
    def moves_moments(cls, settings: Mapping[str, Any]) -> bool:
        """Where some of them go."""
        return settings["reset"] in (MAGNITUDE, RANDOM)

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.begins = self.link_steps(context.schedule.total_steps)
        self.sample()

    def link_steps(self, total: int) -> list[int]:
        """The step before which each link starts. Raises RecipeError where there is no room for them in the chain, or in the training."""
        links = min(delta.settings["links"] for _, delta in self.chains())
        every = self.settings["every"]
        if every and total > every * links:
            raise RecipeError(
                f"{total} steps are more than {links} links of {every} steps: there is no room for what would be finished",
                key="adapter.options",
                valid=f"links: at least {-(-total // every)}",
                hint="or adapter.update_options={every: 0}, for links of equal length",
            )
        if total < links and not every:
            raise RecipeError(
                f"{total} steps are too few for {links} links", key="adapter.options", valid=f"links: 2 to {total}"
            )
        return [*range(0, total, every)] if every else [steps_in(link / links, total) for link in range(links)]

    def chains(self) -> list[tuple[Adapter, Chain]]:
        """The adapters with their deltas."""
        adapters = self.context.adapted.adapters.values()
        return [(adapter, adapter.delta) for adapter in adapters if isinstance(adapter.delta, Chain)]

    def settled(self, state: TrainState) -> bool:
        """Whether the last link has begun."""
        return state.step >= self.begins[-1]

    def after_step(self, state: TrainState) -> None:
        """At the end of a link: keep its products, start the next."""
        if state.step in self.begins:
            self.restart(self.begins.index(state.step))
            state.sites_on = len(self.context.adapted.on)

    def restart(self, link: int) -> None:
        """Finish what trains and start link number ``link``."""
        for adapter, delta in self.chains():
            if adapter.state == ON:
                fresh = fresh_delta(adapter.site, adapter.spec, adapter.rank, None, self.context.generator, None, {})
                delta.finish(link - 1, fresh.get_parameter("A"))
                for tensor in (delta.A, delta.B):
                    self.forget(tensor)
        if self.settings["reset"] == NEW:
            self.context.optimizer.state.clear()
        self.sample()

    @torch.no_grad()
    def forget(self, tensor: torch.nn.Parameter) -> None:
        """Put the chosen share of the tensor's moments to zero, and count its steps anew."""
        reset, share = self.settings["reset"], self.settings["pruned"]
        moments = moments_of(self.context.optimizer, tensor)
        if not moments or reset not in (MAGNITUDE, RANDOM):
            return
        if reset == RANDOM:
            kept = torch.rand(tensor.shape, generator=self.context.generator) >= share
        else:
            kept = largest(moments[0].abs().flatten(), round((1 - share) * tensor.numel())).view_as(tensor)
        for moment in moments:
            moment.mul_(kept.to(moment.device))
        self.context.optimizer.state[tensor]["step"].zero_()

    def sample(self) -> None:
        """Let the next link's layers train, and the others stay as they are."""
        wanted, sites = self.settings["layers"], self.context.adapted.sites
        if not wanted:
            return
        layers = sorted({site.layer for site in sites})
        number = share_or_steps(wanted, len(layers))
        if number > len(layers):
            raise RecipeError(
                f"update 'restart' is to train {number} layers in each link, and there are {len(layers)}",
                key="adapter.update_options",
                valid=f"layers: 1 to {len(layers)}, or a share below 1",
            )
        drawn = torch.randperm(len(layers), generator=self.context.generator)[:number].tolist()
        chosen = {layers[place] for place in drawn}
        self.context.adapted.switch([site.name for site in sites if site.layer in chosen], off="freeze")

    def shape_rate(self, curve: RateCurve) -> RateCurve:
        """Up again after a restart, or the whole schedule in every link."""
        training, total = self.context.recipe.training, self.context.schedule.total_steps
        ends = [*self.begins[1:], total]
        lengths = [end - begin for begin, end in zip(self.begins, ends, strict=True)]
        warm = [min(share_or_steps(self.settings["rewarm"], length), length - 1) for length in lengths]
        own = [rate_curve(training, steps_in(training.warmup, length), length) for length in lengths]

        def shaped(step: int) -> float:
            link = bisect_right(self.begins, step) - 1
            begin, since = self.begins[link], step - self.begins[link]
            if self.settings["rate"] == ANEW:
                return own[link](since)
            if self.settings["rate"] == REWARM and link > 0 and since < warm[link]:
                return curve(begin + warm[link]) * since / warm[link]
            return curve(step)

        return shaped

    def state_dict(self) -> dict[str, Any]:
        """What trains in this link; what is finished is in the adapters."""
        return super().state_dict() | {"on": self.context.adapted.on}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue in the link that was saved."""
        super().load_state_dict(state)
        self.context.adapted.switch(state["on"], off="freeze")


updates.register(Restart)
