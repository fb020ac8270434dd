"""HeteroLoRA: at every tick the sites with the best scores are on, the others off (Zhang et al. 2024, arXiv 2406.14956).

    1. score every site with a zero-cost proxy on training batches     2. best first until the budget is spent
    3. switch: off sites leave the function and keep their values (`off: drop`), or stay without training (`off: freeze`)

A site that comes back goes on from its values and its optimiser moments. `scoring: separate` runs passes of its own with every site
on; `streaming` takes the gradients of the training steps before the tick, and passes of its own at step 0 alone.
Differs from the authors' code: ties come from the search's own seeded stream, scoring is without dropout, uses fresh batches each
time and leaves no trace, and the budget counts parameters. `search.preset: paper` takes the authors' way in all but the ties and traces.
Beyond the paper, all without effect unless asked for: scores per parameter or over the mean of the role (`per`), smoothed over ticks
(`smooth`), an edge for what is on already (`inertia`), fresh optimiser moments for what comes back (`moments`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from lorakit.adapters.options import Option
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocate import Allocation, allocate
from lorakit.searching.allocator import Allocator, Decision, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.scoring import Probe, proxies, without_trace
from lorakit.searching.streaming import Streaming


class HeteroLoRA(Allocator):
    """Switches whole sites by their scores."""

    name = "heterolora"
    title = "HeteroLoRA"
    summary = "sites on or off by a zero-cost proxy, again at every tick"
    source = "Zhang et al. 2024, arXiv 2406.14956"
    at_once = True
    steady = True
    sees_tokens = False
    options: ClassVar = {
        "per": Option(
            "site",
            "what scores are compared by: as they are, per parameter, or over the mean of their role",
            choices=("site", "parameter", "role"),
        ),
        "smooth": Option(0.0, "share of the scores before in the new ones", low=0.0, high=0.99),
        "inertia": Option(0.0, "a site that is on counts this share more", low=0.0),
        "moments": Option("keep", "optimiser moments of a site that comes back", choices=("keep", "reset")),
    }

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.proxy = proxies.get(context.search.proxy)
        self.smoothed: dict[str, float] = {}
        self.streaming: Streaming | None = None
        if context.search.scoring == "streaming":
            if self.proxy.of_gradients is None:
                able = [name for name, proxy in proxies.items() if proxy.of_gradients is not None]
                raise RecipeError(
                    f"proxy '{self.proxy.name}' needs passes of its own: training steps do not tell its scores",
                    key="search.scoring",
                    valid=f"separate, or one of the proxies {', '.join(able)}",
                )
            self.streaming = Streaming(context.adapted, context.ticks, context.search.batches)

    @classmethod
    def trains(cls, search: SearchSection, cost_model: CostModel) -> tuple[float, float]:
        """The budget's share of the sites; down to the lowest that the proxy prefers."""
        proxy = proxies.get(search.proxy)
        return cost_model.share, cost_model.lowest() if proxy.reach is None else min(
            proxy.reach * cost_model.share, 1.0
        )

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """The proxy's passes at every tick; streaming, those at step 0, and all sites to the bottom in the steps that are watched."""
        proxy = proxies.get(search.proxy)
        if search.scoring == "separate":
            return proxy.work(cost_model) * len(ticks)
        watched = len(Streaming.window_steps(ticks, search.batches)) * cost_model.accumulate
        on, reach = cls.trains(search, cost_model)
        return proxy.work(cost_model) * (0 in ticks) + watched * (
            cost_model.batch(on, watched=1 - on) - cost_model.batch(on, reach)
        )

    def decide(self, step: int) -> Decision:
        """Score every site, choose, switch."""
        context, before = self.context, set(self.context.adapted.on)
        scores = self.score()
        allocation = self.choose(self.weighed(scores))
        context.adapted.switch(allocation.on, off=context.search.off)
        if self.settings["moments"] == "reset" and self.ticks:
            self.forget(set(allocation.on) - before)
        return Decision(context.search.proxy, scores, allocation.cut, allocation.margin)

    def score(self) -> dict[str, float]:
        """Site -> score by the recipe's proxy, on training rows, without a trace."""
        gradients = self.streaming.take() if self.streaming else None
        context = self.context
        if gradients is not None:
            assert self.proxy.of_gradients is not None
            return self.proxy.of_gradients(context.adapted, gradients, context.search)
        seed = int(torch.randint(2**31, (), generator=context.generator))
        batches = context.draw(context.search.batches, context.generator)
        with without_trace(context.adapted, train_mode=context.search.mode == "train", seed=seed):
            probe = Probe(context.adapted, batches, context.loss, context.logits, context.regression, context.search)
            return self.proxy.score(probe)

    def weighed(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The scores as they are compared: per parameter or over their role's mean, smoothed, with an edge for what is on."""
        adapted, settings = self.context.adapted, self.settings
        weighed = dict(scores)
        if settings["per"] == "parameter":
            weighed = {name: score / max(self.context.costs[name], 1) for name, score in scores.items()}
        elif settings["per"] == "role":
            roles: dict[str, list[float]] = {}
            for site in adapted.sites:
                roles.setdefault(site.role, []).append(scores[site.name])
            means = {role: sum(values) / len(values) or 1.0 for role, values in roles.items()}
            weighed = {site.name: scores[site.name] / means[site.role] for site in adapted.sites}
        if self.smoothed:
            share = settings["smooth"]
            weighed = {name: share * self.smoothed[name] + (1 - share) * score for name, score in weighed.items()}
        self.smoothed = weighed
        edge = set(adapted.on) if self.ticks else set()
        return {name: score * (1 + settings["inertia"] * (name in edge)) for name, score in weighed.items()}

    def choose(self, scores: Mapping[str, float]) -> Allocation:
        """The best sites within the budget."""
        context = self.context
        return allocate(scores, context.adapted.sites, context.costs, context.budget, context.search, context.generator)

    def forget(self, sites: set[str]) -> None:
        """The optimiser's moments of these sites start anew."""
        for tensor in self.context.adapted.trained():
            if tensor.site in sites:
                for moment in self.context.moments(tensor.parameter):
                    moment.zero_()

    def before_forward(self, step: int) -> None:
        """Watch what is off, in the steps before a tick."""
        if self.streaming:
            self.streaming.before_forward(step)

    def after_backward(self, step: int) -> None:
        """Take the step's gradients down."""
        if self.streaming:
            self.streaming.after_backward(step)

    def state_dict(self) -> dict[str, Any]:
        """The scores so far too."""
        streaming = self.streaming.state_dict() if self.streaming else {}
        return super().state_dict() | {"smoothed": self.smoothed, "streaming": streaming}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.smoothed = state["smoothed"]
        if self.streaming:
            self.streaming.load_state_dict(state["streaming"])


allocators.register(HeteroLoRA)
